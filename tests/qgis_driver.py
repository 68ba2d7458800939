"""Runs in the Python of QGIS: algorithms of the plugin, and the layers that they leave in the project.

    /usr/bin/python3 tests/qgis_driver.py CASES.json ANSWERS.json

CASES.json: `plugins`, the folder with the plugin; `cases`, a list of {`id`, `settings`, `algorithm`, `parameters`,
`load`}. ANSWERS.json: for each id {`error`} or {`outputs`, `groups`, `log`}.
"""

import json
import sys
import traceback

sys.path.append("/usr/share/qgis/python/plugins")

from qgis.core import (
    QgsApplication,
    QgsProcessingContext,
    QgsProcessingFeedback,
    QgsProject,
    QgsSettings,
)

cases_file, answers_file = sys.argv[1:]
with open(cases_file) as file:
    wanted = json.load(file)
app = QgsApplication([], False)
app.initQgis()
sys.path.insert(0, wanted["plugins"])

import processing  # noqa: E402
from processing.core.Processing import Processing  # noqa: E402

from floodmap.plugin import FloodmapPlugin  # noqa: E402

Processing.initialize()
plugin = FloodmapPlugin(None)
plugin.initProcessing()


class Log(QgsProcessingFeedback):
    def __init__(self):
        super().__init__(False)
        self.lines, self.steps = [], []
        self.progressChanged.connect(self.steps.append)

    def pushInfo(self, info):
        self.lines.append(info)

    def pushWarning(self, warning):
        self.lines.append("warning: " + warning)

    def reportError(self, error, fatalError=False):
        self.lines.append("error: " + error)


def described(layer):
    renderer = layer.renderer()
    told = {"valid": layer.isValid(), "crs": layer.crs().authid(), "renderer": renderer.type(), "name": layer.name()}
    if hasattr(layer, "featureCount"):
        told["features"] = layer.featureCount()
        if renderer.type() == "singleSymbol":
            told["fill"] = renderer.symbol().symbolLayer(0).fillColor().getRgb()
    return told


def node_of(node):
    return {**described(node.layer()), "shown": node.itemVisibilityChecked()}


def tree():
    groups = QgsProject.instance().layerTreeRoot().findGroups()
    return {group.name(): [node_of(node) for node in group.findLayers()] for group in groups}


answers = {}
for case in wanted["cases"]:
    for key, value in case.get("settings", {}).items():
        QgsSettings().setValue(key, value)
    log, context = Log(), QgsProcessingContext()
    context.setProject(QgsProject.instance())
    if case.get("cancel"):
        log.cancel()
    run = processing.runAndLoadResults if case.get("load") else processing.run
    try:
        outputs = run(case["algorithm"], case["parameters"], feedback=log, context=context)
        answers[case["id"]] = {"outputs": {key: str(value) for key, value in outputs.items()}, "groups": tree()}
    except Exception as error:
        answers[case["id"]] = {"error": str(error), "trace": traceback.format_exc()}
    answers[case["id"]].update(log=log.lines, steps=log.steps, layers=len(QgsProject.instance().mapLayers()))
with open(answers_file, "w") as file:
    json.dump(answers, file)
QgsProject.instance().clear()
plugin.unload()
app.exitQgis()
