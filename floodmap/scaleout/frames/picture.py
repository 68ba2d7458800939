"""Picture of a product for the HTML report: reduced pictures of the frames, laid over each other."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from floodmap.geo.geogrid import GeoGrid
from floodmap.imagery.scene import Scene
from floodmap.imagery.tile import Tile
from floodmap.output.pages.maps import SIDE
from floodmap.scaleout.frames.listing import Frame
from floodmap.scaleout.frames.placement import Placement
from floodmap.strips.codes import NODATA, OUTSIDE

log = logging.getLogger(__name__)


def product_picture(frames: Sequence[Frame], grid: GeoGrid) -> Tile:
    """Return a reduced picture of the product, of at most `maps.SIDE` pixels a side.

    Each pixel is that of the frame in whose picture it lies farthest from the edge. The light of the frames is not
    adjusted. A frame that cannot be opened any more is left out: its results are complete.

    Args:
        frames: the frames; they are opened one after the other.
        grid: grid of the product.
    """
    small = _reduced(grid, SIDE)
    rgb, reason = np.zeros((3, *small.shape_hw), np.uint8), np.full(small.shape_hw, NODATA, np.uint8)
    nearest = np.zeros(small.shape_hw)
    for frame in frames:
        share = (grid.gsd_m or 1.0) * grid.width / small.width / (frame.grid.gsd_m or 1.0)
        side = max(1, min(SIDE, round(max(frame.grid.shape_hw) / max(share, 1.0))))
        try:
            with Scene.open(frame.source, frame.options) as scene:
                tile, own = scene.preview(side), scene.grid
        except Exception as error:
            log.warning("%s is left out of the picture of the HTML report: %s", frame.source, error)
            continue
        _lay(tile, own, small, rgb, reason, nearest)
    return Tile(small.whole, rgb, reason)


def _lay(
    tile: Tile, frame: GeoGrid, small: GeoGrid, rgb: NDArray[np.uint8], reason: NDArray[np.uint8],
    nearest: NDArray[np.float64],
) -> None:  # fmt: skip
    """Draw the picture of one frame, where it lies farther from the edge than pictures that were drawn before.

    Args:
        tile: the reduced frame.
        frame: grid of the frame.
        small: grid of the reduced product.
        rgb: picture of the product, uint8 (3, height, width), changed in place.
        reason: reasons of the picture, uint8 (height, width), changed in place.
        nearest: largest distance from the edge so far, float64 (height, width), changed in place.
    """
    height, width = tile.reason.shape
    scale = Affine.scale(frame.width / width, frame.height / height)
    placement = Placement(GeoGrid(frame.crs, frame.transform @ scale, (height, width)), small)
    window = placement.within((0, small.height))
    if window is None:
        return
    x, y = placement.to_frame(window)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    col, row = (np.where(inside, values, 0).astype(int) for values in (x, y))
    index, code = window.slices, np.where(inside, tile.reason[row, col], np.uint8(NODATA))
    edge = np.minimum(np.minimum(x, width - x), np.minimum(y, height - y))
    distance = np.where(code == 0, edge, 0)
    reason[index][(code == OUTSIDE) & (nearest[index] == 0)] = OUTSIDE
    better = distance > nearest[index]
    nearest[index][better] = distance[better]
    reason[index][better] = 0
    for band in range(3):
        rgb[band][index][better] = tile.rgb[band, row, col][better]


def _reduced(grid: GeoGrid, side: int) -> GeoGrid:
    """Return a grid of the same extent, with at most `side` pixels a side."""
    step = max(1.0, max(grid.shape_hw) / side)
    height, width = (max(1, round(length / step)) for length in grid.shape_hw)
    scale = Affine.scale(grid.width / width, grid.height / height)
    return GeoGrid(grid.crs, grid.transform @ scale, (height, width))
