"""`FloodMap`, the results of a run as files on disk; and checks of the output folder before a run."""

from __future__ import annotations

import errno
import json
import os
import shutil
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from floodmap._runtime.changes import changes
from floodmap._runtime.files import write_whole
from floodmap._runtime.sizes import in_bytes
from floodmap.errors import OutputError, writing
from floodmap.geo.gdal import gdal_env
from floodmap.geo.names import readable
from floodmap.options import FORMATS
from floodmap.output.paths import CEMS_VERSION, result_paths

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from rasterio.io import DatasetReader

BYTES_PER_PIXEL = 0.8
"""Largest disk space that a run needs, in bytes per scene pixel: strips, temporary rasters and overviews, and finished
rasters together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FloodMap:
    """The results of one scene, as files on disk. A notebook displays the results as maps."""

    name: str
    """Name of the scene, with which the names of all files begin."""
    mask_path: Path
    """Mask, a uint8 GeoTIFF: 0 dry, 1 flood, 2 permanent water (with the option `permanent_water`), 255 unobserved."""
    probability_path: Path
    """Flood probability, a uint8 GeoTIFF: 0 to 100 per cent, 255 unobserved."""
    layer_paths: tuple[Path, ...]
    """Paths of the vector files, in the order of the run's vector formats.

    A GeoPackage holds all layers. In any other format there is a file for each layer: first the file with the flood
    polygons, then the file with the unobserved areas, then, with the option `permanent_water`, that with the permanent
    water."""
    report_path: Path
    """JSON report."""
    report: dict[str, Any]
    """Content of the JSON report: areas, counts, warnings, settings, versions."""
    page_path: Path | None = None
    """HTML report; None if the run did not have the option `report`."""
    pdf_path: Path | None = None
    """PDF report; None if the run did not have the option `pdf`."""
    stac_path: Path | None = None
    """STAC item; None if the run did not have the option `stac`."""
    cems_paths: tuple[Path, ...] = ()
    """Vector files in the schema of Copernicus EMS; empty if the run did not have the option `schema="cems"`."""

    @property
    def failed_windows(self) -> int:
        """Number of windows that could not be read or segmented, in whole or in part.

        The pixels that could not be read or segmented are unobserved.
        """
        return len(self.report["windows"]["failed"])

    def polygons(self) -> GeoDataFrame:
        """Read the flood polygons from the first vector file.

        Returns:
            Table with one polygon per row; for the columns see `output.polygons.Polygons.flood`. If the file is a
            Shapefile, some column names are shorter (`vector_files.SHAPEFILE_FIELDS`). The CRS is the CRS of the scene,
            or WGS 84 if the file is GeoJSON.
        """
        return read_layer(self.layer_paths[0], "flood")

    def mask(self) -> NDArray[np.uint8]:
        """Read the mask, uint8 (height, width): 1 flood, 2 permanent water, 0 dry, 255 unobserved."""
        return read_raster(self.mask_path)

    def probability(self) -> NDArray[np.float32]:
        """Read the flood probability, float32 (height, width): 0 to 1 in steps of 0.01; NaN if unobserved."""
        return as_probability(read_raster(self.probability_path))

    def _repr_html_(self) -> str:
        from floodmap.output.pages.notebook import notebook_html

        return notebook_html(self)


def read_layer(path: Path, layer: str) -> GeoDataFrame:
    """Read a layer from a vector file that floodmap wrote; `layer` is its name in a GeoPackage."""
    import geopandas

    if path.suffix == ".parquet":
        with path.open("rb") as stream:
            return geopandas.read_parquet(stream)
    with readable(path) as name:
        return geopandas.read_file(name, **({"layer": layer} if path.suffix == ".gpkg" else {}))


def as_probability(percent: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Convert codes (0 to 100 per cent, above 100 unobserved) to probabilities.

    Args:
        percent: uint8 of any shape.

    Returns:
        float32 of the same shape, 0 to 1; NaN if unobserved.
    """
    share = percent.astype(np.float32) / np.float32(100)
    share[percent > 100] = np.nan
    return share


def read_raster(path: Path) -> NDArray[np.uint8]:
    """Read all pixels of a raster that floodmap wrote, uint8 (height, width)."""
    with open_result(path) as dataset:
        return np.asarray(dataset.read(1))


