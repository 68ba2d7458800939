from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from floodmap.inference.mosaic import Mosaic
from floodmap.inference.tiling import Grid
from floodmap.strips.codes import FAILED, NODATA

grids = st.builds(
    Grid,
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    tile_size=st.sampled_from([32, 64, 96]),
    overlap=st.integers(0, 16),
    multiple=st.sampled_from([8, 32]),
)


def blend(grid: Grid, probability: np.ndarray, reason: np.ndarray, first_row: int = 0) -> np.ndarray:
    """The mosaic of windows cut from whole arrays."""
    mosaic = Mosaic(grid, first_row)
    strips = []
    for index in range(first_row, len(grid.row_offsets)):
        for window in grid.row(index):
            strip = mosaic.add(window, probability[window.slices], reason[window.slices])
            if strip is not None:
                strips.append(strip)
    assert [s.row_off for s in strips] == list(grid.row_offsets[first_row:])
    return np.concatenate([s.codes for s in strips])


@settings(deadline=None, max_examples=60)
@given(grid=grids, percent=st.integers(0, 200))
def test_a_constant_probability_gives_a_constant_mosaic_to_the_last_pixel(grid: Grid, percent: int) -> None:
    probability = np.full((grid.height, grid.width), percent / 200, np.float32)
    codes = blend(grid, probability, np.zeros((grid.height, grid.width), np.uint8))
    assert codes.shape == (grid.height, grid.width)
    assert np.unique(codes).tolist() == [int(np.floor(percent / 2 + 0.5))]


@settings(deadline=None, max_examples=40)
@given(grid=grids, seed=st.integers(0, 99))
def test_windows_that_agree_are_put_back_as_they_were(grid: Grid, seed: int) -> None:
    generator = np.random.default_rng(seed)
    percent = generator.integers(0, 101, (grid.height, grid.width))
    reason = np.where(generator.random(percent.shape) < 0.1, NODATA, 0).astype(np.uint8)
    codes = blend(grid, (percent / 100).astype(np.float32), reason)
    np.testing.assert_array_equal(codes, np.where(reason > 0, reason, percent))


@settings(deadline=None, max_examples=40)
@given(grid=grids, seed=st.integers(0, 99))
def test_blending_equals_a_weighted_mean_over_the_whole_scene(grid: Grid, seed: int) -> None:
    generator = np.random.default_rng(seed)
    total = np.zeros((grid.height, grid.width))
    mosaic, codes = Mosaic(grid), np.zeros(total.shape, np.uint8)
    rows, cols = grid.row_weights(), grid.col_weights()
    for i in range(len(grid.row_offsets)):
        for j, window in enumerate(grid.row(i)):
            p = generator.random((window.height, window.width)).astype(np.float32)
            total[window.slices] += p * np.outer(rows[i], cols[j])
            strip = mosaic.add(window, p, np.zeros(p.shape, np.uint8))
            if strip is not None:
                codes[strip.row_off : strip.row_off + strip.height] = strip.codes
    assert np.abs(codes - total * 100).max() <= 0.5 + 1e-2


@settings(deadline=None, max_examples=40)
@given(grid=grids, data=st.data())
def test_starting_at_a_later_row_gives_the_same_strips(grid: Grid, data: st.DataObject) -> None:
    strip = data.draw(st.integers(0, len(grid.row_offsets) - 1))
    generator = np.random.default_rng(strip)
    probability = generator.random((grid.height, grid.width)).astype(np.float32)
    reason = np.zeros(probability.shape, np.uint8)
    first = Mosaic.first_row_for(grid, strip)
    again = blend(grid, probability, reason, first)
    top = grid.row_offsets[strip]
    np.testing.assert_array_equal(blend(grid, probability, reason)[top:], again[top - grid.row_offsets[first] :])


def test_a_failed_window_is_unobserved_and_its_neighbours_are_not() -> None:
    grid = Grid(height=64, width=160, tile_size=64, overlap=8)
    mosaic, strip = Mosaic(grid), None
    failed = grid.row(0)[1]
    for window in grid:
        shape = (window.height, window.width)
        reason = np.zeros(shape, np.uint8)
        if window == failed:
            reason[:3] = NODATA
        strip = mosaic.add(window, None if window == failed else np.ones(shape, np.float32), reason)
    assert strip is not None
    expected = np.full((64, 160), 100, np.uint8)
    expected[:, failed.col_off : failed.col_end] = FAILED
    expected[:3, failed.col_off : failed.col_end] = NODATA
    np.testing.assert_array_equal(strip.codes, expected)


@settings(deadline=None)
@given(grid=grids)
def test_windows_cover_the_scene_within_its_bounds_with_the_overlap_asked_for(grid: Grid) -> None:
    covered = np.zeros((grid.height, grid.width), int)
    for window in grid:
        assert window.row_end <= grid.height and window.col_end <= grid.width
        assert max(window.height, window.width) <= grid.tile_size
        covered[window.slices] += 1
    assert covered.min() >= 1
    for offsets, side in ((grid.row_offsets, grid.shape_hw[0]), (grid.col_offsets, grid.shape_hw[1])):
        assert all(a < b <= a + side - grid.overlap for a, b in pairwise(offsets))


def test_windows_begin_at_multiples_of_the_stride_but_for_the_last() -> None:
    for length in (1500, 2500, 5000, 20_000):
        for tile_size, overlap in ((1024, 64), (768, 96), (512, 32)):
            grid = Grid(height=length, width=100, tile_size=tile_size, overlap=overlap)
            assert all(offset % 32 == 0 for offset in grid.row_offsets[:-1])


@pytest.mark.parametrize(
    "settings_", [{"tile_size": 0}, {"tile_size": 33}, {"overlap": -1}, {"overlap": 513}, {"height": 0}]
)
def test_impossible_grids_are_refused(settings_: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"\d"):
        Grid(**{"height": 100, "width": 100, **settings_})


def test_where_windows_disagree_one_fades_into_the_other() -> None:
    grid = Grid(height=16, width=52, tile_size=32, overlap=12, multiple=4)
    assert grid.col_offsets == (0, 20)
    mosaic, reason = Mosaic(grid), np.zeros((16, 32), np.uint8)
    left, right = grid.row(0)
    assert mosaic.add(left, np.zeros((16, 32), np.float32), reason) is None
    strip = mosaic.add(right, np.ones((16, 32), np.float32), reason)
    assert strip is not None
    # A raised cosine over the twelve columns that both have, from the outer border of each to its inside.
    fade = np.sin(np.arange(1, 13) / 13 * np.pi / 2) ** 2
    expected = np.concatenate([np.zeros(20), fade, np.ones(20)]) * 100
    assert np.abs(strip.codes - expected).max() <= 0.51
