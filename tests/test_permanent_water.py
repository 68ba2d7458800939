"""Permanent water: a class and a layer of its own, separated from flood by a raster or polygons."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from conftest import SceneFactory
from fakes import FakeSegmenter
from numpy.typing import NDArray
from rasterio.enums import Resampling

from floodmap.errors import FloodmapError
from floodmap.options import SceneOptions, SegmentOptions
from floodmap.output.results import FloodMap
from floodmap.pipeline import segment_scene

UTM = "EPSG:32633"
SIDE = 256
"""Side of the scene, in pixels of 1 m."""
SETTINGS = {"tile_size": 128, "overlap": 16, "min_area_m2": 0.0, "simplify_m": 0.0, "prompts": "none"}


def disc(row: float, col: float, radius: float) -> NDArray[np.bool_]:
    rows, cols = np.ogrid[:SIDE, :SIDE]
    return np.asarray(np.hypot(rows + 0.5 - row, cols + 0.5 - col) <= radius)


LAKE = disc(110, 120, 60)
FLOOD = LAKE | disc(110, 215, 50)
"""The lake, and a flood that spills over its eastern bank."""


@pytest.fixture
def scene(make_scene: SceneFactory) -> Path:
    """Scene with water where `FLOOD` is True, for the fake model; the upper left corner is unobserved."""
    alpha = np.full((SIDE, SIDE), 255)
    alpha[:20, :30] = 0
    pixels = np.where(FLOOD, 255, 0).astype(np.uint8)[None].repeat(3, axis=0)
    return make_scene(pixels=pixels, alpha=alpha, crs=UTM, transform=Affine(1, 0, 500_000, 0, -1, 5_000_000))


def run(scene: Path, out: Path, **settings: Any) -> FloodMap:
    options = SegmentOptions(scene=SceneOptions(collar="off"), **{**SETTINGS, **settings})
    return segment_scene(scene, out, FakeSegmenter(), options)


def reference(path: Path, values: NDArray[Any], pixel_m: float, **profile: Any) -> Path:
    """Raster of permanent water over the scene."""
    transform = Affine(pixel_m, 0, 500_000, 0, -pixel_m, 5_000_000)
    height, width = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=1, dtype=values.dtype, crs=UTM,
        transform=transform, **profile,
    ) as dataset:  # fmt: skip
        dataset.write(values, 1)
    return path


def coarse(lake: NDArray[np.bool_], factor: int) -> NDArray[np.uint8]:
    """Reduce a lake to pixels that are `factor` times as large, by the majority; values in per cent as by JRC."""
    side = -(-SIDE // factor)
    padded = np.zeros((side * factor, side * factor))
    padded[:SIDE, :SIDE] = lake
    share = padded.reshape(side, factor, side, factor).mean(axis=(1, 3))
    return np.where(share >= 0.5, 90, np.where(share > 0, 30, 0)).astype(np.uint8)


def test_flood_permanent_water_dry_and_unobserved_add_up_to_the_scene(scene: Path, tmp_path: Path) -> None:
    path = reference(tmp_path / "lake.tif", LAKE.astype(np.uint8), 1)
    result = run(scene, tmp_path / "out", permanent_water=path)
    mask, pixels = result.mask(), result.report["pixels"]
    unobserved = sum(pixels["unobserved"].values())
    assert pixels["flood"] + pixels["permanent_water"] + pixels["dry"] + unobserved == SIDE**2
    for value, count in ((1, pixels["flood"]), (2, pixels["permanent_water"]), (0, pixels["dry"]), (255, unobserved)):
        assert np.count_nonzero(mask == value) == count
    seen = mask != 255
    assert np.array_equal(mask == 2, LAKE & seen) and np.array_equal(mask == 1, FLOOD & ~LAKE & seen)
    areas = geopandas.read_file(result.layer_paths[0], layer="permanent_water").area.sum()
    assert areas == pixels["permanent_water"] == pytest.approx(result.report["permanent_water_area_m2"], rel=2e-3)
    assert [name for name, _ in pyogrio.list_layers(result.layer_paths[0])] == [
        "flood", "unobserved", "permanent_water", "layer_styles",
    ]  # fmt: skip


def test_the_probability_of_permanent_water_is_kept(scene: Path, tmp_path: Path) -> None:
    path = reference(tmp_path / "lake.tif", LAKE.astype(np.uint8), 1)
    with_lake = run(scene, tmp_path / "out", permanent_water=path)
    plain = run(scene, tmp_path / "plain")
    assert np.array_equal(with_lake.probability(), plain.probability(), equal_nan=True)
    assert "permanent_water" not in plain.report["pixels"] and set(np.unique(plain.mask())) == {0, 1, 255}
    table = geopandas.read_file(with_lake.layer_paths[0], layer="permanent_water")
    assert (table.confidence_min >= 0.5).all() and (table.confidence_mean <= 1).all()


def test_a_coarse_lake_takes_its_banks_with_it_and_leaves_the_flood(scene: Path, tmp_path: Path) -> None:
    path = reference(tmp_path / "jrc.tif", coarse(LAKE, 15), 15)
    mask = run(scene, tmp_path / "out", permanent_water=path).mask()
    by_pixel = run(scene, tmp_path / "pixel", permanent_water=path, permanent_rim_m=0).mask()
    bank = LAKE & ~disc(110, 120, 50) & (np.arange(SIDE) < 120)  # the western bank, far from the flood
    assert (mask == 1)[bank].mean() == 0 and (by_pixel == 1)[bank].mean() > 0.1
    beyond = FLOOD & ~disc(110, 120, 60 + 16)  # farther from the lake than one pixel of the raster
    assert (mask == 1)[beyond].mean() > 0.95
    assert (mask == 2)[disc(110, 120, 40)].all()


def test_a_lake_alone_is_no_flood_although_the_raster_is_coarse(make_scene: SceneFactory, tmp_path: Path) -> None:
    pixels = np.where(LAKE, 255, 0).astype(np.uint8)[None].repeat(3, axis=0)
    scene = make_scene(pixels=pixels, crs=UTM, transform=Affine(1, 0, 500_000, 0, -1, 5_000_000))
    result = run(scene, tmp_path / "out", permanent_water=reference(tmp_path / "jrc.tif", coarse(LAKE, 30), 30))
    assert result.report["pixels"]["flood"] == 0


def test_no_data_of_the_raster_is_no_permanent_water(scene: Path, tmp_path: Path) -> None:
    values = np.where(coarse(LAKE, 15) >= 50, np.uint8(255), coarse(LAKE, 15))
    mask = run(scene, tmp_path / "out", permanent_water=reference(tmp_path / "jrc.tif", values, 15)).mask()
    assert not (mask == 2).any()
    declared = reference(tmp_path / "declared.tif", values, 15, nodata=255)
    assert not (run(scene, tmp_path / "again", permanent_water=declared).mask() == 2).any()
    binary = np.where(LAKE, np.uint8(255), np.uint8(0))
    assert (run(scene, tmp_path / "b", permanent_water=reference(tmp_path / "b.tif", binary, 1)).mask() == 2).any()


def test_the_least_value_can_be_given(scene: Path, tmp_path: Path) -> None:
    path = reference(tmp_path / "jrc.tif", coarse(LAKE, 15), 15)
    default = run(scene, tmp_path / "out", permanent_water=path, permanent_rim_m=0).report["pixels"]["permanent_water"]
    low = run(scene, tmp_path / "low", permanent_water=path, permanent_rim_m=0, permanent_least=20)
    none = run(scene, tmp_path / "none", permanent_water=path, permanent_least=95)
    assert low.report["pixels"]["permanent_water"] > default and none.report["pixels"]["permanent_water"] == 0


def test_polygons_in_another_crs_are_permanent_water(scene: Path, tmp_path: Path) -> None:
    lake = shapely.Point(500_120, 5_000_000 - 110).buffer(60, quad_segs=64)
    path = tmp_path / "lake.gpkg"
    geopandas.GeoDataFrame(geometry=[lake], crs=UTM).to_crs(4326).to_file(path)
    mask = run(scene, tmp_path / "out", permanent_water=path).mask()
    assert np.count_nonzero((mask == 2) != (LAKE & (mask != 255))) < 40


def test_permanent_water_is_a_file_of_its_own_in_other_formats(scene: Path, tmp_path: Path) -> None:
    path = reference(tmp_path / "lake.tif", LAKE.astype(np.uint8), 1)
    result = run(scene, tmp_path / "out", permanent_water=path, formats=("fgb", "shp"))
    names = [path.name for path in result.layer_paths]
    assert names[:3] == ["scene_flood.fgb", "scene_unobserved.fgb", "scene_permanent_water.fgb"]
    assert len(geopandas.read_file(result.layer_paths[2])) == len(geopandas.read_file(result.layer_paths[5])) == 1
    assert (tmp_path / "out" / "scene_permanent_water.qml").exists()
    again = run(scene, tmp_path / "out", permanent_water=path, formats=("fgb", "shp"), resume=True)
    assert again.report["run"] == result.report["run"]  # nothing was left to do


def test_overviews_are_the_most_frequent_class(scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("floodmap.output.cog.BLOCK_SIZE", 64)
    path = reference(tmp_path / "lake.tif", LAKE.astype(np.uint8), 1)
    result = run(scene, tmp_path / "out", permanent_water=path)
    mask = result.mask()
    with rasterio.open(result.mask_path) as dataset:
        assert dataset.overviews(1) == [2, 4]
        half = dataset.read(1, out_shape=(SIDE // 2, SIDE // 2), resampling=Resampling.nearest)
    blocks = mask.reshape(SIDE // 2, 2, SIDE // 2, 2).swapaxes(1, 2).reshape(SIDE // 2, SIDE // 2, 4)
    counts = {value: (blocks == value).sum(axis=2) for value in (0, 1, 2, 255)}
    water = counts[1] + counts[2]
    hidden = (counts[255] > 0) & (counts[255] >= water) & (counts[255] >= counts[0])
    expected = np.where(water >= counts[0], np.where(counts[2] > counts[1], 2, 1), 0)
    assert np.array_equal(half, np.where(hidden, 255, expected))


def test_evaluation_counts_permanent_water_as_dry(scene: Path, tmp_path: Path) -> None:
    import floodmap

    path = reference(tmp_path / "lake.tif", LAKE.astype(np.uint8), 1)
    result = run(scene, tmp_path / "out", permanent_water=path)
    truth = reference(tmp_path / "truth.tif", (FLOOD & ~LAKE).astype(np.uint8), 1)
    assert floodmap.evaluate(result.mask_path, truth).pooled.iou == 1
    assert floodmap.vectorize(result.mask_path).area.sum() == result.report["pixels"]["flood"]


def test_the_report_shows_permanent_water(scene: Path, tmp_path: Path) -> None:
    path = reference(tmp_path / "lake.tif", LAKE.astype(np.uint8), 1)
    result = run(scene, tmp_path / "out", permanent_water=path, report=True)
    page = result.page_path.read_text("utf-8")
    assert page.count("permanent water") >= 1 and "not counted as flood" in page and "lake.tif" in page


def test_a_change_of_the_file_is_another_run(scene: Path, tmp_path: Path) -> None:
    path = reference(tmp_path / "lake.tif", LAKE.astype(np.uint8), 1)
    run(scene, tmp_path / "out", permanent_water=path)
    reference(path, (~LAKE).astype(np.uint8), 1)
    with pytest.raises(FloodmapError, match="permanent"):
        run(scene, tmp_path / "out", permanent_water=path, resume=True)


def test_wrong_files_and_options_are_refused_before_the_first_window(scene: Path, tmp_path: Path, caplog) -> None:
    text = tmp_path / "lake.txt"
    text.write_text("no raster")
    fails = FakeSegmenter()
    fails.before = lambda _: pytest.fail("a window was computed")
    options = SegmentOptions(permanent_water=text, **SETTINGS)
    with pytest.raises(FloodmapError, match=r"lake\.txt"):
        segment_scene(scene, tmp_path / "out", fails, options)
    assert not (tmp_path / "out").exists()
    with pytest.raises(FloodmapError, match="need --permanent-water"):
        SegmentOptions(permanent_rim_m=3)
    far = reference(tmp_path / "far.tif", np.ones((4, 4), np.uint8), 1)
    with rasterio.open(far, "r+") as dataset:
        dataset.transform = Affine(1, 0, 900_000, 0, -1, 5_000_000)
    assert run(scene, tmp_path / "far", permanent_water=far).report["pixels"]["permanent_water"] == 0
    assert "does not overlap" in caplog.text


def test_without_crs_a_raster_of_the_same_size_is_used(make_scene: SceneFactory, tmp_path: Path) -> None:
    pixels = np.where(FLOOD, 255, 0).astype(np.uint8)[None].repeat(3, axis=0)
    scene = make_scene(pixels=pixels, crs=None, transform=None)
    path = make_scene(pixels=LAKE.astype(np.uint8)[None], crs=None, transform=None, name="lake.tif")
    settings = {"min_area_m2": None, "simplify_m": None}
    result = run(scene, tmp_path / "out", permanent_water=path, **settings)
    assert np.array_equal(result.mask() == 2, LAKE) and result.report["permanent_water_area_m2"] is None
    with pytest.raises(FloodmapError, match="--permanent-rim"):
        run(scene, tmp_path / "rim", permanent_water=path, permanent_rim_m=2, **settings)


def test_the_command_line_says_how_much_is_permanent(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    from floodmap_cli.main import run as command

    monkeypatch.setattr("floodmap_cli.loading.load", lambda model, device: FakeSegmenter())
    path = reference(tmp_path / "lake.tif", LAKE.astype(np.uint8), 1)
    arguments = ["segment", str(scene), "-o", str(tmp_path / "out"), "--prompts", "none", "--collar", "off"]
    assert command([*arguments, "--permanent-water", str(path)]) == 0
    assert "ha of flood beside 1.1" in capsys.readouterr().out
    settings = json.loads((tmp_path / "out" / "scene.json").read_text())["settings"]
    assert settings["permanent_water"] == str(path) and settings["fingerprints"]["permanent_water"]


def test_a_product_of_frames_has_permanent_water_too(scene: Path, tmp_path: Path) -> None:
    from floodmap.geo.source_name import SourceName
    from floodmap.scaleout.frames.product import mosaic_frames

    path = reference(tmp_path / "lake.tif", LAKE.astype(np.uint8), 1)
    options = SegmentOptions(scene=SceneOptions(collar="off"), permanent_water=path, **SETTINGS)
    out = tmp_path / "out"
    product = mosaic_frames([SourceName.of(scene)], out, FakeSegmenter(), options, name="product")
    assert np.array_equal(product.mask(), run(scene, tmp_path / "one", permanent_water=path).mask())
    assert product.report["settings"]["fingerprints"]["permanent_water"]
    again = mosaic_frames([SourceName.of(scene)], out, FakeSegmenter(), replace(options, resume=True), name="product")
    assert again.report["run"] == product.report["run"]
