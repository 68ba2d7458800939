"""First part of the panel: the scene, and the button that runs the model."""

from __future__ import annotations

from typing import Any, Dict, Optional

from qgis.core import QgsProcessingException, QgsProject
from qgis.gui import QgsFileWidget, QgsMapLayerComboBox
from qgis.PyQt.QtWidgets import QComboBox, QFormLayout, QGroupBox, QHBoxLayout, QProgressBar, QPushButton, QWidget

from ..compat import POLYGON_LAYERS, RASTER_LAYERS
from ..layers import write_vector
from .job import SEGMENT
from .session import Session


class RunPart(QGroupBox):
    """Scene, permanent water, folder; run and cancel."""

    def __init__(self, session: Session, parent: Optional[QWidget] = None):
        super().__init__("Segment", parent)
        self.session = session
        self.scene = QgsMapLayerComboBox()
        self.scene.setFilters(RASTER_LAYERS)
        self.scene.layerChanged.connect(session.set_scene)
        self.water = QgsMapLayerComboBox()
        self.water.setFilters(RASTER_LAYERS | POLYGON_LAYERS)
        self.water.setAllowEmptyLayer(True)
        self.water.setLayer(None)
        self.water.setToolTip("Raster or polygons of lakes and rivers that are always there; may be empty")
        self.base = QgsFileWidget()
        self.base.setStorageMode(QgsFileWidget.StorageMode.GetDirectory)
        self.base.setFilePath(session.base)
        self.base.fileChanged.connect(session.set_base)
        self.run = QPushButton("Segment")
        self.run.clicked.connect(lambda: self.start(None))
        self.more = QPushButton("More…")
        self.more.clicked.connect(self.open_dialog)
        self.cancel = QPushButton("Cancel")
        self.cancel.clicked.connect(session.job.cancel)
        self.bar = QProgressBar()
        self._lay_out()
        self._connect()
        session.set_scene(self.scene.currentLayer())

    def _lay_out(self) -> None:
        form = QFormLayout(self)
        form.addRow("Scene", self.scene)
        form.addRow("Permanent water", self.water)
        form.addRow("Results in", self.base)
        for box in (self.scene, self.water):  # a long name of a layer must not widen the panel
            box.setMinimumContentsLength(8)
            box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        buttons = QHBoxLayout()
        for button in (self.run, self.more, self.cancel):
            buttons.addWidget(button)
        form.addRow(buttons)
        form.addRow(self.bar)
        self.bar.hide()
        self.cancel.setEnabled(False)

    def _connect(self) -> None:
        job = self.session.job
        job.started.connect(lambda: self._busy(True))
        job.ended.connect(lambda: self._busy(False))
        job.progress.connect(self._progress)

    def _busy(self, busy: bool) -> None:
        self.bar.setRange(0, 0)  # unknown until the first window is done
        self.bar.setVisible(busy)
        for widget in (self.run, self.more, self.scene):  # the result is that of the scene
            widget.setEnabled(not busy)
        self.cancel.setEnabled(busy)

    def _progress(self, percent: float) -> None:
        self.bar.setRange(0, 100)
        self.bar.setValue(int(percent))

    def parameters(self) -> Dict[str, Any]:
        """Return the parameters of `floodmap:segment`."""
        water = self.water.currentLayer()
        return {
            "INPUT": self.session.scene, "PERMANENT_WATER": water, "OUTPUT_FOLDER": self.session.next_run(),
            "KEEP_FEATURES": True, "LOAD": False,
        }  # fmt: skip

    def start(self, points: Any) -> None:
        """Run the model.

        Args:
            points: layer of points that correct the result; None: no corrections.
        """
        session = self.session
        if session.scene is None:
            session.say("Choose a scene: a raster layer that is a file.", True)
            return
        if session.job.busy:
            session.say("Another run is not finished yet.", True)
            return
        parameters = self.parameters()
        corrects = points is not None and session.can_correct
        if corrects:
            parameters.update(OUTPUT_FOLDER=session.outputs["OUTPUT_FOLDER"], RESUME=True)
        written = ""
        if points is not None:
            parameters["PROMPTS"] = f"{parameters['OUTPUT_FOLDER']}_corrections.gpkg"
            # The program that stays must not see a half-written file.
            written = f"{parameters['OUTPUT_FOLDER']}_new.gpkg" if corrects else parameters["PROMPTS"]
            try:
                write_vector(points, written, QgsProject.instance().transformContext())
            except QgsProcessingException as error:
                session.say(str(error), True)
                return
        session.say("Correcting…" if session.job.corrector.resident else "The program starts…")
        if corrects:
            session.hide_result()
            before = dict(session.outputs)
            session.job.correct(
                parameters, written, lambda outputs: session.show_result({**before, **outputs} if outputs else {}),
                session.show_failure,
            )  # fmt: skip
        else:
            session.job.start(SEGMENT, parameters, session.show_result, session.show_failure)

    def open_dialog(self) -> None:
        """Open the dialog of Processing with all parameters."""
        import processing

        self.session.job.corrector.release()
        parameters = {**self.parameters(), "LOAD": True}
        processing.execAlgorithmDialog(SEGMENT, {k: v for k, v in parameters.items() if v is not None})
