"""Progress bars on standard error, on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(label: str, *, unit: str = "share", hidden: bool = False) -> Iterator[Callable[..., None]]:
    """Show a bar while the block runs; it appears with the first report.

    Args:
        label: what is going on.
        unit: "bytes" to show sizes and a speed, "share" for a percentage.
        hidden: show nothing (-q).

    Yields:
        A function to report with: `update(done, total)`; total defaults to 1, None means that it is not known.
    """
    if hidden or not sys.stderr.isatty():
        yield lambda done, total=1.0: None
        return
    from rich import progress
    from rich.console import Console

    counts = [progress.DownloadColumn(), progress.TransferSpeedColumn()] if unit == "bytes" else []
    columns = [progress.TextColumn("{task.description}"), progress.BarColumn(), progress.TaskProgressColumn(), *counts]
    with progress.Progress(*columns, progress.TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=None, visible=False)
        yield lambda done, total=1.0: bar.update(task, completed=done, total=total, visible=True)
