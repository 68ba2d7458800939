"""Tile: the pixels of one window of a scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from floodmap.geo.window import Window

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Tile:
    """The pixels of one window."""

    window: Window
    """Where the pixels lie, in the working grid."""
    rgb: NDArray[np.uint8]
    """(3, height, width); arbitrary where unobserved."""
    reason: NDArray[np.uint8]
    """(height, width); 0 where observed, else a code of `floodmap.strips.codes`."""
    nir: NDArray[np.uint8] | None = None
    """Near infrared (height, width), where the scene has it."""
    complete: Bools | None = None
    """(height, width), of a scene that is shrunk: all pixels beneath are known to be observed. None: that is not known.
    A pixel stands for many, and may be observed though some of them are not."""
    failure: str = ""
    """Why a part of it could not be read, though the rest could: one line; nothing where all could."""
    gsd_m: float = 0.0
    """Metres a pixel; 0 where the scene has no place on the ground."""

    @property
    def valid(self) -> Bools:
        """Observed pixels, (height, width)."""
        return np.asarray(self.reason == 0)

    def part(self, inner: Window) -> Tile:
        """A copy of a part of it; `inner` is in the tile's own pixels."""
        part = (..., *inner.slices)
        nir = None if self.nir is None else self.nir[part].copy()
        return Tile(self.window.part(inner), self.rgb[part].copy(), self.reason[part].copy(), nir, gsd_m=self.gsd_m)
