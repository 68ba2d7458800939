"""Codes of a frame on the pixels of a product: copied if both have the same pixels, else resampled bilinearly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from floodmap.geo.window import Window
from floodmap.scaleout.frame_codes import FrameCodes
from floodmap.scaleout.placement import Placement, taps
from floodmap.strips.codes import FAILED, FIRST_REASON, NODATA

FULL_WEIGHT_PX = 512
"""Distance from the edge of a frame, in frame pixels, from which the weight no longer grows: half of a window.

A pixel at least so far from the edge is in the middle of a window of the model at best, as anywhere else in the frame.
A limit also keeps a very large frame from outweighing all smaller frames."""
_LEAST_PX = 0.5
"""Distance of the centre of an outermost pixel from the edge. No observed pixel has a smaller weight."""
_CHUNK_PIXELS = 2**18
"""Largest number of product pixels that are resampled at a time, to limit memory."""

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]


class Contribution(NamedTuple):
    """What one frame contributes to the pixels of a window of the product."""

    percent: Floats
    """Flood probability in per cent, float32 (height, width); arbitrary at unobserved pixels."""
    reason: Codes
    """uint8 (height, width): 0 at pixels that the frame observes, else the reason; `NODATA` outside of the frame."""
    weight: Floats
    """Blend weight, float32 (height, width): above 0 at observed pixels; arbitrary at unobserved pixels."""


@dataclass(frozen=True, slots=True)
class PlacedFrame:
    """A segmented or failed frame with its place in the product."""

    placement: Placement
    """Position of the frame's pixels in the product."""
    codes: FrameCodes | None
    """Codes of the frame; None if the frame failed."""

    def contributions(self, rows: tuple[int, int]) -> Iterator[tuple[Window, Contribution]]:
        """Yield the frame's contributions to a range of product rows (first, end), window by window."""
        window = self.placement.within(rows)
        if window is None:
            return
        if self.placement.shift is not None:
            yield window, self._copied(window, self.placement.shift)
            return
        width = max(1, _CHUNK_PIXELS // window.height)
        for col in range(window.col_off, window.col_end, width):
            chunk = Window(window.row_off, col, window.height, min(width, window.col_end - col))
            if (resampled := self._resampled(chunk)) is not None:
                yield chunk, resampled

    def _copied(self, window: Window, shift: tuple[int, int]) -> Contribution:
        part = Window(window.row_off - shift[0], window.col_off - shift[1], window.height, window.width)
        codes = self._read(part)
        weight = np.ones(codes.shape, np.float32)
        if self.codes is not None:
            distances = self.codes.distances()
            for axis, (first, end) in enumerate(((part.row_off, part.row_end), (part.col_off, part.col_end))):
                side = self.placement.frame.shape_hw[axis] / (distances.shape[axis] - 2)
                nodes = np.arange(distances.shape[axis], dtype=float)
                before, share = taps(nodes, (np.arange(first, end) + 0.5) / side + 0.5)
                low, high = np.take(distances, before, axis=axis), np.take(distances, before + 1, axis=axis)
                weights = share.astype(np.float32)
                distances = low + (high - low) * (weights[:, None] if axis == 0 else weights[None, :])
            weight = edge_weight(distances)
        return Contribution(codes.astype(np.float32), np.where(codes >= FIRST_REASON, codes, np.uint8(0)), weight)

    def _resampled(self, window: Window) -> Contribution | None:
        """Return the resampled contribution to a window; None if the frame covers none of its pixels."""
        height, width = self.placement.frame.shape_hw
        x, y = self.placement.to_frame(window)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        if not inside.any():
            return None
        x, y = x[inside], y[inside]
        percent, weight = np.zeros(inside.shape, np.float32), np.zeros(inside.shape, np.float32)
        reason = np.full(inside.shape, NODATA, np.uint8)
        percent[inside], reason[inside] = self._at(x, y)
        if self.codes is not None:
            distances = self.codes.distances()
            down, across = height / (distances.shape[0] - 2), width / (distances.shape[1] - 2)
            places = np.stack([y / down + 0.5, x / across + 0.5])
            weight[inside] = edge_weight(map_coordinates(distances, places, order=1, mode="nearest"))
        return Contribution(percent, reason, weight * np.float32(self.placement.scale**2))

    def _at(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[Floats, Codes]:
        """Return percentages and reasons at positions in the frame, which are given in frame pixels."""
        factor, (height, width) = self.placement.factor, self.placement.frame.shape_hw
        top, left = (max(int(values.min()) // factor - 1, 0) * factor for values in (y, x))
        bottom, right = ((int(values.max()) // factor + 2) * factor for values in (y, x))
        part = Window(top, left, min(bottom, height) - top, min(right, width) - left)
        percent, reason = averaged(self._read(part), factor)
        return interpolated(percent, reason, (x - left) / factor, (y - top) / factor)

    def _read(self, window: Window) -> Codes:
        if self.codes is None:
            return np.full((window.height, window.width), FAILED, np.uint8)
        return self.codes.read(window)


def edge_weight(distance_px: Floats) -> Floats:
    """Return the blend weights of pixels of a frame.

    The weight grows smoothly with the distance from the edge (3 s^2 - 2 s^3, the "smoothstep" polynomial). Weight and
    slope are 0 at the edge of a frame, so that there is no step in the product where a frame ends.

    Args:
        distance_px: distance from the frame's edge of observed pixels, in frame pixels, float32 of any shape.

    Returns:
        float32 of the same shape, above 0, at most 1.
    """
    share = np.clip(distance_px, _LEAST_PX, FULL_WEIGHT_PX) / np.float32(FULL_WEIGHT_PX)
    return np.asarray(share * share * (3 - 2 * share), np.float32)


def averaged(codes: Codes, factor: int) -> tuple[Floats, Codes]:
    """Average squares of pixels.

    A square is observed if more than half of its pixels are observed; of the reasons of other squares, the lowest code
    is kept. The mean is that of the observed pixels.

    Args:
        codes: uint8 (height, width).
        factor: side of a square, in pixels. Squares at the lower and right edge may be cut off.

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


def interpolated(
    percent: Floats, reason: Codes, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[Floats, Codes]:
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
    known = np.pad((reason == 0).astype(np.float32), 1)
    values = np.pad(np.where(reason == 0, percent, 0).astype(np.float32), 1)
    col, row = np.floor(x - 0.5).astype(np.intp), np.floor(y - 0.5).astype(np.intp)
    across, down = (x - 0.5 - col).astype(np.float32), (y - 0.5 - row).astype(np.float32)
    total, weight = np.zeros(x.shape, np.float32), np.zeros(x.shape, np.float32)
    for below, row_share in ((0, 1 - down), (1, down)):
        for beside, col_share in ((0, 1 - across), (1, across)):
            index, share = (row + 1 + below, col + 1 + beside), row_share * col_share
            total += share * values[index]
            weight += share * known[index]
    at_x = np.clip(np.floor(x).astype(np.intp), 0, reason.shape[1] - 1)
    at_y = np.clip(np.floor(y).astype(np.intp), 0, reason.shape[0] - 1)
    return np.asarray(total / np.maximum(weight, np.float32(1e-6)), np.float32), reason[at_y, at_x]
