"""Public function for many frames: mosaic."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from floodmap.api.scenes import load_model
from floodmap.catalogue.finding import find_sources
from floodmap.geo.names import local_or_gdal
from floodmap.models.protocol import Segmenter
from floodmap.options import (
    MODEL,
    OUTPUT_FOLDER,
    FloodType,
    Format,
    MosaicOptions,
    SceneOptions,
    Schema,
    SegmentOptions,
)
from floodmap.output.results import FloodMap
from floodmap.pipeline import refuse_other_run
from floodmap.scaleout.frames.frame_loop import MosaicProgress
from floodmap.scaleout.frames.product import mosaic_frames


class MosaicSettings(TypedDict, total=False):
    """Types of the optional keyword arguments of `floodmap.mosaic`: fields of `SceneOptions` and `SegmentOptions`."""

    resolution_m: float | None
    bands: tuple[int, ...] | None
    nir: Literal["auto", "off"]
    nodata: float | Literal["none"] | None
    mask: str | Path | None
    collar: Literal["auto", "off"]
    crs: str | None
    aoi: str | Path | None
    prompts: Literal["auto", "none"]
    tile_size: int
    overlap: int
    threshold: float
    permanent_water: str | Path | None
    permanent_least: float | None
    permanent_rim_m: float | None
    min_area_m2: float | None
    simplify_m: float | None
    formats: tuple[Format, ...]
    report: bool
    pdf: bool
    stac: bool
    schema: Schema
    flood_type: FloodType
    batch_size: int
    exhaustive: bool
    overwrite: bool
    resume: bool


def mosaic(
    frames: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    out: str | Path = OUTPUT_FOLDER,
    name: str = "mosaic",
    product_crs: str | None = None,
    model: str | Path | Segmenter = MODEL,
    device: str = "auto",
    flips: bool = False,
    progress: Callable[[MosaicProgress], None] | None = None,
    **settings: Unpack[MosaicSettings],
) -> FloodMap:
    """Find flood water in many overlapping frames, and combine the frames to one map, as `floodmap mosaic` does.

    Each frame is segmented by itself, with its own stretch. Where frames overlap, the probabilities are averaged, with
    weights that grow with the distance from the edge of each frame. A pixel is unobserved only if no frame observes it.

    Args:
        frames: files, folders, glob patterns, other names that GDAL opens, STAC items and collections; one or several.
            All frames need a CRS and a geotransform; they may differ in CRS, pixel size and light. The order has no
            effect on the result. Results of floodmap are left out.
        out: folder for the results; created if it is missing.
        name: first part of the names of all result files.
        product_crs: CRS of the results, such as "EPSG:32643"; None: the most frequent CRS of the frames. The argument
            `crs` is different: it replaces a missing or wrong CRS of the frames.
        model: a name (`floodmap models list`), a file, or a model from `load_model`.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`. For a model from `load_model`, give `device` there.
        flips: True: test-time augmentation; see `segment`.
        progress: function called with a `MosaicProgress` after every window and every strip.
        settings: the arguments of `segment` with the same names. `resolution_m` is the ground sample distance of the
            results in metres; finer frames are resampled to it before they are segmented. None: frames are segmented
            in their own pixels, and the results have the median of the frames' pixel sizes. `prompts` is `auto` or
            `none`.

    Returns:
        The results on disk. `report["frames"]` lists the frames: their number, and those that failed, with the reasons.

    Raises:
        FloodmapError: the run failed; the message is one line on what is wrong and what to do. A single frame that
            fails is no error, if another frame can be used.
    """
    chosen = MosaicOptions(name=name, product_crs=product_crs)
    given_frames = [frames] if isinstance(frames, str | os.PathLike) else frames
    sources = find_sources([os.fspath(frame) for frame in given_frames], Path(out))
    refuse_other_run(Path(out), chosen.name)  # before a model is loaded in vain
    segmenter = load_model(model, device=device, flips=flips)
    given: dict[str, Any] = {"batch_size": segmenter.best_batch_size, **settings}
    scene = {one.name: given.pop(one.name) for one in fields(SceneOptions) if one.name in given}
    scene |= {key: local_or_gdal(scene[key]) for key in ("mask", "aoi") if scene.get(key) is not None}
    if given.get("permanent_water") is not None:
        given["permanent_water"] = local_or_gdal(given["permanent_water"])
    options = SegmentOptions(scene=SceneOptions(**scene), **given)
    return mosaic_frames(
        sources, Path(out), segmenter, options, name=chosen.name, product_crs=chosen.product_crs, progress=progress
    )
