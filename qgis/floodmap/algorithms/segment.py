"""`floodmap:segment`: flood in one scene."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Tuple

from qgis.core import (
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingOutputFile,
    QgsProcessingOutputHtml,
    QgsProcessingOutputNumber,
    QgsProcessingOutputRasterLayer,
    QgsProcessingOutputString,
    QgsProcessingOutputVectorLayer,
    QgsProcessingParameterCrs,
    QgsProcessingParameterFolderDestination,
    QgsProcessingParameterMapLayer,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterVectorLayer,
)

from ..compat import POINTS, POLYGONS, RASTERS
from ..core.arguments import command_line, watching
from ..core.results import read_report, result_layers, scene_name, summary
from ..layers import raster_source
from ..running import program
from .base import LOAD, OVERWRITE, ProgramAlgorithm

INPUT, OUTPUT_FOLDER = "INPUT", "OUTPUT_FOLDER"
AREAS = [POLYGONS, RASTERS]
"""Kinds of layers that can stand for an area."""


class SegmentFlood(ProgramAlgorithm):
    """Flood in one scene: mask, probability, styled polygons, areas."""

    ID, TITLE, COMMAND = "segment", "Segment flood", "segment"
    HELP = (
        "Finds flood water in a scene: an aerial or satellite raster, as a file. Writes polygons (GeoPackage), a mask, "
        "a raster of probabilities and a JSON file with areas and settings, and loads them with their styles.\n\n"
        "Corrections: points with the field 'label' (1 water, 0 not water), and boxes around all flood. A result with "
        "'Keep what corrections by points need' is corrected by 'Continue' in seconds.\n"
        "Permanent water: raster or polygons of lakes and rivers that are always there. They get a class and a layer "
        "of their own, and are no flood.\n"
        "Area of interest: ground outside is unobserved. Mask: ground to leave out, such as clouds.\n\n"
        "A web service (WMS, WMTS, XYZ) is no file: export it to a GeoTIFF first."
    )
    FILES = ("PROMPTS", "PERMANENT_WATER", "AOI", "MASK")

    def initAlgorithm(self, configuration: Any = None) -> None:
        """Declare parameters and outputs."""
        self.addParameter(QgsProcessingParameterRasterLayer(INPUT, self.tr("Scene")))
        self.addParameter(
            QgsProcessingParameterVectorLayer(
                "PROMPTS", self.tr("Corrections: points, boxes"),
                [POINTS, POLYGONS], optional=True,
            )
        )  # fmt: skip
        for name, title in (
            ("PERMANENT_WATER", "Permanent water"),
            ("AOI", "Area of interest"),
            ("MASK", "Mask of ground to leave out"),
        ):
            self.addParameter(QgsProcessingParameterMapLayer(name, self.tr(title), optional=True, types=AREAS))
        self.number("THRESHOLD", "Threshold: flood from this probability", least=0.01, most=1.0, default=0.5,
                    advanced=False)  # fmt: skip
        self.switch("REPORT", "Write a report (HTML)", advanced=False)
        self._advanced_parameters()
        self.addParameter(QgsProcessingParameterFolderDestination(OUTPUT_FOLDER, self.tr("Folder for the results")))
        self._outputs()

    def _advanced_parameters(self) -> None:
        self.text("MODEL", "Model: name or file", "finetuned")
        self.number("MIN_AREA", "Smallest polygon, in square metres [default: 25 pixels]")
        self.number("SIMPLIFY", "Tolerance of the outlines, in metres [default: 1 pixel]")
        self.number("RESOLUTION", "Ground sample distance to work at, in metres [default: that of the scene]")
        self.number("PERMANENT_LEAST", "Least value of permanent water in its raster [default: 50; 1 in 0 and 1]")
        self.text("BANDS", "Bands, counted from 1, such as 4,3,2 [default: by colour interpretation]")
        self.text("NODATA", "Value of pixels without data; none: every pixel is ground")
        self.optional(QgsProcessingParameterCrs("CRS", self.tr("CRS, if the file has none"), optional=True))
        self.text("DEVICE", "Device: auto, cpu, cuda, mps", "auto")
        self.switch("FLIPS", "Average with mirror images: slightly better, twice as long")
        self.switch(OVERWRITE, "Replace existing results")
        self.switch("RESUME", "Continue an interrupted run, or correct a result by points")
        self.switch("KEEP_FEATURES", "Keep what corrections by points need")
        self.switch(LOAD, "Load the results into the project", True)

    def _outputs(self) -> None:
        for name, title in (
            ("FLOOD", "Flood"),
            ("PERMANENT_WATER_LAYER", "Permanent water"),
            ("UNOBSERVED", "Unobserved"),
        ):
            self.addOutput(QgsProcessingOutputVectorLayer(name, self.tr(title)))
        self.addOutput(QgsProcessingOutputRasterLayer("PROBABILITY", self.tr("Flood probability, per cent")))
        self.addOutput(QgsProcessingOutputRasterLayer("MASK_RASTER", self.tr("Mask")))
        self.addOutput(QgsProcessingOutputFile("JSON", self.tr("Areas and settings")))
        self.addOutput(QgsProcessingOutputHtml("REPORT_PAGE", self.tr("Report")))
        self.addOutput(QgsProcessingOutputString("NAME", self.tr("Name of the result")))
        self.addOutput(QgsProcessingOutputNumber("FLOOD_AREA_HA", self.tr("Flood, in hectares")))
        self.addOutput(QgsProcessingOutputNumber("OBSERVED_SHARE", self.tr("Observed share, 0 to 1")))

    def checkParameterValues(self, parameters: Dict[str, Any], context: QgsProcessingContext) -> Tuple[bool, str]:
        """Refuse a scene that is no file before anything else."""
        layer = self.parameterAsRasterLayer(parameters, INPUT, context)
        if layer is not None:
            try:
                raster_source(layer)
            except QgsProcessingException as error:
                return False, str(error)
        return super().checkParameterValues(parameters, context)

    def places_and_options(
        self, parameters: Dict[str, Any], context: QgsProcessingContext
    ) -> Tuple[List[str], List[Tuple[str, Any]]]:
        """Return the scene, and the options."""
        scene = raster_source(self.parameterAsRasterLayer(parameters, INPUT, context))
        folder = self.parameterAsString(parameters, OUTPUT_FOLDER, context)
        crs = self.parameterAsCrs(parameters, "CRS", context)
        texts = {key: self.parameterAsString(parameters, key, context)
                 for key in ("MODEL", "BANDS", "NODATA", "DEVICE")}  # fmt: skip
        switches = {key: self.parameterAsBoolean(parameters, key, context)
                    for key in ("REPORT", "FLIPS", OVERWRITE, "RESUME", "KEEP_FEATURES")}  # fmt: skip
        options: List[Tuple[str, Any]] = [
            ("--output", folder), ("--model", texts["MODEL"]), ("--prompts", self.files["PROMPTS"]),
            ("--permanent-water", self.files["PERMANENT_WATER"]), ("--aoi", self.files["AOI"]),
            ("--mask", self.files["MASK"]), ("--bands", texts["BANDS"]), ("--nodata", texts["NODATA"]),
            ("--device", texts["DEVICE"]), ("--crs", crs.authid() or crs.toWkt() if crs.isValid() else None),
        ]  # fmt: skip
        for key, option in (
            ("THRESHOLD", "--threshold"), ("MIN_AREA", "--min-area"), ("SIMPLIFY", "--simplify"),
            ("RESOLUTION", "--resolution"), ("PERMANENT_LEAST", "--permanent-least"),
        ):  # fmt: skip
            options.append((option, self.number_of(parameters, key, context)))
        options += [(f"--{key.lower().replace('_', '-')}", value) for key, value in switches.items()]
        options.append(("--json", True))
        if switches[OVERWRITE] or switches["RESUME"]:
            stem = os.path.splitext(os.path.basename(scene))[0]
            ends = (".gpkg", "_mask.tif", "_probability.tif")
            self.refuse_open([os.path.join(folder, stem + end) for end in ends], context)
        return [scene], options

    def results(
        self, output: str, parameters: Dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> Dict[str, Any]:
        """Return files and areas, and load the layers."""
        folder = self.parameterAsString(parameters, OUTPUT_FOLDER, context)
        name = scene_name(output)
        report = read_report(folder, name)
        layers = result_layers(folder, name, report)
        feedback.pushInfo(summary(report))
        self.load(layers, f"{name} - floodmap", folder, parameters, context)
        found = {layer.key: layer.source for layer in layers}
        page = os.path.join(folder, f"{name}_report.html")
        if os.path.isfile(page):
            found["REPORT_PAGE"] = page
        return {
            **found, OUTPUT_FOLDER: folder, "JSON": os.path.join(folder, f"{name}.json"), "NAME": name,
            "FLOOD_AREA_HA": report.get("flood_area_ha"), "OBSERVED_SHARE": report.get("observed_share"),
        }  # fmt: skip


def watching_line(parameters: Dict[str, Any], context: QgsProcessingContext) -> List[str]:
    """Return the command line of a program that stays and corrects a result whenever its points change.

    Args:
        parameters: those of the algorithm for one correction.
        context: for the layers of parameters.

    Raises:
        QgsProcessingException: a parameter is wrong, or the program is not on this machine.
    """
    algorithm = SegmentFlood()
    algorithm.initAlgorithm()
    right, why = algorithm.checkParameterValues(parameters, context)
    if not right:
        raise QgsProcessingException(why)
    algorithm.prepareAlgorithm(parameters, context, QgsProcessingFeedback())
    places, options = algorithm.prepared
    return command_line([program().path], algorithm.COMMAND, places, watching(options))
