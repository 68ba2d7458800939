"""Stored values of a window's pixels, and flags of unobserved pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from floodmap.imagery.raster.voids import may_be_colour

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """Stored values of a window, with flags of unobserved pixels that follow from the raster itself."""

    values: NDArray[Any]
    """(bands, height, width), as stored, near infrared last.

    There are two exceptions: palette indices are expanded to RGB, and values of fewer than 8 bits are scaled to 0 to
    255."""
    hidden: Bools | None = None
    """bool (height, width): True at pixels that alpha or the file's mask hides; None: no pixel is hidden."""
    empty: Bools | None = None
    """bool (height, width): True at nodata, voids, NaN, infinity and never written pixels; None: no pixel is empty."""
    failed: Bools | None = None
    """bool (height, width): True at pixels that could not be read; None: all pixels were read."""
    complete: Bools | None = None
    """bool (height, width), for a window that was read downsampled; None: not known for any pixel.

    True at pixels that are means of checked source pixels (pixels of the file), none of them hidden, empty or failed.
    """


@dataclass(frozen=True, slots=True)
class Values:
    """Values of a window as read from the raster, before the search for nodata and voids.

    The window may be read downsampled. A pixel then has several source pixels: pixels of the raster inside the pixel.
    """

    values: NDArray[Any]
    """(bands, height, width), of the raster's dtype."""
    nearest: NDArray[Any]
    """(colour bands, height, width): value of the source pixel at the centre of each pixel.

    Only this value is compared with nodata, because the mean of nodata and other values is not the nodata value."""
    complete: Bools | None = None
    """bool (height, width): True if no source pixel of a pixel is nodata; None: not known for any pixel."""


def union(first: Bools | None, second: Bools | None) -> Bools | None:
    """Combine two arrays of pixel flags: the result is True at pixels for which at least one array is True.

    Args:
        first: bool (height, width); None: False at all pixels.
        second: bool (height, width); None: False at all pixels.

    Returns:
        bool (height, width); None if both arguments are None.
    """
    return second if first is None else first if second is None else np.asarray(first | second)


def find_empty(values: NDArray[Any], nearest: NDArray[Any], nodata: float | None) -> Bools | None:
    """Find pixels that are nodata, NaN or infinite.

    If the nodata value may be a colour (0, 255), a pixel is nodata only if all colour bands have the nodata value. With
    any other nodata value (-9999), one colour band is enough.

    Args:
        values: (bands, height, width), searched for NaN and infinity.
        nearest: (colour bands, height, width), stored values that were not averaged, compared with nodata.
        nodata: the nodata value; None: there is no nodata value.

    Returns:
        bool (height, width): True at the pixels found; None for integers without a nodata value.
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
