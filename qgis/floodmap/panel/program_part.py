"""Last part of the panel: which program runs."""

from __future__ import annotations

import os
from typing import Optional

from qgis.core import QgsSettings
from qgis.PyQt.QtWidgets import QFileDialog, QHBoxLayout, QLabel, QMenu, QToolButton, QWidget

from ..core.finding import NoProgramError, find_program
from ..settings import PROGRAM, chosen_program, environment_folder
from .session import Session


class ProgramPart(QWidget):
    """The file of the program, and a menu to choose or to install it."""

    def __init__(self, session: Session, parent: Optional[QWidget] = None):
        super().__init__(parent)
        self.session = session
        self.text = QLabel()
        self.text.setWordWrap(True)
        self.button = QToolButton()
        self.button.setText("Program")
        self.button.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        menu = QMenu(self.button)
        menu.addAction("Choose the file…", self.choose)
        menu.addAction("Find it again", self.forget)
        menu.addAction("Install it…", self.install)
        self.button.setMenu(menu)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self.text, 1)
        row.addWidget(self.button)
        self.show_program()

    def show_program(self) -> None:
        """Show the program that is found, or what to do."""
        try:
            found = find_program(chosen_program(), environment_folder(), os.environ)
        except NoProgramError as error:
            self.text.setText(str(error))
            return
        self.text.setText(f"Program: {found.path}")
        self.text.setToolTip(f"Found by: {found.origin}")

    def choose(self) -> None:
        """Ask for the file of the program."""
        path, _ = QFileDialog.getOpenFileName(self, "The program floodmap", chosen_program())
        if path:
            QgsSettings().setValue(PROGRAM, path)
        self.show_program()

    def forget(self) -> None:
        """Forget the chosen file."""
        QgsSettings().remove(PROGRAM)
        self.show_program()

    def install(self) -> None:
        """Open the dialog of `floodmap:install`."""
        import processing

        processing.execAlgorithmDialog("floodmap:install", {})
        self.show_program()
