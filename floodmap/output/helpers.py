"""Processes beside this one: told, and answering, in lines of JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from floodmap import errors


class Process:
    """Another process that runs a module of floodmap; where none can be begun, it hears and answers nothing.

    Args:
        module: its name; it calls `answering`.
        arguments: of its command line.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self.popen: subprocess.Popen[str] | None = None
        # Not by multiprocessing, which would run the user's script again; nor does what lies in this folder count.
        command = [sys.executable, "-P", "-m", module, *arguments]
        path = os.pathsep.join(part or os.getcwd() for part in sys.path)
        with suppress(OSError, ValueError):
            self.popen = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="ascii",
                env={**os.environ, "PYTHONPATH": path},
            )  # fmt: skip

    def say(self, what: Any) -> None:
        """Send it a line."""
        if self.popen and self.popen.stdin:
            with suppress(OSError, ValueError):  # that it is gone shows when it is to answer
                self.popen.stdin.write(json.dumps(what) + "\n")
                self.popen.stdin.flush()

    def hear(self) -> tuple[str, Any] | None:
        """Its next answer: of what kind, and what; None where none comes any more."""
        if self.popen is None or self.popen.stdout is None:
            return None
        with suppress(OSError, ValueError):
            kind, what = json.loads(self.popen.stdout.readline())
            return kind, what
        return None

    def end(self) -> None:
        """Kill it."""
        process, self.popen = self.popen, None
        if process:
            with suppress(OSError), process:
                process.kill()


def answering() -> Callable[[str, Any], None]:
    """To be called first in the other process; returns what sends an answer: of what kind, and what.

    What libraries print goes to standard error from here on, and Ctrl-C is for who began the process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    turn = threading.Lock()

    def say(kind: str, what: Any) -> None:
        with turn, suppress(OSError):
            answers.write(json.dumps([kind, what]) + "\n")
            answers.flush()

    return say


def described(error: BaseException) -> list[str]:
    """An error as it is sent: its kind, and what it says."""
    return [type(error).__name__, str(error)]


def error_of(sent: list[str]) -> BaseException:
    """What `described` an error, as an error; of a kind that is not floodmap's, a RuntimeError."""
    kind, text = sent
    made = getattr(errors, kind, MemoryError if kind == "MemoryError" else None)
    return made(text) if made else RuntimeError(f"{kind}: {text}")
