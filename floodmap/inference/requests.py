"""What is asked of a model for a window, and what it finds there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from floodmap.errors import SceneError
from floodmap.geo.window import Window
from floodmap.imagery.scene import Scene
from floodmap.imagery.tile import Tile
from floodmap.inference.prompting import Prompter
from floodmap.inference.proof import Failure
from floodmap.inference.selection import put, standing, unsure_parts
from floodmap.models.prompts import Prompts

Read = tuple[Tile, str]
"""A tile, and why it, or a part of it, could not be read: nothing where it could."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of a window; pieces of it until it is blended, since many may be waiting."""

    window: Window
    reason: NDArray[np.uint8]
    """Why a pixel is unobserved, (height, width)."""
    pieces: Sequence[tuple[Window, NDArray[np.float32]]] = ()
    """Parts of it, in its own pixels, and their probabilities; one alone where the whole window was seen."""
    standing: NDArray[np.float32] | None = None
    """What a coarse pass said of it, at its own resolution, where that is to stand beside the parts."""
    unread: str = ""
    """Why it, or a part of it, could not be read: nothing where it could."""
    reached: bool = False
    """Whether the model saw any of it."""
    failure: Failure | None = None
    """Why the model gave nothing for it, or for a part of it."""

    @property
    def why(self) -> str:
        """What failed: nothing where nothing did."""
        return self.failure.why if self.failure else self.unread

    def probability(self) -> NDArray[np.float32] | None:
        """(height, width); None where the window has none."""
        if self.standing is None:
            return self.pieces[0][1] if self.pieces else None
        whole = standing(self.standing, self.reason.shape)
        for part, probability in self.pieces:
            put(part, probability, whole)
        return whole


def read(scene: Scene, window: Window) -> Read:
    """A tile; where it, or a part of it, cannot be read, what stands for that, and the reason."""
    try:
        tile = scene.read(window)
        return tile, tile.failure
    except SceneError as error:
        return scene.failed(window), str(error)


@dataclass(frozen=True, slots=True)
class Asked:
    """A window, and what is to be made of it; no more of its pixels than that takes, since many may be waiting."""

    window: Window
    reason: NDArray[np.uint8]
    """Why a pixel is unobserved, (height, width)."""
    unread: str
    """Why the window, or a part of it, could not be read: nothing where it could."""
    seen: tuple[tuple[Tile, Prompts], ...] = ()
    """What the model is to see, the window or parts of it, and what it is told."""
    standing: NDArray[np.float32] | None = None
    """What a coarse pass said of the window, at its own resolution, where that is to stand."""

    @property
    def pixels(self) -> int:
        """Pixels the model is to see."""
        return sum(tile.reason.size for tile, _ in self.seen)


def asked(prompter: Prompter, found: Read, *, exhaustive: bool = True) -> Asked:
    """Prompt a window; unless `exhaustive`, only parts of which a coarse pass is not sure are to be seen."""
    tile, unread = found
    if not tile.reason.any():  # nothing is kept for each of many windows that wait
        tile = replace(tile, reason=np.broadcast_to(np.uint8(0), tile.reason.shape))
    if not tile.valid.any():
        return Asked(tile.window, tile.reason, unread)
    prompts = prompter(tile)
    parts = None if exhaustive else unsure_parts(prompts, tile.reason.shape)
    if parts is None or prompts.mask is None:
        return Asked(tile.window, tile.reason, unread, ((tile, prompts),))
    tiles = [tile.part(window) for window in parts]
    return Asked(tile.window, tile.reason, unread, tuple((one, prompter(one)) for one in tiles), prompts.mask)
