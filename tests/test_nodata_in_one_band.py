"""Nodata values that may be colours: what they mean in near infrared, and in the means of single bands."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from affine import Affine
from conftest import SceneFactory
from fakes import ConstantSegmenter
from rasterio.enums import ColorInterp

from floodmap.geo.window import Window
from floodmap.imagery import reader
from floodmap.imagery.scene import Scene
from floodmap.inference import prompting
from floodmap.inference.likelihood import likelihood
from floodmap.models.infrared import Infrared, with_infrared
from floodmap.models.mirrored import mirrored
from floodmap.models.prompts import Prompts
from floodmap.options import SceneOptions

COARSE = Affine(5, 0, 400000, 0, -5, 5200000)
RGBN = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.undefined)
UNCOLLARED = SceneOptions(collar="off")


def scene_with_missing_nir(dtype: str, nodata: int, scale: int) -> np.ndarray:
    """Land on the left, water on the right; in the lower third the near infrared is nodata, the colours are there."""
    pixels = (np.random.default_rng(0).integers(60, 120, (4, 96, 128)) * scale).astype(dtype)
    pixels[3, :, :64], pixels[3, :, 64:] = 180 * scale, 20 * scale
    pixels[3] += np.random.default_rng(1).integers(0, 5, (96, 128)).astype(dtype)
    pixels[3, 64:] = nodata
    return pixels


CASES = [("uint16", 0, 10), ("uint16", 65535, 10), ("uint8", 255, 1), ("float32", 0, 10)]


@pytest.mark.parametrize(("dtype", "nodata", "scale"), CASES)
def test_near_infrared_that_is_nodata_is_no_evidence_for_or_against_water(
    make_scene: SceneFactory, dtype: str, nodata: int, scale: int
) -> None:
    pixels = scene_with_missing_nir(dtype, nodata, scale)
    path = make_scene(pixels=pixels, nodata=nodata, transform=COARSE, colorinterp=RGBN)
    cut = make_scene(pixels=pixels[:, :64], nodata=nodata, transform=COARSE, colorinterp=RGBN, name="cut.tif")
    with Scene.open(path) as scene, Scene.open(cut) as upper:
        for tile in (scene.read(Window(0, 0, 96, 128)), scene.shrunk(Window(0, 0, 48, 64), 2), scene.preview(50)):
            (found,) = with_infrared(ConstantSegmenter(0.6), scene).predict([tile], [Prompts.none()])
            third = found.shape[0] * 2 // 3 + 1
            assert tile.valid.all() and found[third:] == pytest.approx(0.6, abs=1e-3)
            middle = found.shape[1] // 2
            assert found[: third - 2, : middle - 1].max() < 0.1 and found[: third - 2, middle + 1 :].min() > 0.9
        whole, part = Infrared.of(scene), Infrared.of(upper)
        assert whole is not None and part is not None
        assert whole.bright == pytest.approx(part.bright, rel=0.02)
        assert (whole.low[1], whole.high[1]) == pytest.approx((part.low[1], part.high[1]), rel=0.02)


def test_missing_near_infrared_stays_in_its_place_in_parts_and_mirror_images(make_scene: SceneFactory) -> None:
    pixels = scene_with_missing_nir("uint16", 0, 10)
    with Scene.open(make_scene(pixels=pixels, nodata=0, transform=COARSE, colorinterp=RGBN)) as scene:
        tile = scene.read(Window(0, 0, 96, 128))
        infrared = Infrared.of(scene)
    assert infrared is not None and tile.nir_missing is not None
    said = infrared.evidence(tile)
    assert (said[64:] == 0).all() and (said[:64] != 0).all()
    assert np.array_equal(infrared.evidence(tile.part(Window(50, 30, 40, 40))), said[50:90, 30:70])
    assert np.array_equal(infrared.evidence(mirrored(tile)), said[:, ::-1])


def test_missing_near_infrared_is_neither_water_nor_land_where_colours_alone_prompt(
    make_scene: SceneFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def spy(rgb: np.ndarray, valid: np.ndarray, *, nir: np.ndarray, gsd_m: float | None) -> np.ndarray:
        seen.update(green=rgb[1], nir=nir)
        return likelihood(rgb, valid, nir=nir, gsd_m=gsd_m)

    monkeypatch.setattr(prompting, "likelihood", spy)
    model = ConstantSegmenter(0.6)
    model.knows_floods = False
    pixels = np.kron(scene_with_missing_nir("uint16", 0, 10), np.ones((1, 4, 4), np.uint16))
    with Scene.open(make_scene(pixels=pixels, nodata=0, transform=COARSE, colorinterp=RGBN)) as scene:
        prompting.make_prompter(scene, model, "auto")
    third = seen["nir"].shape[0] * 2 // 3 + 1
    assert np.array_equal(seen["nir"][third:], seen["green"][third:])
    assert not np.array_equal(seen["nir"][: third - 2], seen["green"][: third - 2])


def test_near_infrared_that_is_nodata_everywhere_is_not_used(make_scene: SceneFactory) -> None:
    pixels = scene_with_missing_nir("uint16", 65535, 10)
    pixels[3] = 65535
    options = SceneOptions(bands=(1, 2, 3, 4))
    with Scene.open(make_scene(pixels=pixels, nodata=65535, transform=COARSE, colorinterp=RGBN), options) as scene:
        model = ConstantSegmenter(0.6)
        assert scene.nir_band == 4 and scene.read(Window(0, 0, 96, 128)).valid.all()
        assert with_infrared(model, scene) is model


def test_near_infrared_of_0_is_dark_water_in_a_picture_of_8_bits(make_scene: SceneFactory) -> None:
    pixels = scene_with_missing_nir("uint8", 0, 1)
    pixels[3, 64:, :64], pixels[3, :, 64:] = 180, 0
    with Scene.open(make_scene(pixels=pixels, nodata=0, transform=COARSE, colorinterp=RGBN)) as scene:
        tile = scene.read(Window(0, 0, 96, 128))
        (found,) = with_infrared(ConstantSegmenter(0.6), scene).predict([tile], [Prompts.none()])
    assert tile.nir_missing is None and found[:, 64:].min() > 0.9


def striped(dtype: str, nodata: int, bands: int) -> np.ndarray:
    """Red is nodata in every other column and 40 in the others; the last band is nodata or 60; the rest is 90."""
    pixels = np.full((bands, 48, 48), 90, dtype)
    pixels[0], pixels[0, :, ::2] = nodata, 40
    if bands == 4:
        pixels[3], pixels[3, :, ::2] = nodata, 60
    return pixels


def blocks(values: np.ndarray, factor: int) -> np.ndarray:
    """Means of blocks, computed on their own."""
    height, width = values.shape[0] // factor, values.shape[1] // factor
    return values[: height * factor, : width * factor].reshape(height, factor, width, factor).mean(axis=(1, 3))


@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", 0), ("uint16", 0), ("uint8", 200), ("int16", 0)])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_mean_includes_pixels_that_are_nodata_in_one_colour_alone(
    make_scene: SceneFactory, dtype: str, nodata: int, factor: int
) -> None:
    pixels = striped(dtype, nodata, 3)
    path = make_scene(pixels=pixels, nodata=nodata, colorinterp=RGBN[:3])
    with Scene.open(path, SceneOptions(collar="off", resolution_m=0.5 * factor)) as scene:
        values = stored(scene)[0].astype(float)
    assert np.abs(values - blocks(pixels[0].astype(float), factor)).max() <= 0.5


def test_a_mean_at_an_odd_resolution_includes_pixels_that_are_nodata_in_one_colour_alone(
    make_scene: SceneFactory,
) -> None:
    path = make_scene(pixels=striped("uint8", 0, 3), nodata=0, colorinterp=RGBN[:3])
    with Scene.open(path, SceneOptions(collar="off", resolution_m=24 / 17)) as scene:
        assert stored(scene).shape == (3, 17, 17) and stored(scene)[0].mean() == pytest.approx(20, abs=1)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_mean_of_near_infrared_of_8_bits_includes_0_if_0_is_nodata(make_scene: SceneFactory, factor: int) -> None:
    path = make_scene(pixels=striped("uint8", 0, 4), nodata=0, colorinterp=RGBN)
    with Scene.open(path, SceneOptions(collar="off", bands=(1, 2, 3, 4), resolution_m=0.5 * factor)) as scene:
        values = stored(scene)[3].astype(float)
    assert np.abs(values - blocks(striped("uint8", 0, 4)[3].astype(float), factor)).max() <= 0.5


@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", 200), ("uint16", 0), ("uint16", 65535)])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_a_mean_of_near_infrared_leaves_out_nodata(
    make_scene: SceneFactory, dtype: str, nodata: int, factor: int
) -> None:
    pixels = striped(dtype, nodata, 4)
    pixels[3, 24:] = nodata
    path = make_scene(pixels=pixels, nodata=nodata, colorinterp=RGBN)
    with Scene.open(path, SceneOptions(collar="off", resolution_m=0.5 * factor)) as scene:
        colours, nir = stored(scene)[0].astype(float), stored(scene)[3]
        tile = scene.read(Window(0, 0, 48 // factor, 48 // factor))
    assert np.abs(colours - blocks(pixels[0].astype(float), factor)).max() <= 0.5
    assert (nir[: 24 // factor] == 60).all() and (nir[24 // factor :] == nodata).all()
    assert tile.nir_missing is not None and tile.nir_missing[24 // factor :].all() and tile.valid.all()
    assert not tile.nir_missing[: 24 // factor].any()


def stored(scene: Scene) -> Any:
    """Read the whole scene, (bands, height, width), before the stretch."""
    return scene._reader.read(scene._reader.whole, (scene.height, scene.width)).values


@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", 0), ("uint16", 0), ("float32", 0)])
@pytest.mark.parametrize("shape_hw", [(8, 16), (3, 5), (1, 1), (100, 300)])
def test_means_of_a_picture_with_nodata_0_are_the_same_in_many_small_pieces_and_in_one(
    make_scene: SceneFactory, monkeypatch: pytest.MonkeyPatch, dtype: str, nodata: int, shape_hw: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (3, 120, 400)).astype(dtype)
    pixels[:, 20:50, 100:222] = nodata
    with Scene.open(make_scene(pixels=pixels, nodata=nodata, colorinterp=RGBN[:3])) as scene:
        whole = scene._reader.read(scene._reader.whole, shape_hw)
        monkeypatch.setattr(reader, "_PIECE_BYTES", 3000)
        pieced = scene._reader.read(scene._reader.whole, shape_hw)
    assert whole.empty is not None and pieced.empty is not None and np.array_equal(whole.empty, pieced.empty)
    seen = ~whole.empty
    assert pieced.values[:, seen].astype(float) == pytest.approx(whole.values[:, seen].astype(float), abs=0.01)


@pytest.mark.parametrize("shape_hw", [(10, 30), (170, 800)])
def test_a_coarse_read_of_a_picture_with_nodata_0_never_holds_the_full_resolution(
    make_scene: SceneFactory, shape_hw: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 200, (3, 400, 20000), dtype=np.uint8)
    path = make_scene(pixels=pixels, nodata=0, colorinterp=RGBN[:3])
    del pixels
    with Scene.open(path) as scene:
        tracemalloc.start()
        scene._reader.read(scene._reader.whole, shape_hw)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 18_000_000  # the pixels alone take 24 MB
