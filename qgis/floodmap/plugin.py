"""The plugin: the provider of Processing, and in QGIS Desktop the panel."""

from __future__ import annotations

from typing import Any, Optional

from qgis.core import QgsApplication

from .provider import FloodmapProvider


class FloodmapPlugin:
    """What QGIS starts and ends.

    Args:
        iface: the interface of QGIS Desktop; None in qgis_process.
    """

    def __init__(self, iface: Any):
        self.iface = iface
        self.provider: Optional[FloodmapProvider] = None

    def initProcessing(self) -> None:
        """Add the provider. qgis_process calls this alone."""
        self.provider = FloodmapProvider()
        QgsApplication.processingRegistry().addProvider(self.provider)

    def initGui(self) -> None:
        """Add the provider and the panel."""
        self.initProcessing()

    def unload(self) -> None:
        """Remove all that was added."""
        if self.provider is not None:
            QgsApplication.processingRegistry().removeProvider(self.provider)
            self.provider = None
