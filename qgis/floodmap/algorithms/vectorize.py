"""`floodmap:vectorize`: outlines of a mask or of probabilities."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Tuple

from qgis.core import (
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProcessingOutputNumber,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterVectorDestination,
)

from ..compat import POLYGONS
from ..layers import raster_source
from .base import ProgramAlgorithm


class Vectorize(ProgramAlgorithm):
    """Polygons of a mask."""

    ID, TITLE, COMMAND = "vectorize", "Vectorize a mask", "vectorize"
    HELP = (
        "Traces a mask or a raster of probabilities as polygons of flood, with geodesic areas. A GeoPackage has the "
        "layers flood and unobserved. An existing file is replaced."
    )

    def initAlgorithm(self, configuration: Any = None) -> None:
        """Declare parameters and outputs."""
        self.addParameter(QgsProcessingParameterRasterLayer("INPUT", self.tr("Mask or probabilities")))
        self.number("THRESHOLD", "Threshold, if the raster holds probabilities", least=0.01, most=1.0, advanced=False)
        self.text("FLOOD_VALUE", "Values of flood in the mask, such as 1,2")
        self.text("IGNORE_VALUE", "Values that are neither flood nor dry")
        self.number("MIN_AREA", "Smallest polygon, in square metres", default=0.0)
        self.number("SIMPLIFY", "Tolerance of the outlines, in metres", default=0.0)
        self.addParameter(QgsProcessingParameterVectorDestination("OUTPUT", self.tr("Flood"), POLYGONS))
        self.addOutput(QgsProcessingOutputNumber("POLYGONS", self.tr("Number of polygons of flood")))
        self.addOutput(QgsProcessingOutputNumber("AREA_M2", self.tr("Flood, in square metres")))

    def places_and_options(
        self, parameters: Dict[str, Any], context: QgsProcessingContext
    ) -> Tuple[List[str], List[Tuple[str, Any]]]:
        """Return the raster, and the options."""
        number = {key: self.number_of(parameters, key, context) for key in ("THRESHOLD", "MIN_AREA", "SIMPLIFY")}
        return [raster_source(self.parameterAsRasterLayer(parameters, "INPUT", context))], [
            ("--output", self.parameterAsOutputLayer(parameters, "OUTPUT", context)),
            ("--threshold", number["THRESHOLD"]), ("--min-area", number["MIN_AREA"]),
            ("--simplify", number["SIMPLIFY"]),
            ("--flood-value", self.parameterAsString(parameters, "FLOOD_VALUE", context)),
            ("--ignore-value", self.parameterAsString(parameters, "IGNORE_VALUE", context)), ("--overwrite", True),
            ("--json", True),
        ]  # fmt: skip

    def results(
        self, output: str, parameters: Dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> Dict[str, Any]:
        """Return the file, the number of polygons and their area."""
        report = json.loads(output)
        path = self.parameterAsOutputLayer(parameters, "OUTPUT", context)
        self.style_on_load(path, context)
        return {"OUTPUT": path, "POLYGONS": report["polygons"], "AREA_M2": report["area_m2"]}
