"""The layer of points that correct a result."""

from __future__ import annotations

import os
from typing import Tuple

from qgis.core import (
    QgsCategorizedSymbolRenderer,
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransform,
    QgsFeature,
    QgsGeometry,
    QgsMarkerSymbol,
    QgsPointXY,
    QgsProject,
    QgsRendererCategory,
    QgsVectorLayer,
)

from ..layers import write_vector

LABEL = "label"
"""Field of the label."""
WATER, NOT_WATER = 1, 0
"""Labels of `floodmap segment --prompts`."""
SHOWN = ((WATER, "Water", "#1f6fd6"), (NOT_WATER, "Not water", "#c2571a"))


def open_points(path: str, crs: QgsCoordinateReferenceSystem, project: QgsProject) -> QgsVectorLayer:
    """Return the layer of points of a scene, on top of the legend. Its file is made if it is missing.

    Args:
        path: the GeoPackage.
        crs: CRS of the scene.
        project: the project; if it shows the file already, that layer is returned.
    """
    for layer in project.mapLayers().values():
        if os.path.abspath(layer.source().split("|")[0]) == os.path.abspath(path):
            return layer
    if not os.path.isfile(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        empty = QgsVectorLayer(f"Point?field={LABEL}:integer", "points", "memory")
        empty.setCrs(crs)
        write_vector(empty, path, project.transformContext())
    layer = QgsVectorLayer(path, "Corrections", "ogr")
    layer.setRenderer(_renderer())
    project.addMapLayer(layer, False)
    project.layerTreeRoot().insertLayer(0, layer).setExpanded(True)
    return layer


def raise_layer(layer: QgsVectorLayer, project: QgsProject) -> None:
    """Move a layer to the top of the legend, unless the user has put it into a group."""
    root = project.layerTreeRoot()
    node = root.findLayer(layer.id())
    if node is not None and node.parent() == root and root.children()[0] != node:
        root.insertChildNode(0, node.clone())
        root.removeChildNode(node)


def _renderer() -> QgsCategorizedSymbolRenderer:
    """Return a renderer with a colour for each label."""
    categories = []
    for value, title, colour in SHOWN:
        symbol = QgsMarkerSymbol.createSimple(
            {"name": "circle", "color": colour, "outline_color": "white", "outline_width": "0.5", "size": "3.6"}
        )
        categories.append(QgsRendererCategory(value, symbol, title))
    return QgsCategorizedSymbolRenderer(LABEL, categories)


def add_point(
    layer: QgsVectorLayer, place: QgsPointXY, crs: QgsCoordinateReferenceSystem, label: int, project: QgsProject
) -> bool:
    """Add a point and save it; return whether that worked.

    Args:
        layer: the layer of points.
        place: the point, in `crs`.
        crs: CRS of the map.
        label: `WATER` or `NOT_WATER`.
        project: for the transformation into the CRS of the layer.
    """
    moved = QgsCoordinateTransform(crs, layer.crs(), project).transform(place) if crs.isValid() else place
    feature = QgsFeature(layer.fields())
    feature.setGeometry(QgsGeometry.fromPointXY(moved))
    feature.setAttribute(LABEL, label)
    added, _ = layer.dataProvider().addFeatures([feature])
    _show(layer)
    return bool(added)


def remove_last(layer: QgsVectorLayer) -> None:
    """Remove the point that was added last."""
    numbers = [feature.id() for feature in layer.getFeatures()]
    if numbers:
        layer.dataProvider().deleteFeatures([max(numbers)])
        _show(layer)


def count(layer: QgsVectorLayer) -> Tuple[int, int]:
    """Return the number of points on water, and of the others."""
    labels = [feature[LABEL] for feature in layer.getFeatures()]
    return labels.count(WATER), labels.count(NOT_WATER)


def _show(layer: QgsVectorLayer) -> None:
    layer.updateExtents()
    layer.triggerRepaint()
