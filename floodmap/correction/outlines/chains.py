"""Pieces of stored outlines outside the changed blocks: rings that stay whole, and chains, the rests of cut rings.

An edge belongs to a block if the pixel on its left, which is a pixel of the component, is inside the block. An edge
that goes from inside to outside is cut at the border of the block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from floodmap.correction.outlines.stored import Outlines
from floodmap.geo.window import Window

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
EAST, SOUTH, WEST, NORTH = range(4)
"""Headings of edges."""
STEP_XY = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])
"""Direction of each heading: column, row."""
_LEFT_XY = np.array([[0, -1], [0, 0], [-1, 0], [-1, -1]])
_RIGHT_XY = np.array([[0, 0], [-1, 0], [-1, -1], [0, -1]])


def left_pixels(x: Ints, y: Ints, heading: Ints) -> tuple[Ints, Ints]:
    """Return row and column of the pixel on the left of edges one pixel long that begin at corners (x, y)."""
    return y + _LEFT_XY[heading, 1], x + _LEFT_XY[heading, 0]


def right_pixels(x: Ints, y: Ints, heading: Ints) -> tuple[Ints, Ints]:
    """Return row and column of the pixel on the right of edges one pixel long that begin at corners (x, y)."""
    return y + _RIGHT_XY[heading, 1], x + _RIGHT_XY[heading, 0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cuts:
    """Parts of edges of stored rings that are inside blocks, or empty parts at which a ring is only cut.

    Cuts are in the order of the vertices, and along each edge. All arrays are int64 (n,). Edge i goes from vertex i to
    the next vertex of the ring.
    """

    edge: Ints
    """Edge that is cut."""
    begin: Ints
    """Distance in pixels from the beginning of the edge to the beginning of the part."""
    end: Ints
    """Distance in pixels from the beginning of the edge to the end of the part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chains:
    """Rests of n cut rings, outside all blocks. All arrays are int64 (n,)."""

    start_xy: Ints
    """Corner (column, row) at which the chain begins, int64 (n, 2)."""
    end_xy: Ints
    """Corner (column, row) at which the chain ends, int64 (n, 2)."""
    start_heading: Ints
    """Heading of the first edge."""
    end_heading: Ints
    """Heading of the last edge."""
    ring: Ints
    """Stored ring of which the chain is a rest."""
    start_vertex: Ints
    """Stored vertex at the start corner; -1 where an edge was cut."""
    vertex: Ints
    """First stored vertex between start and end."""
    n_vertices: Ints
    """Number of stored vertices between start and end, which follow each other in the ring."""


