"""Third part of the panel: the places of a review, one after the other."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Optional

from qgis.core import QgsCoordinateTransform, QgsFeature, QgsProject, QgsVectorLayer
from qgis.PyQt.QtGui import QColor
from qgis.PyQt.QtWidgets import QComboBox, QGroupBox, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from ..core.results import read_report, result_layers, review_layers, summary
from ..loading import load, remove_result
from .session import Session

STATUSES = ("open", "accepted", "rejected", "redrawn")


class ReviewPart(QGroupBox):
    """Find places, look at them, decide, apply."""

    def __init__(self, session: Session, parent: Optional[QWidget] = None):
        super().__init__("Review", parent)
        self.session = session
        self.at = 0
        self.places: List[QgsFeature] = []
        self.find, self.apply, self.undo = QPushButton("Find places"), QPushButton("Apply"), QPushButton("Undo")
        self.before, self.after = QPushButton("◀"), QPushButton("▶")
        self.label, self.status = QLabel("No places yet"), QComboBox()
        self.status.addItems(STATUSES)
        for button in (self.before, self.after):
            button.setMaximumWidth(36)
        self.status.setToolTip("accepted: right; rejected: no flood here; redrawn: the polygons of 'Edits' are right")
        self.find.clicked.connect(self.find_places)
        self.before.clicked.connect(lambda: self.go(self.at - 1))
        self.after.clicked.connect(lambda: self.go(self.at + 1))
        self.status.activated.connect(lambda index: self.decide(STATUSES[index]))
        self.apply.clicked.connect(lambda: self.take_in(False))
        self.undo.clicked.connect(lambda: self.take_in(True))
        session.changed.connect(self.forget)
        session.job.started.connect(self.update_state)
        session.job.ended.connect(self.update_state)
        self._lay_out()
        self.update_state()

    def _lay_out(self) -> None:
        column = QVBoxLayout(self)
        for widgets in ((self.find, self.apply, self.undo), (self.before, self.label, self.after, self.status)):
            row = QHBoxLayout()
            for widget in widgets:
                row.addWidget(widget)
            column.addLayout(row)

    @property
    def path(self) -> str:
        """The GeoPackage of the review; "" without a result."""
        outputs = self.session.outputs
        return os.path.join(outputs["OUTPUT_FOLDER"], f"{outputs['NAME']}_review.gpkg") if outputs else ""

    def layer(self) -> Optional[QgsVectorLayer]:
        """Return the layer of the places in the project."""
        for layer in QgsProject.instance().mapLayers().values():
            if self.path and layer.source().startswith(self.path) and "layername=review" in layer.source():
                return layer
        return None

    def forget(self) -> None:
        """Begin anew after another result was made."""
        self.places = []
        self.update_state()

    def find_places(self) -> None:
        """Write the places, or open those that are there."""
        if os.path.isfile(self.path):
            self.show_places({})
            return
        parameters = {"INPUT": self.session.outputs["MASK_RASTER"], "LOAD": False}
        self.session.job.start("floodmap:reviewplaces", parameters, self.show_places, self.session.show_failure)

    def show_places(self, outputs: Dict[str, Any]) -> None:
        """Load the layers of the review, and go to the first place."""
        if not os.path.isfile(self.path):
            return
        if self.layer() is None:
            result = self.session.outputs
            folder = os.path.join(result["OUTPUT_FOLDER"], "review")
            load(review_layers(self.path), f"{result['NAME']} - review", folder, QgsProject.instance())
        layer = self.layer()
        self.places = sorted(layer.getFeatures(), key=lambda place: place["rank"]) if layer is not None else []
        self.session.say(f"{len(self.places)} places, the largest expected error first")
        self.go(0)

    def go(self, at: int) -> None:
        """Show one place."""
        layer = self.layer()
        if not self.places or layer is None:
            self.update_state()
            return
        self.at = max(0, min(at, len(self.places) - 1))
        place = self.places[self.at]
        self.label.setText(f"Place {self.at + 1} of {len(self.places)}")
        self.status.setCurrentIndex(max(0, self.status.findText(str(place["status"]))))
        canvas = self.session.iface.mapCanvas()
        change = QgsCoordinateTransform(layer.crs(), canvas.mapSettings().destinationCrs(), QgsProject.instance())
        extent = change.transformBoundingBox(place.geometry().boundingBox())
        extent.scale(1.6)
        canvas.setExtent(extent)
        canvas.refresh()
        canvas.flashFeatureIds(layer, [place.id()], QColor(255, 140, 0, 160), QColor(255, 140, 0, 0), 2, 400)
        self.update_state()

    def decide(self, status: str) -> None:
        """Save the status of the place."""
        layer = self.layer()
        if layer is None or not self.places:
            return
        place = self.places[self.at]
        column = layer.fields().indexOf("status")
        if not layer.dataProvider().changeAttributeValues({place.id(): {column: status}}):
            self.session.say(f"The status cannot be saved in {self.path}.", True)
            return
        place.setAttribute(column, status)
        layer.triggerRepaint()

    def take_in(self, undo: bool) -> None:
        """Take the decisions into the result, or out of it again."""
        project = QgsProject.instance()
        unsaved = [one.name() for one in project.mapLayers().values()
                   if one.source().startswith(self.path) and getattr(one, "isModified", lambda: False)()]  # fmt: skip
        if unsaved:
            self.session.say(f"Save the layer {unsaved[0]} first (Toggle Editing).", True)
            return
        mask = self.session.outputs["MASK_RASTER"]
        # Windows cannot replace files that are open.
        at = remove_result(project, self.session.outputs["OUTPUT_FOLDER"])
        self.session.job.start(
            "floodmap:applyreview", {"INPUT": mask, "UNDO": undo}, lambda outputs: self._applied(at),
            lambda text: self._failed(text, at),
        )  # fmt: skip

    def _applied(self, at: int) -> None:
        """Show the result again."""
        outputs = self.session.outputs
        folder, name = outputs["OUTPUT_FOLDER"], outputs["NAME"]
        report = read_report(folder, name)
        load(result_layers(folder, name, report), f"{name} - floodmap", folder, QgsProject.instance(), at)
        self.session.say(summary(report))

    def _failed(self, text: str, at: int) -> None:
        self._applied(at)
        self.session.show_failure(text)

    def update_state(self) -> None:
        """Show which buttons can be used."""
        free = bool(self.session.outputs) and not self.session.job.busy
        for button in (self.find, self.apply, self.undo):
            button.setEnabled(free)
        self.apply.setEnabled(free and os.path.isfile(self.path))
        self.undo.setEnabled(free and self._is_applied())
        self.before.setEnabled(self.at > 0 and bool(self.places))
        self.after.setEnabled(self.at + 1 < len(self.places))
        self.status.setEnabled(bool(self.places))
        if not self.places:
            self.label.setText("No places yet")

    def _is_applied(self) -> bool:
        outputs = self.session.outputs
        return bool(outputs) and os.path.isdir(os.path.join(outputs["OUTPUT_FOLDER"], f"{outputs['NAME']}_model"))
