"""Simplification of a changed coverage: only near the changes, with the stored decisions everywhere else.

Whether a corner is removed depends on the corners near it. So the corners within `REACH` of a change are simplified
again, and corners farther away keep their fates (`simplify.Fates`). In a band between, all new fates must be equal to
the stored fates, round by round. Then the change has no effect beyond the band, and the result is that of the whole
coverage.

Rings of few corners are different: whether one of them may lose a corner depends on all its corners. If such a ring
reaches across the band, it can carry an effect to the other side. It is then added to the changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from floodmap.correction.outlines.areas import NotLocalError, grown, merged, touch
from floodmap.correction.outlines.splicing import Spliced
from floodmap.correction.outlines.stored import ranges
from floodmap.geo.window import Window
from floodmap.output.simplify import KEPT, NODE, Fates, fates_of

REACH = 96
"""Distance in pixels from a change within which corners are simplified again."""
_BAND = (24, 80)
"""Distances in pixels from a change between which the new fates must be equal to the stored fates."""
_JOIN = 40
"""Distance in pixels up to which the new fates are used."""
_TRIES = 4
SAFE_CORNERS = 16
"""A ring that keeps at least so many corners is never near the least number of corners of a ring."""

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def smoothed(
    spliced: Spliced, stored_fates: Fates, kept: Bools, flipped: Ints, inner: Sequence[Window],
    *, shape_hw: tuple[int, int], twice_area: int, stride: int,
) -> tuple[Fates, Bools]:  # fmt: skip
    """Return the fates of all vertices of a changed scene.

    Args:
        spliced: the outlines.
        stored_fates: fates of the stored vertices.
        kept: True for components that are not dropped, bool (components,). Others are not part of the coverage.
        flipped: components that share outlines with a stored component of another value of `kept`.
        inner: the changed blocks.
        shape_hw: rows and columns of the scene.
        twice_area: see `simplify.twice_area_of`.
        stride: the largest column of a corner of the coverage, before and after the change, plus 1.

    Returns:
        Fates, uint8 (vertices,); and for each component True if a fate differs from the stored fate, bool
        (components,).

    Raises:
        NotLocalError: the effect of the change reaches beyond the band.
    """
    fates = np.where(spliced.origin >= 0, stored_fates[spliced.origin], KEPT) if len(stored_fates) else _none(spliced)
    fates[np.repeat(~kept[spliced.ring_owner], _sizes(spliced))] = KEPT
    if not twice_area:
        return fates, np.zeros(len(kept), bool)
    coverage = _Coverage(spliced, kept, fates)
    rects = merged([*inner, *coverage.boxes_of(flipped)])
    for _ in range(_TRIES):
        if (found := coverage.simplified(rects, twice_area, stride)) is None:
            rects = merged(grown(rect, REACH, shape_hw) for rect in rects)
            continue
        result, tight = found
        near, wide = ([grown(rect, reach, shape_hw) for rect in rects] for reach in (_BAND[0], _BAND[1] - 1))
        outside = [box for box in tight if any(touch(rect, box) for rect in near) and not _covers(wide, box)]
        if not outside and not coverage.finds_small_rings(result):
            differs = np.zeros(len(kept), bool)
            ring = np.searchsorted(spliced.ring_ends, np.flatnonzero(result != fates), "right")
            differs[spliced.ring_owner[ring]] = True
            return result, differs
        rects = merged([*rects, *outside])
    raise NotLocalError


class _Coverage:
    def __init__(self, spliced: Spliced, kept: Bools, fates: Fates) -> None:
        self._spliced, self._fates = spliced, fates
        self._sizes = _sizes(spliced)
        self._begins = spliced.ring_ends - self._sizes
        self._in_coverage = kept[spliced.ring_owner]
        self._is_small = self._count(fates) < SAFE_CORNERS
        """True for rings of few kept corners, bool (rings,)."""

    def _count(self, fates: Fates) -> Ints:
        if not len(fates):
            return np.empty(0, np.int64)
        return np.add.reduceat((fates == KEPT) | (fates == NODE), self._begins, dtype=np.int64)

    def boxes_of(self, components: Ints) -> list[Window]:
        """Return the rectangles around components."""
        rings = np.flatnonzero(np.isin(self._spliced.ring_owner, components))
        return [self._box(ring) for ring in rings.tolist()]

    def _box(self, ring: int) -> Window:
        part = slice(int(self._begins[ring]), int(self._spliced.ring_ends[ring]))
        x, y = self._spliced.x[part], self._spliced.y[part]
        return Window(int(y.min()), int(x.min()), int(np.ptp(y)), int(np.ptp(x)))

    def finds_small_rings(self, fates: Fates) -> bool:
        """Return True if a new ring keeps fewer corners than was expected, and has to be taken as a whole."""
        small = np.flatnonzero(self._spliced.is_new & self._in_coverage & (self._count(fates) < SAFE_CORNERS))
        more = small[~self._is_small[small]]
        self._is_small[more] = True
        return len(more) > 0

    def simplified(self, rects: Sequence[Window], twice_area: int, stride: int) -> tuple[Fates, list[Window]] | None:
        """Return the fates of all vertices if the changes are in some rectangles; see `smoothed`.

        None is returned if the effect of the changes reaches beyond the band. Rectangles around rings that came near
        the least number of corners are returned, too.
        """
        spliced = self._spliced
        near = self._within(rects, REACH)
        near &= np.repeat(self._in_coverage, self._sizes)
        vertices = np.flatnonzero(near)
        result = self._fates.copy()
        if not len(vertices):
            return result, []
        index, ends, fixed, spare, whole = self._pieces(vertices)
        x, y, old = spliced.x[index], spliced.y[index], self._fates[index]
        distance = _distance(x, y, rects)
        fixed |= (distance > REACH) & (old == NODE)  # a ring that is taken as a whole, far from the change
        fates, is_tight = fates_of(x, y, ends, twice_area, stride=stride, fixed=fixed, spare=spare)
        in_band = ~fixed & (distance >= _BAND[0]) & (distance < _BAND[1])
        if (fates[in_band] != old[in_band]).any():
            return None
        used = ~fixed & (distance < _JOIN)
        result[index[used]] = fates[used]
        return result, [self._box(ring) for ring in whole[is_tight[: len(whole)]].tolist()]

    def _within(self, rects: Sequence[Window], reach: int) -> Bools:
        x, y = self._spliced.x, self._spliced.y
        near = np.zeros(len(x), bool)
        for rect in rects:
            here = (x >= rect.col_off - reach) & (x <= rect.col_end + reach)
            here &= (y >= rect.row_off - reach) & (y <= rect.row_end + reach)
            near |= here
        return near

    def _pieces(self, vertices: Ints) -> tuple[Ints, Ints, Bools, Ints, Ints]:
        """Return pieces of rings with the given vertices, and one more vertex at each end of a piece.

        A ring of few kept corners is taken as a whole.

        Args:
            vertices: indices of vertices, int64 (n,), ascending.

        Returns:
            Five arrays. Index of each vertex, int64 (m,), piece by piece. Ends of the pieces, int64 (pieces,). True for
            vertices that are kept in any case, bool (m,). Number of vertices of the ring outside each piece, int64
            (pieces,). Rings that are the first pieces as a whole, int64 (rings,).
        """
        ends, begins, sizes = self._spliced.ring_ends, self._begins, self._sizes
        ring = np.searchsorted(ends, vertices, "right")
        rings, counts = np.unique(ring, return_counts=True)
        whole = rings[(counts == sizes[rings]) | self._is_small[rings]]
        index, lengths = [ranges(begins[whole], sizes[whole])], [sizes[whole]]
        spare = [np.zeros(len(whole), np.int64)]
        fixed = [np.zeros(len(index[0]), bool)]
        part = ~np.isin(ring, whole)
        vertices, ring = vertices[part], ring[part]
        if len(vertices):
            is_near = np.zeros(len(self._fates), bool)
            is_near[vertices] = True
            begin, size = begins[ring], sizes[ring]
            starts = ~is_near[begin + (vertices - begin - 1) % size]
            start, of = vertices[starts], ring[starts]
            last = vertices[~is_near[begin + (vertices - begin + 1) % size]]
            # A piece may run over the last vertex of the ring to the first. The ring's first end is then its end.
            firsts = np.flatnonzero(np.diff(of, prepend=-1))
            wraps = np.repeat(last[firsts] < start[firsts], np.diff(np.append(firsts, len(of))))
            following = np.arange(1, len(of) + 1)
            following[np.append(firsts[1:], len(of)) - 1] = firsts
            last = np.where(wraps, last[following], last)
            length = (last - start) % sizes[of] + 3
            piece = np.repeat(np.arange(len(of)), length)
            along = ranges(np.zeros(len(of), np.int64), length)
            index.append(begins[of][piece] + (start[piece] - begins[of][piece] - 1 + along) % sizes[of][piece])
            fixed.append((along == 0) | (along == length[piece] - 1))
            lengths.append(length)
            spare.append(sizes[of])
        columns = (np.concatenate(index), np.cumsum(np.concatenate(lengths)), np.concatenate(fixed))
        return *columns, np.concatenate(spare), whole


def _sizes(spliced: Spliced) -> Ints:
    return np.diff(spliced.ring_ends, prepend=0)


def _none(spliced: Spliced) -> Fates:
    return np.full(len(spliced.x), KEPT)


def _covers(rects: Sequence[Window], box: Window) -> bool:
    return any(
        rect.row_off <= box.row_off and box.row_end <= rect.row_end and rect.col_off <= box.col_off
        and box.col_end <= rect.col_end for rect in rects
    )  # fmt: skip


def _distance(x: NDArray[np.int32], y: NDArray[np.int32], rects: Sequence[Window]) -> NDArray[np.int32]:
    """Return the largest of the distances along x and y from corners to the nearest rectangle, int32 (n,)."""
    nearest = np.full(len(x), np.iinfo(np.int32).max, np.int32)
    for rect in rects:
        across = np.maximum(np.maximum(rect.col_off - x, x - rect.col_end), 0)
        down = np.maximum(np.maximum(rect.row_off - y, y - rect.row_end), 0)
        np.minimum(nearest, np.maximum(across, down), out=nearest)
    return nearest
