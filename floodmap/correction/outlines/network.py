"""Components of a changed scene, from the stored nodes of unchanged cells and the new nodes of changed cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from floodmap.correction.outlines.areas import NotLocalError
from floodmap.correction.outlines.cells import CELL, Labels, Nodes, components_of
from floodmap.correction.outlines.stored import Outlines
from floodmap.geo.window import Window

Ints = NDArray[np.int64]
Read = Callable[[Window], NDArray[np.uint8]]
"""Function that returns the new codes of a window of the scene, uint8 (height, width)."""

_GONE, _SEVERAL = -1, -2


class Network:
    """Components of a scene after a change.

    Args:
        stored: the outlines before the change.
        around: rectangles of whole cells (`areas.surroundings`). In the outermost cells of each, no pixel has changed.
        read: returns the new codes.

    Raises:
        NotLocalError: pixels outside the changed boxes have changed, too.
    """

    def __init__(self, stored: Outlines, around: Sequence[Window], read: Read) -> None:
        self._stored, self._read = stored, read
        self._kinds = np.array(stored.rules.kinds, np.uint8)
        self.stride = stored.rules.shape_hw[1] + 1
        self.labels = [self._labels(window, read(window)) for window in around]
        old = stored.nodes
        rows, cols = np.divmod(old.first, self.stride)
        inside = np.zeros(len(old), bool)
        for labels in self.labels:
            inside |= labels.holds(rows, cols)
        self.nodes = Nodes.joined([old.subset(~inside), *(labels.nodes for labels in self.labels)])
        sizes = [int((~inside).sum()), *(len(labels.nodes) for labels in self.labels)]
        self._bases = np.cumsum(sizes)[:-1]
        contacts = [labels.contacts + base for labels, base in zip(self.labels, self._bases, strict=True)]
        self.contacts = np.concatenate([self._outer_contacts(inside, sizes[0]), *contacts])
        self.owner, self.columns = components_of(self.nodes, self.contacts)
        """Component of each node, int64 (nodes,); columns of the components, see `tracing.Components`."""
        self._find_heirs(inside)

    def _labels(self, window: Window, codes: NDArray[np.uint8]) -> Labels:
        return Labels(codes, self._kinds, window.row_off, window.col_off, self.stride)

    def _outer_contacts(self, inside: NDArray[np.bool_], n_outside: int) -> Ints:
        """Return the stored contacts of which at least one node is outside all rectangles, as indices in `nodes`."""
        number = np.cumsum(~inside) - 1
        contacts = self._stored.contacts[~inside[self._stored.contacts].all(axis=1)]
        changed = np.unique(contacts[inside[contacts]])
        by_first = np.argsort(self.nodes.first[n_outside:]) + n_outside
        firsts = self.nodes.first[by_first]
        place = np.minimum(np.searchsorted(firsts, self._stored.node_first[changed]), max(len(firsts) - 1, 0))
        if len(changed) and not (len(firsts) and (firsts[place] == self._stored.node_first[changed]).all()):
            raise NotLocalError
        number[changed] = by_first[place] if len(changed) else 0
        return np.asarray(number[contacts], np.int64)

    def _find_heirs(self, inside: NDArray[np.bool_]) -> None:
        """Set `_heir`: for each old component, the new component of its nodes outside all rectangles."""
        self._old_owner = self._stored.node_owner[~inside]
        new = self.owner[: len(self._old_owner)]
        n_old = len(self._stored.first)
        low, high = np.full(n_old, len(self.columns["first"])), np.full(n_old, _GONE)
        np.minimum.at(low, self._old_owner, new)
        np.maximum.at(high, self._old_owner, new)
        self._heir = np.where(high == _GONE, _GONE, np.where(low == high, high, _SEVERAL))

    def owners(self, rows: Ints, cols: Ints, old: NDArray[np.integer]) -> Ints:
        """Return the new components of pixels that have not changed, int64 (n,).

        Args:
            rows: row of each pixel, int64 (n,).
            cols: column of each pixel, int64 (n,).
            old: the component of each pixel before the change, (n,).

        Raises:
            NotLocalError: see the class.
        """
        found = self._heir[old]
        for labels, base in zip(self.labels, self._bases, strict=True):
            here = np.flatnonzero(labels.holds(rows, cols))
            if len(here):
                found[here] = self.owner[base + labels.at(rows[here], cols[here])]
        several = np.flatnonzero(found == _SEVERAL)
        if len(several):
            found[several] = self._of_divided(rows[several], cols[several], np.asarray(old[several], np.int64))
        if (found < 0).any():
            raise NotLocalError
        return np.asarray(found, np.int64)

    def _of_divided(self, rows: Ints, cols: Ints, old: Ints) -> Ints:
        """Find the new components of pixels whose old component has been divided, int64 (n,)."""
        per_row = -(-self.stride // CELL)
        node_rows, node_cols = np.divmod(self.nodes.first[: len(self._old_owner)], self.stride)
        key = self._old_owner * 2**32 + node_rows // CELL * per_row + node_cols // CELL
        order = np.argsort(key)
        wanted = old * 2**32 + rows // CELL * per_row + cols // CELL
        low, high = (np.searchsorted(key[order], wanted, side) for side in ("left", "right"))
        found = np.full(len(wanted), _GONE)
        some = np.flatnonzero(high > low)
        new = np.append(self.owner[: len(self._old_owner)][order], 0)
        cuts = np.stack([low[some], high[some]], axis=1).ravel()
        least, most = (
            function.reduceat(new, cuts)[::2] if len(cuts) else cuts for function in (np.minimum, np.maximum)
        )
        found[some] = np.where(least == most, least, _SEVERAL)
        for cell in np.unique(wanted[found == _SEVERAL] % 2**32).tolist():
            here = np.flatnonzero((found == _SEVERAL) & (wanted % 2**32 == cell))
            cell_row, cell_col = divmod(cell, per_row)
            found[here] = self._of_cell(cell_row, cell_col, rows[here], cols[here])
        return found

    def _of_cell(self, cell_row: int, cell_col: int, rows: Ints, cols: Ints) -> Ints:
        """Find the new components of pixels in a cell from the codes of the cell, int64 (n,)."""
        top, left = cell_row * CELL, cell_col * CELL
        height, width = (
            min(CELL, size - off) for size, off in zip(self._stored.rules.shape_hw, (top, left), strict=True)
        )
        labels = self._labels(Window(top, left, height, width), self._read(Window(top, left, height, width)))
        first = labels.nodes.first[labels.at(rows, cols)]
        outside = self.nodes.first[: len(self._old_owner)]
        place = np.minimum(np.searchsorted(outside, first), len(outside) - 1)
        if not (outside[place] == first).all():
            raise NotLocalError
        return self.owner[place]

    def owners_inside(self, rows: Ints, cols: Ints) -> Ints:
        """Return the new components of traced pixels inside the rectangles of changed cells, int64 (n,)."""
        found = np.full(len(rows), _GONE)
        for labels, base in zip(self.labels, self._bases, strict=True):
            here = np.flatnonzero(labels.holds(rows, cols))
            found[here] = self.owner[base + labels.at(rows[here], cols[here])]
        return found
