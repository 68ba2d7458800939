"""Check of a raster's overviews against the pixels: an overview file may belong to an earlier version of the raster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from floodmap.errors import SceneError
from floodmap.geo.window import Window
from floodmap.imagery.pixels import Pixels
from floodmap.imagery.reader import Reader

_MULTIRESOLUTION = ("JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID", "ECW", "MrSID")
"""GDAL drivers of formats that are decoded at a lower resolution directly, without overviews."""
_PLACES, _COARSE_PLACES = 8, 4
"""Number of compared windows along a side of the raster.

`_PLACES` is for downsampling factors up to 4, `_COARSE_PLACES` for larger factors."""
_SIDE, _COARSE_SIDE = 32, 8
"""Side of a window, in overview pixels.

`_SIDE` is for downsampling factors up to 4, `_COARSE_SIDE` for larger factors."""
_TOLERANCE, _LOSSY_TOLERANCE = 0.02, 0.04
"""Tolerances, as shares of the range of values (`_range`), by which the limits described at `_NOISE` are widened.

`_TOLERANCE` is for lossless compression, `_LOSSY_TOLERANCE` for lossy compression. The tolerance is multiplied by the
range, and the product is squared. For example, the square is (0.02 x 255)^2 = 26 for uint8 and lossless compression.
`_NOISE` sets the limit of a mean squared difference: the square is added to this limit. `_SHIFT` sets the limit of a
mean difference: the square is added to the square of this limit."""
_NOISE, _SHIFT = 2.0, 4.0
"""Limits of the differences, in one window, between the pixels of an overview and the means of blocks of pixels.

A block is the pixels of the raster inside one pixel of the overview. The local variance of a block in a band is the
variance of all pixels in the 3 x 3 blocks of which the block is the centre. The local variance of a band is the mean of
the local variances of all compared blocks.

`_NOISE` limits the mean of the squared differences over all blocks and bands. The limit is `_NOISE` times the mean of
the local variances of the bands. `_SHIFT` limits the mean difference of each band over all blocks. The limit is
`_SHIFT` times the standard error: the square root of (local variance of the band / number of compared blocks).

In an overview that is made by nearest neighbour, the mean squared difference is about the local variance, and the mean
difference is about 0."""
_MAX_FACTOR = 64
"""Largest downsampling factor that is checked."""


def overviews_agree(reader: Reader) -> bool:
    """Return whether the overviews of a raster show the same picture as the pixels.

    Windows all over the raster are read from the overviews, and compared with the means of blocks of pixels. Overviews
    are made in many ways: by mean, nearest neighbour or cubic, with lossy compression, shifted by half a pixel of
    the overview. For all these overviews, the mean squared difference from the means is about the local variance of the
    pixels, or less (see `_NOISE`). An overview of another picture differs by more.

    Args:
        reader: reader of the raster.

    Returns:
        False if a window differs. True if no window differs, or if the raster has no overviews.
    """
    dataset, bands = reader.source.dataset, reader.source.bands
    factors = dataset.overviews(bands.rgb[0])
    if dataset.driver in _MULTIRESOLUTION or not (factors or dataset.driver == "VRT"):
        return True
    own = replace(reader, height=dataset.height, width=dataset.width)
    deepest = min(_MAX_FACTOR, max(factors, default=16))
    return not any(_differs(own, *place) for place in _places(own, deepest))


def _places(reader: Reader, deepest: int) -> Iterator[tuple[Window, int]]:
    """Yield the windows to compare, in pixels of the raster, each with a downsampling factor.

    The factors are 2, 4, 8 and so on, up to `deepest`: the largest downsampling factor to check.
    """
    factor = 2
    while factor <= max(2, deepest):
        count, side = (_PLACES, _SIDE) if factor <= 4 else (_COARSE_PLACES, _COARSE_SIDE)
        rows, cols = (min(side, length // factor) for length in (reader.height, reader.width))
        if min(rows, cols) < 2:
            return
        for window in reader.spread(count=count, side=side * factor):
            # Windows are aligned with the pixels of the overview.
            top, left = window.row_off // factor * factor, window.col_off // factor * factor
            yield Window(top, left, rows * factor, cols * factor), factor
        factor *= 2


def _differs(reader: Reader, window: Window, factor: int) -> bool:
    """Return whether a window that is read from the overviews differs from the means of blocks of the window's pixels.

    A block has `factor` x `factor` pixels. A window that cannot be read counts as equal.
    """
    small_hw = window.height // factor, window.width // factor
    try:
        seen = reader.read(window, small_hw)
        pixels = reader.read(window, (window.height, window.width))
    except SceneError:
        return False  # damage is reported when windows are read
    known, hidden = _observed(pixels), ~_observed(seen)
    # Beside unobserved pixels, means depend on how the overview left the unobserved pixels out. So a block is compared
    # only if the block and all blocks beside it are fully observed, or if all are fully unobserved.
    blocks = _block_means(known[None].astype(np.float64), factor)[0]
    full, none = ndimage.minimum_filter(blocks, 3) == 1, ndimage.maximum_filter(blocks, 3) == 0
    for flags, other in ((hidden, full), (~hidden, none)):
        if other.sum() >= 4 and flags[other].mean() > 0.1:
            return True
    compared = full & ~hidden
    if compared.sum() < 4:
        return False
    values = pixels.values.astype(np.float64)
    values[:, ~known] = 0
    mean = _block_means(values, factor)
    about = np.stack([ndimage.uniform_filter(band, 3) for band in mean])
    square = np.stack([ndimage.uniform_filter(band, 3) for band in _block_means(values**2, factor)])
    variance = np.maximum(square - about**2, 0)[:, compared]
    residual = (seen.values - mean)[:, compared]
    tolerance = _LOSSY_TOLERANCE if reader.source.lossy else _TOLERANCE
    allowed = (tolerance * _range(reader, values[:, known])) ** 2
    noise = (residual**2).mean() > _NOISE * variance.mean() + allowed
    shift = residual.mean(axis=1) ** 2 > _SHIFT**2 * variance.mean(axis=1) / compared.sum() + allowed
    return bool(noise or shift.any())


def _observed(pixels: Pixels) -> NDArray[np.bool_]:
    """Return bool (height, width): True at pixels of a window that are neither hidden nor empty nor failed."""
    known = np.ones(pixels.values.shape[1:], bool)
    for flags in (pixels.hidden, pixels.empty, pixels.failed):
        if flags is not None:
            known &= ~flags
    return known


def _block_means(values: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    """Average blocks of `factor` x `factor` pixels of an array (bands, height, width).

    The result has one pixel per block: (bands, height / factor, width / factor).
    """
    bands, height, width = values.shape
    blocks = values.reshape(bands, height // factor, factor, width // factor, factor)
    return np.asarray(blocks.mean(axis=(2, 4)))


def _range(reader: Reader, values: NDArray[np.float64]) -> float:
    """Return the range of the values of a raster: 255 for uint8 and palettes, else maximum minus minimum of `values`.

    `values` are the values of the observed pixels of a window, (bands, pixels).
    """
    if reader.source.dtype == np.uint8 or reader.source.palette is not None:
        return 255.0
    return float(np.ptp(values)) if values.size else 0.0
