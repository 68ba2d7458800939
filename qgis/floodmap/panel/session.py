"""What the parts of the panel share: the scene, the folder, the result that is shown."""

from __future__ import annotations

import os
import re
from typing import Any, Dict, Optional

from qgis.core import QgsProject, QgsRasterLayer, QgsSettings
from qgis.PyQt.QtCore import QObject, pyqtSignal

from ..core.results import latest_run, read_report, result_layers, summary
from ..loading import load, remove_result
from ..settings import FOLDER
from .job import Job


class Session(QObject):
    """The work on one scene.

    Each run has a folder of its own, FOLDER/NAME/run_1 and so on: a result that QGIS shows is never replaced.
    """

    changed = pyqtSignal()
    said = pyqtSignal(str, bool)

    def __init__(self, iface: Any, parent: Optional[QObject] = None):
        super().__init__(parent)
        self.iface = iface
        self.job = Job(self)
        self.scene: Optional[QgsRasterLayer] = None
        self.base = QgsSettings().value(FOLDER, "") or self._default_base()
        self.outputs: Dict[str, Any] = {}

    @staticmethod
    def _default_base() -> str:
        return os.path.join(QgsProject.instance().homePath() or os.path.expanduser("~"), "floodmap_output")

    def set_base(self, folder: str) -> None:
        """Choose the folder for results."""
        self.base = folder
        QgsSettings().setValue(FOLDER, folder)

    def set_scene(self, layer: Optional[QgsRasterLayer]) -> None:
        """Choose the scene. Its last result, if there is one, is the current one."""
        if layer is not self.scene:
            self.scene = layer
            self.outputs = (latest_run(self.folder) or {}) if layer is not None else {}
            if self.outputs:
                run = os.path.basename(self.outputs["OUTPUT_FOLDER"])
                self.say(f"A result is there from before: {run} in {self.folder}. It can be reviewed and corrected.")
            self.changed.emit()

    @property
    def folder(self) -> str:
        """Folder of the scene."""
        source = self.scene.source().split("|")[0] if self.scene is not None else ""
        stem = os.path.splitext(os.path.basename(source))[0]
        return os.path.join(self.base, re.sub(r"[^\w.-]+", "_", stem) or "scene")

    @property
    def points_path(self) -> str:
        """The GeoPackage with the points of the scene."""
        return os.path.join(self.folder, "corrections.gpkg")

    def next_run(self) -> str:
        """Return the folder for the next run; it does not exist yet."""
        number = 1
        while os.path.exists(os.path.join(self.folder, f"run_{number}")):
            number += 1
        return os.path.join(self.folder, f"run_{number}")

    def say(self, text: str, bad: bool = False) -> None:
        """Show a line in the panel."""
        self.said.emit(text, bad)

    def show_result(self, outputs: Dict[str, Any]) -> None:
        """Load the layers of a new result in place of those of the old one."""
        if not outputs:
            self.say("Cancelled. 'Segment' begins again.")
            return
        project, old = QgsProject.instance(), self.outputs
        self.outputs = outputs
        folder, name = outputs["OUTPUT_FOLDER"], outputs["NAME"]
        report = read_report(folder, name)
        at = 0
        if old:
            remove_result(project, os.path.join(old["OUTPUT_FOLDER"], "review"))
            at = remove_result(project, old["OUTPUT_FOLDER"])
        load(result_layers(folder, name, report), f"{name} - floodmap", folder, project, at)
        self.say(summary(report))
        self.changed.emit()

    def show_failure(self, text: str) -> None:
        """Show why a run failed."""
        self.say(text, True)
