"""What of each window the model has to see: nothing, parts or all of it, by what the coarse pass says."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from floodmap.errors import SceneError
from floodmap.geo.window import Window
from floodmap.imagery.scene import Scene
from floodmap.imagery.tile import Tile
from floodmap.inference.parts import unsure_parts
from floodmap.inference.prompting import FarView, Prompter
from floodmap.models.prompts import Prompts


@dataclass(frozen=True, slots=True)
class WindowPlan:
    """What the model is to see of a window; no more pixels than that, since many plans may be waiting."""

    window: Window
    reason: NDArray[np.uint8]
    """Why a pixel is unobserved, (height, width)."""
    unread: str = ""
    """Why the window, or a part of it, could not be read: empty where it could."""
    views: tuple[tuple[Tile, Prompts], ...] = ()
    """The window or parts of it, with their prompts."""
    coarse: NDArray[np.float32] | None = None
    """Probabilities of the coarse pass, at its own resolution, where they are final beside the views."""

    @property
    def pixels(self) -> int:
        """Pixels the model is to see."""
        return sum(tile.reason.size for tile, _ in self.views)


@dataclass(frozen=True, slots=True)
class Selection:
    """Plans the windows of a scene."""

    scene: Scene
    prompter: Prompter
    exhaustive: bool = True
    """Every window is seen whole, whatever the coarse pass says."""

    def plan(self, window: Window) -> WindowPlan:
        """Read a window and prompt it; where the coarse pass is final on all of it, it is not even read."""
        coarse = self._final(window)
        if coarse is not None:
            return WindowPlan(window, _all_observed(window.height, window.width), coarse=coarse)
        tile, unread = self._read(window)
        if not tile.reason.any():
            tile = replace(tile, reason=_all_observed(*tile.reason.shape))
        if not tile.valid.any():
            return WindowPlan(window, tile.reason, unread)
        prompts = self.prompter(tile)
        parts = None if self.exhaustive else unsure_parts(prompts, tile.reason.shape)
        if parts is None or prompts.mask is None:
            return WindowPlan(window, tile.reason, unread, ((tile, prompts),))
        tiles = [tile.part(part) for part in parts]
        return WindowPlan(window, tile.reason, unread, tuple((one, self.prompter(one)) for one in tiles), prompts.mask)

    def _final(self, window: Window) -> NDArray[np.float32] | None:
        """Probabilities of the coarse pass where nothing else is needed: it is sure, and all pixels are observed."""
        if self.exhaustive or not isinstance(self.prompter, FarView) or not self.prompter.is_observed(window):
            return None
        prompts = self.prompter.prompts(window)
        return prompts.mask if unsure_parts(prompts, (window.height, window.width)) == [] else None

    def _read(self, window: Window) -> tuple[Tile, str]:
        """A tile, and why it, or a part of it, could not be read: empty where it could."""
        try:
            tile = self.scene.read(window)
            return tile, tile.failure
        except SceneError as error:
            return self.scene.failed(window), str(error)


def _all_observed(height: int, width: int) -> NDArray[np.uint8]:
    """Zeros that take no memory."""
    return np.broadcast_to(np.uint8(0), (height, width))
