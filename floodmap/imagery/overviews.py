"""Whether a raster's overviews show what the raster shows: an earlier picture's may lie beside it."""

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

_OWN = ("JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID", "ECW", "MrSID")
"""Formats that are read smaller without a copy of the picture."""
_PLACES, _DEEP_PLACES = 8, 4
"""Places along each side, of overviews up to four times smaller, and of others."""
_SIDE, _DEEP_SIDE = 32, 8
"""Sides of a place, in pixels of the overview."""
_TOLERANCE, _LOSSY_TOLERANCE = 0.02, 0.04
"""Of the range of the picture's values: what rounding and compression may change."""
_NOISE, _SHIFT = 2.0, 4.0
"""An overview of single pixels differs from the mean by the variance about it; the mean of a place by far less."""
_DEEPEST = 64


def overviews_agree(reader: Reader) -> bool:
    """Hold what is read smaller against the pixels beneath, at some places.

    Overviews are made in many ways (mean, nearest, cubic, with loss, half a pixel aside). All stay within what the
    pixels about a place vary by; another picture does not.

    Args:
        reader: of the raster's own pixels.
    """
    dataset, bands = reader.source.dataset, reader.source.bands
    factors = dataset.overviews(bands.rgb[0])
    if dataset.driver in _OWN or not (factors or dataset.driver == "VRT"):
        return True
    own = replace(reader, height=dataset.height, width=dataset.width)
    deepest = min(_DEEPEST, max(factors, default=16))
    return not any(_differs(own, *place) for place in _places(own, deepest))


def _places(reader: Reader, deepest: int) -> Iterator[tuple[Window, int]]:
    """Windows to look at, and by how much they are shrunk."""
    factor = 2
    while factor <= max(2, deepest):
        count, side = (_PLACES, _SIDE) if factor <= 4 else (_DEEP_PLACES, _DEEP_SIDE)
        rows, cols = (min(side, length // factor) for length in (reader.height, reader.width))
        if min(rows, cols) < 2:
            return
        for window in reader.spread(count=count, side=side * factor):
            # From where an overview's pixels begin.
            top, left = window.row_off // factor * factor, window.col_off // factor * factor
            yield Window(top, left, rows * factor, cols * factor), factor
        factor *= 2


def _differs(reader: Reader, window: Window, factor: int) -> bool:
    small_hw = window.height // factor, window.width // factor
    try:
        seen = reader.read(window, small_hw)
        pixels = reader.read(window, (window.height, window.width))
    except SceneError:
        return False  # what is damaged is told when windows are read
    known, hidden = _known(pixels), ~_known(seen)
    # FinishingProcess what is not observed means differ by how that is left out.
    blocks = _blocks(known[None].astype(np.float64), factor)[0]
    full, none = ndimage.minimum_filter(blocks, 3) == 1, ndimage.maximum_filter(blocks, 3) == 0
    for flags, other in ((hidden, full), (~hidden, none)):
        if other.sum() >= 4 and flags[other].mean() > 0.1:
            return True
    compared = full & ~hidden
    if compared.sum() < 4:
        return False
    values = pixels.values.astype(np.float64)
    values[:, ~known] = 0
    mean = _blocks(values, factor)
    about = np.stack([ndimage.uniform_filter(band, 3) for band in mean])
    square = np.stack([ndimage.uniform_filter(band, 3) for band in _blocks(values**2, factor)])
    variance = np.maximum(square - about**2, 0)[:, compared]
    residual = (seen.values - mean)[:, compared]
    tolerance = _LOSSY_TOLERANCE if reader.source.lossy else _TOLERANCE
    allowed = (tolerance * _range(reader, values[:, known])) ** 2
    noise = (residual**2).mean() > _NOISE * variance.mean() + allowed
    shift = residual.mean(axis=1) ** 2 > _SHIFT**2 * variance.mean(axis=1) / compared.sum() + allowed
    return bool(noise or shift.any())


def _known(pixels: Pixels) -> NDArray[np.bool_]:
    known = np.ones(pixels.values.shape[1:], bool)
    for flags in (pixels.hidden, pixels.empty, pixels.failed):
        if flags is not None:
            known &= ~flags
    return known


def _blocks(values: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    """Means of blocks of (bands, height, width)."""
    bands, height, width = values.shape
    blocks = values.reshape(bands, height // factor, factor, width // factor, factor)
    return np.asarray(blocks.mean(axis=(2, 4)))


def _range(reader: Reader, values: NDArray[np.float64]) -> float:
    if reader.source.dtype == np.uint8 or reader.source.palette is not None:
        return 255.0
    return float(np.ptp(values)) if values.size else 0.0
