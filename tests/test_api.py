"""Python's functions: a model loaded once, pictures in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import SceneFactory, picture
from fakes import FakeSegmenter
from test_shipped import SAMPLE

import floodmap
from floodmap.errors import FloodmapError, ModelError, PromptError
from floodmap.models.mirrored import Flipped


def test_a_loaded_model_serves_many_scenes_and_is_not_loaded_again(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("floodmap.models.loading.load_segmenter", lambda *_: pytest.fail("loaded again"))
    model = FakeSegmenter()
    assert floodmap.load_model(model) is model
    for name in ("a", "b"):
        result = floodmap.segment(make_scene(name=f"{name}.tif"), out=tmp_path, model=model)
        assert result.summary["model"]["name"] == "fake" and result.mask.exists()
    with pytest.raises(ModelError, match="loaded already"):
        floodmap.segment(make_scene(name="c.tif"), out=tmp_path, model=model, flips=True)


def test_a_picture_in_memory_is_mapped_like_the_same_picture_in_a_file(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rgb, model = picture(3, (300, 410)), FakeSegmenter()
    result = floodmap.segment(make_scene(pixels=rgb, collar="off"), out=tmp_path / "out", model=model, collar="off")
    before = sorted(tmp_path.iterdir())
    mask, probability = floodmap.predict(rgb, model=model)
    with rasterio.open(result.mask) as file, rasterio.open(result.probability) as shares:
        np.testing.assert_array_equal(mask, file.read(1))
        np.testing.assert_allclose(probability, shares.read(1) / 100, atol=1e-6)
    assert (mask.dtype, probability.dtype) == (np.uint8, np.float32)
    turned = floodmap.predict(rgb.transpose(1, 2, 0), model=model)
    np.testing.assert_array_equal(turned.mask, mask)
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_not_observed_is_neither_flood_nor_dry() -> None:
    rgb, valid = picture(3, (80, 90)), np.ones((80, 90), bool)
    valid[:, :20] = False
    mask, probability = floodmap.predict(rgb, valid=valid, model=FakeSegmenter())
    np.testing.assert_array_equal(mask == 255, ~valid)
    np.testing.assert_array_equal(np.isnan(probability), ~valid)


def test_the_model_hears_of_resolution_prompts_and_threshold() -> None:
    model, rgb = FakeSegmenter(), picture(3, (80, 90))
    floodmap.predict(rgb, model=model)
    floodmap.predict(rgb, gsd_m=0.07, model=model)
    assert model.tiles[0].gsd_m == 0 and model.tiles[1].gsd_m == pytest.approx(0.07, rel=1e-4)
    point = floodmap.Prompts(points_xy=np.array([[10.0, 20.0]]), labels=np.array([1]))
    floodmap.predict(rgb, prompts=point, model=model)
    np.testing.assert_array_equal(model.prompts[-1].points_xy, point.points_xy)
    low, high = (floodmap.predict(rgb, threshold=share, model=model).mask for share in (0.2, 0.8))
    assert (low >= high).all() and low.sum() > high.sum()
    dark = np.zeros((80, 90), np.uint8)
    bare, helped = floodmap.predict(rgb, model=model), floodmap.predict(rgb, nir=dark, model=model)
    assert (helped.probability == bare.probability).all()  # near infrared that is dark everywhere says nothing
    shining = np.where(np.arange(90) < 45, 250, 5).astype(np.uint8) * np.ones((80, 1), np.uint8)
    helped = floodmap.predict(rgb, nir=shining, model=model)
    assert helped.mask[:, :40].mean() < bare.mask[:, :40].mean()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rgb": np.zeros((3, 5, 5))}, "rgb is float64"),
        ({"rgb": np.zeros((4, 5, 5), np.uint8)}, r"give uint8 \(3, height, width\)"),
        ({"rgb": np.zeros((3, 0, 5), np.uint8)}, "rgb is uint8"),
        ({"valid": np.zeros((5, 4), bool)}, "valid is bool"),
        ({"nir": np.zeros((5, 5), np.uint16)}, "nir is uint16"),
        ({"gsd_m": 0.0}, "above 0"),
        ({"threshold": 50}, "write 0.5"),
    ],
)
def test_what_is_no_picture_is_refused_in_one_line(given: dict[str, object], said: str) -> None:
    with pytest.raises(FloodmapError, match=said) as error:
        floodmap.predict(**{"rgb": np.zeros((3, 5, 5), np.uint8), "model": FakeSegmenter(), **given})
    assert "\n" not in str(error.value)


def test_what_is_neither_a_name_nor_a_model_is_told_what_would_be() -> None:
    with pytest.raises(TypeError, match=r"predict\(rgb\)"):
        floodmap.segment(np.zeros((3, 5, 5), np.uint8))
    with pytest.raises(TypeError, match="load_model"):
        floodmap.predict(np.zeros((3, 5, 5), np.uint8), model=3)
    with pytest.raises(PromptError):
        floodmap.Prompts(points_xy=np.zeros((1, 3)), labels=np.ones(1))


@pytest.mark.slow
def test_the_shipped_model_maps_the_sample_scene_in_memory(tmp_path: Path) -> None:
    model = floodmap.load_model("finetuned", device="cpu")
    result = floodmap.segment(SAMPLE, out=tmp_path, model=model)
    with rasterio.open(SAMPLE) as scene, rasterio.open(result.probability) as file:
        rgb, valid, expected = scene.read(), scene.dataset_mask() > 0, file.read(1)
    _, probability = floodmap.predict(rgb, valid=valid, gsd_m=0.3, model=model)
    assert np.nanmean(np.abs(probability - np.where(expected > 100, np.nan, expected / 100))) < 0.005
    assert isinstance(floodmap.load_model(device="cpu", flips=True), Flipped)
