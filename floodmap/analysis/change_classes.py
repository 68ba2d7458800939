"""Classes of change of a pixel, and their computation from two masks, strip by strip."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Final

import numpy as np

from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.window import Window
from floodmap.masks.rules import Codes, Reader
from floodmap.strips.codes import UNOBSERVED

DRY, NEWLY_FLOODED, RECEDED, UNCHANGED_WATER = range(4)
"""Classes: dry on both dates, dry before and water after, water before and dry after, water on both dates."""
CHANGES: Final = MappingProxyType(
    {NEWLY_FLOODED: "newly flooded", RECEDED: "receded", UNCHANGED_WATER: "unchanged water"}
)
"""Name of each class of water. The field `change` of the layer `change` contains these names."""
REASONS: Final = MappingProxyType({253: "before", 254: "after", 255: "both"})
"""On which date a pixel is unobserved, by code. The field `reason` of the layer `unobserved` contains these names."""
CLASSES = (NEWLY_FLOODED, RECEDED, UNCHANGED_WATER, DRY)
"""All classes; on a tie in an overview, earlier ones precede."""

STRIP_PIXELS = 2**22
"""Largest number of pixels in a strip, unless `ROWS` rows have more."""
ROWS, COLUMNS = 512, 4096
"""Rows of a strip (a multiple of them), and columns that are read at a time."""


def change_of(before: Codes, after: Codes) -> Codes:
    """Return the class of each pixel, or the code of the date on which it is unobserved.

    Args:
        before: uint8 (height, width), 0 dry, 1 water, 255 unobserved.
        after: the same for the later date.

    Returns:
        uint8 (height, width).
    """
    hidden = (before == UNOBSERVED) + 2 * (after == UNOBSERVED).astype(np.uint8)
    return np.where(hidden > 0, hidden + np.uint8(252), after + 2 * before).astype(np.uint8)


def change_kinds() -> Codes:
    """Return the kind of each code for `tracing.trace`: classes of water, and dates of unobserved ground."""
    kinds = np.zeros(256, np.uint8)
    traced = [*CHANGES, *REASONS]
    kinds[traced] = traced
    return kinds


def change_strips(
    before: Reader, after: Reader, grid: GeoGrid, progress: Callable[[float], None]
) -> Iterator[tuple[int, Codes]]:
    """Yield the first row and the codes, uint8 (rows, width), of each strip of a grid; see `change_of`.

    Args:
        before: function that reads a window of the grid.
        after: the same for the later date.
        grid: the grid.
        progress: function called with the finished share, 0 to 1, after each strip.
    """
    rows = max(1, STRIP_PIXELS // grid.width // ROWS) * ROWS
    for top in range(0, grid.height, rows):
        strip = Window(top, 0, min(rows, grid.height - top), grid.width)
        codes = np.empty((strip.height, strip.width), np.uint8)
        for left in range(0, grid.width, COLUMNS):
            part = Window(top, left, strip.height, min(COLUMNS, grid.width - left))
            codes[:, part.col_off : part.col_end] = change_of(before(part), after(part))
        yield top, codes
        progress(strip.row_end / grid.height)
