from __future__ import annotations

import copy
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
from conftest import ROTATED, SOUTH_UP, SceneFactory
from fakes import ConstantSegmenter, FakeSegmenter
from numpy.typing import NDArray
from rasterio.features import rasterize

from floodmap.errors import FloodmapError, MissingCRSError, OutputError
from floodmap.imagery.scene import Scene
from floodmap.imagery.tile import Tile
from floodmap.models.prompts import Prompts
from floodmap.options import SceneOptions, SegmentOptions
from floodmap.output.finishing import Finishing
from floodmap.output.results import FloodMap, finished_before
from floodmap.pipeline import segment_scene, work_folder
from floodmap.strips.journal import Entry, Journal, has_strips
from floodmap.strips.strip import Strip

SMALL = {"tile_size": 64, "overlap": 8, "prompts": "none"}
EXACT = {**SMALL, "min_area_m2": 0.0, "simplify_m": 0.0}


def run(source: Path, out: Path, segmenter: FakeSegmenter | None = None, **settings: object) -> FloodMap:
    return segment_scene(source, out, segmenter or FakeSegmenter(), SegmentOptions(**{**EXACT, **settings}))


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def digests(out: Path) -> dict[str, str]:
    return {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in out.iterdir()
        if p.suffix in (".tif", ".gpkg", ".qml")
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["north_up", "rotated", "south_up"])
def test_the_rasters_hold_the_models_probability_and_polygons_rasterized_back_equal_the_mask(
    make_scene: SceneFactory, tmp_path: Path, kind: str
) -> None:
    place = {"rotated": {"transform": ROTATED}, "south_up": {"transform": SOUTH_UP}}.get(kind, {})
    scene = make_scene(shape_hw=(150, 200), **place)
    result = run(scene, tmp_path / "out")
    with rasterio.open(scene) as dataset:
        expected = np.floor(dataset.read(3) / np.float32(255) * 100 + 0.5)
        transform, crs = dataset.transform, dataset.crs
    probability, mask = read(result.probability_path), read(result.mask_path)
    assert np.abs(probability - expected).max() <= 1
    np.testing.assert_array_equal(mask, probability >= 50)
    polygons = result.polygons()
    assert polygons.crs == crs and len(polygons) == result.report["polygons"]["flood"] > 1
    back = rasterize(polygons.geometry, out_shape=mask.shape, transform=transform)
    np.testing.assert_array_equal(back, mask)


def test_the_report_says_what_was_done(make_scene: SceneFactory, tmp_path: Path) -> None:
    alpha = np.full((150, 200), 255)
    alpha[:, :70] = 0
    result = run(make_scene(shape_hw=(150, 200), alpha=alpha), tmp_path / "out")
    said = json.loads(result.report_path.read_text())
    mask = read(result.mask_path)
    assert said["pixels"] == {
        "flood": int((mask == 1).sum()), "dry": int((mask == 0).sum()), "unobserved": {"nodata": 150 * 70}, "outside": 0
    }  # fmt: skip
    assert said["flood_area_m2"] == pytest.approx((mask == 1).sum() * 0.25, rel=2e-3)
    assert said["observed_share"] == pytest.approx(130 / 200)
    assert said["windows"]["skipped"] == 3 and said["windows"]["failed"] == []
    assert said["model"] == {"name": "fake", "sha256": "0" * 64, "runs_on": "cpu float32", "seen_in_training": None}
    assert said["polygons"]["unobserved"] == 1
    assert geopandas.read_file(result.layer_paths[0], layer="unobserved")["reason"].tolist() == ["nodata"]


@pytest.mark.slow
@pytest.mark.parametrize("shape_hw", [(1, 1), (5, 300), (65, 64), (130, 257)])
def test_a_constant_model_gives_a_constant_map_to_the_last_pixel(
    make_scene: SceneFactory, tmp_path: Path, shape_hw: tuple[int, int]
) -> None:
    result = run(make_scene(shape_hw=shape_hw), tmp_path / "out", ConstantSegmenter(0.7))
    assert np.unique(read(result.probability_path)).tolist() == [70]
    assert len(result.polygons()) == 1


