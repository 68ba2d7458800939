"""Scenes unlike all that a model was trained on."""

from __future__ import annotations

from floodmap.imagery.scene import Scene
from floodmap.models.protocol import Segmenter

SIDE, PLACES = 512, 4
"""Windows that are looked at: their side, in pixels, and how many along a side of the scene at most."""
OBSERVED = 0.5
"""Least share of a window that has to be observed."""


def strange(scene: Scene, segmenter: Segmenter) -> tuple[str, ...]:
    """A line to warn with where a scene's colours and textures lie far from training; nothing elsewhere.

    Some windows spread over the scene are encoded: less than a hundredth of the work on a large one.
    """
    count = max(1, min(PLACES, -(-max(scene.height, scene.width) // SIDE)))
    tiles = [tile for tile in scene.samples(count, SIDE) if tile.valid.mean() >= OBSERVED]
    far = segmenter.strangeness(tiles) if tiles else 0.0
    if far <= 1:
        return ()
    return (
        f"{scene.path}: its colours and textures are unlike all that {segmenter.name} was trained on ({far:.1f} times "
        "the usual distance), so its flood map may be wrong anywhere: check it against the picture before it is used",
    )
