"""Polygons compared with rasterio's outlines and rasterization, areas with pyproj's geodesics."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from pyproj import Geod
from rasterio import features
from rasterio.crs import CRS

import floodmap.output.tracing
from floodmap.errors import EvaluationError, FloodmapError, MissingCRSError, SceneError
from floodmap.geo.geogrid import GeoGrid
from floodmap.output.polygons import Polygons, polygonize, vectorize, vectorize_layers
from floodmap.output.simplify import simplified
from floodmap.output.tracing import trace
from floodmap.strips.codes import flood_kinds
from floodmap_cli.main import run as run_command

UTM = CRS.from_epsg(32643)
HALF_METRE = Affine(0.5, 0, 500_000, 0, -0.5, 3_000_000)
TRANSFORMS = {
    "north-up": HALF_METRE,
    "south-up": Affine(0.5, 0, 500_000, 0, 0.5, 3_000_000),
    "rotated": Affine.translation(500_000, 3_000_000) * Affine.rotation(31) * Affine.scale(0.5, -0.25),
}
VALUES = np.array([0, 49, 50, 77, 100, 251, 252, 253, 254, 255], np.uint8)

shapes_hw = st.tuples(st.integers(1, 8), st.integers(1, 8))
scattered = hnp.arrays(np.uint8, shapes_hw, elements=st.sampled_from(VALUES))
patches = st.builds(lambda codes, side: np.kron(codes, np.ones((side, side), np.uint8)), scattered, st.integers(1, 4))


def strips_of(codes: NDArray[np.uint8], cuts: list[int] | None = None) -> list[tuple[int, NDArray[np.uint8]]]:
    edges = sorted({0, len(codes), *(cut % len(codes) for cut in cuts or [])})
    return [(top, codes[top:end]) for top, end in pairwise(edges)]


def polygons_of(codes: NDArray[np.uint8], cuts: list[int] | None = None, **options: Any) -> Polygons:
    grid = GeoGrid(options.pop("crs", UTM), options.pop("transform", HALF_METRE), codes.shape)
    defaults = {"threshold": 50, "model": "m", "source": "s.tif"}
    return polygonize(strips_of(codes, cuts), grid=grid, **{**defaults, **options})


def kinds(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Codes as 1 flood, 252 and up unchanged, 0 dry and outside."""
    return np.where((codes >= 50) & (codes <= 100), 1, np.where(codes >= 252, codes, 0)).astype(np.uint8)


REASON_CODES = {"nodata": 255, "collar": 254, "mask": 253, "failed": 252}


def burnt(layers: Polygons, shape: tuple[int, int], transform: Affine) -> NDArray[np.uint8]:
    shapes = [(geometry, 1) for geometry in layers.flood.geometry]
    shapes += zip(layers.unobserved.geometry, layers.unobserved["reason"].map(REASON_CODES), strict=True)
    if not shapes:
        return np.zeros(shape, np.uint8)
    return features.rasterize(shapes, out_shape=shape, transform=transform, dtype="uint8")


@pytest.mark.slow
@given(patches)
@settings(deadline=None, max_examples=30)
def test_outlines_are_those_of_gdal_vertex_for_vertex(codes: NDArray[np.uint8]) -> None:
    layers = polygons_of(codes)
    ours = [shapely.normalize(shape) for frame in (layers.flood, layers.unobserved) for shape in frame.geometry]
    gdal = features.shapes(kinds(codes), connectivity=4, transform=HALF_METRE)
    theirs = [shapely.normalize(shapely.geometry.shape(shape)) for shape, kind in gdal if kind]
    assert sorted(shape.wkb for shape in ours) == sorted(shape.wkb for shape in theirs)
    assert shapely.is_valid(np.array(ours, object)).all()


