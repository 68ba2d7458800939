"""The two sides of a comparison: water, dry ground and unobserved ground of a mask of any origin, on any grid.

Permanent water is water here: unlike in an evaluation, a lake that is seen on both dates has not changed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from floodmap.errors import EvaluationError
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.source_name import SourceName
from floodmap.geo.vectors import as_file
from floodmap.geo.window import Window
from floodmap.imagery.raster.fingerprint import of_input
from floodmap.masks.meanings import settle
from floodmap.masks.opening import holds_polygons
from floodmap.masks.pairing import is_one_file, report_beside
from floodmap.masks.raster import MASK, PROBABILITY, RasterMask
from floodmap.masks.rules import Codes, FloodRule, Ignore, Reader
from floodmap.masks.vector import PolygonMask
from floodmap.strips.codes import FLOOD, PERMANENT, UNOBSERVED

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

Role = Literal["before", "after"]
Value: TypeAlias = "float | str | Iterable[float] | None"
"""Definition of water by the user, as in `FloodRule.parse`; None: none was given."""
Given: TypeAlias = "str | os.PathLike[str] | GeoDataFrame"
"""A side as the user gives it."""

_OF_FLOODMAP = FloodRule(values=(float(FLOOD), float(PERMANENT)))
"""Rule of the masks that floodmap writes."""
_TABLE = "GeoDataFrame"
"""Label of a side that is no file."""
_LARGEST_REPORT = 2**24
"""Largest size in bytes of a JSON report; a larger file is taken for polygons (GeoJSON)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two masks that are compared, open for reading."""

    role: Role
    label: str
    """Name of the file for messages and reports, without folders."""
    mask: RasterMask | PolygonMask
    rule: FloodRule
    """Which pixels or polygons are water, and which pixels are unobserved."""
    observed: RasterMask | None = None
    """For polygons that floodmap wrote: the mask of the same run, which shows the observed ground. Else None."""
    report: Mapping[str, Any] | None = None
    """Content of floodmap's JSON report beside the file; None if there is none."""
    inputs: tuple[Path, ...] = ()
    """Files of the side that the user gave; the last is read. For a GeoDataFrame, a temporary file."""

    @property
    def grid(self) -> GeoGrid | None:
        """Grid of the pixels; None for polygons without a mask beside them."""
        raster = self.mask if isinstance(self.mask, RasterMask) else self.observed
        return None if raster is None else raster.grid

    @property
    def date(self) -> datetime | None:
        """Date of the picture in the JSON report, in UTC; None if it is unknown."""
        try:
            date = datetime.fromisoformat(str(self._of_report("source", "date")))
        except ValueError:
            return None
        return date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)

    def on(self, grid: GeoGrid) -> Reader:
        """Return a function that reads the classes of a window of a grid: 0 dry, 1 water, 255 unobserved.

        Ground outside of a raster is unobserved. Ground outside of polygons is dry, unless the mask of the same run
        says that it is unobserved.

        Raises:
            EvaluationError, MissingCRSError: the side does not overlap the grid, or cannot be brought to it.
        """
        if isinstance(self.mask, RasterMask):
            return self.mask.on(grid, self.rule)
        water = self.mask.on(grid, self.rule, must_overlap=self.observed is None)
        if self.observed is None:
            return water
        seen = self.observed.on(grid, _OF_FLOODMAP)

        def read(window: Window) -> Codes:
            return np.where(seen(window) == UNOBSERVED, np.uint8(UNOBSERVED), water(window))

        return read

    def describe(self) -> dict[str, Any]:
        """Return the side as a part of the JSON report."""
        grid, is_raster = self.grid, isinstance(self.mask, RasterMask)
        kind = "polygons" if not is_raster else "mask" if self.rule.threshold is None else "probability"
        values = ",".join(f"{value:g}" for value in self.rule.values) if is_raster else None
        attribute = f"{self.rule.attribute}={','.join(self.rule.matches)}" if self.rule.attribute else None
        return {
            "file": self.label,
            "fingerprint": None if self.label == _TABLE else of_input(self.inputs[-1]),
            "kind": kind,
            "water": values or attribute,
            "threshold": self.rule.threshold or self._of_report("settings", "threshold"),
            "date": None if self.date is None else self.date.isoformat(),
            "scene": self._of_report("source", "name"),
            "scene_fingerprint": self._of_report("source", "fingerprint"),
            "model": self._of_report("model", "name"),
            "failed_windows": len(failed) if isinstance(failed := self._of_report("windows", "failed"), list) else None,
            "crs": grid.crs.to_string() if grid and grid.crs else None,
            "gsd_m": grid and grid.gsd_m,
        }

    def _of_report(self, *keys: str) -> Any:
        """Return a value of the JSON report, by the keys of nested objects; None if it is not there."""
        value: Any = self.report
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value


