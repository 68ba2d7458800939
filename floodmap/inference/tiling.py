"""Overlapping windows that cover a scene, and the blend weights of the windows. No I/O and no torch are used."""

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

    All windows of a grid have one shape, and are spread evenly over the scene. The windows of the last row and column
    end at the border of the scene, and overlap their neighbours about as much as other windows do. The number of
    windows follows from `tile_size` and `overlap`. The windows are then as small as this number allows, so that few
    pixels are computed twice.

    Windows begin at a multiple of the model's stride, so that a value of the model's feature maps covers the same
    pixels in all windows. There are three exceptions: windows of the last row and column; windows that would otherwise
    overlap the window before by less than `overlap`; and all windows, along an axis on which the side of a window minus
    `overlap` is less than 4 strides.
    """

    height: int
    """Height of the scene, in pixels."""
    width: int
    """Width of the scene, in pixels."""
    tile_size: int = TILE_SIZE
    """Upper limit of the height and of the width of a window, in pixels."""
    overlap: int = OVERLAP
    """Least overlap of neighbouring windows, in pixels."""
    multiple: int = 32
    """The model's coarsest stride, in pixels. Sides of windows are multiples of the stride. The exception is a scene
    that is shorter than a window along an axis: the side of the window is then the side of the scene."""
    step: int = 0
    """If not 0, window sides are also multiples of `step` pixels. Scenes of many sizes then have windows of few
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
        """First scene row of each row of windows, in pixels from the top of the scene."""
        return self._offsets(self.height)

    @property
    def col_offsets(self) -> tuple[int, ...]:
        """First scene column of each column of windows, in pixels from the left of the scene."""
        return self._offsets(self.width)

    @property
    def shape_hw(self) -> tuple[int, int]:
        """Height and width of every window, in pixels."""
        return self._side(self.height), self._side(self.width)

    def row(self, index: int) -> tuple[Window, ...]:
        """Return the windows of one row of windows, from left to right."""
        top, (height, width) = self.row_offsets[index], self.shape_hw
        return tuple(Window(top, left, height, width) for left in self.col_offsets)

    def __len__(self) -> int:
        return len(self.row_offsets) * len(self.col_offsets)

    def __iter__(self) -> Iterator[Window]:
        for index in range(len(self.row_offsets)):
            yield from self.row(index)

    def strip(self, index: int) -> tuple[int, int]:
        """Return the first scene row of a strip, and the first scene row below the strip.

        The strip is finished after the row of windows with the same index.
        """
        tops = self.row_offsets
        end = tops[index + 1] if index + 1 < len(tops) else self.height
        return tops[index], end

    def rows_from_above(self, index: int) -> int:
        """Return the number of scene rows that a row of windows shares with the row of windows above it.

        `index` is the index of the lower row of windows; for the first row of windows, the number is 0.
        """
        tops = self.row_offsets
        return tops[index - 1] + self.shape_hw[0] - tops[index] if index else 0

    def row_weights(self) -> NDArray[np.float32]:
        """Return the blend weights along the vertical axis, float32 (rows of windows, window height).

        For each row of the scene, the weights of all windows that overlap the row sum to 1.
        """
        return self._weights(self.height)

    def col_weights(self) -> NDArray[np.float32]:
        """Return the blend weights along the horizontal axis, float32 (columns of windows, window width).

        For each column of the scene, the weights of all windows that overlap the column sum to 1.
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
