"""Ground that a raster has no pixels for: blocks never written, and parts of a mosaic that are missing.

GDAL reads both as 0, which is black and may look like water.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rasterio.io import DatasetReader

from floodmap.geo.vrt import Rect
from floodmap.strips.codes import FAILED, NODATA

Codes = NDArray[np.uint8]

MOST_BLOCKS = 1_000_000
"""Blocks that are asked for one by one, at most: two seconds' worth, 65 gigapixels in blocks of 256 pixels a side."""


class Gaps(Protocol):
    """What a raster lacks."""

    def within(self, rect: Rect, shape_hw: tuple[int, int]) -> Codes | None:
        """Codes of a rectangle of the raster seen at a height and width; None where nothing is lacking.

        0 where there are pixels; NODATA where none was ever written; FAILED where they are missing. Where the rectangle
        is seen smaller than it is, a pixel lacks something if any of those beneath it does.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class BlockGaps:
    """Blocks of a TIFF that were never written."""

    absent: NDArray[np.bool_]
    """(rows, columns) of blocks."""
    block_hw: tuple[int, int]

    def within(self, rect: Rect, shape_hw: tuple[int, int]) -> Codes | None:
        """See `Gaps`."""
        rows = _Axis(rect.top, rect.height, shape_hw[0])
        cols = _Axis(rect.left, rect.width, shape_hw[1])
        first_row, last_row = rows.blocks(self.block_hw[0], len(self.absent))
        first_col, last_col = cols.blocks(self.block_hw[1], self.absent.shape[1])
        part = self.absent[first_row:last_row, first_col:last_col]
        if not part.any():
            return None
        found = np.zeros(shape_hw, np.uint8)
        high, wide = self.block_hw
        for row, col in np.argwhere(part) + np.array([first_row, first_col]):
            found[rows.touched(row * high, (row + 1) * high), cols.touched(col * wide, (col + 1) * wide)] = NODATA
        return found


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Placed:
    """A member of a mosaic, and what it lacks itself."""

    place: Rect
    """Where it lies in the mosaic."""
    source: Rect
    """What of the member that is."""
    see_through: bool = False
    """Where it lacks something, what lies beneath shows."""
    gaps: Gaps | None = None
    lost: bool = False
    """It cannot be read at all."""
    needed: bool = False
    """Where it cannot be read there is nothing, whatever lies beneath: values are computed from all members."""


@dataclass(frozen=True, slots=True, eq=False)
class MosaicGaps:
    """What is missing of a mosaic's band, and where no member of it lies."""

    placed: Sequence[Placed]
    """In the order in which they are drawn."""
    bounds: NDArray[np.float64]
    """(n, 4): left, top, right and bottom of each in the mosaic."""

    def within(self, rect: Rect, shape_hw: tuple[int, int]) -> Codes | None:
        """See `Gaps`."""
        left, top, right, bottom = self.bounds.T
        near = (left < rect.left + rect.width) & (right > rect.left)
        near &= (top < rect.top + rect.height) & (bottom > rect.top)
        found = np.full(shape_hw, NODATA, np.uint8)
        chosen = [one for one, is_near in zip(self.placed, near, strict=True) if is_near]
        # What lies beneath a missing member shows, and is real, unless that takes part in what is computed.
        for one in sorted(chosen, key=lambda one: 2 if one.lost and one.needed else not one.lost):
            self._draw(one, rect, found)
        return found if found.any() else None

    def _draw(self, one: Placed, rect: Rect, found: Codes) -> None:
        place, source = one.place, one.source
        rows, cols = _Axis(rect.top, rect.height, len(found)), _Axis(rect.left, rect.width, found.shape[1])
        part = found[
            rows.covered(place.top, place.top + place.height), cols.covered(place.left, place.left + place.width)
        ]
        if one.lost or one.gaps is None or not part.size:
            part[...] = FAILED if one.lost else 0
            return
        across, down = source.width / place.width, source.height / place.height
        left, top = max(rect.left, place.left), max(rect.top, place.top)
        right = min(rect.left + rect.width, place.left + place.width)
        bottom = min(rect.top + rect.height, place.top + place.height)
        inner = one.gaps.within(
            Rect(
                source.left + (left - place.left) * across, source.top + (top - place.top) * down,
                (right - left) * across, (bottom - top) * down,
            ),
            (part.shape[0], part.shape[1]),
        )  # fmt: skip
        if inner is None:
            part[...] = 0
        elif one.see_through:
            part[inner == 0] = 0
        else:
            part[...] = inner


