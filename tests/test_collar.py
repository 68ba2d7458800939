"""Collar: untagged borders are found to the pixel, and other black or white ground is not taken for one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import SceneFactory, picture
from hypothesis import given, settings
from hypothesis import strategies as st

from floodmap.geo.window import Window
from floodmap.imagery import borders
from floodmap.imagery.borders import find_collar
from floodmap.imagery.scene import Scene
from floodmap.options import SceneOptions
from floodmap.strips import codes

SHAPE_HW = (240, 320)


def footprint(shape_hw: tuple[int, int] = SHAPE_HW, degrees: float = 12) -> np.ndarray:
    """True inside a rotated rectangle whose corners touch the scene's edges, (height, width)."""
    height, width = shape_hw
    rows, cols = np.indices(shape_hw) + 0.5
    angle = np.radians(degrees)
    x, y = cols - width / 2, rows - height / 2
    u, v = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
    sine, cosine = abs(np.sin(angle)), np.cos(angle)
    half_w = (width * cosine - height * sine) / (cosine**2 - sine**2) / 2
    half_h = (height * cosine - width * sine) / (cosine**2 - sine**2) / 2
    return (abs(u) < half_w) & (abs(v) < half_h)


def found(make_scene: SceneFactory, pixels: np.ndarray, **keywords: object) -> np.ndarray:
    """Collar pixels of the whole scene, (height, width)."""
    with Scene.open(make_scene(pixels=pixels, **keywords)) as scene:
        return scene.read(Window(0, 0, scene.height, scene.width)).reason == codes.COLLAR


@pytest.mark.parametrize("value", [0, 1, 2, 253, 255])
@pytest.mark.parametrize("degrees", [0.0, 1.0, 12.0, -7.0])
def test_the_border_of_a_rotated_footprint_is_found_to_the_pixel(
    make_scene: SceneFactory, value: int, degrees: float
) -> None:
    inside = footprint(degrees=degrees)
    inside[:, :6] = False
    pixels = np.where(inside, picture(3, SHAPE_HW), value).astype(np.uint8)
    assert np.array_equal(found(make_scene, pixels), ~inside)


@pytest.mark.parametrize("degrees", [1.5, 12.0])
def test_a_scene_larger_than_the_small_picture_is_right_window_by_window(
    make_scene: SceneFactory, monkeypatch: pytest.MonkeyPatch, degrees: float
) -> None:
    monkeypatch.setattr(borders, "MAX_SIDE", 40)  # eight pixels a cell
    inside = footprint(degrees=degrees)
    pixels = np.where(inside, picture(3, SHAPE_HW), 0).astype(np.uint8)
    pixels[:, 115:125, 150:170] = 0
    seen = np.zeros(SHAPE_HW, bool)
    with Scene.open(make_scene(pixels=pixels)) as scene:
        for row in range(0, 240, 80):
            for col in range(0, 320, 80):
                window = Window(row, col, 80, 80)
                seen[window.slices] = scene.read(window).reason == codes.COLLAR
    assert np.array_equal(seen, ~inside)


