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

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from conftest import HANGS
from shapely.geometry import Point

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
PYTHON, PROCESS = "/usr/bin/python3", "/usr/bin/qgis_process.bin"  # Debian's qgis_process is a broken wrapper
XVFB = "/usr/bin/xvfb-run"
SCENE = ROOT / "sample_tiles" / "village.tif"
PROFILE = ".local/share/QGIS/QGIS3/profiles/default"


def environment(home: Path) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin", "HOME": str(home), "XDG_RUNTIME_DIR": str(home), "QT_QPA_PLATFORM": "offscreen",
        "LC_ALL": "C.UTF-8",
    }  # fmt: skip


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program `floodmap` of this working tree."""
    path = tmp_path_factory.mktemp("program") / "floodmap"
    path.write_text(
        f'#!/bin/sh\nPYTHONPATH="{ROOT}:{ROOT / "cli"}" exec "{sys.executable}" -m floodmap_cli.main "$@"\n'
    )
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, program: Path) -> Path:
    """A fresh HOME, with the plugin installed from its zip and enabled."""
    if not os.path.exists(PROCESS):
        pytest.skip(f"{PROCESS} is missing (Debian: apt-get install --no-install-recommends qgis)")
    folder = tmp_path_factory.mktemp("home")
    folder.chmod(0o700)
    subprocess.run([sys.executable, ROOT / "scripts" / "make_plugin.py", folder], check=True, capture_output=True)
    plugins = folder / PROFILE / "python" / "plugins"
    with zipfile.ZipFile(next(folder.glob("*.zip"))) as archive:
        archive.extractall(plugins)
    settings = folder / PROFILE / "QGIS" / "QGIS3.ini"
    settings.parent.mkdir(parents=True)
    settings.write_text(f"[PythonPlugins]\nfloodmap=true\nprocessing=true\n\n[floodmap]\nprogram={program}\n")
    return folder


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


def program_of(path: Path, code: str) -> Path:
    """A stand-in for the program: Python code."""
    path.write_text(f"#!{sys.executable}\n{code}\n")
    path.chmod(0o755)
    return path


EVENT = 'import sys; print(\'{"event": "message", "level": "%s", "text": "%s"}\', file=sys.stderr, flush=True)'


@pytest.fixture(scope="module")
def answers(home: Path, program: Path, water: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the algorithms answer in one session of QGIS."""
    folder = tmp_path_factory.mktemp("session")
    out = str(folder / "results")
    own = {"floodmap/program": str(program)}
    old = program_of(folder / "old", EVENT % ("error", "No such command 'change'.") + "; sys.exit(2)")
    half = program_of(folder / "half", EVENT % ("warning", "x") + "; import os, signal; os.kill(os.getpid(), 9)")
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
         "parameters": {"INPUT": mask, "COUNT": 5, "LOAD": True}},
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


@pytest.fixture(scope="module")
def panel(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the panel shows while a user segments, clicks, runs again, reviews, and cancels."""
    if not os.path.exists(XVFB):
        pytest.skip(f"{XVFB} is missing (Debian: apt-get install xvfb xauth)")
    folder = tmp_path_factory.mktemp("panel")
    with rasterio.open(SCENE) as scene:
        x, y = scene.transform * (scene.width / 2, scene.height / 2)
        gsd, crs = scene.transform.a, scene.crs
    lake = folder / "lake.gpkg"
    frame = gpd.GeoDataFrame(geometry=[Point(x - 300 * gsd, y + 200 * gsd).buffer(100 * gsd)], crs=crs)
    frame.to_file(lake, VERSION="1.2")
    clicks = [[x, y, 1], [x + 200 * gsd, y, 0]]
    job = {"scene": str(SCENE), "water": str(lake), "out": str(folder / "out"), "clicks": clicks,
           "answers": str(folder / "answers.json"), "pictures": os.environ.get("FLOODMAP_PICTURES")}  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job))
    # QGIS Desktop crashes without a clipboard, and Qt's platform "offscreen" has none.
    variables = {**environment(home), "QT_QPA_PLATFORM": "xcb", "PANEL_JOB": str(folder / "job.json")}
    screen = [XVFB, "-a", "-s", "-screen 0 1400x900x24"]
    desktop = ["/usr/bin/qgis.bin", "--nologo", "--noversioncheck", "--code", ROOT / "tests" / "qgis_panel_driver.py"]
    done = subprocess.run(
        [*screen, *desktop],
        capture_output=True, text=True, timeout=HANGS, env=variables, cwd=folder,
    )  # fmt: skip
    assert (folder / "answers.json").exists(), done.stdout + done.stderr
    found: dict[str, Any] = json.loads((folder / "answers.json").read_text())
    assert "error" not in found, found["error"]
    return found


def test_the_panel_shows_area_and_layers_and_keeps_the_order_of_the_legend(panel: dict[str, Any]) -> None:
    assert panel["busy"] == [True, False]  # Cancel, and not Segment
    assert "ha of flood" in panel["messages"]["segmented"]
    assert "ha of permanent water" in panel["messages"]["segmented"]
    assert panel["legends"]["segmented"] == ["village - floodmap", "village", "lake"]
    assert panel["legends"]["again"] == ["Corrections", "village - floodmap", "village", "lake"]
    assert panel["legends"]["applied"] == panel["legends"]["places"] == panel["legends"]["undone"]


def test_clicks_become_points_and_change_the_result(panel: dict[str, Any]) -> None:
    assert panel["points"] == "1 on water, 1 not on water"
    assert panel["messages"]["again"] != panel["messages"]["segmented"]
    report = json.loads(Path(panel["outputs"]["JSON"]).read_text())
    assert Path(report["settings"]["prompts"]).name == "run_2_corrections.gpkg"
    points = gpd.read_file(report["settings"]["prompts"])
    assert points["label"].tolist() == [1, 0]
    with rasterio.open(SCENE) as scene:
        pixel = ~scene.transform * (points.geometry[0].x, points.geometry[0].y)
        assert np.allclose(pixel, (scene.width / 2, scene.height / 2), atol=4)  # the size of a pixel of the screen
    with rasterio.open(panel["outputs"]["MASK_RASTER"]) as mask:
        assert mask.read(1)[mask.height // 2, mask.width // 2] == 1


def test_a_review_in_the_panel_is_taken_in_and_out(panel: dict[str, Any]) -> None:
    said = panel["messages"]
    assert "places, the largest expected error first" in said["places"]
    assert said["applied"] != said["again"] == said["undone"]


def test_the_panel_says_what_was_cancelled_and_what_is_no_file_and_leaves_nothing(panel: dict[str, Any]) -> None:
    assert panel["messages"]["cancelled"].startswith("Cancelled")
    assert "Export it to a GeoTIFF first" in panel["messages"]["web"]
    assert panel["messages"]["back"].startswith("A result is there from before: run_2 in ")
    assert "floodmap" not in panel["left"]
