"""The program of the QGIS plugin that stays for corrections, without QGIS: what it tells, and its end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import HANGS
from plugin_modules import plugin_module
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
