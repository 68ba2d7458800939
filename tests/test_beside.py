"""Results made by a worker process, as where a GPU computes the windows."""

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
    """A model that offloads its work, as on a GPU."""

    offloads = True


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[FinishingProcess]:
    """Processes that were started."""
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
def test_results_of_the_worker_process_equal_those_of_this_one(
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
def test_results_of_the_worker_are_dropped_where_windows_stop(
    make_scene: SceneFactory, tmp_path: Path, number: int
) -> None:
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
def test_errors_of_the_worker_are_raised_in_the_run(make_scene: SceneFactory, tmp_path: Path) -> None:
    scene, out = make_scene(shape_hw=(150, 150)), tmp_path / "out"
    (out / "scene_mask.tif").mkdir(parents=True)
    with pytest.raises(OutputError, match="scene_"):
        run(scene, out, Offloading(), overwrite=True)


@pytest.mark.slow
def test_log_lines_of_the_worker_are_logged_by_the_run(
    make_scene: SceneFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene, out = make_scene(shape_hw=(150, 150)), tmp_path / "out"
    run(scene, out, formats=("fgb",))
    with caplog.at_level(logging.WARNING, "floodmap"):
        run(scene, out, Offloading(), overwrite=True)
    assert any("is left from an earlier run" in message for message in caplog.messages)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_a_worker_that_is_killed_is_reported_and_the_run_goes_on(
    make_scene: SceneFactory, tmp_path: Path, begun: list[FinishingProcess]
) -> None:
    scene, out = make_scene(shape_hw=(230, 220)), tmp_path / "out"

    def kill() -> None:
        assert begun[0].process.receive() == ("begun", None)
        os.kill(begun[0].process.popen.pid, signal.SIGKILL)
        begun[0].process.receive = iter([("begun", None), None]).__next__

    with pytest.raises(OutputError, match="--resume"):
        run(scene, out, Offloading(at_window(7, kill)))
    run(scene, tmp_path / "whole")
    run(scene, out, Offloading(), resume=True)
    assert digests(out) == digests(tmp_path / "whole")


@pytest.mark.slow
def test_the_worker_ends_with_its_parent(tmp_path: Path) -> None:
    finishing = Finishing(
        source="scene.tif", grid=GeoGrid(None, UNPLACED, (8, 8)), date=datetime.now(UTC),
        out=tmp_path, name="scene", threshold=50, min_area_m2=0.0, simplify_m=0.0, formats=("gpkg",), files={},
        settings={"versions": {"floodmap": "1"}, "model": {"name": "fake"}}, started=0.0,
    )  # fmt: skip
    with Journal(tmp_path / "work", {}, resume=False) as journal:
        beside = FinishingProcess(finishing, journal)
        assert beside.process.receive() == ("begun", None)
        beside.process.popen.stdin.close()  # as the system does when a process is killed
        assert beside.process.popen.wait(timeout=HANGS) == 1
        beside.__exit__()


@pytest.mark.slow
@pytest.mark.parametrize("executable", ["/nowhere/python", "/bin/true"])
def test_without_a_worker_results_are_made_by_the_run(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executable: str
) -> None:
    scene = make_scene(shape_hw=(150, 150))
    run(scene, tmp_path / "after")
    monkeypatch.setattr(sys, "executable", executable)
    run(scene, tmp_path / "out", Offloading())
    assert digests(tmp_path / "out") == digests(tmp_path / "after")
