"""Rectangles of pixels that may have fractions, and the pieces into which a window is cut."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from rasterio.windows import Window as GdalWindow


def outer_of(part: GdalWindow, dataset: Any) -> GdalWindow:
    """Return the smallest window of whole pixels that contains a rectangle of a raster."""
    top, left = max(0, math.floor(part.row_off + 1e-9)), max(0, math.floor(part.col_off + 1e-9))
    bottom = min(dataset.height, math.ceil(part.row_off + part.height - 1e-9))
    right = min(dataset.width, math.ceil(part.col_off + part.width - 1e-9))
    return GdalWindow(left, top, max(1, right - left), max(1, bottom - top))


def pieces(shape_hw: tuple[int, int], down: int, across: int) -> Iterator[tuple[slice, slice]]:
    """Yield slices (rows, columns) that cut an array of shape `shape_hw` into at most `down` x `across` pieces."""
    rows = np.unique(np.linspace(0, shape_hw[0], down + 1).astype(int)).tolist()
    cols = np.unique(np.linspace(0, shape_hw[1], across + 1).astype(int)).tolist()
    for top, bottom in pairwise(rows):
        for left, right in pairwise(cols):
            yield slice(top, bottom), slice(left, right)
