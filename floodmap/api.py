"""What floodmap does, as functions."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from floodmap.errors import ModelError
from floodmap.geo.names import local_or_gdal
from floodmap.geo.source_name import SourceName
from floodmap.imagery.arrays import open_array
from floodmap.inference.loop import Progress, segment_whole
from floodmap.inference.prompting import make_prompter
from floodmap.inference.proof import Proof
from floodmap.inference.tiling import Grid
from floodmap.models.infrared import with_infrared
from floodmap.models.prompts import Prompts
from floodmap.models.protocol import Segmenter
from floodmap.options import (
    FORMAT,
    MODEL,
    OUTPUT_FOLDER,
    OVERLAP,
    THRESHOLD,
    TILE_SIZE,
    Format,
    SceneOptions,
    SegmentOptions,
    check_threshold,
)
from floodmap.output.results import FloodMap
from floodmap.pipeline import refuse_other_run, segment_scene


def segment(
    source: str | os.PathLike[str],
    *,
    out: str | Path = OUTPUT_FOLDER,
    model: str | Path | Segmenter = MODEL,
    prompts: str | Path = "auto",
    resolution_m: float | None = None,
    bands: tuple[int, ...] | None = None,
    nir: Literal["auto", "off"] = "auto",
    nodata: float | Literal["none"] | None = None,
    mask: str | Path | None = None,
    aoi: str | Path | None = None,
    crs: str | None = None,
    collar: Literal["auto", "off"] = "auto",
    tile_size: int = TILE_SIZE,
    overlap: int = OVERLAP,
    threshold: float = THRESHOLD,
    min_area_m2: float | None = None,
    simplify_m: float | None = None,
    formats: tuple[Format, ...] = (FORMAT,),
    device: str = "auto",
    flips: bool = False,
    batch_size: int | None = None,
    exhaustive: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    report: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> FloodMap:
    """Find flood water in one scene, as `floodmap segment` does.

    Args:
        source: any raster GDAL reads: a file, or a name such as `/vsizip/x.zip/a.tif`, `NETCDF:"f.nc":red`, `https://...`.
        out: folder for the results; made if it is not there.
        model: a name (`floodmap models list`), a file, or what `load_model` returned.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        flips: see every window in a mirror too.
        batch_size: windows at a time; None: 1 on a CPU, 8 on a GPU.
        exhaustive: look from near, too, at ground of which the coarse pass is sure.
        progress: called after every window.
        resolution_m, bands, nir, nodata, mask, aoi, crs, collar: see `SceneOptions`.
        prompts, tile_size and the others: see `SegmentOptions`.

    Raises:
        FloodmapError: one line that says what is wrong and what to do.
    """
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"source is a {type(source).__name__}; give a path or a name GDAL knows, or use predict(rgb)")
    scene = SceneOptions(
        resolution_m=resolution_m, bands=bands, nir=nir, nodata=nodata, crs=crs, collar=collar,
        mask=None if mask is None else local_or_gdal(mask), aoi=None if aoi is None else local_or_gdal(aoi),
    )  # fmt: skip
    refuse_other_run(Path(out), SourceName.of(source).stem)  # before a model is loaded for nothing
    segmenter = load_model(model, device=device, flips=flips)
    options = SegmentOptions(
        scene=scene, prompts=prompts if prompts in ("auto", "none") else local_or_gdal(prompts), tile_size=tile_size,
        overlap=overlap, threshold=threshold, min_area_m2=min_area_m2, simplify_m=simplify_m, formats=tuple(formats),
        batch_size=batch_size or segmenter.best_batch_size, exhaustive=exhaustive, overwrite=overwrite,
        resume=resume, report=report,
    )  # fmt: skip
    return segment_scene(source, Path(out), segmenter, options, progress=progress)


class Prediction(NamedTuple):
    """What a model makes of a picture in memory."""

    mask: NDArray[np.uint8]
    """(height, width): 1 flood, 0 dry, 255 unobserved."""
    probability: NDArray[np.float32]
    """(height, width), 0 to 1 in steps of 0.01; NaN where unobserved."""


def predict(
    rgb: NDArray[np.uint8],
    *,
    nir: NDArray[np.uint8] | None = None,
    valid: NDArray[np.bool_] | None = None,
    gsd_m: float | None = None,
    model: str | Path | Segmenter = MODEL,
    prompts: Literal["auto", "none"] | Prompts = "auto",
    tile_size: int = TILE_SIZE,
    overlap: int = OVERLAP,
    threshold: float = THRESHOLD,
    exhaustive: bool = False,
) -> Prediction:
    """Find flood water in a picture in memory, as `segment` does in a file; nothing is written.

    Args:
        rgb: uint8 (3, height, width) or (height, width, 3).
        nir: near infrared, uint8 (height, width), where there is any.
        valid: observed pixels, bool (height, width); None: all are.
        gsd_m: ground sample distance, in metres; None where it is not known.
        model: a name, a file, or what `load_model` returned.
        prompts: `auto`, `none`, or points and boxes in pixels of the picture.
        tile_size, overlap, threshold, exhaustive: as in `segment`.

    Raises:
        FloodmapError: one line that says what is wrong and what to do.
    """
    check_threshold(threshold)
    segmenter = load_model(model)
    with open_array(rgb, nir=nir, valid=valid, gsd_m=gsd_m) as scene:
        segmenter = with_infrared(segmenter, scene)
        grid = Grid(
            height=scene.height, width=scene.width, tile_size=tile_size, overlap=overlap, multiple=segmenter.multiple
        )  # fmt: skip
        prompter, proof = make_prompter(scene, segmenter, prompts, exhaustive=exhaustive), Proof()
        codes = segment_whole(scene, grid, segmenter, prompter, exhaustive=exhaustive, proof=proof)
        proof.end()
    unobserved = codes > 100
    flood = (codes >= max(1, round(100 * threshold))).astype(np.uint8)
    share = codes.astype(np.float32) / 100
    return Prediction(np.where(unobserved, np.uint8(255), flood), np.where(unobserved, np.float32("nan"), share))


def load_model(model: str | Path | Segmenter = MODEL, *, device: str = "auto", flips: bool = False) -> Segmenter:
    """Load a model once, for many scenes.

    Args:
        model: a name (`floodmap models list`) or a file; a model that is loaded already is returned as it is.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        flips: see every window in a mirror too.

    Raises:
        ModelError: there is no such model, its file is damaged, or the device is not there.
    """
    from floodmap.models.loading import load_segmenter
    from floodmap.models.mirrored import Flipped
    from floodmap.models.registry import resolve

    if not isinstance(model, str | os.PathLike):
        if not hasattr(model, "predict"):
            raise TypeError(f"model is a {type(model).__name__}; give a name, a file, or what load_model returned")
        if device != "auto" or flips:
            raise ModelError(f"{model.name} is loaded already; say device and flips where it is: load_model(...)")
        return model
    loaded = load_segmenter(resolve(model), device)
    return Flipped(loaded) if flips else loaded
