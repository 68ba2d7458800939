"""Blending of frames: the codes of a range of product rows, from all frames that touch these rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from floodmap.geo.window import Window
from floodmap.scaleout.frames.resampling import Contribution, PlacedFrame
from floodmap.strips.codes import NODATA

_STRIP_PIXELS = 2**20
"""Largest number of pixels in a strip of the product, unless `_LEAST_ROWS` rows have more.

A strip needs 9 bytes a pixel, whatever the number of frames."""
_LEAST_ROWS, _MOST_ROWS = 64, 1024


def strip_rows(width: int) -> int:
    """Return the number of rows of a strip, for a product of `width` columns."""
    return max(_LEAST_ROWS, min(_STRIP_PIXELS // width, _MOST_ROWS))


class Blend:
    """Weighted mean of the frames in a range of product rows.

    Args:
        rows: the range of product rows (first, end).
        width: number of columns of the product.
    """

    def __init__(self, rows: tuple[int, int], width: int) -> None:
        shape = rows[1] - rows[0], width
        self._window = Window(rows[0], 0, *shape)
        self._percent, self._weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self._reason = np.full(shape, NODATA, np.uint8)

    def add(self, window: Window, contribution: Contribution) -> None:
        """Add what a frame contributes to a window of the product, which lies in the range of rows.

        If no frame observes a pixel, the lowest code of the reasons is kept: outside the area of interest, then failed,
        under the user's mask, collar, nodata. Ground that one frame lost by a failure is thereby not called nodata.
        """
        index = window.within(self._window).slices
        observed = contribution.reason == 0
        weight = np.where(observed, contribution.weight, np.float32(0))
        self._weight[index] += weight
        self._percent[index] += weight * np.where(observed, contribution.percent, np.float32(0))
        reason = np.where(observed, np.uint8(NODATA), contribution.reason)
        np.minimum(self._reason[index], reason, out=self._reason[index])

    def codes(self) -> NDArray[np.uint8]:
        """Return the codes of the rows, uint8 (rows, width)."""
        observed = self._weight > 0
        percent = self._percent / np.where(observed, self._weight, np.float32(1))
        # As in `inference.mosaic`: 1e-4 per cent against rounding errors of the weights.
        return np.where(observed, (percent + np.float32(0.5 + 1e-4)).astype(np.uint8), self._reason)


def blend_rows(rows: tuple[int, int], width: int, frames: Sequence[PlacedFrame]) -> NDArray[np.uint8]:
    """Blend all frames in a range of product rows.

    Args:
        rows: the range of product rows (first, end).
        width: number of columns of the product.
        frames: all frames, in the order in which they are summed.

    Returns:
        Codes, uint8 (rows, width).
    """
    blend = Blend(rows, width)
    for frame in frames:
        for window, contribution in frame.contributions(rows):
            blend.add(window, contribution)
    return blend.codes()