@pytest.mark.slow
@given(patches, st.lists(st.integers(0, 60), max_size=5), st.sampled_from([0.0, 1.3]))
@settings(deadline=None, max_examples=30)
def test_strips_of_any_height_give_the_same_layers(
    codes: NDArray[np.uint8], cuts: list[int], simplify_m: float
) -> None:
    whole, cut = polygons_of(codes, simplify_m=simplify_m), polygons_of(codes, cuts, simplify_m=simplify_m)
    for one, other in ((whole.flood, cut.flood), (whole.unobserved, cut.unobserved)):
        assert list(one.geometry.to_wkb()) == list(other.geometry.to_wkb())
        columns = one.columns.drop("geometry")
        assert one[columns].equals(other[columns])


def test_outlines_traced_in_many_bands_of_rows_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.random.default_rng(3).choice(VALUES, (60, 40))
    whole = polygons_of(codes)
    monkeypatch.setattr(floodmap.output.tracing, "BAND_PIXELS", 100)
    assert list(polygons_of(codes).flood.geometry.to_wkb()) == list(whole.flood.geometry.to_wkb())


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=list(TRANSFORMS))
@given(codes=patches, cuts=st.lists(st.integers(0, 60), max_size=3))
@settings(deadline=None, max_examples=15)
def test_polygons_burnt_back_are_the_mask(transform: Affine, codes: NDArray[np.uint8], cuts: list[int]) -> None:
    layers = polygons_of(codes, cuts, transform=transform)
    np.testing.assert_array_equal(burnt(layers, codes.shape, transform), kinds(codes))


@given(patches, st.lists(st.integers(0, 60), max_size=3))
@settings(deadline=None, max_examples=15)
def test_confidence_is_that_of_the_pixels(codes: NDArray[np.uint8], cuts: list[int]) -> None:
    flood = polygons_of(codes, cuts).flood
    assert list(flood["id"]) == list(range(1, len(flood) + 1))
    for row in flood.itertuples():
        inside = features.rasterize([row.geometry], out_shape=codes.shape, transform=HALF_METRE).astype(bool)
        assert row.confidence_mean == pytest.approx(codes[inside].mean() / 100, abs=5.1e-5)
        assert row.confidence_min == codes[inside].min() / 100


def test_polygons_are_numbered_from_the_top() -> None:
    codes = np.zeros((8, 8), np.uint8)
    codes[6, 0], codes[0, 5], codes[0, 1] = 60, 70, 80
    codes[0:8, 7] = 90
    flood = polygons_of(codes, [3, 5]).flood
    assert list(flood["confidence_min"]) == [0.8, 0.7, 0.9, 0.6]


def test_ground_outside_the_area_of_interest_is_in_no_layer() -> None:
    layers = polygons_of(np.full((5, 5), 251, np.uint8))
    assert len(layers.flood) == len(layers.unobserved) == 0
    assert layers.flood.crs.to_epsg() == 32643 and list(layers.flood.columns[:2]) == ["id", "area_m2"]


def test_pixels_of_any_kind_can_be_traced() -> None:
    kinds = np.zeros(256, np.uint8)
    kinds[[5, 6]] = 7, 1
    [one] = [
        table for table in trace([(0, np.array([[0, 5, 5], [0, 0, 3]], np.uint8))], kinds=kinds) if len(table.kind)
    ]
    assert one.kind.tolist() == [7] and one.outline[0].bounds == (1, 0, 3, 1)
    both = [table.kind.tolist() for table in trace([(0, np.array([[5, 6, 0, 200]], np.uint8))], kinds=kinds)]
    assert both == [[], [7, 1]]


def test_each_reason_has_its_own_polygons() -> None:
    codes = np.array([[255, 254, 253, 252, 251, 0, 50]], np.uint8)
    assert list(polygons_of(codes).unobserved["reason"]) == ["nodata", "collar", "mask", "failed"]


