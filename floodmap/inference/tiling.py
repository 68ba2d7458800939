"""Tiling of a scene into overlapping windows, and their blend weights. This module uses neither I/O nor torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from floodmap.errors import GridError
from floodmap.geo.window import Window
from floodmap.options import OVERLAP, TILE_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Overlapping windows that cover a scene, row by row.

    All windows of a grid have one shape. They are spread evenly: the last row and the last column do not reach beyond
    the scene, and they overlap their neighbours no more than other rows and columns do. Windows are no larger than
    needed to cover the scene in their number of rows and columns, so that few pixels are computed twice.

    All windows but those of the last row and column begin at a multiple of the model's stride, if the overlap allows
    it. The cells of the model's features then cover the same pixels in every window.
    """

    height: int
    """Scene rows, in pixels."""
    width: int
    """Scene columns, in pixels."""
    tile_size: int = TILE_SIZE
    """Longest side of a window, in pixels."""
    overlap: int = OVERLAP
    """Least overlap of neighbouring windows, in pixels."""
    multiple: int = 32
    """Window sides are rounded up to a multiple of this number of pixels, the model's coarsest stride, unless the scene
    is smaller."""
    step: int = 0
    """If not 0, window sides are multiples of this number of pixels too: scenes of many sizes then have windows of few
    sizes."""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise GridError(f"a scene of {self.width} x {self.height} pixels has nothing to cover")
        if self.tile_size < 1 or self.tile_size % self.multiple:
            raise GridError(f"tile size {self.tile_size} must be a positive multiple of {self.multiple}")
        if not 0 <= self.overlap <= self.tile_size // 2:
            raise GridError(f"overlap {self.overlap} must lie between 0 and half the tile size ({self.tile_size // 2})")

    @property
    def row_offsets(self) -> tuple[int, ...]:
        """First scene row of each row of windows."""
        return self._offsets(self.height)

    @property
    def col_offsets(self) -> tuple[int, ...]:
        """First scene column of each column of windows."""
        return self._offsets(self.width)

    @property
    def shape_hw(self) -> tuple[int, int]:
        """Rows and columns of every window, in pixels."""
        return self._side(self.height), self._side(self.width)

    def row(self, index: int) -> tuple[Window, ...]:
        """Return the windows of one row, from left to right."""
        top, (height, width) = self.row_offsets[index], self.shape_hw
        return tuple(Window(top, left, height, width) for left in self.col_offsets)

    def __len__(self) -> int:
        return len(self.row_offsets) * len(self.col_offsets)

    def __iter__(self) -> Iterator[Window]:
        for index in range(len(self.row_offsets)):
            yield from self.row(index)

    def strip(self, index: int) -> tuple[int, int]:
        """Return the scene rows (first, end) that are finished once the windows down to row `index` are done."""
        tops = self.row_offsets
        end = tops[index + 1] if index + 1 < len(tops) else self.height
        return tops[index], end

    def row_weights(self) -> NDArray[np.float32]:
        """Return the blend weights down the windows, float32 (rows of windows, window height).

        In each scene row, the weights of all windows sum to 1.
        """
        return self._weights(self.height)

    def col_weights(self) -> NDArray[np.float32]:
        """Return the blend weights across the windows, float32 (columns of windows, window width).

        In each scene column, the weights of all windows sum to 1.
        """
        return self._weights(self.width)

    def _count(self, length: int) -> int:
        if length <= self.tile_size:
            return 1
        return -(-(length - self.overlap) // (self.tile_size - self.overlap))

    def _side(self, length: int) -> int:
        count = self._count(length)
        needed = -(-(length + (count - 1) * self.overlap) // count)
        step = math.lcm(self.multiple, self.step or 1)
        return min(length, self.tile_size, -(-needed // step) * step)

    def _offsets(self, length: int) -> tuple[int, ...]:
        count, side = self._count(length), self._side(length)
        slack, furthest = length - side, side - self.overlap
        unit = self.multiple if furthest >= 4 * self.multiple else 1
        offsets = [0]
        for i in range(1, count):
            even = -(-slack * i // ((count - 1) * unit)) * unit
            offsets.append(min(even, offsets[-1] + furthest, slack))
        return tuple(offsets)

    def _weights(self, length: int) -> NDArray[np.float32]:
        # Weight 1 inside and a raised cosine over the overlap, so that there is no step at a window's border. Division
        # by the sum along the axis makes the weights of any pixel sum to one. Each axis has its own weights because the
        # grid is a product of two axes.
        side, offsets = self._side(length), self._offsets(length)
        edge = np.minimum(np.arange(side), np.arange(side)[::-1]) + 1.0
        ramp = np.sin(np.minimum(edge / (self.overlap + 1.0), 1.0) * (np.pi / 2)) ** 2
        total = np.zeros(length)
        for offset in offsets:
            total[offset : offset + side] += ramp
        return np.stack([ramp / total[o : o + side] for o in offsets]).astype(np.float32)
