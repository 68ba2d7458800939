"""Outlines of a changed scene from stored rings and new edges in the changed blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from floodmap.correction.outlines.areas import NotLocalError
from floodmap.correction.outlines.cells import CELL
from floodmap.correction.outlines.chains import Chains, Rings, left_pixels, with_points
from floodmap.correction.outlines.joining import Joined, Links, chain_links, joined, kinds_around, new_edges
from floodmap.correction.outlines.network import Network
from floodmap.correction.outlines.stored import Outlines
from floodmap.geo.window import Window

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spliced:
    """Rings of all n components of the changed scene, in the order of `Outlines`, before they are simplified."""

    x: NDArray[np.int32]
    """Column of each vertex, int32 (vertices,)."""
    y: NDArray[np.int32]
    """Row of each vertex, int32 (vertices,)."""
    origin: NDArray[np.int32]
    """Stored vertex of each vertex, or -1, int32 (vertices,)."""
    ring_ends: Ints
    """See `Outlines`."""
    ring_owner: Ints
    """Component of each ring, int64 (rings,)."""
    is_new: Bools
    """True for rings that were joined anew, bool (rings,)."""
    same_as: Ints
    """Stored component that has the same rings, or -1, int64 (n,)."""
    sources: Ints
    """Pairs (component, stored component) of components that share pieces of outlines, int64 (pairs, 2)."""


class Cutting:
    """What can be found about the stored outlines before the new codes are known.

    Args:
        stored: the outlines.
        inner: the changed blocks, see `areas.blocks`.
    """

    def __init__(self, stored: Outlines, inner: Sequence[Window]) -> None:
        self.stored, self.inner = stored, inner
        self.stride = stored.rules.shape_hw[1] + 1
        self.rings = Rings(stored)
        self.cuts = self.rings.cuts(inner)
        self._pinches = self.rings.pinches(self._touched(), stored.kind, self.stride)
        first = self.rings.edges(self.rings.begins)
        self._pixels = left_pixels(*first[:3])
        """Row and column of a pixel beside the first edge of each ring, two arrays int64 (rings,)."""
        self._has_cut = self._cut_vertices()

    def _touched(self) -> Bools:
        """Return True for components of which a node may be inside or beside a block, bool (components,)."""
        rows, cols = np.divmod(self.stored.node_first, self.stride)
        near = np.zeros(len(rows), bool)
        for block in self.inner:
            near |= _in_cells(rows, cols, block)
        touched = np.zeros(len(self.stored.first), bool)
        touched[self.stored.node_owner[near]] = True
        return touched

    def _cut_vertices(self) -> Ints:
        """Return the vertices of pinches of which an edge is cut beside the vertex, in ascending order."""
        cuts = self.cuts
        length = self.rings.edges(cuts.edge)[3]
        ends = cuts.edge[cuts.end == length]
        ring = self.rings.ring_of(ends)
        begins = self.rings.begins[ring]
        after = begins + (ends - begins + 1) % self.rings.sizes[ring] if len(ends) else ends
        return np.unique(np.concatenate([cuts.edge[cuts.begin == 0], after]))

    def splice(self, network: Network) -> Spliced:
        """Return the outlines of the changed scene.

        Args:
            network: the components of the changed scene.

        Raises:
            NotLocalError: pixels outside the blocks have changed, too.
        """
        cuts = with_points(self.cuts, self._changed_pinches(network))
        chains, is_cut = self.rings.chains(cuts)
        links = self._links(network, chains)
        new = joined(
            links, (self.rings.begins, self.rings.sizes), (self.stored.x, self.stored.y), self.stride,
            noded=self.stored.rules.simplify_m > 0,
        )  # fmt: skip
        whole = np.flatnonzero(~is_cut)
        rows, cols = (values[whole] for values in self._pixels)
        owner = network.owners(rows, cols, self.stored.ring_owner[whole])
        return self._assembled(network, whole, owner, new)

    def _changed_pinches(self, network: Network) -> Ints:
        """Return the vertices at which two pixels touch only diagonally, and of which only now, or no longer, both are
        of one component.

        At such a vertex, outlines are joined in another way, although no pixel around it has changed.
        """
        one, other = self._pinches
        free, other_free = (~np.isin(vertices, self._has_cut) & ~self._inside(vertices) for vertices in (one, other))
        used = free | other_free
        one, other, free, other_free = one[used], other[used], free[used], other_free[used]
        old = [self.stored.ring_owner[self.rings.ring_of(vertices)] for vertices in (one, other)]
        new = [
            network.owners(*left_pixels(*self.rings.edges(vertices)[:3]), owner)
            for vertices, owner in zip((one, other), old, strict=True)
        ]
        changed = (old[0] == old[1]) != (new[0] == new[1])
        return np.unique(np.concatenate([one[changed & free], other[changed & other_free]]))

    def _inside(self, vertices: Ints) -> Bools:
        """Return True for vertices with an edge that begins inside a block."""
        return np.isin(vertices, self.cuts.edge[self.cuts.begin == 0])

    def _links(self, network: Network, chains: Chains) -> Links:
        blocks = [(window, kinds_around(network, window)) for window in self.inner]
        old = self.stored.ring_owner[chains.ring]
        return Links.joined(
            [chain_links(network, chains, old, blocks), *(new_edges(network, *block) for block in blocks)]
        )

    def _assembled(self, network: Network, whole: Ints, whole_owner: Ints, new: Joined) -> Spliced:
        """Put whole stored rings and new rings in order."""
        rings, n_components = self.rings, len(network.columns["first"])
        new_ends = np.cumsum(new.sizes)
        new_begins = new_ends - new.sizes
        firsts = [
            ys.astype(np.int64) * self.stride + xs
            for xs, ys in (
                (rings.x[rings.begins[whole]], rings.y[rings.begins[whole]]),
                (new.x[new_begins], new.y[new_begins]),
            )
        ]
        owner, first = np.concatenate([whole_owner, new.owner]), np.concatenate(firsts)
        order = np.lexsort((first, owner))
        owner, is_new = owner[order], order >= len(whole)
        begins = np.concatenate([rings.begins[whole], new_begins])[order]
        ends = np.concatenate([rings.ends[whole], new_ends])[order]
        shells = np.flatnonzero(np.diff(owner, prepend=-1))
        if len(shells) != n_components or (first[order][shells] != network.columns["first"]).any():
            raise NotLocalError
        pieces = _pieces(begins, ends, is_new)
        x, y = (_gathered(pieces, stored, fresh) for stored, fresh in ((rings.x, new.x), (rings.y, new.y)))
        numbers = np.arange(len(rings.x), dtype=np.int32)
        origin = _gathered(pieces, numbers, new.origin.astype(np.int32))
        old = self.stored.ring_owner[whole].astype(np.int64)
        pairs = np.concatenate(
            [
                np.stack([whole_owner, old], axis=1),
                np.stack([new.sources[:, 0], self.stored.ring_owner[new.sources[:, 1]]], axis=1),
            ]
        )
        pairs = np.unique(pairs, axis=0) if len(pairs) else pairs.reshape(0, 2)
        return Spliced(
            x=x, y=y, origin=origin, ring_ends=np.cumsum(ends - begins), ring_owner=owner, is_new=is_new,
            same_as=self._same(pairs, owner, is_new, n_components), sources=pairs,
        )  # fmt: skip

    def _same(self, pairs: Ints, owner: Ints, is_new: Bools, n_components: int) -> Ints:
        """Return for each component the stored component that has the same rings, or -1, int64 (n,)."""
        n_sources = np.bincount(pairs[:, 0], minlength=n_components)
        same = np.full(n_components, -1)
        same[pairs[:, 0]] = pairs[:, 1]
        n_rings = np.bincount(owner, minlength=n_components)
        n_new = np.bincount(owner[is_new], minlength=n_components)
        old_rings = np.bincount(self.stored.ring_owner, minlength=len(self.stored.first))
        is_same = (n_sources == 1) & (n_new == 0)
        is_same[is_same] = old_rings[same[is_same]] == n_rings[is_same]
        return np.where(is_same, same, -1)


def _in_cells(rows: Ints, cols: Ints, block: Window) -> Bools:
    """Return True for nodes, given by their first pixels, whose cell has pixels in the block or beside it."""
    low_row, low_col = ((start - 1) // CELL * CELL for start in (block.row_off, block.col_off))
    high_row, high_col = ((end // CELL + 1) * CELL for end in (block.row_end, block.col_end))
    return np.asarray((rows >= low_row) & (rows < high_row) & (cols >= low_col) & (cols < high_col))


def _pieces(begins: Ints, ends: Ints, is_new: Bools) -> list[tuple[int, int, bool]]:
    """Join ranges that follow each other: (begin, end, True for ranges of new rings)."""
    if not len(begins):
        return []
    breaks = np.flatnonzero((is_new[1:] != is_new[:-1]) | (begins[1:] != ends[:-1]))
    low, high = begins[np.append(0, breaks + 1)], ends[np.append(breaks, len(ends) - 1)]
    return list(zip(low.tolist(), high.tolist(), is_new[np.append(0, breaks + 1)].tolist(), strict=True))


def _gathered(
    pieces: Sequence[tuple[int, int, bool]], stored: NDArray[np.int32], fresh: NDArray[np.int32]
) -> NDArray[np.int32]:
    parts = [(fresh if is_new else stored)[begin:end] for begin, end, is_new in pieces]
    return np.concatenate(parts) if parts else np.empty(0, np.int32)
