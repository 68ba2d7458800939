from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import SceneFactory
from fakes import FakeSegmenter

import floodmap
from floodmap.errors import OutputError
from floodmap.imagery.scene import Scene
from floodmap.imagery.tile import Tile
from floodmap.strips.journal import Journal
from floodmap_cli.main import run


@pytest.fixture(autouse=True)
def fake_model(monkeypatch: pytest.MonkeyPatch) -> FakeSegmenter:
    """Commands get a fake model without weights."""
    fake = FakeSegmenter()
    monkeypatch.setattr("floodmap_cli.loading.load", lambda model, device: fake)
    return fake


def segment(*args: object) -> int:
    return run(["segment", *map(str, args), "--prompts", "none"])


def test_one_scene_gives_all_the_files_and_one_line(make_scene: SceneFactory, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert segment(make_scene(), "-o", out) == 0
    stems = ["scene_mask.tif", "scene_mask.qml", "scene_probability.tif", "scene_probability.qml"]
    assert {path.name for path in out.iterdir()} == {*stems, "scene.gpkg", "scene.json"}
    said = capsys.readouterr()
    first, last = said.out.splitlines()
    assert "ha of flood" in first and last == f"Results are in {out}{os.sep}" and said.err == ""


def test_the_command_of_the_readme_works_as_written(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    make_scene(folder=tmp_path / "empty")
    monkeypatch.chdir(tmp_path / "empty")
    assert run(["segment", "scene.tif", "--model", "finetuned"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Results are in floodmap_output{os.sep}"
    assert Path("floodmap_output", "scene.gpkg").exists() and len(list(Path().iterdir())) == 2
    default = inspect.signature(floodmap.segment).parameters["out"].default
    assert default == "floodmap_output"


def test_where_nothing_was_written_no_folder_is_named(tmp_path: Path, capsys) -> None:
    assert segment(tmp_path / "missing.tif", "-o", tmp_path / "out") == 1
    assert capsys.readouterr().out == ""


def test_flips_are_recorded_in_the_report(make_scene: SceneFactory, tmp_path: Path) -> None:
    assert segment(make_scene(name="a.tif"), "-o", tmp_path / "out", "--flips") == 0
    assert json.loads((tmp_path / "out" / "a.json").read_text())["model"]["runs_on"].endswith(", flips")


@pytest.mark.slow
def test_json_goes_to_standard_output_alone(make_scene: SceneFactory, tmp_path: Path, capsys) -> None:
    assert segment(make_scene(), make_scene(name="b.tif"), "-o", tmp_path / "out", "--json") == 0
    heard = capsys.readouterr()
    said = json.loads(heard.out)
    assert heard.err.splitlines()[-1] == f"Results are in {tmp_path / 'out'}{os.sep}"
    assert [scene["name"] for scene in said] == ["scene", "b"]
    assert said[0]["settings"]["tile_size"] == 1024


@pytest.mark.slow
def test_a_folder_is_segmented_without_results_references_and_other_files(
    make_scene: SceneFactory, tmp_path: Path, fake_model: FakeSegmenter
) -> None:
    folder = tmp_path / "in"
    for name in ("a.tif", "b.tif", "b_reference.tif"):
        make_scene(folder=folder, name=name)
    (folder / "notes.txt").write_text("no raster")
    assert segment(folder, "-o", folder / "out") == 0
    assert segment(folder, "-o", folder) == 0
    assert segment(folder, "-o", folder / "out", "--overwrite") == 0
    masks = {path.relative_to(folder).as_posix() for path in folder.rglob("*_mask.tif")}
    assert masks == {"a_mask.tif", "b_mask.tif", "out/a_mask.tif", "out/b_mask.tif"}


@pytest.mark.slow
def test_patterns_are_expanded(make_scene: SceneFactory, tmp_path: Path) -> None:
    for name in ("x1.tif", "x2.tif", "y.tif"):
        make_scene(folder=tmp_path / "in", name=name)
    assert segment(tmp_path / "in" / "x*.tif", "-o", tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").glob("*.json")} == {"x1.json", "x2.json"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("files", "names"),
    [
        (("a/s.tif", "b/s.tif"), {"a_s", "b_s"}),
        (("a/s.tif", "a/s.png"), {"s_tif", "s_png"}),
        (("a/s.tif", "b/S.tif", "a/other.tif"), {"a_s", "b_S", "other"}),
        (("a/same/s.tif", "b/same/s.tif"), {"a_same_s", "b_same_s"}),
    ],
)
def test_scenes_of_one_name_are_told_apart(
    make_scene: SceneFactory, tmp_path: Path, files: tuple[str, ...], names: set[str]
) -> None:
    paths = [make_scene(folder=tmp_path / Path(file).parent, name=Path(file).name) for file in files]
    assert segment(*paths, "-o", tmp_path / "out") == 0
    assert {path.stem for path in (tmp_path / "out").glob("*.json")} == names


def test_a_scene_that_is_refused_does_not_stop_the_others(make_scene: SceneFactory, tmp_path: Path, capsys) -> None:
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"not a tiff")
    assert segment(bad, make_scene(), "-o", tmp_path / "out") == 1
    said = capsys.readouterr()
    assert "scene:" in said.out and said.err.count("\n") == 1 and "bad.tif" in said.err
    assert not [path for path in (tmp_path / "out").iterdir() if "bad" in path.name]


def test_windows_that_failed_are_exit_code_3(
    make_scene: SceneFactory, tmp_path: Path, fake_model: FakeSegmenter, capsys
) -> None:
    def fail(tile: Tile) -> None:
        if tile.window.col_off:
            raise RuntimeError("no luck")

    fake_model.before = fail
    assert segment(make_scene(shape_hw=(64, 120)), "-o", tmp_path / "out", "--tile-size", 64) == 3
    assert "FAILED" in capsys.readouterr().out


def test_a_model_that_fails_everywhere_is_exit_code_1_and_one_line(
    make_scene: SceneFactory, tmp_path: Path, fake_model: FakeSegmenter, capsys
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("no luck")

    fake_model.before = fail
    assert segment(make_scene(shape_hw=(200, 200)), "-o", tmp_path / "out", "--tile-size", 64) == 1
    said = capsys.readouterr()
    assert "scene.tif: the model fails" in said.err and said.err.count("\n") == 1 and said.out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_interrupted_run_says_how_to_go_on(
    make_scene: SceneFactory, tmp_path: Path, fake_model: FakeSegmenter, capsys
) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    fake_model.before = interrupt
    scene = make_scene(shape_hw=(100, 100))
    assert segment(scene, "-o", tmp_path / "out") == 130
    assert "--resume" in capsys.readouterr().err
    fake_model.before = lambda _: None
    assert segment(scene, "-o", tmp_path / "out", "--resume") == 0


@pytest.mark.parametrize(
    ("args", "code", "word"),
    [
        (["missing.tif"], 1, "missing.tif"),
        (["*.nothing"], 1, "no file matches"),
        ([], 2, "SCENE"),
        (["missing.tif", "--threshold", "7"], 2, "threshold"),
        (["missing.tif", "--format", "dwg"], 2, "dwg"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path: Path, capsys, args: list[str], code: int, word: str) -> None:
    assert segment(*args, "-o", tmp_path / "out") == code
    said = capsys.readouterr().err
    assert word in said and "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_a_tile_size_that_does_not_fit_is_refused_before_anything_is_written(
    make_scene: SceneFactory, tmp_path: Path, capsys
) -> None:
    assert segment(make_scene(), "-o", tmp_path / "out", "--tile-size", "100") == 1
    assert "multiple of 32" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_empty_folder_and_a_folder_of_results_alone_are_refused(
    make_scene: SceneFactory, tmp_path: Path, capsys
) -> None:
    (tmp_path / "empty").mkdir()
    assert segment(tmp_path / "empty", "-o", tmp_path / "out") == 1
    assert segment(make_scene(folder=tmp_path / "in"), "-o", tmp_path / "out") == 0
    assert segment(tmp_path / "out", "-o", tmp_path / "again") == 1
    assert "own results" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_ends_a_real_process_with_130(make_scene: SceneFactory, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1])\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs inherit none
        "import floodmap_cli.loading as c; from fakes import *\n"
        "c.load = lambda m, d: FakeSegmenter(lambda t: os.kill(os.getpid(), signal.SIGINT))\n"
        "from floodmap_cli.main import run\n"
        "sys.exit(run(['segment', sys.argv[2], '-o', sys.argv[3], '--prompts', 'none']))"
    )
    args = [sys.executable, "-c", code, str(Path(__file__).parent), str(make_scene()), str(tmp_path / "out")]
    ended = subprocess.run(args, capture_output=True, text=True, check=False)
    assert ended.returncode == 128 + signal.SIGINT
    assert "--resume" in ended.stderr and "Traceback" not in ended.stderr


@pytest.fixture
def unloadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a model or a scene fails the test."""

    def no(*_: object, **__: object) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr("floodmap_cli.loading.load", no)
    monkeypatch.setattr("floodmap.models.registry.resolve", no)
    monkeypatch.setattr("floodmap.imagery.scene.Scene.open", no)


def test_a_run_refused_by_a_lock_answers_before_anything_is_opened(
    make_scene: SceneFactory, tmp_path: Path, capsys, unloadable: None
) -> None:
    out = tmp_path / "out"
    with Journal(out / ".scene.floodmap", {}, resume=False):
        for more in ([], ["--resume"], ["--overwrite"]):
            assert segment(make_scene(), "-o", out, *more) == 1
            said = capsys.readouterr()
            assert "another floodmap run" in said.err and said.err.count("\n") == 1
        with pytest.raises(OutputError, match="another floodmap run"):
            floodmap.segment(tmp_path / "scene.tif", out=out)


@pytest.mark.slow
def test_of_several_scenes_only_the_locked_one_is_refused(make_scene: SceneFactory, tmp_path: Path, capsys) -> None:
    scenes, out = [make_scene(name=name) for name in ("a.tif", "b.tif", "c.tif")], tmp_path / "out"
    with Journal(out / ".b.floodmap", {}, resume=False):
        assert segment(*scenes, "-o", out) == 1
        said = capsys.readouterr()
        assert said.err.count("\n") == 1 and "another floodmap run" in said.err
    assert {path.stem for path in out.glob("*.json")} == {"a", "c"}
    assert segment(*scenes, "-o", out, "--resume") == 0


def test_a_lock_that_nobody_holds_is_no_run(make_scene: SceneFactory, tmp_path: Path) -> None:
    work = tmp_path / "out" / ".scene.floodmap"
    work.mkdir(parents=True)
    (work / "lock").touch()
    assert segment(make_scene(), "-o", tmp_path / "out") == 0


@pytest.mark.slow
def test_resume_says_what_differs_from_finished_results(make_scene: SceneFactory, tmp_path: Path, capsys) -> None:
    scene, out = make_scene(), tmp_path / "out"
    assert segment(scene, "-o", out) == 0
    for more, word in (
        (["--threshold", 0.6], "--threshold was 0.5, is now 0.6"),
        (["--tile-size", 64, "--overlap", 8], "--tile-size was 1024, is now 64; --overlap was 24, is now 8"),
        (["--format", "gpkg,fgb"], "missing: scene_flood.fgb, scene_unobserved.fgb"),
    ):
        capsys.readouterr()
        assert segment(scene, "-o", out, "--resume", *more) == 1
        said = capsys.readouterr().err
        assert word in said and "--overwrite" in said and said.count("\n") == 1
    make_scene(pixels=np.full((3, 48, 64), 90, np.uint8))
    assert segment(scene, "-o", out, "--resume") == 1
    assert "(the scene's file, or one beside it, has changed)" in capsys.readouterr().err
    (out / "scene.json").write_text("{")
    assert segment(scene, "-o", out, "--resume") == 1
    assert "scene.json, the report with the settings of that run, is missing or damaged" in capsys.readouterr().err
    assert segment(scene, "-o", out, "--resume", "--overwrite") == 0


@pytest.mark.slow
def test_a_scene_without_fingerprint_is_not_resumed(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    scene, out = make_scene(), tmp_path / "out"
    monkeypatch.setattr(Scene, "fingerprint", None)
    assert segment(scene, "-o", out) == 0
    written = (out / "scene_mask.tif").stat().st_ino
    capsys.readouterr()
    assert segment(scene, "-o", out, "--resume") == 1
    said = capsys.readouterr().err
    assert f"{scene} has no fingerprint, so changes since an earlier run cannot be detected" in said
    assert said.count("\n") == 1
    assert segment(scene, "-o", out, "--resume", "--overwrite") == 0
    assert (out / "scene_mask.tif").stat().st_ino != written


def test_a_full_disk_is_reported_in_readable_sizes(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    usage = type("Usage", (), {"free": 2_300_000})
    monkeypatch.setattr("floodmap.output.results.shutil.disk_usage", lambda folder: usage)
    assert segment(make_scene(), "-o", tmp_path / "out") == 1
    assert "10 MB of disk are needed and 2.3 MB are free" in capsys.readouterr().err
