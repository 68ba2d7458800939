"""Rehearsal: results that cannot be written are refused before the first window is run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
from conftest import NORTH_UP, UTM, SceneFactory
from fakes import FakeSegmenter
from pyproj import CRS

from floodmap.errors import OutputError
from floodmap.evaluation.run import evaluate
from floodmap.geo.geogrid import GeoGrid
from floodmap.options import SegmentOptions
from floodmap.output import cog, helpers, rehearsal, vector_files
from floodmap.output.finishing import Finishing
from floodmap.pipeline import segment_scene
from floodmap_cli.main import run

EVERY = ("gpkg", "shp", "geojson", "fgb", "parquet")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeSegmenter:
    """Commands get a fake model."""
    fake = FakeSegmenter()
    monkeypatch.setattr("floodmap_cli.loading.load", lambda model, device: fake)
    return fake


def finishing(out: Path, **changed: object) -> Finishing:
    made = Finishing(
        source="scene.tif", grid=GeoGrid(rasterio.CRS.from_string(UTM), NORTH_UP, (300, 500)),
        date=datetime(2024, 5, 6), out=out, name="scene", threshold=50, min_area_m2=6.0, simplify_m=0.5,
        formats=("gpkg",), files={}, started=0.0,
        settings={"versions": {"floodmap": "1"}, "model": {"name": "fake"}},
    )  # fmt: skip
    return replace(made, **changed)  # type: ignore[arg-type]


@pytest.fixture
def helper() -> Iterator[rehearsal.Helper]:
    """A helper process that is ready; ended after the test."""
    helper = rehearsal.Helper()
    yield helper
    helper.dismiss()


@pytest.fixture
def not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a command that has not imported the libraries that write polygons."""
    monkeypatch.setattr(rehearsal, "is_loaded", lambda: False)


