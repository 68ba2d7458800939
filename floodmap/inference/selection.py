"""Plans of windows: the coarse probability decides whether the model predicts a whole window, parts or nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from floodmap.errors import SceneError
from floodmap.geo.window import Window
from floodmap.imagery.scene import Scene
from floodmap.imagery.tile import Tile
from floodmap.inference.parts import uncertain_parts
from floodmap.inference.prompting import CoarsePrompter, Prompter
from floodmap.models.prompts import Prompts


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """Inputs of the model for a window. Pixels that the model does not need are not kept, to save memory."""

    window: Window
    reason: NDArray[np.uint8]
    """uint8 (height, width): code of the reason why a pixel is unobserved, 0 for observed pixels."""
    unread: str = ""
    """Error message if the window, or a part of the window, could not be read; otherwise empty."""
    views: tuple[tuple[Tile, Prompts], ...] = ()
    """Inputs of the model: pairs of a tile and the prompts for this tile.
    If the model predicts the whole window, there is one pair, whose tile has all pixels of the window. If the model
    predicts only parts of the window, there is one pair for each of these parts, whose tile has the pixels of the part.
    Empty if the model predicts nothing. These inputs are not the augmented views of training, despite the name."""
    coarse: NDArray[np.float32] | None = None
    """Coarse probability of the window, float32 (h, w) at the coarse resolution, 0 to 1. It is the result for all
    pixels of the window outside the tiles in `views`. None: the coarse probability is not used as a result."""

    @property
    def pixels(self) -> int:
        """Number of pixels that the model predicts."""
        return sum(tile.reason.size for tile, _ in self.views)


@dataclass(frozen=True, slots=True)
class Selection:
    """Planner for the windows of a scene. For each window, it decides which pixels the model has to predict."""

    scene: Scene
    prompter: Prompter
    exhaustive: bool = True
    """True: every window is predicted as a whole, whatever the coarse probability."""

    def plan(self, window: Window) -> WindowPlan:
        """Read a window, build its prompts, and decide what the model predicts: the whole window, parts, or nothing.

        If the coarse probability is the result for all pixels of the window, the window is not read.
        """
        coarse = self._final_coarse(window)
        if coarse is not None:
            return WindowPlan(window, _all_observed(window.height, window.width), coarse=coarse)
        tile, unread = self._read(window)
        if not tile.reason.any():
            tile = replace(tile, reason=_all_observed(*tile.reason.shape))
        if not tile.valid.any():
            return WindowPlan(window, tile.reason, unread)
        prompts = self.prompter(tile)
        observed = None if tile.valid.all() else tile.valid
        parts = None if self.exhaustive else uncertain_parts(prompts, tile.reason.shape, observed)
        if parts is None or prompts.mask is None:
            return WindowPlan(window, tile.reason, unread, ((tile, prompts),))
        tiles = [tile.part(part) for part in parts]
        return WindowPlan(window, tile.reason, unread, tuple((one, self.prompter(one)) for one in tiles), prompts.mask)

    def _final_coarse(self, window: Window) -> NDArray[np.float32] | None:
        """Return the coarse probability of a window, float32 (h, w), if it is the result for all pixels; else None.

        The coarse probability is the result if `uncertain_parts` finds no part, and if all pixels of the window are
        observed.
        """
        if self.exhaustive or not isinstance(self.prompter, CoarsePrompter) or not self.prompter.is_observed(window):
            return None
        prompts = self.prompter.prompts(window)
        return prompts.mask if uncertain_parts(prompts, (window.height, window.width)) == [] else None

    def _read(self, window: Window) -> tuple[Tile, str]:
        """Read the tile of a window; return the tile, and the error message, which is empty if nothing failed.

        If the whole window cannot be read, every pixel of the tile is unobserved.
        """
        try:
            tile = self.scene.read(window)
            return tile, tile.failure
        except SceneError as error:
            return self.scene.failed(window), str(error)


def _all_observed(height: int, width: int) -> NDArray[np.uint8]:
    """Return the reasons of a window in which every pixel is observed: zeros, uint8 (height, width).

    The array is read-only and takes the memory of one pixel.
    """
    return np.broadcast_to(np.uint8(0), (height, width))
