from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from floodmap.geo.window import Window
from floodmap.imagery.tile import Tile
from floodmap.models.backends.dispatch import Dispatcher, TileBatch
from floodmap.models.prompts import Prompts

CPU = torch.device("cpu")


def make_tiles(*sides: int) -> list[Tile]:
    """Tiles of one colour each, the tile's number."""
    return [
        Tile(Window(0, 0, side, side), np.full((3, side, side), number, np.uint8), np.zeros((side, side), np.uint8))
        for number, side in enumerate(sides)
    ]


def red(pictures: TileBatch, prompts: Sequence[Prompts]) -> torch.Tensor:
    assert len(pictures.rgb) == len(pictures.valid) == len(pictures.gsd_m) == len(prompts)
    return pictures.rgb[:, 0].float() * pictures.valid


def test_results_come_in_the_order_of_the_tiles_whatever_their_shapes() -> None:
    tiles = make_tiles(4, 8, 4, 2, 8)
    found = Dispatcher(CPU).run(red, tiles, [Prompts.none()] * 5)
    assert [one.shape for one in found] == [tile.reason.shape for tile in tiles]
    assert [one.max() for one in found] == [0, 1, 2, 3, 4]


def test_the_batch_size_that_fits_is_found_by_trial_and_remembered() -> None:
    tried: list[int] = []

    def cramped(pictures: TileBatch, prompts: Sequence[Prompts]) -> torch.Tensor:
        tried.append(len(pictures.rgb))
        if len(pictures.rgb) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return red(pictures, prompts)

    dispatcher = Dispatcher(CPU)
    for _ in range(2):
        found = dispatcher.run(cramped, make_tiles(*[4] * 8), [Prompts.none()] * 8)
        assert [one.max() for one in found] == list(range(8))
    assert tried == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]


def test_a_tile_that_does_not_fit_alone_is_an_error() -> None:
    def full(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        Dispatcher(CPU).run(full, make_tiles(4, 4), [Prompts.none()] * 2)
