"""Outlines of pixels simplified as one coverage: neighbours keep their common border, and nothing crosses.

The measure is the area of triangles (Visvalingam and Whyatt 1993, doi:10.1179/000870493786962263). Corners of pixels
are whole numbers, and so a triangle of up to one square pixel holds no other corner (Pick's theorem): as many can be
cut off at once as do not touch, without looking for what they might cross.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from floodmap._runtime.memory import trim_heap
from floodmap.output.rings import assembled

LEAST_HOLLOW = 1.5
"""Square pixels of the smallest triangle that can hold a corner of a pixel."""
FEWEST = 4
"""Corners that a ring keeps."""
CHUNK = 2**20
"""Corners looked at in one go."""

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Geometries = NDArray[np.object_]
_NEVER = np.iinfo(np.int64).max


def simplified(outlines: Geometries, tolerance: float) -> Geometries:
    """Take away corners, those of the smallest triangles first, as long as these are at most a tolerance's square.

    Args:
        outlines: shapely Polygons in pixel corners, neighbours with all vertices in common (`tracing.trace`, noded).
            Let go of as soon as can be: hand them over without keeping them.
        tolerance: pixels.
    """
    if 2 * tolerance**2 < 1 or not len(outlines):
        return outlines
    trim_heap()
    _, closed, (ring_ends, polygon_ends) = shapely.to_ragged_array(outlines, include_z=False)
    is_corner = np.ones(len(closed), bool)
    is_corner[ring_ends[1:] - 1] = False  # a ring's last vertex is its first
    x, y = (column[is_corner].astype(np.int32) for column in closed.T)
    del closed, is_corner, outlines
    trim_heap()
    ends = np.cumsum(np.diff(ring_ends) - 1)
    border = _Border(x, y, ends)
    border.cut(twice_area=min(int(2 * tolerance**2 + 1e-6), 2))
    left = np.add.reduceat(border.stays, np.append(0, ends[:-1]), dtype=np.int64)
    corners = np.stack([x[border.stays], y[border.stays]], axis=1)
    del border, x, y
    cut = assembled(corners, left, np.diff(polygon_ends))
    del corners
    if tolerance**2 >= LEAST_HOLLOW:  # with 200 bytes a vertex, it is well that only every third is left
        trim_heap()
        cut = np.asarray(shapely.coverage_simplify(cut, tolerance), object)
    trim_heap()
    return cut


class _Border:
    """Corners of rings, each of which knows the one before and the one after.

    What neighbouring rings have in common they lose alike: whatever is decided hangs on where a corner and those beside
    it lie, not on where a ring begins or which way it runs.

    Args:
        x: of corners, ring by ring, (n,).
        y: likewise.
        ends: of the rings.
    """

    def __init__(self, x: NDArray[np.int32], y: NDArray[np.int32], ends: Ints) -> None:
        count, begins = len(x), np.append(0, ends[:-1])
        self.stays = np.ones(count, bool)
        self._x, self._y = x, y
        self._before, self._after = np.arange(-1, count - 1, dtype=np.int32), np.arange(1, count + 1, dtype=np.int32)
        self._before[begins], self._after[ends - 1] = ends - 1, begins
        self._ring = np.repeat(np.arange(len(ends), dtype=np.int32), ends - begins)
        self._left = ends - begins
        self._stride = int(self._x.max()) + 1
        place = self._place(self._x, self._y)
        order = np.argsort(place, kind="stable")
        first = np.diff(place[order], prepend=-1) > 0
        self._places = place[order[first]]
        """Where corners lie, in order."""
        self._number = np.empty(count, np.int32)
        """Of each corner's place."""
        self._number[order] = np.cumsum(first) - 1
        self._taken = np.add.reduceat(self.stays[order], np.flatnonzero(first), dtype=np.int32)
        """How many corners lie at each place."""
        del place
        # Where more than one border passes, a corner has to stay.
        again = np.flatnonzero(~first)
        differ = again[self._beside(order[again]) != self._beside(order[again - 1])]
        meets = np.zeros(len(self._places), bool)
        meets[self._number[order[differ]]] = True
        self._meets = meets[self._number]

    def cut(self, twice_area: int) -> None:
        """Cut corners off until all triangles left are larger than this, in half square pixels, at most 2."""
        self._rank = np.full(len(self.stays), _NEVER)
        """In which order corners go: of two beside each other the lower first."""
        is_one = np.zeros(len(self.stays), bool)
        pieces = (np.arange(first, min(first + CHUNK, len(is_one))) for first in range(0, len(is_one), CHUNK))
        active = np.concatenate([self._ranked(piece, twice_area) for piece in pieces])
        while len(active):
            chosen = np.concatenate(
                [self._lowest(active[first : first + CHUNK]) for first in range(0, len(active), CHUNK)]
            )
            may = self._may_go(chosen)
            self._rank[chosen] = _NEVER  # gone, or kept until something beside it changes
            gone = chosen[may]
            before, after = self._before[gone], self._after[gone]
            self.stays[gone] = False
            self._after[before], self._before[after] = after, before
            self._left -= np.bincount(self._ring[gone], minlength=len(self._left))
            np.subtract.at(self._taken, self._number[gone], 1)
            changed = self._ranked(_sorted(is_one, before, after), twice_area)
            active = _sorted(is_one, active[self._rank[active] != _NEVER], changed)

    def _ranked(self, corners: Ints, twice_area: int) -> Ints:
        """Give corners their ranks; returns those that might go."""
        before, after = self._before[corners], self._after[corners]
        x, y = self._x[corners].astype(np.int64), self._y[corners].astype(np.int64)
        area = np.abs(
            (self._x[before] - x) * (self._y[after] - y) - (self._x[after] - x) * (self._y[before] - y)
        )  # fmt: skip
        # Between two corners that have to stay there may be another border already.
        fits = (area <= twice_area) & ~self._meets[corners] & ~(self._meets[before] & self._meets[after])
        # Of the corners of a staircase, which are alike, every second one; else any, for in turn would take for ever.
        scattered = (self._place(x, y) * 0x1E3779B97F4A7C15) & (2**58 - 1)
        self._rank[corners] = np.where(fits, ((area * 2 + (x + y) % 2) << 58) + scattered, _NEVER)
        return np.asarray(corners[fits])

    def _lowest(self, corners: Ints) -> Ints:
        """Those whose rank is lower than those of both beside them."""
        rank = self._rank[corners]
        return corners[(rank < self._rank[self._before[corners]]) & (rank < self._rank[self._after[corners]])]

    def _may_go(self, corners: Ints) -> Bools:
        """Whether corners, no two of them beside each other, can be cut off: nothing lies on the cut, rings remain."""
        before, after = self._before[corners], self._after[corners]
        x, y = self._x[before] + self._x[after], self._y[before] + self._y[after]
        number = np.searchsorted(self._places, self._place(x // 2, y // 2).astype(np.int64))
        number = np.minimum(number, len(self._places) - 1)
        met = (x % 2 == 0) & (y % 2 == 0) & (self._places[number] == self._place(x // 2, y // 2))
        # On a straight line it is the corner itself.
        met &= (self._taken[number] > 0) & (number != self._number[corners])
        rings = self._ring[corners]
        few = self._left - np.bincount(rings, minlength=len(self._left)) < FEWEST
        # The first of a ring's may go all the same, as long as there are enough.
        order = np.lexsort((self._rank[corners], rings))
        is_first = np.zeros(len(corners), bool)
        is_first[order[np.diff(rings[order], prepend=-1) > 0]] = True
        too_few = few[rings] & ~(is_first & (self._left[rings] > FEWEST))
        kept = np.zeros(len(self._places), bool)
        kept[self._number[corners[met | too_few]]] = True
        return ~kept[self._number[corners]]

    def _place(self, x: NDArray[Any], y: NDArray[Any]) -> Ints:
        return np.asarray(y.astype(np.int64) * self._stride + x)

    def _beside(self, corners: Ints) -> Ints:
        """The two places beside each corner, as one number."""
        before, after = self._number[self._before[corners]], self._number[self._after[corners]]
        return np.minimum(before, after).astype(np.int64) * len(self._places) + np.maximum(before, after)


def _sorted(is_one: Bools, *some: NDArray[np.integer[Any]]) -> Ints:
    """Numbers in order, each once; `is_one` has a place for every possible one, and is false everywhere."""
    for one in some:
        is_one[one] = True
    result = np.flatnonzero(is_one)
    is_one[result] = False
    return result
