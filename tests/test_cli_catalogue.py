"""`floodmap segment --catalogue`, and `floodmap.segment_many`."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import geopandas
import pytest
from conftest import SceneFactory
from fakes import FakeSegmenter

import floodmap
from floodmap.errors import ModelError
from floodmap.imagery.tile import Tile
from floodmap.options import SceneOptions, SegmentOptions, SegmentSettings
from floodmap_cli.main import run


@pytest.fixture(autouse=True)
def fake_model(monkeypatch: pytest.MonkeyPatch) -> FakeSegmenter:
    """Commands get a fake model without weights."""
    fake = FakeSegmenter()
    monkeypatch.setattr("floodmap_cli.loading.load", lambda model, device: fake)
    return fake


@pytest.fixture
def folder(make_scene: SceneFactory, tmp_path: Path) -> Path:
    """Folder with two scenes."""
    for name in ("a.tif", "b.tif"):
        make_scene(name=name, folder=tmp_path / "scenes")
    return tmp_path / "scenes"


def segment(*args: object) -> int:
    return run(["segment", *map(str, args), "--prompts", "none"])


def test_a_catalogue_of_a_folder_says_where_it_is(folder: Path, tmp_path: Path, capsys) -> None:
    path = tmp_path / "all.gpkg"
    assert segment(folder, "-o", tmp_path / "out", "--catalogue", path) == 0
    said = capsys.readouterr()
    assert [line.partition(":")[0] for line in said.out.splitlines()[:2]] == ["a", "b"] and said.err == ""
    assert said.out.splitlines()[2] == "2 of 2 scenes are done" and said.out.endswith(f"The catalogue is {path}\n")
    assert list(geopandas.read_file(path, layer="scenes").status) == ["done", "done"]


def test_a_catalogue_that_is_complete_but_for_failed_scenes_is_exit_code_3(
    folder: Path, tmp_path: Path, capsys
) -> None:
    (folder / "bad.tif").write_bytes(b"no raster")
    arguments = (folder, "-o", tmp_path / "out")
    assert segment(*arguments, "--catalogue", tmp_path / "all.gpkg", "--json") == 3
    said = capsys.readouterr()
    assert [report["name"] for report in json.loads(said.out)] == ["a", "b"]
    assert "2 of 3 scenes are done\n  bad failed: " in said.err
    assert segment(*arguments, "--resume", "-q") == 1  # as before without a catalogue
    assert segment(*arguments, "--resume", "--catalogue", tmp_path / "all.gpkg", "-q") == 3
    assert segment(folder / "bad.tif", "-o", tmp_path / "out", "--catalogue", tmp_path / "bad.gpkg", "-q") == 1
    assert list(geopandas.read_file(tmp_path / "bad.gpkg", layer="scenes").status) == ["failed"]


def test_failed_windows_are_in_the_rows_and_exit_code_3(
    make_scene: SceneFactory, tmp_path: Path, fake_model: FakeSegmenter, capsys
) -> None:
    def fail(tile: Tile) -> None:
        if tile.window.col_off:
            raise RuntimeError("no luck")

    fake_model.before = fail
    path, scene = tmp_path / "all.gpkg", make_scene(shape_hw=(64, 120))
    assert segment(scene, "-o", tmp_path / "out", "--tile-size", 64, "--catalogue", path) == 3
    assert "  scene: 2 windows failed: no luck" in capsys.readouterr().err
    row = geopandas.read_file(path, layer="scenes").iloc[0]
    assert (row.status, row.failed_windows) == ("failed windows", 2) and "no luck" in row.error
    assert "failed" in set(geopandas.read_file(path, layer="unobserved").reason)


def test_a_catalogue_that_exists_is_refused_before_the_model_is_loaded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def load(model: str, device: str) -> None:
        raise AssertionError("the model was loaded")

    (tmp_path / "all.gpkg").write_text("mine")
    monkeypatch.setattr("floodmap_cli.loading.load", load)
    assert segment(folder, "-o", tmp_path / "out", "--catalogue", tmp_path / "all.gpkg") == 1
    assert "all.gpkg exists already" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_an_interrupted_run_says_how_to_continue(
    folder: Path, tmp_path: Path, fake_model: FakeSegmenter, capsys
) -> None:
    def interrupt(_: Tile) -> None:
        raise KeyboardInterrupt

    fake_model.before = interrupt
    assert segment(folder, "-o", tmp_path / "out", "--catalogue", tmp_path / "all.gpkg") == 130
    assert "--resume" in capsys.readouterr().err and not (tmp_path / "all.gpkg").exists()
    assert not (tmp_path / ".all.gpkg.catalogue").exists()


def test_segment_many_is_the_command_in_python(folder: Path, tmp_path: Path) -> None:
    seen: list[floodmap.ScenesProgress] = []
    (folder / "bad.tif").write_bytes(b"no raster")
    given = {"model": FakeSegmenter(), "prompts": "none", "progress": seen.append, "min_area_m2": 0.0}
    catalogue = floodmap.segment_many(folder, out=tmp_path / "out", catalogue=tmp_path / "all.gpkg", **given)
    assert [(row.name, row.status) for row in catalogue.scenes] == [("a", "done"), ("b", "done"), ("bad", "failed")]
    assert catalogue.paths == (tmp_path / "all.gpkg",) and seen[-1] == floodmap.ScenesProgress(3, 1, 3)
    again = floodmap.segment_many(
        [folder / "a.tif", str(folder / "b*.tif")], out=tmp_path / "out", resume=True, formats=("gpkg",), **given
    )
    assert [row.name for row in again.scenes] == ["a", "b", "bad"] and again.paths == ()
    with pytest.raises(TypeError, match="tile_sizes"):
        floodmap.segment_many(folder, out=tmp_path / "out", tile_sizes=4)
    with pytest.raises(ModelError, match="workers load it themselves"):
        floodmap.segment_many(folder, out=tmp_path / "new", model=FakeSegmenter(), workers=2)


def test_segment_many_takes_all_options_of_a_scene() -> None:
    names = {one.name for options in (SceneOptions, SegmentOptions) for one in fields(options)}
    assert set(SegmentSettings.__annotations__) == names - {"scene", "batch_size"}
