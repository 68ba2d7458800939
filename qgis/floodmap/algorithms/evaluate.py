"""`floodmap:evaluate`: a prediction against a reference."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Tuple

from qgis.core import (
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProcessingOutputNumber,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterMapLayer,
    QgsProcessingParameterVectorDestination,
)

from ..compat import POLYGONS, RASTERS
from .base import ProgramAlgorithm

SIDES = [RASTERS, POLYGONS]
SCORES = ("iou", "dice", "precision", "recall", "accuracy", "boundary_f1", "area_error_ha", "observed_share")


class Evaluate(ProgramAlgorithm):
    """Scores of a prediction."""

    ID, TITLE, COMMAND = "evaluate", "Evaluate: score a result", "evaluate"
    HELP = (
        "Compares a prediction with a reference; each is a raster of one band or polygons, in any CRS. Unobserved "
        "ground of either side is left out, and its share is stated. The layer of errors has false positives in red "
        "and false negatives in green. Existing files are replaced."
    )
    FILES = ("PREDICTION", "REFERENCE")

    def initAlgorithm(self, configuration: Any = None) -> None:
        """Declare parameters and outputs."""
        self.addParameter(QgsProcessingParameterMapLayer("PREDICTION", self.tr("Prediction"), types=SIDES))
        self.addParameter(QgsProcessingParameterMapLayer("REFERENCE", self.tr("Reference"), types=SIDES))
        self.number("THRESHOLD", "Threshold, if the prediction holds probabilities", least=0.01, most=1.0)
        self.text("FLOOD_VALUE", "Flood in the prediction: values, or attribute=value")
        self.text("REFERENCE_VALUE", "Flood in the reference: values, or attribute=value")
        self.text("IGNORE_VALUE", "Values of rasters that are neither flood nor dry")
        self.number("TOLERANCE", "Distance at which boundaries agree, in metres [default: 3 pixels]")
        self.number("RESOLUTION", "Pixels for two sides of polygons, in metres [default: 1]")
        self.addParameter(QgsProcessingParameterVectorDestination("ERRORS", self.tr("Errors"), POLYGONS, optional=True))
        self.addParameter(
            QgsProcessingParameterFileDestination(
                "CSV", self.tr("Table of scores"), "CSV (*.csv)", optional=True, createByDefault=False
            )
        )
        for score in SCORES:
            self.addOutput(QgsProcessingOutputNumber(score.upper(), score))

    def places_and_options(
        self, parameters: Dict[str, Any], context: QgsProcessingContext
    ) -> Tuple[List[str], List[Tuple[str, Any]]]:
        """Return the two sides, and the options."""
        errors, table = self.outputs(parameters, context)
        text = {key: self.parameterAsString(parameters, key, context)
                for key in ("FLOOD_VALUE", "REFERENCE_VALUE", "IGNORE_VALUE")}  # fmt: skip
        number = {key: self.number_of(parameters, key, context) for key in ("THRESHOLD", "TOLERANCE", "RESOLUTION")}
        return [str(self.files["PREDICTION"]), str(self.files["REFERENCE"])], [
            ("--threshold", number["THRESHOLD"]), ("--flood-value", text["FLOOD_VALUE"]),
            ("--reference-value", text["REFERENCE_VALUE"]), ("--ignore-value", text["IGNORE_VALUE"]),
            ("--tolerance", number["TOLERANCE"]), ("--resolution", number["RESOLUTION"]), ("--errors", errors),
            ("--csv", table), ("--overwrite", True), ("--json", True),
        ]  # fmt: skip

    def outputs(self, parameters: Dict[str, Any], context: QgsProcessingContext) -> Tuple[str, str]:
        """Return the files for errors and table; "" for those that are not wanted."""
        errors = self.parameterAsOutputLayer(parameters, "ERRORS", context)
        return errors, self.parameterAsFileOutput(parameters, "CSV", context)

    def results(
        self, output: str, parameters: Dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> Dict[str, Any]:
        """Return the scores and the files."""
        errors, table = self.outputs(parameters, context)
        scene = json.loads(output)["scenes"][0]
        for score in SCORES:
            feedback.pushInfo(f"{score}: {'not defined' if scene.get(score) is None else format(scene[score], '.4f')}")
        self.style_on_load(errors, context)
        files = {key: file for key, file in (("ERRORS", errors), ("CSV", table)) if file}
        return {**files, **{score.upper(): scene.get(score) for score in SCORES}}
