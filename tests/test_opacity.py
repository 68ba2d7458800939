"""Fourth bands that are masks of opacity, although the file does not say so, and alpha that is no number."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from conftest import SceneFactory
from rasterio.enums import ColorInterp

from floodmap.geo.window import Window
from floodmap.imagery.scene import Scene
from floodmap.options import SceneOptions

UNDECLARED = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.undefined)
SHAPE = (200, 240)


def picture(fourth: np.ndarray, dtype: str = "uint8", scale: int = 1) -> np.ndarray:
    """Colours between 60 and 139, and a fourth band."""
    colours = np.random.default_rng(0).integers(60, 140, (3, *SHAPE)) * scale
    return np.concatenate([colours, fourth[None]]).astype(dtype)


def hole() -> np.ndarray:
    flags = np.zeros(SHAPE, bool)
    flags[60:120, 100:160] = True
    return flags


@pytest.mark.parametrize(
    ("dtype", "scale", "opaque"), [("uint8", 1, 255), ("uint8", 1, 1), ("uint16", 20, 255), ("uint16", 20, 65535)]
)
@pytest.mark.parametrize("nir", ["auto", "off"])
def test_ground_under_an_undeclared_mask_of_opacity_is_unobserved(
    make_scene: SceneFactory, dtype: str, scale: int, opaque: int, nir: str
) -> None:
    pixels = picture(np.where(hole(), 0, opaque), dtype, scale)
    with Scene.open(make_scene(pixels=pixels, colorinterp=UNDECLARED), SceneOptions(nir=nir)) as scene:  # type: ignore[arg-type]
        tile = scene.read(Window(0, 0, *SHAPE))
        assert scene.nir_band is None and tile.nir is None and np.array_equal(tile.valid, ~hole())
        (line,) = scene.remarks
    assert f"band 4 holds only 0 and {opaque}" in line and "--bands 1,2,3,4" in line


@pytest.mark.parametrize(("dtype", "opaque"), [("uint8", 255), ("uint16", 65535), ("float32", 1)])
def test_a_fourth_band_that_is_opaque_everywhere_is_not_near_infrared(
    make_scene: SceneFactory, dtype: str, opaque: int
) -> None:
    path = make_scene(pixels=picture(np.full(SHAPE, opaque), dtype), colorinterp=UNDECLARED)
    with Scene.open(path) as scene:
        assert scene.nir_band is None and scene.read(Window(0, 0, *SHAPE)).valid.all()
        assert f"band 4 holds only {opaque}" in scene.remarks[0]
    for bands in ((1, 2, 3), (1, 2, 3, 4)):
        with Scene.open(path, SceneOptions(bands=bands)) as scene:
            assert scene.nir_band == (4 if len(bands) == 4 else None)
            assert not any("band 4" in line for line in scene.remarks)


def test_means_leave_out_what_an_undeclared_mask_hides(make_scene: SceneFactory) -> None:
    pixels = picture(np.where(hole(), 0, 255))
    pixels[:3] = 100
    pixels[:3, hole()] = 0
    with Scene.open(make_scene(pixels=pixels, colorinterp=UNDECLARED)) as scene:
        tile = scene.shrunk(Window(0, 0, 50, 60), 4)
        odd = scene.preview(77)
    assert (tile.rgb[:, tile.valid] == 100).all() and (odd.rgb[:, odd.valid] == 100).all()


@pytest.mark.parametrize("values", [(0, 254, 255), (0, 200), (0,), (120,)])
def test_near_infrared_that_saturates_stays_near_infrared(make_scene: SceneFactory, values: tuple[int, ...]) -> None:
    fourth = np.random.default_rng(1).choice(np.array(values), SHAPE)
    with Scene.open(make_scene(pixels=picture(fourth), colorinterp=UNDECLARED)) as scene:
        assert scene.nir_band == 4 and scene.read(Window(0, 0, *SHAPE)).valid.all() and not scene.remarks


def test_a_band_that_is_named_near_infrared_is_not_taken_for_a_mask(make_scene: SceneFactory) -> None:
    names = ("Red", "Green", "Blue", "NIR")
    path = make_scene(pixels=picture(np.full(SHAPE, 255)), colorinterp=UNDECLARED, descriptions=names)
    with Scene.open(path) as scene:
        assert scene.nir_band == 4 and not scene.remarks


def test_an_undeclared_mask_is_found_after_lossy_compression(make_scene: SceneFactory) -> None:
    pixels = picture(np.where(hole(), 0, 255))
    path = make_scene(pixels=pixels, colorinterp=UNDECLARED, compress="jpeg", jpeg_quality=75, interleave="band")
    with rasterio.open(path) as dataset:
        assert len(np.unique(dataset.read(4))) > 2
    with Scene.open(path) as scene:
        valid = scene.read(Window(0, 0, *SHAPE)).valid
    assert (valid != ~hole()).mean() < 0.01 and not valid[64:116, 104:156].any()


def test_alpha_that_is_no_number_hides_the_ground(make_scene: SceneFactory) -> None:
    pixels = np.random.default_rng(0).random((3, *SHAPE)).astype(np.float32)
    alpha = np.where(hole(), np.nan, 1).astype(np.float32)
    with Scene.open(make_scene(pixels=pixels, alpha=alpha, photometric="rgb")) as scene:
        assert np.array_equal(scene.read(Window(0, 0, *SHAPE)).valid, ~hole())


@pytest.mark.parametrize("given", [None, 255.0])
def test_a_fourth_band_of_which_only_nodata_was_sampled_stays_near_infrared(
    make_scene: SceneFactory, given: float | None
) -> None:
    pixels = np.full((4, 130, 1600), 255, np.uint8)
    pixels[:, :, 132:204] = np.random.default_rng(0).integers(1, 250, (4, 130, 72))  # between two sampled squares
    path = make_scene(pixels=pixels, nodata=255 if given is None else None, colorinterp=UNDECLARED)
    with Scene.open(path, SceneOptions(nodata=given, collar="off")) as scene:
        assert scene.nir_band == 4
        assert np.array_equal(scene.read(Window(0, 0, 130, 400)).valid, pixels[0, :, :400] != 255)


def test_a_mask_of_opacity_whose_opaque_value_is_the_nodata_value_stays_a_mask(make_scene: SceneFactory) -> None:
    path = make_scene(pixels=picture(np.where(hole(), 0, 255)), nodata=255, colorinterp=UNDECLARED)
    with Scene.open(path, SceneOptions(collar="off")) as scene:
        assert scene.nir_band is None and np.array_equal(scene.read(Window(0, 0, *SHAPE)).valid, ~hole())