PLACES = {
    "UTM zone's edge": (32643, Affine(0.5, 0, 795_000, 0, -0.5, 3_320_000)),
    "far outside the zone": (32643, Affine(2, 0, 1_100_000, 0, -2, 3_320_000)),
    "geographic": (4326, Affine(5e-6, 0, 77.0, 0, -5e-6, 61.5)),
    "geographic, a country": (4326, Affine(0.05, 0, 60.0, 0, -0.05, 37.0)),
    "web mercator": (3857, Affine(0.5, 0, 8_000_000, 0, -0.5, 8_500_000)),
    "feet": (2263, Affine(1, 0, 990_000, 0, -1, 200_000)),
    "across the antimeridian": (32601, Affine(1, 0, 200_000, 0, -1, 7_000_000)),
    "at the pole": (3031, Affine(50, 0, -3000, 0, -50, 3000)),
}


@pytest.mark.parametrize(("epsg", "transform"), PLACES.values(), ids=list(PLACES))
def test_areas_and_perimeters_are_geodesic(epsg: int, transform: Affine) -> None:
    codes = np.zeros((120, 120), np.uint8)
    codes[5:110, 10:100] = 90
    codes[30:60, 20:70] = 0
    codes[40:50, 30:40] = 80
    codes[70:90, 30:50] = 255
    layers = polygons_of(codes, [33, 77], crs=CRS.from_epsg(epsg), transform=transform)
    assert len(layers.flood) == 2 and len(layers.unobserved) == 1
    geod = Geod(ellps="WGS84")
    for frame in (layers.flood, layers.unobserved):
        step = abs(transform.a) / 4 if epsg == 4326 else abs(transform.a)
        lonlat = frame.set_geometry(frame.geometry.segmentize(step)).to_crs(4326)
        for row in lonlat.itertuples():
            if epsg == 3031:
                continue  # Geod takes a ring about the pole for its outside
            area, _ = geod.geometry_area_perimeter(shapely.geometry.polygon.orient(row.geometry))
            assert row.area_m2 == pytest.approx(area, rel=1e-4)
            assert row.perimeter_m == pytest.approx(geod.geometry_length(row.geometry.boundary), rel=1e-3)
    if epsg == 3031:
        scale = 0.97276901**2  # polar stereographic, k0 at the pole, Snyder 1987 equation 21-37 for EPSG:3031
        assert layers.flood["area_m2"][0] == pytest.approx((105 * 90 - 1500 - 400) * 2500 / scale, rel=1e-3)


def test_without_a_place_on_earth_areas_are_null_and_metres_refused() -> None:
    codes = np.full((3, 4), 80, np.uint8)
    for crs in (None, CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1]]')):
        layers = polygons_of(codes, crs=crs, transform=Affine.identity())
        assert layers.flood[["area_m2", "perimeter_m"]].isna().all(axis=None)
        assert layers.flood.geometry[0].equals(shapely.box(0, 0, 4, 3))
        for option in ("min_area_m2", "simplify_m"):
            with pytest.raises(MissingCRSError, match=r"s\.tif has no CRS"):
                polygons_of(codes, crs=crs, **{option: 1.0})


def test_coordinates_outside_the_crs_leave_areas_null_and_metres_refused() -> None:
    outside: dict[str, Any] = {"crs": CRS.from_epsg(4326), "transform": Affine(1, 0, 0, 0, -1, 500)}
    layers = polygons_of(np.full((3, 4), 80, np.uint8), **outside)
    assert layers.flood["area_m2"].isna().all()
    for option, flag in (("min_area_m2", "--min-area"), ("simplify_m", "--simplify")):
        with pytest.raises(MissingCRSError, match=f"do not exist in its CRS, so {flag} cannot be used"):
            polygons_of(np.full((3, 4), 80, np.uint8), **outside, **{option: 1000.0})


