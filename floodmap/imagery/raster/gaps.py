"""Gaps: areas of a raster without pixels, such as blocks that were never written, or missing members of a VRT mosaic.

GDAL reads the value 0 in gaps. The value 0 is black and may look like water.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Lock
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window as GdalWindow

from floodmap.geo.gdal import forget_error
from floodmap.geo.vrt import Rect
from floodmap.imagery.raster.axis import Axis
from floodmap.strips.codes import FAILED, NODATA

Codes = NDArray[np.uint8]

MAX_BLOCKS = 10_000_000
"""Largest number of blocks of a band in which `block_gaps` looks for blocks that were never written.

Ten million blocks of 128 x 128 pixels are 164 gigapixels. The search then takes ten seconds and 200 MB. Rasters with
more blocks are not searched."""
LOG = logging.getLogger(__name__)

_FINEST = 4
"""Largest number of rows of a mask that `HiddenGaps.within` reads for each row of the result; the same for columns."""
_MOST_READ = 1 << 22
"""Largest number of pixels of one band that `HiddenGaps.within` reads at once; at most one row of the result more.

Without a limit, the masks of a preview of a large mosaic would need more memory than the preview."""


class Gaps(Protocol):
    """Areas of a raster without pixels."""

    def within(self, rect: Rect, shape_hw: tuple[int, int]) -> Codes | None:
        """Return which pixels of a rectangle are gaps.

        Args:
            rect: the rectangle, in pixels of the raster; may have fractions.
            shape_hw: rows and columns of the result. The rectangle is divided into this number of equal pixels.

        Returns:
            Codes, uint8 `shape_hw`; None if there is no gap. A code is FAILED at pixels of a member that cannot be
            read, NODATA at pixels that were never written or that no member covers, and 0 at pixels that are no gap.
            A pixel of the result that touches an unwritten block is a gap.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class BlockGaps:
    """Gaps of a TIFF: blocks that were never written."""

    absent: NDArray[np.bool_]
    """bool (rows of blocks, columns of blocks): True for blocks that were never written."""
    block_hw: tuple[int, int]
    """Rows and columns of a block, in pixels."""

    def within(self, rect: Rect, shape_hw: tuple[int, int]) -> Codes | None:
        """Return the codes of a rectangle, uint8 `shape_hw`, as described at `Gaps.within`; None if there is no gap."""
        rows = Axis(rect.top, rect.height, shape_hw[0])
        cols = Axis(rect.left, rect.width, shape_hw[1])
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
class PlacedMember:
    """Member of a VRT mosaic: place in the mosaic, and gaps of the member."""

    place: Rect
    """Rectangle of the mosaic that the member fills, in pixels of the mosaic."""
    source: Rect
    """Rectangle of the member that fills `place`, in pixels of the member."""
    transparent: bool = False
    """Whether members below show through the member's gaps."""
    gaps: Gaps | None = None
    """Gaps of the member itself; None if the member has no gaps."""
    lost: bool = False
    """Whether the member cannot be read at all."""
    needed: bool = False
    """Whether a pixel function of the VRT computes the mosaic from all members.

    If True and the member is lost, the mosaic has no values at `place`, even if other members cover `place`."""


