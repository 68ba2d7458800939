"""Comparison of two dates: the changes between two masks of any origin, on the grid of one of them.

Both masks are read strip by strip, so that memory does not grow with the rasters.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from floodmap._runtime.extras import require
from floodmap.analysis.change_classes import change_strips
from floodmap.analysis.change_files import Change, ChangeFiles
from floodmap.analysis.change_report import counted, described_grid, early_warnings, late_warnings, versions
from floodmap.analysis.sides import Given, Role, Side, Value, open_side
from floodmap.errors import EvaluationError, FloodmapError, MissingCRSError
from floodmap.geo.gdal import gdal_env
from floodmap.geo.geogrid import GeoGrid
from floodmap.masks.rules import Ignore
from floodmap.masks.vector import PolygonMask, polygon_grid
from floodmap.options import FORMAT, FORMATS, Format, check_threshold
from floodmap.output.census import Tally

log = logging.getLogger(__name__)

_CACHE_BYTES = 128 * 2**20
"""Size of GDAL's block cache in bytes; by default GDAL uses a share of the memory of the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeSettings:
    """Settings of a comparison of two dates; `floodmap.change` describes them."""

    grid: Role = "after"
    before_value: Value = None
    after_value: Value = None
    threshold: float | None = None
    ignore_values: Ignore = None
    resolution_m: float | None = None
    min_area_m2: float | None = None
    simplify_m: float | None = None
    formats: tuple[Format, ...] = (FORMAT,)

    def __post_init__(self) -> None:
        if self.grid not in ("before", "after"):
            raise FloodmapError(f"grid {self.grid!r} must be before or after")
        if self.threshold is not None:
            check_threshold(self.threshold)
        if not self.formats or not set(self.formats) <= set(FORMATS):
            raise FloodmapError(f"formats {self.formats} must be some of {', '.join(FORMATS)}")
        if "parquet" in self.formats:
            require("pyarrow", "the format parquet")
        for name in ("min_area_m2", "simplify_m"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise FloodmapError(f"{name} {value} must be 0 or more")
        if self.resolution_m is not None and not 0 < self.resolution_m < math.inf:
            raise FloodmapError(f"a resolution of {self.resolution_m:g} m is no pixel size; give one above 0")

    @property
    def values(self) -> dict[Role, Value]:
        """Definitions of water by the user."""
        return {"before": self.before_value, "after": self.after_value}

    def describe(self) -> dict[str, Any]:
        """Return the settings on which the result depends, as a part of the JSON report."""
        shown = {name: getattr(self, name) for name in self.__slots__ if name != "formats"}
        for name in ("before_value", "after_value", "ignore_values"):
            value = shown[name]
            shown[name] = None if value is None or value == () else _as_text(value)
        return shown


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) or not hasattr(value, "__iter__") else ",".join(map(str, value))


def find_changes(
    before: Given,
    after: Given,
    files: ChangeFiles,
    settings: ChangeSettings,
    *,
    segmented: Collection[Role] = (),
    progress: Callable[[float], None] | None = None,
) -> Change:
    """Compare two masks, and write the changes.

    Args:
        before: a raster of one band, polygons, or the JSON report of a result.
        after: the same for the later date.
        files: files of the results.
        settings: settings of the comparison.
        segmented: sides that are masks which this run has made, so that the threshold was used already.
        progress: function called with the finished share, 0 to 1, of the comparison of pixels.

    Raises:
        FloodmapError: the sides cannot be compared, or the results cannot be written.
    """
    started = time.time()
    with gdal_env(cache_bytes=_CACHE_BYTES), ExitStack() as stack:

        def opened(given: Given, role: Role) -> Side:
            return stack.enter_context(
                open_side(
                    given, role, value=settings.values[role], threshold=settings.threshold,
                    ignore_values=settings.ignore_values,
                )
            )  # fmt: skip

        sides = opened(before, "before"), opened(after, "after")
        _refuse_unused(settings, sides, segmented)
        grid, of = target_grid(*sides, settings)
        settings = with_sizes(settings, grid, files.name)
        files.refuse([path for side in sides for path in side.inputs])
        readers = sides[0].on(grid), sides[1].on(grid)
        warnings = logged(early_warnings(*sides))
        tally = Tally(grid)
        strips = tally.count(change_strips(*readers, grid, progress or (lambda _: None)))
        return files.write(
            strips, grid, date=_date_of(sides[1]), min_area_m2=settings.min_area_m2 or 0.0,
            simplify_m=settings.simplify_m or 0.0, labels=(sides[0].label, sides[1].label),
            report=lambda polygons: {
                "name": files.name,
                **(counts := counted(tally.census())),
                "polygons": polygons,
                "warnings": warnings + logged(late_warnings(counts["pixels"], settings.values)),
                **{side.role: {**side.describe(), "segmented": side.role in segmented} for side in sides},
                "grid": described_grid(grid, of),
                "settings": settings.describe(),
                "versions": versions(),
                "run": {
                    "finished": datetime.now(UTC).isoformat(timespec="seconds"),
                    "seconds": round(time.time() - started, 2),
                    "formats": list(settings.formats),
                },
            },
        )  # fmt: skip