def mask_of(path: Path, role: Role, threshold: float | None) -> Path:
    """Return the file to read: for the JSON report `x.json`, `x_mask.tif`, or `x_probability.tif` with a threshold.

    Any other path is returned unchanged.

    Raises:
        EvaluationError: the file does not exist, or the raster of the report is missing.
    """
    if not is_one_file(path):
        what = "is a folder; give one file" if path.is_dir() else "does not exist"
        raise EvaluationError(f"{path} {what}: {role.upper()} is a scene, a mask, polygons or the JSON of a result")
    if path.suffix.lower() != ".json" or not _is_report(path):
        return path
    raster = path.with_name(f"{path.stem}_{'mask' if threshold is None else 'probability'}.tif")
    if not raster.exists():
        raise EvaluationError(f"{path} is the report of a result, but {raster.name} is not beside it")
    return raster


def _is_report(path: Path) -> bool:
    if path.stat().st_size > _LARGEST_REPORT:
        return False
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "pixels" in content and "source" in content


@contextmanager
def open_side(
    given: Given,
    role: Role,
    *,
    value: Value = None,
    threshold: float | None = None,
    ignore_values: Ignore = None,
) -> Iterator[Side]:
    """Context manager: open one side of a comparison.

    Args:
        given: a raster of one band, polygons, the JSON report of a result, or a GeoDataFrame.
        role: which side.
        value: water, as in `FloodRule.parse`. None: as `meanings.settle` finds it; in masks of floodmap 1 and 2.
        threshold: for rasters of probabilities; masks and polygons are read without it.
        ignore_values: values of unobserved pixels, in rasters that floodmap did not write.

    Raises:
        FloodmapError: the file cannot be read as a mask, or the value of water is unknown.
    """
    with ExitStack() as stack:
        file = stack.enter_context(as_file(given, role))
        path = mask_of(file, role, threshold)
        found = report_beside(path)
        observed: RasterMask | None = None
        if holds_polygons(path):
            mask: RasterMask | PolygonMask = PolygonMask(path, permanent=True)
            rule = FloodRule.parse(value)
            beside = None if found is None else found[0].with_name(f"{found[0].stem}_mask.tif")
            if beside is not None and beside.exists():
                observed = stack.enter_context(closing(RasterMask(beside)))
        else:
            raster = mask = stack.enter_context(closing(RasterMask(path)))
            rule = _rule(raster, role, value, threshold, ignore_values)
            raster.tell_scale(rule)
        is_file = isinstance(given, str | os.PathLike)
        yield Side(
            role=role, label=_label(given, path) if is_file else _TABLE, mask=mask, rule=rule,
            observed=observed, report=None if found is None else found[1],
            inputs=(*([file] if is_file else []), path),
        )  # fmt: skip


def _label(given: Any, path: Path) -> str:
    """Return the name of a file without folders; of a URL without the query."""
    return path.name if path.suffix != Path(str(given)).suffix else SourceName.of(given).label


def _rule(raster: RasterMask, role: Role, value: Value, threshold: float | None, ignore: Ignore) -> FloodRule:
    """Return the rule of a raster: what is water, and what is unobserved."""
    if raster.described in (MASK, PROBABILITY):  # the values of floodmap are known, and 255 is declared as nodata
        ignore = None
    if raster.described == MASK and value is None:
        return _OF_FLOODMAP
    is_mask = value is not None or (threshold is not None and _is_mask(raster))
    rule = FloodRule.parse(value, None if is_mask else threshold, ignore)
    return settle(rule, [raster.path], f"--{role}-value")


def _is_mask(raster: RasterMask) -> bool:
    """Return whether a raster is a mask by its values, so that no threshold applies to it."""
    return not raster.declares_percent and raster.values() <= {0.0, 1.0, float(UNOBSERVED)}


def order_warning(before: Side, after: Side) -> str | None:
    """Return a warning if the picture of `before` is later than that of `after`; else None."""
    if before.date is None or after.date is None or before.date <= after.date:
        return None
    return (
        f"by the dates in their reports, BEFORE ({before.date:%Y-%m-%d %H:%M}) is later than AFTER "
        f"({after.date:%Y-%m-%d %H:%M}); exchange them if the order is wrong"
    )
