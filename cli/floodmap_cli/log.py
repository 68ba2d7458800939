"""Log lines on standard error: `floodmap: warning: ...`, or JSON with `--progress json`."""

from __future__ import annotations

import logging
import os

from .lines import lines


class StderrHandler(logging.Handler):
    """Log handler that writes each record as one line to standard error.

    `sys.stderr` is looked up for each record, because a progress bar may have replaced it. Equal warnings are written
    once, because training opens the same picture several times.
    """

    def __init__(self) -> None:
        super().__init__()
        self._warned: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            message = " ".join(record.getMessage().split())
            if record.levelno == logging.WARNING:
                if message in self._warned:
                    return
                self._warned.add(message)
            lines.message(record.levelname.lower(), message)
        except Exception:
            self.handleError(record)


def configure_logging(verbosity: int) -> None:
    """Show floodmap's own log messages of a level and all higher levels.

    The level is ERROR for verbosity -1, WARNING for 0, INFO for 1, and DEBUG for 2. Logs and warnings of other
    libraries are shown only at verbosity 2. The reason is that rasterio first logs and then raises each error of GDAL,
    so users would read the error twice.
    """
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if not isinstance(handler, StderrHandler)]
    root.addHandler(StderrHandler())
    root.setLevel(logging.WARNING if verbosity >= 2 else logging.CRITICAL)
    own = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}
    logging.getLogger("floodmap").setLevel(own[max(-1, min(verbosity, 2))])
    logging.captureWarnings(True)


def debugging() -> bool:
    """Return whether tracebacks are shown: with -vv, or if FLOODMAP_DEBUG is set to anything but 0."""
    wanted = os.environ.get("FLOODMAP_DEBUG", "0") not in ("", "0")
    return wanted or logging.getLogger("floodmap").getEffectiveLevel() <= logging.DEBUG
