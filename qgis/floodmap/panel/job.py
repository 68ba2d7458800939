"""An algorithm that runs in the background for the panel."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional

from qgis.core import (
    QgsApplication,
    QgsProcessingAlgRunnerTask,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProject,
)
from qgis.PyQt.QtCore import QObject, pyqtSignal

from ..algorithms.segment import watching_line
from .corrector import Corrector, Ends

SEGMENT = "floodmap:segment"
"""Id of the algorithm that also corrects."""


class PanelFeedback(QgsProcessingFeedback):
    """Progress and messages of a run, as signals: the run is in another thread."""

    told = pyqtSignal(str)

    def __init__(self) -> None:
        super().__init__(False)
        self.errors: List[str] = []

    def setProgressText(self, text: str) -> None:
        """Tell the stage."""
        self.told.emit(text)

    def pushInfo(self, info: str) -> None:
        """Tell a message."""
        self.told.emit(info)

    def pushWarning(self, warning: str) -> None:
        """Tell a warning."""
        self.told.emit(warning)

    def reportError(self, error: str, fatalError: bool = False) -> None:
        """Keep an error for the end."""
        self.errors.append(error)


def context() -> QgsProcessingContext:
    """Return a new context of Processing with the project."""
    found = QgsProcessingContext()
    found.setProject(QgsProject.instance())
    return found


class Job(QObject):
    """One algorithm or correction at a time, in the background."""

    started = pyqtSignal()
    told = pyqtSignal(str)
    progress = pyqtSignal(float)
    ended = pyqtSignal()

    def __init__(self, parent: Optional[QObject] = None):
        super().__init__(parent)
        self.task: Optional[QgsProcessingAlgRunnerTask] = None
        self.feedback: Optional[PanelFeedback] = None
        self._context: Optional[QgsProcessingContext] = None
        self.corrector = Corrector(self)
        for name in ("started", "told", "progress", "ended"):
            getattr(self.corrector, name).connect(getattr(self, name))

    @property
    def busy(self) -> bool:
        """True while an algorithm or a correction runs."""
        return self.task is not None or self.corrector.busy

    def start(
        self, algorithm: str, parameters: Dict[str, Any], done: Callable[[Dict[str, Any]], None],
        failed: Callable[[str], None],
    ) -> None:  # fmt: skip
        """Start an algorithm. The program that stays for corrections ends.

        Args:
            algorithm: its id, such as "floodmap:segment".
            parameters: its parameters.
            done: function that gets the outputs; they are empty if the user has cancelled.
            failed: function that gets the reason of a failure.
        """
        if self.busy:
            failed("Another run is not finished yet.")
            return
        self.corrector.release()
        found = QgsApplication.processingRegistry().createAlgorithmById(algorithm)
        self._context = context()
        self.feedback = PanelFeedback()
        right, why = found.checkParameterValues(parameters, self._context)
        if not right:
            failed(why)
            return
        self.feedback.told.connect(self.told)
        self.feedback.progressChanged.connect(self.progress)
        self.task = QgsProcessingAlgRunnerTask(found, parameters, self._context, self.feedback)
        self.task.executed.connect(lambda ok, outputs: self._end(ok, outputs, done, failed))
        self.started.emit()
        QgsApplication.taskManager().addTask(self.task)

    def correct(
        self, parameters: Dict[str, Any], new: str, done: Callable[[Dict[str, Any]], None],
        failed: Callable[[str], None],
    ) -> None:  # fmt: skip
        """Correct a result by the program that stays; if there is none, by a run of its own.

        Args:
            parameters: those of `floodmap:segment`. PROMPTS is the file of points of the result.
            new: file of the new points; it takes the place of PROMPTS.
            done: function for the end; it gets no outputs if the user has cancelled.
            failed: function that gets the reason of a failure.
        """
        outputs = {"OUTPUT_FOLDER": parameters["OUTPUT_FOLDER"]}

        def run() -> None:
            self.start(SEGMENT, parameters, done, failed)

        try:
            self.corrector.correct(
                lambda: watching_line(parameters, context()), new, parameters["PROMPTS"],
                Ends(done=lambda: done(outputs), failed=failed, cancelled=lambda: done({}), died=run),
            )  # fmt: skip
        except QgsProcessingException:  # the run has the same reason, and tells it
            run()
        except OSError as error:
            failed(f"{parameters['PROMPTS']} cannot be replaced: {error.strerror or error}")

    def cancel(self) -> None:
        """Ask the run to end."""
        self.corrector.cancel()
        if self.feedback is not None:
            self.feedback.cancel()

    def _end(
        self, ok: bool, outputs: Dict[str, Any], done: Callable[[Dict[str, Any]], None], failed: Callable[[str], None]
    ) -> None:
        errors = self.feedback.errors if self.feedback is not None else []
        cancelled = self.feedback is not None and self.feedback.isCanceled()
        self.task = None
        self.ended.emit()
        if cancelled:
            done({})
        elif ok and outputs:
            done(outputs)
        else:
            failed(errors[-1] if errors else "The run failed; see the log of Processing.")
