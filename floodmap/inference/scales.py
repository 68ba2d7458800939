"""Factor by which a scene is shrunk for the coarse pass. This module has no I/O, because training imports it too."""

from __future__ import annotations

COARSE_FACTOR = 4
"""Factor of the coarse pass for scenes with a longer side of 2048 to 65,536 pixels. It gives enough context in a
window, and enough resolution for shorelines."""
COARSE_MIN_SIDE = 512
"""Least longer side, in pixels, that a factor of 3 or 4 leaves. Scenes of less than 3 times this side are shrunk by 2,
and scenes of less than 4 times this side by 3, because very small pictures show too little. Scenes with a longer side
below it have no coarse pass."""
COARSE_SIDE = 16_384
"""Largest longer side of the shrunk scene, in pixels; larger scenes are shrunk by more than 4, so that memory is
bounded."""


def coarse_factor(side: int) -> int:
    """Return the factor by which the coarse pass shrinks a scene, from the scene's longer side in pixels."""
    return max(2, min(COARSE_FACTOR, side // COARSE_MIN_SIDE), -(-side // COARSE_SIDE))
