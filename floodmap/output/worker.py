"""Results made in a process of their own while windows are computed.

Outlines and rasters take as much of Python's lock as reading and blending windows: in one process they held up what
keeps a GPU busy (`benchmarks/gpu.py`).
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import IO, Any

from floodmap._runtime.memory import freed_memory_kept
from floodmap.errors import OutputError
from floodmap.output.finishing import Finishing
from floodmap.output.results import FloodMap
from floodmap.strips.journal import Journal, Strips

log = logging.getLogger(__name__)

_END = -1
"""Sent when no further strip will come."""


class Beside:
    """A process that makes results of the strips that come into a journal. A context manager: it ends with it.

    Where no process can be begun (a program that Python is embedded in, say), results are made when they are asked for.
    """

    def __init__(self, finishing: Finishing, journal: Journal) -> None:
        self._finishing, self._journal = finishing, journal
        # As multiprocessing's `spawn` does it, but without running the user's script again.
        program = f"import sys; sys.path[:] = {sys.path!r}; from floodmap.output.worker import serve; serve()"
        self._process: subprocess.Popen[bytes] | None = None
        with suppress(OSError):
            self._process = subprocess.Popen(
                [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        self._say((finishing, journal.folder, logging.getLogger("floodmap").getEffectiveLevel()))
        journal.told = self._say

    def __enter__(self) -> Beside:
        return self

    def __exit__(self, *error: object) -> None:
        self._journal.told = lambda _: None
        if self._process is None:
            return
        # Before the journal's folder is given to somebody else: results half made are in it.
        with suppress(OSError), self._process:
            self._process.kill()

    def result(self) -> FloodMap:
        """The results, once all strips are in the journal.

        Raises:
            FloodmapError: what went wrong there.
        """
        self._say(_END)
        begun = False
        while (heard := self._hear()) is not None:
            kind, what = heard
            if kind == "begun":
                begun = True
            elif kind == "log":
                logging.getLogger(what.name).handle(what)
            elif kind == "error":
                raise what
            else:
                result: FloodMap = what
                return result
        if begun:
            raise OutputError(
                f"{self._finishing.out}: what makes the results was ended; if memory ran out, make room; go on with "
                "--resume"
            )
        log.debug("no process could be begun for the results")
        return self._finishing.run(self._journal)

    def _say(self, what: Any) -> None:
        if self._process and self._process.stdin:
            with suppress(OSError):  # that it is gone shows when results are asked for
                pickle.dump(what, self._process.stdin)
                self._process.stdin.flush()

    def _hear(self) -> tuple[str, Any] | None:
        if self._process is None or self._process.stdout is None:
            return None
        try:
            heard: tuple[str, Any] = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError):
            return None
        return heard


class _Followed:
    """How many strips there are by now, as the other process says."""

    def __init__(self, told: IO[bytes]) -> None:
        self._told, self._changed, self._count, self._ended = told, threading.Condition(), 0, False
        threading.Thread(target=self._listen, daemon=True).start()

    def comes(self, index: int) -> bool:
        """Wait for a strip; whether there is one."""
        with self._changed:
            self._changed.wait_for(lambda: index < self._count or self._ended)
            return index < self._count

    def _listen(self) -> None:
        while True:
            try:
                count = pickle.load(self._told)
            except (EOFError, OSError, pickle.UnpicklingError):
                os._exit(1)  # nobody is there to use results; another run may begin in the same folder
            with self._changed:
                self._count, self._ended = max(self._count, count), self._ended or count == _END
                self._changed.notify_all()


class _Passing(logging.Handler):
    """Hands log records on."""

    def __init__(self, say: Any) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        record.msg, record.args = record.getMessage(), None
        self._say("log", record)


def serve() -> None:
    """Be the other process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever began this one is told, and ends it
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    turn = threading.Lock()

    def say(kind: str, what: Any = None) -> None:
        with turn, suppress(OSError):
            answers.write(pickle.dumps((kind, what)))
            answers.flush()

    finishing, folder, level = pickle.load(sys.stdin.buffer)
    say("begun")
    own = logging.getLogger("floodmap")
    own.setLevel(level)
    own.addHandler(_Passing(say))
    own.propagate = False
    followed = _Followed(sys.stdin.buffer)
    import geopandas  # noqa: F401 (takes a second, which is at hand now)

    try:
        with freed_memory_kept():
            result = finishing.run(Strips(folder, followed.comes), at_once=True)
    except BaseException as error:
        say("error", _sendable(error))
    else:
        say("result", result)
    os._exit(0)  # a thread waits for what will not come, and Python would wait for it


def _sendable(error: BaseException) -> BaseException:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # classes may say how they are pickled, and may be wrong
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
