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
    """Mask, area of interest and borders of a scene. These and `Pixels` determine the codes of a window."""

    mask: Overlay | None
    """The user's mask, which covers pixels to leave unobserved; None: there is no mask."""
    aoi: Overlay | None
    """Area of interest; None: the whole scene."""
    collar: Collar | None
    """Untagged borders of the scene; None: no borders were found, or the search for borders is off.

    The search is off with `--collar off`, for a scene without a CRS, and for values of fewer than 8 bits."""
    lossy: bool
    """Whether the raster has lossy compression."""
    n_colours: int
    """Number of colour bands. In the values of a window, the colour bands come before near infrared."""
    lock: Lock
    """Lock that is held while GDAL reads."""

    def inside(self, window: Window, shape_hw: tuple[int, int]) -> Bools | None:
        """Return which pixels of a window are inside the area of interest.

        Args:
            window: the window, in pixels of the working grid.
            shape_hw: height and width at which the window is read.

        Returns:
            bool `shape_hw`, True inside; None if there is no area of interest, so that all pixels are inside.
        """
        if self.aoi is None:
            return None
        with self.lock, gdal_env():
            return self.aoi.covers(window, shape_hw)

    def of(self, window: Window, pixels: Pixels, inside: Bools | None = None) -> NDArray[np.uint8]:
        """Return the codes of a window, uint8 (height, width): 0 at observed pixels, else a reason.

        If several reasons apply to a pixel, the last in this list counts: mask, collar, nodata, failed, outside.

        Args:
            window: the window, in pixels of the working grid.
            pixels: the window's pixels, read at any size.
            inside: result of the method `inside` for the same window and size; None: all pixels are inside.
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
        """Return the codes of a window without values: reading failed, or no pixel is in the area of interest.

        Args:
            window: the window, in pixels of the working grid.
            shape_hw: height and width of the result.
            code: code of the pixels inside the area of interest.

        Returns:
            uint8 `shape_hw`: `code`, or `codes.OUTSIDE` at pixels outside the area of interest.
        """
        reason = np.full(shape_hw, code, np.uint8)
        inside = self.inside(window, shape_hw)
        if inside is not None:
            reason[~inside] = codes.OUTSIDE
        return reason

    def complete(self, window: Window, pixels: Pixels, reason: NDArray[np.uint8]) -> Bools | None:
        """Return which pixels of a downsampled window are means of observed source pixels only.

        Args:
            window: the window, in pixels of the working grid.
            pixels: the pixels of the window, read downsampled.
            reason: result of the method `of` for these pixels, uint8 (height, width).

        Returns:
            bool (height, width): True if all source pixels of a pixel are observed; None: not known for any pixel. The
            result is always None if the scene has a mask or an area of interest.
        """
        if pixels.complete is None or self.mask is not None or self.aoi is not None:
            return None
        complete: Bools = pixels.complete & (reason == 0)
        if self.collar is not None:
            complete &= ~self.collar.candidates(window, complete.shape)
        return complete

    def observed(self, window: Window, pixels: Pixels) -> NDArray[Any]:
        """Return the stored values of a window's pixels that have none of the reasons nodata, collar, mask and failed.

        Pixels outside the area of interest are returned, too, although they are unobserved in the results.

        Args:
            window: the window, in pixels of the working grid.
            pixels: the window's pixels, read at any size.

        Returns:
            (bands, pixels), in the dtype of `pixels.values`.
        """
        reason = self.of(window, pixels)
        return pixels.values[:, (reason == 0) | (reason == codes.OUTSIDE)]


def could_be_collar(pixels: Pixels, *, lossy: bool) -> Bools:
    """Return which pixels of a window may belong to a collar: neither hidden nor failed nor empty, see `Pixels`.

    Args:
        pixels: the pixels of the window.
        lossy: True: the raster has lossy compression, and therefore empty pixels may belong to a collar, too.

    Returns:
        bool (height, width): True at pixels that may belong to a collar.
    """
    possible = np.ones(pixels.values.shape[1:], bool)
    # With lossy compression the fringe of a nodata border has other values than nodata. The fringe is found only
    # by its connection to nodata pixels, so nodata pixels stay possible. Without lossy compression a nodata border
    # needs no search.
    for flags in (pixels.hidden, pixels.failed, None if lossy else pixels.empty):
        if flags is not None:
            possible &= ~flags
    return possible
