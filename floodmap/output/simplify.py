"""Coverage simplification of pixel outlines: adjacent polygons keep their common border, and outlines do not cross.

Each corner of an outline forms a triangle with the two neighbouring corners of the outline. Corners are removed in the
order of the areas of these triangles (Visvalingam and Whyatt 1993, doi:10.1179/000870493786962263).

Corners have integer coordinates. By Pick's theorem, a triangle of at most one square pixel has no pixel corner in its
interior. Therefore, many such triangles can be cut off at the same time, without a search for crossings, on two
conditions: the removed corners are not neighbours on an outline, and no other corner lies on a new edge.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from floodmap._runtime.memory import trim_heap
from floodmap.output.rings import assembled

MIN_HOLLOW_AREA = 1.5
"""Area in square pixels of the smallest triangle of pixel corners that can have a pixel corner in its interior."""
MIN_CORNERS = 4
"""Least number of corners that a ring keeps."""
CHUNK = 2**20
"""Number of corners that are processed together, to limit memory."""

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Geometries = NDArray[np.object_]
Fates = NDArray[np.uint8]
"""What became of each corner: `KEPT`, `NODE`, or the number of the round in which it was removed, at most 254."""
KEPT = np.uint8(0)
"""Fate of a corner that was not removed, and is no node."""
NODE = np.uint8(255)
"""Fate of a node: a corner through which more than one border passes. It is never removed."""
_LAST_ROUND = 254
_NO_FATES = np.empty(0, np.uint8)
_NEVER = np.iinfo(np.int64).max


def simplified(outlines: Geometries, tolerance: float, fates: list[Fates] | None = None) -> Geometries:
    """Simplify outlines: remove corners that form a triangle (see module) with an area of at most `tolerance` squared.

    Args:
        outlines: shapely Polygons, object (n,), with vertices at pixel corners (column, row). Adjacent polygons share
            all vertices of their common border (`tracing.trace` with `noded`). If the caller keeps no reference to the
            array, the memory of the polygons is freed early.
        tolerance: side, in pixels, of a square with the area of the largest triangle that is cut off. There is no upper
            limit. Below 0.707, `outlines` is returned unchanged, because the smallest triangle has half a square pixel.
            Triangles of `MIN_HOLLOW_AREA` or more are cut off by GEOS.
        fates: a list to which the fates of all corners are appended, in the order of the vertices of `outlines`,
            without the last vertex of each ring, which repeats the first. Not for tolerances for which GEOS is called.

    Returns:
        The simplified polygons, object (n,), in the same order.
    """
    if not (twice_area := twice_area_of(tolerance)) or not len(outlines):
        return outlines
    trim_heap()
    _, closed, (ring_ends, polygon_ends) = shapely.to_ragged_array(outlines, include_z=False)
    is_corner = np.ones(len(closed), bool)
    is_corner[ring_ends[1:] - 1] = False  # a ring's last vertex repeats its first
    x, y = (column[is_corner].astype(np.int32) for column in closed.T)
    del closed, is_corner, outlines
    trim_heap()
    ends = np.cumsum(np.diff(ring_ends) - 1)
    border = _Border(x, y, ends)
    border.cut(twice_area, recorded=fates is not None)
    if fates is not None:
        fates.append(border.fates)
    ring_sizes = np.add.reduceat(border.kept, np.append(0, ends[:-1]), dtype=np.int64)
    corners = np.stack([x[border.kept], y[border.kept]], axis=1)
    del border, x, y
    cut = assembled(corners, ring_sizes, np.diff(polygon_ends))
    del corners
    if tolerance**2 >= MIN_HOLLOW_AREA:  # GEOS needs 200 bytes per vertex; a third of the vertices are left here
        trim_heap()
        cut = np.asarray(shapely.coverage_simplify(cut, tolerance), object)
    trim_heap()
    return cut


def twice_area_of(tolerance: float) -> int:
    """Return twice the area of the largest triangle that is cut off without GEOS: 0, 1 or 2 square pixels.

    Args:
        tolerance: see `simplified`.
    """
    return 0 if 2 * tolerance**2 < 1 else min(int(2 * tolerance**2 + 1e-6), 2)


def fates_of(
    x: NDArray[np.int32], y: NDArray[np.int32], ends: Ints, twice_area: int, *, stride: int, fixed: Bools, spare: Ints
) -> tuple[Fates, Bools]:
    """Simplify pieces of rings, as a part of outlines that are simplified together.

    Args:
        x: column of each corner, int32 (n,), ring by ring. A piece of a ring is given as a ring.
        y: row of each corner, int32 (n,).
        ends: for each ring, the index of the last corner plus 1, int64 (rings,).
        twice_area: see `twice_area_of`.
        stride: the largest column of a corner in all the outlines, plus 1.
        fixed: True for corners that are kept in any case, bool (n,): the first and the last corner of a piece.
        spare: number of corners that each ring has outside the piece, int64 (rings,).

    Returns:
        Fates of the corners; and True for rings that came near `MIN_CORNERS`, so that corners may have been kept.
    """
    border = _Border(x, y, ends, stride=stride)
    border.hold(fixed, spare)
    border.cut(twice_area, recorded=True)
    return border.fates, border.is_tight


class _Border:
    """Corners of rings as doubly linked lists, from which corners are removed.

    Adjacent rings lose the same corners of their common border. The reason: whether a corner is removed depends on the
    positions of the corner and of its two neighbours, not on the first corner and the direction of the ring.

    Args:
        x: column of each corner, int32 (n,), ring by ring.
        y: row of each corner, int32 (n,).
        ends: for each ring, the index of the last corner plus 1, int64 (rings,).
        stride: the largest column of all outlines, plus 1. None: the given corners are all corners.
    """

    def __init__(self, x: NDArray[np.int32], y: NDArray[np.int32], ends: Ints, *, stride: int | None = None) -> None:
        count, begins = len(x), np.append(0, ends[:-1])
        self.kept = np.ones(count, bool)
        self._x, self._y = x, y
        self._before, self._after = np.arange(-1, count - 1, dtype=np.int32), np.arange(1, count + 1, dtype=np.int32)
        self._before[begins], self._after[ends - 1] = ends - 1, begins
        self._ring = np.repeat(np.arange(len(ends), dtype=np.int32), ends - begins)
        self._remaining = ends - begins
        """Number of corners that are left in each ring, int64 (rings,)."""
        self.is_tight = np.zeros(len(ends), bool)
        self._stride = stride or int(self._x.max()) + 1
        place = self._place(self._x, self._y)
        order = np.argsort(place, kind="stable")
        first = np.diff(place[order], prepend=-1) > 0
        self._places = place[order[first]]
        """Distinct positions of corners: integers from `_place`, ascending, int64 (positions,)."""
        self._number = np.empty(count, np.int32)
        """Index of each corner's position in `_places`, int32 (n,)."""
        self._number[order] = np.cumsum(first) - 1
        self._occupied = np.add.reduceat(self.kept[order], np.flatnonzero(first), dtype=np.int32)
        """Number of corners that are left at each position in `_places`, int32 (positions,)."""
        del place
        # A corner through which more than one border passes is a node of the coverage and has to stay.
        again = np.flatnonzero(~first)
        differ = again[self._neighbours(order[again]) != self._neighbours(order[again - 1])]
        is_node = np.zeros(len(self._places), bool)
        is_node[self._number[order[differ]]] = True
        self._is_node = is_node[self._number]

    def hold(self, fixed: Bools, spare: Ints) -> None:
        """Keep some corners in any case, and count corners of the rings that are not given; see `fates_of`."""
        self._is_node |= fixed
        self._remaining = self._remaining + spare

    def cut(self, twice_area: int, *, recorded: bool = False) -> None:
        """Remove corners until no further corner can be removed.

        The attribute `kept`, bool (n,) with one element for each corner, is set to False for removed corners.

        Args:
            twice_area: twice the area of the largest triangle that may be cut off, in square pixels; at most 2.
            recorded: True: the attribute `fates` is set, see `Fates`.
        """
        self.fates = np.where(self._is_node, NODE, KEPT) if recorded else _NO_FATES
        number = 0
        self._rank = np.full(len(self.kept), _NEVER)
        """Rank of each corner, int64 (n,): of two neighbouring corners, the corner of lower rank is removed first.
        `_NEVER`: the corner has already been removed, or it cannot be removed unless one of its neighbours changes."""
        flags = np.zeros(len(self.kept), bool)
        pieces = (np.arange(first, min(first + CHUNK, len(flags))) for first in range(0, len(flags), CHUNK))
        active = np.concatenate([self._ranked(piece, twice_area) for piece in pieces])
        while len(active):
            chosen = np.concatenate(
                [self._lowest(active[first : first + CHUNK]) for first in range(0, len(active), CHUNK)]
            )
            removable = self._removable(chosen)
            self._rank[chosen] = _NEVER  # removed, or kept until one of its neighbours changes
            removed = chosen[removable]
            before, after = self._before[removed], self._after[removed]
            self.kept[removed] = False
            number += 1
            if recorded:
                self.fates[removed] = min(number, _LAST_ROUND)
            self._after[before], self._before[after] = after, before
            self._remaining -= np.bincount(self._ring[removed], minlength=len(self._remaining))
            np.subtract.at(self._occupied, self._number[removed], 1)
            changed = self._ranked(_sorted_union(flags, before, after), twice_area)
            active = _sorted_union(flags, active[self._rank[active] != _NEVER], changed)

    def _ranked(self, corners: Ints, twice_area: int) -> Ints:
        """Compute and store the ranks of corners, and return the indices of the candidates for removal.

        A corner is a candidate if its triangle is small enough, if the corner is not a node of the coverage (a corner
        through which more than one border passes), and if at least one of its neighbours is not a node. `_removable`
        checks the other conditions for a removal. Corners that are not candidates get the rank `_NEVER`.

        Args:
            corners: indices of corners, int64 (m,).
            twice_area: twice the area of the largest triangle that may be cut off, in square pixels.
        """
        before, after = self._before[corners], self._after[corners]
        x, y = self._x[corners].astype(np.int64), self._y[corners].astype(np.int64)
        area = np.abs(
            (self._x[before] - x) * (self._y[after] - y) - (self._x[after] - x) * (self._y[before] - y)
        )  # fmt: skip
        # If both neighbours are nodes, another border may already join them.
        fits = (area <= twice_area) & ~self._is_node[corners] & ~(self._is_node[before] & self._is_node[after])
        # Corners of a staircase have equal areas: every second corner is removed first. Further ties are broken by a
        # hash of the position, because in the order of the ring only one corner could be removed at a time.
        hashed = (self._place(x, y) * 0x1E3779B97F4A7C15) & (2**58 - 1)
        self._rank[corners] = np.where(fits, ((area * 2 + (x + y) % 2) << 58) + hashed, _NEVER)
        return np.asarray(corners[fits])

    def _lowest(self, corners: Ints) -> Ints:
        """Return the indices of the given corners that have a lower rank than both neighbours on the ring."""
        rank = self._rank[corners]
        return corners[(rank < self._rank[self._before[corners]]) & (rank < self._rank[self._after[corners]])]

    def _removable(self, corners: Ints) -> Bools:
        """Return True for each of the given candidates that can be removed, bool (m,).

        A candidate can be removed if no other corner lies on the new edge between its two neighbours, and if the ring
        keeps at least `MIN_CORNERS` corners. Of the given candidates at one position, all can be removed, or none.

        Args:
            corners: indices of candidates from `_ranked`, int64 (m,). No two of these corners may be neighbours.
        """
        before, after = self._before[corners], self._after[corners]
        x, y = self._x[before] + self._x[after], self._y[before] + self._y[after]
        number = np.searchsorted(self._places, self._place(x // 2, y // 2).astype(np.int64))
        number = np.minimum(number, len(self._places) - 1)
        blocked = (x % 2 == 0) & (y % 2 == 0) & (self._places[number] == self._place(x // 2, y // 2))
        # On a straight line, the corner at the middle of the new edge is the removed corner itself.
        blocked &= (self._occupied[number] > 0) & (number != self._number[corners])
        rings = self._ring[corners]
        few = self._remaining - np.bincount(rings, minlength=len(self._remaining)) < MIN_CORNERS
        self.is_tight |= few
        # A ring that would lose too many corners at once may still lose one of them, if it has more than `MIN_CORNERS`.
        order = np.lexsort((self._rank[corners], rings))
        is_first = np.zeros(len(corners), bool)
        is_first[order[np.diff(rings[order], prepend=-1) > 0]] = True
        too_few = few[rings] & ~(is_first & (self._remaining[rings] > MIN_CORNERS))
        kept = np.zeros(len(self._places), bool)
        kept[self._number[corners[blocked | too_few]]] = True
        return ~kept[self._number[corners]]

    def _place(self, x: NDArray[Any], y: NDArray[Any]) -> Ints:
        """Return one integer for each position (x, y): the index of the position in row-major order."""
        return np.asarray(y.astype(np.int64) * self._stride + x)

    def _neighbours(self, corners: Ints) -> Ints:
        """Return one integer per corner that identifies the positions of the two neighbours, but not their order."""
        before, after = self._number[self._before[corners]], self._number[self._after[corners]]
        return np.minimum(before, after).astype(np.int64) * len(self._places) + np.maximum(before, after)


def _sorted_union(flags: Bools, *arrays: NDArray[np.integer[Any]]) -> Ints:
    """Return the sorted union of arrays of indices.

    Args:
        flags: working memory, bool, with one element for each possible index. All elements must be False before the
            call, and are False after the call.
        arrays: arrays of indices.
    """
    for array in arrays:
        flags[array] = True
    result = np.flatnonzero(flags)
    flags[result] = False
    return result
