"""Waiting for changes of a file of points, for `floodmap segment --watch`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

POLL_S = 0.1
"""Time between two looks at the file, in seconds."""
LOOKS = 50
"""Number of looks without a change after which `on_wait` of `changes_of` is called."""
State = tuple[tuple[int, int], ...]
"""Sizes in bytes and times of change in nanoseconds."""
_PARTS = ("", "-wal", "-journal")
"""Endings of the files of a GeoPackage. QGIS writes changes to the file `-wal` first."""


def state_of(path: Path) -> State:
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


def changes_of(path: Path, seen: State | None = None, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Yield once after each change of a file, when it has not changed again for `POLL_S`; endless.

    Args:
        path: the file.
        seen: its state when it was read last. A change since then is the first one. None: the state of now.
        on_wait: function that is called again and again while the file does not change.
    """
    seen = state_of(path) if seen is None else seen
    looks = 0
    while True:
        time.sleep(POLL_S)
        now = state_of(path)
        if now == seen or not path.exists():
            looks += 1
            if looks % LOOKS == 0:
                on_wait()
            continue
        time.sleep(POLL_S)
        if state_of(path) == now:
            seen, looks = now, 0
            yield
