"""Polygons of a scene after changes in a few boxes, without a new trace of the whole scene."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from floodmap.correction.outlines.areas import NotLocalError, blocks, surroundings
from floodmap.correction.outlines.measuring import Kept, measures
from floodmap.correction.outlines.network import Network, Read
from floodmap.correction.outlines.smoothing import smoothed
from floodmap.correction.outlines.splicing import Cutting, Spliced
from floodmap.correction.outlines.stored import Outlines, ranges, tolerance_px
from floodmap.geo.areas import measure
from floodmap.geo.geogrid import GeoGrid, pixel_m2_at
from floodmap.geo.window import Window
from floodmap.output.rings import assembled
from floodmap.output.simplify import MIN_HOLLOW_AREA, twice_area_of
from floodmap.output.tracing import Components

MAX_PIXELS = 2**26
"""Largest number of pixels around the changed boxes. A larger change is traced again as a whole."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Change:
    """A change in a few boxes of a scene. The constructor does what can be done before the new codes are known.

    Args:
        stored: outlines of the scene before the change.
        boxes: rectangles outside which no code changes, in pixels.
        grid: grid of the scene.
    """

    def __init__(self, stored: Outlines, boxes: Sequence[Window], *, grid: GeoGrid) -> None:
        self._stored, self._grid, self._rules = stored, grid, stored.rules
        self._inner = blocks(boxes, self._rules.shape_hw)
        self._around = surroundings(self._inner, self._rules.shape_hw)
        self._is_small = sum(area.height * area.width for area in self._around) <= MAX_PIXELS
        if not self._is_small:
            return
        self._cutting = Cutting(stored, self._inner)
        self._old = Kept(stored.x, stored.y, stored.ring_ends, stored.ring_owner, stored.fates)
        self._polygons = self._placed(self._old, np.arange(len(stored.ring_ends)))
        self._right = _bounds(stored.x, stored.y, stored.ring_ends, stored.kept[stored.ring_owner])[2]

    def apply(self, read: Read) -> tuple[Components, dict[str, Floats]] | None:
        """Return the polygons of the changed scene, as `polygons.outlined` returns them for the changed codes.

        The areas and perimeters of changed polygons differ from those of `outlined` by rounding only.

        None is returned if the whole scene has to be traced: if the change is too large, or has effects far from the
        boxes, for example if the column of the rightmost corner of all polygons has changed while outlines are
        simplified.

        Args:
            read: returns the new codes of a window of the scene, uint8 (height, width). It is called for windows of up
                to a few cells (`cells.CELL`) around the boxes.
        """
        try:
            return self._apply(read) if self._is_small else None
        except NotLocalError:
            return None

    def _apply(self, read: Read) -> tuple[Components, dict[str, Floats]]:
        stored, rules = self._stored, self._rules
        network = Network(stored, self._around, read)
        spliced = self._cutting.splice(network)
        kept = self._kept(spliced, network)
        bounds = _bounds(spliced.x, spliced.y, spliced.ring_ends, kept[spliced.ring_owner])
        self._check(bounds)
        flipped = np.unique(spliced.sources[kept[spliced.sources[:, 0]] != stored.kept[spliced.sources[:, 1]], 0])
        fates, differs = smoothed(
            spliced, stored.fates, kept, flipped, self._inner, shape_hw=rules.shape_hw, twice_area=rules.twice_area,
            stride=int(np.nan_to_num(bounds[2])) + 1,
        )  # fmt: skip
        rebuilt = (spliced.same_as < 0) | differs | (kept != stored.kept[spliced.same_as])
        new = Kept(spliced.x, spliced.y, spliced.ring_ends, spliced.ring_owner, fates)
        area, perimeter = measures(stored, self._old, new, spliced.origin, rebuilt & kept, spliced.same_as, self._grid)
        outline = np.empty(len(kept), object)
        outline[~rebuilt] = self._polygons[spliced.same_as[~rebuilt]]
        outline[rebuilt] = self._placed(new, np.flatnonzero(rebuilt[spliced.ring_owner]))
        columns: dict[str, NDArray[Any]] = {name: values[kept] for name, values in network.columns.items()}
        components = Components(outline=outline[kept], **columns)
        return components, {"area_m2": area[kept], "perimeter_m": perimeter[kept]}

    def _check(self, bounds: Floats) -> None:
        """Raise an error if the simplification of the whole scene follows other rules than before."""
        tolerance = tolerance_px(self._rules.simplify_m, bounds, self._grid)
        if twice_area_of(tolerance) != self._rules.twice_area or tolerance**2 >= MIN_HOLLOW_AREA:
            raise NotLocalError
        if self._rules.twice_area and bounds[2] != self._right:
            raise NotLocalError

    def _kept(self, spliced: Spliced, network: Network) -> Bools:
        """Return True for components that are not dropped, bool (n,), by the rule of `polygons.outlined`."""
        kind, same = network.columns["kind"], spliced.same_as
        kept = (
            np.where(same >= 0, self._stored.kept[same], True) if len(self._stored.kept) else np.ones(len(kind), bool)
        )
        if not self._rules.min_area_m2:
            return kept
        unknown = (same < 0) & np.isin(kind, self._rules.of_water)
        # The pixel in the middle of the scene is no four times as large as another in scenes of any sensible size.
        pixel_m2 = pixel_m2_at(0, 0, self._grid.width, self._grid.height, grid=self._grid)
        unknown &= ~(network.columns["n_pixels"] * pixel_m2 > 16 * self._rules.min_area_m2)
        if unknown.any():
            rings = np.flatnonzero(unknown[spliced.ring_owner])
            sizes = np.diff(spliced.ring_ends, prepend=0)[rings]
            index = ranges(spliced.ring_ends[rings] - sizes, sizes)
            raw = assembled(
                np.stack([spliced.x[index], spliced.y[index]], axis=1), sizes, _counts(spliced.ring_owner[rings])
            )
            area = measure(raw, self._grid.crs, self._grid.to_crs)[0]
            kept[unknown] = ~(area < self._rules.min_area_m2)
        return kept

    def _placed(self, kept: Kept, rings: Ints) -> NDArray[np.object_]:
        """Return polygons in the CRS of the grid from rings of some components."""
        sizes = kept.sizes[rings]
        everything = len(rings) == len(kept.sizes)
        index = np.arange(len(kept.vertex)) if everything else ranges(kept.ends[rings] - sizes, sizes)
        return assembled(self._grid.to_crs(kept.xy(index)), sizes, _counts(kept.owner[rings]))


def _counts(owner: NDArray[np.integer]) -> Ints:
    """Return how many times each value occurs, in ascending order of the values, int64 (values,)."""
    return np.asarray(np.unique(owner, return_counts=True)[1], np.int64)


def _bounds(x: NDArray[np.int32], y: NDArray[np.int32], ends: Ints, kept: Bools) -> Floats:
    """Return west, north, east, south of the rings that are kept; NaN if there are none."""
    if not kept.any():
        return np.full(4, np.nan)
    begins = np.append(0, ends[:-1])
    parts = ((np.minimum, x), (np.minimum, y), (np.maximum, x), (np.maximum, y))
    return np.array([function.reduce(function.reduceat(values, begins)[kept]) for function, values in parts], float)
