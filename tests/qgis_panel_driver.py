"""Runs inside of QGIS Desktop (`qgis.bin --code`): the panel of the plugin as a user works with it.

Environment: PANEL_JOB, a JSON file with `scene`, `water`, `out`, `clicks` (lists of x, y, label), and
`answers`, a file for what happened; `pictures`, a folder for pictures of the window, or null.
"""

import json
import os
import signal
import sys
import time
import traceback

from qgis.core import QgsFeature, QgsGeometry, QgsPointXY, QgsProject, QgsRasterLayer, QgsVectorLayer
from qgis.PyQt.QtCore import QCoreApplication, QEventLoop, Qt, QTimer
from qgis.PyQt.QtTest import QTest
from qgis.PyQt.QtWidgets import QDockWidget
from qgis.utils import iface, plugins

with open(os.environ["PANEL_JOB"]) as file:
    job = json.load(file)
told = {"messages": {}, "legends": {}, "staying": {}, "seconds": {}}


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


def staying():
    """Return the numbers of the processes of this QGIS that stay for corrections."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as command, open(f"/proc/{name}/stat") as stat:
                parent = int(stat.read().rsplit(")", 1)[1].split()[1])
                if b"--watch" in command.read().split(b"\0") and parent == os.getpid():
                    found.append(int(name))
        except OSError:
            continue
    return found


def correct(panel, name):
    begun = time.monotonic()
    panel.correct_part.again.click()
    note_staying(panel, name)
    told["seconds"][name] = round(time.monotonic() - begun, 2)
    note(panel, name)


def note_staying(panel, name):
    spin(lambda: not panel.session.job.busy)
    told["staying"][name] = staying()


def ends_with(panel, name, act):
    """Note what is left of a program that stays, after something that ends it; and how many there were before."""
    panel.correct_part.again.click()
    note_staying(panel, f"before {name}")
    act()
    spin(lambda: not staying() and not panel.session.job.busy, 60)
    told["staying"][name], told["messages"][name] = staying(), panel.message.text()


def correct_and(panel, act):
    panel.correct_part.again.click()
    act()


def go_idle(panel):
    module = sys.modules["floodmap.core.resident"]
    module.IDLE_S, before = 0.0, module.IDLE_S
    spin(lambda: not staying(), 60)
    module.IDLE_S = before


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
    correct(panel, "again")
    told["outputs"] = dict(panel.session.outputs)
    work_with_a_program_that_stays(panel, canvas)
    panel.review_part.find.click()
    note(panel, "places")
    told["staying"]["places"] = staying()
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
    ends_with(panel, "killed", lambda: correct_and(panel, lambda: os.kill(staying()[0], signal.SIGKILL)))
    ends_with(panel, "cancel", lambda: correct_and(panel, panel.run_part.cancel.click))
    ends_with(panel, "idle", lambda: go_idle(panel))
    ends_with(panel, "closed", panel.close)
    plugins["floodmap"].show_panel(True)
    ends_with(panel, "other scene", lambda: panel.run_part.scene.setLayer(web))
    panel.run_part.scene.setLayer(scene)
    ends_with(panel, "unloaded", plugins["floodmap"].unload)
    told["left"] = [dock.objectName() for dock in window.findChildren(QDockWidget) if dock.isVisible()]


def work_with_a_program_that_stays(panel, canvas):
    """Correct again, with points that are right and wrong, and go back to the first two points."""
    x, y, _ = job["clicks"][0]
    click(canvas, x, y)  # "Not water" is chosen: against the first point
    correct(panel, "second")
    panel.correct_part.remove()
    layer = panel.correct_part.layer()
    feature = QgsFeature(layer.fields())
    feature.setGeometry(QgsGeometry.fromPointXY(QgsPointXY(x, y)))
    layer.dataProvider().addFeatures([feature])
    correct(panel, "no label")
    told["red"] = "color" in panel.message.styleSheet()
    panel.correct_part.remove()
    correct(panel, "third")


def main():
    try:
        work()
    except Exception:
        told["error"] = traceback.format_exc()
    with open(job["answers"], "w") as file:
        json.dump(told, file)
    os._exit(0)  # QGIS would ask whether to save the project


QTimer.singleShot(1000, main)
