"""Runs inside of QGIS Desktop (`qgis.bin --code`): the panel of the plugin as a user works with it.

Environment: PANEL_JOB, a JSON file with `scene`, `water`, `out`, `clicks` (lists of x, y, label), and
`answers`, a file for what happened; `pictures`, a folder for pictures of the window, or null.
"""

import json
import os
import time
import traceback

from qgis.core import QgsPointXY, QgsProject, QgsRasterLayer, QgsVectorLayer
from qgis.PyQt.QtCore import QCoreApplication, QEventLoop, Qt, QTimer
from qgis.PyQt.QtTest import QTest
from qgis.PyQt.QtWidgets import QDockWidget
from qgis.utils import iface, plugins

with open(os.environ["PANEL_JOB"]) as file:
    job = json.load(file)
told = {"messages": {}, "legends": {}}


def spin(until, seconds=600):
    limit = time.monotonic() + seconds
    while not until() and time.monotonic() < limit:
        QCoreApplication.processEvents(QEventLoop.ProcessEventsFlag.AllEvents, 100)
        time.sleep(0.02)


def legend():
    return [child.name() for child in QgsProject.instance().layerTreeRoot().children()]


def note(panel, name):
    spin(lambda: not panel.session.job.busy)
    told["messages"][name], told["legends"][name] = panel.message.text(), legend()
    if job.get("pictures"):
        pause = time.monotonic() + 1.5
        spin(lambda: time.monotonic() > pause and not iface.mapCanvas().isDrawing(), 60)
        iface.mainWindow().grab().save(os.path.join(job["pictures"], f"{name}.png"))


def click(canvas, x, y):
    place = canvas.getCoordinateTransform().transform(QgsPointXY(x, y))
    button, none = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    QTest.mouseClick(canvas.viewport(), button, none, place.toQPointF().toPoint())


def work():
    window, project, canvas = iface.mainWindow(), QgsProject.instance(), iface.mapCanvas()
    window.setGeometry(0, 0, 1400, 900)
    for dock in window.findChildren(QDockWidget):
        if dock.objectName() not in ("Layers", "floodmap"):
            dock.hide()
    scene, water = QgsRasterLayer(job["scene"], "village"), QgsVectorLayer(job["water"], "lake", "ogr")
    project.addMapLayers([scene, water])
    project.layerTreeRoot().findLayer(water.id()).setItemVisibilityChecked(False)
    project.setCrs(scene.crs())
    plugins["floodmap"].show_panel(True)
    panel = plugins["floodmap"].panel
    panel.run_part.base.setFilePath(job["out"])
    panel.run_part.scene.setLayer(scene)
    panel.run_part.water.setLayer(water)
    canvas.setExtent(scene.extent())
    panel.run_part.run.click()
    told["busy"] = [panel.run_part.cancel.isEnabled(), panel.run_part.run.isEnabled()]
    note(panel, "segmented")
    canvas.setExtent(scene.extent())
    canvas.refresh()
    for x, y, label in job["clicks"]:
        button = panel.correct_part.water if label else panel.correct_part.not_water
        if not button.isChecked():
            button.click()
        click(canvas, x, y)
    told["points"] = panel.correct_part.state.text()
    note(panel, "clicked")
    panel.correct_part.again.click()
    note(panel, "again")
    told["outputs"] = panel.session.outputs
    panel.review_part.find.click()
    note(panel, "places")
    panel.review_part.after.click()
    panel.review_part.status.setCurrentText("rejected")
    panel.review_part.decide("rejected")
    note(panel, "second place")
    panel.review_part.apply.click()
    note(panel, "applied")
    panel.review_part.undo.click()
    note(panel, "undone")
    panel.run_part.run.click()
    pause = time.monotonic() + 0.5
    spin(lambda: time.monotonic() > pause)
    panel.run_part.cancel.click()
    note(panel, "cancelled")
    web = QgsRasterLayer("type=xyz&zmin=0&zmax=3&url=http://127.0.0.1:9/{z}/{x}/{y}.png", "tiles", "wms")
    project.addMapLayer(web)
    panel.run_part.scene.setLayer(web)
    panel.run_part.run.click()
    note(panel, "web")
    panel.run_part.scene.setLayer(scene)
    note(panel, "back")
    plugins["floodmap"].unload()
    told["left"] = [dock.objectName() for dock in window.findChildren(QDockWidget) if dock.isVisible()]


def main():
    try:
        work()
    except Exception:
        told["error"] = traceback.format_exc()
    with open(job["answers"], "w") as file:
        json.dump(told, file)
    os._exit(0)  # QGIS would ask whether to save the project


QTimer.singleShot(1000, main)
