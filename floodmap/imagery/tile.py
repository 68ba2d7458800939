"""Tile: the pixels of one window of a scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from floodmap.geo.window import Window

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Tile:
    """Pixels of one window of a scene, as input of the models."""

    window: Window
    """The window, in pixels of the scene as it is segmented, after resampling."""
    rgb: NDArray[np.uint8]
    """uint8 (3, height, width): red, green and blue, stretched to 0 to 255; arbitrary at unobserved pixels."""
    reason: NDArray[np.uint8]
    """uint8 (height, width): 0 at observed pixels, else the reason, a code of `floodmap.strips.codes`."""
    nir: NDArray[np.uint8] | None = None
    """uint8 (height, width): near infrared, stretched to 0 to 255; None if the scene has none."""
    complete: Bools | None = None
    """bool (height, width): True where all raster pixels that were averaged are observed; only for downsampled tiles.

    False: a raster pixel is unobserved, or this is not known. None: not known for any pixel, as in all tiles that are
    not downsampled. A downsampled pixel may count as observed even if some of the averaged raster pixels are
    unobserved."""
    failure: str = ""
    """Message, one line, if a part of the window could not be read; else empty."""
    gsd_m: float = 0.0
    """Ground sample distance of the tile's pixels in metres; 0 if it is not known."""

    @property
    def valid(self) -> Bools:
        """bool (height, width): True at observed pixels."""
        return np.asarray(self.reason == 0)

    def part(self, inner: Window) -> Tile:
        """Return a copy of a rectangle of the tile, without the fields `complete` and `failure`.

        Args:
            inner: the rectangle, in pixels of the tile.
        """
        part = (..., *inner.slices)
        nir = None if self.nir is None else self.nir[part].copy()
        return Tile(self.window.part(inner), self.rgb[part].copy(), self.reason[part].copy(), nir, gsd_m=self.gsd_m)
