"""Python API: a model loaded once, pictures in memory, datasets, notebooks."""

from __future__ import annotations

import base64
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from conftest import GEOGRAPHIC, UTM, SceneFactory, picture
from fakes import FakeSegmenter
from PIL import Image
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT
from test_shipped import SAMPLE

import floodmap
from floodmap.comparison.run import resolve_models
from floodmap.errors import FloodmapError, ModelError, PromptError, SceneError
from floodmap.geo.window import Window
from floodmap.imagery.opened import named
from floodmap.imagery.scene import Scene
from floodmap.models.mirrored import Mirrored
from floodmap.options import FineTuneOptions, TrainSettings


def test_a_loaded_model_serves_many_scenes_and_is_not_loaded_again(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("floodmap.models.loading.load_segmenter", lambda *_: pytest.fail("loaded again"))
    model = FakeSegmenter()
    assert floodmap.load_model(model) is model
    for name in ("a", "b"):
        result = floodmap.segment(make_scene(name=f"{name}.tif"), out=tmp_path, model=model)
        assert result.report["model"]["name"] == "fake" and result.mask_path.exists()
    with pytest.raises(ModelError, match="already loaded"):
        floodmap.segment(make_scene(name="c.tif"), out=tmp_path, model=model, flips=True)


def test_a_picture_in_memory_is_mapped_like_the_same_picture_in_a_file(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rgb, model = picture(3, (300, 410)), FakeSegmenter()
    result = floodmap.segment(make_scene(pixels=rgb, collar="off"), out=tmp_path / "out", model=model, collar="off")
    before = sorted(tmp_path.iterdir())
    mask, probability = floodmap.predict(rgb, model=model)
    with rasterio.open(result.mask_path) as file, rasterio.open(result.probability_path) as shares:
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


def test_resolution_prompts_and_threshold_reach_the_model() -> None:
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


def test_what_is_neither_a_name_nor_a_model_is_refused_with_what_would_be() -> None:
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
    with rasterio.open(SAMPLE) as scene, rasterio.open(result.probability_path) as file:
        rgb, valid, expected = scene.read(), scene.dataset_mask() > 0, file.read(1)
    _, probability = floodmap.predict(rgb, valid=valid, gsd_m=0.3, model=model)
    assert np.nanmean(np.abs(probability - np.where(expected > 100, np.nan, expected / 100))) < 0.005
    assert isinstance(floodmap.load_model(device="cpu", flips=True), Mirrored)


@pytest.mark.parametrize("kind", ["rasterio", "memory", "xarray", "masked"])
def test_open_datasets_and_arrays_are_mapped_like_the_file(
    make_scene: SceneFactory, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))  # in the shared one, other processes come and go
    path, model = make_scene(shape_hw=(120, 150), nodata=0, name="scene.tif"), FakeSegmenter()
    expected = floodmap.segment(path, out=tmp_path / "file", model=model)
    with opened(path, kind) as source:
        found = floodmap.segment(source, out=tmp_path / "object", model=model, name="other")
        told = floodmap.info(path), floodmap.info(source)
    assert found.mask_path.name == "other_mask.tif"
    np.testing.assert_array_equal(found.mask(), expected.mask())
    assert found.polygons().crs == expected.polygons().crs and found.report["pixels"] == expected.report["pixels"]
    for key in ("size", "crs", "transform", "gsd_m", "nodata", "valid_share"):
        assert told[0][key] == told[1][key]
    assert not list(temporary.iterdir())


@contextmanager
def opened(path: Path, kind: str) -> Iterator[Any]:
    """A raster as an object of that kind."""
    if kind == "rasterio":
        with rasterio.open(path) as dataset:
            yield dataset
    elif kind == "memory":
        with MemoryFile(path.read_bytes()) as file, file.open() as dataset:
            yield dataset
    else:
        rioxarray = pytest.importorskip("rioxarray")
        yield rioxarray.open_rasterio(path, masked=kind == "masked")


def test_what_is_no_scene_is_refused_with_what_would_be_one(make_scene: SceneFactory, tmp_path: Path) -> None:
    path, told = make_scene(), r"WarpedVRT; give a path, .* or an xarray\.DataArray"
    with rasterio.open(path) as dataset, WarpedVRT(dataset) as warped, pytest.raises(TypeError, match=told):
        floodmap.segment(warped, out=tmp_path / "out", model=FakeSegmenter())
    with pytest.raises(FloodmapError, match="is closed"):
        floodmap.info(dataset)
    with pytest.raises(TypeError, match="source is a dict"):
        floodmap.info({})  # type: ignore[arg-type]
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("rioxarray")
    with pytest.raises(FloodmapError, match=r"is no raster: .*give \(band, y, x\)"):
        floodmap.info(xarray.DataArray(np.zeros((3, 4, 5), np.uint8), dims=("a", "b", "c")))
    with pytest.raises(FloodmapError, match="no name for files"):
        floodmap.segment(path, out=tmp_path / "out", model=FakeSegmenter(), name="a/b")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_in_an_array_read_from_a_file_of_bytes_is_unobserved(make_scene: SceneFactory, value: float) -> None:
    rioxarray = pytest.importorskip("rioxarray")
    array = rioxarray.open_rasterio(make_scene(), masked=True).load()
    with named(array) as whole, Scene.open(whole) as scene:
        assert scene.dtype == "uint8"  # as the file
    array.values[:, 10:20, 5:30] = value
    with named(array) as path, Scene.open(path) as scene:
        unobserved = ~scene.read(Window(0, 0, *array.shape[1:])).valid
    assert np.array_equal(unobserved, ~np.isfinite(array.values[0])) and scene.crs == array.rio.crs


def test_an_array_that_lacks_rows_is_refused(make_scene: SceneFactory) -> None:
    rioxarray = pytest.importorskip("rioxarray")
    array = rioxarray.open_rasterio(make_scene(crs="EPSG:4326", transform=GEOGRAPHIC))
    rounded = array.assign_coords(x=array.x.astype(np.float32), y=array.y.astype(np.float32))
    for even in (array, rounded, array[:, ::-1], array[:, :1], array[:, ::2, ::3]):
        with named(even) as path, rasterio.open(path) as dataset:
            assert dataset.shape == even.shape[1:]
    for rows in ([*range(20), *range(21, 48)], [*range(10), *range(30, 48)], [3, 1, 2, 0]):
        with (
            pytest.raises(SceneError, match=r"^the y coordinates of the array are not evenly spaced; "),
            named(array[:, rows]),
        ):
            pass


@pytest.mark.parametrize("first", [500_000.3, 500_000.0])
@pytest.mark.parametrize("pixel", [0.25, 0.5, 0.6, 1.5])
def test_coordinates_rounded_to_float32_are_even_where_a_pixel_is_finer_than_the_rounding(
    pixel: float, first: float
) -> None:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("rioxarray")
    steps = (np.arange(300) + 0.5) * pixel
    x, y = (first + steps).astype(np.float32), (5_000_000 - steps).astype(np.float32)
    array = xarray.DataArray(np.zeros((3, 300, 300), np.uint8), dims=("band", "y", "x"), coords={"y": y, "x": x})
    array = array.rio.write_crs(UTM)
    with named(array) as path, rasterio.open(path) as dataset:
        assert dataset.res == pytest.approx((pixel, pixel), abs=0.002)
    lacking = array[:, [*range(100), *range(120, 300)]]
    with pytest.raises(SceneError, match="the y coordinates of the array are not evenly spaced"), named(lacking):
        pass


def test_results_are_arrays_polygons_and_a_picture_in_a_notebook(make_scene: SceneFactory, tmp_path: Path) -> None:
    valid = np.ones((300, 410), bool)
    valid[:, :50] = False
    path = make_scene(pixels=picture(3, (300, 410)), mask=valid, name="<b>.tif")
    result = floodmap.segment(path, out=tmp_path / "out", model=FakeSegmenter())
    mask, probability = result.mask(), result.probability()
    with rasterio.open(result.mask_path) as file:
        np.testing.assert_array_equal(mask, file.read(1))
    np.testing.assert_array_equal(np.isnan(probability), mask == 255)
    np.testing.assert_array_equal(probability[valid] >= 0.5, mask[valid] == 1)
    html = result._repr_html_()
    assert html.count("data:image/png;base64,") == 2 and "<b>&lt;b&gt;</b>" in html and " ha of flood" in html
    shown = Image.open(io.BytesIO(base64.b64decode(html.split("base64,")[1].split('"')[0]))).convert("RGBA")
    assert shown.size == (420, 307)
    red, _, blue, opacity = np.asarray(shown).reshape(-1, 4)[::1].T.astype(int)
    flooded = (blue - red > 60) & (opacity > 0)
    assert flooded.mean() == pytest.approx((mask == 1).mean(), abs=0.03)


def test_polygons_in_memory_are_scored_like_those_in_a_file(make_scene: SceneFactory, tmp_path: Path) -> None:
    result = floodmap.segment(make_scene(shape_hw=(200, 220)), out=tmp_path / "out", model=FakeSegmenter())
    reference = tmp_path / "reference.gpkg"
    frame = result.polygons()
    frame["geometry"] = frame.translate(1.0, 0.0)
    frame.to_file(reference)
    from_file, from_memory = (floodmap.evaluate(result.mask_path, one).scenes[0] for one in (reference, frame))
    assert 0.3 < from_file.iou < 1 and from_memory.counts.tolist() == from_file.counts.tolist()
    assert floodmap.evaluate(frame, frame).scenes[0].iou == 1
    assert floodmap.evaluate(frame.to_crs(4326), result.mask_path).scenes[0].iou == pytest.approx(
        from_file.iou, abs=0.1
    )
    with pytest.raises(TypeError, match=r"reference is a list; give a path or a geopandas\.GeoDataFrame"):
        floodmap.evaluate(result.mask_path, [])  # type: ignore[arg-type]
    two = frame.assign(second=frame.geometry)
    with pytest.raises(FloodmapError, match="GeoDataFrame given as prediction cannot be written"):
        floodmap.evaluate(two, frame)


def test_a_sample_is_written_and_described(tmp_path: Path) -> None:
    scene, reference = floodmap.sample(tmp_path / "s.tif", width=300, height=200, seed=3)
    assert reference.name == "s_reference.tif"
    told = floodmap.info(scene, bands=(3, 2, 1))
    assert told["size"] == {"width": 300, "height": 200} and told["bands"] == [3, 2, 1]
    assert len(floodmap.vectorize(reference)) > 0
    json.dumps(told, allow_nan=False)


@pytest.mark.slow
def test_a_model_is_trained_compared_and_used_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("set").mkdir()
    for number in range(4):
        floodmap.sample(f"set/{number}.tif", width=160, height=160, seed=number)
    stages: list[str] = []
    steps: list[int] = []
    model = floodmap.train(
        "set", epochs=0.5, val_share=0.25, augment="flips", device="cpu",
        progress=lambda share, stage: stages.append(stage), on_checkpoint=lambda one: steps.append(one.step),
    )  # fmt: skip
    assert model.path == Path("set.safetensors") and stages and steps[0] == 0 and len(model.train) == 3
    loaded = floodmap.load_model(model.path, device="cpu")
    trials: list[str] = []
    scores = floodmap.compare(
        "set", models=["finetuned", model.path], prompts=["none"], out="comparison", device="cpu",
        progress=lambda trial: trials.append(trial.name),
    )  # fmt: skip
    assert len(trials) == 8 and scores.page_path.exists() and "set was trained on 3, and selected" in scores.table()
    line = "set was trained on 3, and selected and calibrated with 1, of these 4 pictures"
    page = scores.page_path.read_text("utf-8")
    assert line in scores.summary["seen"][0] and f'<p class="seen">{line}' in page
    for curve in ("loss", "val loss", "train iou", "val iou"):
        assert f">{curve}</text>" in page
    again = floodmap.compare("set", models=[loaded], prompts=["none"], out="again")
    assert again.summary["seen"] == scores.summary["seen"]
    result = floodmap.segment("set/1.tif", out="out", model=loaded)
    assert result.report["model"]["seen_in_training"] in ("train", "val")
    scored = floodmap.evaluate(result.mask_path, "set/1_reference.tif")
    assert "of these 1 pictures" in scored.table().splitlines()[0] and scored.to_json()["seen"]


def test_a_model_that_cannot_be_fetched_is_named_and_the_others_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLOODMAP_MODEL_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("FLOODMAP_CACHE", str(tmp_path / "cache"))
    found, (line,) = resolve_models(["pretrained", "finetuned"])
    assert [one.name for one in found] == ["finetuned"] and line.startswith("not compared: sam_vit_b")
    with pytest.raises(ModelError, match="sam_vit_b"):
        resolve_models(["pretrained"])
    with pytest.raises(ModelError, match="no model is named"):
        resolve_models(["nosuch", "finetuned"])


def test_settings_of_training_are_those_of_the_options() -> None:
    assert set(TrainSettings.__annotations__) == {one.name for one in fields(FineTuneOptions)} - {"device"}


@pytest.mark.slow
def test_a_script_that_uses_everything_passes_strict_type_checks(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    told, errors, code = api.run(["--strict", "--cache-dir", str(tmp_path / "cache"), str(script)])
    assert code == 0, told + errors


SCRIPT = """
from pathlib import Path

import numpy as np

import floodmap


def print_progress(progress: floodmap.Progress) -> None:
    print(progress.windows_done, progress.windows_total)


model = floodmap.load_model("finetuned", device="auto")
for path in Path("scenes").glob("*.tif"):
    result = floodmap.segment(path, out="results", model=model, progress=print_progress, min_area_m2=100)
    polygons, mask, shares = result.polygons(), result.mask(), result.probability()
    area: float = result.report["flood_area_ha"]
    html: str = result._repr_html_()
    evaluation = floodmap.evaluate(polygons, path.with_name("reference.gpkg"))
    iou: float | None = evaluation.mean("iou")
rgb = np.zeros((3, 64, 64), np.uint8)
points = floodmap.Prompts(points_xy=np.array([[3.0, 4.0]]), labels=np.array([1]))
flood, probability = floodmap.predict(rgb, gsd_m=0.1, model=model, prompts=points)
trained = floodmap.train("set", out="mine.safetensors", epochs=3, augment="off")
print(trained.path, trained.val_iou_before, trained.val_iou)
comparison = floodmap.compare("set", models=["finetuned", trained.path], prompts=["auto", "points:8"])
print(comparison.table(), comparison.page_path)
print(floodmap.info("scene.tif", bands=(4, 3, 2))["gsd_m"])
scene, reference = floodmap.sample("s.tif", width=512)
floodmap.vectorize(reference).to_file("reference.gpkg")
"""
"""A script that uses every function of the API."""
