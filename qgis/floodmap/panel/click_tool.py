"""The map tool for points on water and on dry ground."""

from __future__ import annotations

from typing import Any

from qgis.core import QgsPointXY
from qgis.gui import QgsMapCanvas, QgsMapTool
from qgis.PyQt.QtCore import Qt, pyqtSignal
from qgis.PyQt.QtGui import QCursor


class ClickTool(QgsMapTool):
    """Emits `clicked` with the place and the label for each click."""

    clicked = pyqtSignal(QgsPointXY, int)

    def __init__(self, canvas: QgsMapCanvas):
        super().__init__(canvas)
        self.label = 1
        self.setCursor(QCursor(Qt.CursorShape.CrossCursor))

    def canvasReleaseEvent(self, event: Any) -> None:
        """Take a click with the left button, in the CRS of the map."""
        if event.button() == Qt.MouseButton.LeftButton:
            self.clicked.emit(self.toMapCoordinates(event.pos()), self.label)
