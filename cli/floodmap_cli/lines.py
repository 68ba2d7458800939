"""Lines on standard error: text for a person, or with `--progress json` one JSON object a line for a program."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import click

EVERY_S = 0.1
"""Shortest time between two events of progress, in seconds. The first, the last and a new stage are never left out."""


class Lines:
    """Messages and progress of one run, as lines on standard error."""

    def __init__(self) -> None:
        self.as_json = False
        """True: JSON objects. False: text, and no events."""

    def message(self, level: str, text: str) -> None:
        """Write a message. `level` is a name of `logging` in lower case; that of "info" is not shown in text."""
        text = " ".join(text.split())
        if self.as_json:
            self.event("message", level=level, text=text)
        else:
            click.echo(f"floodmap: {'' if level == 'info' else f'{level}: '}{text}", err=True)

    def event(self, name: str, **fields: Any) -> None:
        """Write an event; nothing without `as_json`."""
        if self.as_json:
            # click.echo flushes. It raises BrokenPipeError if the reader has ended, and the run ends then, too.
            click.echo(json.dumps({"event": name, **fields}, ensure_ascii=False, default=str), err=True)


lines = Lines()
"""The lines of this process. `run` in `main` begins with text."""


def progress_events(scene: str, unit: str) -> Callable[..., None]:
    """Return a function `update(done, total, stage, text)` that writes events of progress.

    Args:
        scene: name of what is processed.
        unit: unit of `done` and `total`: "windows", "scenes", "bytes" or "share" (0 to 1).
    """
    last_s, last_stage = -EVERY_S, ""

    def update(done: float, total: float | None, stage: str, text: str = "") -> None:
        nonlocal last_s, last_stage
        now_s = time.monotonic()
        if now_s - last_s < EVERY_S and stage == last_stage and done != total:
            return
        last_s, last_stage = now_s, stage
        lines.event("progress", done=done, total=total, unit=unit, stage=stage, scene=scene, text=text)

    return update
