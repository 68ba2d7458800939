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
    """bool (height, width), for downsampled tiles: True at pixels that are means of observed raster pixels only.

    False: at least one of the averaged raster pixels is unobserved, or it is not known whether all are observed. Such a
    pixel may still count as observed in `reason`. None: nothing is known about any pixel, or the tile is not
    downsampled, so that no pixels were averaged."""
    failure: str = ""
    """Message, one line, if a part of the window could not be read; else empty."""
    gsd_m: float = 0.0
    """Ground sample distance of the tile's pixels in metres; 0 if it is not known."""
    nir_missing: Bools | None = None
    """bool (height, width): True where near infrared is nodata. Such a pixel may still be observed, because its red,
    green and blue may be valid. None: near infrared is nodata at no pixel, or the scene has no near infrared."""

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
        missing = None if self.nir_missing is None else self.nir_missing[part].copy()
        return Tile(
            self.window.part(inner), self.rgb[part].copy(), self.reason[part].copy(), nir, gsd_m=self.gsd_m,
            nir_missing=missing,
        )  # fmt: skip
