"""Properties of a scene that are found from some windows all over the scene: untagged borders and the stretch."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from floodmap.errors import SceneError
from floodmap.geo.window import Window
from floodmap.imagery.borders import Collar, Colour, find_collar
from floodmap.imagery.pixels import nir_is_missing
from floodmap.imagery.raster.source import Source
from floodmap.imagery.reader import Reader
from floodmap.imagery.reasons import Reasons, could_be_collar
from floodmap.imagery.stretch import Stretch

SAMPLES, SAMPLE_SIDE, SMALL_SIDE = 8, 128, 32
"""Number of sampled windows along each side of the scene, and side of a sampled window, in pixels.

`stretch_of` samples windows of the side `SAMPLE_SIDE`, and `sample_observed` windows of the side `SMALL_SIDE`."""
SURVEY_SIDE = 2048
"""Longest side of the downsampled picture, in pixels, if the whole scene is read."""
_ENOUGH_SAMPLES = 1000
"""Least number of pixels that `_sampled` returns from all sampled windows together.

With fewer pixels, the whole scene is read downsampled instead."""

Bools = NDArray[np.bool_]


def collar_of(reader: Reader, *, n_colours: int) -> Collar | None:
    """Find the untagged black and white borders of a scene.

    Args:
        reader: reader of the scene.
        n_colours: number of colour bands. The reader returns the colour bands first, then near infrared.

    Returns:
        The borders, as a `Collar` that finds the border pixels of each window; None if the scene has no such border.
    """
    nodata, lossy = reader.source.nodata, reader.source.lossy
    colours: list[Colour] = ["black", "white"]
    # A colour declared as nodata needs no search, unless lossy compression has changed the colour at the fringe.
    if nodata in (0, 255) and not lossy:
        colours.remove("black" if nodata == 0 else "white")

    def read(window: Window, shape_hw: tuple[int, int]) -> tuple[NDArray[Any], Bools]:
        pixels = reader.read_tolerant(window, shape_hw)
        return pixels.values[:n_colours], could_be_collar(pixels, lossy=lossy)

    return find_collar(read, height=reader.height, width=reader.width, colours=tuple(colours), lossy=lossy)


def stretch_of(reader: Reader, reasons: Reasons) -> Stretch:
    """Compute the stretch of a scene's stored values to 0 to 255.

    The values of uint8 rasters and of rasters with a palette remain unchanged: the result is the identity.

    Args:
        reader: reader of the scene.
        reasons: object that finds the unobserved pixels of each window. Pixels that are unobserved for one of the
            reasons nodata, collar, mask and failed do not affect the stretch. Pixels outside the area of interest
            affect the stretch as pixels inside do.
    """
    source: Source = reader.source
    if source.dtype == np.uint8 or source.palette is not None:
        return Stretch.identity(source.depth)
    samples = _sampled(reader, reasons)
    stretch, missing = Stretch.of(samples), nir_is_missing(samples, source.nir_nodata)
    if missing is None:
        return stretch
    nir = Stretch.of(samples[-1:, ~missing])
    return Stretch(low=(*stretch.low[:-1], *nir.low), high=(*stretch.high[:-1], *nir.high))


def _sampled(reader: Reader, reasons: Reasons) -> NDArray[Any]:
    """Return stored values of pixels, (bands, pixels), from windows spread over the scene.

    Pixels with one of the reasons nodata, collar, mask and failed are left out. Pixels outside the area of interest are
    included. If fewer than `_ENOUGH_SAMPLES` pixels remain, the whole scene is read downsampled.
    """
    samples = []
    for window in reader.spread(count=SAMPLES, side=SAMPLE_SIDE):
        samples.append(reasons.observed(window, reader.read_tolerant(window, (window.height, window.width))))
    if sum(sample.shape[1] for sample in samples) < min(_ENOUGH_SAMPLES, reader.height * reader.width):
        whole, shape_hw = reader.whole, reader.shape_within(SURVEY_SIDE)
        samples = [reasons.observed(whole, reader.read_tolerant(whole, shape_hw))]
    return np.concatenate(samples, axis=1)


def sample_observed(reader: Reader, reasons: Reasons) -> NDArray[Any]:
    """Read pixels from small windows spread over a scene. Windows that cannot be read are left out.

    Args:
        reader: reader of the scene.
        reasons: object that finds the unobserved pixels of each window.

    Returns:
        Stored values of the pixels, (bands, pixels), near infrared last. Pixels with one of the reasons nodata, collar,
        mask and failed are left out. Pixels outside the area of interest are included.
    """
    samples = [np.empty((reader.source.depth, 0), reader.source.dtype)]
    for window in reader.spread(count=SAMPLES, side=SMALL_SIDE):
        with suppress(SceneError):  # damage is reported when windows are read
            samples.append(reasons.observed(window, reader.read(window, (window.height, window.width))))
    return np.concatenate(samples, axis=1)
