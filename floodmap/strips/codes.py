"""Codes, one uint8 per pixel: 0 to 100 is flood probability in per cent; from `FIRST_REASON` up, why there is none."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

THRESHOLD: Final = 50
"""Default threshold: a pixel is flood from this per cent up."""
FIRST_REASON: Final = 250
"""Codes from here up are reasons why a pixel is unobserved; rasters hold `UNOBSERVED` for all of them."""
DRY: Final = 0
FLOOD: Final = 1
UNOBSERVED: Final = 255
"""Classes of a mask: in masks that floodmap writes, and in any other mask once it is read."""
OUTSIDE: Final = 251
"""Outside the area of interest: unobserved, and in no vector layer."""
FAILED: Final = 252
"""The window could not be read or segmented."""
MASKED: Final = 253
"""Under the user's mask (`--mask`), cloud for instance."""
COLLAR: Final = 254
"""An untagged black or white border."""
NODATA: Final = 255
"""Nodata value, alpha 0, internal mask, NaN or infinity."""

REASONS: Final = MappingProxyType(
    {NODATA: "nodata", COLLAR: "collar", MASKED: "mask", FAILED: "failed", OUTSIDE: "outside"}
)
"""Name of each reason, as the `unobserved` layer writes it."""
