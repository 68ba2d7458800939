"""What is decided by looking at places all over a scene: its borders, its stretch, a sample of its values."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from floodmap.errors import SceneError
from floodmap.geo.window import Window
from floodmap.imagery.borders import Collar, Colour, find_collar
from floodmap.imagery.raster.source import Source
from floodmap.imagery.reader import Reader
from floodmap.imagery.reasons import Reasons, could_be_collar
from floodmap.imagery.stretch import Stretch

SAMPLES, SAMPLE_SIDE, GLANCE_SIDE = 8, 128, 32
SURVEY_SIDE = 2048
_ENOUGH_SAMPLES = 1000

Bools = NDArray[np.bool_]


def collar_of(reader: Reader, *, shown: int) -> Collar | None:
    """Untagged borders of a scene.

    Args:
        reader: of the scene.
        shown: how many of the values read are colours.
    """
    nodata, lossy = reader.source.nodata, reader.source.lossy
    colours: list[Colour] = ["black", "white"]
    # The colour declared as nodata is dealt with, unless compression has frayed it.
    if nodata in (0, 255) and not lossy:
        colours.remove("black" if nodata == 0 else "white")

    def read(window: Window, shape_hw: tuple[int, int]) -> tuple[NDArray[Any], Bools]:
        pixels = reader.survey(window, shape_hw)
        return pixels.values[:shown], could_be_collar(pixels, lossy=lossy)

    return find_collar(read, height=reader.height, width=reader.width, colours=tuple(colours), lossy=lossy)


def stretch_of(reader: Reader, reasons: Reasons) -> Stretch:
    """How the stored values of a scene become 8 bits: by its observed values."""
    source: Source = reader.source
    if source.dtype == np.uint8 or source.palette is not None:
        return Stretch.identity(source.depth)
    return Stretch.of(_sampled(reader, reasons))


def _sampled(reader: Reader, reasons: Reasons) -> NDArray[Any]:
    """Observed values at some places, (bands, n), as stored."""
    samples = []
    for window in reader.spread(count=SAMPLES, side=SAMPLE_SIDE):
        samples.append(reasons.observed(window, reader.survey(window, (window.height, window.width))))
    if sum(sample.shape[1] for sample in samples) < min(_ENOUGH_SAMPLES, reader.height * reader.width):
        whole, shape_hw = reader.whole, reader.shape_within(SURVEY_SIDE)
        samples = [reasons.observed(whole, reader.survey(whole, shape_hw))]
    return np.concatenate(samples, axis=1)


def glance(reader: Reader, reasons: Reasons) -> NDArray[Any]:
    """Observed values of small windows spread over a scene, (bands, n), as stored; what is damaged is left out."""
    samples = [np.empty((reader.source.depth, 0), reader.source.dtype)]
    for window in reader.spread(count=SAMPLES, side=GLANCE_SIDE):
        with suppress(SceneError):  # what is damaged is told when windows are read
            samples.append(reasons.observed(window, reader.read(window, (window.height, window.width))))
    return np.concatenate(samples, axis=1)
