"""Distance of each place in a frame from the frame's edge of observed pixels, on a coarse grid of cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from floodmap.strips.codes import FIRST_REASON

CELL = 16
"""Largest side of a cell, in pixels. A map with one value a pixel would need ten times the memory of the codes."""

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]


def cell_edges(length: int) -> NDArray[np.int64]:
    """Return the edges of evenly spread cells of at most `CELL` pixels along an axis of `length` pixels.

    Returns:
        int64 (cells + 1,), from 0 to `length`.
    """
    count = -(-length // CELL)
    return np.round(np.arange(count + 1) * (length / count)).astype(np.int64)


class Completeness:
    """Record of the cells of a frame in which all pixels are observed, built from blocks of rows.

    Args:
        shape_hw: height and width of the frame, in pixels.
    """

    def __init__(self, shape_hw: tuple[int, int]) -> None:
        self._edges = cell_edges(shape_hw[0]), cell_edges(shape_hw[1])
        self._shape_hw = shape_hw
        self._complete = np.ones([len(edges) - 1 for edges in self._edges], bool)

    def add(self, row: int, codes: NDArray[np.uint8]) -> None:
        """Add a block of rows.

        Args:
            row: first row of the block in the frame.
            codes: uint8 (rows, width).
        """
        rows, cols = self._edges
        missing = np.logical_or.reduceat(codes >= FIRST_REASON, cols[:-1], axis=1)
        cells = np.searchsorted(rows, np.arange(row, row + len(codes)), side="right") - 1
        np.logical_and.at(self._complete, cells, ~missing)

    def distances(self) -> Floats:
        """Return the distance from the nearest edge of the frame, or from the nearest cell that is not complete.

        Returns:
            float32 (cells + 2, cells + 2), in pixels, at the centres of the cells. The first and the last row and
            column are cells beyond the edges of the frame. The values are negative there, so that values interpolated
            between the cells are 0 at the edges of the frame.
        """
        sides = [length / count for length, count in zip(self._shape_hw, self._complete.shape, strict=True)]
        inside = np.pad(self._complete, 1)
        distance = distance_transform_edt(inside, sampling=sides) - min(sides) / 2
        return np.asarray(distance, np.float32)
