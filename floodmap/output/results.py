"""`FloodMap`: the results of a run on disk; and checks of output folders before a run."""

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

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from rasterio.io import DatasetReader

BYTES_PER_PIXEL = 0.8
"""Peak disk space of a run in bytes a pixel: strips, uncompressed overview levels and finished rasters together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FloodMap:
    """The results of one scene, on disk; in a notebook it is displayed as a map."""

    name: str
    """The scene's name, which every file's name begins with."""
    mask_path: Path
    """uint8 GeoTIFF: 0 dry, 1 flood, 255 unobserved."""
    probability_path: Path
    """uint8 GeoTIFF: 0 to 100 per cent, 255 unobserved."""
    layer_paths: tuple[Path, ...]
    """Vector files."""
    report_path: Path
    """The JSON file."""
    report: dict[str, Any]
    """Content of the JSON file: areas, counts, warnings, settings, versions."""
    page_path: Path | None = None
    """The HTML report; None without `report=True`."""

    @property
    def failed_windows(self) -> int:
        """Number of windows that could not be read or segmented; their pixels are unobserved."""
        return len(self.report["windows"]["failed"])

    def polygons(self) -> GeoDataFrame:
        """Flood polygons in the scene's CRS, read from the first vector file, after `min_area_m2` and `simplify_m`."""
        import geopandas

        path = self.layer_paths[0]
        if path.suffix == ".parquet":
            with path.open("rb") as stream:
                return geopandas.read_parquet(stream)
        with readable(path) as name:
            return geopandas.read_file(name, **({"layer": "flood"} if path.suffix == ".gpkg" else {}))

    def mask(self) -> NDArray[np.uint8]:
        """The mask in memory, uint8 (height, width): 1 flood, 0 dry, 255 unobserved."""
        return _read(self.mask_path)

    def probability(self) -> NDArray[np.float32]:
        """The probability in memory, float32 (height, width): 0 to 1 in steps of 0.01; NaN where unobserved."""
        return as_probability(_read(self.probability_path))

    def _repr_html_(self) -> str:
        from floodmap.output.pages.notebook import notebook_html

        return notebook_html(self)


def as_probability(percent: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Convert codes to probabilities, float32 of the same shape, 0 to 1; NaN where unobserved."""
    share = percent.astype(np.float32) / np.float32(100)
    share[percent > 100] = np.nan
    return share


def _read(path: Path) -> NDArray[np.uint8]:
    """All pixels of a raster of results, uint8 (height, width)."""
    with open_result(path) as dataset:
        return np.asarray(dataset.read(1))


@contextmanager
def open_result(path: Path) -> Iterator[DatasetReader]:
    """Open a raster of results; without rasterio's warning that it has no georeference."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with gdal_env(), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path.absolute()) as dataset:
            yield dataset


def result_paths(out: Path, name: str, formats: Iterable[str], *, sheet: bool = False) -> list[Path]:
    """Paths of all files that a run writes, without the `.qml` beside the rasters.

    Args:
        out: folder of the results.
        name: how their names begin.
        formats: vector formats.
        sheet: include the HTML report, as the last path.

    Returns:
        Mask, probability, JSON report, vector files, HTML report.
    """
    rasters = [out / f"{name}_mask.tif", out / f"{name}_probability.tif", out / f"{name}.json"]
    vectors = []
    for one in formats:
        layers = [""] if one == "gpkg" else ["_flood", "_unobserved"]
        vectors += [out / f"{name}{layer}.{one}" for layer in layers]
    return [*rasters, *vectors, *([page_path_of(out, name)] if sheet else [])]


def page_path_of(out: Path, name: str) -> Path:
    """Path of a scene's HTML report."""
    return out / f"{name}_report.html"


def refuse_existing(results: Sequence[Path], resumed: Mapping[str, Any] | None = None) -> None:
    """Raise OutputError if a result exists already.

    Args:
        results: see `result_paths`.
        resumed: the settings of a run with `--resume`, else None; the error says what differs.
    """
    for path in results:
        if path.exists():
            why = "" if resumed is None else f" and cannot be gone on with ({_difference(results, resumed)})"
            raise OutputError(
                f"{path} exists already{why}; replace it with --overwrite, or choose another output folder"
            )


def _difference(results: Sequence[Path], settings: Mapping[str, Any]) -> str:
    """Why existing results are not those of a run with these settings."""
    summary = _summary(results[2])
    if summary is None:
        return f"{results[2].name}, which says how it was made, is missing or damaged"
    if differing := changes({key: summary.get(key) for key in settings}, settings):
        return "; ".join(differing)
    return f"{', '.join(path.name for path in results if not path.exists())} is missing beside it"


def _summary(report: Path) -> dict[str, Any] | None:
    """Content of a JSON report; None where it is missing or damaged."""
    try:
        summary = json.loads(report.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) else None


def refuse_long_names(results: Iterable[Path]) -> None:
    """Raise OutputError if a result's name is longer than file systems allow: 255 bytes on all usual ones."""
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
    """Create the folder for results; it is removed again if it was created here and is empty at the end."""
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
    """Raise OutputError if a result would replace an input of the run: `x_mask.tif` may be the user's own file."""
    for path in results:
        for given in inputs:
            if path.exists() and os.path.exists(given) and path.samefile(given):
                raise OutputError(f"{path} is read by this run and would be replaced; choose another output folder")


def finished_before(out: Path, name: str, formats: Iterable[str], settings: Mapping[str, Any]) -> FloodMap | None:
    """The results of an earlier, finished run with the same settings; None where there are none."""
    paths = result_paths(out, name, formats)
    mask, probability, report, *layers = paths
    if not all(path.exists() for path in paths):
        return None
    summary = _summary(report)
    if summary is None or changes({key: summary.get(key) for key in settings}, settings):
        return None
    return FloodMap(
        name=name, mask_path=mask, probability_path=probability, layer_paths=tuple(layers), report_path=report,
        report=summary,
    )  # fmt: skip


def is_newer(path: Path, other: Path) -> bool:
    """Whether a file exists and is not older than another; an older one belongs to results that were replaced."""
    return path.exists() and path.stat().st_mtime_ns >= other.stat().st_mtime_ns


def check_disk(out: Path, pixels: int) -> None:
    """Raise OutputError if the disk of an (existing) folder is too full for a scene of so many pixels."""
    needed, free = int(pixels * BYTES_PER_PIXEL) + 10_000_000, shutil.disk_usage(out).free
    if free < needed:
        raise OutputError(
            f"{out}: {in_bytes(needed)} of disk are needed and {in_bytes(free)} are free; make room, or "
            "choose another output folder"
        )


def write_report(path: Path, summary: Mapping[str, Any]) -> None:
    """Write the JSON report atomically."""
    write_whole(path, json.dumps(summary, indent=2, ensure_ascii=False, default=str) + "\n")