def test_an_area_that_is_unknown_is_not_reported_as_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = np.ones((1, 3, 4), np.uint8)
    for name, row in (("wrong", 500), ("right", 50)):
        options = {"driver": "GTiff", "height": 3, "width": 4, "count": 1, "dtype": "uint8", "crs": "EPSG:4326"}
        with rasterio.open(tmp_path / f"{name}.tif", "w", **options, transform=Affine(1, 0, 0, 0, -1, row)) as file:
            file.write(mask)
    vectorize_command = ["vectorize", str(tmp_path / "wrong.tif"), "--overwrite", "-o", str(tmp_path / "x.gpkg")]
    assert run_command(vectorize_command) == 0
    assert " ha" not in capsys.readouterr().out
    assert run_command([*vectorize_command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["area_m2"] is None
    vectorize_command[1] = str(tmp_path / "right.tif")
    assert run_command([*vectorize_command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["area_m2"] > 1e10


def test_the_minimum_area_drops_flood_but_never_unobserved_ground() -> None:
    codes = np.zeros((20, 20), np.uint8)
    codes[0, 0], codes[5, 5], codes[10:14, 10:14] = 90, 255, 90
    layers = polygons_of(codes, [7, 12], min_area_m2=1.0)
    assert layers.flood["area_m2"].round(1).tolist() == [4.0] and layers.flood["id"].tolist() == [1]
    assert len(layers.unobserved) == 1


# Simplified in rounded metres, an outline here came to touch itself.
TOUCHING = np.array([[50] * 5] * 3 + [[50] * 4 + [0], [50, 50, 50, 0, 50], [50, 50, 0, 50, 50], [50, 50, 50, 252, 50]])


@pytest.mark.slow
@example(TOUCHING.astype(np.uint8), 0.6, TRANSFORMS["rotated"])
@given(patches, st.sampled_from([0.6, 1.5, 5.0]), st.sampled_from(list(TRANSFORMS.values())))
@settings(deadline=None, max_examples=25)
def test_simplified_layers_stay_valid_and_share_their_borders(
    codes: NDArray[np.uint8], simplify_m: float, transform: Affine
) -> None:
    layers = polygons_of(codes, simplify_m=simplify_m, transform=transform)
    shapes = np.concatenate([layers.flood.geometry.to_numpy(), layers.unobserved.geometry.to_numpy()])
    assert shapely.is_valid(shapes).all() and (shapely.area(shapes) > 0).all()
    assert shapely.coverage_is_valid(shapes)


@pytest.mark.slow
@given(st.one_of(scattered, patches), st.sampled_from([0.8, 1.0, 1.3]))
@settings(deadline=None, max_examples=300)
def test_simplifying_leaves_a_valid_coverage(codes: NDArray[np.uint8], tolerance: float) -> None:
    components = list(trace([(0, codes)], kinds=flood_kinds(50), noded=True))
    whole = np.concatenate([one.outline for one in components])
    cut = simplified(whole, tolerance)
    assert shapely.is_valid(cut).all() and shapely.coverage_is_valid(cut)
    assert (shapely.get_num_interior_rings(cut) == shapely.get_num_interior_rings(whole)).all()
    # Where three kinds meet, or one touches itself corner to corner, no neighbour may lose the corner.
    blocks = sliding_window_view(np.pad(kinds(codes), 1), (2, 2)).reshape(len(codes) + 1, -1, 4)
    north_west, north_east, south_west, south_east = np.moveaxis(blocks, -1, 0)
    touching = (north_west == south_east) & (north_west != north_east) & (north_west != south_west)
    touching |= (north_east == south_west) & (north_east != north_west) & (north_east != south_east)
    meeting = np.array([[len(set(block)) > 2 for block in row] for row in blocks])
    must_stay = {(x, y) for y, x in np.argwhere(touching | meeting)}
    for before, after in zip(whole, cut, strict=True):
        corners, kept = (set(map(tuple, shapely.get_coordinates(one).astype(int))) for one in (before, after))
        assert kept <= corners and not must_stay & (corners - kept)


@given(st.one_of(scattered, patches))
@settings(deadline=None, max_examples=50)
def test_no_small_triangle_is_left_but_where_something_is_in_its_way(codes: NDArray[np.uint8]) -> None:
    whole = np.concatenate([one.outline for one in trace([(0, np.pad(codes, 1))], kinds=flood_kinds(50), noded=True)])
    once = simplified(whole, 1.0)
    twice = simplified(once, 1.0)
    assert shapely.get_num_coordinates(twice).sum() >= 0.97 * shapely.get_num_coordinates(once).sum()


def test_every_second_corner_of_a_staircase_is_cut() -> None:
    codes = np.tri(6, dtype=np.uint8) * 90
    [one] = [one.outline[0] for one in trace([(0, codes)], kinds=flood_kinds(50)) if len(one.outline)]
    assert shapely.get_num_coordinates(one) == 15
    [cut] = simplified(np.array([one], object), 0.8)
    assert set(cut.exterior.coords) == {(0, 0), (0, 6), (6, 6), (6, 5), (1, 0)}


def test_simplifying_takes_vertices_and_keeps_area_in_any_crs() -> None:
    rows, cols = np.mgrid[:200, :200]
    disc = np.where((rows - 100) ** 2 + (cols - 100) ** 2 < 80**2, 90, 0).astype(np.uint8)
    for epsg, transform in ((32643, HALF_METRE), (4326, Affine(9e-6, 0, 77, 0, -4.5e-6, 60))):
        place = {"crs": CRS.from_epsg(epsg), "transform": transform}
        plain, simple = (polygons_of(disc, simplify_m=size, **place).flood for size in (0, 2.0))
        assert shapely.get_num_coordinates(simple.geometry[0]) < shapely.get_num_coordinates(plain.geometry[0]) / 4
        assert simple["area_m2"][0] == pytest.approx(plain["area_m2"][0], rel=0.02)
        assert simple["area_m2"][0] != plain["area_m2"][0]


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(values: NDArray[Any], **profile: Any) -> Path:
        path = tmp_path / "mask.tif"
        defaults = {"crs": UTM, "transform": HALF_METRE, "count": 1, "dtype": values.dtype}
        height, width = values.shape
        with rasterio.open(path, "w", driver="GTiff", height=height, width=width, **{**defaults, **profile}) as target:
            target.write(values, 1)
        return path

    return write


def test_a_mask_with_nodata_gives_both_layers_and_no_confidence(write: Any) -> None:
    path = write(np.array([[0, 1, 1], [255, 255, 0]], np.uint8), nodata=255)
    layers = vectorize_layers(path)
    assert len(layers.flood) == 1 and layers.flood["confidence_mean"].isna().all()
    assert layers.unobserved["reason"].tolist() == ["nodata"]
    assert vectorize(path).geometry[0].equals(layers.flood.geometry[0])
    assert sorted(file.name for file in path.parent.iterdir()) == ["mask.tif"]


def test_masks_of_other_tools_are_read_as_their_values_say(write: Any) -> None:
    assert vectorize(write(np.array([[0, 255]], np.uint8)))["area_m2"].round(2).tolist() == [0.25]
    other = write(np.array([[3, 4, 4, 9]], np.int16))
    assert vectorize(other, flood_value=4).geometry[0].area == 0.5
    with pytest.raises(EvaluationError, match="--flood-value"):
        vectorize(other)


def test_probabilities_are_cut_at_a_share_in_whatever_units(write: Any, caplog: pytest.LogCaptureFixture) -> None:
    path = write(np.array([[0.1, 0.29, 0.7, np.nan]], np.float32))
    layers = vectorize_layers(path, threshold=0.29)
    assert layers.flood["confidence_min"].tolist() == [0.29] and layers.flood.geometry[0].area == 0.5
    assert len(layers.unobserved) == 1 and not caplog.records
    for values in (np.array([[10, 60, 90, 255]], np.uint8), np.array([[10, 60, 90, -3.4e38]], np.float32)):
        percent = write(values, nodata=255 if values.dtype == np.uint8 else None)
        layers = vectorize_layers(percent, threshold=0.6)
        assert layers.flood["confidence_mean"].tolist() == [0.75] and len(layers.unobserved) == 1
        assert f"{percent} holds per cent: the threshold 0.6 is used as 60" in caplog.text
        caplog.clear()


@pytest.mark.parametrize("share", [0.07, 0.14, 0.28, 0.29, 0.55, 0.56, 0.57, 0.58])
def test_a_share_of_per_cent_is_that_whole_number(write: Any, share: float) -> None:
    path = write(np.arange(101, dtype=np.uint8)[None])
    assert vectorize(path, threshold=share).geometry[0].area == 0.25 * (101 - round(100 * share))


def test_a_dry_raster_that_says_it_holds_per_cent_stays_dry(write: Any) -> None:
    path = write(np.array([[0.2, 0.9, 0.6]], np.float32))
    assert len(vectorize(path, threshold=0.5)) == 1
    with rasterio.open(path, "r+") as target:
        target.units = ("%",)
    assert not len(vectorize(path, threshold=0.5))


def test_what_is_no_probability_is_refused_in_one_line(write: Any) -> None:
    with pytest.raises(SceneError, match="holds 200, which is no probability"):
        vectorize(write(np.array([[10, 200]], np.uint8)), threshold=0.5)
    with pytest.raises(SceneError, match="holds 180, which is no probability"):
        vectorize(write(np.array([[10, 180]], np.float32)), threshold=0.5)
    with pytest.raises(SceneError, match="shares of 0 to 1, and 2; if 2 means nodata"):
        vectorize(write(np.array([[0.2, 0.7, 2]], np.float32)), threshold=0.5)
    for values in ([0, 1], [0, 255], [0, 1, 255]):
        with pytest.raises(SceneError, match="a mask, not probabilities"):
            vectorize(write(np.array([values], np.uint8)), threshold=0.5)
    with pytest.raises(FloodmapError, match=r"for 50 per cent write 0\.5"):
        vectorize(write(np.array([[10, 90]], np.uint8)), threshold=50)
    with pytest.raises(FloodmapError, match="threshold 500 is not a share"):
        vectorize(write(np.array([[10, 90]], np.uint8)), threshold=500)


VOID = [-9999, -10000, -32768, -3.4e38, 1e20, 9.96921e36, float("inf"), float("nan")]


@pytest.mark.parametrize("void", VOID)
@pytest.mark.parametrize("how", [{}, {"flood_value": 1}, {"threshold": 0.5}])
def test_void_values_that_no_file_declares_are_neither_flood_nor_dry(write: Any, void: float, how: Any) -> None:
    layers = vectorize_layers(write(np.array([[0, 1, 1, void]], np.float32)), **how)
    assert layers.flood.geometry[0].area == 0.5 and layers.unobserved.geometry[0].area == 0.25


def test_values_below_0_are_dry_only_where_that_is_asked_for(write: Any) -> None:
    path = write(np.array([[0, 1, 1, -1, 7]], np.int16))
    assert vectorize_layers(path, flood_value=1).unobserved.geometry[0].area == 0.25
    assert not len(vectorize_layers(path, flood_value=1, ignore_values="none").unobserved)
    assert vectorize(path, flood_value=-1).geometry[0].area == 0.25
    assert vectorize_layers(path, flood_value=1, ignore_values=(0, 7)).unobserved.geometry.area.sum() == 0.75
    assert vectorize(path, ignore_values="7").geometry[0].area == 0.5


def test_a_mask_placed_by_control_points_alone_is_refused(write: Any) -> None:
    points = [rasterio.control.GroundControlPoint(r, c, 5e5 + c, 3e6 - r) for r, c in ((0, 0), (0, 2), (1, 0))]
    path = write(np.array([[0, 1]], np.uint8), gcps=points, transform=None)
    with pytest.raises(SceneError, match="control points"):
        vectorize(path)
