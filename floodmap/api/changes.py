"""Public function for two dates: change."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict, Unpack

import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from floodmap.analysis.change import ChangeSettings, find_changes
from floodmap.analysis.change_files import Change, ChangeFiles
from floodmap.analysis.sides import Role
from floodmap.api.scenes import load_model, segment
from floodmap.errors import FloodmapError
from floodmap.geo.gdal import gdal_env_of
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.source_name import SourceName, shown_name
from floodmap.inference.loop import Progress
from floodmap.masks.alignment import require_overlap
from floodmap.masks.rules import Ignore
from floodmap.models.protocol import Segmenter
from floodmap.options import FORMAT, MODEL, OUTPUT_FOLDER, THRESHOLD, Format

if TYPE_CHECKING:
    from geopandas import GeoDataFrame


class ChangeSceneSettings(TypedDict, total=False):
    """Types of the optional keyword arguments of `floodmap.change` for scenes: arguments of `floodmap.segment`."""

    bands: tuple[int, ...] | None
    nir: Literal["auto", "off"]
    nodata: float | Literal["none"] | None
    collar: Literal["auto", "off"]
    crs: str | None
    aoi: str | Path | None


def change(
    before: str | os.PathLike[str] | GeoDataFrame,
    after: str | os.PathLike[str] | GeoDataFrame,
    *,
    out: str | Path = OUTPUT_FOLDER,
    name: str | None = None,
    grid: Literal["before", "after"] = "after",
    before_value: float | str | Iterable[float] | None = None,
    after_value: float | str | Iterable[float] | None = None,
    threshold: float | None = None,
    ignore_values: Ignore = None,
    resolution_m: float | None = None,
    min_area_m2: float | None = None,
    simplify_m: float | None = None,
    formats: tuple[Format, ...] = (FORMAT,),
    model: str | Path | Segmenter = MODEL,
    device: str = "auto",
    flips: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    progress: Callable[[float, str], None] | None = None,
    **scene: Unpack[ChangeSceneSettings],
) -> Change:
    """Compare two dates, as `floodmap change` does: newly flooded, receded, unchanged water, dry, unobserved.

    Both sides may be on any grid and in any CRS. A raster on another grid than that of the result is read by nearest
    neighbour, and polygons are rasterized. Ground outside of a raster is unobserved. Permanent water of floodmap's
    masks is water here.

    Args:
        before: the earlier date: a mask or a raster of probabilities, polygons, the JSON report of a result
            (`x.json`, which stands for `x_mask.tif`, or for `x_probability.tif` with `threshold`), a GeoDataFrame; or a
            scene (a raster of several bands), which is segmented first, into the folder `before` in `out`.
        after: the later date; a scene is segmented into the folder `after` in `out`.
        out: folder for the results; created if it is missing.
        name: first part of the names of all result files; None: the name of `after`.
        grid: the side whose pixels the result has. If it has none (polygons), the other side's.
        before_value: water in `before`: raster values (1, (1, 2), "1,2") or "attribute=value" of polygons. None: as in
            `evaluate`, and in masks of floodmap 1 and 2.
        after_value: the same for `after`.
        threshold: probability, 0.01 to 1, from which a pixel of a raster of probabilities, or of a scene, is water.
            None: 0.5. Masks and polygons are not changed by it.
        ignore_values: values of unobserved pixels, as in `evaluate`, in rasters that floodmap did not write.
        resolution_m: ground sample distance in metres at which scenes are segmented, or pixel size of the result if
            both sides are polygons without a raster (None: 1).
        min_area_m2: smallest area of a polygon, in square metres; None: the area of 25 pixels. Polygons of unobserved
            ground are never dropped.
        simplify_m: tolerance of the simplified outlines, in metres; 0 follows every pixel; None: one pixel.
        formats: vector formats: gpkg, shp, geojson, fgb, parquet.
        model: for scenes: a name (`floodmap models list`), a file, or a model from `load_model`.
        device: for scenes: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        flips: for scenes: True: test-time augmentation, see `segment`.
        overwrite: True: replace existing results.
        resume: True: continue an interrupted segmentation, and leave scenes alone that are finished.
        progress: function called with the finished share of a stage, 0 to 1, and the stage's name: `before` or `after`
            while a scene is segmented, then `compare`.
        scene: for scenes: the arguments `bands`, `nir`, `nodata`, `collar`, `crs` and `aoi` of `segment`.

    Returns:
        The results on disk: paths of the raster, the vector files and the JSON report, and the report's content.

    Raises:
        FloodmapError: the comparison failed; the message is one line on what is wrong and what to do.
        TypeError: a side has a type that is not listed above.
    """
    settings = ChangeSettings(
        grid=grid, before_value=before_value, after_value=after_value, threshold=threshold,
        ignore_values=ignore_values, resolution_m=resolution_m, min_area_m2=min_area_m2, simplify_m=simplify_m,
        formats=tuple(formats),
    )  # fmt: skip
    given: dict[Role, Any] = {"before": before, "after": after}
    rasters = {role: _raster(one) for role, one in given.items()}
    scenes: list[Role] = [role for role, raster in rasters.items() if raster is not None and raster.is_scene]
    _refuse_unused(scenes, settings, scene)
    if name is None and "after" in scenes:
        name = SourceName.of(given["after"]).stem
    files = ChangeFiles.of(Path(out), name, after, settings.formats, overwrite=overwrite)
    files.refuse()  # before a model is loaded in vain
    report = progress or (lambda *_: None)
    if scenes:
        if scene.get("crs") is None:  # else the place of the scenes is another than their files say
            _refuse_apart(given, rasters)
        segmenter = load_model(model, device=device, flips=flips)
    for role in scenes:
        given[role] = segment(
            given[role], out=Path(out) / role, model=segmenter, threshold=threshold or THRESHOLD,
            resolution_m=resolution_m, min_area_m2=min_area_m2, simplify_m=simplify_m, formats=settings.formats,
            overwrite=overwrite, resume=resume, progress=_windows(report, role), **scene,
        ).mask_path  # fmt: skip
    return find_changes(
        given["before"], given["after"], files, settings, segmented=scenes,
        progress=lambda share: report(share, "compare"),
    )  # fmt: skip


class _Raster(NamedTuple):
    grid: GeoGrid
    is_scene: bool
    """True: the raster has several bands, besides alpha."""


def _raster(given: Any) -> _Raster | None:
    """Return grid and kind of a raster; None if a side is something else, or cannot be opened."""
    if not isinstance(given, str | os.PathLike) or Path(given).suffix.lower() in (".json", ".geojson"):
        return None
    name = SourceName.of(given)
    try:
        with warnings.catch_warnings(), gdal_env_of(name):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(name.opened) as dataset:
                alpha = ColorInterp.alpha in dataset.colorinterp
                return _Raster(GeoGrid.of(dataset), dataset.count - alpha > 1)
    except RasterioError:
        return None


def _refuse_unused(scenes: list[Role], settings: ChangeSettings, scene: Mapping[str, Any]) -> None:
    """Raise FloodmapError if an argument was given that has no effect."""
    if not scenes and scene:
        flags = ", ".join(f"--{name}" for name in scene)
        raise FloodmapError(f"neither BEFORE nor AFTER is a scene of several bands: leave out {flags}")
    for role in scenes:
        if settings.values[role] is not None:
            raise FloodmapError(f"{role.upper()} is a scene, which the model segments: leave out --{role}-value")


def _refuse_apart(given: Mapping[Role, Any], rasters: Mapping[Role, _Raster | None]) -> None:
    """Raise EvaluationError if two rasters do not overlap, before hours of segmentation.

    Rasters without a CRS are checked later, when their place is known.
    """
    before, after = rasters["before"], rasters["after"]
    if before and after and before.grid.crs and after.grid.crs:
        require_overlap(before.grid, after.grid, after.grid.crs, shown_name(given["before"]))


def _windows(report: Callable[[float, str], None], role: Role) -> Callable[[Progress], None]:
    """Return the function that receives the progress of a segmentation."""
    return lambda progress: report(progress.windows_done / max(1, progress.windows_total), role)
