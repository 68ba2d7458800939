"""Why pixels of a scene are not observed: what the raster, its borders, the user's mask and area of interest say."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from floodmap.geo.gdal import gdal_env
from floodmap.geo.window import Window
from floodmap.imagery.borders import Collar
from floodmap.imagery.overlay import Overlay
from floodmap.imagery.pixels import Pixels
from floodmap.strips import codes

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasons:
    """All that decides which pixels of a scene are observed."""

    mask: Overlay | None
    """Ground to leave unobserved."""
    aoi: Overlay | None
    """The ground that is wanted."""
    collar: Collar | None
    """Borders found."""
    lossy: bool
    """The raster is compressed with loss."""
    shown: int
    """How many of the values read are colours."""
    lock: Lock
    """Held while GDAL reads."""

    def inside(self, window: Window, shape_hw: tuple[int, int]) -> Bools | None:
        """Pixels of a window in the area of interest, at a size; None: all."""
        if self.aoi is None:
            return None
        with self.lock, gdal_env():
            return self.aoi.covers(window, shape_hw)

    def of(self, window: Window, pixels: Pixels, inside: Bools | None = None) -> NDArray[np.uint8]:
        """Codes (height, width), 0 where observed: the later a reason is written here, the more it counts.

        Args:
            window: where the pixels lie.
            pixels: as read, at any size.
            inside: see `inside`.
        """
        shape_hw = pixels.values.shape[1], pixels.values.shape[2]
        reason = np.zeros(shape_hw, np.uint8)
        if self.mask is not None:
            with self.lock, gdal_env():
                reason[self.mask.covers(window, shape_hw)] = codes.MASKED
        if self.collar is not None:
            found = self.collar.find(window, pixels.values[: self.shown], could_be_collar(pixels, lossy=self.lossy))
            reason[found] = codes.COLLAR
        flags = ((pixels.empty, codes.NODATA), (pixels.hidden, codes.NODATA), (pixels.failed, codes.FAILED))
        for flag, code in flags:
            if flag is not None:
                reason[flag] = code
        if inside is not None:
            reason[~inside] = codes.OUTSIDE
        return reason

    def unread(self, window: Window, shape_hw: tuple[int, int], code: int) -> NDArray[np.uint8]:
        """Codes of a window that is not read, at a size: `code` inside the area of interest."""
        reason = np.full(shape_hw, code, np.uint8)
        inside = self.inside(window, shape_hw)
        if inside is not None:
            reason[~inside] = codes.OUTSIDE
        return reason

    def complete(self, window: Window, pixels: Pixels, reason: NDArray[np.uint8]) -> Bools | None:
        """Pixels of a shrunken window of which all that lies beneath is known to be observed; None: none."""
        if pixels.complete is None or self.mask is not None or self.aoi is not None:
            return None
        complete: Bools = pixels.complete & (reason == 0)
        if self.collar is not None:
            complete &= ~self.collar.near(window, complete.shape)
        return complete

    def observed(self, window: Window, pixels: Pixels) -> NDArray[Any]:
        """Observed values, (bands, n), as stored; those outside the area of interest, too."""
        reason = self.of(window, pixels)
        return pixels.values[:, (reason == 0) | (reason == codes.OUTSIDE)]


def could_be_collar(pixels: Pixels, *, lossy: bool) -> Bools:
    """Pixels (height, width) that may belong to a border, by what the raster says of them."""
    possible = np.ones(pixels.values.shape[1:], bool)
    # Nodata pixels of a frayed border are the cloth that its loose threads hang on; those of a clean one are not.
    for flags in (pixels.hidden, pixels.failed, None if lossy else pixels.empty):
        if flags is not None:
            possible &= ~flags
    return possible
