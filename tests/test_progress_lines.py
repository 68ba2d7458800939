"""`--progress json`: progress and messages as lines of JSON on standard error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import HANGS, SceneFactory
from fakes import FakeSegmenter

from floodmap_cli.lines import lines, progress_events
from floodmap_cli.main import run


@pytest.fixture(autouse=True)
def fake_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("floodmap_cli.loading.load", lambda model, device: FakeSegmenter())
    monkeypatch.setattr("floodmap_cli.loading.load", lambda model, device: FakeSegmenter())


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_run_counts_its_windows_and_ends_with_its_exit_code(make_scene: SceneFactory, tmp_path: Path, capsys) -> None:
    scene = make_scene(shape_hw=(96, 160))
    arguments = ["--tile-size", "64", "--overlap", "0", "--prompts", "none", "--progress", "json"]
    assert run(["segment", str(scene), "-o", str(tmp_path / "out"), *arguments]) == 0
    *steps, last = events(capsys.readouterr().err)
    assert last == {"event": "done", "exit_code": 0}
    assert {step["event"] for step in steps} == {"progress"}
    assert [step["stage"] for step in steps] == sorted(step["stage"] for step in steps)  # segment, then write
    assert steps[-1] == {
        "event": "progress", "done": 6, "total": 6, "unit": "windows", "stage": "write", "scene": "scene", "text": "",
    }  # fmt: skip


def test_many_frames_say_their_stage(make_scene: SceneFactory, tmp_path: Path, capsys) -> None:
    frames = [str(make_scene(name=name)) for name in ("a.tif", "b.tif")]
    assert run(["mosaic", *frames, "-o", str(tmp_path / "out"), "--progress", "json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    steps = [one for one in found if one["event"] == "progress"]
    assert {one["stage"] for one in steps} >= {"segment", "write"}
    assert all(0 <= one["done"] <= one["total"] == 1.0 for one in steps)


@pytest.mark.parametrize("arguments", [["missing.tif"], ["missing.tif", "--threshold", "40"]], ids=["file", "usage"])
def test_an_error_is_a_message_and_then_done(arguments: list[str], capsys) -> None:
    code = run(["segment", *arguments, "--progress", "json"])
    message, done = events(capsys.readouterr().err)
    assert message["event"] == "message" and message["level"] == "error" and message["text"]
    assert done == {"event": "done", "exit_code": code} and code > 0


def test_text_is_the_default_also_after_a_run_with_json(capsys) -> None:
    run(["segment", "missing.tif", "--progress", "json"])
    capsys.readouterr()
    run(["segment", "missing.tif"])
    assert capsys.readouterr().err.startswith("floodmap: error: missing.tif")


def test_of_many_events_in_a_moment_the_first_the_last_and_a_new_stage_remain(
    monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(lines, "as_json", True)
    monkeypatch.setattr("floodmap_cli.lines.time.monotonic", lambda: 0.0)
    update = progress_events("scene", "windows")
    for done in range(1, 10):
        update(done, 10, "segment")
    update(9, 10, "write")
    update(10, 10, "write")
    assert [one["done"] for one in events(capsys.readouterr().err)] == [1, 9, 10]


@pytest.mark.slow
def test_a_run_whose_reader_is_gone_ends(tmp_path: Path) -> None:
    code = (
        "import sys; from floodmap_cli.main import run\n"
        "from floodmap_cli import lines\nlines.EVERY_S = 0\n"
        f"sys.exit(run(['sample', {str(tmp_path / 'x.tif')!r}, '--size', '8000', '--progress', 'json']))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert child.stderr is not None
    child.stderr.readline()
    child.stderr.close()
    assert child.wait(HANGS) == 1
    assert not (tmp_path / "x.tif").exists()
