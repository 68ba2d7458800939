"""Warnings for scenes that models were not made for: in the log, the JSON, the report and `info`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from conftest import NORTH_UP, SceneFactory, picture
from fakes import FakeSegmenter

from floodmap import inspection
from floodmap.imagery.scene import Scene
from floodmap.imagery.suitability import white_share
from floodmap.options import SceneOptions
from floodmap_cli.main import run

HW = (96, 128)


def snow(share: float) -> np.ndarray:
    """Ground, of which a share lies under snow."""
    pixels = picture(3, HW)
    covered = np.random.default_rng(0).random(HW) < share
    pixels[:, covered] = np.random.default_rng(1).integers(215, 245, covered.sum())
    return pixels


def unsuited(path: Path, **options: object) -> tuple[str, ...]:
    with Scene.open(path, SceneOptions(**options)) as scene:  # type: ignore[arg-type]
        return scene.unsuited


def test_pixels_of_more_than_5_m_get_a_warning(make_scene: SceneFactory) -> None:
    place = Affine.translation(500_000, 5_000_000)
    for metres, told in ((0.5, False), (5.0, False), (6.0, True), (10.0, True)):
        path = make_scene(transform=place @ Affine.scale(metres, -metres), name=f"{metres}.tif")
        found = unsuited(path)
        assert bool(found) == told and (not told or f"{metres:g} m" in found[0])
    assert unsuited(make_scene(transform=place @ Affine.scale(4, -4)), resolution_m=8.0)
    assert not unsuited(make_scene(crs=None, transform=None))
    degrees = make_scene(crs="EPSG:4326", transform=Affine(1e-4, 0, 11, 0, -1e-4, 47), name="degrees.tif")
    assert len(unsuited(degrees)) == 1


@pytest.mark.slow
def test_ground_under_snow_or_cloud_gets_a_warning(make_scene: SceneFactory) -> None:
    assert len(unsuited(make_scene(pixels=snow(0.7)))) == 1 and "snow" in unsuited(make_scene(pixels=snow(0.7)))[0]
    assert not unsuited(make_scene(pixels=snow(0.3)))
    for values, name in ((snow(0.7) / np.float32(300), "f"), ((snow(0.7) * 33.0).astype("uint16"), "u")):
        assert unsuited(make_scene(pixels=values, name=f"{name}.tif", transform=NORTH_UP))
    for values, name in ((picture(3, HW) / np.float32(600), "g"), ((picture(3, HW) * 16.0).astype("uint16"), "v")):
        assert not unsuited(make_scene(pixels=values, name=f"{name}.tif"))


def test_sand_roofs_and_nothing_are_not_white() -> None:
    sand = np.repeat(np.array([[225], [195], [160]], np.uint8), 100, axis=1)
    grey = np.full((3, 100), 150, np.uint8)
    assert white_share(sand) == white_share(grey) == white_share(np.empty((3, 0), np.uint8)) == 0
    assert white_share(np.full((3, 100), 230, np.uint8)) == 1


@pytest.mark.slow
def test_warnings_stand_in_the_json_on_the_page_and_in_info(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("floodmap_cli.loading.load", lambda model, device: FakeSegmenter())
    scene = make_scene(pixels=snow(0.8), transform=Affine(10, 0, 500_000, 0, -10, 5_000_000), name="s.tif")
    options = ["--prompts", "none", "--report", "-o", str(tmp_path / "out")]
    assert run(["segment", str(scene), *options]) == 0
    said = capsys.readouterr().err
    warnings = json.loads((tmp_path / "out" / "s.json").read_text())["warnings"]
    page = (tmp_path / "out" / "s_report.html").read_text("utf-8")
    assert len(warnings) == 2
    for line in warnings:
        assert said.count(f"floodmap: warning: {line}") == 1 and line.replace("'", "&#39;") in page
    assert "rivers, lakes and pools" in page
    monkeypatch.setattr(inspection, "shipped_model", FakeSegmenter)  # to which nothing is strange
    assert run(["info", str(scene), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)[0]["warnings"] == warnings and all(line in captured.err for line in warnings)


@pytest.mark.slow
def test_near_infrared_is_said_to_be_used_only_where_it_is(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = make_scene(bands=4, name="s.tif", shape_hw=HW)
    for number, knows_floods in enumerate((True, False)):
        fake = FakeSegmenter()
        fake.knows_floods = knows_floods
        monkeypatch.setattr("floodmap_cli.loading.load", lambda model, device, fake=fake: fake)
        out = tmp_path / str(number)
        assert run(["segment", str(scene), "-o", str(out), "--report"]) == 0
        told = json.loads((out / "s.json").read_text())["source"]["near_infrared"]
        assert told == {"band": 4, "used": True}
        assert "near infrared" in (out / "s_report.html").read_text("utf-8")
    assert run(["segment", str(scene), "-o", str(tmp_path / "off"), "--nir", "off", "--report"]) == 0
    told = json.loads((tmp_path / "off" / "s.json").read_text())["source"]["near_infrared"]
    assert told == {"band": None, "used": False}
    capsys.readouterr()
    assert run(["info", str(scene)]) == 0
    assert "used, unless --nir off" in capsys.readouterr().out
    assert run(["info", str(make_scene(name="rgb.tif"))]) == 0
    assert "near infrared" not in capsys.readouterr().out
