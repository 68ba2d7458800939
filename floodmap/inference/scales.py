"""The factor by which a scene is shrunk for the coarse pass; without I/O, as training imports it too."""

from __future__ import annotations

COARSE_FACTOR = 4
"""Usual factor of the coarse pass: enough context in a window, and enough resolution for shorelines."""
COARSE_MIN_SIDE = 512
"""Least longer side of the shrunk scene, in pixels: small scenes are shrunk by 3 or 2 only, since thumbnails show too
little. Scenes whose own longer side is below it have no coarse pass."""
COARSE_SIDE = 16_384
"""Largest longer side of the shrunk scene, in pixels; larger scenes are shrunk further, so that memory is bounded."""


def coarse_factor(side: int) -> int:
    """The factor by which the coarse pass shrinks a scene, from its longer side in pixels."""
    return max(2, min(COARSE_FACTOR, side // COARSE_MIN_SIDE), -(-side // COARSE_SIDE))
