"""Rectangles in pixel coordinates, whose sides need not lie on pixel edges; and pieces into which arrays are cut."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from rasterio.windows import Window as GdalWindow


def outer_of(part: GdalWindow, dataset: Any) -> GdalWindow:
    """Return the smallest window of whole pixels that contains a rectangle of a raster.

    Example: a left side at column 2.5 and a right side at 4.2 become 2 and 5. The window is clipped to the raster, and
    has at least one pixel.

    Args:
        part: the rectangle, in pixels of the raster. Offsets and sizes may be fractions of a pixel.
        dataset: the open raster, with `height` and `width`.
    """
    top, left = max(0, math.floor(part.row_off + 1e-9)), max(0, math.floor(part.col_off + 1e-9))
    bottom = min(dataset.height, math.ceil(part.row_off + part.height - 1e-9))
    right = min(dataset.width, math.ceil(part.col_off + part.width - 1e-9))
    return GdalWindow(left, top, max(1, right - left), max(1, bottom - top))


def pieces(shape_hw: tuple[int, int], down: int, across: int) -> Iterator[tuple[slice, slice]]:
    """Yield pairs of slices (rows, columns) that cut an array into `down` x `across` pieces of nearly equal size.

    If the array has fewer than `down` rows or `across` columns, the pieces are fewer, each one pixel high or wide.

    Args:
        shape_hw: number of rows and number of columns of the array.
        down: number of pieces from top to bottom.
        across: number of pieces from left to right.
    """
    rows = np.unique(np.linspace(0, shape_hw[0], down + 1).astype(int)).tolist()
    cols = np.unique(np.linspace(0, shape_hw[1], across + 1).astype(int)).tolist()
    for top, bottom in pairwise(rows):
        for left, right in pairwise(cols):
            yield slice(top, bottom), slice(left, right)


def pieces_of(part: GdalWindow, shape_hw: tuple[int, int], count: int) -> Iterator[tuple[slice, slice, GdalWindow]]:
    """Yield the pieces of a rectangle of a raster that is resampled: about `count`, as wide as possible.

    Args:
        part: the rectangle, in pixels of the raster. Offsets and sizes may be fractions of a pixel.
        shape_hw: height and width of the result. No piece is smaller than one pixel of the result.
        count: number of pieces, 1 or more.

    Yields:
        Slices of the rows and the columns of the result, and the rectangle of the raster that they cover.
    """
    down, across = part.height / shape_hw[0], part.width / shape_hw[1]
    for rows, cols in pieces(shape_hw, min(count, shape_hw[0]), math.ceil(count / shape_hw[0])):
        width, height = (cols.stop - cols.start) * across, (rows.stop - rows.start) * down
        yield (
            rows,
            cols,
            GdalWindow(part.col_off + cols.start * across, part.row_off + rows.start * down, width, height),
        )
