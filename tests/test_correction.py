"""Corrections of a finished result by points."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import geopandas
import numpy as np
import pytest
import rasterio
from conftest import NORTH_UP, UTM, SceneFactory
from fakes import FakeSegmenter
from geopandas.testing import assert_geodataframe_equal
from numpy.typing import NDArray
from shapely import Point, box

from floodmap.analysis.review.run import apply_review, review
from floodmap.correction.features import Features
from floodmap.errors import FloodmapError, ModelError, OutputError, PromptError
from floodmap.imagery.tile import Tile
from floodmap.models.prompts import Prompts
from floodmap.options import SegmentOptions
from floodmap.output.pages.settings import origin_table
from floodmap.output.polygons import polygonize
from floodmap.output.results import FloodMap
from floodmap.pipeline import segment_scene
from floodmap_cli.main import run
from floodmap_cli.watching import State, changes_of, state_of

SIDE = 64
OPTIONS = SegmentOptions(tile_size=SIDE, overlap=8, keep_features=True)
AGAIN = replace(OPTIONS, keep_features=False, resume=True)


class PointSegmenter(FakeSegmenter):
    """Predicts flood by the blue band, and the label of a point within 20 pixels of the point."""

    def predict(self, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> NDArray[np.float32]:
        found = super().predict(tiles, prompts).copy()
        for probability, one in zip(found, prompts, strict=True):
            rows, cols = np.indices(probability.shape)
            for (x, y), label in zip(one.points_xy, one.labels, strict=True):
                probability[(rows - y) ** 2 + (cols - x) ** 2 < 20**2] = label
        return found


def clicks(folder: Path, *places: tuple[float, float, int], name: str = "clicks.gpkg") -> Path:
    """A file with points: column, row and label."""
    where = [Point(NORTH_UP * (x, y)) for x, y, _ in places]
    frame = geopandas.GeoDataFrame({"label": [label for *_, label in places]}, geometry=where, crs=UTM)
    frame.to_file(folder / name, driver="GPKG", geometry_type="Point")
    return folder / name


def digests(out: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir() if path.is_file()}


def codes(result: FloodMap) -> NDArray[np.int64]:
    with rasterio.open(result.probability_path) as dataset:
        return dataset.read(1).astype(int)


@pytest.fixture
def scene(make_scene: SceneFactory) -> Path:
    return make_scene(shape_hw=(180, 260), nodata=0, name="scene.tif")


@pytest.fixture
def first(scene: Path, tmp_path: Path) -> FloodMap:
    return segment_scene(scene, tmp_path / "out", PointSegmenter(), OPTIONS)


def corrected(scene: Path, path: Path, model: FakeSegmenter | None = None) -> FloodMap:
    return segment_scene(scene, scene.parent / "out", model or PointSegmenter(), replace(AGAIN, prompts=path))


def test_a_correction_is_the_run_with_these_points_to_one_per_cent(
    scene: Path, first: FloodMap, tmp_path: Path
) -> None:
    before = codes(first)
    path = clicks(tmp_path, (60, 58, 1), (150, 100, 0), (5, 170, 1))
    result = corrected(scene, path)
    whole = segment_scene(scene, tmp_path / "whole", PointSegmenter(), replace(OPTIONS, prompts=path, overwrite=True))
    found, expected = codes(result), codes(whole)
    assert np.abs(found - expected).max() <= 1 and (found != before).sum() > 500
    assert ((found == 255) == (before == 255)).all()
    assert (
        result.report["pixels"]["flood"]
        == int((result.mask() == 1).sum())
        == len(np.argwhere(found[found <= 100] >= 50))
    )
    assert result.report["correction"]["points"] == {"flood": 2, "dry": 1}
    changed = int((found != before).sum())
    assert result.report["correction"]["pixels_changed"] == changed
    assert dict(origin_table(result.report))["Corrected by points"] == (
        f"2 on flood, 1 on dry ground; {changed:,} pixels changed"
    )


def test_nothing_changes_outside_of_the_windows_of_the_points(scene: Path, first: FloodMap, tmp_path: Path) -> None:
    before = codes(first)
    found = codes(corrected(scene, clicks(tmp_path, (100.5, 90.5, 1))))
    rows, cols = np.nonzero(found != before)
    assert len(rows) and np.abs(rows - 90).max() < SIDE and np.abs(cols - 100).max() < SIDE


@pytest.mark.parametrize("how", ["no prompts", "empty file"])
def test_without_points_all_bytes_are_as_before(scene: Path, first: FloodMap, tmp_path: Path, how: str) -> None:
    old = digests(tmp_path / "out")
    path = clicks(tmp_path, (100, 90, 1))
    corrected(scene, path)
    assert digests(tmp_path / "out") != old
    path.unlink()
    if how == "empty file":
        corrected(scene, clicks(tmp_path))
    else:
        segment_scene(scene, tmp_path / "out", PointSegmenter(), AGAIN)
    assert digests(tmp_path / "out") == old


def test_a_point_taken_out_gives_the_bytes_with_the_others(scene: Path, first: FloodMap, tmp_path: Path) -> None:
    one = {**digests(tmp_path / "out")}
    corrected(scene, clicks(tmp_path, (100, 90, 1)))
    one = digests(tmp_path / "out")
    (tmp_path / "clicks.gpkg").unlink()
    corrected(scene, clicks(tmp_path, (100, 90, 1), (200, 30, 0)))
    assert digests(tmp_path / "out") != one
    (tmp_path / "clicks.gpkg").unlink()
    corrected(scene, clicks(tmp_path, (100, 90, 1)))
    again = digests(tmp_path / "out")
    assert {**again, "scene.json": ""} == {**one, "scene.json": ""}


def test_only_windows_with_new_points_are_predicted(scene: Path, first: FloodMap, tmp_path: Path) -> None:
    corrected(scene, clicks(tmp_path, (100.5, 90.5, 1)))
    (tmp_path / "clicks.gpkg").unlink()
    model = PointSegmenter()
    corrected(scene, clicks(tmp_path, (100.5, 90.5, 1), (30.5, 30.5, 0)), model)
    assert {(tile.window.row_off, tile.window.col_off) for tile in model.tiles} == {(0, 0)}
    assert len(model.tiles) == 2  # without and with the point


def test_points_in_the_first_run_can_be_taken_out_too(scene: Path, tmp_path: Path) -> None:
    path = clicks(tmp_path, (100, 90, 1))
    result = segment_scene(scene, tmp_path / "out", PointSegmenter(), replace(OPTIONS, prompts=path))
    assert "correction" in result.report
    back = segment_scene(scene, tmp_path / "out", PointSegmenter(), AGAIN)
    plain = segment_scene(scene, tmp_path / "plain", PointSegmenter(), replace(OPTIONS, keep_features=False))
    assert "correction" not in back.report and (codes(back) == codes(plain)).all()


def without_run(report: Path) -> dict[str, object]:
    return {key: value for key, value in json.loads(report.read_text()).items() if key != "run"}


@pytest.mark.parametrize("spliced", [True, False])
def test_quick_writing_gives_the_result_of_writing_all(
    make_scene: SceneFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spliced: bool,
) -> None:
    rows, cols = np.indices((1100, 1300))
    waves = 120 + 60 * np.sin(rows / 60) * np.cos(cols / 70 + 1) + np.random.default_rng(0).normal(0, 2, rows.shape)
    pixels = np.stack([waves.astype(np.uint8)] * 3)
    pixels[:, 200:260, 1100:] = 0  # the rightmost corner of all polygons stays where it is
    scene = make_scene(pixels=pixels, nodata=0, name="scene.tif")
    options = replace(OPTIONS, tile_size=256, formats=("gpkg", "shp"))
    first = segment_scene(scene, tmp_path / "out", PointSegmenter(), options)
    shutil.copytree(tmp_path / "out", tmp_path / "whole")
    if not spliced:
        shutil.rmtree(tmp_path / "out" / "scene_features" / "outlines")
    path = clicks(tmp_path, (600.5, 590.5, 1), (620.5, 610.5, 0), (1290.5, 8.5, 1), (300.5, 1050.5, 0))
    again = replace(options, resume=True, prompts=path)
    traced = Mock(side_effect=polygonize)
    monkeypatch.setattr("floodmap.correction.quick.polygonize", traced)
    quick = segment_scene(scene, tmp_path / "out", PointSegmenter(), again)
    assert traced.called is not spliced
    monkeypatch.setattr("floodmap.correction.run.can_be_quick", lambda _: False)
    whole = segment_scene(scene, tmp_path / "whole", PointSegmenter(), again)
    found, expected = digests(tmp_path / "out"), digests(tmp_path / "whole")
    with_areas = {"scene.json", *(("scene.gpkg", "scene_flood.dbf", "scene_unobserved.dbf") if spliced else ())}
    assert {name: found[name] for name in found if name not in with_areas} == {
        name: expected[name] for name in expected if name not in with_areas
    }
    for layer in ("flood", "unobserved"):
        tables = [geopandas.read_file(tmp_path / out / "scene.gpkg", layer=layer) for out in ("out", "whole")]
        assert_geodataframe_equal(*tables)
        np.testing.assert_allclose(*(table["area_m2"] for table in tables), rtol=1e-9)
    assert without_run(quick.report_path) == without_run(whole.report_path)
    assert quick.report["pixels"] != first.report["pixels"]


def test_an_interrupted_correction_goes_on(
    scene: Path, first: FloodMap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = clicks(tmp_path, (100, 90, 1))
    with monkeypatch.context() as patch:
        patch.setattr("floodmap.output.finishing.write_report", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            corrected(scene, path)
    assert not first.report_path.exists()
    whole = segment_scene(scene, tmp_path / "whole", PointSegmenter(), replace(OPTIONS, prompts=path))
    assert (codes(corrected(scene, path)) == codes(whole)).all()


def test_a_failing_model_changes_nothing(scene: Path, first: FloodMap, tmp_path: Path) -> None:
    old = digests(tmp_path / "out")

    def fail(tile: Tile) -> None:
        raise RuntimeError("no memory")

    with pytest.raises(ModelError, match="no memory; nothing was changed"):
        corrected(scene, clicks(tmp_path, (100, 90, 1)), PointSegmenter(fail))
    assert digests(tmp_path / "out") == old


def test_other_settings_are_refused_unless_all_is_segmented_again(scene: Path, first: FloodMap, tmp_path: Path) -> None:
    options = replace(AGAIN, prompts=clicks(tmp_path, (100, 90, 1)), threshold=0.7)
    with pytest.raises(OutputError, match=r"--threshold was 0\.5, is now 0\.7.*--overwrite"):
        segment_scene(scene, tmp_path / "out", PointSegmenter(), options)
    segment_scene(scene, tmp_path / "out", PointSegmenter(), replace(options, overwrite=True))
    assert Features.of(tmp_path / "out", "scene") is None


def test_boxes_are_refused(scene: Path, first: FloodMap, tmp_path: Path) -> None:
    path = tmp_path / "boxes.gpkg"
    corners = [NORTH_UP * (20, 20), NORTH_UP * (60, 60)]
    square = box(corners[0][0], corners[1][1], corners[1][0], corners[0][1])
    geopandas.GeoDataFrame({"label": [1]}, geometry=[square], crs=UTM).to_file(path)
    with pytest.raises(PromptError, match="has polygons, and a box changes the whole scene"):
        corrected(scene, path)


def test_a_reviewed_result_is_not_corrected(scene: Path, first: FloodMap, tmp_path: Path) -> None:
    review(first)
    apply_review(first)
    with pytest.raises(OutputError, match=r"is a reviewed result.*--undo"):
        corrected(scene, clicks(tmp_path, (100, 90, 1)))


def test_results_without_features_say_so(scene: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    segment_scene(scene, tmp_path / "out", PointSegmenter(), replace(OPTIONS, keep_features=False))
    with pytest.raises(OutputError, match="--prompts was auto"):
        corrected(scene, clicks(tmp_path, (100, 90, 1)))
    segment_scene(scene, tmp_path / "out", PointSegmenter(), replace(OPTIONS, resume=True))
    assert "have no features" in caplog.text


def test_features_need_automatic_prompts() -> None:
    with pytest.raises(FloodmapError, match="--keep-features needs --prompts auto"):
        SegmentOptions(prompts="none", keep_features=True)


def test_a_new_run_without_features_deletes_the_old_ones(scene: Path, first: FloodMap, tmp_path: Path) -> None:
    assert (tmp_path / "out" / "scene_features").is_dir()
    segment_scene(scene, tmp_path / "out", PointSegmenter(), replace(OPTIONS, keep_features=False, overwrite=True))
    assert not (tmp_path / "out" / "scene_features").exists()


def test_permanent_water_is_kept_apart(scene: Path, make_scene: SceneFactory, tmp_path: Path) -> None:
    lake = np.zeros((1, 180, 260), np.uint8)
    lake[:, 60:120, 60:140] = 1
    options = replace(OPTIONS, permanent_water=make_scene(pixels=lake, name="lake.tif"))
    segment_scene(scene, tmp_path / "out", PointSegmenter(), options)
    path = clicks(tmp_path, (100.5, 90.5, 1))
    result = segment_scene(
        scene, tmp_path / "out", PointSegmenter(), replace(options, keep_features=False, resume=True, prompts=path)
    )
    assert result.mask()[90, 100] == 2
    assert result.report["pixels"]["permanent_water"] == int((result.mask() == 2).sum())


def test_the_coarse_map_is_kept(make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = make_scene(shape_hw=(1700, 1600), name="scene.tif")
    options = replace(OPTIONS, tile_size=512, overlap=24)
    segment_scene(scene, tmp_path / "out", PointSegmenter(), options)
    path = clicks(tmp_path, (800.5, 790.5, 1))
    monkeypatch.setattr(
        "floodmap.correction.changes.make_prompter", lambda *_, **__: pytest.fail("the coarse pass ran again")
    )
    result = segment_scene(scene, tmp_path / "out", PointSegmenter(), replace(options, resume=True, prompts=path))
    monkeypatch.undo()
    whole = segment_scene(
        scene, tmp_path / "whole", PointSegmenter(), replace(options, keep_features=False, prompts=path)
    )
    assert np.abs(codes(result) - codes(whole)).max() <= 1


def test_the_command_corrects_and_goes_back(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["segment", str(scene), "-o", str(tmp_path / "out"), "--min-area", "0"]
    assert run([*base, "--keep-features", "-q"]) == 0
    path = clicks(tmp_path, (100, 90, 1))
    assert run([*base, "--resume", "--prompts", str(path), "--json"]) == 0
    [report] = json.loads(capsys.readouterr().out)
    assert report["correction"]["points"] == {"flood": 1, "dry": 0}
    assert run([*base, "--resume", "-q"]) == 0
    assert "correction" not in json.loads((tmp_path / "out" / "scene.json").read_text())


def test_a_watched_file_corrects_the_result_when_it_is_saved(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out, seen = clicks(tmp_path, (100, 90, 1)), tmp_path / "out", []

    def saves(file: Path, *_: object) -> Iterator[None]:
        for places in ([(100, 90, 1), (30, 30, 0)], []):
            seen.append(json.loads((out / "scene.json").read_text()).get("correction", {}).get("points"))
            file.unlink()
            clicks(tmp_path, *places)
            yield
        (tmp_path / "clicks.gpkg").unlink()
        geopandas.GeoDataFrame({"other": [1]}, geometry=[Point(NORTH_UP * (9, 9))], crs=UTM).to_file(file)
        yield  # a point without a label is a message, not the end

    monkeypatch.setattr("floodmap_cli.watching.changes_of", saves)
    assert run(["segment", str(scene), "-o", str(out), "--prompts", str(path), "--watch", "--min-area", "0"]) == 0
    assert seen == [{"flood": 1, "dry": 0}, {"flood": 1, "dry": 1}]
    assert "correction" not in json.loads((out / "scene.json").read_text())


def test_a_program_is_told_when_a_correction_begins_and_ends_and_that_it_failed(
    scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = clicks(tmp_path, (100, 90, 1)), tmp_path / "out"

    def saves(file: Path, seen: State, on_wait: Callable[[], None]) -> Iterator[None]:
        assert seen == state_of(file)
        on_wait()
        clicks(tmp_path, (100, 90, 1), (30, 30, 0))
        yield
        assert json.loads((out / "scene.json").read_text())["correction"]["points"] == {"flood": 1, "dry": 1}
        file.write_bytes(b"no points")
        yield

    monkeypatch.setattr("floodmap_cli.watching.changes_of", saves)
    options = ["--prompts", str(path), "--watch", "--min-area", "0", "--progress", "json"]
    assert run(["segment", str(scene), "-o", str(out), *options]) == 0
    found = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    assert [(one["event"], one.get("exit_code")) for one in found if one["event"] not in ("progress", "message")] == [
        ("watching", 0), ("watching", 0), ("correcting", None), ("watching", 0), ("correcting", None),
        ("watching", 1), ("done", 0),
    ]  # fmt: skip
    [why] = [one["text"] for one in found if one["event"] == "message" and one["level"] == "error"]
    assert "clicks.gpkg" in why
    assert found.index({"event": "watching", "exit_code": 1}) > [one.get("text") for one in found].index(why)


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> dict[int, Callable[[], object]]:
    """What happens during the sleeps of `changes_of`, by their numbers; the last one is an interrupt."""
    events: dict[int, Callable[[], object]] = {}
    number = 0

    def sleep(_: float) -> None:
        nonlocal number
        number += 1
        events.get(number, lambda: None)()
        if number >= max(events, default=0) + 20:
            raise KeyboardInterrupt

    monkeypatch.setattr("floodmap_cli.watching.time.sleep", sleep)
    return events


def test_changes_of_a_file_are_seen_once_each(tmp_path: Path, sleeps: dict[int, Callable[[], object]]) -> None:
    path = tmp_path / "clicks.gpkg"
    path.write_bytes(b"1")
    sleeps[3] = lambda: Path(f"{path}-wal").write_bytes(b"22")  # QGIS saves here first
    changes = changes_of(path)
    next(changes)
    assert Path(f"{path}-wal").exists()
    with pytest.raises(KeyboardInterrupt):
        next(changes)


def test_a_change_since_the_file_was_read_is_seen(tmp_path: Path, sleeps: dict[int, Callable[[], object]]) -> None:
    path = tmp_path / "clicks.gpkg"
    path.write_bytes(b"1")
    seen = state_of(path)
    path.write_bytes(b"22")
    next(changes_of(path, seen))
    with pytest.raises(KeyboardInterrupt):
        next(changes_of(path))


def test_who_waits_is_told_so_again_and_again(
    tmp_path: Path, sleeps: dict[int, Callable[[], object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("floodmap_cli.watching.LOOKS", 5)
    path, waits = tmp_path / "clicks.gpkg", Mock()
    path.write_bytes(b"1")
    with pytest.raises(KeyboardInterrupt):
        next(changes_of(path, on_wait=waits))
    assert waits.call_count == 3


def test_watching_needs_a_file_of_points(scene: Path, tmp_path: Path) -> None:
    assert run(["segment", str(scene), "-o", str(tmp_path / "out"), "--watch"]) == 2
