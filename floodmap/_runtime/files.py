"""Files written whole or not at all."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from floodmap.errors import writing


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A name in the same folder to write a file under: it takes the file's place at the end, or goes if that fails.

    The name is short, whatever the file's is, and another process writes under another.
    """
    partial = path.with_name(f".{zlib.crc32(os.fsencode(path.name)):08x}-{os.getpid()}.part")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a file of text in UTF-8, whole or not at all.

    Raises:
        OutputError: the system refuses.
    """
    with writing(path), atomic_path(path) as partial:
        partial.write_text(text, "utf-8")
