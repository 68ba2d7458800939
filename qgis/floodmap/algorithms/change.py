"""`floodmap:change`: two dates of a place."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Tuple

from qgis.core import (
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProcessingOutputFile,
    QgsProcessingOutputNumber,
    QgsProcessingOutputRasterLayer,
    QgsProcessingOutputString,
    QgsProcessingOutputVectorLayer,
    QgsProcessingParameterFolderDestination,
    QgsProcessingParameterMapLayer,
)

from ..compat import POLYGONS, RASTERS
from ..core.results import change_layers, change_summary, scene_name
from .base import LOAD, OVERWRITE, ProgramAlgorithm

SIDES = [RASTERS, POLYGONS]
AREAS = {"NEWLY_FLOODED_HA": "newly_flooded", "RECEDED_HA": "receded", "UNCHANGED_WATER_HA": "unchanged_water"}


class Change(ProgramAlgorithm):
    """Newly flooded, receded and unchanged water between two dates."""

    ID, TITLE, COMMAND = "change", "Change between two dates", "change"
    HELP = (
        "Compares two dates of a place: newly flooded, receded, unchanged water, dry, unobserved on either date.\n\n"
        "Each side is a mask, a raster of probabilities, or polygons of water; or a scene of several bands, which is "
        "segmented first. The sides may differ in CRS and pixels; the result has those of the second date."
    )
    FILES = ("BEFORE", "AFTER", "AOI")

    def initAlgorithm(self, configuration: Any = None) -> None:
        """Declare parameters and outputs."""
        self.addParameter(QgsProcessingParameterMapLayer("BEFORE", self.tr("First date"), types=SIDES))
        self.addParameter(QgsProcessingParameterMapLayer("AFTER", self.tr("Second date"), types=SIDES))
        self.number("THRESHOLD", "Threshold of probabilities and scenes [default: 0.5]", least=0.01, most=1.0)
        self.text("BEFORE_VALUE", "Water in the first date: values, or attribute=value")
        self.text("AFTER_VALUE", "Water in the second date: values, or attribute=value")
        self.number("MIN_AREA", "Smallest polygon, in square metres [default: 25 pixels]")
        self.number("SIMPLIFY", "Tolerance of the outlines, in metres [default: 1 pixel]")
        self.text("MODEL", "Model for scenes: name or file", "finetuned")
        self.optional(QgsProcessingParameterMapLayer("AOI", self.tr("Area of interest"), optional=True, types=SIDES))
        self.switch(OVERWRITE, "Replace existing results")
        self.switch(LOAD, "Load the results into the project", True)
        self.addParameter(QgsProcessingParameterFolderDestination("OUTPUT_FOLDER", self.tr("Folder for the results")))
        self.addOutput(QgsProcessingOutputVectorLayer("CHANGE", self.tr("Change")))
        self.addOutput(QgsProcessingOutputVectorLayer("UNOBSERVED", self.tr("Unobserved")))
        self.addOutput(QgsProcessingOutputRasterLayer("CHANGE_RASTER", self.tr("Change, pixels")))
        self.addOutput(QgsProcessingOutputFile("JSON", self.tr("Areas and settings")))
        self.addOutput(QgsProcessingOutputString("NAME", self.tr("Name of the result")))
        for name in AREAS:
            self.addOutput(QgsProcessingOutputNumber(name, name))

    def places_and_options(
        self, parameters: Dict[str, Any], context: QgsProcessingContext
    ) -> Tuple[List[str], List[Tuple[str, Any]]]:
        """Return the two sides, and the options."""
        text = {key: self.parameterAsString(parameters, key, context)
                for key in ("OUTPUT_FOLDER", "BEFORE_VALUE", "AFTER_VALUE", "MODEL")}  # fmt: skip
        number = {key: self.number_of(parameters, key, context) for key in ("THRESHOLD", "MIN_AREA", "SIMPLIFY")}
        return [str(self.files["BEFORE"]), str(self.files["AFTER"])], [
            ("--output", text["OUTPUT_FOLDER"]), ("--threshold", number["THRESHOLD"]),
            ("--before-value", text["BEFORE_VALUE"]), ("--after-value", text["AFTER_VALUE"]),
            ("--min-area", number["MIN_AREA"]), ("--simplify", number["SIMPLIFY"]), ("--model", text["MODEL"]),
            ("--aoi", self.files["AOI"]), ("--overwrite", self.parameterAsBoolean(parameters, OVERWRITE, context)),
            ("--json", True),
        ]  # fmt: skip

    def results(
        self, output: str, parameters: Dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> Dict[str, Any]:
        """Return files and areas, and load the layers."""
        folder = self.parameterAsString(parameters, "OUTPUT_FOLDER", context)
        name = scene_name(output)
        path = os.path.join(folder, f"{name}_change.json")
        report = self.json_of(path)
        feedback.pushInfo(change_summary(report))
        layers = change_layers(folder, name)
        self.load(layers, f"{name} - change", folder, parameters, context)
        areas = report.get("area_ha") or {}
        found = {layer.key: layer.source for layer in layers}
        return {
            **found, "OUTPUT_FOLDER": folder, "JSON": path, "NAME": name,
            **{key: areas.get(kind) for key, kind in AREAS.items()},
        }  # fmt: skip
