"""Journal of a run: the finished strips on disk, from which an interrupted run is resumed.

Each strip is one file with a checksum, and is written atomically.
"""

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
"""Name of the format of strip files. The digest of a strip file depends on the name of the format.

Strip files in formats of earlier versions of floodmap therefore have another digest, and are ignored.
"""
_SCRATCH, _SETTINGS = "scratch", "settings.json"


@dataclass(frozen=True, slots=True)
class Entry:
    """Finished strip with notes on the windows of the strip."""

    strip: Strip
    notes: Mapping[str, Any]
    """Counts of computed and of skipped windows, the number of predicted pixels, and the list of failed windows.

    All values have types that JSON can store. For the keys see `inference.prediction.predict`.
    """


class Strips:
    """Finished strips in a work folder, from the top of the scene down to the first missing or corrupt strip.

    Args:
        folder: the work folder, which contains the unfinished results of a run.
        comes: function that receives the number of a strip, counted from 0 at the top. The function waits until the
            strip is finished and returns True, or returns False if the strip will never be written. None: only strips
            that are on disk already are read.
    """

    def __init__(self, folder: Path, comes: Callable[[int], bool] | None = None) -> None:
        self.folder = folder
        self._comes = comes or (lambda _: True)

    @property
    def scratch(self) -> Path:
        """Folder for temporary files, on the same disk as the results.

        If a run is killed, the next run deletes the files of this folder.
        """
        path = self.folder / _SCRATCH
        with writing(path):
            path.mkdir(exist_ok=True)
        return path

    def notes(self) -> list[Mapping[str, Any]]:
        """Return the notes (`Entry.notes`) of each finished strip, from the top."""
        return [head["notes"] for head, _ in self._whole()]

    def strips(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Decompress the finished strips in blocks of rows, from the top of the scene to the bottom.

        A block has at most `strip.BLOCK_PIXELS` pixels, but at least one row.

        Yields:
            For each block: the scene row at which the block begins, counted from 0, and the codes of the block, uint8
            (rows of the block, scene width).
        """
        for head, packed in self._whole():
            strip = _strip_of(head, packed)
            row = strip.row_off
            for codes in strip.blocks():
                yield row, codes
                row += len(codes)

    def read(self, index: int) -> Strip | None:
        """Return one strip, with its codes compressed; None if it is missing or corrupt. `index` counts from 0."""
        found = self._read(index)
        return None if found is None else _strip_of(*found)

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:05d}.strip"

    def _whole(self) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Read each strip file from the top of the scene, up to the first missing or corrupt strip.

        Yields:
            For each strip a pair. First, the header: a dict with the keys `row_off`, `height` and `step` (see `Strip`),
            `notes` (see `Entry`), and `pieces`. `pieces` is a list with a pair for each piece of the strip (see
            `Strip.pieces`): the number of columns, and a list with the size of each compressed block in bytes. Second,
            the compressed blocks of all pieces, joined to one bytes object without separators.
        """
        for index in count():
            if not self._comes(index) or (found := self._read(index)) is None:
                return
            yield found
            del found

    def _read(self, index: int) -> tuple[dict[str, Any], bytes] | None:
        """Return header and blocks of one strip file (see `_whole`); None if it is missing or corrupt."""
        try:
            raw = self._path(index).read_bytes()
        except FileNotFoundError:
            return None
        digest, body = raw[:_DIGEST], raw[_DIGEST:]
        if digest != _digest(body):
            return None
        head, packed = body.split(b"\n", 1)
        del raw, body
        return json.loads(head), packed


class Journal(Strips):
    """Finished strips in the work folder of the run of one scene, open for writing; a context manager.

    The work folder is locked against other runs until the end of the `with` block. While windows are computed, results
    are written to strip files, not to a GeoTIFF. If a process is killed while it writes a compressed GeoTIFF, the
    blocks that are missing in the file are later read as nodata, without an error. A strip file begins with a digest of
    the rest of the file, so that a partly written strip file is detected and ignored.

    Args:
        folder: the work folder; created if missing.
        settings: all settings on which the results depend. Strips computed with other settings are not reused.
        resume: True: keep the finished strips of an earlier run, and compute only the strips that are missing.
        discard: True: delete the finished strips of an earlier run if this run cannot keep them. This is the case if
            `resume` is False, or if the strips were computed with other settings.

    Raises:
        OutputError: another run uses the folder, or the folder cannot be written. Or there are finished strips of an
            earlier run that this run cannot keep, and `discard` is False.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, resume: bool, discard: bool = False) -> None:
        super().__init__(folder)
        self.settings = settings
        self.told: Callable[[int], None] = lambda _: None
        """Function that is called with the number of finished strips after each change of this number."""
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
        """Keep or delete the strips of an earlier run, and write the settings of this run to the work folder.

        Args:
            wanted: settings of this run, as JSON text.
            resume: argument of `Journal`.
            discard: argument of `Journal`.
        """
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
        """Write a strip to disk, completely or not at all.

        Args:
            index: number of the strip, counted from 0 at the top.
            entry: the strip with its notes.

        Raises:
            OutputError: the disk is full, or the operating system reports another error in writing.
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
        """Return the number of finished strips from the top down to the first missing or corrupt strip.

        The next strip to append has this number, because strips are counted from 0.
        """
        whole = sum(1 for _ in self._whole())
        self.told(whole)
        return whole

    def files(self) -> list[Path]:
        """Return the paths of all strip files, from the top of the scene. They can be moved when results are final."""
        return sorted(self.folder.glob("*.strip"))

    def remove(self) -> None:
        """Delete the work folder, except files that cannot be deleted.

        Call this method after the results have been moved to the output folder.
        """
        with suppress(OSError):
            self._clear()
            # Windows cannot delete an open file. On NFS, a folder with a deleted file that is still open is not empty.
            self._lock.release()
            (self.folder / "lock").unlink(missing_ok=True)
            self.folder.rmdir()

    def _clear(self) -> None:
        """Delete all files of the work folder except the lock.

        The settings are deleted first. If the process is killed afterwards, the remaining strips are ignored, because
        the folder has no settings.
        """
        (self.folder / _SETTINGS).unlink(missing_ok=True)
        shutil.rmtree(self.folder / _SCRATCH, ignore_errors=True)
        for path in self.folder.iterdir():
            if path.suffix in (".strip", ".part"):
                path.unlink()


def refuse_busy(folder: Path) -> None:
    """Raise OutputError if another run holds the lock of a work folder. No file is written.

    `Journal` raises the same error, but is created only after the model has been loaded. Loading takes time.
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
    """Return whether a work folder contains finished strips of an unfinished run."""
    return (folder / _SETTINGS).exists() and any(folder.glob("*.strip"))


def _strip_of(head: Mapping[str, Any], packed: bytes) -> Strip:
    """Return the strip of a strip file; for the arguments see `Strips._whole`."""
    pieces, end = [], 0
    for columns, sizes in head["pieces"]:
        ends = list(accumulate(sizes, initial=end))
        pieces.append((columns, tuple(packed[first:after] for first, after in pairwise(ends))))
        end = ends[-1]
    return Strip(head["row_off"], head["height"], head["step"], tuple(pieces))


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
