"""What the coarse pass says of a whole scene, kept on disk: of a large one it would be much of what a run remembers."""

from __future__ import annotations

from os import SEEK_END
from tempfile import TemporaryFile, gettempdir
from threading import Lock
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from floodmap.errors import OutputError
from floodmap.grid import Window
from floodmap.packing import packed, unpacked

_CHUNK = 64
"""Rows compressed in one go."""


_SQUARE = 16
"""Cells of a coarse map along the sides of squares that are known to be observed or not."""


class Observed:
    """Ground of which all of the scene's own pixels are known to be observed, by squares of cells of a coarse map.

    Args:
        height: rows of the coarse map.
        width: its columns.
    """

    def __init__(self, height: int, width: int) -> None:
        self._squares = np.ones((-(-height // _SQUARE), -(-width // _SQUARE)), bool)

    def add(self, window: Window, complete: NDArray[np.bool_] | None) -> None:
        """Take in what is known of a window of the map; None where that is nothing."""
        rows, cols = _squares(window.row_off, window.row_end), _squares(window.col_off, window.col_end)
        if complete is None:
            self._squares[rows, cols] = False
            return
        for axis, first in enumerate((window.row_off, window.col_off)):
            begin = np.maximum(np.arange(first // _SQUARE * _SQUARE, first + complete.shape[axis], _SQUARE) - first, 0)
            complete = np.logical_and.reduceat(complete, begin, axis=axis)
        self._squares[rows, cols] &= complete

    def covers(self, window: Window) -> bool:
        """Whether that is known of a window of the map; it may reach beyond it."""
        rows, cols = _squares(window.row_off, window.row_end), _squares(window.col_off, window.col_end)
        return bool(self._squares[rows, cols].all())


def _squares(first: int, end: int) -> slice:
    return slice(max(first, 0) // _SQUARE, -(-end // _SQUARE))


class CoarseMap:
    """Per cent of flood, uint8 (height, width), compressed, in a temporary file that nobody else sees.

    It grows downwards, and rows are read by slices.

    Args:
        width: columns.

    Raises:
        OutputError: there is no room for the file.
    """

    def __init__(self, width: int) -> None:
        self.shape = (0, width)
        self._file = TemporaryFile()  # noqa: SIM115 (lives as long as the map)
        finalize(self, self._file.close)
        self._chunks: list[tuple[int, int]] = []
        """Where each chunk begins in the file, and how many bytes it has."""
        self._lock = Lock()
        self._first, self._rows = 0, np.empty((0, width), np.uint8)
        """The rows last read: windows side by side want the same."""

    def append(self, codes: NDArray[np.uint8]) -> None:
        """Add rows, (rows, width)."""
        whole = self.shape[0] % _CHUNK  # rows of a chunk that is not full yet
        if whole:
            codes = np.concatenate([self._unpacked(len(self._chunks) - 1), codes])
            del self._chunks[-1]
        for row in range(0, len(codes), _CHUNK):
            small = packed(codes[row : row + _CHUNK])
            self._chunks.append((self._kept(small), len(small)))
        self.shape = (self.shape[0] - whole + len(codes), self.shape[1])

    def __getitem__(self, rows: slice) -> NDArray[np.uint8]:
        """Rows from `rows.start` up to `rows.stop`."""
        with self._lock:
            first, last = rows.start // _CHUNK, (min(rows.stop, self.shape[0]) - 1) // _CHUNK
            if rows.start < self._first or rows.stop > self._first + len(self._rows):
                self._first, end = first * _CHUNK, min((last + 1) * _CHUNK, self.shape[0])
                self._rows = np.empty((0, self.shape[1]), np.uint8)  # so that never twice as many are there
                self._rows = np.empty((end - self._first, self.shape[1]), np.uint8)
                for number in range(first, last + 1):
                    part = self._unpacked(number)
                    self._rows[number * _CHUNK - self._first :][: len(part)] = part
            return self._rows[rows.start - self._first : rows.stop - self._first]

    def _kept(self, small: bytes) -> int:
        """Write something to the end of the file; returns where it begins."""
        try:
            first = self._file.seek(0, SEEK_END)
            self._file.write(small)
            self._file.flush()
        except OSError as error:
            raise OutputError(
                f"{gettempdir()} cannot be written: {error.strerror}; make room, or set TMPDIR to another folder"
            ) from error
        return first

    def _unpacked(self, number: int) -> NDArray[np.uint8]:
        first, length = self._chunks[number]
        self._file.seek(first)
        rows = min(_CHUNK, self.shape[0] - number * _CHUNK)
        return unpacked(self._file.read(length), self.shape[1], rows)
