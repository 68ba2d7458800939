"""A program that stays: `floodmap segment --watch` corrects a result whenever the file of points is replaced."""

from __future__ import annotations

import queue
import threading
import time
from typing import List, Mapping, Optional, Sequence

from .child import GRACE_S, Ended, run
from .events import Event, parse

IDLE_S = 600.0
"""Time without a correction after which the program should end, in seconds. It holds the model in memory."""
ANSWER_S = 20.0
"""Time in which the program must notice new points, in seconds. It looks ten times in a second."""


class Resident:
    """One program as a child process, and what it does.

    The process runs in a thread of its own, from the beginning. The other methods are for one thread.

    Args:
        command: the program and its arguments, with --watch and --progress json.
        environment: all its environment variables.
        grace_s: time that the program has to end by itself, in seconds.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], grace_s: float = GRACE_S):
        self.command = list(command)
        self.busy = True
        """True: a correction is not finished yet. The first one begins at once."""
        self.ended = False
        """True: the process has ended, or could not be started."""
        self.cancelled = False
        """True: `end` was called."""
        self.failure = ""
        """Why the last correction failed; empty if it did not."""
        self._asked_s: Optional[float] = None
        self._since_s = time.monotonic()
        self._lines: "queue.Queue[str]" = queue.Queue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(dict(environment), grace_s), daemon=True)
        self._thread.start()

    def _run(self, environment: Mapping[str, str], grace_s: float) -> Optional[Ended]:
        try:
            return run(self.command, environment, self._lines.put, self._stop.is_set, grace_s=grace_s)
        except OSError:  # it cannot be started; whoever asks sees that it has ended
            return None

    def ask(self) -> None:
        """Expect a correction: the file of points is being replaced."""
        self.busy, self.failure, self._asked_s = True, "", time.monotonic()

    def events(self) -> List[Event]:
        """Return what was told since the last call; `busy`, `ended` and `failure` are up to date then."""
        gone, found = not self._thread.is_alive(), []  # first, so that no line is lost
        while not self._lines.empty():
            event = parse(self._lines.get_nowait())
            self._note(event)
            found.append(event)
        self.ended = gone
        return found

    def _note(self, event: Event) -> None:
        if event.kind == "message" and event.level in ("error", "critical"):
            self.failure = event.text
        elif event.kind == "correcting":
            self.busy, self.failure, self._asked_s = True, "", None
        elif event.kind == "watching" and self.busy and self._asked_s is None:
            # While new points are not noticed yet, "watching" is only a sign of life.
            self.busy, self._since_s = False, time.monotonic()
            self.failure = (self.failure or "The correction failed.") if event.code == 1 else ""

    @property
    def is_deaf(self) -> bool:
        """True if the program does not notice the new points."""
        return self._asked_s is not None and time.monotonic() - self._asked_s > ANSWER_S

    @property
    def is_idle(self) -> bool:
        """True if the program has had nothing to do for `IDLE_S`."""
        return not self.busy and time.monotonic() - self._since_s > IDLE_S

    def end(self, wait_s: float = 0.0) -> None:
        """End the program with all its processes, in the background.

        Args:
            wait_s: longest time to wait for the end, in seconds.
        """
        self.cancelled = True
        self._stop.set()
        if wait_s > 0:
            self._thread.join(wait_s)
