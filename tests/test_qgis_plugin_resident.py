"""The program of the QGIS plugin that stays for corrections, without QGIS: what it tells, and its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import geopandas
import pytest
from conftest import HANGS, NORTH_UP, UTM, SceneFactory
from plugin_modules import plugin_module
from shapely import Point
from test_qgis_plugin_core import is_alive

arguments, events, resident = (plugin_module(f"core.{name}") for name in ("arguments", "events", "resident"))

PROGRAM = """
import os, sys, time
def tell(text): print(text, file=sys.stderr, flush=True)
tell('{"event": "message", "level": "info", "text": "%d"}' % os.getpid())
while True:
    for name in sorted(os.listdir(sys.argv[1])):
        text = open(os.path.join(sys.argv[1], name)).read()
        os.unlink(os.path.join(sys.argv[1], name))
        if text == "exit":
            sys.exit(1)
        tell(text)
    time.sleep(0.02)
"""
"""Tells the content of files that appear in a folder. With "exit" it ends."""
WATCHING, CORRECTING = '{"event": "watching", "exit_code": 0}', '{"event": "correcting"}'
FAILED = '{"event": "message", "level": "error", "text": "no label"}\n{"event": "watching", "exit_code": 1}'


class Played:
    """A resident program whose lines the test plays."""

    def __init__(self, folder: Path):
        self.folder, self.number, self.told = folder, 0, list[Any]()
        self.one = resident.Resident([sys.executable, "-c", PROGRAM, str(folder)], dict(os.environ), 1.0)

    def tell(self, text: str) -> None:
        self.number += 1
        new = self.folder.with_name("new")
        new.write_text(text)
        new.replace(self.folder / f"{self.number:03}")

    def until(self, reached: Callable[[], bool]) -> None:
        limit = time.monotonic() + HANGS
        while not reached():
            self.told += self.one.events()
            assert time.monotonic() < limit
            time.sleep(0.01)

    def hears(self, text: str) -> None:
        """Play lines, and wait until all of them are heard."""
        count = len(self.told) + len(text.splitlines())
        self.tell(text)
        self.until(lambda: len(self.told) >= count)


@pytest.fixture
def played(tmp_path: Path) -> Iterator[Played]:
    (tmp_path / "lines").mkdir()
    found = Played(tmp_path / "lines")
    found.until(lambda: bool(found.told))
    yield found
    found.one.end(HANGS)


def test_a_correction_is_finished_when_the_program_waits_again(played: Played) -> None:
    one = played.one
    assert one.busy
    played.hears(WATCHING)
    assert not one.busy and not one.failure
    one.ask()
    played.hears(WATCHING)  # a sign of life from before
    assert one.busy
    played.hears(CORRECTING)
    played.hears('{"event": "progress", "done": 1, "total": 2, "unit": "windows", "stage": "segment"}')
    assert one.busy and played.told[-1].share == 0.5
    played.hears(WATCHING)
    assert not one.busy and not one.failure


def test_the_error_of_a_correction_is_that_of_the_last_one(played: Played) -> None:
    one = played.one
    played.hears(WATCHING)
    one.ask()
    played.hears(f"{CORRECTING}\n{FAILED}")
    assert not one.busy and one.failure == "no label"
    one.ask()
    played.hears(f"{CORRECTING}\n{WATCHING}")
    assert not one.busy and not one.failure and not one.ended


def test_a_program_that_dies_and_one_that_is_not_there_are_seen(played: Played, tmp_path: Path) -> None:
    played.hears(WATCHING)
    assert not played.one.ended
    played.tell("exit")
    played.until(lambda: played.one.ended)
    assert not played.one.cancelled
    missing = resident.Resident([str(tmp_path / "missing")], {})
    limit = time.monotonic() + HANGS
    while not missing.ended and time.monotonic() < limit:
        missing.events()
    assert missing.ended and missing.busy


def test_a_program_that_does_not_notice_the_points_or_has_nothing_to_do_is_seen(
    played: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = played.one
    played.hears(WATCHING)
    assert not one.is_idle and not one.is_deaf
    monkeypatch.setattr(resident, "IDLE_S", -1.0)
    monkeypatch.setattr(resident, "ANSWER_S", -1.0)
    assert one.is_idle and not one.is_deaf
    one.ask()
    assert one.is_deaf and not one.is_idle
    played.hears(CORRECTING)
    assert not one.is_deaf and not one.is_idle


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to see processes")
def test_the_end_leaves_no_process(played: Played) -> None:
    pid = int(played.told[0].text)
    played.one.end(HANGS)
    played.one.events()
    assert played.one.ended and played.one.cancelled and not is_alive(pid)


def test_the_events_of_a_program_that_stays_have_their_code() -> None:
    found = [events.parse(line) for line in (WATCHING, CORRECTING, FAILED.splitlines()[1], '{"event": "watching"}')]
    assert [(one.kind, one.code) for one in found] == [
        ("watching", 0), ("correcting", 0), ("watching", 1), ("watching", 0),
    ]  # fmt: skip


def test_a_program_that_stays_gets_the_options_of_a_run_but_for_its_output() -> None:
    options = [("--output", "out"), ("--resume", True), ("--json", True)]
    line = arguments.command_line(["floodmap"], "segment", ["s.tif"], arguments.watching(options))
    assert line == ["floodmap", "segment", "s.tif", "--output=out", "--resume", "--watch", "--progress=json"]


REAL = """
import sys
sys.path[:0] = sys.argv.pop(1).split("|")
import floodmap_cli.loading
from fakes import FakeSegmenter
floodmap_cli.loading.load = lambda model, device: FakeSegmenter()
from floodmap_cli.main import run
sys.exit(run(sys.argv[1:]))
"""
"""The command line with a model that takes no time."""


def save(path: Path, labels: list[int]) -> None:
    """Replace a file of points, one for each label."""
    new = path.with_name("new.gpkg")
    where = [Point(NORTH_UP * (9 + 20 * number, 9)) for number in range(len(labels))]
    geopandas.GeoDataFrame({"label": labels}, geometry=where, crs=UTM).to_file(new, driver="GPKG")
    new.replace(path)


@pytest.fixture
def real(make_scene: SceneFactory, tmp_path: Path) -> list[str]:
    """Command line of a real program that stays, with the points `clicks.gpkg` and the results in `out`."""
    scene = make_scene(shape_hw=(128, 128), name="scene.tif")
    save(tmp_path / "clicks.gpkg", [1])
    options = [("--output", tmp_path / "out"), ("--prompts", tmp_path / "clicks.gpkg"), ("--min-area", 0.0)]
    program = [sys.executable, "-c", REAL, "|".join(sys.path)]
    line: list[str] = arguments.command_line(program, "segment", [str(scene)], arguments.watching(options))
    return line


@pytest.mark.slow
def test_a_real_program_corrects_whenever_the_points_are_replaced(real: list[str], tmp_path: Path) -> None:
    one, limit = resident.Resident(real, dict(os.environ)), time.monotonic() + HANGS
    for labels in ([1], [1, 0], [7], [0, 0, 1]):
        if len(labels) > 1 or labels == [7]:
            save(tmp_path / "clicks.gpkg", labels)
            one.ask()
        while one.busy and not one.ended and time.monotonic() < limit:
            one.events()
            time.sleep(0.01)
        assert not one.busy
        assert ("label" in one.failure) == (labels == [7])
        if labels != [7]:
            found = json.loads((tmp_path / "out" / "scene.json").read_text())["correction"]["points"]
            assert found == {"flood": labels.count(1), "dry": labels.count(0)}
    one.end(HANGS)
    one.events()
    assert one.ended


@pytest.mark.slow
def test_a_program_that_stays_ends_when_its_reader_is_gone(real: list[str]) -> None:
    with subprocess.Popen(real, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
        assert child.stderr is not None
        while events.parse(child.stderr.readline().decode()).kind != "watching":
            assert child.poll() is None
        child.stderr.close()
        assert child.wait(HANGS) == 1
