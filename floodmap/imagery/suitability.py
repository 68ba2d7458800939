"""Warnings for scenes unlike the models' training data: coarse pixels, snow or cloud."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

COARSEST_M = 5.0
"""Largest ground sample distance that the models were trained on, in metres."""
WHITE_SHARE = 0.5
"""Least share of white pixels among the observed pixels, 0 to 1, for which a warning is given."""
_WHITE, _GREY = 0.72, 0.12
"""Limits of a white pixel, as shares of full brightness, 0 to 1.

A pixel is white if the smallest of its colour values is at least `_WHITE`, and if the largest and the smallest of its
colour values differ by at most `_GREY`. For reflectances, `_REFLECTANCES` replaces `_WHITE`."""
_REFLECTANCES = ((1.6, 0.62), (16_000.0, 0.62))
"""Limits for rasters of reflectances: a pair of limits for values from 0 to 1, and a pair for values from 0 to 10,000.

The first number of a pair is the largest plausible value in the unit of the raster. The second number is the least
reflectance of snow and cloud, 0 to 1 in both pairs."""


def unsuited(name: object, source_gsd_m: float | None, gsd_m: float | None, sample: NDArray[Any]) -> Iterator[str]:
    """Yield warnings about a scene that is unlike the models' training data, one line each.

    Args:
        name: name of the scene, for the message.
        source_gsd_m: ground sample distance of the raster, before resampling, in metres; None: not known.
        gsd_m: ground sample distance of the scene as it is segmented, in metres; None: not known.
        sample: (bands, pixels), stored values of some observed pixels of the scene, colour bands first.
    """
    if source_gsd_m is not None and gsd_m is not None and max(source_gsd_m, gsd_m) > COARSEST_M * 1.01:
        yield (
            f"{name}: a pixel is {max(source_gsd_m, gsd_m):.3g} m on the ground; the models were trained on pixels of "
            f"at most {COARSEST_M:g} m; results on coarser pixels were not tested, check them against the picture"
        )
    share = white_share(sample[:3])
    if share >= WHITE_SHARE:
        yield (
            f"{name}: {share:.0%} of the observed ground is white, as snow and cloud are; flood cannot be seen through "
            "them, and the models were not trained on them: give such ground as --mask"
        )


def white_share(sample: NDArray[Any]) -> float:
    """Return the share of white pixels, 0 to 1, among some pixels of a scene. White pixels are bright and nearly grey.

    Args:
        sample: (bands, pixels), stored values of the colour bands at these pixels. Values of other dtypes than uint8
            may be reflectances or the raw values (digital numbers) of a sensor.

    Returns:
        Share of the pixels that are white (see `_WHITE`); 0 if there are no pixels.
    """
    if not sample.shape[1]:
        return 0.0
    largest, least = _scale(sample)
    brightest, darkest = sample.max(axis=0) / largest, sample.min(axis=0) / largest
    return float(((darkest >= least) & (brightest - darkest <= _GREY)).mean())


def _scale(sample: NDArray[Any]) -> tuple[float, float]:
    """Return the stored value that means full brightness, and the least brightness of a white pixel.

    The second result is a share of full brightness, 0 to 1. The results depend on the values:

    - uint8: 255, and `_WHITE`.
    - Reflectances: 1 or 10,000, and the least reflectance of snow and cloud (`_REFLECTANCES`). Values are taken for
      reflectances from 0 to 1 if they are floats and their 99th percentile is at most 1.6. Values of any other dtype
      than uint8 are taken for reflectances from 0 to 10,000 if their 99th percentile is at most 16,000.
    - Other integers: the largest integer of the dtype, and `_WHITE`.
    - Other floats: the 99th percentile of the values, and `_WHITE`.

    Args:
        sample: (bands, pixels), stored values of some pixels of a scene, as in `white_share`.
    """
    if sample.dtype == np.uint8:
        return 255.0, _WHITE
    top = float(np.percentile(sample, 99))
    for largest, least in _REFLECTANCES:
        if top <= largest and (largest > 2 or sample.dtype.kind == "f"):
            return (1.0 if largest < 2 else 10_000.0), least
    return float(np.iinfo(sample.dtype).max) if sample.dtype.kind in "iu" else top, _WHITE
