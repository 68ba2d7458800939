"""What two masks are compared in: flooded, dry and unobserved pixels of one frame, and the rule for what is flood."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

from floodmap.errors import EvaluationError
from floodmap.grid import Window

DRY, FLOOD, UNOBSERVED = 0, 1, 255

Codes = NDArray[np.uint8]
Reader = Callable[[Window], Codes]
"""Window of a frame in, uint8 (height, width) of DRY, FLOOD and UNOBSERVED out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The pixels on which two masks are compared."""

    crs: CRS | None
    """CRS of the transform; None: coordinates mean nothing on the ground."""
    transform: Affine
    """Pixel to CRS, any rotation."""
    height: int
    """Rows."""
    width: int
    """Columns."""

    def blocks(self, side: int) -> Iterator[Window]:
        """Windows of at most side x side pixels that cover the frame once, row by row."""
        for row in range(0, self.height, side):
            for col in range(0, self.width, side):
                yield Window(row, col, min(side, self.height - row), min(side, self.width - col))

    def padded(self, window: Window, rows: int, cols: int) -> Window:
        """The window with a margin on all sides, cut at the frame."""
        top, left = max(window.row_off - rows, 0), max(window.col_off - cols, 0)
        bottom, right = min(window.row_end + rows, self.height), min(window.col_end + cols, self.width)
        return Window(top, left, bottom - top, right - left)


@dataclass(frozen=True, slots=True, kw_only=True)
class FloodRule:
    """What counts as flood on one side."""

    values: tuple[float, ...] = ()
    """Values of flooded pixels; empty: find out (`flood_values`)."""
    threshold: float | None = None
    """Pixels from this value up are flood, in the raster's own units."""
    attribute: str = ""
    """Column of the polygons to look at; empty: every polygon is flood."""
    matches: tuple[str, ...] = ()
    """Values of that column that are flood."""

    @classmethod
    def parse(cls, flood: float | str | Iterable[float] | None, threshold: float | None = None) -> FloodRule:
        """Read what a user gave: 1, (1, 255), "1,255" for rasters, "class=water,river" for polygons.

        Raises:
            EvaluationError: it is none of these, or a value and a threshold are given.
        """
        if flood is None:
            return cls(threshold=threshold)
        if threshold is not None:
            raise EvaluationError("flood is given by a value and by a threshold; give one of them")
        if isinstance(flood, str) and "=" in flood:
            attribute, _, matches = flood.partition("=")
            return cls(attribute=attribute.strip(), matches=tuple(part.strip() for part in matches.split(",")))
        given: Iterable[Any] = flood.split(",") if isinstance(flood, str) else np.atleast_1d(np.asarray(flood))
        try:
            return cls(values=tuple(float(value) for value in given))
        except (TypeError, ValueError):
            raise EvaluationError(
                f"{flood!r} does not say what is flood; give values such as 1 or 1,255, or class=water"
            ) from None