@dataclass(frozen=True, slots=True, eq=False)
class MosaicGaps:
    """Gaps of one band of a VRT mosaic: missing members, gaps of members, and areas that no member covers."""

    placed: Sequence[PlacedMember]
    """The members in drawing order, the topmost last."""
    bounds: NDArray[np.float64]
    """float64 (members, 4): left, top, right and bottom of each member, in pixels of the mosaic."""

    def within(self, rect: Rect, shape_hw: tuple[int, int]) -> Codes | None:
        """Return the codes of a rectangle, uint8 `shape_hw`, as described at `Gaps.within`; None if there is no gap."""
        left, top, right, bottom = self.bounds.T
        near = (left < rect.left + rect.width) & (right > rect.left)
        near &= (top < rect.top + rect.height) & (bottom > rect.top)
        found = np.full(shape_hw, NODATA, np.uint8)
        chosen = [member for member, is_near in zip(self.placed, near, strict=True) if is_near]
        # Missing members are drawn first, because readable members below show through, and their values are real. If
        # values are computed from all members, missing members are drawn last.
        for member in sorted(chosen, key=lambda member: 2 if member.lost and member.needed else not member.lost):
            self._draw(member, rect, found)
        return found if found.any() else None

    def _draw(self, member: PlacedMember, rect: Rect, found: Codes) -> None:
        place, source = member.place, member.source
        rows, cols = Axis(rect.top, rect.height, len(found)), Axis(rect.left, rect.width, found.shape[1])
        part = found[
            rows.covered(place.top, place.top + place.height), cols.covered(place.left, place.left + place.width)
        ]
        if member.lost or member.gaps is None or not part.size:
            part[...] = FAILED if member.lost else 0
            return
        across, down = source.width / place.width, source.height / place.height
        left, top = max(rect.left, place.left), max(rect.top, place.top)
        right = min(rect.left + rect.width, place.left + place.width)
        bottom = min(rect.top + rect.height, place.top + place.height)
        inner = member.gaps.within(
            Rect(
                source.left + (left - place.left) * across, source.top + (top - place.top) * down,
                (right - left) * across, (bottom - top) * down,
            ),
            (part.shape[0], part.shape[1]),
        )  # fmt: skip
        if inner is None:
            part[...] = 0
        elif member.transparent:
            part[inner == 0] = 0
        else:
            part[...] = inner


