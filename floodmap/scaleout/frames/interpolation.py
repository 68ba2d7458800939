"""Interpolation of codes between pixels: averages over squares of pixels, and bilinear interpolation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from floodmap.strips.codes import FIRST_REASON, NODATA

_LEAST_SHARE = np.float32(1e-6)
"""Lower limit of a divisor; it is reached only at positions that are unobserved."""

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]
Places = NDArray[np.float64]


def averaged(codes: Codes, factor: int) -> tuple[Floats, Codes]:
    """Average squares of pixels.

    A square is observed if more than half of its pixels are observed; of the reasons of other squares, the lowest code
    is kept. The mean is that of the observed pixels.

    Args:
        codes: uint8 (height, width).
        factor: side of a square, in pixels. Squares at the lower and right edge may have fewer pixels.

    Returns:
        Percentages, float32, and reasons, uint8, 0 at observed squares; both of the shape (height, width) divided by
        `factor`, rounded up.
    """
    observed = codes < FIRST_REASON
    if factor == 1:
        return codes.astype(np.float32), np.where(observed, np.uint8(0), codes)
    starts = [np.arange(0, length, factor) for length in codes.shape]

    def reduced(how: np.ufunc, values: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(how.reduceat(how.reduceat(values, starts[0], axis=0), starts[1], axis=1))

    count = reduced(np.add, observed.astype(np.float32))
    total = reduced(np.add, np.ones(codes.shape, np.float32))
    percent = reduced(np.add, np.where(observed, codes, 0).astype(np.float32)) / np.maximum(count, 1)
    lowest = reduced(np.minimum, np.where(observed, np.uint8(NODATA), codes))
    return np.asarray(percent, np.float32), np.where(2 * count > total, np.uint8(0), lowest).astype(np.uint8)


def interpolated(percent: Floats, reason: Codes, x: Places, y: Places) -> tuple[Floats, Codes]:
    """Interpolate percentages bilinearly between observed pixels alone, so that no reason enters a percentage.

    A position is observed if the pixel that contains it is observed. Of the four nearest pixels, those that are
    unobserved or outside are left out, and the weights of the others are divided by their sum.

    Args:
        percent: float32 (height, width).
        reason: uint8 (height, width), 0 at observed pixels.
        x: columns of the positions, float64 (n,), 0 at the left edge of the first pixel.
        y: rows of the positions, float64 (n,).

    Returns:
        Percentages, float32 (n,), and reasons, uint8 (n,).
    """
    known, values = _known_and_values(percent, reason)
    col, row = np.floor(x - 0.5).astype(np.intp), np.floor(y - 0.5).astype(np.intp)
    across, down = (x - 0.5 - col).astype(np.float32), (y - 0.5 - row).astype(np.float32)
    width = values.shape[1]
    corner = (row + 1) * width + (col + 1)

    def bilinear(grid: Floats) -> Floats:
        upper, upper_next, lower, lower_next = (grid.ravel().take(corner + step) for step in (0, 1, width, width + 1))
        above, below = upper + across * (upper_next - upper), lower + across * (lower_next - lower)
        return np.asarray(above + down * (below - above), np.float32)

    found = bilinear(values)
    if known is not None:
        found /= np.maximum(bilinear(known), _LEAST_SHARE)
    at_x, at_y = _containing(x, reason.shape[1]), _containing(y, reason.shape[0])
    return found, reason[at_y, at_x]


def interpolated_along_axes(percent: Floats, reason: Codes, x: Places, y: Places) -> tuple[Floats, Codes]:
    """Do the same as `interpolated` for the positions of a lattice.

    Args:
        percent: float32 (height, width).
        reason: uint8 (height, width), 0 at observed pixels.
        x: columns of the lattice, float64 (w,).
        y: rows of the lattice, float64 (h,).

    Returns:
        Percentages, float32 (h, w), and reasons, uint8 (h, w).
    """
    known, values = _known_and_values(percent, reason)
    found = along_axes(values, x + 0.5, y + 0.5)
    if known is not None:
        found /= np.maximum(along_axes(known, x + 0.5, y + 0.5), _LEAST_SHARE)
    return found, reason[np.ix_(_containing(y, reason.shape[0]), _containing(x, reason.shape[1]))]


def _known_and_values(percent: Floats, reason: Codes) -> tuple[Floats | None, Floats]:
    """Return two arrays to interpolate, float32 (height + 2, width + 2), with a margin of one pixel.

    The first is 1 at observed pixels and 0 elsewhere. The second has the percentages of observed pixels, and 0
    elsewhere. If all pixels are observed, the first is None, and the margin of the second repeats the outermost
    percentages.
    """
    if not reason.any():
        return None, np.pad(percent, 1, mode="edge")
    known = np.pad((reason == 0).astype(np.float32), 1)
    return known, np.pad(np.where(reason == 0, percent, np.float32(0)), 1)


def _containing(places: Places, length: int) -> NDArray[np.intp]:
    """Return the index of the pixel that contains each position, along an axis of `length` pixels."""
    return np.clip(np.floor(places).astype(np.intp), 0, length - 1)


def along_axes(grid: Floats, cols: Places, rows: Places) -> Floats:
    """Interpolate bilinearly at the positions of a lattice.

    Args:
        grid: float32 (height, width), at least 2 x 2.
        cols: columns, float64 (w,); 0 is the centre of the first pixel.
        rows: rows, float64 (h,).

    Returns:
        float32 (h, w).
    """
    for axis, places in ((0, rows), (1, cols)):
        before = np.clip(np.floor(places).astype(np.intp), 0, grid.shape[axis] - 2)
        share = (places - before).astype(np.float32)
        low, high = np.take(grid, before, axis=axis), np.take(grid, before + 1, axis=axis)
        grid = low + (high - low) * (share[:, None] if axis == 0 else share[None, :])
    return grid
