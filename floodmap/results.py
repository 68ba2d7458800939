"""What a run leaves behind: rasters, polygons and a JSON report, all of it or nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from floodmap.changes import changes
from floodmap.codes import OUTSIDE, REASONS, UNOBSERVED
from floodmap.errors import OutputError, writing
from floodmap.ground import cell_areas_m2, is_placed
from floodmap.names import readable
from floodmap.sizes import in_bytes

if TYPE_CHECKING:
    from geopandas import GeoDataFrame


BYTES_PER_PIXEL = 0.8
"""Disk a run takes at its worst moment: strips, uncompressed levels and finished rasters side by side."""
_CELL = 256

Strips = Iterable[tuple[int, NDArray[np.uint8]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FloodMap:
    """The results of one scene, on disk."""

    name: str
    """The scene's name, which every file's name begins with."""
    mask: Path
    """uint8 GeoTIFF: 0 dry, 1 flood, 255 unobserved."""
    probability: Path
    """uint8 GeoTIFF: 0 to 100 per cent, 255 unobserved."""
    layers: tuple[Path, ...]
    """Vector files."""
    report: Path
    """The JSON file."""
    summary: dict[str, Any]
    """What the JSON file holds."""
    sheet: Path | None = None
    """The HTML report, where it was asked for."""

    @property
    def failed_windows(self) -> int:
        """Windows that could not be read or segmented; their ground is unobserved."""
        return len(self.summary["windows"]["failed"])

    def polygons(self) -> GeoDataFrame:
        """Flood polygons in the scene's CRS; as written, so after `min_area_m2` and `simplify_m`."""
        import geopandas

        path = self.layers[0]
        if path.suffix == ".parquet":
            with path.open("rb") as stream:
                return geopandas.read_parquet(stream)
        with readable(path) as name:
            return geopandas.read_file(name, **({"layer": "flood"} if path.suffix == ".gpkg" else {}))


def result_paths(out: Path, name: str, formats: Iterable[str], *, sheet: bool = False) -> list[Path]:
    """Every file a run may write, the `.qml` beside the rasters left out.

    Args:
        out: folder of the results.
        name: how their names begin.
        formats: vector formats.
        sheet: with the HTML report, which comes last.
    """
    rasters = [out / f"{name}_mask.tif", out / f"{name}_probability.tif", out / f"{name}.json"]
    vectors = []
    for one in formats:
        layers = [""] if one == "gpkg" else ["_flood", "_unobserved"]
        vectors += [out / f"{name}{layer}.{one}" for layer in layers]
    return [*rasters, *vectors, *([sheet_path(out, name)] if sheet else [])]


def sheet_path(out: Path, name: str) -> Path:
    """Where a scene's HTML report goes."""
    return out / f"{name}_report.html"


def refuse_existing(results: Sequence[Path], resumed: Mapping[str, Any] | None = None) -> None:
    """Raise OutputError if a result is there already.

    Args:
        results: all that a run writes, the JSON report third.
        resumed: the run's settings, where it was to go on with what is there; the error says what differs.
    """
    for path in results:
        if path.exists():
            why = "" if resumed is None else f" and cannot be gone on with ({_otherwise(results, resumed)})"
            raise OutputError(
                f"{path} exists already{why}; replace it with --overwrite, or choose another output folder"
            )


def _otherwise(results: Sequence[Path], settings: Mapping[str, Any]) -> str:
    """Why results that are there are not those of a run with these settings."""
    summary = _summary(results[2])
    if summary is None:
        return f"{results[2].name}, which says how it was made, is missing or damaged"
    if differing := changes({key: summary.get(key) for key in settings}, settings):
        return "; ".join(differing)
    return f"{', '.join(path.name for path in results if not path.exists())} is missing beside it"


