"""Resampling of a rectangle of a raster to pixels of equal size, along one axis: positions of the resampled pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_EPSILON = 1e-6
"""Tolerance for rounding, in resampled pixels."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis (x or y) of a rectangle in a raster. Along the axis, the rectangle is resampled to `count` pixels."""

    first: float
    """Start of the rectangle, in pixels of the raster."""
    length: float
    """Length of the rectangle, in pixels of the raster."""
    count: int
    """Number of resampled pixels."""

    def touched(self, start: float, stop: float) -> slice:
        """Return the slice of the resampled pixels that overlap the interval from `start` to `stop`.

        `start` and `stop` are in pixels of the raster, before resampling.
        """
        scale = self.count / self.length
        low, high = (start - self.first) * scale, (stop - self.first) * scale
        return self._slice(math.floor(low + _EPSILON), math.ceil(high - _EPSILON))

    def covered(self, start: float, stop: float) -> slice:
        """Return the slice of the resampled pixels that lie at least half inside the interval from `start` to `stop`.

        `start` and `stop` are in pixels of the raster, before resampling.
        """
        scale = self.count / self.length
        return self._slice(round((start - self.first) * scale), round((stop - self.first) * scale))

    def blocks(self, size: int, count: int) -> tuple[int, int]:
        """Return the index of the first block that overlaps the rectangle, and the index after the last such block.

        Args:
            size: length of a block along this axis, in pixels of the raster.
            count: number of blocks of the raster along this axis. This is not the field `count` of the class.
        """
        first, last = math.floor(self.first / size), math.ceil((self.first + self.length) / size)
        return max(0, first), min(count, last)

    def gather(self, flags: NDArray[np.bool_], first: float, length: float) -> NDArray[np.bool_]:
        """Resample flags of segments: a resampled pixel is True if it overlaps a segment whose flag is True.

        The segments divide an interval of the raster, along this axis, into n equal lengths. Example: a mask of the
        interval is read with n rows, and each row is a segment.

        Args:
            flags: bool (n, m): flag of each segment, in n rows. The m columns are positions along the other axis of the
                raster, and each column is resampled alone.
            first: start of the interval, in pixels of the raster. This is not the field `first` of the class.
            length: length of the interval, in pixels of the raster. This is not the field `length` of the class.

        Returns:
            bool (c, m): flags of the resampled pixels, where c is the field `count` of the class. A resampled pixel
            outside the interval has the flag of the nearest segment.
        """
        edges = (self.first + np.arange(self.count + 1) * (self.length / self.count) - first) * (len(flags) / length)
        start = np.clip(np.floor(edges[:-1] + _EPSILON), 0, len(flags) - 1).astype(int)
        stop = np.clip(np.ceil(edges[1:] - _EPSILON), start + 1, len(flags)).astype(int)
        found: NDArray[np.bool_] = flags[start]
        for step in range(1, int((stop - start).max())):
            found |= flags[np.minimum(start + step, stop - 1)]
        return found

    def _slice(self, low: int, high: int) -> slice:
        return slice(max(0, min(low, self.count)), max(0, min(high, self.count)))
