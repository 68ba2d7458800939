"""Files behind layers of QGIS. The program reads files; what is no file is refused or exported."""

from __future__ import annotations

import re
from typing import Any, Optional

from qgis.core import (
    QgsCoordinateTransformContext,
    QgsMapLayer,
    QgsProcessingException,
    QgsProcessingUtils,
    QgsProviderRegistry,
    QgsRasterLayer,
    QgsVectorFileWriter,
    QgsVectorLayer,
)

WEB = re.compile(r"^\s*(WMS|WMTS|WCS|AGS|IIP):|<GDAL_WMS>|<WMS_|<GDAL_WMTS>", re.IGNORECASE)
"""Beginnings of names under which GDAL opens a server of pictures."""


def raster_source(layer: QgsRasterLayer) -> str:
    """Return the name by which GDAL opens a raster layer.

    Raises:
        QgsProcessingException: the layer is a web service, or something else that is no file.
    """
    provider = layer.providerType()
    source = layer.source()
    if provider != "gdal" or WEB.match(source):
        raise QgsProcessingException(no_file(layer.name(), provider))
    parts = QgsProviderRegistry.instance().decodeUri("gdal", source)
    path, name = parts.get("path") or source, parts.get("layerName")
    return f"GPKG:{path}:{name}" if name and path.lower().endswith(".gpkg") else path


def no_file(name: str, provider: str) -> str:
    """Return one line on a layer that is no file."""
    kinds = {"wms": "a web map service (WMS, WMTS or XYZ tiles)", "wcs": "a web coverage service"}
    kind = kinds.get(provider, f"a layer of the provider '{provider}'")
    return (
        f"{name} is {kind}, not a file. Export it to a GeoTIFF first (right-click on the layer, Export, Save As, "
        "format GeoTIFF), then use that file."
    )


def vector_source(layer: QgsVectorLayer, transforms: QgsCoordinateTransformContext) -> str:
    """Return a file with the features of a vector layer: its own file, or a temporary GeoPackage.

    A GeoPackage is written for layers in memory or of a database, with a filter, with unsaved edits, and for files of
    several layers.

    Raises:
        QgsProcessingException: the features cannot be written.
    """
    parts = QgsProviderRegistry.instance().decodeUri("ogr", layer.source())
    whole = layer.providerType() == "ogr" and not layer.subsetString() and not layer.isModified()
    if whole and not parts.get("layerName") and parts.get("layerId") is None and parts.get("path"):
        return str(parts["path"])
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", layer.name()) or "layer"
    path = QgsProcessingUtils.generateTempFilename(f"{stem}.gpkg")
    return write_vector(layer, path, transforms)


def write_vector(layer: QgsVectorLayer, path: str, transforms: QgsCoordinateTransformContext) -> str:
    """Write the features of a layer to a new GeoPackage; return its path.

    Raises:
        QgsProcessingException: the file cannot be written.
    """
    options = QgsVectorFileWriter.SaveVectorOptions()
    options.driverName = "GPKG"
    options.layerName = "features"
    error, message = QgsVectorFileWriter.writeAsVectorFormatV3(layer, path, transforms, options)[:2]
    if error != QgsVectorFileWriter.WriterError.NoError:
        raise QgsProcessingException(f"{layer.name()} cannot be written to {path}: {message}")
    return path


def any_source(layer: Optional[QgsMapLayer], context: Any) -> Optional[str]:
    """Return the file of a raster or vector layer; None without a layer."""
    if layer is None:
        return None
    if isinstance(layer, QgsRasterLayer):
        return raster_source(layer)
    if isinstance(layer, QgsVectorLayer):
        return vector_source(layer, context.transformContext())
    raise QgsProcessingException(f"{layer.name()} is neither a raster nor a vector layer.")
