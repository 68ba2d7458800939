"""`Segmenter`: the interface that every model offers to the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from floodmap.imagery.tile import Tile
from floodmap.models.prompts import Prompts
from floodmap.models.training_record import TrainingRecord


class Segmenter(Protocol):
    """A segmentation model: image tiles and prompts in, flood probabilities out."""

    name: str
    """The model's name, written to the polygons' `model` field."""
    sha256: str
    """SHA-256 of the weights."""
    knows_floods: bool
    """Whether the model finds flood water without prompts; if not, prompts come from the unsupervised likelihood."""
    multiple: int
    """Window sides, in pixels, are multiples of this where possible."""
    any_size: bool
    """Whether a crop of a window is processed at the window's scale, and so costs less than the window."""
    best_batch_size: int
    """Number of windows in a batch that gives the highest throughput."""
    offloads: bool
    """Whether the model runs on a device other than the CPU, so that the CPU's cores are free for other work."""
    runs_on: str
    """Device and precision; the last bits of results depend on them."""
    training: TrainingRecord | None
    """The pictures that it was trained and validated on; None where its file does not say."""

    def predict(self, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> Sequence[NDArray[np.float32]]:
        """Predict the flood probability of every pixel.

        Args:
            tiles: image tiles, of any shapes.
            prompts: one for each tile, in the tile's pixel coordinates.

        Returns:
            For each tile float32 (height, width), 0 to 1; unobserved pixels hold any number.
        """
        ...

    def ood_score(self, tiles: Sequence[Tile]) -> float:
        """Out-of-distribution score of a scene, from sample tiles: above 1 is out of distribution, 0 is not known."""
        ...