@contextmanager
def open_result(path: Path) -> Iterator[DatasetReader]:
    """Context manager: open a mask or probability raster, without rasterio's warning about a missing georeference."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with gdal_env(), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path.absolute()) as dataset:
            yield dataset


def refuse_existing(results: Sequence[Path], resumed: Mapping[str, Any] | None = None) -> None:
    """Check that no result of a run exists already.

    Args:
        results: paths of the results, in the order of `paths.result_paths`.
        resumed: settings of the run, if the run may resume an earlier run (`--resume`); else None. With settings, the
            error message lists the differences from the settings of the existing results.

    Raises:
        OutputError: a result exists already.
    """
    for path in results:
        if path.exists():
            why = "" if resumed is None else f" and cannot be resumed ({_difference(results, resumed)})"
            raise OutputError(
                f"{path} exists already{why}; replace it with --overwrite, or choose another output folder"
            )


def _difference(results: Sequence[Path], settings: Mapping[str, Any]) -> str:
    """Return, for a message, why existing results are not those of a finished run with the given settings.

    Examples: "--threshold was 0.5, is 0.6" for other settings, "missing: x_mask.tif" for an incomplete run.
    """
    summary = _summary(results[2])
    if summary is None:
        return f"{results[2].name}, the report with the settings of that run, is missing or damaged"
    if differing := changes({key: summary.get(key) for key in settings}, settings):
        return "; ".join(differing)
    if missing := [path for path in results if not path.exists()]:
        return f"missing: {', '.join(path.name for path in missing)}"
    left = ", ".join(path.name for path in _left(summary, results))
    return f"left from another run: {left}" if left else "--flood-type was another one"


def _left(summary: Mapping[str, Any], results: Iterable[Path]) -> list[Path]:
    """Return the vector files among existing results that the run of a JSON report did not write.

    Example: a run with `--format shp`, then a run with `--overwrite` and without Shapefiles, leaves old Shapefiles.
    """
    run = summary.get("run", {})
    formats, has_cems = run.get("formats", FORMATS), run.get("schema") == "cems"
    return [
        path
        for path in results
        if (suffix := path.suffix[1:]) in FORMATS
        and (suffix not in formats or (path.stem.endswith(f"_{CEMS_VERSION}") and not has_cems))
    ]


def _summary(report: Path) -> dict[str, Any] | None:
    """Return the content of a JSON report; None if the file is missing or damaged."""
    try:
        summary = json.loads(report.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) else None


def refuse_long_names(results: Iterable[Path]) -> None:
    """Check that the file names of the results are not too long.

    Raises:
        OutputError: a file name is longer than 255 bytes, or longer than the file system allows.
    """
    for path in sorted(results, key=lambda path: len(os.fsencode(path.name)), reverse=True):
        if len(os.fsencode(path.name)) > 255 or _is_too_long(path):
            raise OutputError(f"{path.parent}: the name {path.name} is too long for a file; rename the scene")


def _is_too_long(path: Path) -> bool:
    try:
        path.lstat()
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG  # some file systems allow fewer than 255 bytes
    return False


@contextmanager
def output_folder(out: Path) -> Iterator[None]:
    """Context manager: create the output folder. On exit, the folder is deleted if it is new and still empty."""
    made = not out.exists()
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        if made:
            with suppress(OSError):
                out.rmdir()


def refuse_inputs(results: Iterable[Path], inputs: Collection[Path | str]) -> None:
    """Check that no result would replace an input file of the run.

    Example: a file `x_mask.tif` that the user gave as the mask of the scene `x.tif`.

    Args:
        results: paths of the results.
        inputs: files that the run reads: the scene, and the files of the options `mask`, `aoi` and `prompts`.

    Raises:
        OutputError: the path of a result leads to an input file.
    """
    for path in results:
        for given in inputs:
            if path.exists() and os.path.exists(given) and path.samefile(given):
                raise OutputError(f"{path} is read by this run and would be replaced; choose another output folder")


def finished_before(
    out: Path, name: str, formats: Iterable[str], settings: Mapping[str, Any], *, cems: str | None = None
) -> FloodMap | None:
    """Return the results of an earlier, finished run with the same settings; None if there is no such run.

    Args:
        out: folder of the results.
        name: beginning of the file names.
        formats: vector formats; the files of all formats must exist and must have been written by that run.
        settings: settings that must be equal to those in the JSON report.
        cems: kind of flood in the layers of Copernicus EMS; None: that run need not have written such layers.
    """
    permanent = settings.get("settings", {}).get("permanent_water") is not None
    own = result_paths(out, name, formats, permanent=permanent)
    paths = own if cems is None else result_paths(out, name, formats, permanent=permanent, cems=True)
    mask, probability, report, *layers = paths
    if not all(path.exists() for path in paths):
        return None
    summary = _summary(report)
    if summary is None or changes({key: summary.get(key) for key in settings}, settings) or _left(summary, layers):
        return None
    run = summary.get("run", {})
    if cems is not None and run.get("flood_type") != cems:
        return None
    of_cems = result_paths(out, name, formats, permanent=permanent, cems=run.get("schema") == "cems")[len(own) :]
    return FloodMap(
        name=name, mask_path=mask, probability_path=probability, layer_paths=tuple(own[3:]), report_path=report,
        report=summary, cems_paths=tuple(path for path in of_cems if path.exists()),
    )  # fmt: skip


def is_newer(path: Path, other: Path) -> bool:
    """Return True if `path` exists, and its time of last change is equal to or later than that of the file `other`.

    If `path` is older than `other`, `path` was left by an earlier run, and `other` was written by a later run.
    """
    return path.exists() and path.stat().st_mtime_ns >= other.stat().st_mtime_ns


def check_disk(out: Path, pixels: int) -> None:
    """Check that the disk has room for the results and temporary files of a run.

    Args:
        out: a folder that exists, on the disk of the results.
        pixels: number of pixels of the scene.

    Raises:
        OutputError: the disk has less free space than the run needs.
    """
    needed, free = int(pixels * BYTES_PER_PIXEL) + 10_000_000, shutil.disk_usage(out).free
    if free < needed:
        raise OutputError(
            f"{out}: {in_bytes(needed)} of disk are needed and {in_bytes(free)} are free; free disk space, or "
            "choose another output folder"
        )


def write_report(path: Path, summary: Mapping[str, Any]) -> None:
    """Write the JSON report atomically: no reader finds an incomplete file."""
    write_whole(path, json.dumps(summary, indent=2, ensure_ascii=False, default=str) + "\n")
