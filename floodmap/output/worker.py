"""A separate process that writes the results while windows are computed.

Writing rasters and polygons needs Python's global interpreter lock, and so does reading and blending windows. In a
single process, writing delayed the input of a GPU (`benchmarks/gpu.py`). The separate process runs this module, and
reads strips from the journal as they are appended.
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
from floodmap.output.helpers import Process, error_from_json, error_to_json, open_channel
from floodmap.output.results import FloodMap, finished_before
from floodmap.strips.journal import Journal, Strips

log = logging.getLogger(__name__)

_END = -1
"""Message to the process that no further strip will be appended. Any other message is the number of finished strips."""
_TASK = "finishing.json"
"""Name of the file with the settings (`Finishing.to_json`), in the journal's folder for temporary files."""


class FinishingProcess:
    """A process that writes the results of a run, reading strips from the journal as they are appended.

    The object is a context manager: on exit, the process is killed. If the process cannot be started (for example if
    Python is embedded in another program), `result` writes the results in the calling process.

    Args:
        finishing: settings for writing the results.
        journal: journal of the run, to which strips are appended.
    """

    def __init__(self, finishing: Finishing, journal: Journal) -> None:
        self._finishing, self._journal = finishing, journal
        write_whole(journal.scratch / _TASK, finishing.to_json())
        level = logging.getLogger("floodmap").getEffectiveLevel()
        self.process = Process(__name__, str(journal.folder.absolute()), str(journal.scratch.absolute()), str(level))
        journal.told = self.process.send

    def __enter__(self) -> FinishingProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self._journal.told = lambda _: None
        self.process.end()  # before the journal's folder is unlocked, because the process writes files there

    def result(self) -> FloodMap:
        """Wait until the results are written, and return them. Call this after the last strip is in the journal.

        Raises:
            FloodmapError: the process could not write the results, or was killed.
        """
        self.process.send(_END)
        started, finishing = False, self._finishing
        while (message := self.process.receive()) is not None:
            kind, content = message
            started = True
            if kind == "log":
                name, level, text = content
                logging.getLogger(name).log(level, "%s", text)
            elif kind == "error":
                raise error_from_json(content)
            elif kind == "done" and (
                done := finished_before(
                    finishing.out, finishing.name, finishing.formats, finishing.settings, cems=finishing.cems
                )
            ):
                return done
        if started:
            raise OutputError(
                f"{finishing.out}: the process that writes the results was stopped, perhaps for lack of memory; "
                "free memory and continue with --resume"
            )
        log.debug("no process could be begun for the results")
        return finishing.run(self._journal)


class _StripCount:
    """Number of strips in the journal. The parent process sends each new number as a line on standard input."""

    def __init__(self) -> None:
        self._changed, self._count, self._ended = threading.Condition(), 0, False
        threading.Thread(target=self._listen, daemon=True).start()

    def wait_for(self, index: int) -> bool:
        """Wait until the journal contains strip number `index`, counted from 0, and return True.

        Return False if the parent process reports that no further strip will be appended.
        """
        with self._changed:
            self._changed.wait_for(lambda: index < self._count or self._ended)
            return index < self._count

    def _listen(self) -> None:
        for line in sys.stdin:
            with self._changed:
                self._count, self._ended = max(self._count, int(line)), self._ended or int(line) == _END
                self._changed.notify_all()
        os._exit(1)  # the parent process has ended, so another run may begin in the same folder


class _SendingHandler(logging.Handler):
    """Log handler that sends log records to the parent process."""

    def __init__(self, send: Callable[[str, Any], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send("log", [record.name, record.levelno, record.getMessage()])


def main(folder: str, scratch: str, level: str) -> None:
    """Run the process that writes the results. The arguments come from the command line of the process.

    Args:
        folder: folder of the journal.
        scratch: folder of the journal for temporary files.
        level: level of the log as in `logging`, as text, such as "20" for INFO.
    """
    send = open_channel()
    send("begun", None)
    logger = logging.getLogger("floodmap")
    logger.setLevel(int(level))
    logger.addHandler(_SendingHandler(send))
    logger.propagate = False
    strip_count = _StripCount()
    import geopandas  # noqa: F401 (takes a second, while the first windows are computed anyway)

    try:
        finishing = Finishing.from_json(Path(scratch, _TASK).read_text("utf-8"))
        with freed_memory_kept():
            finishing.run(Strips(Path(folder), strip_count.wait_for), at_once=True)
    except BaseException as error:
        send("error", error_to_json(error))
    else:
        send("done", None)
    os._exit(0)  # without waiting for the thread that reads standard input


if __name__ == "__main__":
    main(*sys.argv[1:])