def test_a_border_thinner_than_the_small_picture_shows_is_found(
    make_scene: SceneFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(borders, "MAX_SIDE", 40)
    pixels = picture(3, SHAPE_HW)
    pixels[:, :, :3] = 0
    border = found(make_scene, pixels)
    assert border[:, :3].all() and not border[:, 3:].any()


def test_black_inside_the_scene_stays_observed(make_scene: SceneFactory) -> None:
    inside = footprint()
    pixels = np.where(inside, picture(3, SHAPE_HW), 0).astype(np.uint8)
    pixels[:, 100:140, 140:180] = 0
    pixels[:, 60:70, 200:220] = 255
    assert np.array_equal(found(make_scene, pixels), ~inside)


def test_dark_lakes_and_white_roofs_at_the_edge_are_no_border(make_scene: SceneFactory) -> None:
    rng = np.random.default_rng(0)
    pixels = picture(3, SHAPE_HW)
    pixels[:, :80, :120] = rng.integers(0, 9, (3, 80, 120))  # dark water, in the corner
    pixels[:, 150:, 200:] = rng.integers(244, 256, (3, 90, 120))  # a bright roof, in the corner
    pixels[:, :8, 200:206] = 0  # a shadow at the edge, uniform and small
    pixels[0, :, -9:] = 0  # black in one band only
    assert not found(make_scene, pixels).any()


def test_black_and_white_borders_are_told_apart_and_both_found(make_scene: SceneFactory) -> None:
    pixels = picture(3, SHAPE_HW)
    pixels[:, :20], pixels[:, -30:] = 0, 255
    with Scene.open(make_scene(pixels=pixels)) as scene:
        assert scene.collar is not None and scene.collar.colours == ("black", "white")
        border = scene.read(Window(0, 0, *SHAPE_HW)).reason == codes.COLLAR
    assert border[:20].all() and border[-30:].all() and not border[20:-30].any()


@pytest.mark.parametrize(("value", "quality"), [(0, 75), (255, 75), (0, 90)])
def test_a_border_frayed_by_jpeg_is_found_but_for_a_thin_fringe(
    make_scene: SceneFactory, value: int, quality: int
) -> None:
    inside = footprint()
    pixels = np.where(inside, picture(3, SHAPE_HW), value).astype(np.uint8)
    border = found(make_scene, pixels, compress="JPEG", photometric="YCbCr", jpeg_quality=quality)
    assert (border & ~inside).sum() / (~inside).sum() > 0.93
    assert (border & inside).sum() / inside.sum() < 0.003


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_beyond_eight_bits_zeros_are_a_border_and_do_not_bend_the_stretch(make_scene: SceneFactory, dtype: str) -> None:
    inside = footprint()
    pixels = np.where(inside, picture(3, SHAPE_HW, dtype), 0).astype(dtype)
    with Scene.open(make_scene(pixels=pixels)) as scene:
        assert np.array_equal(scene.read(Window(0, 0, *SHAPE_HW)).reason == codes.COLLAR, ~inside)
        assert min(scene.stretch.low) > 3000


def test_one_band_and_palettes_have_borders_too(make_scene: SceneFactory) -> None:
    inside = footprint()
    grey = np.where(inside, picture(1, SHAPE_HW), 0).astype(np.uint8)
    assert np.array_equal(found(make_scene, grey), ~inside)
    table = {n: (n, n, n, 255) for n in range(256)}
    assert np.array_equal(found(make_scene, grey, colormap=table, name="p.tif"), ~inside)


def test_near_infrared_does_not_count(make_scene: SceneFactory) -> None:
    inside = footprint()
    pixels = np.where(inside, picture(4, SHAPE_HW), 0).astype(np.uint8)
    pixels[3] = 90
    assert np.array_equal(found(make_scene, pixels), ~inside)


def test_declared_nodata_is_trusted_and_the_other_colour_still_looked_for(make_scene: SceneFactory) -> None:
    pixels = picture(3, SHAPE_HW)
    pixels[:, :20], pixels[:, -30:] = 0, 255
    pixels[:, 20:40] = 1
    with Scene.open(make_scene(pixels=pixels, nodata=0)) as scene:
        reason = scene.read(Window(0, 0, *SHAPE_HW)).reason
    assert (reason[:20] == codes.NODATA).all() and not reason[20:-30].any() and (reason[-30:] == codes.COLLAR).all()


def test_nodata_frayed_by_jpeg_leaves_no_observed_rag(make_scene: SceneFactory) -> None:
    inside = footprint()
    pixels = np.where(inside, picture(3, SHAPE_HW), 0).astype(np.uint8)
    path = make_scene(pixels=pixels, nodata=0, compress="JPEG", photometric="YCbCr")
    rags = []
    for how in ("off", "auto"):
        with Scene.open(path, SceneOptions(collar=how)) as scene:  # type: ignore[arg-type]
            rags.append((scene.read(Window(0, 0, *SHAPE_HW)).valid & ~inside).sum())
    assert rags[1] < 0.5 * rags[0]


def test_pixels_under_alpha_are_no_body_for_a_border(make_scene: SceneFactory) -> None:
    pixels = picture(3, SHAPE_HW)
    pixels[:, :, :100] = 0
    alpha = np.where(np.arange(320) < 60, 0, 255)[None].repeat(240, axis=0)
    pixels[:, :2] = pixels[:, -2:] = 99  # the dark field of columns 60 to 100 does not reach the edge
    with Scene.open(make_scene(pixels=pixels, alpha=alpha)) as scene:
        tile = scene.read(Window(0, 0, *SHAPE_HW))
    assert set(np.unique(tile.reason)) == {0, codes.NODATA} and tile.valid[:, 60:].all()


def test_collar_off_leaves_borders_observed(make_scene: SceneFactory) -> None:
    with Scene.open(make_scene(pixels=np.zeros((3, 40, 40), np.uint8)), SceneOptions(collar="off")) as scene:
        assert scene.collar is None and scene.read(Window(0, 0, 40, 40)).valid.all()


@pytest.mark.parametrize("value", [0, 255])
def test_a_scene_that_is_all_border_has_nothing_observed(make_scene: SceneFactory, value: int) -> None:
    assert found(make_scene, np.full((3, 40, 50), value, np.uint8)).all()


def reader(pixels: np.ndarray, log: list[Window]) -> Callable:
    """A reader of an array for `find_collar`, which averages whole blocks."""

    def read(window: Window, shape_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        log.append(window)
        part = pixels[(slice(None), *window.slices)]
        down, across = window.height // shape_hw[0], window.width // shape_hw[1]
        part = part[:, : shape_hw[0] * down, : shape_hw[1] * across]
        blocks = part.reshape(-1, shape_hw[0], down, shape_hw[1], across).mean(axis=(2, 4))
        return np.rint(blocks).astype(np.uint8), np.ones(shape_hw, bool)

    return read


def test_a_large_scene_without_a_border_is_not_read_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(borders, "MAX_SIDE", 40)
    pixels, log = picture(3, (160, 240)), []
    assert find_collar(reader(pixels, log), height=160, width=240) is None
    assert max(window.height * window.width for window in log) <= 16
    log.clear()
    pixels[:, :50] = 0
    assert find_collar(reader(pixels, log), height=160, width=240) is not None
    assert log[-1] == Window(0, 0, 160, 240) and sum(w.height == 160 for w in log) == 1


@given(st.integers(0, 25), st.integers(0, 25), st.integers(0, 25), st.integers(0, 25), st.sampled_from([0, 255]))
@settings(deadline=None, max_examples=40)
def test_straight_borders_of_any_width_are_found_exactly(
    top: int, left: int, bottom: int, right: int, value: int
) -> None:
    inside = np.zeros((70, 80), bool)
    inside[top : 70 - bottom, left : 80 - right] = True
    pixels = np.where(inside, picture(3, (70, 80)), value).astype(np.uint8)
    border = find_collar(reader(pixels, []), height=70, width=80)
    if border is None:
        assert inside.sum() > 0.97 * inside.size
        return
    window = Window(10, 5, 50, 60)
    part = pixels[(slice(None), *window.slices)]
    assert np.array_equal(border.find(window, part, np.ones((50, 60), bool)), ~inside[window.slices])
