"""Window: a rectangle of a raster's pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """A rectangle of pixels: offset and size, in rows and columns of the scene's working grid."""

    row_off: int
    col_off: int
    height: int
    width: int

    @property
    def row_end(self) -> int:
        """First row below the window."""
        return self.row_off + self.height

    @property
    def col_end(self) -> int:
        """First column right of the window."""
        return self.col_off + self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index of the window in a (height, width) array of the whole scene."""
        return slice(self.row_off, self.row_end), slice(self.col_off, self.col_end)

    def to_rasterio(self, down: float = 1, across: float = 1) -> Any:
        """As `rasterio.windows.Window`, of a raster with `down` times the rows and `across` times the columns."""
        from rasterio.windows import Window as RasterioWindow

        return RasterioWindow(self.col_off * across, self.row_off * down, self.width * across, self.height * down)

    def within(self, other: Window) -> Window:
        """The same rectangle, with offsets relative to `other`."""
        return Window(self.row_off - other.row_off, self.col_off - other.col_off, self.height, self.width)

    def part(self, inner: Window) -> Window:
        """The rectangle `inner`, whose offsets are relative to this window, in pixels of the scene."""
        return Window(self.row_off + inner.row_off, self.col_off + inner.col_off, inner.height, inner.width)
