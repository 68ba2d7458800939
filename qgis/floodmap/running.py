"""Runs of the program, with progress and messages in the log of Processing."""

from __future__ import annotations

import os
import shutil
from typing import Any, Dict, List, Sequence, Tuple

from qgis.core import QgsApplication, QgsProcessingException, QgsProcessingFeedback
from qgis.PyQt.QtCore import QCoreApplication, QEventLoop, QThread

from .core.arguments import command_line, shown
from .core.child import Ended, run
from .core.environment import child_environment
from .core.events import Event, parse
from .core.finding import NoProgramError, Program, find_program
from .settings import chosen_program, environment_folder

INCOMPLETE = 3
"""Exit code of the program: the results are written, but some windows or frames failed."""
LABELS = {"--overwrite": "'Replace existing results'", "--resume": "'Continue an interrupted run'"}
"""Names of parameters for options in messages of the program."""


def environment() -> Dict[str, str]:
    """Return the environment variables for the program."""
    return child_environment(os.environ, [QgsApplication.prefixPath(), QgsApplication.applicationDirPath()])


def program() -> Program:
    """Return the program.

    Raises:
        QgsProcessingException: it is not on this machine.
    """
    try:
        return find_program(chosen_program(), environment_folder(), os.environ)
    except NoProgramError as error:
        raise QgsProcessingException(str(error)) from None


def run_floodmap(
    command: str,
    places: Sequence[str],
    options: Sequence[Tuple[str, Any]],
    feedback: QgsProcessingFeedback,
) -> Ended:
    """Run a command of the program to its end.

    Args:
        command: name of the command.
        places: files and folders, the arguments without a name.
        options: pairs of an option and its value.
        feedback: gets progress and messages, and says whether the user has cancelled.

    Raises:
        QgsProcessingException: the program is missing or failed; its text is one line for the user.
    """
    found = program()
    line = command_line([found.path], command, places, options)
    messages: List[Event] = []
    ended = run_line(line, feedback, messages)
    if ended.cancelled:
        feedback.pushInfo("Cancelled. No process of floodmap is left.")
    elif ended.code == INCOMPLETE:
        feedback.reportError("The result is incomplete: parts failed and are unobserved. See the messages above.")
    elif ended.code:
        raise QgsProcessingException(failure(found, command, ended.code, messages))
    return ended


def run_line(line: List[str], feedback: QgsProcessingFeedback, messages: List[Event]) -> Ended:
    """Run a command line; `messages` gets the messages.

    Raises:
        QgsProcessingException: the program cannot be started.
    """
    feedback.pushCommandInfo(shown(line))

    def on_line(text: str) -> None:
        event = parse(text)
        if event.kind == "message":
            messages.append(event)
        tell(event, feedback)

    try:
        return run(line, environment(), on_line, lambda: cancelled(feedback))
    except OSError as error:
        raise QgsProcessingException(f"{line[0]} cannot be started: {error.strerror or error}") from None


def cancelled(feedback: QgsProcessingFeedback) -> bool:
    """Return whether the user has cancelled. In qgis_process, Ctrl-C is an event of the main thread."""
    application = QCoreApplication.instance()
    if application is not None and QThread.currentThread() == application.thread():
        QCoreApplication.processEvents(QEventLoop.ProcessEventsFlag.ExcludeUserInputEvents)
    return bool(feedback.isCanceled())


def tell(event: Event, feedback: QgsProcessingFeedback) -> None:
    """Show an event in the log or the progress bar."""
    if event.kind == "progress":
        if event.share is not None:
            feedback.setProgress(100.0 * event.share)
        feedback.setProgressText(event.text)
    elif event.kind == "message" and event.text:
        if event.level in ("error", "critical"):
            feedback.reportError(event.text)
        elif event.level == "warning":
            feedback.pushWarning(event.text)
        else:
            feedback.pushInfo(event.text)


def failure(found: Program, command: str, code: int, messages: Sequence[Event]) -> str:
    """Return one line on why a run failed and what to do."""
    errors = [event.text for event in messages if event.level in ("error", "critical")]
    text = errors[-1] if errors else ""
    if f"No such command '{command}'" in text:
        return f"The floodmap at {found.path} has no command '{command}'; update it: pip install --upgrade floodmap"
    if "No such option" in text:
        return f"The floodmap at {found.path} is of another version than the plugin ({text}); update both."
    if code < 0:
        return f"The system ended floodmap (signal {-code}), perhaps for want of memory. 'Resolution' lowers the need."
    if not text:
        said = messages[-1].text if messages else "it wrote no message"
        return f"floodmap failed with exit code {code}: {said}"
    for option, label in LABELS.items():
        text = text.replace(option, label)
    return text


def remove_folder(folder: str) -> None:
    """Remove a folder with its content, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)
