from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from floodmap.geo.window import Window
from floodmap.imagery.tile import Tile
from floodmap.models.mirrored import Mirrored
from floodmap.models.prompts import Prompts


class LeftBright:
    """Predicts flood where it is bright and at the left edge; keeps its prompts."""

    name, sha256, runs_on, training = "fake", "0" * 64, "cpu float32", None
    knows_floods, multiple, any_size, offloads, best_batch_size = True, 32, True, False, 1

    def __init__(self) -> None:
        self.asked: list[Prompts] = []

    def predict(self, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> NDArray[np.float32]:
        self.asked += prompts
        seen = np.stack([tile.rgb[0] / np.float32(255) for tile in tiles])
        seen[..., 0] = 1
        return seen


def test_the_mirror_image_is_turned_back_and_its_prompts_go_with_the_picture() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (3, 4, 6), np.uint8)
    tile = Tile(window=Window(row_off=0, col_off=0, height=4, width=6), rgb=rgb, reason=np.zeros((4, 6), np.uint8))
    mask = np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6)
    prompts = Prompts(
        points_xy=np.array([[1.5, 2.5]], np.float32), labels=np.array([1]),
        boxes_xyxy=np.array([[1, 0, 3, 4]], np.float32), mask=mask,
    )  # fmt: skip
    model = LeftBright()
    flipped = Mirrored(model)  # type: ignore[arg-type]
    (probability,) = flipped.predict([tile], [prompts])
    expected = rgb[0] / 255
    np.testing.assert_allclose(probability[:, 1:-1], expected[:, 1:-1], rtol=1e-6)
    for edge in (0, -1):  # what a model says of one side alone is halved
        np.testing.assert_allclose(probability[:, edge], (1 + expected[:, edge]) / 2, rtol=1e-6)
    mirrored = model.asked[1]
    assert mirrored.points_xy.tolist() == [[4.5, 2.5]] and mirrored.labels.tolist() == [1]
    assert mirrored.boxes_xyxy.tolist() == [[3, 0, 5, 4]]
    assert mirrored.mask is not None and np.array_equal(mirrored.mask, mask[:, ::-1])
    assert flipped.runs_on == "cpu float32, flips" and flipped.knows_floods
