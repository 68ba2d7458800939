"""Atomic writing: a file is written completely or not at all."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from floodmap.errors import writing


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Context manager: yield the path of a temporary file, and rename the temporary file to `path` at the end.

    After an error the temporary file is deleted, and an existing file at `path` stays unchanged. The temporary file is
    in the folder of `path`. The temporary name is short even if the name of `path` is long. The temporary name contains
    the process id, so that two processes never write the same temporary file.
    """
    partial = path.with_name(f".{zlib.crc32(os.fsencode(path.name)):08x}-{os.getpid()}.part")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Write a text file in UTF-8, completely or not at all.

    Raises:
        OutputError: the operating system reports an error in writing.
    """
    with writing(path), atomic_path(path) as partial:
        partial.write_text(text, "utf-8")
