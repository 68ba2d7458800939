"""Journal of a run: finished strips on disk, each with a checksum and written atomically, to resume from."""

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
"""Part of the digest: strips of another format, from an earlier version, do not match and do not count."""
_SCRATCH, _SETTINGS = "scratch", "settings.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """A finished strip and notes on how it was made."""

    strip: Strip
    notes: Mapping[str, Any]
    """Counts of the pipeline for this strip (windows run, skipped, failed); JSON."""


class Strips:
    """Finished strips in a work folder, from the top down to the first that is missing or damaged.

    Args:
        folder: the work folder.
        comes: called with a strip's number, counted from the top; waits until the strip is finished and returns True,
            or returns False where there will be none. None: nobody writes strips any more.
    """

    def __init__(self, folder: Path, comes: Callable[[int], bool] | None = None) -> None:
        self.folder = folder
        self._comes = comes or (lambda _: True)

    @property
    def scratch(self) -> Path:
        """Folder for temporary files, on the same disk as the results; files of a killed run in it are deleted."""
        path = self.folder / _SCRATCH
        with writing(path):
            path.mkdir(exist_ok=True)
        return path

    def notes(self) -> list[Mapping[str, Any]]:
        """Notes of each finished strip, from the top."""
        return [head["notes"] for head, _ in self._whole()]

    def strips(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """First row and codes (rows, scene width) of the finished strips from the top, in blocks of a few rows."""
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
        """Header and compressed codes of each strip from the top, up to the first that is missing or damaged."""
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

    A compressed GeoTIFF of a process that is killed reads back as nodata without an error, so none is open while
    windows are computed. A strip's file begins with a digest of the rest: a file written in part does not count.

    Args:
        folder: the work folder; created if it is missing.
        settings: everything the results depend on; strips made with other settings must not be mixed in.
        resume: continue after the strips that are there; start from the beginning where there are none.
        discard: delete the strips that are there, unless `resume` can continue from them.

    Raises:
        OutputError: another run is at work here; there is unfinished work and `resume` was not asked for; that work
            was done with other settings; or the folder cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, resume: bool, discard: bool = False) -> None:
        super().__init__(folder)
        self.told: Callable[[int], None] = lambda _: None
        """Callback with the number of finished strips, counted from the top, whenever it changes."""
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
        """Keep the strips of an earlier run or delete them, and write the settings of this run (`wanted`, JSON)."""
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
            self.remove()  # there is nothing to resume from
        self._lock.release()

    def append(self, index: int, entry: Entry) -> None:
        """Write a strip to disk, whole or not at all.

        Raises:
            OutputError: the disk is full, or the system refuses to write.
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
        """Number of finished strips from the top, which is the number of the next strip to append."""
        whole = sum(1 for _ in self._whole())
        self.told(whole)
        return whole

    def remove(self) -> None:
        """Delete the work folder, once the results are in place; files that cannot be deleted stay."""
        with suppress(OSError):
            self._clear()
            # Windows cannot delete an open file, and NFS no folder in which an open file was deleted.
            self._lock.release()
            (self.folder / "lock").unlink(missing_ok=True)
            self.folder.rmdir()

    def _clear(self) -> None:
        """Delete everything but the lock; the settings first, since strips without settings do not count."""
        (self.folder / _SETTINGS).unlink(missing_ok=True)
        shutil.rmtree(self.folder / _SCRATCH, ignore_errors=True)
        for path in self.folder.iterdir():
            if path.suffix in (".strip", ".part"):
                path.unlink()


def refuse_busy(folder: Path) -> None:
    """Raise OutputError if another run holds the lock of a work folder; writes nothing.

    `Journal` raises the same error, but it is opened late: by then a model has been loaded for nothing.
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
    """Whether a work folder holds finished strips of an unfinished run."""
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
