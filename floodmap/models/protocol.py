"""`Segmenter`: interface of all models, which the inference calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from floodmap.imagery.tile import Tile
from floodmap.models.prompts import Prompts
from floodmap.models.training_record import TrainingRecord


class Segmenter(Protocol):
    """Interface of a segmentation model, which predicts flood probabilities from image tiles and prompts."""

    name: str
    """Name of the model, written to the field `model` of the polygons."""
    sha256: str
    """SHA-256 of the weights file, in lower-case hexadecimal."""
    knows_floods: bool
    """Whether the model finds flood water without prompts. If not, prompts come from the unsupervised likelihood."""
    multiple: int
    """The model's coarsest stride in pixels. Sides of windows are multiples of the stride. The exception is a scene
    that is shorter than a window along an axis: the side of the window is then the side of the scene."""
    any_size: bool
    """True: the model can predict a part of a window (a square inside the window) alone. It does not resize the part,
    and takes less time for a smaller part. The inference then passes only those parts of a window to the model in which
    the coarse pass is uncertain. The whole window is predicted in three cases: the window has point or box prompts; the
    prediction of all uncertain parts would take as long as that of the whole window (see `parts.uncertain_parts`); or
    the run is exhaustive (`--exhaustive`).

    False: every window is predicted as a whole, because the model resizes each tile to one size, or because a GPU needs
    a warm-up for each size."""
    best_batch_size: int
    """Number of windows per batch that gives the highest throughput."""
    offloads: bool
    """Whether the model runs on a device other than the CPU, so that the CPU's cores are free for other work."""
    runs_on: str
    """Text with device and precision, such as "cpu float32". The last bits of the results depend on both."""
    training: TrainingRecord | None
    """Record of the pictures in the model's training and validation sets. None if the model's file has no record.
    The record does not contain the pictures, but a key for each picture file. The key is a text: size of the file in
    bytes, a hyphen, and the first 16 digits of the SHA-256 (see `training_record.picture_key`). A file is one of the
    pictures if its key is in the record."""

    def predict(self, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> Sequence[NDArray[np.float32]]:
        """Predict the flood probability of every pixel.

        Args:
            tiles: image tiles, of any shapes.
            prompts: one set of prompts for each tile, in the tile's pixel coordinates.

        Returns:
            Probabilities of each tile, float32 (height, width), 0 to 1; values of unobserved pixels have no meaning.
        """
        ...

    def ood_score(self, tiles: Sequence[Tile]) -> float:
        """Compute the out-of-distribution score of a scene: the difference between the scene and the training pictures.

        Args:
            tiles: some tiles of the scene, of any shapes.

        Returns:
            The score. Above 1 the scene is out of distribution. 0 means that the score is not known.
        """
        ...
