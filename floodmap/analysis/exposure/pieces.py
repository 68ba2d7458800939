"""Cutting of straight edges at the lines of a pixel grid, into pieces that lie in one pixel each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edges:
    """Straight edges in pixel coordinates; (0, 0) is the upper left corner of the raster. All arrays are (n,)."""

    x0: Floats
    """Column of the start."""
    y0: Floats
    """Row of the start."""
    x1: Floats
    """Column of the end."""
    y1: Floats
    """Row of the end."""
    owner: Ints
    """Index of the feature to which the edge belongs, in ascending order."""
    length_m: Floats | None = None
    """Length on the ground in metres; None for edges of polygons."""

    def __len__(self) -> int:
        return len(self.x0)

    def take(self, chosen: NDArray[np.bool_] | Ints | slice) -> Edges:
        """Return the edges at an index or a mask."""
        length_m = None if self.length_m is None else self.length_m[chosen]
        return Edges(
            x0=self.x0[chosen], y0=self.y0[chosen], x1=self.x1[chosen], y1=self.y1[chosen], owner=self.owner[chosen],
            length_m=length_m,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """Pieces of edges; all arrays are (m,). The pieces of an edge follow each other, and so do the edges."""

    edge: Ints
    """Index of the edge."""
    row: Ints
    """Row of the pixel."""
    col: Ints
    """Column of the pixel. -1: the piece is left of the raster; the number of columns: it is right of the raster."""
    share: Floats
    """Share of the edge that is in the pixel, 0 to 1."""
    along: Floats
    """Mean distance of the piece from the left side of the pixel, 0 to 1 pixels."""


def by_strips(edges: Edges, rows: int, height: int) -> tuple[Edges, Ints]:
    """Cut edges at the borders of strips of full rows, and sort them by strip. Edges outside the raster are dropped.

    Args:
        edges: the edges.
        rows: number of rows of a strip.
        height: number of rows of the raster.

    Returns:
        The cut edges, sorted by strip, and within a strip by owner; and int64 (number of strips + 1,), the index of the
        first edge of each strip, at last the number of edges.
    """
    strips = -(-height // rows)
    edge, strip, start, end = _cut(edges.y0 / rows, edges.y1 / rows)
    inside = (strip >= 0) & (strip < strips)
    edge, strip, start, end = edge[inside], strip[inside], start[inside], end[inside]
    order = np.argsort(strip, kind="stable")
    edge, strip, start, end = edge[order], strip[order], start[order], end[order]
    whole = edges.take(edge)
    step_x, step_y = whole.x1 - whole.x0, whole.y1 - whole.y0
    # An end that was not cut keeps its coordinates, and a cut is exactly at the border: rings stay closed.
    top, bottom, down = strip * float(rows), (strip + 1) * float(rows), step_y >= 0
    part = Edges(
        x0=np.where(start > 0, whole.x0 + start * step_x, whole.x0),
        y0=np.where(start > 0, np.where(down, top, bottom), whole.y0),
        x1=np.where(end < 1, whole.x0 + end * step_x, whole.x1),
        y1=np.where(end < 1, np.where(down, bottom, top), whole.y1),
        owner=whole.owner,
        length_m=None if whole.length_m is None else whole.length_m * (end - start),
    )
    return part, np.searchsorted(strip, np.arange(strips + 1))


def in_pixels(edges: Edges, height: int, width: int) -> Pieces:
    """Cut edges at the lines between pixels. Pieces above or below the rows are left out.

    Args:
        edges: the edges; rows are counted from the first row of a strip.
        height: number of rows of the strip; the last strip of a raster may have fewer than the others.
        width: number of columns of the raster.
    """
    edge, row, start, end = _cut(edges.y0, edges.y1)
    inside = (row >= 0) & (row < height)
    edge, row, start, end = edge[inside], row[inside], start[inside], end[inside]
    step_x = (edges.x1 - edges.x0)[edge]
    xa, xb = edges.x0[edge] + start * step_x, edges.x0[edge] + end * step_x
    left, right = np.minimum(xa, xb), np.maximum(xa, xb)
    # All that is left or right of the raster is one piece.
    first = np.floor(np.clip(left, -1, width))
    count = np.maximum(np.ceil(np.clip(right, 0, width + 1)) - first, 1).astype(np.int64)
    part, number = _repeated(count)
    col, left, right = first[part] + number, left[part], right[part]
    low = np.where(col < 0, left, np.maximum(col, left))
    high = np.where(col >= width, right, np.minimum(col + 1, right))
    run = right - left
    share = np.divide(high - low, run, out=np.ones_like(run), where=run > 0)
    return Pieces(
        edge=edge[part],
        row=row[part],
        col=col.astype(np.int64),
        share=share * (end - start)[part],
        along=np.clip((low + high) / 2 - col, 0, 1),
    )


def count_pieces(edges: Edges) -> Ints:
    """Return the largest number of pieces of each edge, int64 (n,), if the edge is inside of the raster."""
    across, down = np.abs(edges.x1 - edges.x0), np.abs(edges.y1 - edges.y0)
    return (across + down).astype(np.int64) + 3


def _cut(begin: Floats, finish: Floats) -> tuple[Ints, Ints, Floats, Floats]:
    """Cut numbered intervals at whole numbers.

    Args:
        begin: float64 (n,), start of each interval.
        finish: float64 (n,), end of each interval, perhaps below the start.

    Returns:
        For each piece: the index of the interval; the whole number below it; and the start and the end of the piece as
        shares of the interval, 0 to 1. The pieces of an interval are in ascending order of the whole number.
    """
    low, high = np.minimum(begin, finish), np.maximum(begin, finish)
    first = np.floor(low)
    edge, number = _repeated(np.maximum(np.ceil(high) - first, 1).astype(np.int64))
    cell = first[edge] + number
    run = (high - low)[edge]
    near = np.divide(np.maximum(cell, low[edge]) - low[edge], run, out=np.zeros_like(run), where=run > 0)
    far = np.divide(np.minimum(cell + 1, high[edge]) - low[edge], run, out=np.ones_like(run), where=run > 0)
    down = (begin <= finish)[edge]
    return edge, cell.astype(np.int64), np.where(down, near, 1 - far), np.where(down, far, 1 - near)


def _repeated(count: Ints) -> tuple[Ints, Ints]:
    """Return, for counts (n,), the index of each of the counted things, and its number from 0, both int64 (sum,)."""
    index = np.repeat(np.arange(len(count)), count)
    return index, np.arange(len(index)) - np.repeat(np.cumsum(count) - count, count)
