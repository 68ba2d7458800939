"""What one uint8 per pixel says: to 100 the flood probability in per cent, from `UNOBSERVED` up why there is none."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

THRESHOLD: Final = 50
"""Per cent from which a pixel counts as flood, where nothing else is asked for."""
UNOBSERVED: Final = 250
"""Codes from here up are not probabilities; the mask and the probability raster write 255 for all of them."""
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
