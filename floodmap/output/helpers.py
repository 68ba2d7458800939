"""Helper processes of floodmap, which exchange messages with the parent process: lines of JSON over pipes."""

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


def module_command(module: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """Return the command line and the environment of a process that runs a module, with the imports of this process."""
    # The package multiprocessing is not used, because it would run the user's script again. The option -P prevents
    # imports from the current folder.
    path = os.pathsep.join(part or os.getcwd() for part in sys.path)
    return [sys.executable, "-P", "-m", module, *arguments], {**os.environ, "PYTHONPATH": path}


def own_group() -> dict[str, Any]:
    """Return the arguments of `subprocess.Popen` for a process that Ctrl-C in a terminal does not reach.

    Such a process can be started before it ignores the signal itself.
    """
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"process_group": 0}


class Process:
    """A helper process that runs a module of floodmap.

    If the process cannot be started, `send` does nothing and `receive` returns None.

    Args:
        module: name of the module. The module must call `open_channel` first.
        arguments: arguments on the command line of the process.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self.popen: subprocess.Popen[str] | None = None
        command, environment = module_command(module, *arguments)
        with suppress(OSError, ValueError):
            self.popen = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="ascii", env=environment
            )

    def send(self, content: Any) -> None:
        """Send `content`, a value of JSON types, to the process as one line of JSON."""
        if self.popen and self.popen.stdin:
            with suppress(OSError, ValueError):  # if the process has ended, `receive` returns None
                self.popen.stdin.write(json.dumps(content) + "\n")
                self.popen.stdin.flush()

    def receive(self) -> tuple[str, Any] | None:
        """Wait for the next message of the process.

        Returns:
            Kind of the message, such as "done", and content of the message, of JSON types. None if the process has
            ended or could not be started.
        """
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
    """Open the channel from a helper process to the parent process. Helper processes call this function first.

    After the call, text that libraries print goes to standard error, and Ctrl-C does not end the helper process.

    Returns:
        A function that sends a message to the parent process. Its arguments are the kind of the message, such as
        "done", and the content, of JSON types.
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
    """Convert an error to the content of a message: the name of the error's type, and the error's text."""
    return [type(error).__name__, str(error)]


def error_from_json(content: list[str]) -> BaseException:
    """Convert the content of a message, made by `error_to_json`, to an error.

    The error has the original type if this type is MemoryError or one of `floodmap.errors`; otherwise RuntimeError.
    """
    kind, text = content
    error_type = getattr(errors, kind, MemoryError if kind == "MemoryError" else None)
    return error_type(text) if error_type else RuntimeError(f"{kind}: {text}")
