"""`floodmap:exposure`: buildings, roads and people under water."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Tuple

from qgis.core import (
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingOutputNumber,
    QgsProcessingParameterEnum,
    QgsProcessingParameterField,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterVectorDestination,
    QgsProcessingParameterVectorLayer,
)

from ..compat import LINES, POINTS, POLYGONS
from .results_input import ResultAlgorithm

PER = ("pixel", "km2")
FIGURES = {"BUILDINGS": "buildings_touched_best", "ROADS_KM": "road_flood_best_km", "PEOPLE": "people_exposed_best"}


class Exposure(ResultAlgorithm):
    """Who and what is under the water, by district."""

    ID, TITLE, COMMAND = "exposure", "Exposure: buildings, roads and people", "exposure"
    HELP = (
        "Counts buildings, kilometres of road and people under the water of a result, by district. Each figure is a "
        "best one with a lower and an upper one, from the calibrated probability; unobserved ground stands beside it. "
        "Existing tables are replaced."
    )
    FILES = ("BUILDINGS", "ROADS", "ADMIN", "POPULATION")

    def initAlgorithm(self, configuration: Any = None) -> None:
        """Declare parameters and outputs."""
        self.result_parameter()
        for name, title, kinds in (
            ("BUILDINGS", "Buildings", [POLYGONS, POINTS]),
            ("ROADS", "Roads", [LINES]),
            ("ADMIN", "Districts", [POLYGONS]),
        ):
            self.addParameter(QgsProcessingParameterVectorLayer(name, self.tr(title), kinds, optional=True))
        self.addParameter(QgsProcessingParameterRasterLayer("POPULATION", self.tr("People, a raster"), optional=True))
        self.optional(QgsProcessingParameterEnum("PER", self.tr("People per"), list(PER), defaultValue=0))
        for name, title, parent in (
            ("ROAD_CLASS", "Class of a road [default: highway, fclass or class]", "ROADS"),
            ("DISTRICT_NAME", "Name of a district [default: name]", "ADMIN"),
        ):
            self.optional(QgsProcessingParameterField(name, self.tr(title), None, parent, optional=True))
        self.addParameter(
            QgsProcessingParameterVectorDestination(
                "OUTPUT", self.tr("Districts and buildings"), POLYGONS, optional=True
            )
        )
        self.addParameter(
            QgsProcessingParameterFileDestination(
                "TABLE", self.tr("Table"), "Excel (*.xlsx);;CSV (*.csv);;JSON (*.json)", optional=True,
                createByDefault=False,
            )
        )  # fmt: skip
        for name in FIGURES:
            self.addOutput(QgsProcessingOutputNumber(name, self.tr(f"{name}: best figure of the whole scene")))

    def places_and_options(
        self, parameters: Dict[str, Any], context: QgsProcessingContext
    ) -> Tuple[List[str], List[Tuple[str, Any]]]:
        """Return the result, and the options."""
        if not any(self.files.values()):
            raise QgsProcessingException("Give at least one of buildings, roads, districts and people.")
        layers, table = self.outputs(parameters, context)
        return [self.result(parameters, context)[0]], [
            ("--buildings", self.files["BUILDINGS"]), ("--roads", self.files["ROADS"]),
            ("--admin", self.files["ADMIN"]), ("--population", self.files["POPULATION"]),
            ("--population-per", PER[self.parameterAsEnum(parameters, "PER", context)]),
            ("--road-class", self.parameterAsString(parameters, "ROAD_CLASS", context)),
            ("--district-name", self.parameterAsString(parameters, "DISTRICT_NAME", context)),
            ("--output", [file for file in (layers, table) if file]), ("--overwrite", True), ("--json", True),
        ]  # fmt: skip

    def outputs(self, parameters: Dict[str, Any], context: QgsProcessingContext) -> Tuple[str, str]:
        """Return the files for layers and table; "" for those that are not wanted."""
        layers = self.parameterAsOutputLayer(parameters, "OUTPUT", context)
        return layers, self.parameterAsFileOutput(parameters, "TABLE", context)

    def results(
        self, output: str, parameters: Dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> Dict[str, Any]:
        """Return files, and the figures of the whole scene."""
        layers, table = self.outputs(parameters, context)
        report = json.loads(output)
        total = next((row for row in report.get("districts", []) if row.get("kind") == "total"), {})
        found: Dict[str, Any] = {"OUTPUT": layers} if layers else {}
        if table:
            found["TABLE"] = table
        self.style_on_load(layers, context)
        return {**found, **{key: total.get(column) for key, column in FIGURES.items()}}
