"""The plugin: the provider of Processing, and in QGIS Desktop the panel."""

from __future__ import annotations

from typing import Any, Optional

from qgis.core import QgsApplication
from qgis.PyQt.QtCore import Qt
from qgis.PyQt.QtGui import QIcon

from .algorithms.base import ICON
from .compat import QAction
from .provider import FloodmapProvider

MENU = "floodmap"


class FloodmapPlugin:
    """What QGIS starts and ends.

    Args:
        iface: the interface of QGIS Desktop; None in qgis_process.
    """

    def __init__(self, iface: Any):
        self.iface = iface
        self.provider: Optional[FloodmapProvider] = None
        self.panel: Any = None
        self.action: Any = None

    def initProcessing(self) -> None:
        """Add the provider. qgis_process calls this alone."""
        self.provider = FloodmapProvider()
        QgsApplication.processingRegistry().addProvider(self.provider)

    def initGui(self) -> None:
        """Add the provider, and the button of the panel. The panel itself is made when it is first wanted."""
        self.initProcessing()
        self.action = QAction(QIcon(ICON), "floodmap", self.iface.mainWindow())
        self.action.setCheckable(True)
        self.action.triggered.connect(self.show_panel)
        self.iface.addToolBarIcon(self.action)
        self.iface.addPluginToRasterMenu(MENU, self.action)

    def show_panel(self, shown: bool = True) -> None:
        """Show or hide the panel."""
        if self.panel is None:
            from .panel.panel import FloodmapPanel

            self.panel = FloodmapPanel(self.iface)
            self.panel.visibilityChanged.connect(self.action.setChecked)
            self.iface.addDockWidget(Qt.DockWidgetArea.RightDockWidgetArea, self.panel)
        if shown:
            self.panel.show()
        else:
            self.panel.close()

    def unload(self) -> None:
        """Remove all that was added."""
        if self.panel is not None:
            self.panel.close_tools()
            self.panel.visibilityChanged.disconnect(self.action.setChecked)
            self.iface.removeDockWidget(self.panel)
            self.panel.deleteLater()
            self.panel = None
        if self.action is not None:
            self.iface.removePluginRasterMenu(MENU, self.action)
            self.iface.removeToolBarIcon(self.action)
            self.action = None
        if self.provider is not None:
            QgsApplication.processingRegistry().removeProvider(self.provider)
            self.provider = None
