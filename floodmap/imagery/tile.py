"""Tile: the pixels of one window of a scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from floodmap.geo.window import Window

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Tile:
    """The pixels of one window of a scene, as the models get them."""

    window: Window
    """The window, in pixels of the working grid."""
    rgb: NDArray[np.uint8]
    """(3, height, width); arbitrary where unobserved."""
    reason: NDArray[np.uint8]
    """(height, width); 0 where observed, else a code of `floodmap.strips.codes`."""
    nir: NDArray[np.uint8] | None = None
    """Near infrared (height, width), where the scene has it."""
    complete: Bools | None = None
    """(height, width), of a downsampled scene: all source pixels are known to be observed. None: not known.
    A downsampled pixel may be observed although some of its source pixels are not."""
    failure: str = ""
    """Why a part of the window could not be read, one line; empty where all of it was read."""
    gsd_m: float = 0.0
    """Ground sample distance, in metres; 0 where the scene has no place on the ground."""

    @property
    def valid(self) -> Bools:
        """Observed pixels, (height, width)."""
        return np.asarray(self.reason == 0)

    def part(self, inner: Window) -> Tile:
        """A copy of a part of the tile; `inner` is in the tile's own pixels."""
        part = (..., *inner.slices)
        nir = None if self.nir is None else self.nir[part].copy()
        return Tile(self.window.part(inner), self.rgb[part].copy(), self.reason[part].copy(), nir, gsd_m=self.gsd_m)
