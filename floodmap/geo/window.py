"""Window: a rectangle of pixels of a raster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """Rectangle of pixels of a raster: offset and size in rows and columns.

    In inference, the raster is the scene on the working grid.
    """

    row_off: int
    col_off: int
    height: int
    width: int

    @property
    def row_end(self) -> int:
        """Number of the first row below the window."""
        return self.row_off + self.height

    @property
    def col_end(self) -> int:
        """Number of the first column right of the window."""
        return self.col_off + self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of the window in an array (height, width) of the whole raster."""
        return slice(self.row_off, self.row_end), slice(self.col_off, self.col_end)

    def to_rasterio(self, down: float = 1, across: float = 1) -> Any:
        """Return the `rasterio.windows.Window` of the same rectangle in a raster of another resolution.

        Args:
            down: number of rows of the other raster, divided by the number of rows of the raster of this window.
            across: the same quotient for the numbers of columns.
        """
        from rasterio.windows import Window as RasterioWindow

        return RasterioWindow(self.col_off * across, self.row_off * down, self.width * across, self.height * down)

    def within(self, other: Window) -> Window:
        """Return the same rectangle, with offsets relative to the upper left corner of the window `other`."""
        return Window(self.row_off - other.row_off, self.col_off - other.col_off, self.height, self.width)

    def part(self, inner: Window) -> Window:
        """Return the same rectangle as `inner`, with offsets relative to the upper left corner of the raster.

        Args:
            inner: a rectangle with offsets relative to the upper left corner of this window.
        """
        return Window(self.row_off + inner.row_off, self.col_off + inner.col_off, inner.height, inner.width)
