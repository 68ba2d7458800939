"""Waiting for changes of a file of points, for `floodmap segment --watch`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

POLL_S = 0.1
"""Time between two looks at the file, in seconds."""
_PARTS = ("", "-wal", "-journal")
"""Endings of the files of a GeoPackage. QGIS writes changes to the file `-wal` first."""


def state_of(path: Path) -> tuple[tuple[int, int], ...]:
    """Return sizes and times of change of a file and of the temporary files that SQLite writes beside it."""
    found = []
    for part in _PARTS:
        try:
            stat = Path(f"{path}{part}").stat()
        except OSError:
            found.append((-1, 0))
        else:
            found.append((stat.st_size, stat.st_mtime_ns))
    return tuple(found)


def changes_of(path: Path) -> Iterator[None]:
    """Yield once after each change of a file, when it has not changed again for `POLL_S`; endless."""
    seen = state_of(path)
    while True:
        time.sleep(POLL_S)
        now = state_of(path)
        if now == seen or not path.exists():
            continue
        time.sleep(POLL_S)
        if state_of(path) == now:
            seen = now
            yield
