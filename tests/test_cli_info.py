"""`floodmap info`: its output agrees with Scene and Grid, and it does not import geopandas."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import NORTH_UP, SceneFactory, picture
from fakes import FakeSegmenter

from floodmap import inspection
from floodmap_cli.main import run

SNIPPET = """
import sys
from floodmap_cli.main import run
code = run(["info", sys.argv[1]])
print(sorted({"geopandas", "pandas"} & set(sys.modules)), code)
"""


@pytest.mark.slow
def test_info_does_not_import_geopandas(make_scene: SceneFactory) -> None:
    ran = subprocess.run([sys.executable, "-c", SNIPPET, make_scene()], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[] 0"


@pytest.mark.slow
def test_json_says_what_is_there(make_scene: SceneFactory, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = picture(4, (480, 640), "uint16")
    pixels[:, :, :160] = 7
    path = make_scene(pixels=pixels, nodata=7)
    assert run(["info", str(path), "--tile-size", "256", "--overlap", "32", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["size"] == {"width": 640, "height": 480} and found["crs"] == "EPSG:32633"
    assert found["transform"] == list(NORTH_UP)[:6] and found["gsd_m"] == pytest.approx(0.5, rel=1e-3)
    assert (found["bands"], found["nir_band"], found["nodata"], found["dtype"]) == ([1, 2, 3], 4, 7, "uint16")
    assert found["valid_share"] == pytest.approx(0.75) and found["collar"] == []
    low, high = np.percentile(pixels[:, :, 160:], [1, 99], axis=(1, 2))
    assert found["stretch"]["low"] == pytest.approx(low, rel=0.05)
    assert found["stretch"]["high"] == pytest.approx(high, rel=0.05)
    assert found["windows"]["count"] == 6 and all(value > 0 for value in found["estimate"].values())


def test_text_shows_every_scene_and_the_options_count(
    make_scene: SceneFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = picture(3, (100, 200))
    pixels[:, :20] = 0
    first, second = make_scene(pixels=pixels, name="first.tif"), make_scene(name="zweite Ü.tif", nodata=0)
    assert run(["info", str(first), str(second), "--resolution", "1"]) == 0
    text = capsys.readouterr().out
    assert "first.tif" in text and "zweite Ü.tif" in text
    assert "100 x 50 pixels" in text and "(file 200 x 100)" in text and "1 m on the ground" in text
    assert "collar    black" in text and "about 80.0 %" in text and text.count("(estimate)") == 6


def test_a_scene_without_a_place_says_so(make_scene: SceneFactory, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", str(make_scene(name="a.png", crs=None, transform=None))]) == 0
    assert "none: pixel coordinates" in capsys.readouterr().out


def test_json_stays_json_with_a_nan_for_nodata(make_scene: SceneFactory, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", str(make_scene(dtype="float32", nodata=np.nan)), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert found["nodata"] == "nan"


def test_what_cannot_be_read_ends_in_one_line_and_code_1(
    make_scene: SceneFactory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(inspection, "shipped_model", FakeSegmenter)  # to which nothing is strange
    assert run(["info", str(make_scene()), "missing.tif"]) == 1
    assert capsys.readouterr().err == "floodmap: error: missing.tif: no such file\n"
