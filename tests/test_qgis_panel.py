"""The panel of the QGIS plugin in QGIS Desktop; skipped where QGIS or Xvfb is not installed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import qgis_profile
import rasterio
from conftest import HANGS
from qgis_profile import ROOT, SCENE, environment
from shapely.geometry import Point

pytestmark = pytest.mark.slow
home, program = qgis_profile.home, qgis_profile.program  # fixtures

XVFB = "/usr/bin/xvfb-run"


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
    assert Path(report["settings"]["prompts"]).name == "run_1_corrections.gpkg"
    points = gpd.read_file(report["settings"]["prompts"])
    assert points["label"].tolist() == [1, 0]
    with rasterio.open(SCENE) as scene:
        pixel = ~scene.transform * (points.geometry[0].x, points.geometry[0].y)
        assert np.allclose(pixel, (scene.width / 2, scene.height / 2), atol=4)  # the size of a pixel of the screen
    with rasterio.open(panel["outputs"]["MASK_RASTER"]) as mask:
        assert mask.read(1)[mask.height // 2, mask.width // 2] == 1


def test_one_program_stays_for_the_next_corrections(panel: dict[str, Any]) -> None:
    said, staying = panel["messages"], panel["staying"]
    assert len(staying["again"]) == 1
    assert staying["again"] == staying["second"] == staying["no label"] == staying["third"]
    assert said["second"] != said["again"] == said["third"]
    assert "label" in said["no label"] and panel["red"]
    assert panel["legends"]["second"] == panel["legends"]["no label"] == panel["legends"]["again"]


def test_the_program_that_stays_ends_and_a_run_of_its_own_takes_its_place(panel: dict[str, Any]) -> None:
    staying = panel["staying"]
    assert staying["places"] == []  # a run has begun
    for name in ("killed", "cancel", "idle", "closed", "other scene", "unloaded"):
        assert (len(staying[f"before {name}"]), staying[name]) == (1, []), name
    assert panel["messages"]["killed"] == panel["messages"]["again"]
    assert panel["messages"]["cancel"].startswith("Cancelled")


def test_a_review_in_the_panel_is_taken_in_and_out(panel: dict[str, Any]) -> None:
    said = panel["messages"]
    assert "places, the largest expected error first" in said["places"]
    assert said["applied"] != said["again"] == said["undone"]


def test_the_panel_says_what_was_cancelled_and_what_is_no_file_and_leaves_nothing(panel: dict[str, Any]) -> None:
    assert panel["messages"]["cancelled"].startswith("Cancelled")
    assert "Export it to a GeoTIFF first" in panel["messages"]["web"]
    assert panel["messages"]["back"].startswith("A result is there from before: run_1 in ")
    assert "floodmap" not in panel["left"]
