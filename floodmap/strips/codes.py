"""What one uint8 per pixel says: to 100 the flood probability in per cent, from `FIRST_REASON` up why there is none."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

THRESHOLD: Final = 50
"""Per cent from which a pixel counts as flood, where nothing else is asked for."""
FIRST_REASON: Final = 250
"""Codes from here up are reasons for having no probability; rasters write `UNOBSERVED` for all of them."""
DRY: Final = 0
FLOOD: Final = 1
UNOBSERVED: Final = 255
"""What a mask says of a pixel, floodmap's own and, as it is read, any other."""
OUTSIDE: Final = 251
"""Outside the area of interest: unobserved, and in no layer."""
FAILED: Final = 252
"""The window could not be read or segmented."""
MASKED: Final = 253
"""Under the user's mask, cloud for instance."""
COLLAR: Final = 254
"""An untagged black or white border."""
NODATA: Final = 255
"""Nodata value, alpha 0, internal mask, NaN or infinity."""

REASONS: Final = MappingProxyType(
    {NODATA: "nodata", COLLAR: "collar", MASKED: "mask", FAILED: "failed", OUTSIDE: "outside"}
)
"""Name of each reason, as the `unobserved` layer writes it."""
