"""Layers read back with pyogrio, and what lies inside a GeoPackage with sqlite3."""

from __future__ import annotations

import json
import sqlite3
import xml.etree.ElementTree as ET
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas
import pyogrio
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS

from floodmap.errors import MissingCRSError, OutputError
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.window import Window
from floodmap.masks.rules import FloodRule
from floodmap.masks.vector import PolygonMask
from floodmap.output.polygons import Polygons, polygonize
from floodmap.output.vector_files import FORMATS, style, write_file, write_layers

UTM = CRS.from_epsg(32643)
DATE = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
CODES = np.array([[90, 90, 0, 255], [90, 0, 0, 255], [0, 0, 70, 252]], np.uint8)


def layers_of(codes: np.ndarray = CODES, crs: CRS | None = UTM, **options: Any) -> Polygons:
    transform = Affine(0.5, 0, 500_000, 0, -0.5, 3_000_000)
    grid = GeoGrid(crs, options.pop("transform", transform), codes.shape)
    defaults = {"grid": grid, "threshold": 50, "model": "finetuned", "source": "Überflug.tif"}
    return polygonize([(0, codes)], **{**defaults, **options})


def write(layers: Polygons, out_dir: Path, formats: tuple[str, ...] = FORMATS, **options: Any) -> list[Path]:
    tables = {"flood": layers.flood, "unobserved": layers.unobserved}
    return write_layers(tables, out_dir, "scène.v2", formats, **{"date": DATE, **options})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def read(path: Path, layer: str) -> geopandas.GeoDataFrame:
    if path.suffix == ".parquet":
        return geopandas.read_parquet(path)
    return geopandas.read_file(path, layer=layer if path.suffix == ".gpkg" else None)


@pytest.mark.parametrize("suffix", FORMATS)
def test_each_format_reads_back_as_it_was(tmp_path: Path, suffix: str) -> None:
    layers = layers_of()
    paths = write(layers, tmp_path, (suffix,))
    pairs = [(paths[0], "flood"), (paths[-1], "unobserved")]
    for (path, layer), frame in zip(pairs, (layers.flood, layers.unobserved), strict=True):
        back = read(path, layer)
        if suffix == "geojson":
            assert back.crs.to_epsg() == 4326
            back = back.to_crs(32643)
        assert back.crs.to_epsg() == 32643
        if suffix == "shp":
            assert all(len(column) <= 10 for column in back.columns.drop("geometry"))
            back.columns = frame.columns
        back = back.sort_values("id").reset_index(drop=True)
        tolerance = 1e-3 if suffix == "geojson" else 0
        shapes = zip(back.geometry, frame.geometry, strict=True)
        assert all(shapely.hausdorff_distance(got, want) <= tolerance for got, want in shapes)
        columns = frame.columns.drop("geometry")
        pandas.testing.assert_frame_equal(
            pandas.DataFrame(back[columns]), pandas.DataFrame(frame[columns]), check_dtype=False, rtol=1e-12
        )


