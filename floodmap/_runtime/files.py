"""Atomic writes: a file is written whole or not at all."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from floodmap.errors import writing


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Context manager: a temporary path in the same folder, renamed to `path` at the end, deleted after an error.

    The temporary name is short, however long the file's is. It holds the process id, so no two processes share one.
    """
    partial = path.with_name(f".{zlib.crc32(os.fsencode(path.name)):08x}-{os.getpid()}.part")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all.

    Raises:
        OutputError: the system refuses to write it.
    """
    with writing(path), atomic_path(path) as partial:
        partial.write_text(text, "utf-8")
