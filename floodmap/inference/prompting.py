"""Prompters: functions that build the prompts of each window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from floodmap.geo.window import Window
from floodmap.imagery.scene import Scene
from floodmap.imagery.tile import Tile
from floodmap.inference.coarse_map import CoarseCodes, MapPart, crop_coarse
from floodmap.inference.coarse_pass import coarse_pass
from floodmap.inference.likelihood import likelihood
from floodmap.inference.observed import Observed
from floodmap.inference.prompt_files import read_prompts
from floodmap.inference.scales import COARSE_FACTOR, COARSE_MIN_SIDE
from floodmap.models.prompts import Prompts, pick_prompts
from floodmap.models.protocol import Segmenter

LIKELIHOOD_SIDE = 2048
"""Largest side in pixels of the reduced image of the scene from which the unsupervised likelihood is computed."""
Prompter = Callable[[Tile], Prompts]
"""Function that returns the prompts of a tile, in pixels of the tile."""


def make_prompter(
    scene: Scene, segmenter: Segmenter, wanted: Path | str | Prompts, *, exhaustive: bool = True
) -> Prompter:
    """Make the function that builds the prompts of each window.

    Args:
        scene: the scene. Unless `wanted` is `none`, the whole scene is read at reduced resolution.
        segmenter: the model.
        wanted: source of the prompts. `auto`: the coarse pass, or the unsupervised likelihood if the model was not
            trained on floods. `none`: no prompts. A vector file, or `Prompts` in pixels of the scene: points and boxes
            of a user, which are used together with the prompts of `auto`; see `joined`.
        exhaustive: how much the coarse pass predicts twice. It predicts each window of the reduced scene, and then the
            mirror image of the window. True: the whole mirror image. False: the mirror image only of the parts of the
            window in which the first prediction is uncertain. A model that cannot predict a part of a window alone
            (`Segmenter.any_size` is False) predicts the whole mirror image in both cases.

    Returns:
        The prompter: a function from a tile to the prompts of the tile, in pixels of the tile.

    Raises:
        ModelError: the model fails in the coarse pass.
        PromptError: the vector file holds no usable prompts; see `read_prompts`.
        VectorError: the vector file cannot be read.
    """
    if wanted == "none":
        return unprompted
    if wanted != "auto":  # a wrong file is refused before the coarse pass
        given = wanted if isinstance(wanted, Prompts) else read_prompts(wanted, scene.grid)
        return joined(given, make_prompter(scene, segmenter, "auto", exhaustive=exhaustive))
    if segmenter.knows_floods:
        return far_view(scene, segmenter, exhaustive=exhaustive)
    return LikelihoodPrompter(scene, scene_likelihood(scene))


def scene_likelihood(scene: Scene) -> NDArray[np.float32]:
    """Compute the unsupervised likelihood of a scene from a preview; the whole scene is read at reduced resolution.

    Returns:
        Likelihood of water, float32 (h, w), 0 to 1; h and w are at most `LIKELIHOOD_SIDE`.
    """
    preview = scene.preview(max(1, min(max(scene.height, scene.width) // COARSE_FACTOR, LIKELIHOOD_SIDE)))
    nir = preview.nir
    if nir is not None and preview.nir_missing is not None:  # as bright as green: neither water nor land
        nir = np.where(preview.nir_missing, preview.rgb[1], nir)
    return likelihood(preview.rgb, preview.valid, nir=nir, gsd_m=scene.gsd_m)


def unprompted(_: Tile) -> Prompts:
    """Return an empty prompt set for any tile."""
    return Prompts.none()


def far_view(scene: Scene, segmenter: Segmenter, *, exhaustive: bool = True) -> Prompter:
    """Run the coarse pass on a scene, and return a prompter that crops mask prompts from the result.

    If the model was not trained on floods, or if the longer side of the scene is below `COARSE_MIN_SIDE`, there is no
    coarse pass, and the prompter returns empty prompts.

    Args:
        scene: the scene. For the coarse pass, the whole scene is read.
        segmenter: the model.
        exhaustive: how much the coarse pass predicts twice; see `make_prompter`. True: the mirror image of each window
            as a whole. False: the mirror image only of the parts of the window in which the first prediction is
            uncertain. With a model that cannot predict a part of a window alone, False has the effect of True.
    """
    if not has_coarse_pass(scene, segmenter):
        return unprompted
    return CoarsePrompter(scene, *coarse_pass(scene, segmenter, exhaustive=exhaustive))


def has_coarse_pass(scene: Scene, segmenter: Segmenter) -> bool:
    """Return True if `far_view` runs a coarse pass for a scene and a model."""
    return segmenter.knows_floods and max(scene.height, scene.width) >= COARSE_MIN_SIDE


@dataclass(frozen=True, slots=True)
class LikelihoodPrompter:
    """Prompter that picks points and boxes from the unsupervised likelihood of a scene."""

    scene: Scene
    likely: NDArray[np.float32] | MapPart
    """Likelihood of the whole scene, float32 (h, w), 0 to 1; or the rows for the windows that are prompted."""

    def __call__(self, tile: Tile) -> Prompts:
        """Return the points and boxes of a tile."""
        return pick_prompts(crop_coarse(self.likely, tile.window, self.scene), tile.valid)


@dataclass(frozen=True, slots=True)
class CoarsePrompter:
    """Prompter that returns mask prompts from the coarse pass of a scene."""

    scene: Scene
    coarse: CoarseCodes
    """Coarse map of the whole scene, or the rows of the map for the windows that are prompted."""
    observed: Observed
    """For each square of 16 x 16 pixels of the coarse map: whether all pixels of the scene in it are observed."""

    def __call__(self, tile: Tile) -> Prompts:
        """Return the mask prompt of a tile."""
        return self.prompts(tile.window)

    def prompts(self, window: Window) -> Prompts:
        """Return the mask prompt of a window of the scene. The pixels of the window are not read."""
        return Prompts.from_mask(crop_coarse(self.coarse, window, self.scene) / 100)

    def is_observed(self, window: Window) -> bool:
        """Return True if all pixels of a window of the scene are observed, according to the record `observed`.

        The record has one value for each square of 16 x 16 pixels of the coarse map. The result may therefore be False
        although only pixels near the window are unobserved.
        """
        down, across = self.scene.height / self.coarse.shape[0], self.scene.width / self.coarse.shape[1]
        top, left = int(window.row_off / down) - 1, int(window.col_off / across) - 1
        height, width = int(window.row_end / down) + 2 - top, int(window.col_end / across) + 2 - left
        return self.observed.covers(Window(top, left, height, width))


def joined(given: Prompts, prompter: Prompter) -> Prompter:
    """Return a prompter that adds the user's points and boxes to the prompts of another prompter.

    Args:
        given: points and boxes of the user, in pixels of the scene. If there are boxes, all flood is in them, and only
            the mask prompts of the other prompter are used.
        prompter: prompter that returns the mask prompts, and perhaps points and boxes.
    """

    def join(tile: Tile) -> Prompts:
        own, more = given.within(tile.window), prompter(tile)
        if own.bounded:
            return replace(own, mask=more.mask)
        points = np.concatenate([own.points_xy, more.points_xy])
        return replace(more, points_xy=points, labels=np.concatenate([own.labels, more.labels]))

    return join
