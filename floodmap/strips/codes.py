"""Codes: one uint8 per pixel.

A code from 0 to 100 is the probability of flood in per cent. A code from 101 to 200 is permanent water, see
`PERMANENT_CODE`. A code from `FIRST_REASON` (250) upwards is the reason why the pixel is unobserved.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

THRESHOLD: Final = 50
"""Default threshold in per cent: a pixel with this probability or a higher probability is flood."""
FIRST_REASON: Final = 250
"""Smallest code that is a reason why a pixel is unobserved. Output rasters contain `UNOBSERVED` for every reason."""
DRY: Final = 0
FLOOD: Final = 1
UNOBSERVED: Final = 255
"""Class of an unobserved pixel. DRY, FLOOD and UNOBSERVED are the values of pixels in masks, not codes."""
PERMANENT: Final = 2
"""Class of a pixel of permanent water: water that a reference (`--permanent-water`) marks as always there."""
PERMANENT_CODE: Final = 100
"""The code of permanent water is this value plus the probability of water in per cent. Only pixels of at least the
threshold are permanent water."""
OUTSIDE: Final = 251
"""Reason: the pixel is outside the area of interest. Pixels outside are in no vector layer."""
FAILED: Final = 252
"""Reason: the window of the pixel could not be read or segmented."""
MASKED: Final = 253
"""Reason: the pixel is under the mask of the user (`--mask`), for example a mask of clouds."""
COLLAR: Final = 254
"""Reason: the pixel is in a collar, a black or white border that the file does not declare as nodata."""
NODATA: Final = 255
"""Reason: the pixel has the nodata value, alpha 0, NaN or infinity, or is masked by the internal mask of the file."""

REASONS: Final = MappingProxyType(
    {NODATA: "nodata", COLLAR: "collar", MASKED: "mask", FAILED: "failed", OUTSIDE: "outside"}
)
"""Name of each reason, by code. The field `reason` of the layer `unobserved` contains these names."""


def flood_kinds(threshold: int) -> NDArray[np.uint8]:
    """Return the kind of each code, uint8 (256,), by which pixels are traced as polygons.

    The kinds are `FLOOD`, `PERMANENT`, and each reason why a pixel is unobserved. Dry pixels, and pixels outside the
    area of interest, have the kind 0 and are not traced.

    Args:
        threshold: in per cent; codes from the threshold to 100 are flood.
    """
    kinds = np.arange(256, dtype=np.uint8)
    kinds[:threshold], kinds[threshold : PERMANENT_CODE + 1] = DRY, FLOOD
    kinds[PERMANENT_CODE + 1 : FIRST_REASON], kinds[FIRST_REASON:FAILED] = PERMANENT, DRY
    return kinds
