"""Second part of the panel: clicks on water and dry ground."""

from __future__ import annotations

import os
from typing import Callable, Optional

from qgis.core import QgsPointXY, QgsProject, QgsVectorLayer
from qgis.PyQt.QtWidgets import QGroupBox, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from .click_tool import ClickTool
from .points import NOT_WATER, WATER, add_point, count, open_points, raise_layer, remove_last
from .session import Session


class CorrectPart(QGroupBox):
    """Buttons for the two kinds of points, and for the run with them."""

    def __init__(
        self, session: Session, run: Callable[[Optional[QgsVectorLayer]], None], parent: Optional[QWidget] = None
    ):
        super().__init__("Correct with clicks", parent)
        self.session, self.run = session, run
        self.canvas = session.iface.mapCanvas()
        self.tool = ClickTool(self.canvas)
        self.tool.clicked.connect(self.add)
        self.tool.deactivated.connect(self._tool_left)
        self.water, self.not_water = QPushButton("Water"), QPushButton("Not water")
        for button, label in ((self.water, WATER), (self.not_water, NOT_WATER)):
            button.setCheckable(True)
            button.clicked.connect(lambda checked, label=label: self.pick(label, checked))
        self.water.setToolTip("Click on the map where there is water that the result misses")
        self.not_water.setToolTip("Click on the map where the result shows flood and there is none")
        self.undo = QPushButton("Remove last")
        self.undo.clicked.connect(self.remove)
        self.state = QLabel()
        self.again = QPushButton("Correct the result with the points")
        self.again.setToolTip(
            "Computes only the windows with points again; without points, the first result comes back"
        )
        self.again.clicked.connect(lambda: self.run(self.layer()))
        session.changed.connect(self.show_on_top)
        session.job.started.connect(self.update_state)
        session.job.ended.connect(self.update_state)
        self._lay_out()
        self.update_state()

    def _lay_out(self) -> None:
        column, row = QVBoxLayout(self), QHBoxLayout()
        for button in (self.water, self.not_water, self.undo):
            row.addWidget(button)
        column.addLayout(row)
        column.addWidget(self.state)
        column.addWidget(self.again)

    def layer(self, make: bool = False) -> Optional[QgsVectorLayer]:
        """Return the layer of points of the scene; None if there is none and `make` is False."""
        path, scene = self.session.points_path, self.session.scene
        if scene is None or not (make or os.path.isfile(path)):
            return None
        return open_points(path, scene.crs(), QgsProject.instance())

    def pick(self, label: int, checked: bool) -> None:
        """Begin or end to take clicks of one kind."""
        if not checked:
            self.canvas.unsetMapTool(self.tool)
            return
        if self.session.scene is None:
            self.session.say("Choose a scene first.", True)
            (self.water if label == WATER else self.not_water).setChecked(False)
            return
        self.tool.label = label
        self.canvas.setMapTool(self.tool)
        self.water.setChecked(label == WATER)
        self.not_water.setChecked(label == NOT_WATER)

    def add(self, place: QgsPointXY, label: int) -> None:
        """Add a point."""
        layer = self.layer(make=True)
        crs = self.canvas.mapSettings().destinationCrs()
        if layer is None or not add_point(layer, place, crs, label, QgsProject.instance()):
            self.session.say(f"The point cannot be saved in {self.session.points_path}.", True)
        self.update_state()

    def remove(self) -> None:
        """Remove the last point."""
        layer = self.layer()
        if layer is not None:
            remove_last(layer)
        self.update_state()

    def show_on_top(self) -> None:
        """Put the layer of points over a new result."""
        layer = self.layer()
        if layer is not None:
            raise_layer(layer, QgsProject.instance())
        self.update_state()

    def _tool_left(self) -> None:
        self.water.setChecked(False)
        self.not_water.setChecked(False)

    def update_state(self) -> None:
        """Show the number of points, and which buttons can be used."""
        layer = self.layer()
        wet, dry = count(layer) if layer is not None else (0, 0)
        self.state.setText(f"{wet} on water, {dry} not on water" if wet + dry else "No points yet")
        self.undo.setEnabled(wet + dry > 0)
        can_run = wet + dry > 0 or (layer is not None and self.session.is_corrected)
        self.again.setEnabled(can_run and not self.session.job.busy)

    def close_tool(self) -> None:
        """Give the map back to the other tools."""
        self.canvas.unsetMapTool(self.tool)