class Rings:
    """Stored rings, and what is found about their edges.

    Args:
        stored: the outlines.
    """

    def __init__(self, stored: Outlines) -> None:
        self.x, self.y = stored.x, stored.y
        self.begins, self.ends = stored.ring_begins, stored.ring_ends
        self.sizes = self.ends - self.begins
        self.owner = stored.ring_owner
        self._next_x, self._next_y = (self._shifted(values) for values in (self.x, self.y))

    def _shifted(self, values: NDArray[np.int32]) -> NDArray[np.int32]:
        following = np.empty_like(values)
        following[:-1] = values[1:]
        if len(self.ends):
            following[self.ends - 1] = values[self.begins]
        return following

    def ring_of(self, vertices: Ints) -> Ints:
        """Return the ring of each vertex, int64 (n,)."""
        return np.searchsorted(self.ends, vertices, "right")

    def edges(self, vertices: Ints) -> tuple[Ints, Ints, Ints, Ints]:
        """Return x and y of vertices, and heading and length of the edges that begin there, each int64 (n,)."""
        x, y = self.x[vertices].astype(np.int64), self.y[vertices].astype(np.int64)
        across, down = self._next_x[vertices] - x, self._next_y[vertices] - y
        heading = np.where(down == 0, np.where(across > 0, EAST, WEST), np.where(down > 0, SOUTH, NORTH))
        return x, y, heading, np.abs(across + down)

    def cuts(self, inner: Sequence[Window]) -> Cuts:
        """Return the parts of edges inside blocks; the blocks do not touch."""
        parts = [self._inside(window) for window in inner]
        edge, begin, end = (np.concatenate([part[i] for part in parts] or [np.empty(0, np.int64)]) for i in range(3))
        return _sorted_cuts(edge, begin, end)

    def _inside(self, window: Window) -> tuple[Ints, Ints, Ints]:
        near = (self.x >= window.col_off) & (self._next_x <= window.col_end)
        near |= (self._next_x >= window.col_off) & (self.x <= window.col_end)
        rows = (self.y >= window.row_off) & (self._next_y <= window.row_end)
        rows |= (self._next_y >= window.row_off) & (self.y <= window.row_end)
        near &= rows
        edge = np.flatnonzero(near)
        x, y, heading, length = self.edges(edge)
        row, col = left_pixels(x, y, heading)
        # Along the edge, its left pixels are at `along`, `along` + `sign`, ...; `side` is the same for all of them.
        is_flat, sign = (heading == EAST) | (heading == WEST), np.where((heading == EAST) | (heading == SOUTH), 1, -1)
        along, side = np.where(is_flat, col, row), np.where(is_flat, row, col)
        low, high = (
            np.where(is_flat, *pair) for pair in ((window.col_off, window.row_off), (window.col_end, window.row_end))
        )
        side_low, side_high = (
            np.where(is_flat, *pair) for pair in ((window.row_off, window.col_off), (window.row_end, window.col_end))
        )
        begin = np.maximum(np.where(sign > 0, low - along, along - high + 1), 0)
        end = np.minimum(np.where(sign > 0, high - along, along - low + 1), length)
        found = (begin < end) & (side >= side_low) & (side < side_high)
        return edge[found], begin[found], end[found]

    def chains(self, cuts: Cuts) -> tuple[Chains, Bools]:
        """Return the rests of cut rings, and for each ring True if it is cut, bool (rings,)."""
        is_cut = np.zeros(len(self.ends), bool)
        ring = self.ring_of(cuts.edge)
        is_cut[ring] = True
        if not len(ring):
            nothing = np.empty(0, np.int64)
            corners = np.empty((0, 2), np.int64)
            return Chains(start_xy=corners, end_xy=corners, **dict.fromkeys(Chains.__slots__[2:], nothing)), is_cut
        # The chain after cut i ends at the next cut of the ring; after the last cut, at the first.
        follower = np.arange(1, len(ring) + 1)
        last = np.flatnonzero(np.diff(ring, append=-1))
        follower[last] = np.append(0, last + 1)[:-1]
        begin, size = self.begins[ring], self.sizes[ring]
        length = self.edges(cuts.edge)[3]
        at_end = cuts.end == length
        start_edge = np.where(at_end, begin + (cuts.edge - begin + 1) % size, cuts.edge)
        start_offset = np.where(at_end, 0, cuts.end)
        at_begin = cuts.begin == 0
        before = begin + (cuts.edge - begin - 1) % size
        before_length = self.edges(before)[3]
        end_edge = np.where(at_begin, before, cuts.edge)[follower]
        end_offset = np.where(at_begin, before_length, cuts.begin)[follower]
        # An empty chain: a cut begins where the cut before it in the ring ends.
        is_empty = (start_edge == cuts.edge[follower]) & (start_offset == cuts.begin[follower])
        is_empty &= ~((follower == np.arange(len(ring))) & (cuts.begin == cuts.end))
        n_vertices = (end_edge - start_edge) % size
        around = (n_vertices == 0) & (end_offset <= start_offset)
        n_vertices = np.where(around, size, n_vertices)
        start_x, start_y, start_heading, _ = self.edges(start_edge)
        end_x, end_y, end_heading, _ = self.edges(end_edge)
        xy = np.stack([start_x, start_y], axis=1) + STEP_XY[start_heading] * start_offset[:, None]
        end_xy = np.stack([end_x, end_y], axis=1) + STEP_XY[end_heading] * end_offset[:, None]
        columns = {
            "start_xy": xy, "end_xy": end_xy, "start_heading": start_heading, "end_heading": end_heading, "ring": ring,
            "start_vertex": np.where(start_offset == 0, start_edge, -1),
            "vertex": begin + (start_edge - begin + 1) % size, "n_vertices": n_vertices,
        }  # fmt: skip
        return Chains(**{name: values[~is_empty] for name, values in columns.items()}), is_cut

    def pinches(self, touched: Bools, kind: NDArray[np.uint8], stride: int) -> tuple[Ints, Ints]:
        """Find corners at which two pixels of one kind touch only diagonally, in some components.

        Args:
            touched: True for the components that are searched, bool (components,).
            kind: kind of each component, uint8 (components,).
            stride: width of the scene plus 1.

        Returns:
            Pairs of vertices at such corners, two arrays int64 (n,). The vertices of a pair may be of one ring.
        """
        rings = np.flatnonzero(touched[self.owner])
        chosen = np.zeros(len(self.x), bool)
        for begin, end in zip(*_joined_ranges(self.begins[rings], self.ends[rings]), strict=True):
            chosen[begin:end] = True
        vertices = np.flatnonzero(chosen)
        place = self.y[vertices].astype(np.int64) * stride + self.x[vertices]
        # Sorted together with their indices as one integer, which is faster than `argsort`.
        bits = len(vertices).bit_length()
        packed = np.sort((place << bits) | np.arange(len(vertices)))
        again = np.flatnonzero((packed[1:] >> bits) == (packed[:-1] >> bits))
        # At most four vertices are at one corner: two pairs, of two kinds.
        steps = [(again, again + 1)]
        for step in (2, 3):
            more = np.flatnonzero((packed[step:] >> bits) == (packed[:-step] >> bits))
            steps.append((more, more + step))
        one, other = (np.concatenate([pair[i] for pair in steps]) for i in range(2))
        mask = (1 << bits) - 1
        one, other = vertices[packed[one] & mask], vertices[packed[other] & mask]
        kinds = kind[self.owner]
        same = kinds[self.ring_of(one)] == kinds[self.ring_of(other)]
        return one[same], other[same]


def with_points(cuts: Cuts, vertices: Ints) -> Cuts:
    """Return cuts, and in addition empty cuts at vertices."""
    none = np.zeros(len(vertices), np.int64)
    return _sorted_cuts(
        np.concatenate([cuts.edge, vertices]), np.concatenate([cuts.begin, none]), np.concatenate([cuts.end, none])
    )


def _sorted_cuts(edge: Ints, begin: Ints, end: Ints) -> Cuts:
    order = np.lexsort((begin, edge))
    return Cuts(edge=edge[order], begin=begin[order], end=end[order])


def _joined_ranges(begins: Ints, ends: Ints) -> tuple[list[int], list[int]]:
    """Join ranges in ascending order that follow each other."""
    if not len(begins):
        return [], []
    gap = np.flatnonzero(begins[1:] != ends[:-1])
    return begins[np.append(0, gap + 1)].tolist(), ends[np.append(gap, len(ends) - 1)].tolist()
