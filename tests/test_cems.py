"""Layers in the schema of Copernicus EMS: held against the table of fields, in every format; nothing is lost."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import pyproj
import pytest
import rasterio
import shapely
from conftest import GEOGRAPHIC, ROTATED, SceneFactory
from fakes import ConstantSegmenter, FakeSegmenter

import floodmap
from floodmap.errors import MissingCRSError, OutputError
from floodmap.options import SceneOptions, SegmentOptions
from floodmap.output.products.cems_files import write_cems
from floodmap.output.results import FloodMap
from floodmap.pipeline import segment_scene
from floodmap_cli.main import run as run_command

MODEL = json.loads(resources.files("floodmap.output.products").joinpath("cems_model.json").read_text("utf-8"))
EVERY = ("gpkg", "shp", "geojson", "fgb", "parquet")
SMALL = {
    "tile_size": 64, "overlap": 8, "prompts": "none", "schema": "cems", "flood_type": "flash", "min_area_m2": 0.0,
    "simplify_m": 0.0,
}  # fmt: skip
DATED = {"tags": {"TIFFTAG_DATETIME": "2024:10:31 10:49:07"}}
TABLES = {"shp": "dbf", "geojson": "csv", "fgb": "csv", "parquet": "parquet"}


def run(source: Path, out: Path, segmenter: FakeSegmenter | None = None, **settings: object) -> FloodMap:
    return segment_scene(source, out, segmenter or FakeSegmenter(), SegmentOptions(**{**SMALL, **settings}))


def read(folder: Path, name: str, layer: str, form: str) -> pd.DataFrame:
    """Read a layer of a result, by the names of files that the documents state."""
    if form == "gpkg":
        return pyogrio.read_dataframe(folder / f"{name}_cems_v1.gpkg", layer=f"{layer}_v1")
    path = folder / f"{name}_{layer}_v1.{TABLES[form] if layer == 'source' else form}"
    if path.suffix == ".csv":
        return pd.read_csv(path, dtype={field["name"]: str for field in fields("source") if field["type"] == "text"})
    if path.suffix == ".parquet":
        return pd.read_parquet(path) if layer == "source" else geopandas.read_parquet(path)
    return pyogrio.read_dataframe(path)


def fields(layer: str) -> list[dict[str, Any]]:
    return MODEL["layers"][layer]["fields"]


def problems(layer: str, table: pd.DataFrame) -> list[str]:
    """Return what of a layer is not as the table of fields says."""
    found = []
    wanted = [field["name"] for field in fields(layer)]
    columns = [str(column) for column in table.columns if column != "geometry"]
    if columns != wanted:
        found.append(f"{layer}: fields {columns}, not {wanted}")
        return found
    for field in fields(layer):
        values = table[field["name"]]
        known = values.dropna()
        if not field["null"] and len(known) < len(values):
            found.append(f"{layer}.{field['name']} has nulls")
        kinds = {"text": "OSUT", "integer": "i", "real": "f"}[field["type"]]
        if len(known) and values.dtype.kind not in kinds:
            found.append(f"{layer}.{field['name']} is {values.dtype}")
        for value in known:
            if field["type"] == "text" and len(value) > field["length"]:
                found.append(f"{layer}.{field['name']}: {value!r} is too long")
            if "domain" in field and value not in field["domain"]:
                found.append(f"{layer}.{field['name']}: {value!r} is not in the domain")
            if "pattern" in field and not re.fullmatch(field["pattern"], value):
                found.append(f"{layer}.{field['name']}: {value!r} has another form")
        if field.get("unique") and known.duplicated().any():
            found.append(f"{layer}.{field['name']} is not unique")
    return found


def area_m2(table: geopandas.GeoDataFrame) -> float:
    """Geodesic area of all polygons."""
    geod = pyproj.Geod(ellps="WGS84")
    return sum(abs(geod.geometry_area_perimeter(one)[0]) for one in table.geometry)


@pytest.fixture
def water(make_scene: SceneFactory) -> Path:
    """Permanent water on the right half of a scene of 200 x 150 pixels."""
    pixels = np.zeros((1, 150, 200), np.uint8)
    pixels[:, :, 100:] = 100
    return make_scene(name="jrc.tif", pixels=pixels)


@pytest.fixture
def aoi(make_scene: SceneFactory, tmp_path: Path) -> Path:
    """Area of interest, smaller than a scene of 200 x 150 pixels of half a metre."""
    path = tmp_path / "aoi.gpkg"
    box = shapely.box(500_010, 4_999_930, 500_090, 4_999_990)
    geopandas.GeoDataFrame(geometry=[box], crs="EPSG:32633").to_file(path)
    return path


def half_seen(make_scene: SceneFactory, name: str = "scene.tif", **how: Any) -> Path:
    alpha = np.full((150, 200), 255)
    alpha[:, :40] = 0
    return make_scene(shape_hw=(150, 200), alpha=alpha, name=name, **{**DATED, **how})


def test_the_table_of_fields_names_a_source_of_each_field() -> None:
    for layer in MODEL["layers"].values():
        for field in layer["fields"]:
            assert field["source"] in MODEL["sources"], field
            assert len(field["name"]) <= 10 and field["name"].isascii()  # a Shapefile cuts longer names
            assert field["type"] in ("text", "integer", "real")
            for value in field.get("domain", ()):
                assert len(value.encode()) <= field["length"]


@pytest.mark.slow
@pytest.mark.parametrize("form", EVERY)
def test_every_layer_is_as_the_table_of_fields_says(
    form: str, make_scene: SceneFactory, water: Path, aoi: Path, tmp_path: Path
) -> None:
    name, out = "EMSR773_AOI04_DEL_PRODUCT", tmp_path / "out"
    scene = half_seen(make_scene, f"{name}.tif")
    result = run(scene, out, formats=(form,), permanent_water=water, scene=SceneOptions(aoi=aoi))
    assert all(path.exists() for path in result.cems_paths)
    tables = {layer: read(out, name, layer, form) for layer in MODEL["layers"]}
    assert [one for layer, table in tables.items() for one in problems(layer, table)] == []
    assert all(len(table) for table in tables.values())
    ids = set(tables["source"]["src_id"])
    for layer, field in (
        ("observedEventA", "dmg_src_id"),
        ("notAnalysedA", "or_src_id"),
        ("hydrographyA", "or_src_id"),
    ):
        assert set(tables[layer][field]) <= ids
    first, second = tables["source"].iloc[0], tables["source"].iloc[1]
    assert (first["source_nam"], first["src_date"], first["source_tm"]) == (f"{name}.tif", "31/10/2024", "T10:49:07Z")
    assert (first["sensor_gsd"], first["eventphase"]) == ("0.5 m", "Post-event")
    assert (second["source_nam"], second["eventphase"]) == ("jrc.tif", "Not applicable")
    interest = tables["areaOfInterestA"].iloc[0]
    assert (interest["emsr_id"], interest["area_id"], interest["map_type"]) == ("EMSR773", "04", "DEL")
    observed = tables["observedEventA"]
    assert set(observed["obj_desc"]) == {"Flash flood"} and set(observed["det_method"]) == {"Automatic extraction"}
    if form != "parquet":
        path = result.cems_paths[0]
        info = pyogrio.read_info(path, layer="observedEventA_v1" if form == "gpkg" else None)
        assert pyproj.CRS(info["crs"]).to_epsg() == 4326
    if form == "shp":
        assert (out / f"{name}_observedEventA_v1.cpg").read_text() == "UTF-8"


def test_the_check_finds_what_is_wrong(make_scene: SceneFactory, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(make_scene(**DATED), out)
    good = read(out, "scene", "observedEventA", "gpkg")
    assert problems("observedEventA", good) == []
    for damage in (
        {"event_type": "5 - Flood"}, {"notation": "x" * 300}, {"dmg_src_id": 1.5}, {"area": "many"}, {"more": 1},
        {"notation": None},
    ):  # fmt: skip
        assert problems("observedEventA", good.assign(**damage)), damage


@pytest.mark.slow
@pytest.mark.parametrize(
    "where", [{}, {"transform": ROTATED}, {"crs": "EPSG:4326", "transform": GEOGRAPHIC}, {"crs": "EPSG:3857"}]
)
def test_outlines_and_areas_are_those_of_the_own_layers(
    where: dict[str, Any], make_scene: SceneFactory, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = run(half_seen(make_scene, **where), out, formats=("gpkg", "shp"))
    own = geopandas.read_file(out / "scene.gpkg", layer="flood")
    for form in ("gpkg", "shp"):
        made = read(out, "scene", "observedEventA", form)
        np.testing.assert_allclose(made["area"], own["area_m2"] / 1e4, atol=1e-6)
        placed = own.to_crs("EPSG:4326").geometry
        difference = [one.symmetric_difference(two).area for one, two in zip(made.geometry, placed, strict=True)]
        assert sum(difference) < 1e-6 * sum(one.area for one in placed)
        assert made.geometry.is_valid.all()
    assert made["area"].sum() * 1e4 == pytest.approx(result.report["flood_area_m2"], rel=1e-3)
    assert made["area"].sum() * 1e4 == pytest.approx(area_m2(made), rel=1e-3)


@pytest.mark.slow
def test_unobserved_ground_and_ground_outside_do_not_become_dry(
    make_scene: SceneFactory, aoi: Path, tmp_path: Path
) -> None:
    """Inside of the area of interest and outside of the layer notAnalysedA is the ground that was observed."""
    out = tmp_path / "out"
    report = run(half_seen(make_scene), out, scene=SceneOptions(aoi=aoi)).report
    interest, unseen = (read(out, "scene", layer, "gpkg") for layer in ("areaOfInterestA", "notAnalysedA"))
    assert report["pixels"]["outside"] and report["pixels"]["unobserved"]
    footprint = read(out, "scene", "imageFootprintA", "gpkg")
    assert area_m2(interest) < 0.9 * area_m2(footprint)
    assert interest.union_all().buffer(1e-7).contains(unseen.union_all())
    assert area_m2(interest) - area_m2(unseen) == pytest.approx(report["observed_area_m2"], rel=1e-3)


def test_without_an_area_of_interest_it_is_the_whole_scene(make_scene: SceneFactory, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(make_scene(), out)
    interest, footprint = (read(out, "scene", layer, "gpkg") for layer in ("areaOfInterestA", "imageFootprintA"))
    assert interest.geometry[0].equals(footprint.geometry[0])
    with rasterio.open(out / "scene_mask.tif") as mask:
        corners = rasterio.warp.transform_bounds(mask.crs, "EPSG:4326", *mask.bounds)
    assert np.allclose(footprint.total_bounds, corners, atol=1e-7)


@pytest.mark.slow
def test_permanent_water_is_hydrography_and_no_observed_event(
    make_scene: SceneFactory, water: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    report = run(make_scene(shape_hw=(150, 200)), out, permanent_water=water, permanent_rim_m=0.0).report
    event, lake = (read(out, "scene", layer, "gpkg") for layer in ("observedEventA", "hydrographyA"))
    assert area_m2(lake) == pytest.approx(report["permanent_water_area_m2"], rel=1e-3)
    assert event["area"].sum() * 1e4 == pytest.approx(report["flood_area_m2"], rel=1e-3)
    assert event.union_all().intersection(lake.union_all()).area < 1e-15


def test_points_of_a_person_make_the_method_semi_automatic(make_scene: SceneFactory, tmp_path: Path) -> None:
    points = tmp_path / "clicks.gpkg"
    geopandas.GeoDataFrame(
        {"label": [1]}, geometry=[shapely.Point(500_010, 4_999_990)], crs="EPSG:32633"
    ).to_file(points)  # fmt: skip
    out = tmp_path / "out"
    run(make_scene(), out, prompts=points, flood_type="unknown")
    event = read(out, "scene", "observedEventA", "gpkg")
    assert set(event["det_method"]) == {"Semi-automatic extraction"}
    assert event["obj_desc"].isna().all()  # floodmap cannot know it


def test_a_date_that_is_not_known_is_not_made_up(
    make_scene: SceneFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    run(make_scene(), out)
    assert read(out, "scene", "source", "gpkg")["src_date"].isna().all()
    assert "has no date of acquisition" in caplog.text


@pytest.mark.parametrize("form", EVERY)
def test_layers_without_rows_keep_their_fields(form: str, make_scene: SceneFactory, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(make_scene(), out, ConstantSegmenter(0.1), formats=(form,))
    for layer in ("observedEventA", "notAnalysedA"):
        table = read(out, "scene", layer, form)
        assert len(table) == 0
        if form != "geojson":  # an empty GeoJSON has no fields
            assert problems(layer, table) == []


def test_a_scene_without_crs_is_refused_before_the_run(make_scene: SceneFactory, tmp_path: Path) -> None:
    with pytest.raises(MissingCRSError, match="--schema cems cannot be used"):
        run(make_scene(crs=None), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_text_that_a_shapefile_would_cut_is_an_error(tmp_path: Path) -> None:
    point = geopandas.GeoDataFrame({"notation": ["flood"]}, geometry=[shapely.box(0, 0, 1, 1)], crs="EPSG:4326")
    layers = {layer: point for layer in MODEL["layers"] if layer != "hydrographyA"}
    layers["source"] = pd.DataFrame({"source_nam": ["ä" * 130], "src_id": [1]})
    date = datetime(2024, 5, 1, tzinfo=UTC)
    with pytest.raises(OutputError, match="source_nam of source is longer than the 254 bytes"):
        write_cems(layers, tmp_path, "x", ["gpkg", "shp"], date=date)
    assert list(tmp_path.iterdir()) == []
    assert len(write_cems(layers, tmp_path, "x", ["gpkg", "fgb"], date=date)) == 6


@pytest.mark.slow
def test_resume_with_another_kind_of_flood_is_no_success(make_scene: SceneFactory, tmp_path: Path) -> None:
    scene, out = make_scene(), tmp_path / "out"
    run(scene, out)
    assert run(scene, out, resume=True).cems_paths
    with pytest.raises(OutputError, match="--flood-type was another one"):
        run(scene, out, resume=True, flood_type="coastal")
    run(scene, out, overwrite=True, flood_type="coastal")
    assert set(read(out, "scene", "observedEventA", "gpkg")["obj_desc"]) == {"Coastal flood"}
    plain = tmp_path / "plain"
    run(scene, plain, schema="floodmap", flood_type="unknown")
    with pytest.raises(OutputError, match=r"missing: scene_cems_v1\.gpkg"):
        run(scene, plain, resume=True)


@pytest.mark.slow
@pytest.mark.parametrize("form", EVERY)
def test_evaluate_reads_the_layers_with_their_unobserved_ground(
    form: str, make_scene: SceneFactory, tmp_path: Path
) -> None:
    scene, out = half_seen(make_scene), tmp_path / "out"
    run(scene, out, formats=(form,))
    path = out / ("scene_cems_v1.gpkg" if form == "gpkg" else f"scene_observedEventA_v1.{form}")
    scores = floodmap.evaluate(path, out / "scene_mask.tif").scenes[0]
    assert scores.iou == pytest.approx(1.0, abs=2e-3)
    assert scores.observed_share == pytest.approx(0.8, abs=2e-3)


@pytest.mark.slow
def test_a_folder_with_layers_of_both_schemas_has_one_prediction_a_scene(
    make_scene: SceneFactory, tmp_path: Path
) -> None:
    out, references = tmp_path / "out", tmp_path / "references"
    run(half_seen(make_scene), out, formats=EVERY)
    references.mkdir()
    (out / "scene_mask.tif").rename(references / "scene_reference.tif")
    evaluation = floodmap.evaluate(out, references)
    assert [one.name for one in evaluation.scenes] == ["scene"] and not evaluation.unpaired_predictions


@pytest.mark.slow
@pytest.mark.parametrize("form", EVERY)
def test_vectorize_writes_the_same_layers(form: str, make_scene: SceneFactory, tmp_path: Path, capsys) -> None:
    out, made = tmp_path / "out", tmp_path / "made"
    made.mkdir()
    run(half_seen(make_scene), out)
    name = "x_cems_v1.gpkg" if form == "gpkg" else f"x_observedEventA_v1.{form}"
    given = ["--schema", "cems", "--flood-type", "flash"]
    command = ["vectorize", str(out / "scene_mask.tif"), "-o", str(made / name), *given]
    assert run_command(command) == 0
    for layer in ("observedEventA", "notAnalysedA", "imageFootprintA", "source"):
        table, own = read(made, "x", layer, form), read(out, "scene", layer, "gpkg")
        assert problems(layer, table) == []
        first, second = (sorted(map(str, one.drop(columns="geometry", errors="ignore").to_numpy().tolist()))
                         for one in (table, own))  # fmt: skip
        assert first == second  # FlatGeobuf has an order of its own
    assert run_command(command) == 1 and "exists already" in capsys.readouterr().err
    assert run_command([*command, "--overwrite"]) == 0


def test_vectorize_of_a_foreign_mask_claims_no_method_and_no_date(make_scene: SceneFactory, tmp_path: Path) -> None:
    pixels = np.zeros((1, 60, 80), np.uint8)
    pixels[:, 20:40, 20:40] = 1
    mask = make_scene(name="other.tif", pixels=pixels)
    paths = floodmap.vectorize_cems(mask, tmp_path / "a.shp", flood_type="riverine")
    assert [path.name for path in paths] == [
        "a.shp", "a_notAnalysedA_v1.shp", "a_imageFootprintA_v1.shp", "a_areaOfInterestA_v1.shp", "a_source_v1.dbf",
    ]  # fmt: skip
    event = pyogrio.read_dataframe(tmp_path / "a.shp")
    assert event["det_method"].isna().all() and set(event["obj_desc"]) == {"Riverine flood"}
    assert event["area"].tolist() == pytest.approx([20 * 20 * 0.25 / 1e4], rel=2e-3)
    assert pyogrio.read_dataframe(tmp_path / "a_source_v1.dbf")["src_date"].isna().all()
    with pytest.raises(OutputError, match="exists already"):
        floodmap.vectorize_cems(mask, tmp_path / "a.shp")


def test_the_kind_of_flood_alone_is_wrong_usage(make_scene: SceneFactory, tmp_path: Path, capsys) -> None:
    arguments = ["segment", str(make_scene()), "-o", str(tmp_path / "out"), "--flood-type", "flash"]
    assert run_command(arguments) != 0 and "--schema cems" in capsys.readouterr().err
