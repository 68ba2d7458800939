"""Stored values of a window's pixels, and flags of pixels that hold no observation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from floodmap.imagery.raster.voids import may_be_colour

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """Stored values of a window, with flags from the raster's own metadata."""

    values: NDArray[Any]
    """(bands, height, width), near infrared last. Values are as stored, with two exceptions: palette indices are
    expanded to RGB, and values of fewer than 8 bits are scaled to 0 to 255."""
    hidden: Bools | None = None
    """bool (height, width): True at pixels that alpha or the file's mask hides; None: no pixel."""
    empty: Bools | None = None
    """bool (height, width): True at nodata, voids, NaN, infinity and pixels that were never written; None: no pixel."""
    failed: Bools | None = None
    """bool (height, width): True at pixels that could not be read; None: no pixel."""
    complete: Bools | None = None
    """bool (height, width): True if every source pixel averaged into a pixel was checked, and none is hidden, empty or
    failed. None: not known for any pixel."""


@dataclass(frozen=True, slots=True)
class Values:
    """Values as read, before the search for nodata and voids."""

    values: NDArray[Any]
    """(bands, height, width), of the raster's dtype."""
    nearest: NDArray[Any]
    """(colour bands, height, width): value of the source pixel at the centre of each averaged area, for the comparison
    with nodata."""
    complete: Bools | None = None
    """See `Pixels.complete`."""


def union(first: Bools | None, second: Bools | None) -> Bools | None:
    """Return the pixels at which either of two flags, bool (height, width), is set; None: no pixel."""
    return second if first is None else first if second is None else np.asarray(first | second)


def find_empty(values: NDArray[Any], nearest: NDArray[Any], nodata: float | None) -> Bools | None:
    """Find pixels that are nodata, NaN or infinite: bool (height, width); None: no pixel.

    A nodata value that may be a colour (0, 255) must occur in all colour bands. Any other value counts in one band.

    Args:
        values: (bands, height, width), searched for NaN and infinity.
        nearest: (colour bands, height, width), stored values that were not averaged, compared with nodata.
        nodata: the nodata value; None: there is none.
    """
    empty: Bools | None = None
    if nodata is not None:
        value = nearest.dtype.type(nodata)
        if not may_be_colour(nodata):
            empty = np.asarray((nearest == value).any(axis=0))
        else:
            empty = np.asarray(nearest[0] == value)
            if empty.any():  # most pictures have no such pixel
                empty &= (nearest[1:] == value).all(axis=0)
    if values.dtype.kind == "f":
        infinite = ~np.isfinite(values).all(axis=0)
        empty = infinite if empty is None else empty | infinite
    return empty