@dataclass(frozen=True, slots=True, eq=False)
class AnyGaps:
    """What any of several bands lacks."""

    bands: Sequence[Gaps]

    def within(self, rect: Rect, shape_hw: tuple[int, int]) -> Codes | None:
        """See `Gaps`."""
        found = [codes for band in self.bands if (codes := band.within(rect, shape_hw)) is not None]
        if not found:
            return None
        missing = np.logical_or.reduce([codes == FAILED for codes in found])
        return np.where(missing, FAILED, np.maximum.reduce(found)).astype(np.uint8)


def block_gaps(dataset: DatasetReader, bands: Sequence[int]) -> BlockGaps | None:
    """Blocks of a GeoTIFF that were never written in some of these bands; None where all were.

    Of more than `MOST_BLOCKS` nothing is said: asking for each would take longer than a damaged header is worth.
    """
    if dataset.driver != "GTiff":
        return None
    pixel_by_pixel = dataset.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE") != "BAND"
    high, wide = dataset.block_shapes[bands[0] - 1]
    shape = math.ceil(dataset.height / high), math.ceil(dataset.width / wide)
    if math.prod(shape) > MOST_BLOCKS:
        return None
    absent = np.zeros(shape, bool)
    for band in bands[:1] if pixel_by_pixel else bands:
        for row, col in np.ndindex(*absent.shape):
            if dataset.get_tag_item(f"BLOCK_OFFSET_{col}_{row}", "TIFF", bidx=band) is None:
                absent[row, col] = True
    return BlockGaps(absent, (high, wide)) if absent.any() else None


def mosaic_gaps(placed: Sequence[Placed], shape_hw: tuple[int, int]) -> MosaicGaps | None:
    """What a band of a mosaic lacks; None where one whole member covers it."""
    whole = Rect(0, 0, shape_hw[1], shape_hw[0])
    complete = any(one.place == whole and one.gaps is None and not one.lost for one in placed)
    if complete and not any(one.lost and one.needed for one in placed):
        return None
    edges = [(left, top, left + width, top + height) for left, top, width, height in (one.place for one in placed)]
    return MosaicGaps(placed, np.array(edges, np.float64).reshape(-1, 4))


@dataclass(frozen=True, slots=True)
class _Axis:
    """Pixels along one side of a rectangle of a raster."""

    first: float
    length: float
    count: int

    def touched(self, start: float, stop: float) -> slice:
        """Pixels that a stretch of the raster touches."""
        scale = self.count / self.length
        low, high = (start - self.first) * scale, (stop - self.first) * scale
        return self._slice(math.floor(low + _EPSILON), math.ceil(high - _EPSILON))

    def covered(self, start: float, stop: float) -> slice:
        """Pixels that a stretch of the raster covers for the most part."""
        scale = self.count / self.length
        return self._slice(round((start - self.first) * scale), round((stop - self.first) * scale))

    def blocks(self, size: int, count: int) -> tuple[int, int]:
        """The first block that lies here, and the one after the last."""
        first, last = math.floor(self.first / size), math.ceil((self.first + self.length) / size)
        return max(0, first), min(count, last)

    def _slice(self, low: int, high: int) -> slice:
        return slice(max(0, min(low, self.count)), max(0, min(high, self.count)))


_EPSILON = 1e-6
"""Of a pixel: what rounding may add."""
