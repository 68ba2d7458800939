"""Hashes of files, kept in the process: one that corrects a scene again and again does not read it each time."""

from __future__ import annotations

import hashlib
import os
import time
from io import BufferedReader
from pathlib import Path

_EDGE_BYTES = 64 * 2**10
_PIECE_BYTES = 4 * 2**10
_PIECES = 256
SETTLED_NS = 60 * 10**9
"""Least age of the last change of a file, in nanoseconds, with which its hash is kept. The times in the file system are
too coarse to show a second change soon after the first."""
_MOST = 1024
_kept: dict[tuple[object, ...], bytes] = {}
"""Hashes by path, size and times of the file."""


def hash_of(path: Path, *, whole: bool) -> bytes:
    """Return a SHA-256 of a file.

    Args:
        path: the file.
        whole: True: all bytes are hashed. False: of a file of more than 1 MiB, only pieces, the size and the
            modification time are hashed.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        stat = os.fstat(file.fileno())
        state = str(path), whole, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
        if (found := _kept.get(state)) is not None:
            return found
        is_small = stat.st_size <= _PIECES * _PIECE_BYTES
        digest = hashlib.file_digest(file, "sha256").digest() if whole or is_small else _of_pieces(file, stat)
    if time.time_ns() - max(stat.st_mtime_ns, stat.st_ctime_ns) >= SETTLED_NS:
        if len(_kept) >= _MOST:
            _kept.clear()
        _kept[state] = digest
    return digest


def _of_pieces(file: BufferedReader, stat: os.stat_result) -> bytes:
    digest = hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    digest.update(file.read(_EDGE_BYTES))
    for number in range(1, _PIECES):
        file.seek(stat.st_size * number // _PIECES)
        digest.update(file.read(_PIECE_BYTES))
    file.seek(stat.st_size - _EDGE_BYTES)
    digest.update(file.read(_EDGE_BYTES))
    return digest.digest()