@dataclass(frozen=True, slots=True, eq=False)
class CombinedGaps:
    """Gaps of several bands together: a pixel is a gap if it is a gap in any band."""

    bands: Sequence[Gaps]
    """Gaps of each band."""

    def within(self, rect: Rect, shape_hw: tuple[int, int]) -> Codes | None:
        """Return the codes of a rectangle, uint8 `shape_hw`, as described at `Gaps.within`; None if there is no gap."""
        found = [codes for band in self.bands if (codes := band.within(rect, shape_hw)) is not None]
        if not found:
            return None
        missing = np.logical_or.reduce([codes == FAILED for codes in found])
        return np.where(missing, FAILED, np.maximum.reduce(found)).astype(np.uint8)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class HiddenGaps:
    """Gaps of a VRT mosaic or of a GDAL tile index, found in the masks of a second raster, `coverage`.

    `coverage` is the same mosaic or tile index, opened once more in a form that has masks (see `Vrt.coverage` and
    `tile_index.open_with_mask`). The GDAL mask of a band of `coverage` is 0 at pixels for which no file has data.
    """

    coverage: DatasetReader
    """The second raster, with as many rows and columns as the mosaic or tile index."""
    bands: tuple[int, ...]
    """Numbers of the bands of `coverage` whose masks are read, from 1."""
    in_any: bool = False
    """True: a pixel is a gap if the mask of at least one of `bands` is 0 there.
    False: a pixel is a gap if the masks of all `bands` are 0 there."""
    lock: Lock = field(default_factory=Lock)
    """Lock that is held while GDAL reads, because only one thread at a time may use a dataset."""

    def within(self, rect: Rect, shape_hw: tuple[int, int]) -> Codes | None:
        """Return the codes of a rectangle, uint8 `shape_hw`, as described at `Gaps.within`; None if there is no gap.

        A pixel of the result can be wider or higher than `_FINEST` pixels of `coverage`. Some rows and columns of the
        masks are then skipped, so that a small gap can be missed.
        """
        height = rect.height / shape_hw[0]
        finest_hw = min(rect.height, _FINEST * shape_hw[0]), min(rect.width, _FINEST * shape_hw[1])
        count = max(1, min(shape_hw[0], math.ceil(finest_hw[0] * finest_hw[1] / _MOST_READ)))
        edges = [shape_hw[0] * number // count for number in range(count + 1)]
        found = np.zeros(shape_hw, np.uint8)
        for first, last in pairwise(edges):
            part = Rect(rect.left, rect.top + first * height, rect.width, (last - first) * height)
            codes = self._read(part, (last - first, shape_hw[1]))
            if codes is not None:
                found[first:last] = codes
        return found if found.any() else None

    def _read(self, rect: Rect, shape_hw: tuple[int, int]) -> Codes | None:
        """Return what `within` returns. The masks of the whole rectangle are read at once."""
        rows, cols = Axis(rect.top, rect.height, shape_hw[0]), Axis(rect.left, rect.width, shape_hw[1])
        top, bottom = rows.blocks(1, self.coverage.height)
        left, right = cols.blocks(1, self.coverage.width)
        if top >= bottom or left >= right:
            return None
        read_hw = min(bottom - top, _FINEST * shape_hw[0]), min(right - left, _FINEST * shape_hw[1])
        window = GdalWindow(left, top, right - left, bottom - top)
        try:
            with self.lock:
                masks = self.coverage.read_masks(list(self.bands), window=window, out_shape=(len(self.bands), *read_hw))
        except RasterioError:
            forget_error(self.coverage)
            return np.full(shape_hw, FAILED, np.uint8)
        masked = (masks == 0).any(axis=0) if self.in_any else (masks == 0).all(axis=0)
        if not masked.any():
            return None
        masked = rows.gather(masked, top, bottom - top)
        masked = cols.gather(masked.T, left, right - left).T
        return np.where(masked, NODATA, 0).astype(np.uint8) if masked.any() else None


def block_gaps(dataset: DatasetReader, bands: Sequence[int]) -> BlockGaps | None:
    """Find blocks of a GeoTIFF that were never written.

    Args:
        dataset: the open raster.
        bands: numbers of the bands, from 1. A block is a gap if it is missing in one of these bands or more.

    Returns:
        The gaps. None: all blocks were written, the raster is no GeoTIFF, or the raster has more than `MAX_BLOCKS`
        blocks, so that the search would take too long. A warning is logged in the last case.
    """
    if dataset.driver != "GTiff":
        return None
    pixel_by_pixel = dataset.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE") != "BAND"
    high, wide = dataset.block_shapes[bands[0] - 1]
    shape = math.ceil(dataset.height / high), math.ceil(dataset.width / wide)
    if math.prod(shape) > MAX_BLOCKS:
        LOG.warning(
            "%s has %d blocks, too many to look for blocks that were never written; if there are any, they are read as "
            "0: declare nodata 0 first",
            dataset.name,
            math.prod(shape),
        )
        return None
    absent = np.zeros(shape, bool)
    for band in bands[:1] if pixel_by_pixel else bands:
        for row, col in np.ndindex(*absent.shape):
            if dataset.get_tag_item(f"BLOCK_OFFSET_{col}_{row}", "TIFF", bidx=band) is None:
                absent[row, col] = True
    return BlockGaps(absent, (high, wide)) if absent.any() else None


def mosaic_gaps(placed: Sequence[PlacedMember], shape_hw: tuple[int, int]) -> MosaicGaps | None:
    """Return the gaps of one band of a VRT mosaic.

    Args:
        placed: members of the band in drawing order, the topmost last.
        shape_hw: rows and columns of the mosaic, in pixels.

    Returns:
        The gaps; None if the mosaic surely has no gaps. This is so if all three conditions hold:

        - One member can be read, has no gaps and fills the whole mosaic.
        - Each member above this member has no gaps, or shows the members below in its gaps. A lost member above does
          not matter, because GDAL shows the members below it.
        - No lost member is needed (`PlacedMember.needed`).

        Otherwise `MosaicGaps` is returned, even if no pixel is a gap, as in a mosaic of two complete halves.
    """
    whole = Rect(0, 0, shape_hw[1], shape_hw[0])
    complete = [member.place == whole and member.gaps is None and not member.lost for member in placed]
    if any(complete) and not any(member.lost and member.needed for member in placed):
        above = placed[len(placed) - complete[::-1].index(True) :]
        if all(member.gaps is None or member.transparent for member in above):
            return None
    edges = [
        (left, top, left + width, top + height) for left, top, width, height in (member.place for member in placed)
    ]
    return MosaicGaps(placed, np.array(edges, np.float64).reshape(-1, 4))


def combined(*bands: Gaps | None) -> Gaps | None:
    """Return the gaps of several bands together: a pixel is a gap if it is a gap in any band. None: there are none."""
    found = [gaps for gaps in bands if gaps is not None]
    return CombinedGaps(found) if found else None
