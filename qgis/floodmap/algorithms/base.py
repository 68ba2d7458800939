"""What the algorithms share."""

from __future__ import annotations

import json
import os
from collections import deque
from typing import Any, Deque, Dict, List, Optional, Sequence, Tuple

from qgis.core import (
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterNumber,
    QgsProcessingParameterString,
)
from qgis.PyQt.QtCore import QCoreApplication
from qgis.PyQt.QtGui import QIcon

from ..compat import ADVANCED, REAL
from ..core.results import ResultLayer, in_use
from ..layers import any_source
from ..loading import StyleLayer, load_on_completion
from ..running import run_floodmap

ICON = os.path.join(os.path.dirname(os.path.dirname(__file__)), "icon.svg")
OVERWRITE, LOAD = "OVERWRITE", "LOAD"
KEPT = 500
"""Number of post-processors that are kept. QGIS does not own them, and needs them after the algorithm has ended."""


class ProgramAlgorithm(QgsProcessingAlgorithm):
    """An algorithm that runs one command of the program.

    A subclass has `ID`, `TITLE`, `COMMAND`, `HELP`, and the methods `initAlgorithm`, `places_and_options` and
    `results`. Layers are looked at in the main thread (`prepareAlgorithm`), and the program runs in the background.
    """

    ID, TITLE, COMMAND, HELP = "", "", "", ""
    GROUP = ("flood", "Flood")
    FILES: Tuple[str, ...] = ()
    """Names of parameters with a layer that becomes the file of an option, such as "AOI"."""
    post_processors: Deque[StyleLayer] = deque(maxlen=KEPT)

    def __init__(self) -> None:
        super().__init__()
        self.files: Dict[str, Optional[str]] = {}
        self.prepared: Tuple[List[str], List[Tuple[str, Any]]] = ([], [])

    def createInstance(self) -> QgsProcessingAlgorithm:
        """Return a new algorithm of this kind."""
        return type(self)()

    def name(self) -> str:
        """Return the id inside of the provider."""
        return self.ID

    def displayName(self) -> str:
        """Return the name for the user."""
        return self.tr(self.TITLE)

    def shortHelpString(self) -> str:
        """Return the help."""
        return self.tr(self.HELP)

    def group(self) -> str:
        """Return the name of the group for the user."""
        return self.tr(self.GROUP[1])

    def groupId(self) -> str:
        """Return the id of the group."""
        return self.GROUP[0]

    def icon(self) -> QIcon:
        """Return the icon."""
        return QIcon(ICON)

    @staticmethod
    def tr(text: str) -> str:
        """Return a text in the user's language."""
        return QCoreApplication.translate("floodmap", text)

    def optional(self, parameter: QgsProcessingParameterDefinition, advanced: bool = True) -> None:
        """Add a parameter; in the advanced part of the dialog if `advanced` is True."""
        if advanced:
            parameter.setFlags(parameter.flags() | ADVANCED)
        self.addParameter(parameter)

    def number(
        self, name: str, title: str, *, least: float = 0.0, most: Optional[float] = None, default: Any = None,
        advanced: bool = True,
    ) -> None:  # fmt: skip
        """Add an optional number."""
        largest = {} if most is None else {"maxValue": most}
        self.optional(
            QgsProcessingParameterNumber(
                name, self.tr(title), REAL, defaultValue=default, optional=True, minValue=least, **largest
            ),
            advanced,
        )

    def text(self, name: str, title: str, default: str = "", advanced: bool = True) -> None:
        """Add an optional text."""
        self.optional(QgsProcessingParameterString(name, self.tr(title), default, optional=True), advanced)

    def switch(self, name: str, title: str, default: bool = False, advanced: bool = True) -> None:
        """Add a yes or no."""
        self.optional(QgsProcessingParameterBoolean(name, self.tr(title), default), advanced)

    def number_of(self, parameters: Dict[str, Any], name: str, context: QgsProcessingContext) -> Optional[float]:
        """Return an optional number; None if it is not given."""
        return None if parameters.get(name) is None else self.parameterAsDouble(parameters, name, context)

    def prepareAlgorithm(
        self, parameters: Dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> bool:
        """Find the files of all layers, and the command line."""
        for name in self.FILES:
            self.files[name] = any_source(self.parameterAsLayer(parameters, name, context), context)
        self.prepared = self.places_and_options(parameters, context)
        return True

    def places_and_options(
        self, parameters: Dict[str, Any], context: QgsProcessingContext
    ) -> Tuple[List[str], List[Tuple[str, Any]]]:
        """Return the arguments and the options of the command."""
        raise NotImplementedError

    def results(
        self, output: str, parameters: Dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> Dict[str, Any]:
        """Return the outputs of the algorithm. `output` is the standard output of the program."""
        raise NotImplementedError

    def processAlgorithm(
        self, parameters: Dict[str, Any], context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> Dict[str, Any]:
        """Run the program, and return the outputs; no outputs if the user has cancelled."""
        ended = run_floodmap(self.COMMAND, *self.prepared, feedback)
        return {} if ended.cancelled else self.results(ended.output, parameters, context, feedback)

    def load(
        self, layers: Sequence[ResultLayer], group: str, folder: str, parameters: Dict[str, Any],
        context: QgsProcessingContext,
    ) -> None:  # fmt: skip
        """Load layers at the end, unless the user does not want it."""
        if self.parameterAsBoolean(parameters, LOAD, context):
            ProgramAlgorithm.post_processors.extend(load_on_completion(layers, group, folder, context))

    def style_on_load(self, path: str, context: QgsProcessingContext) -> None:
        """Give a layer that Processing loads by itself, for its output parameter, the style of its file."""
        if path and context.willLoadLayerOnCompletion(path):
            ProgramAlgorithm.post_processors.append(StyleLayer())
            context.layerToLoadOnCompletionDetails(path).setPostProcessor(ProgramAlgorithm.post_processors[-1])

    @staticmethod
    def json_of(path: str) -> Dict[str, Any]:
        """Return the content of a JSON file of a result."""
        with open(path, encoding="utf-8") as file:
            found: Dict[str, Any] = json.load(file)
        return found

    @staticmethod
    def refuse_open(files: Sequence[str], context: QgsProcessingContext, windows: bool = os.name == "nt") -> None:
        """Refuse to replace files that are open in the project, on systems where that fails.

        Raises:
            QgsProcessingException: a layer of the project uses one of the files.
        """
        project = context.project()
        sources = [layer.source() for layer in project.mapLayers().values()] if project is not None else []
        used = in_use(files, sources) if windows else []
        if used:
            raise QgsProcessingException(
                f"{used[0]} is open in the project. Remove its layers first, or choose another folder."
            )
