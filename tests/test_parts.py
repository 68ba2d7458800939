from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from floodmap.geo.window import Window
from floodmap.inference.parts import DRY_LIMIT, FLOOD_LIMIT, blend_in, coarse_probability, uncertain_parts
from floodmap.models.prompts import Prompts

MARGIN = 16


def prompts_of(mask: np.ndarray) -> Prompts:
    return Prompts.from_mask(mask.astype(np.float32))


def test_where_the_coarse_pass_is_certain_nothing_is_run() -> None:
    mask = np.zeros((256, 256))
    mask[:, 100:] = 1
    assert uncertain_parts(prompts_of(mask), (1024, 1024)) == []
    assert uncertain_parts(prompts_of(np.full((256, 256), 0.04)), (1024, 1024)) == []


@pytest.mark.parametrize("sure", [0.0, 1.0])
def test_an_uncertain_spot_is_run_with_the_ground_around_it(sure: float) -> None:
    mask = np.full((256, 256), sure)
    mask[128:130, 120:140] = 0.5  # pixels 512 to 520 and 480 to 560
    (part,) = uncertain_parts(prompts_of(mask), (1024, 1024))
    assert (part.height, part.width) == (320, 320)
    assert part.row_off <= 512 - MARGIN and part.row_end >= 520 + MARGIN
    assert part.col_off <= 480 - MARGIN and part.col_end >= 560 + MARGIN


def test_spots_far_apart_are_run_separately() -> None:
    mask = np.zeros((256, 256))
    mask[2, 2] = mask[250, 250] = mask[2, 250] = 0.5
    parts = uncertain_parts(prompts_of(mask), (1024, 1024))
    assert len(parts) == 3 and {(part.height, part.width) for part in parts} == {(320, 320)}


def test_a_window_that_is_uncertain_all_over_is_run_whole() -> None:
    mask = np.full((256, 256), 0.5)
    assert uncertain_parts(prompts_of(mask), (1024, 1024)) is None
    mask[:40] = 0
    (part,) = uncertain_parts(prompts_of(mask), (1024, 1024)) or [None]
    assert part is None or part.height < 1024


def test_windows_with_points_or_boxes_are_run_whole() -> None:
    dry = prompts_of(np.zeros((8, 8)))
    assert uncertain_parts(dry, (32, 32)) == []
    assert uncertain_parts(replace(dry, points_xy=np.ones((1, 2), np.float32), labels=np.ones(1)), (32, 32)) is None
    assert uncertain_parts(replace(dry, bounded=True), (32, 32)) is None
    assert uncertain_parts(Prompts.none(), (32, 32)) is None


@pytest.mark.parametrize("seed", range(30))
def test_all_uncertain_ground_is_run_with_its_margin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(40, 1025, 2))
    shape_hw = max(1, round(height / rng.uniform(2, 9))), max(1, round(width / rng.uniform(2, 9)))
    mask = np.zeros(shape_hw)
    for _ in range(rng.integers(1, 5)):
        row, col = rng.integers(0, shape_hw)
        mask[row : row + rng.integers(1, 20), col : col + rng.integers(1, 20)] = rng.uniform(DRY_LIMIT, FLOOD_LIMIT)
    parts = uncertain_parts(prompts_of(mask), (height, width))
    if parts is None:
        return
    assert sum(part.height * part.width for part in parts) < height * width
    for part in parts:
        assert 0 <= part.row_off < part.row_end <= height and 0 <= part.col_off < part.col_end <= width
        assert part.row_off % 32 == 0 and part.col_off % 32 == 0
        assert part.height == 320 or (part.row_end == height and part.height < 320)
        assert part.width == 320 or (part.col_end == width and part.width < 320)
    for row, col in np.argwhere(mask > 0):
        y, x = (row + 0.5) * height / shape_hw[0], (col + 0.5) * width / shape_hw[1]
        assert any(_holds(part, y, x, height, width) for part in parts)


def _holds(part: Window, y: float, x: float, height: int, width: int) -> bool:
    """Whether a place lies in a part, a margin away from its borders but for those of the window."""
    down = max(y - MARGIN, 0) >= part.row_off and min(y + MARGIN, height) <= part.row_end
    return down and max(x - MARGIN, 0) >= part.col_off and min(x + MARGIN, width) <= part.col_end


def test_parts_fade_into_the_coarse_result_except_at_the_border_of_the_window() -> None:
    ground = coarse_probability(np.zeros((8, 8), np.float32), (512, 512))
    assert ground.shape == (512, 512)
    blend_in(Window(0, 128, 256, 256), np.ones((256, 256), np.float32), ground)
    assert (ground[:240, 144:368] == 1).all() and (ground[256:] == 0).all() and (ground[:, :128] == 0).all()
    assert (ground[0, 144:368] == 1).all()
    fading = ground[100, 128:144]
    assert (np.diff(fading) > 0).all() and 0 < fading[0] < 0.01 and fading[-1] > 0.99
    blend_in(Window(0, 0, 512, 512), np.full((512, 512), 0.25, np.float32), ground)
    np.testing.assert_allclose(ground, 0.25)
