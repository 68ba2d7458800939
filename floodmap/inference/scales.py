"""Factor by which a scene is shrunk for the coarse pass. This module has no I/O, because training imports it too."""

from __future__ import annotations

COARSE_FACTOR = 4
"""Factor by which the coarse pass shrinks scenes whose longer side is 2048 to 65,536 pixels.

A window of the coarse pass (1024 x 1024 pixels of the shrunk scene) then covers 4096 x 4096 pixels of the scene. This
is enough context for the model, and the resolution is fine enough for shorelines."""
COARSE_MIN_SIDE = 512
"""In `segment`, scenes whose longer side is below this number of pixels have no coarse pass.

Scenes whose longer side is 512 to 1535 pixels are shrunk by 2, and 1536 to 2047 pixels by 3. A larger factor would
leave too few pixels. 1536 is 3 times this number, and 2048 (see `COARSE_FACTOR`) is 4 times this number."""
COARSE_SIDE = 16_384
"""Largest longer side of the shrunk scene, in pixels, so that memory is bounded.

Scenes whose longer side is above 65,536 pixels are therefore shrunk by more than 4."""


def coarse_factor(side: int) -> int:
    """Return the factor, a whole number of at least 2, by which the coarse pass divides a scene's height and width.

    `side` is the longer side of the scene in pixels. If `side` is below `COARSE_MIN_SIDE`, the factor is 2. Only the
    validation in training uses this case: it has a coarse pass for labelled pictures of any size, whereas `segment` has
    no coarse pass for scenes of this size.
    """
    return max(2, min(COARSE_FACTOR, side // COARSE_MIN_SIDE), -(-side // COARSE_SIDE))
