"""Record of the squares of the coarse map inside which every scene pixel is observed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from floodmap.geo.window import Window

SQUARE = 16
"""Side of the squares of `Observed`, in pixels of the coarse map."""


class Observed:
    """Record of the squares of the coarse map inside which every scene pixel is observed.

    The coarse map is divided into squares of 16 x 16 pixels. A square counts as observed until a window that has
    unobserved pixels in this square is added.

    Args:
        height: number of rows of the coarse map.
        width: number of columns of the coarse map.
    """

    def __init__(self, height: int, width: int) -> None:
        self._squares = np.ones((-(-height // SQUARE), -(-width // SQUARE)), bool)
        self._first = 0
        """Index of the first row of squares; above 0 in a part of the record (see `part`)."""

    @classmethod
    def of(cls, squares: NDArray[np.bool_]) -> Observed:
        """Return the record whose property `squares` is given."""
        record = cls(0, 0)
        record._squares = squares
        return record

    @property
    def squares(self) -> NDArray[np.bool_]:
        """True for squares in which every scene pixel is observed, bool (rows of squares, columns of squares)."""
        return self._squares

    def add(self, window: Window, complete: NDArray[np.bool_] | None) -> None:
        """Record which pixels of a window of the coarse map are completely observed.

        Args:
            window: the window, in pixels of the coarse map.
            complete: bool (window height, window width): True for a pixel of the coarse map if every scene pixel inside
                it is observed. None: not known; all squares (see the class) that overlap the window then count as not
                observed.
        """
        rows, cols = _squares(window.row_off, window.row_end), _squares(window.col_off, window.col_end)
        if complete is None:
            self._squares[rows, cols] = False
            return
        for axis, first in enumerate((window.row_off, window.col_off)):
            begin = np.maximum(np.arange(first // SQUARE * SQUARE, first + complete.shape[axis], SQUARE) - first, 0)
            complete = np.logical_and.reduceat(complete, begin, axis=axis)
        self._squares[rows, cols] &= complete

    def covers(self, window: Window) -> bool:
        """Return True if all squares that overlap a window count as observed.

        The window is in pixels of the coarse map. Only the part of the window inside the map counts.
        """
        rows, cols = _squares(window.row_off, window.row_end), _squares(window.col_off, window.col_end)
        return bool(self._squares[rows.start - self._first : rows.stop - self._first, cols].all())

    def part(self, rows: slice) -> Observed:
        """Return the record of some rows of the coarse map: a part of this record, which `merge` and `covers` accept.

        The part has all squares that overlap the rows from `rows.start` to before `rows.stop`. It is small enough to be
        sent to another process.
        """
        part, squares = Observed(0, 0), _squares(rows.start, rows.stop)
        part._squares, part._first = self._squares[squares].copy(), squares.start
        return part

    def merge(self, part: Observed) -> None:
        """Add the result of `part` from the record of another process, in which other windows were added."""
        self._squares[part._first : part._first + len(part._squares)] &= part._squares


def _squares(first: int, end: int) -> slice:
    """Return, along one axis, the squares of `Observed` that overlap an interval, as a slice of indices.

    The interval is in pixels of the coarse map. `first` is inside the interval, `end` is not.
    """
    return slice(max(first, 0) // SQUARE, -(-end // SQUARE))
