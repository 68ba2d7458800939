"""Connected components of a scene as a graph of small pieces, from which components are found without the pixels.

The scene is divided into square cells. A node is a 4-connected component of pixels of one kind inside one cell. A
contact joins two nodes of the same kind that touch across the border of two cells. The components of the scene are the
connected components of this graph. After a change, only the nodes in the changed cells are found again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

CELL = 256
"""Side of a cell in pixels."""

Codes = NDArray[np.uint8]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """Table of n nodes, in ascending order of `first`. All arrays are (n,)."""

    first: Ints
    """Smallest index of a pixel of the node in the scene: row * (width + 1) + column. It identifies the node."""
    kind: Codes
    """Kind of the pixels; see `tracing.Components`."""
    n_pixels: Ints
    """Number of pixels."""
    code_sum: Ints
    """Sum of the codes of the pixels."""
    code_min: Codes
    """Smallest code of the pixels."""

    def __len__(self) -> int:
        return len(self.first)

    def subset(self, index: NDArray[np.integer] | Bools) -> Nodes:
        """Return some of the nodes."""
        return Nodes(**{name: getattr(self, name)[index] for name in self.__slots__})

    @classmethod
    def joined(cls, tables: Sequence[Nodes]) -> Nodes:
        """Return the nodes of several tables, in the order of the tables."""
        return cls(**{name: np.concatenate([getattr(table, name) for table in tables]) for name in cls.__slots__})


NO_NODES = Nodes(
    first=np.empty(0, np.int64), kind=np.empty(0, np.uint8), n_pixels=np.empty(0, np.int64),
    code_sum=np.empty(0, np.int64), code_min=np.empty(0, np.uint8),
)  # fmt: skip


class Labels:
    """Nodes in a rectangle of whole cells, found from the codes of the pixels.

    Args:
        codes: codes of the rectangle, uint8 (height, width).
        kinds: kind of each code, uint8 (256,).
        row_off: first row of the rectangle in the scene; a multiple of `CELL`.
        col_off: first column of the rectangle in the scene; a multiple of `CELL`.
        stride: width of the scene plus 1.
    """

    def __init__(self, codes: Codes, kinds: Codes, row_off: int, col_off: int, stride: int) -> None:
        self.row_off, self.col_off = row_off, col_off
        self.height, self.width = codes.shape
        self._stride = self.width + 1
        # A padding column ends the runs of each row. A run: pixels of one kind side by side in a row of a cell.
        padded = np.zeros((self.height, self._stride), np.uint8)
        padded[:, :-1] = codes
        flat = padded.ravel()
        self.kinds = np.frombuffer(flat.tobytes().translate(kinds.tobytes()), np.uint8).copy()
        self.kinds.reshape(padded.shape)[:, -1] = 0
        begins = np.empty(len(flat), bool)
        begins[0] = True
        np.not_equal(self.kinds[1:], self.kinds[:-1], out=begins[1:])
        begins.reshape(padded.shape)[:, ::CELL] = True
        change = np.flatnonzero(begins)
        traced = np.flatnonzero(self.kinds[change])
        self._starts, ends = change[traced], np.append(change, len(flat))[traced + 1]
        self._connect(ends)
        self._count(flat, ends, stride)

    def _connect(self, ends: Ints) -> None:
        """Set `_node`, the node of each run, int64 (runs,), and `contacts`, pairs of nodes, int64 (contacts, 2)."""
        starts, stride, kinds = self._starts, self._stride, self.kinds
        up = np.flatnonzero((starts >= stride) & (kinds[starts - stride] == kinds[starts]))
        inner = starts[: np.searchsorted(starts, len(kinds) - stride)]
        down = np.flatnonzero(kinds[inner + stride] == kinds[inner])
        upper = np.concatenate([self._runs(starts[up] - stride), down])
        lower = np.concatenate([up, self._runs(starts[down] + stride)])
        across = starts[lower] // stride % CELL == 0
        pairs = (np.ones(int((~across).sum()), np.uint8), (upper[~across], lower[~across]))
        graph = coo_array(pairs, shape=(len(starts), len(starts)))
        label = connected_components(graph, directed=False)[1] if len(starts) else np.empty(0, np.int64)
        # Nodes are numbered in the order of their first pixels.
        _, self._first_run, inverse = np.unique(label, return_index=True, return_inverse=True)
        order = np.argsort(self._first_run)
        number = np.empty(len(order), np.int64)
        number[order] = np.arange(len(order))
        self._node, self._first_run = number[inverse], self._first_run[order]
        beside = np.flatnonzero((ends[:-1] == starts[1:]) & (kinds[starts[:-1]] == kinds[starts[1:]]))
        one = np.concatenate([self._node[upper[across]], self._node[beside]])
        other = np.concatenate([self._node[lower[across]], self._node[beside + 1]])
        self.contacts = unique_pairs(one, other)

    def _count(self, codes: Codes, ends: Ints, stride: int) -> None:
        starts, n_nodes = self._starts, len(self._first_run)
        if not n_nodes:
            self.nodes = NO_NODES
            return
        cuts = np.stack([starts, ends], axis=1).ravel()
        sums = np.add.reduceat(codes, cuts, dtype=np.uint32)[::2]
        smallest = np.full(n_nodes, 255, np.uint8)
        np.minimum.at(smallest, self._node, np.minimum.reduceat(codes, cuts)[::2])
        row, col = np.divmod(starts[self._first_run], self._stride)
        self.nodes = Nodes(
            first=(row + self.row_off) * stride + col + self.col_off,
            kind=self.kinds[starts[self._first_run]],
            n_pixels=np.bincount(self._node, ends - starts, n_nodes).astype(np.int64),
            code_sum=np.bincount(self._node, sums, n_nodes).astype(np.int64),
            code_min=smallest,
        )

    def _runs(self, pixels: Ints) -> Ints:
        return np.searchsorted(self._starts, pixels, "right") - 1

    def holds(self, rows: Ints, cols: Ints) -> Bools:
        """Return True for pixels inside the rectangle, bool (n,). `rows` and `cols` count in the scene, int64 (n,)."""
        rows, cols = rows - self.row_off, cols - self.col_off
        return np.asarray((rows >= 0) & (rows < self.height) & (cols >= 0) & (cols < self.width))

    def at(self, rows: Ints, cols: Ints) -> Ints:
        """Return the nodes of pixels inside the rectangle whose kind is not 0, int64 (n,); see `holds`."""
        return np.asarray(self._node[self._runs((rows - self.row_off) * self._stride + cols - self.col_off)])

    def row(self, number: int) -> tuple[Codes, Ints]:
        """Return kinds, uint8 (width,), and nodes, int64 (width,), of a row.

        Nodes are not valid where the kind is 0.
        """
        pixels = number * self._stride + np.arange(self.width)
        return self.kinds[pixels], self._node[self._runs(pixels)] if len(self._node) else pixels


def unique_pairs(one: Ints, other: Ints) -> Ints:
    """Return the distinct pairs (one, other), int64 (pairs, 2), in ascending order."""
    if not len(one):
        return np.empty((0, 2), np.int64)
    low, high = np.minimum(one, other), np.maximum(one, other)
    span = int(high.max()) + 1
    return np.stack(np.divmod(np.unique(low * span + high), span), axis=1)


def components_of(nodes: Nodes, contacts: Ints) -> tuple[Ints, dict[str, NDArray[Any]]]:
    """Find the components of a scene from all its nodes.

    Args:
        nodes: all nodes, in any order.
        contacts: pairs of indices in `nodes`, int64 (contacts, 2).

    Returns:
        The component of each node, int64 (nodes,), and the columns of `tracing.Components` without the outline, each
        (components,). Components are in ascending order of `first`.
    """
    n_nodes = len(nodes)
    if not n_nodes:
        empty = np.empty(0, np.int64)
        return empty, {**dict.fromkeys(("first", "n_pixels", "code_sum", "code_min"), empty), "kind": nodes.kind}
    graph = coo_array((np.ones(len(contacts), np.uint8), contacts.T), shape=(n_nodes, n_nodes))
    n_components, label = connected_components(graph, directed=False)
    first = np.full(n_components, np.iinfo(np.int64).max)
    np.minimum.at(first, label, nodes.first)
    order = np.argsort(first)
    number = np.empty(n_components, np.int64)
    number[order] = np.arange(n_components)
    owner = number[label]
    smallest, kind = np.full(n_components, 255, np.int64), np.zeros(n_components, np.uint8)
    np.minimum.at(smallest, owner, nodes.code_min)
    kind[owner] = nodes.kind
    return owner, {
        "kind": kind,
        "first": first[order],
        "n_pixels": np.bincount(owner, nodes.n_pixels, n_components).astype(np.int64),
        "code_sum": np.bincount(owner, nodes.code_sum, n_components).astype(np.int64),
        "code_min": smallest,
    }
