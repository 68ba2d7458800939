"""Warnings for scenes outside the models' training data: coarse pixels, snow or cloud."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

COARSEST_M = 5.0
"""Largest ground sample distance that the models were trained on, in metres."""
WHITE_SHARE = 0.5
"""Share of white pixels among the observed ones from which there is a warning."""
_WHITE, _GREY = 0.72, 0.12
"""Least brightness of white in every band, and largest difference between bands, as shares of the full range."""
_REFLECTANCES = ((1.6, 0.62), (16_000.0, 0.62))
"""Largest reflectance (as a fraction, and in ten-thousandths), and least reflectance (0 to 1) of snow and cloud."""


def unsuited(name: object, source_gsd_m: float | None, gsd_m: float | None, sample: NDArray[Any]) -> Iterator[str]:
    """Warnings about a scene that is unlike the models' training data, one line each.

    Args:
        name: the scene, for the message.
        source_gsd_m: ground sample distance of the raster, in metres; None where it is not known.
        gsd_m: the same of the working grid.
        sample: (bands, n), observed values as stored, colours first.
    """
    if source_gsd_m is not None and gsd_m is not None and max(source_gsd_m, gsd_m) > COARSEST_M * 1.01:
        yield (
            f"{name}: a pixel is {max(source_gsd_m, gsd_m):.3g} m on the ground; the models were trained on pixels of "
            f"at most {COARSEST_M:g} m, and what they find in coarser ones was never measured"
        )
    share = white_share(sample[:3])
    if share >= WHITE_SHARE:
        yield (
            f"{name}: {share:.0%} of the observed ground is white, as snow and cloud are; flood cannot be seen through "
            "them, and the models were not trained on them: give such ground as --mask"
        )


def white_share(sample: NDArray[Any]) -> float:
    """Share of pixels that are bright and without colour.

    Args:
        sample: (bands, n), as stored; uint8, or any other dtype, whose values may be reflectances or counts.
    """
    if not sample.shape[1]:
        return 0.0
    largest, least = _scale(sample)
    brightest, darkest = sample.max(axis=0) / largest, sample.min(axis=0) / largest
    return float(((darkest >= least) & (brightest - darkest <= _GREY)).mean())


def _scale(sample: NDArray[Any]) -> tuple[float, float]:
    """The value of full brightness, and the share of it from which a pixel is white."""
    if sample.dtype == np.uint8:
        return 255.0, _WHITE
    top = float(np.percentile(sample, 99))
    for largest, least in _REFLECTANCES:
        if top <= largest and (largest > 2 or sample.dtype.kind == "f"):
            return (1.0 if largest < 2 else 10_000.0), least
    return float(np.iinfo(sample.dtype).max) if sample.dtype.kind in "iu" else top, _WHITE
