"""What tells a model where to look, window by window, and what a model is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from floodmap.errors import ModelError
from floodmap.grid import Window
from floodmap.likelihood import likelihood
from floodmap.prompts import Prompts, pick_prompts, read_prompts
from floodmap.scene import Scene, Tile

COARSE_FACTOR, COARSE_SIDE = 4, 2048
"""The coarse pass sees the scene shrunk by this, or further, to at most so many pixels a side."""


class Segmenter(Protocol):
    """A model, as the pipeline sees it."""

    name: str
    """What the polygons' `model` field says."""
    sha256: str
    """Hash of the weights."""
    knows_floods: bool
    """Whether the model finds flood water by itself; otherwise the unsupervised likelihood points it there."""
    multiple: int
    """Window sides are multiples of this where possible."""
    runs_on: str
    """Device and precision, which results depend on a little."""

    def predict(self, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> NDArray[np.float32]:
        """Flood probability of every pixel.

        Args:
            tiles: of one shape.
            prompts: one for each tile, in its pixels.

        Returns:
            (B, height, width), 0 to 1; unobserved pixels hold any number.
        """
        ...


Prompter = Callable[[Tile], Prompts]


def make_prompter(scene: Scene, segmenter: Segmenter, wanted: Path | Literal["auto", "none"]) -> Prompter:
    """What tells the model where to look, window by window."""
    if wanted == "none":
        return lambda _: Prompts.none()
    if isinstance(wanted, Path):
        given = read_prompts(wanted, transform=scene.transform, crs=scene.crs, width=scene.width, height=scene.height)
        return lambda tile: given.within(tile.window)
    side = min(max(scene.height, scene.width) // COARSE_FACTOR, COARSE_SIDE)
    preview = scene.preview(max(side, 1))
    if segmenter.knows_floods:
        try:
            coarse = segmenter.predict([preview], [Prompts.none()])[0]
        except (RuntimeError, MemoryError) as error:
            raise ModelError(f"{scene.path}: the coarse pass failed ({error}); try --prompts none") from error
        return lambda tile: Prompts.from_mask(crop_coarse(coarse, tile.window, scene))
    coarse = likelihood(preview.rgb, preview.valid, nir=preview.nir, gsd_m=scene.gsd_m)
    return lambda tile: pick_prompts(crop_coarse(coarse, tile.window, scene), tile.valid)


def crop_coarse(coarse: NDArray[np.float32], window: Window, scene: Scene) -> NDArray[np.float32]:
    """The part of a coarse map of the whole scene that a window covers, at about the coarse resolution.

    Sampled between the map's cells: whole cells would lie beside the window by up to one, 25 pixels in a large scene.
    """
    sides = (
        (window.row_off, window.height, scene.height, coarse.shape[0]),
        (window.col_off, window.width, scene.width, coarse.shape[1]),
    )
    at = []
    for first, length, whole, cells in sides:
        count = max(1, round(length * cells / whole))
        centres = first + (np.arange(count) + 0.5) * (length / count)
        at.append(centres * (cells / whole) - 0.5)
    sampled = ndimage.map_coordinates(coarse, np.meshgrid(*at, indexing="ij"), order=1, mode="nearest")
    return np.asarray(sampled, np.float32)
