"""A result of floodmap as the input of an algorithm."""

from __future__ import annotations

import os
from typing import Any, Dict, Tuple

from qgis.core import (
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingParameterRasterLayer,
)

from ..core.results import result_of
from ..layers import raster_source
from .base import ProgramAlgorithm

INPUT = "INPUT"


class ResultAlgorithm(ProgramAlgorithm):
    """An algorithm whose first input is a result: its mask or its probability."""

    def result_parameter(self) -> None:
        """Add the parameter for the result."""
        self.addParameter(
            QgsProcessingParameterRasterLayer(INPUT, self.tr("Result: its layer 'Flood probability' or 'Mask'"))
        )

    def result(self, parameters: Dict[str, Any], context: QgsProcessingContext) -> Tuple[str, str, str]:
        """Return the JSON file, the folder and the name of the result.

        Raises:
            QgsProcessingException: the layer belongs to no result.
        """
        source = raster_source(self.parameterAsRasterLayer(parameters, INPUT, context))
        path = result_of(source)
        if path is None:
            raise QgsProcessingException(
                f"{source} belongs to no result of floodmap: no JSON file is beside it. Choose the layer 'Flood "
                "probability' or 'Mask' of a result of 'Segment flood'."
            )
        return path, os.path.dirname(path), os.path.splitext(os.path.basename(path))[0]
