"""Voids: undeclared nodata values."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SceneFactory, picture
from scipy import ndimage

from floodmap.geo.window import Window
from floodmap.imagery.raster.voids import find_voids
from floodmap.imagery.scene import Scene
from floodmap.options import SceneOptions
from floodmap.strips import codes

HW = (200, 300)
LOWEST = float(np.finfo("float32").min)


def void() -> np.ndarray:
    rows, cols = np.indices(HW)
    return rows + cols < 150


def holed(value: float, dtype: str) -> np.ndarray:
    pixels = picture(3, HW).astype(dtype)
    pixels = pixels / np.float32(255) if dtype.startswith("float") else pixels * 40
    pixels = pixels.astype(dtype)
    pixels[:, void()] = value
    return pixels


@pytest.mark.slow
@pytest.mark.parametrize(
    ("value", "dtype"),
    [(-9999, "float32"), (-10000, "float32"), (-32768, "float32"), (-3.4e38, "float32"), (LOWEST, "float32"),
     (1e20, "float32"), (-1.7e308, "float64"), (-9999, "int16"), (-32768, "int16"), (-10000, "int16"), (-1, "int16"),
     (-9999, "int32"), (2147483647, "int32"), (65535, "uint16"), (9999, "float32"), (-5555, "float32")],
)  # fmt: skip
def test_a_value_far_outside_the_picture_is_unobserved_and_warned_of(
    value: float, dtype: str, make_scene: SceneFactory, caplog: pytest.LogCaptureFixture
) -> None:
    for number, nodata in enumerate((None, float("nan") if dtype.startswith("float") else None)):
        path = make_scene(pixels=holed(value, dtype), nodata=nodata, name=f"{number}.tif")
        with Scene.open(path) as scene:
            assert np.array_equal(scene.read(Window(0, 0, *HW)).reason == codes.NODATA, void())
            assert scene.shrunk(Window(0, 0, 50, 75), 4).valid.mean() == pytest.approx(1 - void().mean(), abs=0.03)
            # The picture's contrast is that of the ground.
            assert np.ptp(scene.read(Window(150, 150, 50, 150)).rgb) > 150
            assert len(scene.remarks) == 1 and "--nodata" in scene.remarks[0]
    assert caplog.text.count("far outside all other values") == 2 - (nodata is None) + (nodata is None)


@pytest.mark.slow
def test_two_voids_of_one_raster_are_both_found(make_scene: SceneFactory) -> None:
    pixels = holed(-9999, "float32")
    pixels[:, 190:] = LOWEST
    with Scene.open(make_scene(pixels=pixels)) as scene:
        expected = void()
        expected[190:] = True
        assert np.array_equal(~scene.read(Window(0, 0, *HW)).valid, expected)


@pytest.mark.slow
def test_a_void_in_one_band_is_no_colour(make_scene: SceneFactory) -> None:
    pixels = holed(-9999, "float32")
    pixels[0, 180:] = -9999
    for nodata in (None, -9999):
        with Scene.open(make_scene(pixels=pixels, nodata=nodata)) as scene:
            assert not scene.read(Window(0, 0, *HW)).valid[180:].any()


@pytest.mark.slow
def test_a_void_that_the_sample_missed_is_found_where_it_is_read(
    make_scene: SceneFactory, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = np.tile(picture(3, HW), (1, 10, 10)).astype("int16") * 40
    pixels[:, 150:160, 150:160] = -9999  # between the places that are looked at
    with Scene.open(make_scene(pixels=pixels)) as scene:
        assert not scene.remarks
        assert np.array_equal(np.argwhere(~scene.read(Window(100, 100, 100, 100)).valid)[[0, -1]], [[50, 50], [59, 59]])
    assert "-9999" in caplog.text


@pytest.mark.slow
def test_nodata_that_the_user_gives_overrules_it(make_scene: SceneFactory) -> None:
    path = make_scene(pixels=holed(-9999, "float32"))
    for nodata in ("none", 7.0):
        with Scene.open(path, SceneOptions(nodata=nodata)) as scene:  # type: ignore[arg-type]
            assert scene.read(Window(0, 0, *HW)).valid.all() and not scene.remarks
    declared = make_scene(pixels=holed(-9999, "float32"), nodata=-9999, name="declared.tif")
    with Scene.open(declared, SceneOptions(nodata="none")) as scene:
        assert scene.read(Window(0, 0, *HW)).valid.all()


@pytest.mark.parametrize("dtype", ["float32", "int16", "uint16", "int32"])
def test_a_picture_has_no_voids(dtype: str) -> None:
    rng = np.random.default_rng(0)
    values = rng.beta(2, 5, (3, 50_000))
    scale = 1 if dtype == "float32" else 10_000
    assert not find_voids((values * scale).astype(dtype)).values
    saturated = np.minimum(values * scale * 3, scale)
    assert not find_voids(saturated.astype(dtype)).values
    if dtype != "uint16":
        clipped = np.maximum(values * scale - scale / 5, -scale / 50)  # many dark pixels hold the least value
        assert not find_voids(clipped.astype(dtype)).values
    assert not find_voids(np.full((3, 100), 7, dtype)).values and not find_voids(np.empty((3, 0), dtype)).values


@pytest.mark.slow
def test_what_was_resampled_between_a_void_and_ground_is_neither(make_scene: SceneFactory) -> None:
    pixels = holed(-9999, "float32")
    blended = np.stack([ndimage.uniform_filter(band, 3) for band in pixels])
    blended[:, ndimage.binary_erosion(void(), np.ones((3, 3)), border_value=1)] = -9999
    rim = ndimage.binary_dilation(void(), np.ones((3, 3)))
    with Scene.open(make_scene(pixels=blended)) as scene:
        assert np.array_equal(~scene.read(Window(0, 0, *HW)).valid, rim)
        assert "-9999" in scene.remarks[0]


@pytest.mark.slow
def test_a_band_may_be_saturated(make_scene: SceneFactory) -> None:
    pixels = picture(3, HW).astype("uint16") * 40
    pixels[0, 50:70] = 65535  # bright in one band alone
    pixels[:, :20] = 65535
    with Scene.open(make_scene(pixels=pixels)) as scene:
        found = ~scene.read(Window(0, 0, *HW)).valid
    assert found[:20].all() and not found[20:].any()
