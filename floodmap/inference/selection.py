"""Plans of windows: by the coarse probability, the model predicts all of a window, parts of it or nothing."""

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
    """Inputs of the model for a window. Other pixels are not kept, because many plans may wait in a queue."""

    window: Window
    reason: NDArray[np.uint8]
    """Code of the reason why a pixel is unobserved, 0 where it is observed, (height, width)."""
    unread: str = ""
    """Error message of reading the window or a part of it; empty if all of it was read."""
    views: tuple[tuple[Tile, Prompts], ...] = ()
    """Tiles of the whole window, or of parts of it, with their prompts; empty if there is nothing to predict."""
    coarse: NDArray[np.float32] | None = None
    """Coarse probability, float32 (h, w) at the coarse resolution, 0 to 1, which is final outside the views. None if
    the window is predicted as a whole."""

    @property
    def pixels(self) -> int:
        """Number of pixels that the model predicts."""
        return sum(tile.reason.size for tile, _ in self.views)


@dataclass(frozen=True, slots=True)
class Selection:
    """Planner of the windows of a scene."""

    scene: Scene
    prompter: Prompter
    exhaustive: bool = True
    """True: every window is predicted as a whole, whatever the coarse probability."""

    def plan(self, window: Window) -> WindowPlan:
        """Read a window and build its prompts; a window with a final coarse probability on all of it is not read."""
        coarse = self._final_coarse(window)
        if coarse is not None:
            return WindowPlan(window, _all_observed(window.height, window.width), coarse=coarse)
        tile, unread = self._read(window)
        if not tile.reason.any():
            tile = replace(tile, reason=_all_observed(*tile.reason.shape))
        if not tile.valid.any():
            return WindowPlan(window, tile.reason, unread)
        prompts = self.prompter(tile)
        parts = None if self.exhaustive else uncertain_parts(prompts, tile.reason.shape)
        if parts is None or prompts.mask is None:
            return WindowPlan(window, tile.reason, unread, ((tile, prompts),))
        tiles = [tile.part(part) for part in parts]
        return WindowPlan(window, tile.reason, unread, tuple((one, self.prompter(one)) for one in tiles), prompts.mask)

    def _final_coarse(self, window: Window) -> NDArray[np.float32] | None:
        """Return the coarse probability if it is final on all of a window, else None.

        It is final if it is confident everywhere and all pixels are observed.
        """
        if self.exhaustive or not isinstance(self.prompter, CoarsePrompter) or not self.prompter.is_observed(window):
            return None
        prompts = self.prompter.prompts(window)
        return prompts.mask if uncertain_parts(prompts, (window.height, window.width)) == [] else None

    def _read(self, window: Window) -> tuple[Tile, str]:
        """Read a tile; return the tile and the error message of reading it, which is empty if nothing failed."""
        try:
            tile = self.scene.read(window)
            return tile, tile.failure
        except SceneError as error:
            return self.scene.failed(window), str(error)


def _all_observed(height: int, width: int) -> NDArray[np.uint8]:
    """Return zeros, uint8 (height, width), as a read-only view that takes no memory: every pixel is observed."""
    return np.broadcast_to(np.uint8(0), (height, width))
