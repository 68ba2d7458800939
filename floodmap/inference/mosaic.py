"""Mosaic of overlapping windows, blended into finished strips of codes, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from floodmap.geo.window import Window
from floodmap.inference.tiling import Grid
from floodmap.strips.codes import FAILED
from floodmap.strips.strip import Strip, block_rows, pack_blocks


@dataclass(frozen=True, slots=True)
class Sums:
    """Probabilities and reasons of a rectangle of scene pixels, accumulated over the windows added so far.

    The rectangle lies inside one row of windows.
    """

    percent: NDArray[np.float32]
    """Weighted sum of probabilities in per cent, float32 (rows, columns)."""
    reason: NDArray[np.uint8]
    """Code of the reason why a pixel is unobserved, 0 for observed pixels, uint8 (rows, columns)."""

    @classmethod
    def blank(cls, height: int, width: int) -> Sums:
        return cls(np.zeros((height, width), np.float32), np.zeros((height, width), np.uint8))

    def part(self, index: tuple[slice, slice]) -> Sums:
        return Sums(self.percent[index], self.reason[index])

    def copy(self) -> Sums:
        return Sums(self.percent.copy(), self.reason.copy())

    def add(self, other: Sums, index: tuple[slice, slice]) -> None:
        """Add other sums to the rectangle `index` (slices of rows and of columns) of these sums.

        The weighted percentages are summed. Of the two reasons of a pixel, the higher code is kept.
        """
        self.percent[index] += other.percent
        np.maximum(self.reason[index], other.reason, out=self.reason[index])

    def put(self, other: Sums, columns: slice) -> None:
        """Replace the values in the top rows of the given columns by the values of other sums.

        `other` has as many columns as the slice `columns`, and at most as many rows as these sums.
        """
        rows = other.reason.shape[0]
        self.percent[:rows, columns], self.reason[:rows, columns] = other.percent, other.reason

    def codes(self) -> NDArray[np.uint8]:
        """Return the codes of sums to which every overlapping window has been added, uint8 (rows, columns)."""
        # 1e-4 per cent are added, because the sum of the weights is one only up to rounding errors. Otherwise a
        # probability of 0.495 would become 49 in some pixels and 50 in others.
        codes = (self.percent + np.float32(0.5 + 1e-4)).astype(np.uint8)
        if self.reason.any():
            np.copyto(codes, self.reason, where=self.reason > 0)
        return codes


def _borders(weights: NDArray[np.float32]) -> tuple[slice, slice]:
    """Return the two slices of an axis of a window in which pixels must be multiplied by their blend weights.

    The first slice holds the pixels before the first pixel with a weight of 1. The second slice holds the pixels after
    the last pixel with a weight of 1. If no weight is 1, the first slice is the whole axis, and the second is empty.

    Args:
        weights: blend weights of the pixels along the axis, float32 (n,), where n is the window's height or width.
    """
    ones = np.flatnonzero(weights == 1)
    first, last = (int(ones[0]), int(ones[-1]) + 1) if len(ones) else (len(weights), len(weights))
    return slice(0, first), slice(last, len(weights))


class Mosaic:
    """Weighted mean of overlapping windows. Windows are added row by row, from left to right.

    Only pixels that later windows overlap are kept as floating-point numbers. These pixels lie in the last window that
    was added, and in the rows that the next row of windows overlaps. All other pixels are rounded to codes at once and
    compressed. Memory therefore grows little with the size of the scene.

    Args:
        grid: rows and columns of overlapping windows that cover the scene, with their blend weights.
        first_row: index of the row of windows to begin with. A strip is wrong if windows above this row overlap the
            strip, because these windows are missing. The caller must drop wrong strips (see `first_row_for`), or
            correct the first strip (see `joined`).
    """

    top: Sums
    """Sums of the scene rows that the first row of windows shares with the row above it, without the row above.
    Complete after the first strip."""

    def __init__(self, grid: Grid, first_row: int = 0) -> None:
        self.grid = grid
        self._row = self._first_row = first_row
        self.top = Sums.blank(grid.rows_from_above(first_row), grid.width)
        self._row_weights, self._col_weights = grid.row_weights(), grid.col_weights()
        strips = [end - first for first, end in map(grid.strip, range(len(grid.row_offsets)))]
        # Rows that overlap the next row of windows; each row of windows replaces them column by column.
        self._carry = Sums.blank(grid.shape_hw[0] - min(strips[:-1], default=grid.shape_hw[0]), grid.width)
        self._carried_rows = 0
        self._columns_done, self._right = 0, Sums.blank(0, 0)
        self._step = block_rows(grid.width)
        self._begin_row()

    @staticmethod
    def first_row_for(grid: Grid, strip: int) -> int:
        """Return the index of the first row of windows that overlaps a strip. `strip` is the index of the strip.

        There are as many strips as rows of windows. A strip is finished after the row of windows with the same index.
        To compute the strip, all rows of windows from the returned index up to the index `strip` are needed, including
        both.
        """
        top, height = grid.row_offsets[strip], grid.shape_hw[0]
        return next(i for i, offset in enumerate(grid.row_offsets) if offset + height > top)

    @property
    def bottom(self) -> Sums:
        """Sums of the scene rows that the last finished row of windows shares with the row of windows below it."""
        return self._carry.part(np.s_[: self._carried_rows, :])

    def add(self, window: Window, probability: NDArray[np.float32] | None, reason: NDArray[np.uint8]) -> Strip | None:
        """Add the next window to the weighted mean.

        Args:
            window: the next window in the order of the grid.
            probability: flood probability, float32 (height, width), 0 to 1. None if the window failed: the observed
                pixels of the window then get the code `FAILED`.
            reason: uint8 (height, width): code of the reason why a pixel is unobserved, 0 for observed pixels.

        Returns:
            The finished strip, with its codes compressed, if the window is the last in its row of windows; else None.
        """
        if self._columns_done == len(self.grid.col_offsets):
            self._begin_row()
        col = self._columns_done
        sums = self._weighted(col, probability, reason)
        sums.add(self._right, np.s_[:, : self._right.reason.shape[1]])
        self._columns_done += 1
        is_last = self._columns_done == len(self.grid.col_offsets)
        done = window.width if is_last else self.grid.col_offsets[col + 1] - window.col_off
        self._close(sums.part(np.s_[:, :done]), window.col_off)
        self._right = sums.part(np.s_[:, done:]).copy()  # not a view, which would keep the whole window
        return self._end_row() if is_last else None

    def _begin_row(self) -> None:
        first, end = self.grid.strip(self._row)
        height = self.grid.shape_hw[0]
        self._strip_height = end - first
        self._pieces: list[tuple[int, tuple[bytes, ...]]] = []
        self._right, self._columns_done = Sums.blank(height, 0), 0

    def _weighted(self, col: int, probability: NDArray[np.float32] | None, reason: NDArray[np.uint8]) -> Sums:
        if probability is None:
            return Sums(np.zeros(reason.shape, np.float32), np.where(reason == 0, np.uint8(FAILED), reason))
        weighted = np.multiply(probability, np.float32(100.0), dtype=np.float32)
        down, across = self._row_weights[self._row], self._col_weights[col]
        for rows in _borders(down):
            weighted[rows] *= down[rows, None]
        for cols in _borders(across):
            weighted[:, cols] *= across[cols]
        return Sums(weighted, reason.copy())

    def _close(self, sums: Sums, left: int) -> None:
        """Finish the columns of pixels that no further window of the current row of windows overlaps.

        The sums of the row of windows above are added. Rows that the next row of windows overlaps are kept as sums; all
        other rows are rounded to codes and compressed.

        Args:
            sums: sums of the finished columns, over the full height of the row of windows.
            left: first scene column of `sums`, in pixels.
        """
        columns = slice(left, left + sums.reason.shape[1])
        if self._row == self._first_row:
            self.top.put(sums.part(np.s_[: self.top.reason.shape[0], :]), columns)
        sums.add(self._carry.part(np.s_[: self._carried_rows, columns]), np.s_[: self._carried_rows, :])
        rows = self._strip_height
        self._carry.put(sums.part(np.s_[rows:, :]), columns)
        codes = sums.part(np.s_[:rows, :]).codes()
        self._pieces.append((codes.shape[1], tuple(pack_blocks(codes, self._step))))

    def _end_row(self) -> Strip:
        strip = Strip(self.grid.row_offsets[self._row], self._strip_height, self._step, tuple(self._pieces))
        self._carried_rows = self.grid.shape_hw[0] - self._strip_height
        self._row += 1
        return strip


def joined(strip: Strip, top: Sums, above: Sums) -> Strip:
    """Return the first strip of a mosaic that began in the middle of a scene, with the row of windows above added.

    Sums are added in the order of a mosaic of the whole scene, so that the codes are equal, bit by bit. This holds if
    the strip has at least as many rows as `top`: `can_begin_at` must be True for the first row of windows.

    Args:
        strip: the first strip of the mosaic.
        top: `Mosaic.top` of the mosaic.
        above: `Mosaic.bottom` of the mosaic of the rows above, after the last of these rows.
    """
    sums = Sums(top.percent + above.percent, np.maximum(top.reason, above.reason))
    return strip.with_top(sums.codes())


def can_begin_at(grid: Grid, row: int) -> bool:
    """Return True if a mosaic may begin at a row of windows, and be joined with the rows above by `joined`.

    This is possible if no scene row below the strip of this row of windows is shared with the row of windows above.
    """
    first, end = grid.strip(row)
    return grid.rows_from_above(row) <= end - first
