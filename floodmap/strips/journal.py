"""Progress that survives anything: finished strips on disk, each checked, each renamed into place whole."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, count, pairwise
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from numpy.typing import NDArray

from floodmap._runtime.changes import changes
from floodmap._runtime.files import atomic_path
from floodmap.errors import OutputError, writing
from floodmap.strips.strip import Strip

_DIGEST = 16
_KIND = b"LZ4 blocks"
"""Goes into the digest, so that strips of another kind, of an earlier version, count as none."""
_SCRATCH, _SETTINGS = "scratch", "settings.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished strip and what it took."""

    strip: Strip
    notes: Mapping[str, Any]
    """Whatever the pipeline counts per strip (windows run, skipped, failed); JSON."""


class Strips:
    """Finished strips in a work folder, each whole or not counted.

    Args:
        folder: the work folder.
        comes: waits for a strip that is still to come, by its number from the top, and says whether there is one; None:
            those that are there are all.
    """

    def __init__(self, folder: Path, comes: Callable[[int], bool] | None = None) -> None:
        self.folder = folder
        self._comes = comes or (lambda _: True)

    @property
    def scratch(self) -> Path:
        """A folder for results in the making, on the results' own disk; what a killed run leaves in it is deleted."""
        path = self.folder / _SCRATCH
        with writing(path):
            path.mkdir(exist_ok=True)
        return path

    def notes(self) -> list[Mapping[str, Any]]:
        """What was noted of each finished strip from the top."""
        return [head["notes"] for head, _ in self._whole()]

    def strips(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """First row and codes of the finished strips from the top, a few rows at a time: strips can be large."""
        for head, packed in self._whole():
            pieces, end = [], 0
            for columns, sizes in head["pieces"]:
                ends = list(accumulate(sizes, initial=end))
                pieces.append((columns, tuple(packed[first:after] for first, after in pairwise(ends))))
                end = ends[-1]
            row = head["row_off"]
            for codes in Strip(row, head["height"], head["step"], tuple(pieces)).blocks():
                yield row, codes
                row += len(codes)

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:05d}.strip"

    def _whole(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Head and compressed codes of each strip from the top, up to the first that is missing or damaged."""
        for index in count():
            if not self._comes(index):
                return
            try:
                raw = self._path(index).read_bytes()
            except FileNotFoundError:
                return
            digest, body = raw[:_DIGEST], raw[_DIGEST:]
            if digest != _digest(body):
                return
            head, packed = body.split(b"\n", 1)
            del raw, body
            yield json.loads(head), packed


class Journal(Strips):
    """The work folder of one scene's run. A context manager: the folder is locked while it is open.

    A compressed GeoTIFF that is killed while open reads back as nodata without an error, so none is open while windows
    are computed. A strip's file begins with a digest of the rest: half a file counts as no file.

    Args:
        folder: the work folder; made if it is not there.
        settings: everything the results depend on; strips made with other settings must not be mixed in.
        resume: go on from the strips that are there; where there are none, begin.
        discard: throw away the strips that are there, unless `resume` can go on from them.

    Raises:
        OutputError: another run is at work here; there is unfinished work and `resume` was not asked for; that work
            was done with other settings; or the folder cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, resume: bool, discard: bool = False) -> None:
        super().__init__(folder)
        self.told: Callable[[int], None] = lambda _: None
        """Told how many strips from the top are whole, whenever that is known."""
        self._lock = filelock.FileLock(folder / "lock", timeout=0)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire()
            except filelock.Timeout:
                raise OutputError(_BUSY.format(folder.parent)) from None
        try:
            with writing(folder):
                self._take_over(json.dumps(settings, indent=1, sort_keys=True, default=str), resume, discard)
        except BaseException:
            self._lock.release()
            raise

    def _take_over(self, wanted: str, resume: bool, discard: bool) -> None:
        record = self.folder / _SETTINGS
        found = record.read_text("utf-8") if record.exists() else None
        shutil.rmtree(self.folder / _SCRATCH, ignore_errors=True)
        if found is not None and has_strips(self.folder):
            if resume and found == wanted:
                return
            if not discard:
                changed = _CHANGED.format(self.folder.parent, _difference(found, wanted))
                raise OutputError(changed if resume else _UNFINISHED.format(self.folder.parent))
        self._clear()
        _write(record, wanted.encode())

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        if not has_strips(self.folder):
            self.remove()  # there is nothing to go on with
        self._lock.release()

    def append(self, index: int, entry: Entry) -> None:
        """Put a strip on disk, whole or not at all.

        Raises:
            OutputError: the disk is full, or will not have it.
        """
        strip = entry.strip
        head = {
            "row_off": strip.row_off,
            "height": strip.height,
            "step": strip.step,
            "pieces": [(columns, [len(block) for block in blocks]) for columns, blocks in strip.pieces],
            "notes": entry.notes,
        }
        blocks = (block for _, blocks in strip.pieces for block in blocks)
        body = json.dumps(head, sort_keys=True).encode() + b"\n", *blocks
        with writing(self._path(index)):
            _write(self._path(index), _digest(*body), *body)
        self.told(index + 1)

    def finished(self) -> int:
        """How many strips from the top are whole; the next to be appended follows them."""
        whole = sum(1 for _ in self._whole())
        self.told(whole)
        return whole

    def remove(self) -> None:
        """Delete the work folder: the results are in place. What cannot be deleted stays."""
        with suppress(OSError):
            self._clear()
            # Windows deletes no open file, NFS no folder that had one.
            self._lock.release()
            (self.folder / "lock").unlink(missing_ok=True)
            self.folder.rmdir()

    def _clear(self) -> None:
        """Delete everything but the lock; the settings first, for without them strips are worth nothing."""
        (self.folder / _SETTINGS).unlink(missing_ok=True)
        shutil.rmtree(self.folder / _SCRATCH, ignore_errors=True)
        for path in self.folder.iterdir():
            if path.suffix in (".strip", ".part"):
                path.unlink()


def refuse_busy(folder: Path) -> None:
    """Raise OutputError where a run is at work in a work folder; at once, and without a trace.

    `Journal` says the same, when there is all that it needs: by then a model may have been loaded for nothing.
    """
    lock = folder / "lock"
    if not lock.exists():
        return
    with writing(folder):
        try:
            filelock.FileLock(lock, timeout=0).acquire().lock.release()
        except filelock.Timeout:
            raise OutputError(_BUSY.format(folder.parent)) from None


def has_strips(folder: Path) -> bool:
    """Whether a work folder holds finished strips of a run that has not ended."""
    return (folder / _SETTINGS).exists() and any(folder.glob("*.strip"))


_BUSY = "{}: another floodmap run is writing here; wait for it, or choose another output folder"
_CHANGED = "{}: the unfinished run cannot be resumed ({}); start afresh with --overwrite"
_UNFINISHED = "{}: holds an unfinished run; go on with --resume, or start afresh with --overwrite"


def _digest(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=_DIGEST, person=_KIND)
    for part in parts:
        digest.update(part)
    return digest.digest()


def _difference(found: str, wanted: str) -> str:
    try:
        return "; ".join(changes(json.loads(found), json.loads(wanted))) or "the settings"
    except (ValueError, AttributeError):
        return "the settings"


def _write(path: Path, *content: bytes) -> None:
    with atomic_path(path) as partial, partial.open("wb") as file:
        file.writelines(content)
        file.flush()
        os.fsync(file.fileno())
