"""`floodmap:reviewplaces` and `floodmap:applyreview`: places to look at, and edits taken into a result."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, List, Tuple

from qgis.core import (
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProcessingOutputFile,
    QgsProcessingOutputNumber,
    QgsProcessingOutputVectorLayer,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterNumber,
    QgsProcessingParameterVectorLayer,
)

from ..compat import INTEGER, POINTS, POLYGONS
from ..core.results import read_report, result_layers, review_layers, summary
from ..loading import reload
from .base import LOAD, OVERWRITE
from .results_input import ResultAlgorithm


class ReviewPlaces(ResultAlgorithm):
    """Places of a result that are worth a look."""

    ID, TITLE, COMMAND = "reviewplaces", "Find places to review", "review"
    HELP = (
        "Writes the places of a result where looking is most worth it, as the layer 'review' of NAME_review.gpkg "
        "beside the result. Set the status of each place in its form (accepted, rejected, redrawn), draw in the layer "
        "'edits', save both, and run 'Apply review'. With buildings, places where the map does not decide whether "
        "buildings are under water come first."
    )
    GROUP = ("review", "Review")
    FILES = ("BUILDINGS",)

    def initAlgorithm(self, configuration: Any = None) -> None:
        """Declare parameters and outputs."""
        self.result_parameter()
        self.addParameter(
            QgsProcessingParameterNumber("COUNT", self.tr("Largest number of places"), INTEGER, 100, minValue=1)
        )
        self.addParameter(
            QgsProcessingParameterVectorLayer(
                "BUILDINGS", self.tr("Buildings: places with uncertain ones come first"), [POLYGONS, POINTS],
                optional=True,
            )
        )  # fmt: skip
        self.switch(OVERWRITE, "Replace an existing review, and what was entered there", advanced=False)
        self.switch(LOAD, "Load the places into the project", True)
        self.addOutput(QgsProcessingOutputVectorLayer("REVIEW", self.tr("Places")))
        self.addOutput(QgsProcessingOutputVectorLayer("EDITS", self.tr("Edits")))
        self.addOutput(QgsProcessingOutputNumber("PLACES", self.tr("Number of places")))

    def places_and_options(
        self, parameters: Dict[str, Any], context: QgsProcessingContext
    ) -> Tuple[List[str], List[Tuple[str, Any]]]:
        """Return the result, and the options."""
        path, folder, name = self.result(parameters, context)
        overwrite = self.parameterAsBoolean(parameters, OVERWRITE, context)
        if overwrite:
            self.refuse_open([os.path.join(folder, f"{name}_review.gpkg")], context)
        count = self.parameterAsInt(parameters, "COUNT", context)
        return [path], [
            ("--count", count), ("--buildings", self.files["BUILDINGS"]), ("--overwrite", overwrite), ("--json", True),
        ]  # fmt: skip

    def results(
        self, output: str, parameters: Dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> Dict[str, Any]:
        """Return the layers, and load them."""
        report = json.loads(output)
        _, folder, name = self.result(parameters, context)
        layers = review_layers(report["file"])
        feedback.pushInfo(f"{len(report['places'])} places")
        self.load(layers, f"{name} - review", os.path.join(folder, "review"), parameters, context)
        return {**{layer.key: layer.source for layer in layers}, "PLACES": len(report["places"])}


class ApplyReview(ResultAlgorithm):
    """Edits of a review, taken into a result or out again."""

    ID, TITLE, COMMAND = "applyreview", "Apply review", "review"
    HELP = (
        "Takes the places and edits of NAME_review.gpkg into the result: mask, probability, layers, areas and JSON. "
        "Save the layers of the review first. The files of the model are kept, and 'Undo' brings them back."
    )
    GROUP = ("review", "Review")

    def initAlgorithm(self, configuration: Any = None) -> None:
        """Declare parameters and outputs."""
        self.result_parameter()
        self.addParameter(QgsProcessingParameterBoolean("UNDO", self.tr("Undo: bring the model's result back"), False))
        self.addOutput(QgsProcessingOutputVectorLayer("FLOOD", self.tr("Flood")))
        self.addOutput(QgsProcessingOutputFile("JSON", self.tr("Areas and settings")))
        self.addOutput(QgsProcessingOutputNumber("FLOOD_AREA_HA", self.tr("Flood, in hectares")))
        self.addOutput(QgsProcessingOutputNumber("PIXELS_CHANGED", self.tr("Pixels that the review changed")))

    def places_and_options(
        self, parameters: Dict[str, Any], context: QgsProcessingContext
    ) -> Tuple[List[str], List[Tuple[str, Any]]]:
        """Return the result, and the option."""
        path, folder, name = self.result(parameters, context)
        files = [layer.source.split("|")[0] for layer in result_layers(folder, name, read_report(folder, name))]
        self.refuse_open(files, context)
        undo = self.parameterAsBoolean(parameters, "UNDO", context)
        return [path], [("--undo" if undo else "--apply", True), ("--json", True)]

    def results(
        self, output: str, parameters: Dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> Dict[str, Any]:
        """Return the files and areas."""
        path, folder, name = self.result(parameters, context)
        report = read_report(folder, name)
        feedback.pushInfo(summary(report))
        found = {layer.key: layer.source for layer in result_layers(folder, name, report)}
        return {
            "FLOOD": found["FLOOD"], "JSON": path, "FLOOD_AREA_HA": report.get("flood_area_ha"),
            "PIXELS_CHANGED": report.get("review", {}).get("pixels_changed", 0),
        }  # fmt: skip

    def postProcessAlgorithm(self, context: QgsProcessingContext, feedback: QgsProcessingFeedback) -> Dict[str, Any]:
        """Show the new content in layers of the project that are open. QGIS calls this in the main thread."""
        reload(context.project(), os.path.dirname(self.prepared[0][0]))
        return {}
