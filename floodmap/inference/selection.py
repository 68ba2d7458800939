"""Plans of windows: whether the model predicts all of a window, parts of it or nothing, by the coarse probability."""

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
    """The model's inputs for a window, and no other pixels, since many plans may be queued."""

    window: Window
    reason: NDArray[np.uint8]
    """Code of the reason why a pixel is unobserved, 0 where it is observed, (height, width)."""
    unread: str = ""
    """The error of reading the window or a part of it; empty if it was read."""
    views: tuple[tuple[Tile, Prompts], ...] = ()
    """The whole window, or parts of it, with their prompts."""
    coarse: NDArray[np.float32] | None = None
    """Coarse probability, (h, w) at its own resolution, which is final outside the views; None for whole windows."""

    @property
    def pixels(self) -> int:
        """Number of pixels that the model predicts."""
        return sum(tile.reason.size for tile, _ in self.views)


@dataclass(frozen=True, slots=True)
class Selection:
    """Plans the windows of a scene."""

    scene: Scene
    prompter: Prompter
    exhaustive: bool = True
    """Whether every window is predicted as a whole, whatever the coarse probability."""

    def plan(self, window: Window) -> WindowPlan:
        """Read a window and make its prompts; it is not read where the coarse probability is final on all of it."""
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
        """The coarse probability where it is final: confident everywhere, and all pixels observed; None elsewhere."""
        if self.exhaustive or not isinstance(self.prompter, CoarsePrompter) or not self.prompter.is_observed(window):
            return None
        prompts = self.prompter.prompts(window)
        return prompts.mask if uncertain_parts(prompts, (window.height, window.width)) == [] else None

    def _read(self, window: Window) -> tuple[Tile, str]:
        """Read a tile; also the error of reading it or a part of it, empty if it was read."""
        try:
            tile = self.scene.read(window)
            return tile, tile.failure
        except SceneError as error:
            return self.scene.failed(window), str(error)


def _all_observed(height: int, width: int) -> NDArray[np.uint8]:
    """A read-only view of zeros that takes no memory, uint8 (height, width)."""
    return np.broadcast_to(np.uint8(0), (height, width))
