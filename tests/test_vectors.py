"""read_vectors: geometries and attributes equal those of pyproj and shapely, or one clear error line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.crs
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS, Transformer

from floodmap.errors import VectorError
from floodmap.geo.vectors import is_vector, read_vectors

UTM = "EPSG:32633"
BOXES = [shapely.box(500_000, 5_000_000, 500_100, 5_000_050), shapely.box(500_200, 5_000_000, 500_300, 5_000_080)]


def write(path: Path, geometries: list, *, crs: str | None = UTM, layer: str | None = None, **fields: list) -> Path:
    """Write features without geopandas."""
    wkb = np.array([None if geometry is None else shapely.to_wkb(geometry) for geometry in geometries], dtype=object)
    columns = [np.array(column, dtype=object if isinstance(column[0], str) else None) for column in fields.values()]
    keywords = {"layer": layer, "append": path.exists()} if layer else {}
    pyogrio.raw.write(path, wkb, columns, list(fields), geometry_type="Unknown", crs=crs, **keywords)
    return path


@pytest.mark.parametrize("name", ["a.gpkg", "a.geojson", "a.fgb", "Überflutung.gpkg"])
def test_every_format_gives_the_same_features(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, BOXES, label=[1, 0], kind=["river", "lake"])
    vectors = read_vectors(path)
    assert len(vectors) == 2 and vectors.crs == CRS(UTM)
    order = np.argsort(vectors.attributes["kind"].astype(str))[::-1]  # FlatGeobuf sorts features by place
    assert vectors.attributes["label"][order].tolist() == [1, 0]
    assert all(a.equals(b) for a, b in zip(vectors.geometries[order], BOXES, strict=True))


def test_a_shapefile_is_read(tmp_path: Path) -> None:
    wkb = np.array([shapely.to_wkb(box) for box in BOXES], dtype=object)
    pyogrio.raw.write(tmp_path / "a.shp", wkb, [np.array([3, 4])], ["n"], geometry_type="Polygon", crs=UTM)
    vectors = read_vectors(tmp_path / "a.shp", polygons=True)
    assert vectors.attributes["n"].tolist() == [3, 4] and vectors.geometries[0].equals(BOXES[0])


def test_coordinates_are_brought_to_the_crs_wanted_x_first(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gpkg", [shapely.Point(500_000, 5_000_000), shapely.Point(510_000, 5_010_000)])
    lon, lat = Transformer.from_crs(UTM, 4326, always_xy=True).transform([500_000, 510_000], [5_000_000, 5_010_000])
    for crs in ("EPSG:4326", 4326, rasterio.crs.CRS.from_epsg(4326), CRS("OGC:CRS84")):
        vectors = read_vectors(path, crs=crs)
        assert np.allclose(shapely.get_coordinates(vectors.geometries), np.transpose([lon, lat]), atol=1e-12)
    back = read_vectors(write(tmp_path / "b.geojson", list(vectors.geometries), crs="EPSG:4326"), crs=UTM)
    assert np.allclose(shapely.get_coordinates(back.geometries)[0], (500_000, 5_000_000), atol=0.01)


def test_long_edges_stay_where_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gpkg", [shapely.box(9.5, 47.0, 12.5, 48.0)], crs="EPSG:4326")
    moved = read_vectors(path, crs="EPSG:32632").geometries[0]
    # The middle of the southern edge lies on the parallel, hundreds of metres off the straight line between its ends.
    x, y = Transformer.from_crs(4326, 32632, always_xy=True).transform(11.1, 47.0)
    assert moved.boundary.distance(shapely.Point(x, y)) < 0.5
    corners = Transformer.from_crs(4326, 32632, always_xy=True).transform([9.5, 12.5], [47.0, 47.0])
    assert shapely.LineString(np.transpose(corners)).distance(shapely.Point(x, y)) > 100


@given(st.lists(st.tuples(st.floats(-80, 80), st.floats(-70, 70)), min_size=1, max_size=8, unique=True))
@settings(deadline=None, max_examples=8)
def test_points_are_where_pyproj_puts_them(tmp_path_factory: pytest.TempPathFactory, places: list) -> None:
    path = write(
        tmp_path_factory.mktemp("points") / "p.gpkg", [shapely.Point(place) for place in places], crs="EPSG:4326"
    )
    expected = np.transpose(Transformer.from_crs(4326, 3857, always_xy=True).transform(*np.transpose(places)))
    assert np.allclose(shapely.get_coordinates(read_vectors(path, crs=3857).geometries), expected, atol=1e-6)


def test_invalid_polygons_are_repaired_and_their_lines_dropped(tmp_path: Path) -> None:
    bow_tie = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
    spike = shapely.Polygon([(0, 0), (10, 0), (10, 10), (10, 20), (10, 10), (0, 10)])
    line = shapely.Polygon([(0, 0), (5, 5), (9, 9), (0, 0)])
    vectors = read_vectors(write(tmp_path / "a.gpkg", [bow_tie, spike, line], n=[1, 2, 3]), polygons=True)
    assert vectors.attributes["n"].tolist() == [1, 2]
    assert shapely.is_valid(vectors.geometries).all() and [g.area for g in vectors.geometries] == pytest.approx(
        [50, 100]
    )
    assert {g.geom_type for g in vectors.geometries} <= {"Polygon", "MultiPolygon"}


def test_features_without_geometry_are_left_out_with_their_attributes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gpkg", [None, BOXES[0], shapely.Polygon(), BOXES[1]], n=[1, 2, 3, 4])
    assert read_vectors(path).attributes["n"].tolist() == [2, 4]


def test_heights_are_dropped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gpkg", [shapely.force_3d(BOXES[0], 7)])
    assert not shapely.has_z(read_vectors(path).geometries).any()


def test_a_layer_is_chosen_by_name_and_tables_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.gpkg"
    pyogrio.raw.write(
        path, None, [np.array(["x"], dtype=object)], ["style"], layer="layer_styles", crs=None, geometry_type=None
    )
    write(path, BOXES, layer="flood")
    write(path, BOXES[:1], layer="unobserved")
    assert len(read_vectors(path)) == 2 and len(read_vectors(path, layer="unobserved")) == 1
    with pytest.raises(VectorError, match=r"no layer 'dry'; it has flood, unobserved"):
        read_vectors(path, layer="dry")


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_without_a_crs_wanted_coordinates_stay_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fgb", BOXES, crs=None)
    vectors = read_vectors(path)
    assert vectors.crs is None and shapely.total_bounds(vectors.geometries)[0] == 500_000
    with pytest.raises(VectorError, match=r"a\.fgb has no CRS; assign one"):
        read_vectors(path, crs=UTM)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("missing.gpkg", None, "no such file"),
        ("empty.gpkg", b"", "cannot be read|no layer"),
        ("words.geojson", b"not json", "cannot be read"),
        ("none.geojson", b'{"type": "FeatureCollection", "features": []}', "no features|no layer"),
        ("table.geojson", b'{"type": "Feature", "properties": {"a": 1}, "geometry": null}', "no features|no layer"),
    ],
)  # fmt: skip
def test_what_holds_no_features_is_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes | None, line: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(VectorError, match=line) as caught:
        read_vectors(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_points_where_polygons_are_needed_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gpkg", [shapely.Point(0, 0), BOXES[0], shapely.LineString([(0, 0), (1, 1)])])
    with pytest.raises(VectorError, match="holds LineString, Point; polygons are needed"):
        read_vectors(path, polygons=True)


def test_coordinates_that_do_not_exist_in_the_crs_wanted_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.gpkg", [shapely.box(500_000, 5_000_000, 500_100, 5_000_100)], crs="EPSG:4326")
    with pytest.raises(VectorError, match=r"a\.gpkg"):
        read_vectors(path, crs=UTM)


def test_a_crs_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VectorError, match="not a CRS"):
        read_vectors(write(tmp_path / "a.gpkg", BOXES), crs="EPSG:0")


def test_vector_files_are_told_from_rasters(tmp_path: Path, make_scene) -> None:
    text = tmp_path / "words.txt"
    text.write_text("words")
    assert is_vector(write(tmp_path / "a.gpkg", BOXES)) and is_vector(write(tmp_path / "a.fgb", BOXES))
    assert not is_vector(make_scene()) and not is_vector(make_scene(name="a.png", crs=None, transform=None))
    assert not is_vector(make_scene(name="raster.gpkg", driver="GPKG", transform=None, crs=None))
    assert not is_vector(text) and not is_vector(tmp_path / "missing.tif")
