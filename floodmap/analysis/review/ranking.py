"""Places of a scene, ranked by how much a look at them is expected to correct.

The probability of a model is calibrated: of all pixels of 70 per cent, 70 of 100 are water. So the expected error of a
flood pixel is 1 - p, and that of a dry pixel p. A place is a square of the scene. The first place has the largest sum
of expected errors of all squares, the second one the largest sum of what is left, and so on. Places do not overlap.
Where buildings are known, the places with the most uncertain buildings come first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.window import Window
from floodmap.strips.codes import FIRST_REASON

PLACE_SHARE = 0.01
"""Area of a place, as a share of the scene."""
PLACES = 100
"""Largest number of places."""
STEPS = 8
"""Positions of a place are multiples of the `STEPS`th part of its side."""
LEAST = 1e-3
"""A place is left out if less than this share of the whole expected error lies in it."""

Floats = NDArray[np.float64]
Codes = NDArray[np.uint8]
Strips = Iterator[tuple[int, Codes]]


@dataclass(frozen=True, slots=True)
class Place:
    """A place to look at."""

    window: Window
    """Pixels of the place."""
    error: float
    """Expected error, in the unit of the weights of `expected_errors`: square metres, or pixels without CRS."""
    share: float
    """Share of the expected error of the whole scene, 0 to 1."""
    buildings: int | None = None
    """Number of uncertain buildings; None if buildings are not known."""


@dataclass(frozen=True, slots=True)
class ErrorCells:
    """Sums of expected errors in square cells."""

    sums: Floats
    """Sums, float64 (rows, columns)."""
    side: int
    """Side of a cell in pixels; the last cells of a row or a column may be smaller."""
    buildings: NDArray[np.int64] | None = None
    """Number of uncertain buildings of each cell, int64 (rows, columns); None if buildings are not known."""


def cell_side(shape_hw: tuple[int, int], share: float = PLACE_SHARE) -> int:
    """Return the side in pixels of the cells of a scene; `STEPS` cells are a side of a place."""
    height, width = shape_hw
    side = min((height * width * share) ** 0.5, height, width)
    return max(1, int(side / STEPS))


def expected_errors(strips: Strips, grid: GeoGrid, *, threshold: int, side: int) -> ErrorCells:
    """Add up the expected errors of a result in cells.

    Args:
        strips: first row and codes, uint8 (rows, width), of each strip, from top to bottom. Codes above 100 are
            unobserved and have no error.
        grid: grid of the scene. Errors are square metres; pixels if the grid has no geographic or projected CRS.
        threshold: in per cent; codes from the threshold to 100 are flood.
        side: side of the cells in pixels.
    """
    codes = np.arange(256)
    error = np.where(codes >= threshold, 100 - codes, codes) / 100
    table = np.where(codes < FIRST_REASON, np.clip(error, 0, None), 0.0)
    sums = np.zeros((-(-grid.height // side), -(-grid.width // side)))
    cols = np.arange(0, grid.width, side)
    for row, part in strips:
        rows = np.arange(row, row + len(part)) // side
        starts = np.flatnonzero(np.diff(rows, prepend=-1))
        down = np.add.reduceat(table[part], starts, axis=0)
        sums[rows[starts]] += np.add.reduceat(down, cols, axis=1)
    if grid.is_on_earth:
        sums *= _pixel_areas(grid, side)
    return ErrorCells(sums, side)


def ranked(cells: ErrorCells, shape_hw: tuple[int, int], *, count: int = PLACES) -> list[Place]:
    """Choose places, the one with the largest expected error first.

    If buildings are known, a place with more uncertain buildings comes before one with fewer, and the expected error
    decides between equals.

    Args:
        cells: expected errors.
        shape_hw: rows and columns of the scene.
        count: largest number of places.

    Returns:
        Places that do not overlap. Places with nearly no error (`LEAST`) and no uncertain building are left out.
    """
    left, total, places = cells.sums.copy(), float(cells.sums.sum()), list[Place]()
    high, wide = (min(STEPS, length) for length in cells.sums.shape)
    wanted = np.zeros(cells.sums.shape) if cells.buildings is None else cells.buildings.astype(float)
    houses = np.rint(_box_sums(wanted, high, wide))
    free = np.ones(cells.sums.shape)
    while len(places) < count and total > 0:
        sums = _box_sums(left, high, wide)
        scores = houses * 2 * total + sums  # a building outweighs all errors
        scores[_box_sums(free, high, wide) < high * wide - 0.5] = 0  # overlaps a place that was chosen before
        best = int(scores.argmax())
        if scores.flat[best] < LEAST * total:
            break
        row, col = divmod(best, scores.shape[1])
        window, error = _window(row, col, high, wide, cells.side, shape_hw), float(sums.flat[best])
        buildings = None if cells.buildings is None else int(houses.flat[best])
        places.append(Place(window, error, error / total, buildings))
        left[row : row + high, col : col + wide] = free[row : row + high, col : col + wide] = 0
    return places


def _window(row: int, col: int, high: int, wide: int, side: int, shape_hw: tuple[int, int]) -> Window:
    """Return the pixels of a box of cells."""
    top, left = row * side, col * side
    bottom, right = min((row + high) * side, shape_hw[0]), min((col + wide) * side, shape_hw[1])
    return Window(top, left, bottom - top, right - left)


def _box_sums(values: Floats, high: int, wide: int) -> Floats:
    """Return the sums over all boxes of `high` rows and `wide` columns; the index is the upper left cell."""
    total = np.pad(values, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    sums: Any = total[high:, wide:] - total[:-high, wide:] - total[high:, :-wide] + total[:-high, :-wide]
    return np.asarray(sums)


def _pixel_areas(grid: GeoGrid, side: int) -> Floats:
    """Return the area of one pixel in m², for each cell of `side` x `side` pixels, float64 (rows, columns)."""
    rows = np.append(np.arange(0, grid.height, side), grid.height).astype(float)
    cols = np.append(np.arange(0, grid.width, side), grid.width).astype(float)
    return np.asarray(grid.cell_areas_m2(rows, cols) / np.multiply.outer(np.diff(rows), np.diff(cols)))