@pytest.mark.parametrize("library", ["polygons", "rasters"])
def test_no_window_is_run_where_results_cannot_be_written(
    library: str, make_scene: SceneFactory, tmp_path: Path, fake: FakeSegmenter, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise (pyogrio.errors.DataLayerError if library == "polygons" else rasterio.errors.RasterioError)("no such CRS")

    if library == "polygons":
        monkeypatch.setattr(pyogrio, "write_dataframe", refuse)
    else:
        monkeypatch.setattr(cog.rasterio.shutil, "copy", refuse)
    assert run(["segment", str(make_scene()), "-o", str(tmp_path / "out"), "--format", "shp", "--prompts", "none"]) == 1
    said = capsys.readouterr().err
    assert "no such CRS" in said and "before the first window" in said and said.count("\n") == 1
    assert ".rehearsal-" not in said and str(tmp_path / "out") in said
    assert not fake.tiles and not (tmp_path / "out").exists()


def test_nothing_is_left_of_a_rehearsal(tmp_path: Path) -> None:
    rehearsal.rehearse(finishing(tmp_path / "out", formats=EVERY), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_rehearsal_writes_what_the_run_will_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = {}

    def keep(layers, out_dir, name, kinds, **_) -> list[Path]:
        written.update(**layers, name=name, kinds=kinds)
        return []

    monkeypatch.setattr(vector_files, "write_layers", keep)
    rehearsal.rehearse(finishing(tmp_path, formats=EVERY), tmp_path)
    assert written["name"] == "scene" and written["kinds"] == EVERY
    together = np.array([*written["flood"].total_bounds, *written["unobserved"].total_bounds])
    west, north = NORTH_UP.c, NORTH_UP.f
    assert together.tolist() == [west, north - 75, west + 250, north, west, north - 150, west + 250, north - 75]
    assert written["flood"]["source"].tolist() == ["scene.tif"]


@pytest.mark.slow
def test_a_helper_process_rehearses_where_libraries_are_not_loaded(
    tmp_path: Path, helper: rehearsal.Helper, not_loaded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rehearsal, "perform", lambda *_: pytest.fail("it was done here"))
    rehearsal.rehearse(finishing(tmp_path / "out"), tmp_path, helper)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_helper_process_reports_what_cannot_be_written(
    tmp_path: Path, helper: rehearsal.Helper, not_loaded: None
) -> None:
    nowhere = rasterio.CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]')
    made = finishing(tmp_path / "out", grid=GeoGrid(nowhere, NORTH_UP, (300, 500)), formats=("geojson",))
    with pytest.raises(OutputError, match=r"out/scene_flood\.geojson: .*before the first window"):
        rehearsal.rehearse(made, tmp_path, helper)


def test_where_the_helper_is_gone_the_run_rehearses_by_itself(
    tmp_path: Path, helper: rehearsal.Helper, not_loaded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []
    monkeypatch.setattr(rehearsal, "perform", lambda *_: done.append(1))
    assert helper.process.popen is not None
    helper.process.popen.kill()
    helper.process.popen.wait()
    rehearsal.rehearse(finishing(tmp_path / "out"), tmp_path, helper)
    rehearsal.rehearse(finishing(tmp_path / "out"), tmp_path, helper)
    monkeypatch.setattr(helpers.subprocess, "Popen", lambda *_, **__: (_ for _ in ()).throw(OSError("none")))
    rehearsal.rehearse(finishing(tmp_path / "out"), tmp_path, rehearsal.Helper())
    assert len(done) == 3


@pytest.mark.slow
def test_a_helper_that_is_not_used_ends_with_its_command() -> None:
    script = "from floodmap.output.rehearsal import Helper; print(Helper().process.popen.pid)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for _ in range(600):
        if not Path(f"/proc/{done.stdout.strip()}").exists():
            return
        time.sleep(0.1)
    pytest.fail("it is still there")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("with_heights", "code"),
    [(CRS(UTM).to_3d(), 32633), (CRS("EPSG:32633+5773"), 32633), (CRS("EPSG:7415"), 28992), (CRS("EPSG:4979"), 4326),
     (CRS("EPSG:4326+5773"), 4326), (CRS("+proj=laea +lat_0=45 +lon_0=15 +ellps=GRS80 +type=crs").to_3d(), None),
     (CRS("+proj=utm +zone=33 +ellps=bessel +towgs84=565,50,465 +geoidgrids=egm96_15.gtx +vunits=m +type=crs"), None)],
)  # fmt: skip
def test_heights_are_dropped_from_the_crs_of_what_is_written(
    with_heights: CRS, code: int | None, make_scene: SceneFactory, tmp_path: Path
) -> None:
    place = NORTH_UP if with_heights.to_2d().is_projected else rasterio.Affine(1e-5, 0, 11.0, 0, -1e-5, 47.0)
    place = rasterio.Affine(0.5, 0, 155_000, 0, -0.5, 463_000) if code == 28992 else place
    in_file = with_heights.type_name != "Projected CRS"  # GeoTIFF has no way to hold that
    scene = make_scene(transform=place, crs=with_heights.to_wkt() if in_file else None)
    if not in_file:
        text = with_heights.to_wkt().replace("&", "&amp;").replace('"', "&quot;")
        Path(f"{scene}.aux.xml").write_text(f"<PAMDataset><SRS>{text}</SRS></PAMDataset>")
    flood_map = segment_scene(scene, tmp_path / "out", FakeSegmenter(), SegmentOptions(prompts="none", formats=EVERY))
    with rasterio.open(flood_map.mask_path) as mask:
        assert mask.crs.to_epsg() == code and len(CRS(mask.crs.to_wkt()).axis_info) == 2
    for path in flood_map.layer_paths[:-2]:
        layer = {"layer": "flood"} if path.suffix == ".gpkg" else {}
        assert len(CRS(pyogrio.read_info(path, **layer)["crs"]).axis_info) == 2
    assert len(CRS(flood_map.polygons().crs).axis_info) == 2
    scores = evaluate(flood_map.mask_path, scene.parent / "out" / f"{scene.stem}.gpkg")
    assert scores.scenes[0].iou > 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("crs", "kind", "said"),
    [("+proj=utm +zone=33 +ellps=bessel +towgs84=565,50,465 +type=crs", "shp", "m beside the scene"),
     ("+proj=tpers +h=5500000 +lat_0=45 +lon_0=15 +type=crs", "gpkg", "scene_mask.tif cannot hold"),
     ("+proj=ob_tran +o_proj=longlat +o_lon_p=-162 +o_lat_p=39.25 +lon_0=180 +ellps=WGS84 +type=crs", "gpkg", "WKT")],
)  # fmt: skip
def test_a_format_that_cannot_hold_the_crs_is_refused_before_the_first_window(
    crs: str, kind: str, said: str, make_scene: SceneFactory, tmp_path: Path
) -> None:
    place = {"shp": NORTH_UP}.get(kind, rasterio.Affine(1e-4, 0, 5, 0, -1e-4, 5))
    scene, fake = make_scene(crs=None, transform=place), FakeSegmenter()
    text = CRS(crs).to_wkt().replace('"', "&quot;")
    Path(f"{scene}.aux.xml").write_text(f"<PAMDataset><SRS>{text}</SRS></PAMDataset>")
    options = SegmentOptions(prompts="none", formats=(kind,))  # type: ignore[arg-type]
    with pytest.raises(OutputError, match=f"{said}.*before the first window"):
        segment_scene(scene, tmp_path / "out", fake, options)
    assert not fake.tiles and not (tmp_path / "out").exists()


def test_areas_with_heights_are_laid_over_scenes_without(make_scene: SceneFactory, tmp_path: Path) -> None:
    import geopandas
    import shapely

    box = shapely.force_3d(shapely.box(NORTH_UP.c, NORTH_UP.f - 5, NORTH_UP.c + 5, NORTH_UP.f), 12.0)
    frame = geopandas.GeoDataFrame({"n": [1]}, geometry=[box], crs=CRS("EPSG:32633+5773"))
    frame.to_file(tmp_path / "area.gpkg", driver="GPKG")
    from floodmap.geo.vectors import read_vectors

    vectors = read_vectors(tmp_path / "area.gpkg")
    assert vectors.crs == CRS(UTM) and not vectors.geometries[0].has_z


def test_a_folder_that_takes_no_files_is_refused_before_the_first_window(
    make_scene: SceneFactory, tmp_path: Path, fake: FakeSegmenter, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rehearsal.tempfile, "TemporaryDirectory", full)
    assert run(["segment", str(make_scene()), "-o", str(tmp_path / "out"), "--prompts", "none"]) == 1
    said = capsys.readouterr().err
    assert "No space left" in said and "unexpected" not in said and said.count("\n") == 1 and not fake.tiles


@pytest.mark.slow
def test_a_run_that_goes_on_is_rehearsed_too(make_scene: SceneFactory, tmp_path: Path) -> None:
    out = tmp_path / "out"
    segment_scene(make_scene(), out, FakeSegmenter(), SegmentOptions(prompts="none", resume=True, formats=EVERY))
    assert json.loads((out / "scene.json").read_text())["polygons"]["flood"] > 0
    assert not [name for name in os.listdir(out) if name.startswith(".")]
