"""Floods painted on dry ground."""

from __future__ import annotations

import numpy as np
import pytest

from floodmap.synthetic.inundation import IGNORED, Ground, coarser, draw_water, flood, patchwork, standing_out


def make_ground(side: int = 160) -> Ground:
    """Grey-green ground with a bright roof, and a corner that is not labelled."""
    rng = np.random.default_rng(0)
    rgb = np.broadcast_to(np.array([96, 110, 88])[:, None, None], (3, side, side)).copy()
    stands, unknown = np.zeros((2, side, side), bool)
    stands[40:80, 50:110], unknown[:20, :20] = True, True
    rgb[:, stands] = np.array([200, 190, 185])[:, None]
    rgb = np.clip(rgb + rng.normal(0, 4, rgb.shape), 0, 255).astype(np.uint8)
    return Ground(rgb=rgb, stands=stands, unknown=unknown, low=np.zeros((side, side), bool), gsd_m=0.2)


@pytest.mark.parametrize("seed", range(6))
def test_open_ground_is_flooded_by_its_share_and_what_stands_stays_as_it_was(seed: int) -> None:
    ground, rng = make_ground(), np.random.default_rng(seed)
    rgb, mask = flood(ground, draw_water(rng), rng, 0.5)
    open_ground = ~(ground.stands | ground.unknown)
    assert rgb.shape == ground.rgb.shape and rgb.dtype == mask.dtype == np.uint8
    assert 0.25 < (mask[open_ground] == 1).mean() <= 0.51
    assert (mask[ground.unknown] == IGNORED).all() and not (mask[ground.stands] == 1).any()
    inner = np.s_[:, 44:76, 54:106]
    assert np.abs(rgb[inner].astype(int) - ground.rgb[inner]).mean() < 6  # water beside a roof is not on it


def test_flooded_ground_looks_different_and_other_ground_hardly() -> None:
    ground, rng = make_ground(), np.random.default_rng(3)
    rgb, mask = flood(ground, draw_water(rng), rng, 0.5)
    change = np.abs(rgb.astype(int) - ground.rgb).mean(axis=0)
    assert change[mask == 1].mean() > 2 * change[mask == 0].mean()


def test_the_same_seed_paints_the_same_and_another_something_else() -> None:
    painted = []
    for seed in (5, 5, 6):
        rng = np.random.default_rng(seed)
        painted.append(flood(make_ground(), draw_water(rng), rng, 0.4))
    assert all(np.array_equal(a, b) for a, b in zip(painted[0], painted[1], strict=True))
    assert not np.array_equal(painted[0][1], painted[2][1])


def test_where_no_ground_is_open_nothing_is_flooded() -> None:
    ground = make_ground(64)
    ground.stands[:] = True
    rng = np.random.default_rng(0)
    assert not (flood(ground, draw_water(rng), rng, 0.9)[1] == 1).any()


def test_cars_stand_out_and_plain_ground_does_not() -> None:
    rgb = np.full((3, 120, 120), 90, np.uint8)
    assert not standing_out(rgb, 0.1).any()
    rgb[:, 50:65, 40:75] = 220
    found = standing_out(rgb, 0.1)
    assert found[52:63, 44:71].all() and not found[:40].any()


def test_coarser_pictures_are_means_and_pixels_without_a_majority_are_not_scored() -> None:
    rgb, mask = np.full((3, 4, 6), 10, np.uint8), np.zeros((4, 6), np.uint8)
    rgb[:, :2, :2], mask[:, 2:4] = 30, 1
    mask[:2, 4] = 1
    small, codes = coarser(rgb, mask, 2)
    assert small[0, 0].tolist() == [30, 10, 10]
    assert codes.tolist() == [[0, 1, IGNORED], [0, 1, 0]]
    wide = patchwork([(small, codes)] * 4, 2)
    assert wide[0].shape == (3, 4, 6) and np.array_equal(wide[1][2:, 3:], codes)