def test_the_geopackage_holds_both_layers_flood_first_and_their_styles(tmp_path: Path) -> None:
    (path,) = write(layers_of(), tmp_path, ("gpkg",))
    assert [name for name, kind in pyogrio.list_layers(path) if kind] == ["flood", "unobserved"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["scène.v2.gpkg"]
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (10200,)
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        tables = database.execute("SELECT table_name, data_type, last_change FROM gpkg_contents").fetchall()
        assert [table[:2] for table in tables] == [
            ("flood", "features"), ("unobserved", "features"), ("layer_styles", "attributes"),
        ]  # fmt: skip
        assert {table[2] for table in tables} == {"2024-05-06T07:08:09.000Z"}
        columns = dict(database.execute("SELECT table_name, column_name FROM gpkg_geometry_columns"))
        rows = database.execute(
            "SELECT f_table_name, f_geometry_column, useAsDefault, styleQML, update_time FROM layer_styles ORDER BY id"
        ).fetchall()
    assert [(row[0], row[1], row[2]) for row in rows] == [(name, columns[name], 1) for name in ("flood", "unobserved")]
    assert [row[3] for row in rows] == [style("flood"), style("unobserved")]
    assert {row[4] for row in rows} == {"2024-05-06T07:08:09.000Z"}


@pytest.mark.parametrize("suffix", FORMATS)
def test_empty_layers_have_a_type_a_crs_and_their_columns(tmp_path: Path, suffix: str) -> None:
    paths = write(layers_of(np.zeros((2, 2), np.uint8)), tmp_path, (suffix,))
    for path, layer in ((paths[0], "flood"), (paths[-1], "unobserved")):
        back = read(path, layer)
        assert len(back) == 0
        if suffix != "geojson":
            assert back.crs.to_epsg() == 32643
            assert len(back.columns) == (8 if layer == "flood" else 5)
        if suffix in ("gpkg", "shp", "fgb"):
            info = pyogrio.read_info(path, layer=layer if suffix == "gpkg" else None)
            assert info["geometry_type"] in ("MultiPolygon", "Polygon")


def test_geojson_keeps_the_standard(tmp_path: Path) -> None:
    path = write(layers_of(), tmp_path, ("geojson",))[0]
    collection = json.loads(path.read_text("utf-8"))
    assert "crs" not in collection and collection["features"][0]["properties"]["source"] == "Überflug.tif"
    ring = collection["features"][0]["geometry"]["coordinates"][0][0]
    assert shapely.LinearRing(ring).is_ccw and 74.9 < ring[0][0] < 75.1


def test_geojson_is_split_at_the_antimeridian(tmp_path: Path) -> None:
    layers = layers_of(np.full((4, 4), 90, np.uint8), CRS.from_epsg(32601),
                       transform=Affine(100, 0, 213_300, 0, -100, 100_000))  # fmt: skip
    shape = geopandas.read_file(write(layers, tmp_path, ("geojson",))[0]).geometry[0]
    west, _, east, _ = shape.bounds
    assert len(shape.geoms) == (2 if west < 0 < east else 1)
    assert all(part.bounds[2] - part.bounds[0] < 1 for part in shape.geoms)


@pytest.mark.parametrize("epsg", [32643, 2263])
def test_long_edges_stay_where_they_are_in_geojson(tmp_path: Path, epsg: int) -> None:
    codes = np.zeros((6, 6), np.uint8)
    codes[:4, 1:5], codes[1:3, 2:4] = 90, 0
    crs, metre = CRS.from_epsg(epsg), 1 if epsg == 32643 else 3.2808
    transform = Affine(5000 * metre, 0, 400_000, 0, -5000 * metre, 5_400_000 if epsg == 32643 else 200_000)
    layers = layers_of(codes, crs, transform=transform)
    written = geopandas.read_file(write(layers, tmp_path, ("geojson",))[0]).geometry[0]
    # An edge of GeoJSON is straight in longitude and latitude.
    back = geopandas.GeoSeries([shapely.segmentize(written, 0.001)], crs=4326).to_crs(crs.to_wkt()).iloc[0]
    assert shapely.hausdorff_distance(back, layers.flood.geometry[0]) < 0.1 * metre
    assert len(written.geoms[0].interiors) == 1 and written.is_valid


def test_geojson_without_a_crs_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(MissingCRSError, match="WGS 84"):
        write(layers_of(crs=None), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_other_formats_take_layers_without_a_crs(tmp_path: Path) -> None:
    formats = tuple(suffix for suffix in FORMATS if suffix != "geojson")
    for path in write(layers_of(crs=None), tmp_path, formats):
        back = read(path, "flood")
        assert back.crs is None or "Undefined" in back.crs.name
        assert back["area_m2"].isna().all() or "unobserved" in path.name


def test_masks_without_confidence_are_written_with_nulls(tmp_path: Path) -> None:
    layers = layers_of(confidence=False, model=None)
    for path in write(layers, tmp_path):
        if "unobserved" not in path.name:
            assert read(path, "flood").iloc[:, 3:6].isna().all(axis=None)


def test_bytes_depend_on_the_input_alone(tmp_path: Path) -> None:
    here = timezone(timedelta(hours=5, minutes=30))
    for folder, date in (("a", DATE), ("b", DATE.astimezone(here)), ("c", DATE.replace(tzinfo=None))):
        write(layers_of(), tmp_path / folder, date=date)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")


def test_gdals_date_is_left_as_it_was(tmp_path: Path) -> None:
    write(layers_of(), tmp_path, ("gpkg",))
    assert pyogrio.get_gdal_config_option("OGR_CURRENT_DATE") is None


@pytest.mark.parametrize("suffix", FORMATS)
def test_existing_files_are_refused_and_replaced_on_request(tmp_path: Path, suffix: str) -> None:
    write(layers_of(), tmp_path, (suffix,))
    before = contents(tmp_path)
    with pytest.raises(OutputError, match="exists already"):
        write(layers_of(np.zeros((2, 2), np.uint8)), tmp_path, (suffix,))
    assert contents(tmp_path) == before
    paths = write(layers_of(np.zeros((2, 2), np.uint8)), tmp_path, (suffix,), overwrite=True)
    assert len(read(paths[0], "flood")) == 0 and contents(tmp_path).keys() == before.keys()


def test_one_existing_file_among_many_leaves_the_others_unwritten(tmp_path: Path) -> None:
    (tmp_path / "scène.v2_unobserved.fgb").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"unobserved\.fgb"):
        write(layers_of(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["scène.v2_unobserved.fgb"]


def test_a_failure_in_the_middle_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = pyogrio.write_dataframe

    def fail(frame: Any, path: Path, **options: Any) -> None:
        if path.suffix == ".fgb":
            raise RuntimeError("disk full")
        real(frame, path, **options)

    monkeypatch.setattr(pyogrio, "write_dataframe", fail)
    with pytest.raises(OutputError, match="disk full"):
        write(layers_of(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="gpkg, shp"):
        write(layers_of(), tmp_path, ("kml",))


def test_a_named_file_takes_its_format_from_its_suffix(tmp_path: Path) -> None:
    layers = layers_of()
    for name, files in {
        "out/a.b.gpkg": ["a.b.gpkg"],
        "shp/x.shp": ["x.shp", "x_unobserved.shp"],
        "upper/X.GEOJSON": ["X.GEOJSON", "X_unobserved.GEOJSON"],
    }.items():
        paths = write_file(layers.flood, layers.unobserved, tmp_path / name, date=DATE)
        assert [path.name for path in paths] == files and all(path.exists() for path in paths)
    dry = layers_of(np.zeros((2, 2), np.uint8))
    assert len(write_file(dry.flood, dry.unobserved, tmp_path / "dry.fgb", date=DATE)) == 1
    with pytest.raises(OutputError, match="format"):
        write_file(dry.flood, dry.unobserved, tmp_path / "x.kml", date=DATE)


@pytest.mark.parametrize(("name", "old"), [("x", "x"), ("x_flood", "x_flood"), ("x_flood", "x")])
@pytest.mark.parametrize("suffix", ["shp", "geojson"])
def test_unobserved_ground_of_an_earlier_file_does_not_count_for_a_new_one(
    tmp_path: Path, name: str, old: str, suffix: str
) -> None:
    grid = GeoGrid(UTM, Affine(0.5, 0, 500_000, 0, -0.5, 3_000_000), CODES.shape)
    path, before = tmp_path / f"{name}.{suffix}", layers_of()
    write_file(before.flood, before.unobserved, tmp_path / f"{old}.{suffix}", date=DATE)

    def observed() -> np.ndarray:
        return PolygonMask(path).on(grid, FloodRule())(Window(0, 0, 3, 4)) != 255

    if name == old:  # what `x_flood.shp` leaves unobserved is found beside it
        assert (observed() == (CODES < 250)).all()
        for file in tmp_path.glob(f"{name}.*"):
            file.unlink()
        with pytest.raises(OutputError, match="_unobserved"):
            write_file(before.flood, before.unobserved[:0], path, date=DATE)
    write_file(before.flood, before.unobserved[:0], path, date=DATE, overwrite=True)
    assert observed().all()
    assert (tmp_path / f"{old}_unobserved.{suffix}").exists()


@pytest.mark.parametrize("name", ["flood", "unobserved", "mask", "probability"])
def test_styles_are_well_formed(name: str) -> None:
    root = ET.fromstring(style(name).split("\n", 1)[1])
    assert root.tag == "qgis"
    assert root.find("renderer-v2") is not None or root.find("pipe/rasterrenderer") is not None
