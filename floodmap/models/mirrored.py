"""Test-time augmentation: the mean of the predictions for a window and for the window's mirror image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from floodmap.imagery.tile import Tile
from floodmap.models.prompts import Prompts

if TYPE_CHECKING:
    from floodmap.models.flood_segmenter import FloodSegmenter
    from floodmap.models.protocol import Segmenter
    from floodmap.models.sam_segmenter import SamSegmenter


def predict_mirrored(
    segmenter: Segmenter, tiles: Sequence[Tile], prompts: Sequence[Prompts]
) -> list[NDArray[np.float32]]:
    """Predict flood probabilities with test-time augmentation: the mean over each tile and the tile's mirror image.

    A model of the class `Mirrored` already returns this mean, and is called without mirror images.

    Args:
        segmenter: the model.
        tiles: image tiles, of any shapes.
        prompts: one set of prompts for each tile, in the tile's pixel coordinates.

    Returns:
        Probabilities of each tile, float32 (height, width), 0 to 1.
    """
    if isinstance(segmenter, Mirrored):
        return segmenter.predict(tiles, prompts)
    flipped_prompts = [_flip_prompts(p, tile.reason.shape[1]) for tile, p in zip(tiles, prompts, strict=True)]
    probabilities = segmenter.predict([*tiles, *map(mirrored, tiles)], [*prompts, *flipped_prompts])
    pairs = zip(probabilities[: len(tiles)], probabilities[len(tiles) :], strict=True)
    return [np.asarray((direct + flipped[:, ::-1]) / 2, np.float32) for direct, flipped in pairs]


class Mirrored:
    """Model with test-time augmentation: the mean of the predictions for a window and for the window's mirror image.

    Args:
        segmenter: the model.
    """

    def __init__(self, segmenter: FloodSegmenter | SamSegmenter) -> None:
        self.segmenter = segmenter
        self.name, self.sha256, self.training = segmenter.name, segmenter.sha256, segmenter.training
        self.knows_floods, self.multiple = segmenter.knows_floods, segmenter.multiple
        self.offloads = segmenter.offloads
        self.any_size = segmenter.any_size
        self.best_batch_size = segmenter.best_batch_size
        self.runs_on = f"{segmenter.runs_on}, flips"

    def predict(self, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> list[NDArray[np.float32]]:
        """Predict the flood probability of every pixel; see `protocol.Segmenter`."""
        return predict_mirrored(self.segmenter, tiles, prompts)

    def ood_score(self, tiles: Sequence[Tile]) -> float:
        """Compute the out-of-distribution score of a scene; see `protocol.Segmenter`."""
        return self.segmenter.ood_score(tiles)


def mirrored(tile: Tile) -> Tile:
    """Return the mirror image of a tile, with left and right exchanged."""
    nir = None if tile.nir is None else np.ascontiguousarray(tile.nir[:, ::-1])
    missing = None if tile.nir_missing is None else np.ascontiguousarray(tile.nir_missing[:, ::-1])
    rgb, reason = (np.ascontiguousarray(planes[..., ::-1]) for planes in (tile.rgb, tile.reason))
    return replace(tile, rgb=rgb, reason=reason, nir=nir, nir_missing=missing)


def _flip_prompts(prompts: Prompts, width: int) -> Prompts:
    """Convert the prompts of a tile to prompts of the mirror image; `width` is the width of the tile in pixels."""
    left, top, right, bottom = prompts.boxes_xyxy.T
    return replace(
        prompts,
        points_xy=prompts.points_xy * np.array([-1, 1], np.float32) + np.array([width, 0], np.float32),
        boxes_xyxy=np.stack([width - right, top, width - left, bottom], axis=1),
        mask=None if prompts.mask is None else np.ascontiguousarray(prompts.mask[:, ::-1]),
    )