def test_a_scene_without_crs_is_mapped_in_pixels_without_areas(make_scene: SceneFactory, tmp_path: Path) -> None:
    scene = make_scene(shape_hw=(100, 90), crs=None, transform=None, name="photo.png", driver="PNG")
    result = run(scene, tmp_path / "out")
    assert result.report["flood_area_m2"] is None
    assert result.polygons().crs is None and result.polygons()["area_m2"].isna().all()
    with pytest.raises(MissingCRSError, match="--simplify"):
        run(scene, tmp_path / "other", simplify_m=1.0)
    assert not (tmp_path / "other").exists()


def test_a_window_that_fails_is_unobserved_and_listed_and_the_rest_is_kept(
    make_scene: SceneFactory, tmp_path: Path
) -> None:
    def fail(tile: object) -> None:
        if tile.window.col_off > 100:  # type: ignore[attr-defined]
            raise RuntimeError("no luck")

    result = run(make_scene(shape_hw=(60, 200)), tmp_path / "out", FakeSegmenter(fail))
    failed = result.report["windows"]["failed"]
    assert result.failed_windows == len(failed) > 0 and "no luck" in failed[0]["why"]
    left = min(f["window"]["col_off"] for f in failed)
    mask = read(result.mask_path)
    assert (mask[:, left:] == 255).all() and (mask[:, :left] != 255).all()
    assert geopandas.read_file(result.layer_paths[0], layer="unobserved")["reason"].unique().tolist() == ["failed"]


