"""New edges inside the changed blocks, and their joining with the rests of stored rings to closed rings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from floodmap.correction.outlines.areas import NotLocalError
from floodmap.correction.outlines.chains import EAST, NORTH, SOUTH, STEP_XY, WEST, Chains, left_pixels, right_pixels
from floodmap.correction.outlines.network import Network
from floodmap.correction.outlines.stored import ranges
from floodmap.geo.window import Window
from floodmap.output.rings import cycles

Ints = NDArray[np.int64]
Kinds = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Links:
    """Pieces of outlines to be joined: edges one pixel long, and chains of edges. All arrays are (n,)."""

    start: Ints
    """Index of the corner at which the piece begins: row * (width + 1) + column."""
    end: Ints
    """Index of the corner at which the piece ends."""
    start_heading: Ints
    """Heading of the first edge."""
    end_heading: Ints
    """Heading of the last edge."""
    start_beyond: Kinds
    """Kind of the pixel on the right of the first edge."""
    end_beyond: Kinds
    """Kind of the pixel on the right of the last edge."""
    owner: Ints
    """New component of the piece."""
    start_vertex: Ints
    """Stored vertex at the start corner, or -1."""
    vertex: Ints
    """First stored vertex between start and end."""
    n_vertices: Ints
    """Number of stored vertices between start and end."""
    ring: Ints
    """Stored ring of the piece; -1 for new edges."""

    @classmethod
    def joined(cls, parts: Sequence[Links]) -> Links:
        """Return the pieces of several tables."""
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class Joined:
    """New rings. Each begins at its vertex of smallest index (row * (width + 1) + column)."""

    x: NDArray[np.int32]
    """Column of each vertex, int32 (vertices,), ring by ring."""
    y: NDArray[np.int32]
    """Row of each vertex, int32 (vertices,)."""
    origin: Ints
    """Stored vertex of each vertex, or -1, int64 (vertices,)."""
    sizes: Ints
    """Number of vertices of each ring, int64 (rings,)."""
    owner: Ints
    """Component of each ring, int64 (rings,)."""
    sources: Ints
    """Pairs (new component, stored ring) of all chains, int64 (pairs, 2)."""


def kinds_around(network: Network, window: Window) -> Kinds:
    """Return the kinds of a block and of the pixels around it, uint8 (height + 2, width + 2); 0 outside the scene."""
    labels = next(
        labels for labels in network.labels
        if labels.holds(np.array([window.row_off]), np.array([window.col_off])).all()
    )  # fmt: skip
    whole = labels.kinds.reshape(labels.height, -1)
    padded = np.zeros((window.height + 2, window.width + 2), np.uint8)
    top, left = window.row_off - 1 - labels.row_off, window.col_off - 1 - labels.col_off
    low_row, low_col = max(-top, 0), max(-left, 0)
    high_row, high_col = min(labels.height - top, len(padded)), min(labels.width - left, padded.shape[1])
    padded[low_row:high_row, low_col:high_col] = whole[top + low_row : top + high_row, left + low_col : left + high_col]
    return padded


def new_edges(network: Network, window: Window, kinds: Kinds) -> Links:
    """Return the edges one pixel long of which the pixel on the left is inside a block.

    Args:
        network: the new components.
        window: the block.
        kinds: see `kinds_around`.
    """
    inner = kinds[1:-1, 1:-1]
    beside = {EAST: kinds[2:, 1:-1], SOUTH: kinds[1:-1, :-2], WEST: kinds[:-2, 1:-1], NORTH: kinds[1:-1, 2:]}
    # First corner of an edge, relative to the upper left corner of the pixel on its left.
    corner_xy = {EAST: (0, 1), SOUTH: (0, 0), WEST: (1, 0), NORTH: (1, 1)}
    rows, cols, xs, ys, headings, beyonds = ([] for _ in range(6))
    for towards, others in beside.items():
        row, col = np.nonzero((inner != others) & (inner != 0))
        beyonds.append(others[row, col])
        row, col = row + window.row_off, col + window.col_off
        rows.append(row)
        cols.append(col)
        xs.append(col + corner_xy[towards][0])
        ys.append(row + corner_xy[towards][1])
        headings.append(np.full(len(row), towards))
    x, y, heading, beyond = (np.concatenate(parts) for parts in (xs, ys, headings, beyonds))
    owner = network.owners_inside(np.concatenate(rows), np.concatenate(cols))
    start = y * network.stride + x
    none = np.full(len(x), -1)
    return Links(
        start=start, end=start + STEP_XY[heading, 1] * network.stride + STEP_XY[heading, 0],
        start_heading=heading, end_heading=heading, start_beyond=beyond, end_beyond=beyond, owner=owner,
        start_vertex=none, vertex=none, n_vertices=np.zeros(len(x), np.int64), ring=none,
    )  # fmt: skip


def chain_links(
    network: Network, chains: Chains, old: NDArray[np.integer], blocks: Sequence[tuple[Window, Kinds]]
) -> Links:
    """Return chains as pieces to be joined.

    Args:
        network: the new components.
        chains: the chains.
        old: stored component of each chain.
        blocks: the blocks, each with the kinds from `kinds_around`.
    """
    first = chains.start_xy
    last = chains.end_xy - STEP_XY[chains.end_heading]
    start_beyond, end_beyond = (
        _kinds_at(*right_pixels(xy[:, 0], xy[:, 1], heading), blocks)
        for xy, heading in ((first, chains.start_heading), (last, chains.end_heading))
    )
    rows, cols = left_pixels(first[:, 0], first[:, 1], chains.start_heading)
    start, end = (xy[:, 1] * network.stride + xy[:, 0] for xy in (first, chains.end_xy))
    return Links(
        start=start, end=end, start_heading=chains.start_heading, end_heading=chains.end_heading,
        start_beyond=start_beyond, end_beyond=end_beyond, owner=network.owners(rows, cols, old),
        start_vertex=chains.start_vertex, vertex=chains.vertex, n_vertices=chains.n_vertices, ring=chains.ring,
    )  # fmt: skip


def _kinds_at(rows: Ints, cols: Ints, blocks: Sequence[tuple[Window, Kinds]]) -> Kinds:
    """Return the kinds of pixels in or beside blocks; 0 for others, which are beside corners where outlines turn."""
    found = np.zeros(len(rows), np.uint8)
    for window, kinds in blocks:
        row, col = rows - window.row_off + 1, cols - window.col_off + 1
        here = (row >= 0) & (col >= 0) & (row < kinds.shape[0]) & (col < kinds.shape[1])
        found[here] = kinds[row[here], col[here]]
    return found


def joined(links: Links, rings: tuple[Ints, Ints], xy: tuple[NDArray[np.int32], NDArray[np.int32]], stride: int,
           noded: bool) -> Joined:  # fmt: skip
    """Join pieces to rings by the rule of `rings.rings_of_edges`.

    Args:
        links: the pieces.
        rings: first vertex and number of vertices of each stored ring.
        xy: columns and rows of the stored vertices.
        stride: width of the scene plus 1.
        noded: see `tracing.trace`.

    Raises:
        NotLocalError: pieces do not meet.
    """
    if not len(links.start):
        none = np.empty(0, np.int64)
        corners = np.empty(0, np.int32)
        return Joined(x=corners, y=corners, origin=none, sizes=none, owner=none, sources=np.empty((0, 2), np.int64))
    low, span = links.start.min(), np.ptp(links.start) + 1
    leaves = ((links.owner * span + links.start - low) << 2) + (links.start_heading + 3) % 4
    order = np.argsort(leaves, kind="stable")
    arrives = ((links.owner * span + links.end - low) << 2) + links.end_heading
    by_arrival = np.argsort(arrives[order], kind="stable")
    if (leaves[order] >> 2 != arrives[order][by_arrival] >> 2).any():
        raise NotLocalError
    along, sizes = cycles(by_arrival.astype(np.int32))
    before = order[by_arrival[along]]
    along = order[along]
    is_vertex = links.start_heading[along] != links.end_heading[before]
    if noded:
        is_vertex |= links.start_beyond[along] != links.end_beyond[before]
    # Pieces of vertices, in turn: the start corners, as indices after the stored vertices; and two parts of a chain,
    # because a chain may run over the last vertex of its ring to the first.
    n_stored = len(xy[0])
    ring, vertex, n_vertices = links.ring[along], links.vertex[along], links.n_vertices[along]
    ring_begin, ring_size = (np.where(ring >= 0, values[ring], 0) if len(values) else ring * 0 for values in rings)
    until_end = np.minimum(ring_begin + ring_size - vertex, n_vertices)
    begins = np.stack([n_stored + np.arange(len(along)), vertex, ring_begin], axis=1).ravel()
    counts = np.stack([is_vertex, until_end, n_vertices - until_end], axis=1)
    counts[n_vertices == 0, 1:] = 0
    index = ranges(begins, counts.ravel())
    new = index >= n_stored
    corner = along[index[new] - n_stored]
    x, y = np.empty((2, len(index)), np.int32)
    y[new], x[new] = np.divmod(links.start[corner], stride)
    x[~new], y[~new] = (stored[index[~new]] for stored in xy)
    index[new] = links.start_vertex[corner]
    firsts = np.cumsum(sizes) - sizes
    ring_sizes = np.add.reduceat(counts.sum(axis=1), firsts)
    owner = links.owner[along[firsts]]
    turned = _from_smallest(x, y, ring_sizes, stride)
    chain = links.ring >= 0
    sources = np.unique(np.stack([links.owner[chain], links.ring[chain]], axis=1), axis=0)
    return Joined(x=x[turned], y=y[turned], origin=index[turned], sizes=ring_sizes, owner=owner, sources=sources)


def _from_smallest(x: NDArray[np.int32], y: NDArray[np.int32], sizes: Ints, stride: int) -> Ints:
    """Return indices of vertices, ring by ring, so that each ring begins at its vertex of smallest index."""
    place = y.astype(np.int64) * stride + x
    begins = np.cumsum(sizes) - sizes
    smallest = np.repeat(np.minimum.reduceat(place, begins), sizes)
    at = np.flatnonzero(place == smallest)
    ring = np.searchsorted(begins, at, "right") - 1
    start = at[np.append(True, np.diff(ring) > 0)]
    parts = np.stack([start, begins], axis=1).ravel()
    counts = np.stack([begins + sizes - start, start - begins], axis=1).ravel()
    return ranges(parts, counts)
