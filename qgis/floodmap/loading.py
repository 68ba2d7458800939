"""Results in the project: styles, names, order and group of the layers."""

from __future__ import annotations

import os
from typing import Any, List, Optional, Sequence

from qgis.core import (
    QgsLayerTreeGroup,
    QgsMapLayer,
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProcessingLayerPostProcessorInterface,
    QgsProcessingUtils,
    QgsProject,
    QgsRasterLayer,
    QgsVectorLayer,
)

from .core.results import ResultLayer

FOLDER, RANK = "floodmap/result", "floodmap/rank"
"""Properties of a group and of a layer: which result it shows, and its place from the top."""


class StyleLayer(QgsProcessingLayerPostProcessorInterface):
    """Gives a layer that Processing has loaded the style of its file."""

    def postProcessLayer(self, layer: QgsMapLayer, context: QgsProcessingContext, feedback: QgsProcessingFeedback):
        """Set the style. Processing calls this in the main thread."""
        layer.loadDefaultStyle()
        layer.triggerRepaint()


class ArrangeLayer(StyleLayer):
    """Gives a layer that Processing has loaded its style, name and place in the legend."""

    def __init__(self, layer: ResultLayer, rank: int, group: str, folder: str):
        super().__init__()
        self.result_layer, self.rank, self.group, self.folder = layer, rank, group, folder

    def postProcessLayer(self, layer: QgsMapLayer, context: QgsProcessingContext, feedback: QgsProcessingFeedback):
        """Arrange the layer. Processing calls this in the main thread, after it has added the layer."""
        project = context.project() or QgsProject.instance()
        arrange(layer, self.result_layer, self.rank, group_of(project, self.group, self.folder), project)


def group_of(project: QgsProject, name: str, folder: str, at: int = 0) -> QgsLayerTreeGroup:
    """Return the group of a result; it is made at a place of the legend, 0 is the top, if there is none."""
    root = project.layerTreeRoot()
    for group in root.findGroups():
        if group.customProperty(FOLDER) == folder and group.name() == name:
            return group
    group = root.insertGroup(at, name)
    group.setCustomProperty(FOLDER, folder)
    return group


def arrange(
    layer: QgsMapLayer, result_layer: ResultLayer, rank: int, group: QgsLayerTreeGroup, project: QgsProject
) -> None:
    """Give a layer of the project its style, its name, and its place in a group."""
    layer.loadDefaultStyle()
    layer.setName(result_layer.title)
    layer.setCustomProperty(RANK, rank)
    above = [one for one in group.findLayers() if int(one.layer().customProperty(RANK, -1)) < rank]
    old = project.layerTreeRoot().findLayer(layer.id())
    node = group.insertLayer(len(above), layer)
    node.setItemVisibilityChecked(result_layer.shown)
    node.setExpanded(result_layer.shown)
    if old is not None:
        old.parent().removeChildNode(old)
    layer.triggerRepaint()


def load_on_completion(
    layers: Sequence[ResultLayer], group: str, folder: str, context: QgsProcessingContext
) -> List[ArrangeLayer]:
    """Tell Processing to load layers at the end of an algorithm.

    Returns:
        The objects that arrange the layers. The caller must keep them: QGIS does not own them.
    """
    kept = []
    for rank, layer in enumerate(layers):
        hint = QgsProcessingUtils.LayerHint.Raster if layer.raster else QgsProcessingUtils.LayerHint.Vector
        details = QgsProcessingContext.LayerDetails(layer.title, context.project(), layer.key, hint)
        details.forceName = True
        kept.append(ArrangeLayer(layer, rank, group, folder))
        details.setPostProcessor(kept[-1])
        context.addLayerToLoadOnCompletion(layer.source, details)
    return kept


def load(layers: Sequence[ResultLayer], group: str, folder: str, project: QgsProject, at: int = 0) -> List[QgsMapLayer]:
    """Load layers into a project, the first on top; layers that QGIS cannot read are left out."""
    loaded = []
    tree = group_of(project, group, folder, at)
    for rank, one in enumerate(layers):
        layer = open_layer(one)
        if layer is not None:
            project.addMapLayer(layer, False)
            arrange(layer, one, rank, tree, project)
            loaded.append(layer)
    return loaded


def open_layer(one: ResultLayer) -> Optional[QgsMapLayer]:
    """Return a layer of a result; None if QGIS cannot read it."""
    if one.raster:
        layer: Any = QgsRasterLayer(one.source, one.title)
    else:
        layer = QgsVectorLayer(one.source, one.title, "ogr")
    return layer if layer.isValid() else None


def remove_result(project: QgsProject, folder: str) -> int:
    """Remove the layers and the group of a result from a project. Files stay.

    Returns:
        The place of the group in the legend; 0 if there was none.
    """
    at, place = 0, os.path.normcase(os.path.abspath(folder))
    for group in project.layerTreeRoot().findGroups():
        if os.path.normcase(os.path.abspath(group.customProperty(FOLDER) or os.sep)) == place:
            if group.parent() == project.layerTreeRoot():
                at = group.parent().children().index(group)
            project.removeMapLayers([node.layerId() for node in group.findLayers()])
            group.parent().removeChildNode(group)
    return at


def reload(project: Optional[QgsProject], folder: str) -> None:
    """Read the files of a result again in all layers of a project that show them."""
    place = os.path.normcase(os.path.abspath(folder))
    for layer in project.mapLayers().values() if project is not None else []:
        if os.path.normcase(os.path.dirname(os.path.abspath(layer.source().split("|")[0]))) == place:
            layer.dataProvider().reloadData()
            layer.triggerRepaint()