def logged(lines: Iterable[str]) -> list[str]:
    """Log warnings, and return them as a list."""
    kept = list(lines)
    for line in kept:
        log.warning("%s", line)
    return kept


def _refuse_unused(settings: ChangeSettings, sides: tuple[Side, Side], segmented: Collection[Role]) -> None:
    """Raise EvaluationError if a setting was given that has no effect."""
    if settings.threshold is not None and not segmented and all(side.rule.threshold is None for side in sides):
        raise EvaluationError(
            f"neither {sides[0].label} nor {sides[1].label} holds probabilities: leave out --threshold"
        )
    if settings.resolution_m is not None and not segmented and any(side.grid for side in sides):
        raise EvaluationError("--resolution is for scenes and polygons; the pixels of masks are chosen with --grid")


def target_grid(before: Side, after: Side, settings: ChangeSettings) -> tuple[GeoGrid, Role | None]:
    """Return the grid of the result, and the side that it is from.

    It is the grid of the side of the setting `grid`, or else of the other side. If neither side has one, it is a new
    grid over the polygons of both.

    Raises:
        EvaluationError, MissingCRSError: there is no common grid for the polygons.
    """
    for side in (before, after) if settings.grid == "before" else (after, before):
        if (grid := side.grid) is not None:
            return grid, side.role
    a, b = (before, after) if settings.grid == "before" else (after, before)
    if not isinstance(a.mask, PolygonMask) or not isinstance(b.mask, PolygonMask):
        raise TypeError("a raster has a grid")
    return polygon_grid(a.mask, b.mask, settings.resolution_m or 1.0), None


def with_sizes(settings: ChangeSettings, grid: GeoGrid, name: str) -> ChangeSettings:
    """Return the settings with default values in place of None for `min_area_m2` and `simplify_m`.

    The defaults are the area of 25 pixels, and the side of one pixel; without a CRS 0.

    Raises:
        MissingCRSError: an option or a format needs a CRS, and there is none.
    """
    if grid.crs is None and "geojson" in settings.formats:
        raise MissingCRSError(f"{name} has no CRS, and GeoJSON is always in WGS 84; choose gpkg")
    if grid.gsd_m is None:
        for value, flag in ((settings.min_area_m2, "--min-area"), (settings.simplify_m, "--simplify")):
            if value:
                raise MissingCRSError(f"{name} has no CRS, so {flag} cannot be used; leave it out")
        return replace(settings, min_area_m2=0.0, simplify_m=0.0)
    area = 25 * grid.gsd_m**2 if settings.min_area_m2 is None else settings.min_area_m2
    return replace(
        settings, min_area_m2=area, simplify_m=grid.gsd_m if settings.simplify_m is None else settings.simplify_m
    )


def _date_of(after: Side) -> datetime:
    """Return the date that vector files record as the time of their last change: that of AFTER."""
    return after.date or datetime.fromtimestamp(after.inputs[-1].stat().st_mtime, UTC)
