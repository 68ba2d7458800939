"""By how much a scene is shrunk for the coarse pass. No I/O: training asks, too."""

from __future__ import annotations

COARSE_FACTOR = 4
"""The coarse pass sees the scene shrunk by this: far enough for a picture's meaning, near enough for its shorelines."""
COARSE_WISHED = 512
"""Longer side in pixels that a coarse pass should have: small scenes, of which thumbnails would say little and which
take no time, are shrunk by 3 or 2 only; even smaller ones show too little from far to be worth asking."""
COARSE_SIDE = 16_384
"""Longest side of the coarse pass, in pixels; larger scenes are shrunk further, so that memory is bounded."""


def coarse_factor(side: int) -> int:
    """By how much the coarse pass shrinks a scene whose longer side has so many pixels."""
    return max(2, min(COARSE_FACTOR, side // COARSE_WISHED), -(-side // COARSE_SIDE))
