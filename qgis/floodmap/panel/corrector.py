"""Corrections of one result by a program that stays, so that a click does not wait for its start."""

from __future__ import annotations

import os
from typing import Callable, List, NamedTuple, Optional

from qgis.core import QgsProcessingException
from qgis.PyQt.QtCore import QCoreApplication, QObject, QTimer, pyqtSignal

from ..core.child import GRACE_S
from ..core.resident import Resident
from ..running import environment

LOOK_MS = 50
"""Time between two looks at what the program tells, in milliseconds."""


class Ends(NamedTuple):
    """Functions for the ends of a correction; one of them is called."""

    done: Callable[[], None]
    failed: Callable[[str], None]
    """Gets the reason."""
    cancelled: Callable[[], None]
    died: Callable[[], None]
    """The program cannot be started, or has ended, or does not notice the points."""


class Corrector(QObject):
    """Starts the program with the first correction, keeps it for the next ones, and ends it."""

    started = pyqtSignal()
    told = pyqtSignal(str)
    progress = pyqtSignal(float)
    ended = pyqtSignal()

    def __init__(self, parent: Optional[QObject] = None):
        super().__init__(parent)
        self.resident: Optional[Resident] = None
        self._ends: Optional[Ends] = None
        self._leaves = False
        self.timer = QTimer(self)
        self.timer.setInterval(LOOK_MS)
        self.timer.timeout.connect(self._look)
        QCoreApplication.instance().aboutToQuit.connect(self.shut)

    @property
    def busy(self) -> bool:
        """True during a correction."""
        return self.resident is not None and self.resident.busy

    def correct(self, line: Callable[[], List[str]], new: str, points: str, ends: Ends) -> None:
        """Replace the file of points, and correct the result.

        Args:
            line: function that returns the command line, when the file of points exists.
            new: the new file of points; it is moved.
            points: the file of points that the program reads.
            ends: functions for the end.

        Raises:
            OSError: the file of points cannot be replaced.
            QgsProcessingException: there is no command line.
        """
        kept = self.resident
        if kept is not None and not (os.path.isfile(points) and self._fits(kept, line)):
            self.shut()
            kept = None
        os.replace(new, points)
        if kept is not None:
            kept.ask()
        else:
            self.resident = Resident(line(), environment())
        self._leaves, self._ends = False, ends
        self.timer.start()
        self.started.emit()

    @staticmethod
    def _fits(resident: Resident, line: Callable[[], List[str]]) -> bool:
        """Return whether a program waits, and is that of the command line."""
        resident.events()
        try:
            return line() == resident.command and not (resident.ended or resident.cancelled or resident.busy)
        except QgsProcessingException:  # told by the next use of `line`
            return False

    def _look(self) -> None:
        """Pass on what the program tells, and end it if it has been idle for long."""
        resident = self.resident
        if resident is None:
            return
        was_busy = resident.busy
        for event in resident.events():
            if event.share is not None:
                self.progress.emit(100.0 * event.share)
            if event.text and was_busy and (event.kind == "progress" or event.level == "warning"):
                self.told.emit(event.text)
        if resident.ended or resident.is_deaf:
            cancelled = resident.cancelled
            self.shut()
            if was_busy:
                self._end(lambda ends: ends.cancelled() if cancelled else ends.died())
        elif was_busy and not resident.busy:
            if self._leaves:
                self._forget()
            why = resident.failure
            self._end(lambda ends: ends.failed(why) if why else ends.done())
        elif resident.is_idle:
            self._forget()

    def _end(self, tell: Callable[[Ends], None]) -> None:
        ends, self._ends = self._ends, None
        self.ended.emit()
        if ends is not None:
            tell(ends)

    def _forget(self) -> None:
        """End the program in the background."""
        resident, self.resident = self.resident, None
        self.timer.stop()
        if resident is not None and not resident.cancelled:
            resident.end()

    def cancel(self) -> None:
        """End a correction, and the program."""
        if self.resident is not None and self.resident.busy:
            self.resident.end()  # the rest happens in `_look` when it has ended

    def release(self) -> None:
        """End the program; if it corrects, after the correction."""
        self._leaves = True
        if not self.busy:
            self._forget()

    def shut(self) -> None:
        """End the program now, and wait until it has ended."""
        resident = self.resident
        self._forget()
        if resident is not None:
            resident.end(2 * GRACE_S)
