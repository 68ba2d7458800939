"""The coarse map: the flood probability of the whole scene at reduced resolution, kept on disk."""

from __future__ import annotations

from os import SEEK_END
from tempfile import TemporaryFile, gettempdir
from threading import Lock
from typing import Any
from weakref import finalize

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from floodmap.errors import OutputError
from floodmap.geo.window import Window
from floodmap.imagery.scene import Scene
from floodmap.strips.codes import FIRST_REASON
from floodmap.strips.strip import packed, unpacked

Floats = NDArray[np.float32]
_CHUNK = 64
"""Number of rows of the coarse map in a chunk. The rows of a chunk are compressed together."""
_SQUARE = 16
"""Side of the squares of `Observed`, in pixels of the coarse map."""
_REACH = 2
"""Distance in pixels of the coarse map up to which an unobserved pixel gets the value of the nearest observed pixel."""
_UNKNOWN = 20
"""Value in per cent of unobserved pixels that are more than `_REACH` pixels away from every observed pixel.
The value is between `DRY_LIMIT` and `FLOOD_LIMIT` of `inference.parts`, and therefore counts as uncertain. Some scene
pixels inside such a pixel of the map may be observed. The model predicts them at full resolution, as everywhere
where the coarse map is uncertain."""


class Observed:
    """Record of the squares of the coarse map inside which every scene pixel is observed.

    The coarse map is divided into squares of 16 x 16 pixels. A square counts as observed until a window that has
    unobserved pixels in this square is added.

    Args:
        height: number of rows of the coarse map.
        width: number of columns of the coarse map.
    """

    def __init__(self, height: int, width: int) -> None:
        self._squares = np.ones((-(-height // _SQUARE), -(-width // _SQUARE)), bool)

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
            begin = np.maximum(np.arange(first // _SQUARE * _SQUARE, first + complete.shape[axis], _SQUARE) - first, 0)
            complete = np.logical_and.reduceat(complete, begin, axis=axis)
        self._squares[rows, cols] &= complete

    def covers(self, window: Window) -> bool:
        """Return True if all squares that overlap a window count as observed.

        The window is in pixels of the coarse map. Only the part of the window inside the map counts.
        """
        rows, cols = _squares(window.row_off, window.row_end), _squares(window.col_off, window.col_end)
        return bool(self._squares[rows, cols].all())


def _squares(first: int, end: int) -> slice:
    """Return, along one axis, the squares of `Observed` that overlap an interval, as a slice of indices.

    The interval is in pixels of the coarse map. `first` is inside the interval, `end` is not.
    """
    return slice(max(first, 0) // _SQUARE, -(-end // _SQUARE))


class CoarseMap:
    """Map of codes, uint8 (height, width), compressed in an unnamed temporary file.

    Codes are probabilities in per cent, or reasons why a pixel of the map is unobserved. New rows are appended at the
    bottom. Rows are read with a slice: `coarse_map[first:end]`.

    Args:
        width: number of columns.
    """

    def __init__(self, width: int) -> None:
        self.shape = (0, width)
        self._file = TemporaryFile()  # noqa: SIM115 (lives as long as the map)
        finalize(self, self._file.close)
        self._chunks: list[tuple[int, int]] = []
        """Offset in the file and length of each chunk, in bytes."""
        self._lock = Lock()
        self._first, self._rows = 0, np.empty((0, width), np.uint8)
        """Cache of the rows that were read last: index of the first row, and the rows, uint8 (rows, width).
        Neighbouring windows read the same rows."""

    def append(self, codes: NDArray[np.uint8]) -> None:
        """Append rows at the bottom of the map.

        Args:
            codes: uint8 (rows, width).

        Raises:
            OutputError: the temporary file cannot be written, for example because the disk is full.
        """
        incomplete = self.shape[0] % _CHUNK  # rows of a chunk that is not full yet
        if incomplete:
            codes = np.concatenate([self._unpacked(len(self._chunks) - 1), codes])
            del self._chunks[-1]
        for row in range(0, len(codes), _CHUNK):
            compressed = packed(codes[row : row + _CHUNK])
            self._chunks.append((self._write(compressed), len(compressed)))
        self.shape = (self.shape[0] - incomplete + len(codes), self.shape[1])

    def __getitem__(self, rows: slice) -> NDArray[np.uint8]:
        """Return the rows from `rows.start` to before `rows.stop`, uint8 (rows, width)."""
        with self._lock:
            first, last = rows.start // _CHUNK, (min(rows.stop, self.shape[0]) - 1) // _CHUNK
            if rows.start < self._first or rows.stop > self._first + len(self._rows):
                self._first, end = first * _CHUNK, min((last + 1) * _CHUNK, self.shape[0])
                self._rows = np.empty((0, self.shape[1]), np.uint8)  # frees the old rows before the new are allocated
                self._rows = np.empty((end - self._first, self.shape[1]), np.uint8)
                for number in range(first, last + 1):
                    part = self._unpacked(number)
                    self._rows[number * _CHUNK - self._first :][: len(part)] = part
            return self._rows[rows.start - self._first : rows.stop - self._first]

    def percent(self, rows: slice, cols: slice) -> NDArray[np.uint8]:
        """Return the probabilities of a rectangle of the map in per cent, with values in place of unobserved pixels.

        The result is uint8 (rows, columns), 0 to 100. An unobserved pixel of the map gets the value of the nearest
        observed pixel up to `_REACH` pixels away. An unobserved pixel without an observed pixel within this distance
        gets `_UNKNOWN`, which does not count as dry.

        Unobserved pixels need values because some scene pixels inside them may be observed: a pixel of the map covers
        many scene pixels, and is usually marked as unobserved even if only the scene pixel at its centre is unobserved.
        """
        top, left = max(rows.start - _REACH, 0), max(cols.start - _REACH, 0)
        codes = self[top : min(rows.stop + _REACH, self.shape[0])][:, left : cols.stop + _REACH]
        unobserved = codes >= FIRST_REASON
        if unobserved.any():
            distance, nearest = ndimage.distance_transform_edt(unobserved, return_indices=True)
            far = unobserved.all() | (distance > _REACH)
            codes = np.where(far, np.uint8(_UNKNOWN), codes[tuple(nearest)])
        return codes[rows.start - top :, cols.start - left :][: rows.stop - rows.start, : cols.stop - cols.start]

    def _write(self, compressed: bytes) -> int:
        """Append bytes to the file and return the offset of the first byte."""
        try:
            first = self._file.seek(0, SEEK_END)
            self._file.write(compressed)
            self._file.flush()
        except OSError as error:
            raise OutputError(
                f"{gettempdir()} cannot be written: {error.strerror}; free disk space, or set TMPDIR to another folder"
            ) from error
        return first

    def _unpacked(self, number: int) -> NDArray[np.uint8]:
        """Read and decompress one chunk, given by the index of the chunk; return its rows, uint8 (rows, width)."""
        first, length = self._chunks[number]
        self._file.seek(first)
        rows = min(_CHUNK, self.shape[0] - number * _CHUNK)
        return unpacked(self._file.read(length), self.shape[1], rows)


def crop_coarse(coarse: CoarseMap | NDArray[np.float32], window: Window, scene: Scene) -> NDArray[np.float32]:
    """Crop a coarse map of the whole scene to a window, with bilinear interpolation.

    Without interpolation, the crop would be shifted against the window by up to one coarse pixel.

    Args:
        coarse: the coarse map, or other values of the whole scene at reduced resolution, (rows, columns).
        window: the window, in pixels of the scene.
        scene: the scene. Only the height and the width of the scene are used.

    Returns:
        The values in the window, float32 (h, w), in the unit of `coarse`. If `coarse` is a `CoarseMap`, the result of
        `CoarseMap.percent` is interpolated: probabilities in per cent, also at unobserved pixels. h and w are the
        height and width of the window in pixels of the coarse map, rounded to whole numbers.
    """
    sides = (
        (window.row_off, window.height, scene.height, coarse.shape[0]),
        (window.col_off, window.width, scene.width, coarse.shape[1]),
    )
    (top, bottom, down), (left, right, across) = (_neighbours(*side) for side in sides)
    rows, cols = slice(top[0], bottom[-1] + 1), slice(left[0], right[-1] + 1)
    part = coarse.percent(rows, cols) if isinstance(coarse, CoarseMap) else coarse[rows, cols]
    sampled = _interpolated(part[top - top[0]], part[bottom - top[0]], down[:, None])
    return _interpolated(sampled[:, left - left[0]], sampled[:, right - left[0]], across)


def _neighbours(first: int, length: int, whole: int, cells: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Return, along one axis, the coarse pixels and the weights for the crop of a window from the coarse map.

    A coarse pixel is a pixel of the coarse map. The n pixels of the crop are evenly spaced, about one per coarse pixel.
    The value of a pixel of the crop is interpolated between two neighbouring coarse pixels: the first has its centre at
    or before the centre of the pixel of the crop, and the second is the next coarse pixel. At an end of the map, where
    one of the two is missing, the value of the outermost coarse pixel is used.

    Args:
        first: first scene pixel of the window.
        length: length of the window in scene pixels.
        whole: length of the scene in scene pixels.
        cells: length of the coarse map in coarse pixels.

    Returns:
        Three arrays (n,) with one value for each pixel of the crop: index of the first coarse pixel, index of the
        second coarse pixel, and weight of the second coarse pixel, float32, 0 to 1. The first coarse pixel has the
        weight 1 minus this weight.
    """
    count = max(1, round(length * cells / whole))
    centres = first + (np.arange(count) + 0.5) * (length / count)
    at = np.clip(centres * (cells / whole) - 0.5, 0, cells - 1)
    before = at.astype(np.int64)
    return before, np.minimum(before + 1, cells - 1), (at - before).astype(np.float32)


def _interpolated(one: NDArray[Any], other: NDArray[Any], weight: Floats) -> Floats:
    return np.asarray(one + (other.astype(np.float32) - one) * weight, np.float32)
