"""Comparison of two masks on one grid: numbers of pixels that agree and differ, flooded areas, and boundary pixels.

The masks are read window by window, so that memory does not depend on the size of the scene. In this module, observed
pixels are pixels of the classes FLOOD and DRY.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from floodmap.errors import EvaluationError
from floodmap.evaluation.scores import Confusion
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.window import Window
from floodmap.masks.rules import Codes, Reader
from floodmap.strips.codes import FLOOD, UNOBSERVED

Bools = NDArray[np.bool_]

_BLOCK = 2048
"""Side of the square windows in which the masks are read, in pixels."""
_CELL = 64
"""Side, in pixels, of the squares into which a window is divided to compute the flooded area.

One area in square metres is computed per square. Each pixel of the square counts with an equal share of this area.
"""
_WIDEST = 2000
"""Largest tolerance that the user may choose for boundaries, in pixels.

There is a limit, because a margin as wide as the tolerance is read with each window.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts(Confusion):
    """Numbers of pixels, and flooded areas, in one window of a scene or in several windows together."""

    predicted_m2: float = 0.0
    """Area of predicted flood in square metres, over pixels that are observed in prediction and reference.

    0 if the grid has no geographic or projected CRS.
    """
    reference_m2: float = 0.0
    """Area of flood in the reference in square metres, over pixels that are observed in prediction and reference.

    0 if the grid has no geographic or projected CRS.
    """
    prediction_observed: int = 0
    """Number of pixels that are observed in the prediction."""
    reference_observed: int = 0
    """Number of pixels that are observed in the reference."""

    def __add__(self, other: Counts) -> Counts:
        """Return new counts; each field is the sum of the same field of `self` and `other`."""
        return Counts(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})


def spacing(grid: GeoGrid) -> tuple[float, float]:
    """Return two distances in metres at the centre of a grid: between neighbouring rows, and between columns.

    If the grid has no geographic or projected CRS, both distances are 1, in pixels.

    Raises:
        EvaluationError: the centre of the grid does not exist in the CRS.
    """
    if not grid.is_on_earth:
        return 1.0, 1.0
    if grid.steps_m is None:
        raise EvaluationError(f"the compared files have coordinates outside their CRS {grid.crs}; assign the right CRS")
    return grid.steps_m[1], grid.steps_m[0]


def compare(prediction: Reader, reference: Reader, grid: GeoGrid, *, tolerance: float, block: int = _BLOCK) -> Counts:
    """Count the pixels in which a prediction and a reference agree and differ, and compute the flooded areas.

    Args:
        prediction: function from a window of the grid to the classes of the prediction (see `rules.Reader`).
        reference: function from a window of the grid to the classes of the reference.
        grid: grid of the pixels to compare.
        tolerance: largest distance at which boundary pixels match, in metres; in pixels if the grid has no geographic
            or projected CRS.
        block: side of the windows, in pixels. The result does not depend on the side.

    Returns:
        Counts and areas of the whole grid.

    Raises:
        EvaluationError: the tolerance is negative or more than 2000 pixels, or coordinates of the grid do not exist in
            the CRS.
    """
    steps = spacing(grid)
    if not 0 <= tolerance <= _WIDEST * min(steps):
        raise EvaluationError(
            f"a boundary tolerance of {tolerance:g} is {tolerance / min(steps):.0f} pixels; "
            f"give one from 0 to {_WIDEST} pixels"
        )
    margins = [int(np.ceil(tolerance / step)) for step in steps]
    total = Counts()
    for window in grid.blocks(block):
        # A boundary pixel may match a pixel at the distance `margins`. The test whether that pixel is a boundary pixel
        # needs neighbours one pixel further out.
        outer = grid.padded(window, margins[0] + 2, margins[1] + 2)
        predicted, referenced = prediction(outer), reference(outer)
        inner = (
            slice(window.row_off - outer.row_off, window.row_end - outer.row_off),
            slice(window.col_off - outer.col_off, window.col_end - outer.col_off),
        )
        total += _pixels(predicted[inner], referenced[inner])
        total += _areas(predicted[inner], referenced[inner], grid, window)
        total += _boundaries(predicted, referenced, inner, steps, tolerance)
    return total


def _pixels(predicted: Codes, referenced: Codes) -> Counts:
    """Count the pixels of the confusion matrix, and the observed pixels of each mask.

    Args:
        predicted: uint8 (height, width), classes of the prediction in a window.
        referenced: uint8 (height, width), classes of the reference in the window.
    """
    seen_p, seen_r = predicted != UNOBSERVED, referenced != UNOBSERVED
    seen = seen_p & seen_r
    flood_p, flood_r = seen & (predicted == FLOOD), seen & (referenced == FLOOD)
    observed, p, r, both = (int(np.count_nonzero(part)) for part in (seen, flood_p, flood_r, flood_p & flood_r))
    return Counts(
        tp=both,
        fp=p - both,
        fn=r - both,
        tn=observed - p - r + both,
        unobserved=seen.size - observed,
        prediction_observed=int(np.count_nonzero(seen_p)),
        reference_observed=int(np.count_nonzero(seen_r)),
    )


