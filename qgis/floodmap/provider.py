"""The provider `floodmap` of Processing."""

from __future__ import annotations

from typing import List

from qgis.core import QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

from .algorithms import ALGORITHMS
from .algorithms.base import ICON


class FloodmapProvider(QgsProcessingProvider):
    """All algorithms of the plugin."""

    def id(self) -> str:
        """Return the id, the part before the colon in `floodmap:segment`."""
        return "floodmap"

    def name(self) -> str:
        """Return the name for the user."""
        return "floodmap"

    def icon(self) -> QIcon:
        """Return the icon."""
        return QIcon(ICON)

    def supportedOutputVectorLayerExtensions(self) -> List[str]:
        """Return the suffixes of vector files that the program writes."""
        return ["gpkg", "shp", "geojson", "fgb", "parquet"]

    def defaultVectorFileExtension(self, hasGeometry: bool = True) -> str:
        """Return the suffix of temporary vector files."""
        return "gpkg"

    def loadAlgorithms(self) -> None:
        """Add all algorithms."""
        for algorithm in ALGORITHMS:
            self.addAlgorithm(algorithm())
