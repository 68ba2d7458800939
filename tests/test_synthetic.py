"""Synthetic scenes: functions of seed and position alone, exact references, files equal to windows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS

from floodmap.errors import FloodmapError
from floodmap.synthetic import scene as synthetic
from floodmap.synthetic.sample import write_sample
from floodmap.synthetic.scene import EPSG, SyntheticScene


@pytest.fixture(scope="module")
def scene() -> SyntheticScene:
    return SyntheticScene(width=700, height=600, seed=7)


@pytest.fixture(scope="module")
def whole(scene: SyntheticScene) -> tuple[np.ndarray, np.ndarray]:
    return scene.window(0, 0, scene.height, scene.width)


@pytest.mark.slow
@pytest.mark.parametrize("offsets", [(0, 0, 64, 64), (470, 480, 90, 75), (511, 511, 2, 2), (599, 699, 1, 1)])
def test_a_window_equals_the_crop_of_the_whole(scene, whole, offsets):
    row, col, height, width = offsets
    rgb, mask = scene.window(*offsets)
    assert rgb.dtype == mask.dtype == np.uint8
    np.testing.assert_array_equal(rgb, whole[0][:, row : row + height, col : col + width])
    np.testing.assert_array_equal(mask, whole[1][row : row + height, col : col + width])


@pytest.mark.slow
def test_overlapping_windows_agree_when_nothing_is_cached(scene):
    first = scene.window(300, 400, 200, 200)
    synthetic._block.cache_clear()
    second = SyntheticScene(width=700, height=600, seed=7).window(350, 450, 200, 200)
    np.testing.assert_array_equal(first[0][:, 50:, 50:], second[0][:, :150, :150])
    np.testing.assert_array_equal(first[1][50:, 50:], second[1][:150, :150])


@pytest.mark.slow
def test_blocks_join_without_a_seam():
    rgb, mask = SyntheticScene(width=1024, height=128, seed=5, collar=False).window(0, 0, 128, 1024)
    step = np.abs(np.diff(rgb.astype(int), axis=2)).mean((0, 1))
    assert step[511] < 1.5 * np.median(step[480:544])
    changed = (mask[:, 1:] != mask[:, :-1]).mean(0)
    assert changed[511] <= changed[480:544].max()


@pytest.mark.slow
def test_seeds_differ(scene, whole):
    other = SyntheticScene(width=64, height=64, seed=8)
    assert (other.window(0, 0, 64, 64)[0] != whole[0][:, :64, :64]).any()
    assert other.transform != scene.transform


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_small_scenes_hold_both_classes(seed):
    mask = SyntheticScene(width=512, height=512, seed=seed).window(0, 0, 512, 512)[1]
    share = (mask == 1).sum() / (mask != 255).sum()
    assert 0.1 < share < 0.75


def test_nodata_is_the_collar_and_only_the_collar(whole):
    rgb, mask = whole
    np.testing.assert_array_equal((rgb == 0).all(0), mask == 255)
    assert (rgb > 0).all(0)[mask != 255].all()
    outline = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    assert (outline == 255).all()
    assert 0 < (mask == 255).mean() < 0.2


def test_without_a_collar_every_pixel_is_real():
    rgb, mask = SyntheticScene(width=80, height=60, seed=1, collar=False).window(0, 0, 60, 80)
    assert (rgb > 0).all()
    assert set(np.unique(mask)) <= {0, 1}


def test_the_georeference_is_utm_in_metres():
    scene = SyntheticScene(width=10, height=10, seed=3, gsd_m=0.5)
    crs = CRS.from_epsg(EPSG)
    assert crs.is_projected and crs.linear_units == "metre"
    assert (scene.transform.a, scene.transform.e) == (0.5, -0.5)
    assert (scene.transform.b, scene.transform.d) == (0, 0)


@pytest.mark.parametrize("offsets", [(-1, 0, 5, 5), (0, 0, 601, 5), (0, 690, 5, 11)])
def test_windows_outside_the_scene_are_refused(scene, offsets):
    with pytest.raises(FloodmapError):
        scene.window(*offsets)


@pytest.mark.parametrize("fields", [{"width": 0}, {"height": -1}, {"gsd_m": 0.0}, {"seed": -1}])
def test_impossible_scenes_are_refused(fields):
    with pytest.raises(FloodmapError):
        SyntheticScene(**{"width": 8, "height": 8, "seed": 0, **fields})


@pytest.mark.slow
def test_files_equal_the_window(tmp_path: Path, scene, whole):
    shares: list[float] = []
    paths = write_sample(tmp_path / "a.tif", width=700, height=600, seed=7, progress=shares.append)
    assert paths == (tmp_path / "a.tif", tmp_path / "a_reference.tif")
    assert shares == sorted(shares) and shares[-1] == 1.0
    with rasterio.open(paths[0]) as image, rasterio.open(paths[1]) as reference:
        np.testing.assert_array_equal(image.read(), whole[0])
        np.testing.assert_array_equal(reference.read(1), whole[1])
        assert (image.nodata, reference.nodata) == (0, 255)
        assert image.block_shapes[0] == (512, 512)
        assert image.crs == reference.crs == CRS.from_epsg(EPSG)
        assert image.transform == reference.transform == scene.transform
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tif", "a_reference.tif"]


@pytest.mark.parametrize("existing", ["a.tif", "a_reference.tif"])
def test_existing_files_are_kept_without_overwrite(tmp_path: Path, existing):
    (tmp_path / existing).write_text("mine")
    with pytest.raises(FloodmapError, match=existing):
        write_sample(tmp_path / "a.tif", width=32, height=32, seed=1)
    assert [p.name for p in tmp_path.iterdir()] == [existing]
    write_sample(tmp_path / "a.tif", width=32, height=32, seed=1, overwrite=True)
    with rasterio.open(tmp_path / existing) as dataset:
        assert dataset.shape == (32, 32)


def test_a_failure_leaves_nothing_behind(tmp_path: Path):
    def stop(share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_sample(tmp_path / "a.tif", width=32, height=32, seed=1, progress=stop)
    assert list(tmp_path.iterdir()) == []
