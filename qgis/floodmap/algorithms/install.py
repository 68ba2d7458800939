"""`floodmap:install`: an environment with the program, made by pip."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Optional, Tuple

from qgis.core import (
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingOutputFile,
    QgsProcessingOutputString,
    QgsProcessingParameterFile,
)

from ..compat import FILE, FOLDER
from ..core.child import run
from ..core.events import Event
from ..core.finding import (
    COMPLETE,
    VERSION_CODE,
    NoProgramError,
    install_lines,
    pick_python,
    pythons,
    script,
    wheel_problem,
)
from ..running import cancelled, environment, remove_folder, run_line
from ..settings import environment_folder
from .base import ProgramAlgorithm


class InstallProgram(ProgramAlgorithm):
    """The program in an environment of its own."""

    ID, TITLE, COMMAND = "install", "Install the program floodmap", ""
    HELP = (
        "Makes an environment of Python in the profile of QGIS and installs the program floodmap there by pip, from "
        "the index that pip is configured for, or from a folder of wheels, without a network. QGIS's own Python is not "
        "changed. Needs Python 3.11 or later. The download has about 3 GB on Linux and 300 MB on Windows and macOS.\n\n"
        "A folder of wheels is made on another machine of the same kind with: make wheelhouse"
    )
    GROUP = ("setup", "Set-up")

    def initAlgorithm(self, configuration: Any = None) -> None:
        """Declare parameters and outputs."""
        self.addParameter(
            QgsProcessingParameterFile("WHEELS", self.tr("Folder of wheels [default: index]"), FOLDER, optional=True)
        )
        self.addParameter(
            QgsProcessingParameterFile(
                "PYTHON", self.tr("Python [default: the newest on PATH]"), FILE, optional=True,
                fileFilter="All files (*)",  # the default, *.*, refuses names without a suffix
            )
        )  # fmt: skip
        self.addOutput(QgsProcessingOutputFile("PROGRAM", self.tr("Program")))
        self.addOutput(QgsProcessingOutputString("VERSION", self.tr("Version")))

    def prepareAlgorithm(
        self, parameters: Dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> bool:
        """Do nothing: there are no layers."""
        return True

    def processAlgorithm(
        self, parameters: Dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> Dict[str, Any]:
        """Make the environment. One that is not complete is removed."""
        wheels = self.parameterAsString(parameters, "WHEELS", context)
        chosen = self.parameterAsString(parameters, "PYTHON", context)
        problem = wheel_problem(wheels) if wheels else ""
        if problem:
            raise QgsProcessingException(problem)
        try:
            found = [chosen] if chosen else list(pythons(os.environ))
            python, version = pick_python(found, lambda path: self._version(path, feedback))
        except NoProgramError as error:
            raise QgsProcessingException(str(error)) from None
        feedback.pushInfo(f"Python {version[0]}.{version[1]}: {python}")
        folder = environment_folder()
        remove_folder(folder)
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        try:
            if not self._make(install_lines(python, folder, wheels), feedback):
                remove_folder(folder)
                return {}
            said = self._said([script(folder), "--version"], feedback)
        except QgsProcessingException:
            remove_folder(folder)
            raise
        with open(os.path.join(folder, COMPLETE), "w", encoding="utf-8") as file:
            file.write(f"{said}\n")
        feedback.pushInfo(f"{said} is installed: {script(folder)}")
        return {"PROGRAM": script(folder), "VERSION": said}

    def _make(self, lines: List[List[str]], feedback: QgsProcessingFeedback) -> bool:
        """Run the command lines one after the other; return False if the user has cancelled."""
        for number, line in enumerate(lines):
            feedback.setProgress(100.0 * number / len(lines))
            messages: List[Event] = []
            ended = run_line(line, feedback, messages)
            if ended.cancelled:
                return False
            if ended.code:
                said = [event.text for event in messages if event.text] or [ended.output[-500:]]
                first = next((text for text in said if text.startswith("ERROR")), said[-1])
                raise QgsProcessingException(f"The environment cannot be made: {first.strip()}")
        return True

    def _said(self, line: List[str], feedback: QgsProcessingFeedback) -> str:
        ended = run_line(line, feedback, [])
        if ended.code:
            raise QgsProcessingException(f"The program was installed, but does not run: {line[0]}")
        return ended.output.strip()

    @staticmethod
    def _version(python: str, feedback: QgsProcessingFeedback) -> Optional[Tuple[int, int]]:
        try:
            line = [python, "-c", VERSION_CODE]
            ended = run(line, environment(), lambda text: None, lambda: cancelled(feedback))
            major, minor = map(int, ended.output.split())
        except (OSError, ValueError):
            return None
        return (major, minor) if not ended.code else None
