"""Stored values of a window's pixels, and flags of unobserved pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from floodmap.imagery.raster.voids import may_be_colour

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pixels:
    """Stored values of a window, and flags of pixels that are unobserved because of the raster itself.

    Collars, the mask given by the user and the area of interest are not in these flags; see `imagery.reasons`.
    """

    values: NDArray[Any]
    """(bands, height, width), as stored, near infrared last.

    There are two exceptions: palette indices are expanded to RGB, and values of fewer than 8 bits are scaled to 0 to
    255. Values of a window that was read at another resolution are resampled."""
    hidden: Bools | None = None
    """bool (height, width): True at pixels that alpha or the file's mask hides; None: no pixel is hidden."""
    empty: Bools | None = None
    """bool (height, width): True at nodata, voids, NaN and infinity; None: no pixel is empty.

    Also True at pixels that were never written to the file, or that no member of a VRT mosaic covers."""
    failed: Bools | None = None
    """bool (height, width): True at pixels that could not be read; None: all pixels were read."""
    complete: Bools | None = None
    """bool (height, width): True at means of source pixels (pixels of the file) that all have a valid value.

    This field is for windows that were read downsampled, where each pixel is the mean of several source pixels. True:
    no source pixel of the pixel is hidden, empty or failed. False: at least one is, or this is not known. None: this is
    not known for any pixel.

    For a window that was not read downsampled, the field says nothing: it is None, or False at all pixels.
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
    """bool (height, width): True at pixels without a nodata source pixel, False at pixels with at least one.

    None: not known for any pixel. The flags are known only if `Reader._block_averaged` read the values."""


def union(first: Bools | None, second: Bools | None) -> Bools | None:
    """Combine two arrays of pixel flags: the result is True at pixels for which at least one array is True.

    Args:
        first: bool (height, width); None: False at all pixels.
        second: bool (height, width); None: False at all pixels.

    Returns:
        bool (height, width); None if both arguments are None.
    """
    return second if first is None else first if second is None else np.asarray(first | second)


def nir_is_missing(values: NDArray[Any], nodata: float | None) -> Bools | None:
    """Find pixels without near infrared: pixels that have the nodata value in the last band.

    Args:
        values: (bands, ...), near infrared last: stored values, or means of stored values in a window that was read
            downsampled. Source pixels (pixels of the file) without near infrared are left out of a mean of near
            infrared. If no source pixel is left, the mean is the nodata value.
        nodata: nodata value of near infrared, see `Source.nir_nodata`; None: no near infrared is missing.

    Returns:
        bool (...): True at the pixels found; None if there are none.
    """
    if nodata is None:
        return None
    missing = np.asarray(values[-1] == values.dtype.type(nodata))
    return missing if missing.any() else None


def find_empty(
    values: NDArray[Any], nearest: NDArray[Any], nodata: float | Sequence[float | None] | None
) -> Bools | None:
    """Find pixels that are nodata, NaN or infinite.

    A nodata value from 0 to 1e10, such as 0 (black) or 255 (white), may also be a colour value. For such a nodata value
    a pixel is nodata only if all colour bands have their nodata value, because pure red is 0 in green and blue. For any
    other nodata value, such as -9999, one colour band is enough. Bands without a nodata value are not compared.

    Args:
        values: (bands, height, width), searched for NaN and infinity.
        nearest: (colour bands, height, width), stored values that were not averaged, compared with nodata.
        nodata: the nodata value of each colour band, or one for all; None: there is no nodata value.

    Returns:
        bool (height, width): True at the pixels found; None for integers without a nodata value.
    """
    empty: Bools | None = None
    by_band = nodata if isinstance(nodata, Sequence) else (nodata,) * len(nearest)
    known = [(band, value) for band, value in zip(nearest, by_band, strict=True) if value is not None]
    for band, value in known:
        if not may_be_colour(value):
            empty = union(empty, np.asarray(band == band.dtype.type(value)))
    colours = [(band, value) for band, value in known if may_be_colour(value)]
    if colours:
        saturated = np.ones(nearest.shape[1:], bool)
        for band, value in colours:
            if saturated.any():  # most pictures have no such pixel
                saturated &= band == band.dtype.type(value)
        empty = union(empty, saturated)
    if values.dtype.kind == "f":
        infinite = ~np.isfinite(values).all(axis=0)
        empty = infinite if empty is None else empty | infinite
    return empty
