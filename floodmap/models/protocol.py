"""What a model is, as the pipeline sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from floodmap.imagery.tile import Tile
from floodmap.models.prompts import Prompts
from floodmap.models.training_record import TrainingRecord


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
    any_size: bool
    """Whether it sees a part of a window as it sees the window, at the same scale and for less."""
    best_batch_size: int
    """Windows at a time that it works on best."""
    offloads: bool
    """Whether it works on a device of its own, and leaves this machine's cores to the rest."""
    runs_on: str
    """Device and precision, which results depend on a little."""
    training: TrainingRecord | None
    """What is known of its training."""

    def predict(self, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> Sequence[NDArray[np.float32]]:
        """Flood probability of every pixel.

        Args:
            tiles: of any shapes.
            prompts: one for each tile, in its pixels.

        Returns:
            For each tile (height, width), 0 to 1; unobserved pixels hold any number.
        """
        ...

    def strangeness(self, tiles: Sequence[Tile]) -> float:
        """How far a scene, seen in these tiles, lies from training: 1 is the limit; 0 where that is not known."""
        ...
