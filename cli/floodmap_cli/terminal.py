"""What a command shows: progress on standard error, and the line with the result.

Progress is a bar, on a terminal only, or events with `--progress json`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from .lines import lines, progress_events

if TYPE_CHECKING:
    from floodmap.output.results import FloodMap


@contextmanager
def progress_bar(label: str, *, unit: str = "share", hidden: bool = False) -> Iterator[Callable[..., None]]:
    """Context manager: show a progress bar during the `with` block. The bar appears at the first call of `update`.

    Args:
        label: text in front of the bar.
        unit: unit of `done` and `total`: "bytes" to show sizes and a speed, "share" to show a percentage only.
        hidden: True: show nothing (-q).

    Yields:
        A function `update(done, total, label, stage)`. `total` is 1 by default, and None if the total is unknown.
        `label` is a new text in front of the bar, and may be left out. `stage` is for events alone.
    """
    if lines.as_json and not hidden:
        report = progress_events(label, unit)
        yield lambda done, total=1.0, label=label, stage="": report(done, total, stage, label)
        return
    if hidden or not sys.stderr.isatty():
        yield lambda done, total=1.0, label="", stage="": None
        return
    from rich import progress
    from rich.console import Console

    counts = [progress.DownloadColumn(), progress.TransferSpeedColumn()] if unit == "bytes" else []
    columns = [progress.TextColumn("{task.description}"), progress.BarColumn(), progress.TaskProgressColumn(), *counts]
    with progress.Progress(*columns, progress.TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=None, visible=False)
        yield lambda done, total=1.0, label=label, stage="": bar.update(
            task, completed=done, total=total, description=label, visible=True
        )


@contextmanager
def scene_bar(label: str, *, hidden: bool = False) -> Iterator[Callable[[int, int, int, str, str], None]]:
    """Context manager: show the progress of a scene during the `with` block, as a bar and numbers.

    The numbers are: finished windows and all windows, such as 12/40; the speed, in windows per second and in megapixels
    per second; and the time left.

    Args:
        label: text in front of the bar.
        hidden: True: show nothing (-q).

    Yields:
        A function `update(windows_done, windows_total, pixels_done, stage, workers)`. The first three are counts.
        `stage` is "segment" while windows are computed, and "write" while results are written. With "write", the text
        "writing results" replaces the speed. `workers` is a text on worker processes, shown after the speed.
    """
    if lines.as_json and not hidden:
        report = progress_events(label, "windows")
        yield lambda done, total, pixels, stage, workers: report(done, total, stage, workers)
        return
    if hidden or not sys.stderr.isatty():
        yield lambda done, total, pixels, stage, workers: None
        return
    import time

    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"), progress.BarColumn(), progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[speed]}"), progress.TimeRemainingColumn(),
    )  # fmt: skip
    begun: tuple[float, int, int] | None = None
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=None, speed="")

        def update(done: int, total: int, pixels: int, stage: str, workers: str) -> None:
            nonlocal begun
            now = time.monotonic()
            begun = begun or (now, done, pixels)  # a resumed run does not begin at 0
            seconds = max(now - begun[0], 1e-6)
            windows, megapixels = (done - begun[1]) / seconds, (pixels - begun[2]) / seconds / 1e6
            speed = f"{windows:.1f} windows/s {megapixels:.1f} megapixels/s {workers}".rstrip()
            shown = "writing results" if stage == "write" else speed if done > begun[1] else ""
            bar.update(task, completed=done, total=total, speed=shown)

        yield update


def print_result(result: FloodMap, as_json: bool, verbosity: int) -> None:
    """Write one line on a scene's result to standard output; write nothing with --json or -q."""
    if as_json or verbosity < 0:
        return
    summary = result.report
    area = summary["flood_area_ha"]
    size = (
        f"{area:,.2f} ha of flood"
        if area is not None
        else f"{summary['pixels']['flood']:,} pixels of flood (no CRS, so no area)"
    )
    if (permanent := summary.get("permanent_water_area_ha")) is not None:
        size += f" beside {permanent:,.2f} ha of permanent water"
    more = (*result.cems_paths[:1], result.page_path, result.pdf_path, result.stac_path)
    files = (*result.layer_paths[:1], *(path for path in more if path is not None))
    windows = "1 window" if result.failed_windows == 1 else f"{result.failed_windows} windows"
    lost = "unobserved unless another frame observes the ground" if "frames" in summary else "unobserved there"
    failed = f"; {windows} FAILED, in whole or in part: {lost}" if result.failed_windows else ""
    click.echo(
        f"{result.name}: {size} in {summary['polygons']['flood']:,} polygons, "
        f"{summary['observed_share']:.1%} observed{failed} -> {', '.join(map(str, files))}"
    )