def _areas(predicted: Codes, referenced: Codes, grid: GeoGrid, window: Window) -> Counts:
    """Compute the flooded areas of both masks in one window, in square metres.

    All pixels in a square of `_CELL` x `_CELL` pixels count with the same area. Without a geographic or projected CRS
    the areas are 0.

    Args:
        predicted: uint8 (height, width), classes of the prediction in the window.
        referenced: uint8 (height, width), classes of the reference in the window.
        grid: grid of the window.
        window: the window.
    """
    if not grid.is_on_earth:
        return Counts()
    rows, cols = np.arange(0, window.height, _CELL), np.arange(0, window.width, _CELL)
    row_edges = np.append(rows, window.height) + float(window.row_off)
    col_edges = np.append(cols, window.width) + float(window.col_off)
    pixels = np.outer(np.diff(row_edges), np.diff(col_edges))
    pixel_m2 = grid.cell_areas_m2(row_edges, col_edges) / pixels
    seen = (predicted != UNOBSERVED) & (referenced != UNOBSERVED)

    def area(codes: Codes) -> float:
        flood = seen & (codes == FLOOD)
        across = np.add.reduceat(flood, cols, axis=1, dtype=np.int64)
        return float((np.add.reduceat(across, rows, axis=0) * pixel_m2).sum())

    return Counts(predicted_m2=area(predicted), reference_m2=area(referenced))


def _boundaries(
    predicted: Codes,
    referenced: Codes,
    inner: tuple[slice, slice],
    steps: tuple[float, float],
    tolerance: float,
) -> Counts:
    """Count the boundary pixels of each mask in a window, and the boundary pixels that match the other mask.

    A boundary pixel matches if a boundary pixel of the other mask is within the tolerance. The outer window is the
    inner window with a margin. Only boundary pixels in the inner window are counted. The boundary pixel of the other
    mask may also be in the margin.

    Args:
        predicted: uint8 (height, width), classes of the prediction in the outer window.
        referenced: uint8 (height, width), classes of the reference in the outer window.
        inner: slices of the inner window in the outer window.
        steps: distance between rows and distance between columns, as returned by `spacing`.
        tolerance: largest distance at which boundary pixels match, in the unit of `steps`.
    """
    seen = (predicted != UNOBSERVED) & (referenced != UNOBSERVED)
    ours, theirs = boundary(seen & (predicted == FLOOD), seen), boundary(seen & (referenced == FLOOD), seen)
    return Counts(
        predicted_boundary=int(np.count_nonzero(ours[inner])),
        reference_boundary=int(np.count_nonzero(theirs[inner])),
        predicted_boundary_matched=_near(ours, theirs, inner, steps, tolerance),
        reference_boundary_matched=_near(theirs, ours, inner, steps, tolerance),
    )


def boundary(flood: Bools, seen: Bools) -> Bools:
    """Return the boundary pixels of a mask: flooded pixels with a dry pixel left, right, above or below.

    An unobserved neighbour, or the edge of the scene, does not make a flooded pixel a boundary pixel, because the
    boundary of the flood is not known there.

    Args:
        flood: bool (height, width), True for flooded pixels.
        seen: bool (height, width), True for flooded and dry pixels.

    Returns:
        bool (height, width), True for boundary pixels.
    """
    dry = seen & ~flood
    beside = np.zeros_like(dry)
    beside[1:] |= dry[:-1]
    beside[:-1] |= dry[1:]
    beside[:, 1:] |= dry[:, :-1]
    beside[:, :-1] |= dry[:, 1:]
    return flood & beside


def _near(of: Bools, to: Bools, inner: tuple[slice, slice], steps: tuple[float, float], tolerance: float) -> int:
    """Count the boundary pixels of one mask that are in the inner window and match the boundary of another mask.

    Args:
        of: bool (height, width), boundary pixels of the first mask in the outer window.
        to: bool (height, width), boundary pixels of the second mask in the outer window.
        inner: slices of the inner window in the outer window.
        steps: distance between rows and distance between columns, as returned by `spacing`.
        tolerance: largest distance of a counted pixel to a boundary pixel of the second mask, in the unit of `steps`.
    """
    here = np.zeros_like(of)
    here[inner] = of[inner]
    # Pixels on both boundaries need no search. The cost of a k-d tree grows with the length of the outlines. The cost
    # of a distance transform would grow with the area.
    matched = int(np.count_nonzero(here & to))
    here &= ~to
    if tolerance == 0 or not here.any() or not to.any():
        return matched
    tree = cKDTree(np.argwhere(to) * steps)
    # A small margin: the bound of the query is exclusive, and 3 pixels of 0.1 m are 0.30000000000000004 m.
    reach = tolerance * (1 + 1e-6)
    distances, _ = tree.query(np.argwhere(here) * steps, distance_upper_bound=reach)
    return matched + int(np.count_nonzero(np.isfinite(distances)))
