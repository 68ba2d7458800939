"""What has another place in other versions of Qt and QGIS."""

from __future__ import annotations

from typing import Any

from qgis.core import (
    Qgis,
    QgsMapLayerProxyModel,
    QgsProcessing,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterFile,
    QgsProcessingParameterNumber,
)

try:
    from qgis.PyQt.QtGui import QAction
except ImportError:  # Qt 5
    from qgis.PyQt.QtWidgets import QAction


def _at(owner: Any, path: str) -> Any:
    """Return `owner.a.b` for the path "a.b"; None if a name is missing."""
    for name in path.split("."):
        owner = getattr(owner, name, None)
    return owner


def _value(path: str, owner: Any, old: str) -> Any:
    """Return a value of an enum that moved from a class to `Qgis` in QGIS 3.34 or 3.36, and may be there alone in 4."""
    found = _at(Qgis, path)
    return _at(owner, old) if found is None else found


POINTS = _value("ProcessingSourceType.VectorPoint", QgsProcessing, "SourceType.TypeVectorPoint")
LINES = _value("ProcessingSourceType.VectorLine", QgsProcessing, "SourceType.TypeVectorLine")
POLYGONS = _value("ProcessingSourceType.VectorPolygon", QgsProcessing, "SourceType.TypeVectorPolygon")
RASTERS = _value("ProcessingSourceType.Raster", QgsProcessing, "SourceType.TypeRaster")
"""Kinds of layers that a parameter takes."""
REAL = _value("ProcessingNumberParameterType.Double", QgsProcessingParameterNumber, "Type.Double")
INTEGER = _value("ProcessingNumberParameterType.Integer", QgsProcessingParameterNumber, "Type.Integer")
"""Kinds of numbers."""
FILE = _value("ProcessingFileParameterBehavior.File", QgsProcessingParameterFile, "Behavior.File")
FOLDER = _value("ProcessingFileParameterBehavior.Folder", QgsProcessingParameterFile, "Behavior.Folder")
"""What a parameter for a file asks for."""
ADVANCED = _value("ProcessingParameterFlag.Advanced", QgsProcessingParameterDefinition, "Flag.FlagAdvanced")
"""Flag of a parameter in the advanced part of the dialog."""
RASTER_LAYERS = _value("LayerFilter.RasterLayer", QgsMapLayerProxyModel, "Filter.RasterLayer")
POLYGON_LAYERS = _value("LayerFilter.PolygonLayer", QgsMapLayerProxyModel, "Filter.PolygonLayer")
"""Kinds of layers in a list of layers."""

__all__ = [
    "ADVANCED", "FILE", "FOLDER", "INTEGER", "LINES", "POINTS", "POLYGONS", "POLYGON_LAYERS", "RASTERS",
    "RASTER_LAYERS", "REAL", "QAction",
]  # fmt: skip