def _summary(report: Path) -> dict[str, Any] | None:
    """What a JSON report holds; None where it is not there, or none."""
    try:
        summary = json.loads(report.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return summary if isinstance(summary, dict) else None


def refuse_long_names(results: Iterable[Path]) -> None:
    """Raise OutputError if a result's name is longer than file systems take: 255 bytes, on all usual ones."""
    for path in sorted(results, key=lambda path: len(os.fsencode(path.name)), reverse=True):
        if len(os.fsencode(path.name)) > 255 or _is_too_long(path):
            raise OutputError(f"{path.parent}: the name {path.name} is too long for a file; rename the scene")


def _is_too_long(path: Path) -> bool:
    try:
        path.lstat()
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG  # some disks take less than 255 bytes
    return False


@contextmanager
def output_folder(out: Path) -> Iterator[None]:
    """Make the folder for results; where nothing comes to lie in it, it goes again."""
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
    """Raise OutputError if a result would replace what the run reads: `x_mask.tif` may be the user's own."""
    for path in results:
        for given in inputs:
            if path.exists() and os.path.exists(given) and path.samefile(given):
                raise OutputError(f"{path} is read by this run and would be replaced; choose another output folder")


def finished_before(out: Path, name: str, formats: Iterable[str], settings: Mapping[str, Any]) -> FloodMap | None:
    """The results of an earlier run with the same settings, if it was finished."""
    wanted = result_paths(out, name, formats)
    mask, probability, report, *layers = wanted
    if not all(path.exists() for path in wanted):
        return None
    summary = _summary(report)
    if summary is None or changes({key: summary.get(key) for key in settings}, settings):
        return None
    return FloodMap(
        name=name, mask=mask, probability=probability, layers=tuple(layers), report=report, summary=summary
    )  # fmt: skip


def is_newer(path: Path, other: Path) -> bool:
    """Whether a file is there and not older than another: an older one goes with results that were replaced."""
    return path.exists() and path.stat().st_mtime_ns >= other.stat().st_mtime_ns


def check_disk(out: Path, pixels: int) -> None:
    """Raise OutputError if the disk of an (existing) folder is too full for a scene of so many pixels."""
    needed, free = int(pixels * BYTES_PER_PIXEL) + 10_000_000, shutil.disk_usage(out).free
    if free < needed:
        raise OutputError(
            f"{out}: {in_bytes(needed)} of disk are needed and {in_bytes(free)} are free; make room, or "
            "choose another output folder"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """Pixels and ground of each code in a scene."""

    pixels: NDArray[np.int64]
    """(256,), by code."""
    ground_m2: NDArray[np.float64] | None
    """(256,), by code; geodesic. None where the scene has no place on the Earth."""
    threshold: int
    """Flood from this code up."""

    @property
    def flood_pixels(self) -> int:
        """Pixels of flood."""
        return int(self.pixels[self.threshold : UNOBSERVED].sum())

    @property
    def observed_pixels(self) -> int:
        """Pixels of flood and dry ground."""
        return int(self.pixels[:UNOBSERVED].sum())

    @property
    def unobserved_pixels(self) -> dict[str, int]:
        """By reason; ground outside the area of interest is not among them."""
        return {name: int(self.pixels[code]) for code, name in REASONS.items() if code != OUTSIDE and self.pixels[code]}

    @property
    def flood_m2(self) -> float | None:
        """Ground under water."""
        return None if self.ground_m2 is None else float(self.ground_m2[self.threshold : UNOBSERVED].sum())

    @property
    def observed_m2(self) -> float | None:
        """Ground that was seen."""
        return None if self.ground_m2 is None else float(self.ground_m2[:UNOBSERVED].sum())

    @property
    def observed_share(self) -> float:
        """Of the pixels inside the area of interest; 1 where there are none."""
        wanted = self.observed_pixels + sum(self.unobserved_pixels.values())
        return self.observed_pixels / wanted if wanted else 1.0

    def as_json(self) -> dict[str, Any]:
        """Areas and pixel counts, as the JSON report holds them."""
        hectares = None if self.flood_m2 is None else self.flood_m2 / 1e4
        return {
            "flood_area_m2": _rounded(self.flood_m2),
            "flood_area_ha": _rounded(hectares, 4),
            "observed_area_m2": _rounded(self.observed_m2),
            "observed_share": round(self.observed_share, 6),
            "flood_share_of_observed": round(self.flood_pixels / max(self.observed_pixels, 1), 6),
            "pixels": {
                "flood": self.flood_pixels,
                "dry": self.observed_pixels - self.flood_pixels,
                "unobserved": self.unobserved_pixels,
                "outside": int(self.pixels[OUTSIDE]),
            },
        }


def take_census(strips: Strips, *, crs: Any, transform: Affine, threshold: int) -> Census:
    """Count every pixel of a scene, and its ground where that can be measured.

    Args:
        strips: (first row, codes uint8 (rows, width)) from top to bottom.
        crs: of the scene, or None.
        transform: pixel to CRS.
        threshold: flood from this code up.
    """
    tally = Tally(crs=crs, transform=transform, threshold=threshold)
    for _ in tally.watch(strips):
        pass
    return tally.census()


class Tally:
    """Counts strips on their way to somebody else; arguments as of `take_census`."""

    def __init__(self, *, crs: Any, transform: Affine, threshold: int) -> None:
        self._crs, self._transform, self._threshold, self._placed = crs, transform, threshold, is_placed(crs)
        self._pixels, self._ground_m2 = np.zeros(256, np.int64), np.zeros(256)

    def watch(self, strips: Strips) -> Strips:
        """The same strips, each counted before it goes on."""
        for first, codes in strips:
            for top in range(0, len(codes), _CELL):
                self._add(first + top, codes[top : top + _CELL])
            yield first, codes

    def census(self) -> Census:
        """What was counted so far."""
        ground_m2 = self._ground_m2.copy() if self._placed else None
        return Census(pixels=self._pixels.copy(), ground_m2=ground_m2, threshold=self._threshold)

    def _add(self, first: int, codes: NDArray[np.uint8]) -> None:
        edges = np.append(np.arange(0, codes.shape[1], _CELL), codes.shape[1])
        counts = _per_cell(codes, edges)
        self._pixels += counts.sum(axis=0)
        if self._placed:
            rows = np.array([first, first + len(codes)], float)
            cells = cell_areas_m2(self._crs, self._transform, rows, edges.astype(float))[0]
            self._ground_m2 += (cells / (np.diff(edges) * len(codes))) @ counts


def write_report(path: Path, summary: Mapping[str, Any]) -> None:
    """Write the JSON file, whole or not at all."""
    write_whole(path, json.dumps(summary, indent=2, ensure_ascii=False, default=str) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    temporary = path.with_name(f".{path.stem}.part")
    with writing(path):
        temporary.write_text(text, "utf-8")
        temporary.replace(path)


def _per_cell(codes: NDArray[np.uint8], edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pixels of each code between two edges: (cells, 256)."""
    # Run by run: most pixels have their neighbour's code.
    begins = np.empty(codes.shape, bool)
    np.not_equal(codes[:, 1:], codes[:, :-1], out=begins[:, 1:])
    begins[:, edges[:-1]] = True
    first = np.flatnonzero(begins)
    cell = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
    key = cell[first % codes.shape[1]] * 256 + codes.ravel()[first]
    counts = np.bincount(key, np.diff(first, append=codes.size), minlength=256 * (len(edges) - 1))
    return counts.astype(np.int64).reshape(-1, 256)


def _rounded(value: float | None, digits: int = 2) -> float | None:
    return None if value is None else round(value, digits)