def test_a_model_that_gives_no_number_leaves_ground_unobserved(make_scene: SceneFactory, tmp_path: Path) -> None:
    class Sometimes(FakeSegmenter):
        def predict(self, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> NDArray[np.float32]:
            return super().predict(tiles, prompts) * np.float32(1 if tiles[0].window.col_off == 0 else np.nan)

    result = run(make_scene(shape_hw=(40, 128)), tmp_path / "out", Sometimes(), overlap=0)
    mask = read(result.mask_path)
    assert (mask[:, 64:] == 255).all() and (mask[:, :64] != 255).all() and result.failed_windows == 1


@pytest.mark.slow
def test_results_are_not_replaced_unless_asked_for(make_scene: SceneFactory, tmp_path: Path) -> None:
    scene = make_scene(shape_hw=(60, 60))
    run(scene, tmp_path / "out")
    before = digests(tmp_path / "out")
    with pytest.raises(OutputError, match="--overwrite"):
        run(scene, tmp_path / "out", ConstantSegmenter(1.0))
    assert digests(tmp_path / "out") == before
    run(scene, tmp_path / "out", ConstantSegmenter(1.0), overwrite=True)
    assert digests(tmp_path / "out") != before


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from fakes import FakeSegmenter
from floodmap.options import SegmentOptions
from floodmap.pipeline import segment_scene
left = int(sys.argv[4])
def before(tile):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
options = SegmentOptions(tile_size=64, overlap=8, prompts="none")
segment_scene(Path(sys.argv[2]), Path(sys.argv[3]), FakeSegmenter(before), options)
"""


# While a window is at work the one before is blended: the first of a row is killed before or after that row is on disk.
@pytest.mark.slow
@pytest.mark.parametrize("windows", [0, 3, 9, 13])
def test_killed_and_resumed_gives_the_same_bytes_and_computes_only_unfinished_rows(
    make_scene: SceneFactory, tmp_path: Path, windows: int
) -> None:
    scene = make_scene(shape_hw=(230, 220))
    whole = FakeSegmenter()
    settings = {"min_area_m2": None, "simplify_m": None}
    run(scene, tmp_path / "whole", whole, **settings)
    columns, rows = len({t.window.col_off for t in whole.tiles}), len({t.window.row_off for t in whole.tiles})
    assert columns * rows == len(whole.tiles) == 16
    killed = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(scene), str(tmp_path / "out"), str(windows)]
    assert subprocess.run(killed, check=False).returncode == -9
    assert not list((tmp_path / "out").glob("*.*g"))
    rest = FakeSegmenter()
    result = run(scene, tmp_path / "out", rest, resume=True, **settings)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    # The windows the model saw last, two batches of one, may not have been written.
    tops = sorted({t.window.row_off for t in whole.tiles})
    unfinished = [tops[max(windows - seen, 0) // columns] for seen in (0, 1, 2)]
    left = [{t.window for t in whole.tiles if t.window.row_end > top} for top in unfinished]
    assert {t.window for t in rest.tiles} in left
    strip = {key: value for key, value in result.report.items() if key != "run"}
    again = json.loads((tmp_path / "whole" / "scene.json").read_text())
    assert {key: value for key, value in again.items() if key != "run"} == json.loads(json.dumps(strip, default=str))
    assert not [p for p in (tmp_path / "out").iterdir() if p.name.startswith(".")]


def test_resuming_finished_work_computes_nothing(make_scene: SceneFactory, tmp_path: Path) -> None:
    scene = make_scene(shape_hw=(60, 60))
    run(scene, tmp_path / "out")
    again = FakeSegmenter()
    result = run(scene, tmp_path / "out", again, resume=True)
    assert again.tiles == [] and result.report["windows"]["run"] == 1


@pytest.mark.parametrize("newer", ["gpkg", "geojson"])
def test_polygons_of_an_earlier_run_are_not_those_of_a_resumed_run(
    make_scene: SceneFactory, tmp_path: Path, newer: str
) -> None:
    scene, out = make_scene(shape_hw=(8, 8)), tmp_path / "out"
    run(scene, out, formats=(newer, "shp"))
    run(scene, out, formats=(newer,), threshold=0.9, overwrite=True)
    with pytest.raises(OutputError, match=r"left from another run: scene_flood\.shp, scene_unobserved\.shp"):
        run(scene, out, formats=("shp",), threshold=0.9, resume=True)
    again = FakeSegmenter()
    run(scene, out, again, formats=("shp",), threshold=0.9, resume=True, overwrite=True)
    assert again.tiles


@pytest.mark.slow
@pytest.mark.parametrize("other", ["picture", "model"])
def test_work_on_another_picture_or_by_another_model_is_not_resumed(
    make_scene: SceneFactory, tmp_path: Path, other: str
) -> None:
    def interrupt(tile: Tile) -> None:
        if tile.window.row_off > 60:
            raise KeyboardInterrupt

    scene = make_scene(shape_hw=(200, 60))
    run(scene, tmp_path / "finished")
    with pytest.raises(KeyboardInterrupt):
        run(scene, tmp_path / "unfinished", FakeSegmenter(interrupt))
    model, dates = FakeSegmenter(), (scene.stat().st_atime_ns, scene.stat().st_mtime_ns)
    if other == "model":
        model.sha256 = "1" * 64
    else:
        with rasterio.open(scene, "r+") as dataset:
            dataset.write(dataset.read(1) ^ (np.indices((200, 60)).sum(axis=0) == 111), 1)
        os.utime(scene, ns=dates)
    before = digests(tmp_path / "finished")
    for out in ("finished", "unfinished"):
        with pytest.raises(OutputError, match=r"model|changed"):
            run(scene, tmp_path / out, model, resume=True)
    assert not model.tiles and digests(tmp_path / "finished") == before
    assert has_strips(work_folder(tmp_path / "unfinished", "scene"))


@pytest.mark.slow
def test_every_setting_and_version_counts_where_a_run_is_resumed(make_scene: SceneFactory, tmp_path: Path) -> None:
    def leaves(part: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        for key, value in part.items():
            yield from leaves(value, (*above, key)) if isinstance(value, dict) and value else [(*above, key)]

    scene = make_scene(shape_hw=(60, 60))
    result = run(scene, tmp_path / "out")
    stored = json.loads(result.report_path.read_text())
    settings = {part: stored[part] for part in ("source", "model", "settings", "versions")}
    with Journal(tmp_path / "work", settings, resume=False) as journal:
        journal.append(0, Entry(Strip.of(0, np.zeros((4, 8), np.uint8)), {}))
    # What is done with near infrared follows from bands, prompts and the model.
    found = [path for path in leaves(settings) if "near_infrared" not in path]
    assert len(found) > 30 and ("source", "fingerprint") in found and ("model", "sha256") in found
    for *above, key in found:
        changed = copy.deepcopy(settings)
        part = changed
        for name in above:
            part = part[name]
        part[key] = "something else"
        assert finished_before(tmp_path / "out", "scene", ("gpkg",), changed) is None, key
        with pytest.raises(OutputError):
            Journal(tmp_path / "work", changed, resume=True)
    assert finished_before(tmp_path / "out", "scene", ("gpkg",), settings) is not None


@pytest.mark.slow
def test_no_report_vouches_for_results_that_are_being_replaced(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, out = make_scene(shape_hw=(60, 60)), tmp_path / "out"
    run(scene, out)
    made, seen = Finishing.run, []

    def watched(self: Finishing, *args: Any, **kwargs: Any) -> FloodMap:
        if self.out == out:
            seen.append((out / "scene.json").exists())
        return made(self, *args, **kwargs)

    monkeypatch.setattr(Finishing, "run", watched)
    run(scene, out, overwrite=True)
    assert seen == [False] and (out / "scene.json").exists()


@pytest.mark.slow
def test_the_batch_size_changes_nothing(make_scene: SceneFactory, tmp_path: Path) -> None:
    scene = make_scene(shape_hw=(150, 200))
    run(scene, tmp_path / "one")
    run(scene, tmp_path / "three", batch_size=3)
    assert {k: v for k, v in digests(tmp_path / "one").items() if k.endswith(".tif")} == {
        k: v for k, v in digests(tmp_path / "three").items() if k.endswith(".tif")
    }


def test_the_sources_folder_is_left_as_it_was(make_scene: SceneFactory, tmp_path: Path) -> None:
    scene = make_scene(shape_hw=(60, 60), folder=tmp_path / "source", mask=np.ones((60, 60), bool))
    before = {p: p.stat().st_mtime_ns for p in scene.parent.iterdir()}
    run(scene, tmp_path / "out")
    assert {p: p.stat().st_mtime_ns for p in scene.parent.iterdir()} == before


def test_ground_outside_the_area_of_interest_is_in_no_layer(make_scene: SceneFactory, tmp_path: Path) -> None:
    scene = make_scene(shape_hw=(100, 100))
    aoi = tmp_path / "aoi.geojson"
    with rasterio.open(scene) as dataset:
        left, bottom, _, top = dataset.bounds
    from shapely.geometry import box

    geopandas.GeoSeries([box(left, bottom, left + 25, top)], crs="EPSG:32633").to_file(aoi)
    result = run(scene, tmp_path / "out", ConstantSegmenter(1.0), scene=SceneOptions(aoi=aoi))
    mask = read(result.mask_path)
    assert (mask[:, :50] == 1).all() and (mask[:, 51:] == 255).all()
    assert result.report["observed_share"] == 1.0
    assert len(geopandas.read_file(result.layer_paths[0], layer="unobserved")) == 0


@pytest.mark.parametrize("threshold", [0.504, 0.505, 0.506, 0.5, 0.51, 0.29, 0.145, 0.01])
def test_codes_from_the_threshold_up_and_no_others_are_flood(threshold: float) -> None:
    codes = np.arange(101)
    flood = codes >= SegmentOptions(threshold=threshold).threshold_percent
    assert (flood == (codes / 100 >= threshold)).all()


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(FloodmapError, match="threshold"):
        SegmentOptions(threshold=0.0)
    with pytest.raises(FloodmapError, match="batch size"):
        SegmentOptions(batch_size=0)


@pytest.mark.slow
@pytest.mark.parametrize("any_size", [True, False])
def test_only_ground_that_the_coarse_pass_is_uncertain_of_is_run(
    make_scene: SceneFactory, tmp_path: Path, any_size: bool
) -> None:
    pixels = np.full((3, 1024, 2048), 100, np.uint8)
    pixels[2] = 2
    pixels[2, 500:600, 300:420] = 140
    scene, segmenter = make_scene(pixels=pixels), FakeSegmenter()
    segmenter.any_size = any_size
    settings = {"prompts": "auto", "tile_size": 1024, "overlap": 24}
    some = run(scene, tmp_path / "out", segmenter, **settings)
    seen = [tile.window for tile in segmenter.tiles[2:]]  # after the coarse pass, which looks twice
    if any_size:
        assert [(one.height, one.width) for one in seen] == [(320, 320)]
        assert some.report["pixels_processed"] == 320 * 320 and some.report["windows"]["skipped_by_coarse"] == 2
    else:
        assert len(seen) == 3 and some.report["windows"]["skipped_by_coarse"] == 0
    every = run(scene, tmp_path / "every", **settings, exhaustive=True)
    np.testing.assert_array_equal(read(some.mask_path), read(every.mask_path))
    np.testing.assert_allclose(read(some.probability_path), read(every.probability_path), atol=1)


@pytest.mark.slow
@pytest.mark.parametrize(("blue", "spared"), [(2, 6), (254, 6), (100, 0)])
def test_windows_that_the_coarse_pass_is_certain_of_are_not_run(
    make_scene: SceneFactory, tmp_path: Path, blue: int, spared: int
) -> None:
    pixels = np.full((3, 256, 1024), 100, np.uint8)
    pixels[2, :, :500] = blue
    scene, settings = make_scene(pixels=pixels), {"tile_size": 128, "overlap": 0, "prompts": "auto"}
    windows = run(scene, tmp_path / "out", **settings).report["windows"]
    assert windows["skipped_by_coarse"] == spared and windows["run"] == 16 - spared
    every = run(scene, tmp_path / "every", **settings, exhaustive=True)
    assert every.report["windows"]["skipped_by_coarse"] == 0 and every.report["windows"]["run"] == 16
    np.testing.assert_allclose(read(tmp_path / "out" / "scene_probability.tif"), read(every.probability_path), atol=1)


SPECK, SEAM = np.s_[:, 300, 700], np.s_[:, :, :3]
"""Unobserved parts smaller than a pixel of the coarse pass: one pixel, and a thin border."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("odd", "black", "options", "fewest", "most"),
    [
        ({}, None, {}, 0, 0),
        ({"nodata": 0}, None, {}, 0, 0),
        ({"nodata": 0}, SPECK, {}, 1, 4),
        ({"alpha": np.full((1024, 2048), 255)}, None, {}, 32, 32),
        ({"mask": np.ones((1024, 2048), bool)}, None, {}, 32, 32),
        ({"overviews": (2, 4)}, None, {}, 32, 32),
        ({}, SEAM, {}, 4, 31),
        ({}, None, {"aoi": True}, 32, 32),
        ({}, None, {"mask": True}, 32, 32),
        ({}, None, {"resolution_m": 0.7}, 1, 32),
    ],
)
def test_certain_windows_are_not_read_where_all_is_known_to_be_observed(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: dict[str, object], black: object,
    options: dict[str, object], fewest: int, most: int,
) -> None:  # fmt: skip
    pixels = np.full((3, 1024, 2048), 100, np.uint8)
    pixels[2] = 2
    if black is not None:
        pixels[black] = 0
    scene, reads = make_scene(pixels=pixels, **odd), []
    area = make_scene(name="area.tif", pixels=np.ones((1, 1024, 2048), np.uint8))
    options = {key: area if value is True else value for key, value in options.items()}
    own = Scene.read
    monkeypatch.setattr(Scene, "read", lambda self, window: reads.append(window) or own(self, window))
    settings = {"prompts": "auto", "tile_size": 256, "overlap": 0, "scene": SceneOptions(**options)}
    some = run(scene, tmp_path / "out", **settings)
    assert fewest <= len(reads) <= most
    monkeypatch.setattr("floodmap.inference.prompting.CoarsePrompter.is_observed", lambda *_: False)
    every = run(scene, tmp_path / "every", **settings)
    assert digests(tmp_path / "out") == digests(tmp_path / "every")
    assert some.report["windows"] == every.report["windows"] and some.report["pixels"] == every.report["pixels"]
    if black is not None:
        assert (read(some.mask_path)[black[1:]] == 255).all()
