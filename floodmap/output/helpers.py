"""Helper processes of floodmap that exchange messages with this one, as lines of JSON over pipes."""

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
    """A helper process that runs a module of floodmap; if it cannot be started, no message is ever received.

    Args:
        module: the module's name; it calls `open_channel` first.
        arguments: of its command line.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self.popen: subprocess.Popen[str] | None = None
        # Not by multiprocessing, which would run the user's script again. -P: no imports from the current folder.
        command = [sys.executable, "-P", "-m", module, *arguments]
        path = os.pathsep.join(part or os.getcwd() for part in sys.path)
        with suppress(OSError, ValueError):
            self.popen = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="ascii",
                env={**os.environ, "PYTHONPATH": path},
            )  # fmt: skip

    def send(self, content: Any) -> None:
        """Send a message to the process, as one line of JSON."""
        if self.popen and self.popen.stdin:
            with suppress(OSError, ValueError):  # if it has ended, `receive` returns None
                self.popen.stdin.write(json.dumps(content) + "\n")
                self.popen.stdin.flush()

    def receive(self) -> tuple[str, Any] | None:
        """Wait for the next message of the process: its kind and its content; None once the process has ended."""
        if self.popen is None or self.popen.stdout is None:
            return None
        with suppress(OSError, ValueError):
            kind, content = json.loads(self.popen.stdout.readline())
            return kind, content
        return None

    def end(self) -> None:
        """Kill the process."""
        process, self.popen = self.popen, None
        if process:
            with suppress(OSError), process:
                process.kill()


def open_channel() -> Callable[[str, Any], None]:
    """To be called first in a helper process; returns the function that sends a message: its kind and its content.

    From then on, what libraries print goes to standard error, and Ctrl-C is left to the parent process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    channel = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    lock = threading.Lock()

    def send(kind: str, content: Any) -> None:
        with lock, suppress(OSError):
            channel.write(json.dumps([kind, content]) + "\n")
            channel.flush()

    return send


def error_to_json(error: BaseException) -> list[str]:
    """An error as the content of a message: the name of its type, and its text."""
    return [type(error).__name__, str(error)]


def error_from_json(content: list[str]) -> BaseException:
    """The error from `error_to_json`; a RuntimeError if its type is not one of floodmap's."""
    kind, text = content
    error_type = getattr(errors, kind, MemoryError if kind == "MemoryError" else None)
    return error_type(text) if error_type else RuntimeError(f"{kind}: {text}")
