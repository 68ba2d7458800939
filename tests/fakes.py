"""Fake models without weights, for tests of the code around a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from floodmap.imagery.tile import Tile
from floodmap.models.prompts import Prompts


class FakeSegmenter:
    """Predicts flood by the blue band; keeps the tiles and prompts it gets."""

    best_batch_size = 1
    name, sha256, runs_on = "fake", "0" * 64, "cpu float32"
    knows_floods, multiple, any_size, offloads = True, 32, True, False
    training = None

    def __init__(self, before: Callable[[Tile], None] | None = None) -> None:
        self.before = before or (lambda _: None)
        self.tiles: list[Tile] = []
        self.prompts: list[Prompts] = []

    def predict(self, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> NDArray[np.float32]:
        for tile in tiles:
            self.before(tile)
        self.tiles += tiles
        self.prompts += prompts
        return np.stack([tile.rgb[2] / np.float32(255.0) for tile in tiles])

    def ood_score(self, tiles: Sequence[Tile]) -> float:
        return 0.0


class ConstantSegmenter(FakeSegmenter):
    """Predicts the same probability everywhere."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = np.float32(probability)

    def predict(self, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> NDArray[np.float32]:
        return np.full((len(tiles), *tiles[0].reason.shape), self.probability)
