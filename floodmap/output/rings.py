"""Outlines of connected components of pixels: edges of pixels are joined to closed rings, and rings to polygons."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, depth_first_order

Ints = NDArray[np.int64]
LINE = np.dtype([("first", np.int64), ("step", np.int32), ("beyond", np.uint8)])
"""Data type of a straight edge from one pixel corner to another. An edge takes only 13 bytes, because a large component
has millions of edges.

`first` is the index of the pixel corner at the beginning of the edge. The index is row * stride + column, and `stride`
is the number of pixel corners in a row. `step` is the index of the pixel corner at the end of the edge, minus `first`.
`beyond` is the kind (`tracing.Components.kind`) of the pixels on the other side of the edge, outside the component.
These pixels are on the right if one looks from the beginning of the edge to its end, with row 0 at the top.
"""
Lines = NDArray[np.void]


def grouped(lines: Lines, owner: Ints) -> Iterator[tuple[int, Lines]]:
    """Group edges by component.

    Args:
        lines: edges, (n,) of data type `LINE`.
        owner: number of the component of each edge, int64 (n,).

    Yields:
        For each component, in ascending order of the numbers: the number, and all edges of the component.
    """
    if len(owner):
        order = np.argsort(owner, kind="stable")
        owners, begins = np.unique(owner[order], return_index=True)
        yield from zip(owners.tolist(), np.split(lines[order], begins[1:]), strict=True)


def rings_of_edges(parts: list[tuple[Lines, Ints]], stride: int, noded: bool) -> tuple[NDArray[np.int32], Ints, Ints]:
    """Join the edges of each component to closed rings.

    If two pixels of a component touch only at a corner, the outline turns right at this corner. No ring then touches
    itself, so that the polygons are valid.

    Args:
        parts: list of pairs of arrays: edges, (n,) of data type `LINE`, and for each edge the number of the component
            to which the edge belongs, int64 (n,). The list is emptied to free memory.
        stride: number of pixel corners in a row.
        noded: True: keep a vertex inside a straight line if the value `beyond` of the edges changes at this vertex.

    Returns:
        Three values, the arguments of `assembled`: vertices (column, row), int32 (vertices, 2), ring by ring; number of
        vertices of each ring; and number of rings of each component.
    """
    lines, owner = (np.concatenate(column) for column in zip(*parts, strict=True))
    parts.clear()
    if len(lines) == 0:
        return np.empty((0, 2), np.int32), owner, owner
    east, south, west, north = np.arange(4, dtype=np.uint8)
    first, step, beyond = lines["first"], lines["step"], lines["beyond"]
    sideways = np.abs(step) < stride
    heading = np.where(sideways, np.where(step > 0, east, west), np.where(step > 0, south, north))
    low, span = first.min(), np.ptp(first) + 1
    order = np.argsort(((owner * span + first - low) << 2) + (heading + 3) % 4, kind="stable")
    first, step, beyond, owner, heading = (values[order] for values in (first, step, beyond, owner, heading))
    del lines, order
    arrives = ((owner * span + first + step - low) << 2) + heading
    before = np.argsort(arrives, kind="stable").astype(np.int32)
    del arrives, step

    along, sizes = cycles(before)
    begins = np.cumsum(sizes) - sizes
    # A ring begins at its vertex of smallest index, which is a corner. The shell has the smallest index of a component.
    rings_of = np.bincount(owner[along[begins]])
    previous = before[along]
    kept = heading[along] != heading[previous]
    if noded:
        kept |= beyond[along] != beyond[previous]
    vertices_yx = np.stack(np.divmod(first[along[kept]], stride), axis=1).astype(np.int32)
    return vertices_yx[:, ::-1], np.add.reduceat(kept, begins, dtype=np.int64), rings_of


def cycles(before: NDArray[np.int32]) -> tuple[Ints, Ints]:
    """Find the cycles of a permutation of edges: each cycle is a ring.

    Args:
        before: for each edge, the index of the preceding edge in the ring, int32 (n,).

    Returns:
        Two arrays. The first array has the indices of all edges, int64 (n,), ring by ring; each ring begins with the
        smallest index of the ring. The second array has the number of edges of each ring, int64 (rings,).
    """
    n_edges = len(before)
    every, ones = np.arange(n_edges + 1, dtype=np.int32), np.ones(n_edges, np.uint8)
    path = np.empty_like(before)
    path[before] = every[:-1]
    _, cycle = connected_components(csr_array((ones, path, every), shape=(n_edges, n_edges)), directed=False)
    _, heads, sizes = np.unique(cycle, return_index=True, return_counts=True)
    by_head = np.argsort(heads)
    heads, sizes = heads[by_head], sizes[by_head]
    # The cycles are opened at their heads and concatenated to one path, which scipy follows in compiled code.
    path[before[heads]] = np.append(heads[1:], heads[:1])
    graph = csr_array((ones, path, every), shape=(n_edges, n_edges))
    order = depth_first_order(graph, heads[0], directed=True, return_predecessors=False)
    return np.asarray(order, np.int64), sizes


def assembled(
    vertices_xy: NDArray[np.integer[Any] | np.floating[Any]], ring_sizes: Ints, rings_of: Ints
) -> NDArray[Any]:
    """Build polygons from rings. In the input the rings are open: the first vertex is not repeated at the end.

    Args:
        vertices_xy: vertices (x, y), (n, 2), ring by ring.
        ring_sizes: number of vertices of each ring.
        rings_of: number of rings of each polygon. The first ring of a polygon is the shell; the others are holes.

    Returns:
        shapely Polygons, object (polygons,).
    """
    ends = np.cumsum(ring_sizes)
    closing = ends + np.arange(len(ends))
    is_closing = np.zeros(len(vertices_xy) + len(ends), bool)
    is_closing[closing] = True
    closed = np.empty((len(is_closing), 2))
    closed[~is_closing], closed[closing] = vertices_xy, vertices_xy[ends - ring_sizes]
    ring_offsets, polygon_offsets = (np.concatenate([[0], n]) for n in (closing + 1, np.cumsum(rings_of)))
    polygons = shapely.from_ragged_array(shapely.GeometryType.POLYGON, closed, (ring_offsets, polygon_offsets))
    return np.asarray(polygons, object)
