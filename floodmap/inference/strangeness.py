"""Warning for a scene that is out of distribution: it differs from all pictures on which the model was trained."""

from __future__ import annotations

from collections.abc import Iterable

from floodmap.imagery.scene import Scene
from floodmap.imagery.tile import Tile
from floodmap.models.protocol import Segmenter

SIDE, PLACES = 512, 4
"""Side of a test window (see `ood_warnings`), in pixels; largest number of test windows along a side of the scene."""
OBSERVED = 0.5
"""Least share of observed pixels in a test window, 0 to 1. Test windows with a smaller share are not used."""


def ood_warnings(scene: Scene, segmenter: Segmenter) -> tuple[str, ...]:
    """Return a tuple: empty, or with one warning if a scene's colours and textures are out of distribution.

    The encoder of the model is run only on test windows: at most 4 x 4 windows of 512 x 512 pixels, spread evenly over
    the scene. On a large scene this takes less than a hundredth of the time of the segmentation.
    """
    count = max(1, min(PLACES, -(-max(scene.height, scene.width) // SIDE)))
    return ood_warnings_of(scene.samples(count, SIDE), scene.path, segmenter)


def ood_warnings_of(windows: Iterable[Tile], name: object, segmenter: Segmenter) -> tuple[str, ...]:
    """Return a tuple: empty, or with one warning if the colours and textures of test windows are out of distribution.

    Args:
        windows: the test windows; those that are mostly unobserved are left out.
        name: name of the scene, for the warning.
        segmenter: the model.
    """
    tiles = [tile for tile in windows if tile.valid.mean() >= OBSERVED]
    ood = segmenter.ood_score(tiles) if tiles else 0.0
    if ood <= 1:
        return ()
    return (
        f"{name}: its colours and textures are unlike all that {segmenter.name} was trained on ({ood:.1f} times "
        "the usual distance), so its flood map may be wrong anywhere: check it against the picture before it is used",
    )
