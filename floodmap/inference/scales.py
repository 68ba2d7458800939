"""Factor by which a scene is shrunk for the coarse pass. This module has no I/O, because training imports it too."""

from __future__ import annotations

COARSE_FACTOR = 4
"""Factor by which scenes with a longer side of 2048 to 65,536 pixels are shrunk. With a factor of 4, a window shows
enough context, and the resolution is fine enough for shorelines."""
COARSE_MIN_SIDE = 512
"""Smallest longer side, in pixels, of a scene with a coarse pass. Scenes with a longer side below 1536 pixels (3 times
this limit) are shrunk by 2. Scenes from 1536 to below 2048 pixels (4 times this limit) are shrunk by 3. A larger factor
would leave too few pixels."""
COARSE_SIDE = 16_384
"""Largest longer side of the shrunk scene, in pixels. Scenes above 65,536 pixels are therefore shrunk by more than 4,
so that memory is bounded."""


def coarse_factor(side: int) -> int:
    """Return the factor by which the coarse pass shrinks a scene, from the scene's longer side in pixels."""
    return max(2, min(COARSE_FACTOR, side // COARSE_MIN_SIDE), -(-side // COARSE_SIDE))
