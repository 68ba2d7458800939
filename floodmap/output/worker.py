"""Results made in a process of their own while windows are computed.

Outlines and rasters take as much of Python's lock as reading and blending windows: in one process they held up what
keeps a GPU busy (`benchmarks/gpu.py`). The process follows the journal: `python -m floodmap.output.worker WORK`.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from floodmap._runtime.files import write_whole
from floodmap._runtime.memory import freed_memory_kept
from floodmap.errors import OutputError
from floodmap.output.finishing import Finishing
from floodmap.output.helpers import Process, answering, described, error_of
from floodmap.output.results import FloodMap, finished_before
from floodmap.strips.journal import Journal, Strips

log = logging.getLogger(__name__)

_END = -1
"""Sent when no further strip will come."""
_TASK = "finishing.json"


class FinishingProcess:
    """A process that makes results of the strips that come into a journal. A context manager: it ends with it.

    Where no process can be begun (a program that Python is embedded in, say), results are made when they are asked for.
    """

    def __init__(self, finishing: Finishing, journal: Journal) -> None:
        self._finishing, self._journal = finishing, journal
        write_whole(journal.scratch / _TASK, finishing.to_json())
        level = logging.getLogger("floodmap").getEffectiveLevel()
        self.process = Process(__name__, str(journal.folder.absolute()), str(journal.scratch.absolute()), str(level))
        journal.told = self.process.say

    def __enter__(self) -> FinishingProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self._journal.told = lambda _: None
        self.process.end()  # before the journal's folder is given to somebody else: results half made are in it

    def result(self) -> FloodMap:
        """The results, once all strips are in the journal.

        Raises:
            FloodmapError: what went wrong there.
        """
        self.process.say(_END)
        begun, made = False, self._finishing
        while (heard := self.process.hear()) is not None:
            kind, what = heard
            begun = True
            if kind == "log":
                name, level, message = what
                logging.getLogger(name).log(level, "%s", message)
            elif kind == "error":
                raise error_of(what)
            elif kind == "done" and (done := finished_before(made.out, made.name, made.formats, made.settings)):
                return done
        if begun:
            raise OutputError(
                f"{made.out}: what makes the results was ended; if memory ran out, make room; go on with --resume"
            )
        log.debug("no process could be begun for the results")
        return made.run(self._journal)


class _Followed:
    """How many strips there are by now, as the other process says, a line each time."""

    def __init__(self) -> None:
        self._changed, self._count, self._ended = threading.Condition(), 0, False
        threading.Thread(target=self._listen, daemon=True).start()

    def comes(self, index: int) -> bool:
        """Wait for a strip; whether there is one."""
        with self._changed:
            self._changed.wait_for(lambda: index < self._count or self._ended)
            return index < self._count

    def _listen(self) -> None:
        for line in sys.stdin:
            with self._changed:
                self._count, self._ended = max(self._count, int(line)), self._ended or int(line) == _END
                self._changed.notify_all()
        os._exit(1)  # nobody is there to use results; another run may begin in the same folder


class _Passing(logging.Handler):
    """Hands log records on."""

    def __init__(self, say: Callable[[str, Any], None]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say("log", [record.name, record.levelno, record.getMessage()])


def main(folder: str, scratch: str, level: str) -> None:
    """Be the other process."""
    say = answering()
    say("begun", None)
    own = logging.getLogger("floodmap")
    own.setLevel(int(level))
    own.addHandler(_Passing(say))
    own.propagate = False
    followed = _Followed()
    import geopandas  # noqa: F401 (takes a second, which is at hand now)

    try:
        made = Finishing.from_json(Path(scratch, _TASK).read_text("utf-8"))
        with freed_memory_kept():
            made.run(Strips(Path(folder), followed.comes), at_once=True)
    except BaseException as error:
        say("error", described(error))
    else:
        say("done", None)
    os._exit(0)  # a thread waits for what will not come, and Python would wait for it


if __name__ == "__main__":
    main(*sys.argv[1:])
