"""What floodmap does, as functions."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from floodmap.geo.names import local_or_gdal
from floodmap.geo.source_name import SourceName
from floodmap.inference.loop import Progress
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
)
from floodmap.output.results import FloodMap
from floodmap.pipeline import refuse_other_run, segment_scene


def segment(
    source: str | os.PathLike[str],
    *,
    out: str | Path = OUTPUT_FOLDER,
    model: str | Path = MODEL,
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
        model: a name (`floodmap models list`) or a file.
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
    from floodmap.models.loading import load_segmenter
    from floodmap.models.mirrored import Flipped
    from floodmap.models.registry import resolve

    scene = SceneOptions(
        resolution_m=resolution_m, bands=bands, nir=nir, nodata=nodata, crs=crs, collar=collar,
        mask=None if mask is None else local_or_gdal(mask), aoi=None if aoi is None else local_or_gdal(aoi),
    )  # fmt: skip
    refuse_other_run(Path(out), SourceName.of(source).stem)  # before a model is loaded for nothing
    loaded = load_segmenter(resolve(model), device)
    segmenter = Flipped(loaded) if flips else loaded
    options = SegmentOptions(
        scene=scene, prompts=prompts if prompts in ("auto", "none") else local_or_gdal(prompts), tile_size=tile_size,
        overlap=overlap, threshold=threshold, min_area_m2=min_area_m2, simplify_m=simplify_m, formats=tuple(formats),
        batch_size=batch_size or segmenter.best_batch_size, exhaustive=exhaustive, overwrite=overwrite,
        resume=resume, report=report,
    )  # fmt: skip
    return segment_scene(source, Path(out), segmenter, options, progress=progress)
