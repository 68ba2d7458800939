from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import SceneFactory
from fakes import FakeSegmenter
from hypothesis import given, settings
from hypothesis import strategies as st

from floodmap.errors import OutputError
from floodmap.geo.window import Window
from floodmap.imagery.scene import Scene
from floodmap.imagery.tile import Tile
from floodmap.inference.coarse_map import CoarseMap, crop_coarse
from floodmap.inference.coarse_pass import coarse_pass
from floodmap.inference.loop import segment_whole
from floodmap.inference.observed import Observed
from floodmap.inference.prompting import make_prompter
from floodmap.inference.proof import Proof
from floodmap.inference.scales import COARSE_FACTOR, coarse_factor
from floodmap.inference.tiling import Grid
from floodmap.models.prompts import Prompts
from floodmap.strips.codes import NODATA


def ramp(height: int, width: int) -> np.ndarray:
    """A picture whose blue band rises from left to right, and a little from top to bottom."""
    rows, cols = np.indices((height, width))
    blue = 40 + 150 * cols / width + 40 * rows / height
    return np.stack([np.full_like(blue, 60), np.full_like(blue, 90), blue]).astype(np.uint8)


def test_the_coarse_pass_blends_its_windows(make_scene: SceneFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("floodmap.inference.coarse_pass.COARSE_TILE", 64)
    monkeypatch.setattr("floodmap.inference.coarse_pass.COARSE_OVERLAP", 16)
    monkeypatch.setattr("floodmap.inference.scales.COARSE_MIN_SIDE", 128)  # so that it is shrunk like a large scene
    pixels = ramp(501, 803)
    segmenter = FakeSegmenter()
    with Scene.open(make_scene(pixels=pixels)) as scene:
        coarse, _ = coarse_pass(scene, segmenter)
        assert coarse.shape == (126, 201) and len(segmenter.tiles) == 2 * 3 * 4  # and in a mirror
        real = pixels[2].astype(float) / 255
        for window in (Window(0, 0, 128, 128), Window(372, 675, 128, 128), Window(190, 333, 96, 160)):
            seen = crop_coarse(coarse, window, scene) / 100
            assert seen.shape == (window.height // COARSE_FACTOR, window.width // COARSE_FACTOR)
            mean = real[window.slices].reshape(*seen.shape[:1], COARSE_FACTOR, seen.shape[1], COARSE_FACTOR)
            assert np.abs(seen - mean.mean(axis=(1, 3))).max() < 0.015


def test_the_coarse_pass_runs_the_mirror_image_only_where_it_is_uncertain(make_scene: SceneFactory) -> None:
    pixels = np.full((3, 2048, 4096), 10, np.uint8)
    pixels[2, 1200:1500, 2400:2700] = 120
    segmenter = FakeSegmenter()
    with Scene.open(make_scene(pixels=pixels)) as scene:
        once = coarse_pass(scene, segmenter, exhaustive=False)[0][0:512]
        assert [tile.reason.shape for tile in segmenter.tiles] == [(512, 1024), (320, 320)]
        again = segmenter.tiles[1]
        top, left = again.window.row_off, again.window.col_off
        assert top <= 284 and left <= 584 and again.window.row_end >= 391 and again.window.col_end >= 691
        expected = pixels[2, ::4, ::4][again.window.slices][:, ::-1]
        assert (again.rgb[2] == expected).mean() > 0.95  # mirrored
        np.testing.assert_array_equal(once, coarse_pass(scene, FakeSegmenter())[0][0:512])


def scan_lines(mask: np.ndarray) -> None:
    mask[np.arange(len(mask)) % 4 == 2] = False


def right_rim(mask: np.ndarray) -> None:
    mask[:, 1026:] = False


@pytest.mark.parametrize("hide", [scan_lines, right_rim])
def test_flood_beside_hidden_pixels_is_flood_whatever_the_coarse_pass_saw(
    make_scene: SceneFactory, hide: Callable[[np.ndarray], None]
) -> None:
    mask = np.ones((256, 2048), bool)
    hide(mask)
    pixels = np.full((3, 256, 2048), 250, np.uint8)
    with Scene.open(make_scene(pixels=pixels, mask=mask)) as scene:
        segmenter = FakeSegmenter()
        grid = Grid(height=256, width=2048, tile_size=512, overlap=64)
        prompter = make_prompter(scene, segmenter, "auto", exhaustive=False)
        codes = segment_whole(scene, grid, segmenter, prompter, exhaustive=False, proof=Proof())
    assert (codes[mask] > 90).all() and (codes[~mask] == NODATA).all()


def test_unobserved_pixels_of_the_coarse_map_are_never_dry(make_scene: SceneFactory) -> None:
    mask = np.ones((300, 300), bool)
    mask[:, 152:] = False
    with Scene.open(make_scene(pixels=ramp(300, 300), mask=mask)) as scene:
        coarse, _ = coarse_pass(scene, FakeSegmenter())
    codes, known = coarse[0:150], coarse.percent(slice(0, 150), slice(0, 150))
    assert (codes[:, :76] > 10).all() and (codes[:, 76:] == NODATA).all()
    assert np.array_equal(known[:, :76], codes[:, :76])
    assert (known[:, 76:78] == codes[:, 75:76]).all() and (known[:, 78:] == 20).all()
    part = coarse.percent(slice(3, 40), slice(70, 90))
    assert np.array_equal(part, known[3:40, 70:90])
    assert (coarse.percent(slice(3, 40), slice(90, 110)) == 20).all()


@pytest.mark.slow
@settings(deadline=None)
@given(heights=st.lists(st.integers(1, 150), min_size=1, max_size=6), data=st.data())
def test_a_coarse_map_gives_the_rows_it_was_given(heights: list[int], data: st.DataObject) -> None:
    whole = np.random.default_rng(0).integers(0, 101, (sum(heights), 7)).astype(np.uint8)
    coarse = CoarseMap(7)
    for part in np.split(whole, np.cumsum(heights)[:-1]):
        coarse.append(part)
    assert coarse.shape == whole.shape
    for _ in range(4):
        first = data.draw(st.integers(0, len(whole) - 1))
        rows = slice(first, data.draw(st.integers(first + 1, len(whole))))
        np.testing.assert_array_equal(coarse[rows], whole[rows])


@pytest.mark.slow
@settings(deadline=None)
@given(data=st.data())
def test_ground_is_observed_where_all_its_windows_are_complete(data: st.DataObject) -> None:
    height, width = data.draw(st.tuples(st.integers(1, 90), st.integers(1, 90)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    known, observed = np.ones((height, width), bool), Observed(height, width)
    for _ in range(data.draw(st.integers(0, 4))):
        window = some_window(data, height, width)
        complete = None if data.draw(st.booleans()) else rng.random((window.height, window.width)) > 0.001
        known[window.slices] &= False if complete is None else complete
        observed.add(window, complete)
    window = some_window(data, height, width)
    around = np.s_[max(window.row_off - 15, 0) : window.row_end + 15, max(window.col_off - 15, 0) : window.col_end + 15]
    assert observed.covers(window) <= known[window.slices].all()
    assert observed.covers(window) >= known[around].all()


def some_window(data: st.DataObject, height: int, width: int) -> Window:
    row, col = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    return Window(row, col, data.draw(st.integers(1, height - row)), data.draw(st.integers(1, width - col)))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_coarse_map_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    full = lambda: Path("/dev/full").open("w+b", buffering=0)  # noqa: SIM115, E731
    monkeypatch.setattr("floodmap.inference.coarse_map.TemporaryFile", full)
    with pytest.raises(
        OutputError, match=r"cannot be written: No space left on device; free disk space, or set TMPDIR"
    ):
        CoarseMap(7).append(np.zeros((3, 7), np.uint8))


@pytest.mark.parametrize(
    ("side", "factor"), [(512, 2), (1024, 2), (1535, 2), (1536, 3), (2048, 4), (65_536, 4), (65_537, 5)]
)
def test_the_larger_a_scene_the_more_it_is_shrunk(side: int, factor: int) -> None:
    assert coarse_factor(side) == factor


def test_every_window_is_prompted_with_its_part(make_scene: SceneFactory) -> None:
    with Scene.open(make_scene(pixels=ramp(512, 512))) as scene:
        prompter = make_prompter(scene, FakeSegmenter(), "auto")
        left, right = (prompter(scene.read(Window(0, col, 128, 128))).mask for col in (0, 384))
    assert left is not None and right is not None and right.min() > left.max() and left.min() > 0 and right.max() < 1


def test_what_a_person_drew_comes_on_top_of_the_far_view(make_scene: SceneFactory, tmp_path: Path) -> None:
    point = {"type": "Feature", "properties": {"label": 1}, "geometry": {"type": "Point", "coordinates": [400, -20]}}
    clicks = tmp_path / "clicks.geojson"
    clicks.write_text(json.dumps({"type": "FeatureCollection", "features": [point]}))
    path = make_scene(pixels=ramp(512, 512), crs=None, transform=None)
    with Scene.open(path) as scene:
        prompter = make_prompter(scene, FakeSegmenter(), clicks)
        tiles = [scene.read(Window(0, col, 128, 128)) for col in (0, 384)]
    assert [len(prompter(tile).points_xy) for tile in tiles] == [0, 1]
    assert all(prompter(tile).mask is not None for tile in tiles)


def muddy_field() -> np.ndarray:
    """Smooth brown water in the left half, rough green vegetation in the right half: pixels (3, 256, 512)."""
    water = np.indices((256, 512))[1] < 256
    texture = np.random.default_rng(1).normal(0, 1, water.shape) * np.where(water, 1.5, 22)
    colour = np.where(water, np.array([150, 125, 95])[:, None, None], np.array([70, 100, 50])[:, None, None])
    return np.clip(colour + texture, 0, 255).astype(np.uint8)


def test_points_of_a_user_are_added_to_the_automatic_prompts_of_meta_s_sam(make_scene: SceneFactory) -> None:
    clicks = Prompts(points_xy=np.array([[200.0, 100.0], [500.0, 30.0]]), labels=np.array([0, 1]))
    sam = FakeSegmenter()
    sam.knows_floods = False
    with Scene.open(make_scene(pixels=muddy_field())) as scene:
        automatic, both = (make_prompter(scene, sam, wanted) for wanted in ("auto", clicks))
        for col, label in ((0, 0), (256, 1)):
            tile = scene.read(Window(0, col, 256, 256))
            picked, given = automatic(tile), both(tile)
            assert len(picked.boxes_xyxy) == (col == 0)
            np.testing.assert_array_equal(given.boxes_xyxy, picked.boxes_xyxy)
            np.testing.assert_array_equal(given.points_xy[1:], picked.points_xy)
            assert given.labels.tolist() == [label, *picked.labels.tolist()] and not given.bounded


def test_boxes_of_a_user_replace_the_automatic_prompts_of_meta_s_sam(make_scene: SceneFactory) -> None:
    box = Prompts(boxes_xyxy=np.array([[10.0, 10.0, 90.0, 90.0]]))
    sam = FakeSegmenter()
    sam.knows_floods = False
    with Scene.open(make_scene(pixels=muddy_field())) as scene:
        given = make_prompter(scene, sam, box)(scene.read(Window(0, 0, 256, 256)))
    assert given.boxes_xyxy.tolist() == box.boxes_xyxy.tolist() and not len(given.points_xy) and given.bounded


def test_very_large_scenes_are_shrunk_further(make_scene: SceneFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("floodmap.inference.scales.COARSE_SIDE", 64)
    seen: list[Tile] = []
    with Scene.open(make_scene(pixels=ramp(400, 800))) as scene:
        assert coarse_pass(scene, FakeSegmenter(before=seen.append))[0].shape == (31, 62)
        assert seen[0].rgb.shape == (3, 31, 62)


def test_small_scenes_have_no_coarse_pass(make_scene: SceneFactory) -> None:
    segmenter = FakeSegmenter()
    with Scene.open(make_scene(pixels=ramp(256, 511))) as scene:
        assert make_prompter(scene, segmenter, "auto")(scene.read(Window(0, 0, 64, 64))).mask is None
    assert segmenter.tiles == []


def test_a_coarse_map_lies_where_the_scene_does(make_scene: SceneFactory) -> None:
    """Its values are those of a ramp over the scene, sampled at places that are worked out here."""
    with Scene.open(make_scene(shape_hw=(400, 800))) as scene:
        down, across = np.mgrid[:100, :200] + 0.5
        ramp = (0.001 * across / 200 * 800 + 0.0002 * down / 100 * 400).astype(np.float32)
        window = Window(37, 101, 120, 200)
        found = crop_coarse(ramp, window, scene)
        rows = window.row_off + (np.arange(found.shape[0]) + 0.5) * window.height / found.shape[0]
        cols = window.col_off + (np.arange(found.shape[1]) + 0.5) * window.width / found.shape[1]
        assert found.shape == (30, 50)
        assert np.abs(found - (0.001 * cols + 0.0002 * rows[:, None])).max() < 1e-5
