"""Results made in a process of their own, as where a GPU computes the windows."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from conftest import HANGS, SceneFactory
from fakes import FakeSegmenter
from test_pipeline import digests, run

from floodmap import pipeline
from floodmap.errors import OutputError
from floodmap.geo.geogrid import UNPLACED, GeoGrid
from floodmap.imagery.tile import Tile
from floodmap.output.finishing import Finishing
from floodmap.output.worker import FinishingProcess
from floodmap.strips.journal import Journal


class Offloading(FakeSegmenter):
    """As on a GPU."""

    offloads = True


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[FinishingProcess]:
    """The processes that were begun."""
    found: list[FinishingProcess] = []
    own = FinishingProcess.__enter__

    def enter(self: FinishingProcess) -> FinishingProcess:
        found.append(self)
        return own(self)

    monkeypatch.setattr(FinishingProcess, "__enter__", enter)
    return found


def at_window(number: int, do: Callable[[], object]) -> Callable[[Tile], None]:
    seen = 0

    def before(_: Tile) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            do()

    return before


def interrupt() -> None:
    raise KeyboardInterrupt


def local_run_is_an_error(*_: object, **__: object) -> None:
    raise AssertionError("the results were made in this process")


@pytest.mark.slow
def test_they_are_the_same(
    make_scene: SceneFactory, tmp_path: Path, begun: list[FinishingProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make_scene(shape_hw=(230, 220))
    after = run(scene, tmp_path / "after")
    monkeypatch.setattr(pipeline, "rehearse", lambda *_: None)  # which runs it here, once, before the windows
    monkeypatch.setattr(Finishing, "run", local_run_is_an_error)
    meanwhile = run(scene, tmp_path / "meanwhile", Offloading())
    assert digests(tmp_path / "meanwhile") == digests(tmp_path / "after")
    assert len(begun) == 1 and meanwhile.report["windows"] == after.report["windows"]
    assert meanwhile.mask_path == tmp_path / "meanwhile" / "scene_mask.tif"


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 7, 14])
def test_they_are_given_up_where_windows_are(make_scene: SceneFactory, tmp_path: Path, number: int) -> None:
    scene, out = make_scene(shape_hw=(230, 220)), tmp_path / "out"
    run(scene, out)
    before = digests(out)
    with pytest.raises(KeyboardInterrupt):
        run(scene, out, Offloading(at_window(number, interrupt)), overwrite=True)
    assert digests(out) == before and (out / "scene.json").exists()
    run(scene, out, Offloading(), overwrite=True)
    assert digests(out) == before
    assert not [p for p in out.iterdir() if p.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 14])
def test_a_broken_off_run_is_resumed(make_scene: SceneFactory, tmp_path: Path, number: int) -> None:
    scene, out = make_scene(shape_hw=(230, 220)), tmp_path / "out"
    run(scene, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(scene, out, Offloading(at_window(number, interrupt)))
    run(scene, out, Offloading(), resume=True)
    assert digests(out) == digests(tmp_path / "whole")


@pytest.mark.slow
def test_what_goes_wrong_there_is_raised_here(make_scene: SceneFactory, tmp_path: Path) -> None:
    scene, out = make_scene(shape_hw=(150, 150)), tmp_path / "out"
    (out / "scene_mask.tif").mkdir(parents=True)
    with pytest.raises(OutputError, match="scene_"):
        run(scene, out, Offloading(), overwrite=True)


@pytest.mark.slow
def test_what_is_logged_there_is_logged_here(
    make_scene: SceneFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene, out = make_scene(shape_hw=(150, 150)), tmp_path / "out"
    run(scene, out, formats=("fgb",))
    with caplog.at_level(logging.WARNING, "floodmap"):
        run(scene, out, Offloading(), overwrite=True)
    assert any("is left from an earlier run" in message for message in caplog.messages)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_a_process_that_is_killed_is_told_of_and_the_run_goes_on(
    make_scene: SceneFactory, tmp_path: Path, begun: list[FinishingProcess]
) -> None:
    scene, out = make_scene(shape_hw=(230, 220)), tmp_path / "out"

    def kill() -> None:
        assert begun[0].process.hear() == ("begun", None)
        os.kill(begun[0].process.popen.pid, signal.SIGKILL)
        begun[0].process.hear = iter([("begun", None), None]).__next__

    with pytest.raises(OutputError, match="--resume"):
        run(scene, out, Offloading(at_window(7, kill)))
    run(scene, tmp_path / "whole")
    run(scene, out, Offloading(), resume=True)
    assert digests(out) == digests(tmp_path / "whole")


@pytest.mark.slow
def test_it_ends_with_the_one_that_began_it(tmp_path: Path) -> None:
    finishing = Finishing(
        source="scene.tif", grid=GeoGrid(None, UNPLACED, (8, 8)), date=datetime.now(UTC),
        out=tmp_path, name="scene", threshold=50, min_area_m2=0.0, simplify_m=0.0, formats=("gpkg",), report=False,
        settings={"versions": {"floodmap": "1"}, "model": {"name": "fake"}}, started=0.0,
    )  # fmt: skip
    with Journal(tmp_path / "work", {}, resume=False) as journal:
        beside = FinishingProcess(finishing, journal)
        assert beside.process.hear() == ("begun", None)
        beside.process.popen.stdin.close()  # as the system does when a process is killed
        assert beside.process.popen.wait(timeout=HANGS) == 1
        beside.__exit__()


@pytest.mark.slow
@pytest.mark.parametrize("executable", ["/nowhere/python", "/bin/true"])
def test_without_a_process_results_are_made_here(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executable: str
) -> None:
    scene = make_scene(shape_hw=(150, 150))
    run(scene, tmp_path / "after")
    monkeypatch.setattr(sys, "executable", executable)
    run(scene, tmp_path / "out", Offloading())
    assert digests(tmp_path / "out") == digests(tmp_path / "after")
