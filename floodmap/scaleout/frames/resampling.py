"""Codes of a frame on the pixels of a product: copied if both have the same pixels, else resampled bilinearly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from floodmap.geo.window import Window
from floodmap.scaleout.frames.frame_codes import FrameCodes
from floodmap.scaleout.frames.interpolation import along_axes, averaged, interpolated, interpolated_along_axes
from floodmap.scaleout.frames.placement import Placement
from floodmap.strips.codes import FAILED, FIRST_REASON, NODATA

FULL_WEIGHT_PX = 512
"""Distance from the edge of a frame, in frame pixels, from which the weight no longer grows: half of a window.

A pixel at least so far from the edge is in the middle of a window of the model at best, as anywhere else in the frame.
A limit also keeps a very large frame from outweighing all smaller frames."""
_LEAST_PX = 0.5
"""Distance of the centre of an outermost pixel from the edge. No observed pixel has a smaller weight."""
_CHUNK_PIXELS = 2**18
"""Largest number of pixels that are resampled at a time, to limit memory: of the product, and of the frame around."""
_MOST_AROUND = 4
"""Largest quotient of the frame pixels that are read for a part of a product strip, and the frame pixels in this part.

Around a narrow strip that crosses a rotated frame, a rectangle of rows and columns is nearly the whole frame."""

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]
Places = NDArray[np.float64]


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
        resampled = self._resampled_along_axes if self.placement.is_parallel else self._resampled
        for chunk in self._chunks(window):
            yield from resampled(chunk)

    def _chunks(self, window: Window) -> Iterator[Window]:
        """Halve a window of the product until each part needs little memory, and little is read around it."""
        height, width = window.height, window.width
        around, inside = self.placement.pixels_around(window), height * width * self.placement.scale**2
        is_long = max(height, width) >= 2 * min(height, width)
        is_small = max(around, height * width) <= _CHUNK_PIXELS or height == width == 1
        if is_small and not (is_long and around > _MOST_AROUND * inside):
            yield window
            return
        top, left = window.row_off, window.col_off
        if height > width:
            half = height // 2
            parts = Window(top, left, half, width), Window(top + half, left, height - half, width)
        else:
            half = width // 2
            parts = Window(top, left, height, half), Window(top, left + half, height, width - half)
        for part in parts:
            yield from self._chunks(part)

    def _copied(self, window: Window, shift: tuple[int, int]) -> Contribution:
        part = Window(window.row_off - shift[0], window.col_off - shift[1], window.height, window.width)
        codes = self._read(part)
        x = np.arange(part.width, dtype=np.float64) + (part.col_off + 0.5)
        y = np.arange(part.height, dtype=np.float64) + (part.row_off + 0.5)
        reason = np.where(codes >= FIRST_REASON, codes, np.uint8(0))
        return Contribution(codes.astype(np.float32), reason, self._weight_along_axes(x, y))

    def _resampled_along_axes(self, window: Window) -> Iterator[tuple[Window, Contribution]]:
        """Yield the contribution of a frame whose rows and columns are parallel to those of the product.

        Interpolation along one axis after the other is several times as fast as at free positions.
        """
        x, y = self.placement.axes_to_frame(window)
        height, width = self.placement.frame.shape_hw
        cols, rows = np.flatnonzero((x >= 0) & (x < width)), np.flatnonzero((y >= 0) & (y < height))
        if not len(cols) or not len(rows):
            return
        inner = Window(window.row_off + int(rows[0]), window.col_off + int(cols[0]), len(rows), len(cols))
        x, y = x[cols], y[rows]
        percent, reason, (left, top) = self._source(x, y)
        factor = self.placement.factor
        percent, reason = interpolated_along_axes(percent, reason, (x - left) / factor, (y - top) / factor)
        weight = self._weight_along_axes(x, y) * np.float32(self.placement.scale**2)
        yield inner, Contribution(percent, reason, weight)

    def _resampled(self, window: Window) -> Iterator[tuple[Window, Contribution]]:
        """Yield the contribution to a window, unless the frame covers none of its pixels."""
        height, width = self.placement.frame.shape_hw
        x, y = self.placement.to_frame(window)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        if not inside.any():
            return
        x, y = x[inside], y[inside]
        percent, weight = np.zeros(inside.shape, np.float32), np.zeros(inside.shape, np.float32)
        reason = np.full(inside.shape, NODATA, np.uint8)
        own, why, (left, top) = self._source(x, y)
        factor = self.placement.factor
        percent[inside], reason[inside] = interpolated(own, why, (x - left) / factor, (y - top) / factor)
        if self.codes is not None:
            distances = self.codes.distances()
            places = np.stack([at + 0.5 for at in self._in_cells(x, y, distances)])
            weight[inside] = edge_weight(map_coordinates(distances, places, order=1, mode="nearest"))
        yield window, Contribution(percent, reason, weight * np.float32(self.placement.scale**2))

    def _source(self, x: Places, y: Places) -> tuple[Floats, Codes, tuple[int, int]]:
        """Read the part of the frame around positions, averaged to about the pixel size of the product.

        Args:
            x: columns of the positions, in frame pixels.
            y: rows of the positions, in frame pixels.

        Returns:
            Percentages, float32 (height, width); reasons, uint8 (height, width), 0 at observed pixels; and column and
            row, in the frame, of the upper left pixel that was read.
        """
        factor, (height, width) = self.placement.factor, self.placement.frame.shape_hw
        top, left = (max(int(values.min()) // factor - 1, 0) * factor for values in (y, x))
        bottom, right = ((int(values.max()) // factor + 2) * factor for values in (y, x))
        part = Window(top, left, min(bottom, height) - top, min(right, width) - left)
        return *averaged(self._read(part), factor), (left, top)

    def _weight_along_axes(self, x: Places, y: Places) -> Floats:
        """Return the weights at columns x and rows y of the frame, float32 (rows, columns)."""
        if self.codes is None:
            return np.ones((len(y), len(x)), np.float32)
        distances = self.codes.distances()
        down, across = self._in_cells(x, y, distances)
        return edge_weight(along_axes(distances, across + 0.5, down + 0.5))

    def _in_cells(self, x: Places, y: Places, distances: Floats) -> tuple[Places, Places]:
        """Convert positions in frame pixels to rows and columns of the cells of distances, which have a margin of 1."""
        (height, width), (n_rows, n_cols) = self.placement.frame.shape_hw, distances.shape
        return y * ((n_rows - 2) / height), x * ((n_cols - 2) / width)

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
