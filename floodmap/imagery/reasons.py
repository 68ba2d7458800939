"""Reasons why pixels are unobserved: nodata and masks of the raster, borders, the user's mask, the area of interest."""

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
    """Everything that decides which pixels of a scene are observed."""

    mask: Overlay | None
    """The user's mask: ground to leave unobserved."""
    aoi: Overlay | None
    """The area of interest."""
    collar: Collar | None
    """Untagged borders of the scene."""
    lossy: bool
    """Whether the raster has lossy compression."""
    n_colours: int
    """Number of colour bands, which come first in the values read."""
    lock: Lock
    """Held while GDAL reads."""

    def inside(self, window: Window, shape_hw: tuple[int, int]) -> Bools | None:
        """Pixels of a window, read at `shape_hw`, inside the area of interest: bool (height, width); None: all."""
        if self.aoi is None:
            return None
        with self.lock, gdal_env():
            return self.aoi.covers(window, shape_hw)

    def of(self, window: Window, pixels: Pixels, inside: Bools | None = None) -> NDArray[np.uint8]:
        """Codes uint8 (height, width) of a window, 0 where observed; of several reasons the last one written counts.

        Args:
            window: the window.
            pixels: its pixels, read at any size.
            inside: result of `inside`.
        """
        shape_hw = pixels.values.shape[1], pixels.values.shape[2]
        reason = np.zeros(shape_hw, np.uint8)
        if self.mask is not None:
            with self.lock, gdal_env():
                reason[self.mask.covers(window, shape_hw)] = codes.MASKED
        if self.collar is not None:
            found = self.collar.find(window, pixels.values[: self.n_colours], could_be_collar(pixels, lossy=self.lossy))
            reason[found] = codes.COLLAR
        flags = ((pixels.empty, codes.NODATA), (pixels.hidden, codes.NODATA), (pixels.failed, codes.FAILED))
        for flag, code in flags:
            if flag is not None:
                reason[flag] = code
        if inside is not None:
            reason[~inside] = codes.OUTSIDE
        return reason

    def unread(self, window: Window, shape_hw: tuple[int, int], code: int) -> NDArray[np.uint8]:
        """Codes of a window that is not read, uint8 of `shape_hw`: `code` inside the area of interest."""
        reason = np.full(shape_hw, code, np.uint8)
        inside = self.inside(window, shape_hw)
        if inside is not None:
            reason[~inside] = codes.OUTSIDE
        return reason

    def complete(self, window: Window, pixels: Pixels, reason: NDArray[np.uint8]) -> Bools | None:
        """Pixels of a downsampled window whose source pixels are all known to be observed; None: not known of any."""
        if pixels.complete is None or self.mask is not None or self.aoi is not None:
            return None
        complete: Bools = pixels.complete & (reason == 0)
        if self.collar is not None:
            complete &= ~self.collar.candidates(window, complete.shape)
        return complete

    def observed(self, window: Window, pixels: Pixels) -> NDArray[Any]:
        """Observed values (bands, n), as stored, including those outside the area of interest."""
        reason = self.of(window, pixels)
        return pixels.values[:, (reason == 0) | (reason == codes.OUTSIDE)]


def could_be_collar(pixels: Pixels, *, lossy: bool) -> Bools:
    """Pixels (height, width) that may belong to an untagged border, by the raster's own flags."""
    possible = np.ones(pixels.values.shape[1:], bool)
    # With lossy compression the fringe of a nodata border is found only through the nodata pixels that it is connected
    # to. Without, a nodata border needs no search.
    for flags in (pixels.hidden, pixels.failed, None if lossy else pixels.empty):
        if flags is not None:
            possible &= ~flags
    return possible
