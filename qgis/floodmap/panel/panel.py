"""The panel itself."""

from __future__ import annotations

from typing import Any

from qgis.PyQt.QtCore import Qt
from qgis.PyQt.QtWidgets import QDockWidget, QLabel, QScrollArea, QVBoxLayout, QWidget

from .correct_part import CorrectPart
from .program_part import ProgramPart
from .review_part import ReviewPart
from .run_part import RunPart
from .session import Session


class FloodmapPanel(QDockWidget):
    """Segment a scene, correct it, review it.

    Args:
        iface: the interface of QGIS Desktop.
    """

    def __init__(self, iface: Any):
        super().__init__("floodmap", iface.mainWindow())
        self.setObjectName("floodmap")  # QGIS saves the place of the panel under this name
        self.session = Session(iface, self)
        self.run_part = RunPart(self.session)
        self.correct_part = CorrectPart(self.session, self.run_part.start)
        self.review_part = ReviewPart(self.session)
        self.program_part = ProgramPart(self.session)
        self.message = QLabel("Choose a scene, then 'Segment'.")
        self.message.setWordWrap(True)
        self.message.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.session.said.connect(self.show_message)
        self.session.job.told.connect(lambda text: self.show_message(text, False))
        inside = QWidget()
        column = QVBoxLayout(inside)
        for part in (self.run_part, self.message, self.correct_part, self.review_part, self.program_part):
            column.addWidget(part)
        column.addStretch(1)
        area = QScrollArea()
        area.setWidgetResizable(True)
        area.setWidget(inside)
        area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        area.setMinimumWidth(inside.minimumSizeHint().width() + area.verticalScrollBar().sizeHint().width())
        self.setWidget(area)

    def show_message(self, text: str, bad: bool) -> None:
        """Show a line on what happens, in red if it is an error."""
        self.message.setText(text)
        self.message.setStyleSheet("color: #b00020" if bad else "")

    def close_tools(self) -> None:
        """Give the map back, and end a run and the program that stays."""
        self.correct_part.close_tool()
        self.session.job.cancel()
        self.session.job.corrector.shut()

    def closeEvent(self, event: Any) -> None:
        """End the program that stays for corrections: it holds the model in memory."""
        self.session.job.corrector.release()
        super().closeEvent(event)
