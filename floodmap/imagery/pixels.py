"""Pixels: stored values of a window, and which of them are none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from floodmap.imagery.raster.voids import may_be_colour

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """Values of a window, and what the raster itself says of them."""

    values: NDArray[Any]
    """(bands, height, width) as stored, near infrared last; a palette is expanded to RGB."""
    hidden: Bools | None = None
    """(height, width); alpha 0 or masked in the file. None: nowhere."""
    empty: Bools | None = None
    """(height, width); nodata value, void, NaN or infinity, or never written. None: nowhere."""
    failed: Bools | None = None
    """(height, width); could not be read. None: nowhere."""
    complete: Bools | None = None
    """(height, width); all pixels of the file that were averaged here were looked at, and are nothing of that kind.
    None: that is not known."""


@dataclass(frozen=True, slots=True)
class Values:
    """What was read, before it is told what of it is nothing."""

    values: NDArray[Any]
    """(bands, height, width)."""
    nearest: NDArray[Any]
    """Of the colours, the pixel in the middle of each that was averaged."""
    complete: Bools | None = None
    """See `Pixels`."""


def either(one: Bools | None, other: Bools | None) -> Bools | None:
    """Where any of two flags is set; None: nowhere."""
    return other if one is None else one if other is None else np.asarray(one | other)


def find_empty(values: NDArray[Any], nearest: NDArray[Any], nodata: float | None) -> Bools | None:
    """Pixels whose colours all are nodata, or any of whose values is no number, or nodata that can be no colour."""
    empty: Bools | None = None
    if nodata is not None:
        value = nearest.dtype.type(nodata)
        if not may_be_colour(nodata):
            empty = np.asarray((nearest == value).any(axis=0))
        else:
            empty = np.asarray(nearest[0] == value)
            if empty.any():  # most pictures hold none
                empty &= (nearest[1:] == value).all(axis=0)
    if values.dtype.kind == "f":
        infinite = ~np.isfinite(values).all(axis=0)
        empty = infinite if empty is None else empty | infinite
    return empty
