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

    Each run has a folder of its own, FOLDER/NAME/run_1 and so on. Corrections change the result in its folder; its
    layers leave the project meanwhile, because Windows does not replace files that are open.
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
        self._at: Optional[int] = None

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
            self.job.corrector.release()
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

    @property
    def can_correct(self) -> bool:
        """True if the current result can be corrected by points where it is."""
        folder, name = self.outputs.get("OUTPUT_FOLDER", ""), self.outputs.get("NAME", "")
        return bool(folder) and os.path.isdir(os.path.join(folder, f"{name}_features"))

    @property
    def is_corrected(self) -> bool:
        """True if the current result has been corrected by points."""
        try:
            return "correction" in read_report(self.outputs["OUTPUT_FOLDER"], self.outputs["NAME"])
        except (KeyError, OSError, ValueError):
            return False

    def hide_result(self) -> None:
        """Take the layers of the current result out of the project, while its files change."""
        project = QgsProject.instance()
        remove_result(project, os.path.join(self.outputs["OUTPUT_FOLDER"], "review"))
        self._at = remove_result(project, self.outputs["OUTPUT_FOLDER"])

    def say(self, text: str, bad: bool = False) -> None:
        """Show a line in the panel."""
        self.said.emit(text, bad)

    def show_result(self, outputs: Dict[str, Any]) -> None:
        """Load the layers of a new result in place of those of the old one."""
        if not outputs:
            button = "Segment" if self._at is None else "Correct the result"
            self._show_again()
            self.say(f"Cancelled. '{button}' begins again.")
            return
        old, self.outputs = self.outputs, outputs
        at = 0
        if old and self._at is None:
            remove_result(QgsProject.instance(), os.path.join(old["OUTPUT_FOLDER"], "review"))
            at = remove_result(QgsProject.instance(), old["OUTPUT_FOLDER"])
        self.say(self._load(at if self._at is None else self._at))
        self._at = None
        self.changed.emit()

    def show_failure(self, text: str) -> None:
        """Show why a run failed."""
        self._show_again()
        self.say(text, True)

    def _show_again(self) -> None:
        """Load the layers that `hide_result` has taken out, if the files are complete."""
        at, self._at = self._at, None
        if at is not None:
            try:
                self._load(at)
            except (OSError, ValueError):  # the run was cancelled while it wrote; the next correction completes it
                return

    def _load(self, at: int) -> str:
        """Load the layers of the current result at a place of the legend; return a line on the result."""
        folder, name = self.outputs["OUTPUT_FOLDER"], self.outputs["NAME"]
        report = read_report(folder, name)
        load(result_layers(folder, name, report), f"{name} - floodmap", folder, QgsProject.instance(), at)
        return summary(report)
