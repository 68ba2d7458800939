"""Pixels: stored values of a window, and flags of those that hold no observation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from floodmap.imagery.raster.voids import may_be_colour

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """Stored values of a window, and flags from the raster's own metadata."""

    values: NDArray[Any]
    """(bands, height, width) as stored, near infrared last; palette indices are expanded to RGB."""
    hidden: Bools | None = None
    """(height, width); transparent (alpha) or masked in the file. None: nowhere."""
    empty: Bools | None = None
    """(height, width); nodata value, void, NaN, infinity, or never written. None: nowhere."""
    failed: Bools | None = None
    """(height, width); could not be read. None: nowhere."""
    complete: Bools | None = None
    """(height, width); every source pixel averaged into this one was checked, and none is hidden, empty or failed.
    None: not known."""


@dataclass(frozen=True, slots=True)
class Values:
    """Values as read, before they are checked for nodata and voids."""

    values: NDArray[Any]
    """(bands, height, width)."""
    nearest: NDArray[Any]
    """(colour bands, height, width): the source pixel at the centre of each averaged area, to compare with nodata."""
    complete: Bools | None = None
    """See `Pixels`."""


def union(first: Bools | None, second: Bools | None) -> Bools | None:
    """Where either of two flags is set; None: nowhere."""
    return second if first is None else first if second is None else np.asarray(first | second)


def find_empty(values: NDArray[Any], nearest: NDArray[Any], nodata: float | None) -> Bools | None:
    """Pixels (height, width) that are nodata, NaN or infinite; None: nowhere.

    A nodata value that may be a colour (0, 255) must occur in all colour bands; any other counts in a single band.

    Args:
        values: (bands, height, width); checked for NaN and infinity.
        nearest: (colour bands, height, width), not averaged; compared with nodata.
        nodata: the nodata value; None: there is none.
    """
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
