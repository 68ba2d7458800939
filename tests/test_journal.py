from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import floodmap.strips.strip
from floodmap.errors import OutputError
from floodmap.strips.journal import Entry, Journal, Strips
from floodmap.strips.strip import Strip


def entry(row_off: int, value: int) -> Entry:
    return Entry(Strip.of(row_off, np.full((3, 5), value, np.uint8)), {"run": value})


def test_strips_come_back_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floodmap.strips.strip, "BLOCK_PIXELS", 11)  # two rows
    codes = np.random.default_rng(0).integers(0, 256, (3, 5)).astype(np.uint8)
    with Journal(tmp_path / "work", {"a": 1}, resume=False) as journal:
        journal.append(0, entry(0, 7))
        journal.append(1, Entry(Strip.of(3, codes), {"run": 250}))
        assert journal.finished() == 2
        first_rows, pieces = zip(*journal.strips(), strict=True)
        assert first_rows == (0, 2, 3, 5)
        np.testing.assert_array_equal(np.concatenate(pieces), np.concatenate([np.full((3, 5), 7), codes]))
        assert journal.notes() == [{"run": 7}, {"run": 250}]


def test_a_follower_gets_strips_as_they_are_finished(tmp_path: Path) -> None:
    counts: list[int] = []
    with Journal(tmp_path / "work", {}, resume=False) as journal:
        journal.told = counts.append
        journal.finished()
        journal.append(0, entry(0, 7))
        asked: list[int] = []
        followed = Strips(tmp_path / "work", lambda index: asked.append(index) or index < counts[-1]).strips()
        assert next(followed)[0] == 0
        journal.append(1, entry(3, 8))
        assert next(followed)[0] == 3
        assert list(followed) == [] and asked == [0, 1, 2] and counts == [0, 1, 2]


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_strip_and_what_follows_it_do_not_count(tmp_path: Path, damage: str) -> None:
    with Journal(tmp_path / "work", {}, resume=False) as journal:
        for i in range(3):
            journal.append(i, entry(3 * i, i))
        path = tmp_path / "work" / "00001.strip"
        raw = bytearray(path.read_bytes())
        if damage == "flip":
            raw[-3] ^= 1
        path.write_bytes({"cut": bytes(raw[:-2]), "flip": bytes(raw), "empty": b""}[damage])
        assert journal.finished() == 1


def test_unfinished_work_is_neither_lost_nor_mixed_with_other_settings(tmp_path: Path) -> None:
    work = tmp_path / "work"
    with Journal(work, {"tile_size": 64, "model": "x"}, resume=False) as journal:
        journal.append(0, entry(0, 1))
    with pytest.raises(OutputError, match="--resume"):
        Journal(work, {"tile_size": 64, "model": "x"}, resume=False)
    with pytest.raises(OutputError, match="tile_size"):
        Journal(work, {"tile_size": 96, "model": "x"}, resume=True)
    with Journal(work, {"tile_size": 64, "model": "x"}, resume=True) as journal:
        assert journal.finished() == 1
    with Journal(work, {"tile_size": 96, "model": "x"}, resume=False, discard=True) as journal:
        assert journal.finished() == 0


def test_resuming_where_there_is_nothing_begins(tmp_path: Path) -> None:
    with Journal(tmp_path / "work", {}, resume=True) as journal:
        assert journal.finished() == 0


def test_a_second_run_is_refused_but_a_dead_one_holds_no_lock(tmp_path: Path) -> None:
    work = tmp_path / "work"
    code = (
        "import os, signal, sys; from pathlib import Path; from floodmap.strips.journal import Journal\n"
        "Journal(Path(sys.argv[1]), {}, resume=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(work)], check=False).returncode == -9
    with Journal(work, {}, resume=True), pytest.raises(OutputError, match="another floodmap run"):
        Journal(work, {}, resume=True)
    Journal(work, {}, resume=True).remove()
    assert not work.exists()
