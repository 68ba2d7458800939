"""The coarse map: the flood probability of the whole scene at reduced resolution, kept on disk."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
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
from floodmap.inference.observed import SQUARE
from floodmap.strips.codes import FIRST_REASON
from floodmap.strips.strip import packed, unpacked

Floats = NDArray[np.float32]
_CHUNK = 64
"""Number of rows of the coarse map in a chunk. The rows of a chunk are compressed together."""
_REACH = 2
"""Distance in pixels of the coarse map up to which an unobserved pixel gets the value of the nearest observed pixel."""
_UNKNOWN = 20
"""Value in per cent of unobserved pixels that are more than `_REACH` pixels away from every observed pixel.
The value is between `DRY_LIMIT` and `FLOOD_LIMIT` of `inference.parts`, and therefore counts as uncertain. Some scene
pixels inside such a pixel of the map may be observed. The model predicts them at full resolution, as everywhere
where the coarse map is uncertain."""


class CoarseCodes:
    """Base class of the coarse map and of its parts: codes, uint8 (height, width), which are read by rows.

    A subclass has the method `__getitem__`, which returns the rows of a slice, uint8 (rows, width).
    """

    shape: tuple[int, int]
    """Height and width of the whole coarse map."""

    def __getitem__(self, rows: slice) -> NDArray[np.uint8]:
        raise NotImplementedError

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


@dataclass(frozen=True)
class CoarsePart(CoarseCodes):
    """Some rows of a coarse map, compressed, to be sent to another process."""

    shape: tuple[int, int]
    """Height and width of the whole coarse map."""
    first: int
    """Index of the first row of the part."""
    rows: int
    """Number of rows of the part."""
    packed_codes: bytes
    """Codes of the rows, compressed by `strip.packed`."""

    @cached_property
    def _codes(self) -> NDArray[np.uint8]:
        return unpacked(self.packed_codes, self.shape[1], self.rows)

    def __getitem__(self, rows: slice) -> NDArray[np.uint8]:
        """Return the rows from `rows.start` to before `rows.stop`, uint8 (rows, width), counted in the whole map."""
        return self._codes[rows.start - self.first : rows.stop - self.first]


class CoarseMap(CoarseCodes):
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

    def part(self, rows: slice, height: int) -> CoarsePart:
        """Return some rows of the map for another process.

        Args:
            rows: from `rows.start` to before `rows.stop`; these rows must have been appended.
            height: height of the whole map. Rows below may still be missing.
        """
        return CoarsePart((height, self.shape[1]), rows.start, rows.stop - rows.start, packed(self[rows]))

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


@dataclass(frozen=True, slots=True)
class MapPart:
    """Some rows of a map of values, such as the likelihood of the whole scene, to be sent to another process."""

    shape: tuple[int, int]
    """Height and width of the whole map."""
    first: int
    """Index of the first row of the part."""
    values: NDArray[np.float32]
    """Values of the rows, float32 (rows, width)."""

    @classmethod
    def of(cls, values: NDArray[np.float32], rows: slice) -> MapPart:
        """Cut the rows from `rows.start` to before `rows.stop` out of a map, float32 (height, width)."""
        height, width = values.shape
        return cls((height, width), rows.start, values[rows])

    def __getitem__(self, index: tuple[slice, slice]) -> NDArray[np.float32]:
        """Return the values of a rectangle, float32 (rows, columns), given by slices of the whole map."""
        rows, cols = index
        return self.values[rows.start - self.first : rows.stop - self.first, cols]


def coarse_rows(first: int, end: int, scene_height: int, height: int) -> slice:
    """Return the rows of a coarse map that are read for windows of the scene.

    These are the rows that `crop_coarse` and `CoarsePrompter.is_observed` read, and at most `SQUARE` rows more on
    either side. The slice begins and ends at the border of a row of squares of `Observed`.

    Args:
        first: first scene row of the windows.
        end: first scene row below the windows.
        scene_height: height of the scene in pixels.
        height: height of the coarse map.
    """
    down, around = height / scene_height, _REACH + 2
    top, bottom = int(first * down) - around, int(end * down) + around
    return slice(max(top, 0) // SQUARE * SQUARE, min(-(-bottom // SQUARE) * SQUARE, height))


def crop_coarse(
    coarse: CoarseCodes | MapPart | NDArray[np.float32], window: Window, scene: Scene
) -> NDArray[np.float32]:
    """Crop a coarse map of the whole scene to a window, with bilinear interpolation.

    Without interpolation, the crop would be shifted against the window by up to one coarse pixel.

    Args:
        coarse: the coarse map, or other values of the whole scene at reduced resolution, (rows, columns); or a part of
            one of both, with the rows for the window (see `coarse_rows`).
        window: the window, in pixels of the scene.
        scene: the scene. Only the height and the width of the scene are used.

    Returns:
        The values in the window, float32 (h, w), in the unit of `coarse`. If `coarse` is a coarse map, the result of
        `CoarseCodes.percent` is interpolated: probabilities in per cent, also at unobserved pixels. h and w are the
        height and width of the window in pixels of the coarse map, rounded to whole numbers.
    """
    sides = (
        (window.row_off, window.height, scene.height, coarse.shape[0]),
        (window.col_off, window.width, scene.width, coarse.shape[1]),
    )
    (top, bottom, down), (left, right, across) = (_neighbours(*side) for side in sides)
    rows, cols = slice(top[0], bottom[-1] + 1), slice(left[0], right[-1] + 1)
    part = coarse.percent(rows, cols) if isinstance(coarse, CoarseCodes) else coarse[rows, cols]
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
