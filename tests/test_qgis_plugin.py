"""The QGIS plugin in QGIS: algorithms by qgis_process and in a project; skipped where QGIS is not installed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import qgis_profile
import rasterio
import shapely
from conftest import HANGS
from qgis_profile import PROCESS, PROFILE, ROOT, SCENE, environment

pytestmark = pytest.mark.slow
home, program = qgis_profile.home, qgis_profile.program  # fixtures

PYTHON = "/usr/bin/python3"


def process(home: Path, *given: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROCESS, *map(str, given)], capture_output=True, text=True, timeout=HANGS, env=environment(home), cwd=home
    )


@pytest.fixture(scope="module")
def water(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Permanent water: the left half of the scene, as a raster of 0 and 1."""
    path = tmp_path_factory.mktemp("water") / "lake.tif"
    with rasterio.open(SCENE) as scene:
        values = np.zeros((scene.height, scene.width), np.uint8)
        values[:, : scene.width // 2] = 1
        profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "crs": scene.crs, "transform": scene.transform}
        with rasterio.open(path, "w", height=scene.height, width=scene.width, **profile) as target:
            target.write(values, 1)
    return path


@pytest.fixture(scope="module")
def houses(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Buildings: squares of 6 m all over the scene, in longitude and latitude."""
    path = tmp_path_factory.mktemp("houses") / "houses.gpkg"
    with rasterio.open(SCENE) as scene:
        west, south, east, north = scene.bounds
        x, y = np.meshgrid(np.arange(west, east, 12), np.arange(south, north, 12))
        shapes = shapely.box(x, y, x + 6, y + 6).ravel()
        geopandas.GeoDataFrame(geometry=shapes, crs=scene.crs).to_crs(4326).to_file(path)
    return path


def program_of(path: Path, code: str) -> Path:
    """A stand-in for the program: Python code."""
    path.write_text(f"#!{sys.executable}\n{code}\n")
    path.chmod(0o755)
    return path


def saying(level: str, text: str, then: str) -> str:
    """Code of a stand-in that writes a message and then ends."""
    event = json.dumps({"event": "message", "level": level, "text": text})
    return f"import os, sys; print({event!r}, file=sys.stderr, flush=True); {then}"


@pytest.fixture(scope="module")
def answers(
    home: Path, program: Path, water: Path, houses: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What the algorithms answer in one session of QGIS."""
    folder = tmp_path_factory.mktemp("session")
    out = str(folder / "results")
    own = {"floodmap/program": str(program)}
    old = program_of(folder / "old", saying("error", "No such command 'change'.", "sys.exit(2)"))
    half = program_of(folder / "half", saying("warning", "x", "os.kill(os.getpid(), 9)"))
    other = tmp_path_factory.mktemp("other_home")
    segment = {"INPUT": str(SCENE), "OUTPUT_FOLDER": out}
    mask = f"{out}/village_mask.tif"
    wms = "wms://type=xyz&zmin=0&zmax=3&url=http://127.0.0.1:9/{z}/{x}/{y}.png"
    cases = [
        {"id": "segment", "algorithm": "floodmap:segment", "load": True, "settings": own,
         "parameters": {**segment, "PERMANENT_WATER": str(water), "REPORT": True, "MIN_AREA": 20}},
        {"id": "again", "algorithm": "floodmap:segment", "parameters": segment},
        {"id": "threshold", "algorithm": "floodmap:segment", "parameters": {**segment, "THRESHOLD": 40}},
        {"id": "model", "algorithm": "floodmap:segment",
         "parameters": {**segment, "MODEL": "nonsense", "OUTPUT_FOLDER": str(folder / "b")}},
        {"id": "wms", "algorithm": "floodmap:segment", "parameters": {**segment, "INPUT": wms}},
        {"id": "evaluate", "algorithm": "floodmap:evaluate", "parameters": {
            "PREDICTION": mask, "REFERENCE": str(SCENE.with_name("village_reference.tif")), "FLOOD_VALUE": "1,2",
            "ERRORS": str(folder / "errors.gpkg")}},
        {"id": "vectorize", "algorithm": "floodmap:vectorize", "load": True,
         "parameters": {"INPUT": mask, "OUTPUT": str(folder / "traced.gpkg")}},
        {"id": "places", "algorithm": "floodmap:reviewplaces", "load": True,
         "parameters": {"INPUT": mask, "COUNT": 5, "LOAD": True, "BUILDINGS": str(houses)}},
        {"id": "apply", "algorithm": "floodmap:applyreview", "parameters": {"INPUT": mask}},
        {"id": "no_result", "algorithm": "floodmap:applyreview", "parameters": {"INPUT": str(SCENE)}},
        {"id": "cancelled", "algorithm": "floodmap:segment", "cancel": True,
         "parameters": {**segment, "OUTPUT_FOLDER": str(folder / "c")}},
        {"id": "old", "algorithm": "floodmap:change", "settings": {"floodmap/program": str(old)},
         "parameters": {"BEFORE": mask, "AFTER": mask, "OUTPUT_FOLDER": str(folder / "d")}},
        {"id": "killed", "algorithm": "floodmap:segment", "settings": {"floodmap/program": str(half)},
         "parameters": {**segment, "OUTPUT_FOLDER": str(folder / "e")}},
        {"id": "gone", "algorithm": "floodmap:segment", "settings": {"floodmap/program": "/nowhere/floodmap"},
         "parameters": segment},
        {"id": "missing", "algorithm": "floodmap:segment", "settings": {"floodmap/program": ""},
         "parameters": segment},
    ]  # fmt: skip
    (folder / "cases.json").write_text(json.dumps({"plugins": str(ROOT / "qgis"), "cases": cases}))
    done = subprocess.run(
        [PYTHON, ROOT / "tests" / "qgis_driver.py", folder / "cases.json", folder / "answers.json"],
        capture_output=True, text=True, timeout=HANGS, env=environment(other), cwd=folder,
    )  # fmt: skip
    assert (folder / "answers.json").exists(), done.stdout + done.stderr
    found: dict[str, Any] = json.loads((folder / "answers.json").read_text())
    return found


def test_results_load_as_a_group_of_styled_layers_in_order(answers: dict[str, Any]) -> None:
    assert "error" not in answers["segment"], answers["segment"]
    (name, layers), *others = answers["segment"]["groups"].items()
    assert name == "village - floodmap" and not others
    assert [layer["name"] for layer in layers] == [
        "Flood", "Permanent water", "Unobserved", "Flood probability", "Mask",
    ]  # fmt: skip
    assert [layer["shown"] for layer in layers] == [True, True, True, False, False]
    assert all(layer["valid"] and layer["crs"] == "EPSG:32643" for layer in layers)
    red, green, blue, alpha = layers[0]["fill"]
    assert blue > 200 > green > red and 80 < alpha < 160
    assert [layer["renderer"] for layer in layers[3:]] == ["singlebandpseudocolor", "paletted"]


def test_areas_and_files_are_outputs_and_progress_comes_from_the_program(answers: dict[str, Any]) -> None:
    outputs = answers["segment"]["outputs"]
    assert Path(outputs["REPORT_PAGE"]).is_file()
    report = json.loads(Path(outputs["JSON"]).read_text())
    assert float(outputs["FLOOD_AREA_HA"]) == report["flood_area_ha"] > 0
    assert report["settings"]["min_area_m2"] == 20 and report["permanent_water_area_ha"] > 0
    assert answers["segment"]["steps"][-1] == 100 and len(answers["segment"]["steps"]) >= 4


@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("again", "'Replace existing results'"), ("threshold", "THRESHOLD"), ("model", "nonsense"),
        ("wms", "Export it to a GeoTIFF first"), ("no_result", "belongs to no result of floodmap"),
        ("old", "has no command 'change'; update it"), ("killed", "ended floodmap (signal 9)"),
        ("gone", "does not exist. Install it"), ("missing", "not on this machine, or not on PATH. Install it"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_said_in_one_line(answers: dict[str, Any], case: str, text: str) -> None:
    said = " ".join([answers[case]["error"], *answers[case]["log"]])  # QGIS logs what fails before the run
    assert text in said and "Traceback" not in said, answers[case]


def test_scores_polygons_and_places_come_from_the_other_algorithms(answers: dict[str, Any]) -> None:
    assert float(answers["evaluate"]["outputs"]["IOU"]) > 0.8
    assert Path(answers["evaluate"]["outputs"]["ERRORS"]).is_file()
    assert int(answers["vectorize"]["outputs"]["POLYGONS"]) > 0
    assert answers["vectorize"]["layers"] == 6
    assert int(answers["places"]["outputs"]["PLACES"]) == 5
    (group,) = (layers for name, layers in answers["places"]["groups"].items() if name == "village - review")
    assert [layer["name"] for layer in group] == ["Places to review", "Edits"] and group[0]["features"] == 5
    found = geopandas.read_file(answers["places"]["outputs"]["REVIEW"].split("|")[0], layer="review")
    assert found.buildings_uncertain[0] > 0 and found.buildings_uncertain.is_monotonic_decreasing
    assert answers["apply"]["outputs"]["PIXELS_CHANGED"] == "0"


def test_a_cancelled_run_has_no_outputs_and_says_so(answers: dict[str, Any]) -> None:
    assert "No process of floodmap is left." in " ".join(answers["cancelled"]["log"])
    assert "JSON" not in answers["cancelled"].get("outputs", {})


def test_qgis_process_writes_valid_results_from_a_fresh_home(home: Path, tmp_path: Path) -> None:
    done = process(home, "run", "floodmap:segment", "--json", "--", f"INPUT={SCENE}", f"OUTPUT_FOLDER={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(done.stdout[done.stdout.index("{") :])["results"]
    assert results["FLOOD_AREA_HA"] > 5 and results["FLOOD"].endswith("village.gpkg|layername=flood")
    with rasterio.open(results["MASK_RASTER"]) as mask:
        assert set(np.unique(mask.read(1))) == {0, 1, 255}
    assert (tmp_path / "village_mask.qml").is_file()


def processes_with(text: str) -> list[str]:
    """Command lines of living processes with a text; a process that has ended and waits for its parent has none."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # it has ended in this moment
    return [line for line in found if text in line]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["int", "term", "kill"])
def test_no_process_is_left_after_qgis_process_has_ended(home: Path, tmp_path: Path, number: int) -> None:
    mark = f"mark{os.getpid()}_{number}"
    code = (
        "import json, subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import sys, time; time.sleep(600)', '{mark}'])\n"
        "try:\n"  # floodmap ends when nobody reads its progress any more, and so does this stand-in
        "    for done in range(6000):\n"
        "        print(json.dumps({'event': 'progress', 'done': done, 'total': 6000}), file=sys.stderr, flush=True)\n"
        "        time.sleep(0.1)\n"
        "finally:\n"
        "    child.kill()\n"
    )
    fake = program_of(tmp_path / "floodmap", code)
    settings = home / PROFILE / "QGIS" / "QGIS3.ini"
    before = settings.read_text()
    settings.write_text(before.replace("program=", f"program={fake}\nold="))
    qgis = subprocess.Popen(
        [PROCESS, "run", "floodmap:segment", f"--INPUT={SCENE}", f"--OUTPUT_FOLDER={tmp_path / 'out'}"],
        env=environment(home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=home,
    )  # fmt: skip
    try:
        wait_for(lambda: bool(processes_with(mark)))
        qgis.send_signal(number)
        qgis.wait(HANGS)
        wait_for(lambda: not processes_with(mark) and not processes_with(str(fake)))
    finally:
        settings.write_text(before)
        qgis.kill()


def wait_for(condition: Any) -> None:
    limit = time.monotonic() + HANGS / 3
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.2)


def wheel(folder: Path) -> None:
    """Write a wheel of a tiny program `floodmap`."""
    info = "floodmap-9.9.dist-info"
    files = {
        "floodmap_tiny.py": "def main():\n    print('floodmap 9.9')\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: floodmap\nVersion: 9.9\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\nfloodmap = floodmap_tiny:main\n",
    }
    folder.mkdir()
    with zipfile.ZipFile(folder / "floodmap-9.9-py3-none-any.whl", "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"]))


def test_the_program_is_installed_from_a_folder_of_wheels_without_a_network(home: Path, tmp_path: Path) -> None:
    wheel(tmp_path / "wheels")
    done = process(home, "run", "floodmap:install", f"--WHEELS={tmp_path / 'wheels'}", f"--PYTHON={sys.executable}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "VERSION:\tfloodmap 9.9" in done.stdout
    made = home / PROFILE / "floodmap" / "environment"
    assert (made / "complete").read_text() == "floodmap 9.9\n"
