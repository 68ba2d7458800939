"""Changes between two dates, compared with GDAL's warper and with counts of pixels."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from conftest import SceneFactory
from fakes import FakeSegmenter
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from pyproj import Geod
from rasterio import features
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.warp import reproject

import floodmap
from floodmap.analysis.change_classes import change_kinds, change_of
from floodmap.analysis.change_files import Change, change_layers
from floodmap.errors import FloodmapError, OutputError
from floodmap.geo.geogrid import GeoGrid
from floodmap.options import SceneOptions, SegmentOptions
from floodmap.output.results import FloodMap
from floodmap.pipeline import segment_scene
from floodmap_cli.main import run as command

UTM = "EPSG:32633"
METRE = Affine(1, 0, 500_000, 0, -1, 5_000_000)
SIDE = 200
Codes = NDArray[np.uint8]
EXACT = {"min_area_m2": 0.0, "simplify_m": 0.0}
WATER = ("newly_flooded", "receded", "unchanged_water")


def disc(row: float, col: float, radius: float, side: int = SIDE) -> NDArray[np.bool_]:
    rows, cols = np.ogrid[:side, :side]
    return np.asarray(np.hypot(rows + 0.5 - row, cols + 0.5 - col) <= radius)


def pictured(water: NDArray[np.bool_], hidden: NDArray[np.bool_] | None = None) -> Codes:
    values = water.astype(np.uint8)
    if hidden is not None:
        values[hidden] = 255
    return values


BEFORE = pictured(disc(90, 80, 50), disc(30, 30, 20))
AFTER = pictured(disc(100, 115, 55), disc(170, 170, 25))


def write(
    path: Path, values: NDArray[Any], transform: Affine | None = METRE, crs: Any = UTM, nodata: float | None = 255,
    description: str = "",
) -> Path:  # fmt: skip
    """Write a raster of one band."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", width=values.shape[1], height=values.shape[0], count=1, dtype=values.dtype,
        crs=crs, transform=transform, nodata=nodata,
    ) as dataset:  # fmt: skip
        dataset.write(values, 1)
        if description:
            dataset.set_band_description(1, description)
    return path


def compared(tmp_path: Path, before: Any = BEFORE, after: Any = AFTER, **options: Any) -> Change:
    sides = [
        write(tmp_path / f"{name}.tif", side) if isinstance(side, np.ndarray) else side
        for name, side in (("before", before), ("after", after))
    ]
    return floodmap.change(*sides, **{"out": tmp_path / "out", **options})


def expected(before: Codes, after: Codes) -> Codes:
    """Class of each pixel, written out case by case."""
    return np.select(
        [(before == 255) | (after == 255), (before == 0) & (after == 0), before == 0, after == 0], [255, 0, 1, 2], 3
    ).astype(np.uint8)


def adds_up(result: Change) -> None:
    """Check the counts of the report against the raster."""
    classes, pixels = result.classes(), result.report["pixels"]
    for value, kind in enumerate(("dry", *WATER)):
        assert pixels[kind] == np.count_nonzero(classes == value)
    assert sum(pixels["unobserved"].values()) == np.count_nonzero(classes == 255)
    assert sum(pixels[kind] for kind in ("dry", *WATER)) + sum(pixels["unobserved"].values()) == classes.size


GRIDS = {
    "shifted": (UTM, Affine(1, 0, 500_020.3, 0, -1, 4_999_970.6), (SIDE, SIDE)),
    "coarser": (UTM, Affine(2.5, 0, 499_990, 0, -2.5, 5_000_010), (90, 70)),
    "finer": (UTM, Affine(0.4, 0, 500_050, 0, -0.4, 4_999_950), (300, 310)),
    "south-up": (UTM, Affine(1, 0, 500_000, 0, 1, 4_999_800), (SIDE, SIDE)),
    "rotated": (UTM, Affine.translation(500_050, 5_000_000) * Affine.rotation(25) * Affine.scale(1, -1), (150, 160)),
    "geographic": ("EPSG:4326", Affine(1.3e-5, 0, 15.0, 0, -0.9e-5, 45.1536), (210, 220)),
    "other zone": ("EPSG:32632", Affine(1.1, 0, 971_620, 0, -1.1, 5_017_540), (190, 200)),
}


def test_on_equal_grids_each_pixel_has_the_class_of_its_two_values(tmp_path: Path) -> None:
    result = compared(tmp_path)
    np.testing.assert_array_equal(result.classes(), expected(BEFORE, AFTER))
    adds_up(result)


@pytest.mark.parametrize("name", GRIDS)
def test_on_other_grids_pixels_are_those_of_gdals_nearest_neighbour(tmp_path: Path, name: str) -> None:
    crs, transform, shape = GRIDS[name]
    rng = np.random.default_rng(3)
    blocks = np.kron(rng.integers(0, 2, (shape[0] // 10 + 1, shape[1] // 10 + 1)), np.ones((10, 10)))
    after = blocks[: shape[0], : shape[1]].astype(np.uint8)
    after[: shape[0] // 8] = 255
    warped = np.full(shape, 255, np.uint8)
    reproject(
        BEFORE, warped, src_transform=METRE, src_crs=UTM, src_nodata=255, dst_transform=transform, dst_crs=crs,
        dst_nodata=255, resampling=Resampling.nearest, tolerance=0.01,
    )  # fmt: skip
    assert (warped != 255).mean() > 0.2
    path = write(tmp_path / "after.tif", after, transform, crs)
    result = compared(tmp_path, after=path)
    np.testing.assert_array_equal(result.classes(), expected(warped, after))
    adds_up(result)
    with rasterio.open(result.raster_path) as raster:
        assert raster.crs == CRS.from_user_input(crs) and raster.transform.almost_equals(transform, 1e-9)


def test_the_grid_can_be_that_of_before(tmp_path: Path) -> None:
    after = write(tmp_path / "after.tif", AFTER, Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000))
    result = compared(tmp_path, after=after, grid="before")
    assert result.classes().shape == BEFORE.shape and result.report["grid"]["of"] == "before"
    quarter = np.full(BEFORE.shape, 255, np.uint8)
    quarter[:100, :100] = AFTER[1::2, 1::2]
    assert (result.classes() != expected(BEFORE, quarter)).mean() < 0.01  # centres lie on corners of finer pixels
    adds_up(result)


def test_areas_are_geodesic(tmp_path: Path) -> None:
    crs, transform, shape = GRIDS["geographic"]
    after = write(tmp_path / "after.tif", np.ones(shape, np.uint8), transform, crs)
    report = compared(tmp_path, after=after).report
    corners = [transform * xy for xy in ((0, 0), (shape[1], 0), (shape[1], shape[0]), (0, shape[0]))]
    area, _ = Geod(ellps="WGS84").polygon_area_perimeter(*zip(*corners, strict=True))
    total = report["area_m2"]
    every = sum(total[kind] for kind in ("dry", *WATER)) + sum(total["unobserved"].values())
    assert every == pytest.approx(abs(area), rel=1e-4)
    for kind in WATER:
        share = report["pixels"][kind] / (shape[0] * shape[1])
        assert total[kind] == pytest.approx(abs(area) * share, rel=1e-3, abs=0.01)
        assert report["area_ha"][kind] == pytest.approx(total[kind] / 1e4, abs=1e-4)


def test_permanent_water_is_water(tmp_path: Path) -> None:
    before, after = np.array([[0, 0, 1, 1, 2, 2, 2, 0]], np.uint8), np.array([[0, 2, 2, 0, 1, 2, 0, 1]], np.uint8)
    sides = [
        write(tmp_path / f"{name}_mask.tif", values, description="flood mask")
        for name, values in (("b", before), ("a", after))
    ]
    result = compared(tmp_path, *sides, **EXACT)
    assert result.classes().tolist() == [[0, 1, 3, 2, 3, 3, 2, 1]]
    assert (result.name, result.report["before"]["water"]) == ("a", "1,2")
    foreign = [write(tmp_path / f"{name}.tif", values) for name, values in (("b", before), ("a", after))]
    with pytest.raises(FloodmapError, match="--before-value"):
        compared(tmp_path, *foreign, name="f")
    chosen = compared(tmp_path, *foreign, before_value="1,2", after_value=(1, 2), name="f")
    assert chosen.classes().tolist() == result.classes().tolist()
    assert chosen.report["settings"]["after_value"] == "1,2"


def test_unobserved_ground_is_counted_by_date(tmp_path: Path) -> None:
    before, after = pictured(disc(90, 80, 50), disc(60, 60, 40)), pictured(disc(90, 80, 50), disc(90, 90, 40))
    result = compared(tmp_path, before, after, **EXACT)
    counts = {
        "before": np.count_nonzero((before == 255) & (after != 255)),
        "after": np.count_nonzero((before != 255) & (after == 255)),
        "both": np.count_nonzero((before == 255) & (after == 255)),
    }
    assert result.report["pixels"]["unobserved"] == counts
    layer = geopandas.read_file(result.layer_paths[0], layer="unobserved")
    assert layer.dissolve("reason").area.to_dict() == counts
    assert result.report["observed_share"] == pytest.approx(1 - sum(counts.values()) / SIDE**2, abs=1e-6)


def test_polygons_are_the_pixels_of_each_class(tmp_path: Path) -> None:
    result = compared(tmp_path, **EXACT)
    layer = result.polygons()
    numbers = {"newly flooded": 1, "receded": 2, "unchanged water": 3}
    shapes = zip(layer.geometry, layer["change"].map(numbers), strict=True)
    burnt = features.rasterize(shapes, out_shape=(SIDE, SIDE), transform=METRE, dtype="uint8")
    classes = result.classes()
    np.testing.assert_array_equal(burnt, np.where(classes == 255, 0, classes))
    assert list(layer.columns) == ["id", "change", "area_m2", "perimeter_m", "geometry"]
    assert layer.dissolve("change").area_m2.count() == 3 and (layer.perimeter_m > 0).all()
    areas = layer.groupby("change").area_m2.sum()
    for kind in numbers:
        assert areas[kind] == pytest.approx(result.report["area_m2"][kind.replace(" ", "_")], rel=1e-3)
    counts = layer["change"].value_counts()
    assert all(result.report["polygons"][kind.replace(" ", "_")] == counts[kind] for kind in numbers)
    assert [name for name, _ in pyogrio.list_layers(result.layer_paths[0])] == ["change", "unobserved", "layer_styles"]


CODES = st.sampled_from(np.array([0, 1, 2, 3, 253, 254, 255], np.uint8))


@pytest.mark.slow
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=CODES), st.integers(1, 8))
@settings(deadline=None, max_examples=40)
def test_outlines_of_all_classes_are_those_of_gdal(codes: Codes, step: int) -> None:
    strips = [(row, codes[row : row + step]) for row in range(0, len(codes), step)]
    grid = GeoGrid(CRS.from_user_input(UTM), METRE, codes.shape)
    layers = change_layers(lambda: iter(strips), grid, min_area_m2=0, simplify_m=0, source="s")
    ours = [shapely.normalize(shape) for layer in layers.values() for shape in layer.geometry]
    gdal = features.shapes(codes, connectivity=4, transform=METRE)
    theirs = [shapely.normalize(shapely.geometry.shape(shape)) for shape, code in gdal if code]
    assert sorted(map(str, ours)) == sorted(map(str, theirs))


def test_every_pair_of_classes_has_a_code_and_codes_of_ground_are_traced() -> None:
    before, after = np.meshgrid(np.array([0, 1, 255], np.uint8), np.array([0, 1, 255], np.uint8), indexing="ij")
    assert change_of(before, after).tolist() == [[0, 1, 254], [2, 3, 254], [253, 253, 255]]
    assert np.flatnonzero(change_kinds()).tolist() == [1, 2, 3, 253, 254, 255]


def test_small_strips_and_columns_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    after = write(tmp_path / "after.tif", AFTER, Affine(0.7, 0, 500_030, 0, -0.7, 5_000_000))
    whole = compared(tmp_path, after=after)
    for name, value in (("ROWS", 16), ("STRIP_PIXELS", 4000), ("COLUMNS", 37)):
        monkeypatch.setattr(f"floodmap.analysis.change_classes.{name}", value)
    parts = compared(tmp_path, after=after, out=tmp_path / "parts")
    for one, other in ((whole.raster_path, parts.raster_path), (whole.layer_paths[0], parts.layer_paths[0])):
        assert one.read_bytes() == other.read_bytes()
    assert {**whole.report, "run": 0} == {**parts.report, "run": 0}


def test_overviews_have_the_most_frequent_class_and_unobserved_wins_ties(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("floodmap.output.cog.BLOCK_SIZE", 64)
    rng = np.random.default_rng(1)
    before, after = (rng.choice(np.array([0, 1, 255], np.uint8), (150, 170)) for _ in range(2))
    result = compared(tmp_path, before, after)
    classes = result.classes()
    order = [255, 1, 2, 3, 0]
    for level in (1, 2):
        side = 2**level
        with rasterio.open(result.raster_path) as raster:
            assert raster.overviews(1) == [2, 4] and raster.nodata == 255
        with rasterio.open(result.raster_path, OVERVIEW_LEVEL=level - 1) as raster:
            shown = raster.read(1)
        padded = np.full((-(-150 // side) * side, -(-170 // side) * side), 99, np.uint8)
        padded[:150, :170] = classes
        blocks = padded.reshape(shown.shape[0], side, shown.shape[1], side).swapaxes(1, 2).reshape(*shown.shape, -1)
        counts = np.stack([(blocks == value).sum(axis=-1) for value in order])
        np.testing.assert_array_equal(shown, np.array(order, np.uint8)[counts.argmax(axis=0)])


def test_the_minimum_area_drops_polygons_but_no_pixels_and_no_unobserved_ground(tmp_path: Path) -> None:
    before = np.zeros((SIDE, SIDE), np.uint8)
    after = pictured(disc(100, 100, 40))
    after[5:8, 5:8], after[150, 150] = 1, 255
    default, everything = compared(tmp_path, before, after), compared(tmp_path, before, after, name="all", **EXACT)
    assert len(default.polygons()) == 1 and len(everything.polygons()) == 2
    assert default.report["pixels"] == everything.report["pixels"]
    assert default.report["settings"]["min_area_m2"] == pytest.approx(25, rel=0.01)
    assert len(geopandas.read_file(default.layer_paths[0], layer="unobserved")) == 1
    none = compared(tmp_path, before, after, name="none", min_area_m2=1e6)
    assert len(none.polygons()) == 0 and none.report["polygons"]["newly_flooded"] == 0


def test_simplified_layers_keep_their_common_borders(tmp_path: Path) -> None:
    result = compared(tmp_path, simplify_m=3.0, min_area_m2=0.0)
    layers = [geopandas.read_file(result.layer_paths[0], layer=name) for name in ("change", "unobserved")]
    shapes = np.concatenate([shapely.get_parts(layer.geometry.to_numpy()) for layer in layers])
    assert shapely.coverage_is_valid(shapes) and len(shapes) >= 5
    exact = compared(tmp_path, name="exact", **EXACT)
    assert shapely.get_num_coordinates(shapes).sum() < 0.5 * sum(
        shapely.get_num_coordinates(geopandas.read_file(exact.layer_paths[0], layer=name).geometry.to_numpy()).sum()
        for name in ("change", "unobserved")
    )


@pytest.mark.parametrize("suffix", ["gpkg", "shp", "geojson", "fgb", "parquet"])
def test_each_format_has_both_layers_with_styles(tmp_path: Path, suffix: str) -> None:
    result = compared(tmp_path, formats=(suffix,))
    table = result.polygons()
    assert set(table["change"]) == {"newly flooded", "receded", "unchanged water"}
    names = [path.name for path in result.layer_paths]
    if suffix == "gpkg":
        styles = pyogrio.read_dataframe(result.layer_paths[0], layer="layer_styles")
        categories = ElementTree.fromstring(styles.styleQML[0]).findall(".//category")
        assert [one.get("value") for one in categories] == ["newly flooded", "receded", "unchanged water"]
        assert list(styles.f_table_name) == ["change", "unobserved"] and "categorizedSymbol" in styles.styleQML[0]
    else:
        assert names == [f"after_change_change.{suffix}", f"after_change_unobserved.{suffix}"]
        assert "categorizedSymbol" in (tmp_path / "out" / "after_change_change.qml").read_text()
    style = (tmp_path / "out" / "after_change.qml").read_text()
    assert ElementTree.fromstring(style).find(".//rasterrenderer").get("type") == "paletted"
    for value, label in ((1, "newly flooded"), (2, "receded"), (3, "unchanged water")):
        assert f'value="{value}"' in style and f'label="{label}"' in style


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    after = write(tmp_path / "after.tif", AFTER)  # its time of last change is the date of the vector files
    first, second = compared(tmp_path, after=after), compared(tmp_path, after=after, out=tmp_path / "again")
    assert first.raster_path.read_bytes() == second.raster_path.read_bytes()
    assert first.layer_paths[0].read_bytes() == second.layer_paths[0].read_bytes()


PER_CENT = np.where(disc(90, 80, 50), 80, np.where(disc(90, 80, 70), 60, 5)).astype(np.uint8)


def test_probability_rasters_are_cut_at_the_threshold(tmp_path: Path) -> None:
    path = write(tmp_path / "x_probability.tif", PER_CENT, description="flood probability")
    default = compared(tmp_path, after=path)
    assert (default.name, default.report["after"]["kind"]) == ("x", "probability")
    np.testing.assert_array_equal(default.classes(), expected(BEFORE, (PER_CENT >= 50).astype(np.uint8)))
    high = compared(tmp_path, after=path, threshold=0.7, name="high")  # the other side is a mask
    np.testing.assert_array_equal(high.classes(), expected(BEFORE, (PER_CENT >= 70).astype(np.uint8)))
    assert (high.report["before"]["threshold"], high.report["after"]["threshold"]) == (None, 0.7)
    shares = write(tmp_path / "shares.tif", PER_CENT.astype(np.float32) / 100, nodata=None)
    both = compared(tmp_path, shares, path, threshold=0.7, name="both")
    assert both.report["pixels"]["newly_flooded"] == both.report["pixels"]["receded"] == 0
    with pytest.raises(FloodmapError, match="leave out --threshold"):
        compared(tmp_path, threshold=0.7, name="masks")


def scene_of(make_scene: SceneFactory, values: Codes, name: str, **options: Any) -> Path:
    """Scene that the fake model segments as `values`: 1 water, 255 transparent."""
    pixels = np.where(values == 1, 255, 0).astype(np.uint8)[None].repeat(3, axis=0)
    alpha = np.where(values == 255, 0, 255)
    return make_scene(pixels=pixels, alpha=alpha, name=name, **{"crs": UTM, "transform": METRE, **options})


def segmented(scene: Path, out: Path, **options: Any) -> FloodMap:
    chosen = {"tile_size": 128, "overlap": 16, "prompts": "none", **EXACT, **options}
    return segment_scene(scene, out, FakeSegmenter(), SegmentOptions(scene=SceneOptions(collar="off"), **chosen))


@pytest.mark.slow
def test_a_report_stands_for_its_mask_or_its_probability(make_scene: SceneFactory, tmp_path: Path) -> None:
    tags = {"TIFFTAG_DATETIME": "2024:05:06 07:08:09"}
    earlier = segmented(scene_of(make_scene, BEFORE, "b/x.tif", tags=tags), tmp_path / "earlier")
    later = segmented(scene_of(make_scene, AFTER, "a/x.tif"), tmp_path / "later")
    result = compared(tmp_path, earlier.report_path, later.report_path)
    np.testing.assert_array_equal(result.classes(), expected(BEFORE, AFTER))
    side = result.report["before"]
    assert (side["file"], side["model"], side["scene"]) == ("x_mask.tif", "fake", "x.tif")
    assert side["date"].startswith("2024-05-06T07:08:09") and len(side["fingerprint"]) == 64
    assert (side["threshold"], side["failed_windows"], side["segmented"]) == (0.5, 0, False)
    with_threshold = compared(tmp_path, earlier.report_path, later.report_path, threshold=0.6, name="t")
    assert with_threshold.report["before"]["file"] == "x_probability.tif"
    assert with_threshold.report["pixels"] == result.report["pixels"]
    earlier.mask_path.unlink()
    with pytest.raises(FloodmapError, match=r"x_mask\.tif is not beside it"):
        compared(tmp_path, earlier.report_path, later.report_path, name="missing")


@pytest.mark.slow
def test_polygons_of_a_result_take_observed_ground_and_permanent_water_from_the_run(
    make_scene: SceneFactory, tmp_path: Path
) -> None:
    lake = write(tmp_path / "lake.tif", disc(90, 60, 25).astype(np.uint8), nodata=None)
    for formats in (("gpkg",), ("shp",)):
        out = tmp_path / formats[0]
        earlier = segmented(
            scene_of(make_scene, BEFORE, "b/x.tif"), out, permanent_water=lake, permanent_rim_m=0, formats=formats
        )
        assert (earlier.mask() == 2).sum() > 1000
        result = compared(tmp_path, earlier.layer_paths[0], AFTER, out=out / "change")
        np.testing.assert_array_equal(result.classes(), expected(BEFORE, AFTER))
        assert result.report["before"]["kind"] == "polygons" and result.report["warnings"] == []
    east = write(tmp_path / "east.tif", AFTER[:40, 150:], METRE * Affine.translation(150, 0))  # no polygon reaches it
    far = compared(tmp_path, earlier.layer_paths[0], east, out=tmp_path / "far")
    np.testing.assert_array_equal(far.classes(), expected(BEFORE, AFTER)[:40, 150:])
    swapped = compared(tmp_path, AFTER, earlier.layer_paths[0], out=tmp_path / "swapped")
    assert swapped.report["grid"]["of"] == "after" and swapped.name == "x"
    np.testing.assert_array_equal(swapped.classes(), expected(AFTER, BEFORE))


def test_polygons_of_others_are_dry_outside_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    square = geopandas.GeoDataFrame(
        {"class": ["water", "land"]},
        geometry=[shapely.box(500_050, 4_999_900, 500_100, 4_999_950), shapely.box(500_000, 4_999_990, 500_010, 5e6)],
        crs=UTM,
    )
    water = np.zeros((SIDE, SIDE), np.uint8)
    water[50:100, 50:100] = 1
    square.to_crs(4326).to_file(tmp_path / "landuse.gpkg")
    result = compared(tmp_path, tmp_path / "landuse.gpkg", AFTER, before_value="class=water")
    np.testing.assert_array_equal(result.classes(), expected(water, AFTER))
    assert "landuse.gpkg does not say which ground was observed" in caplog.text
    table = compared(tmp_path, square, AFTER, before_value="class=water", name="table")
    np.testing.assert_array_equal(table.classes(), result.classes())
    assert (table.report["before"]["file"], table.report["before"]["fingerprint"]) == ("GeoDataFrame", None)


def test_two_files_of_polygons_are_compared_on_a_grid_of_their_own(tmp_path: Path) -> None:
    for name, west in (("b", 0), ("a", 20)):
        shape = shapely.box(500_000 + west, 4_999_900, 500_060 + west, 5_000_000)
        geopandas.GeoDataFrame(geometry=[shape], crs=UTM).to_file(tmp_path / f"{name}.gpkg")
    result = compared(tmp_path, tmp_path / "b.gpkg", tmp_path / "a.gpkg", resolution_m=2)
    areas = result.report["area_m2"]
    assert areas["newly_flooded"] == pytest.approx(2000, rel=0.05) == areas["receded"]
    assert areas["unchanged_water"] == pytest.approx(4000, rel=0.05)
    assert result.report["grid"]["of"] is None and result.report["grid"]["gsd_m"] == pytest.approx(2, rel=0.01)
    with pytest.raises(FloodmapError, match="--resolution"):
        compared(tmp_path, resolution_m=2, name="masks")


def test_values_to_ignore_are_those_of_foreign_rasters(tmp_path: Path) -> None:
    foreign = np.where(BEFORE == 255, 9, BEFORE).astype(np.uint8)
    ours = write(tmp_path / "x_mask.tif", AFTER, description="flood mask")
    result = compared(tmp_path, foreign, ours, ignore_values="9,0", before_value="1")
    hidden = np.where(BEFORE == 1, 1, 255).astype(np.uint8)
    np.testing.assert_array_equal(result.classes(), expected(hidden, AFTER))
    assert result.report["settings"]["ignore_values"] == "9,0"
    path = write(tmp_path / "x_probability.tif", PER_CENT, description="flood probability")
    per_cent = compared(tmp_path, foreign, path, ignore_values="9,5", name="p")
    np.testing.assert_array_equal(per_cent.classes(), expected(BEFORE, (PER_CENT >= 50).astype(np.uint8)))


def test_without_crs_equal_pixels_are_compared_and_areas_are_null(make_scene: SceneFactory, tmp_path: Path) -> None:
    sides = [
        make_scene(pixels=values[None], crs=None, transform=None, nodata=255, name=f"{name}.tif")
        for name, values in (("b", BEFORE), ("a", AFTER))
    ]
    result = compared(tmp_path, *sides)
    np.testing.assert_array_equal(result.classes(), expected(BEFORE, AFTER))
    assert result.report["area_m2"] is None and result.polygons().area_m2.isna().all()
    for options, match in (({"min_area_m2": 5}, "--min-area"), ({"formats": ("geojson",)}, "GeoJSON")):
        with pytest.raises(FloodmapError, match=match):
            compared(tmp_path, *sides, name="no", **options)


def dated(path: Path, date: str) -> Path:
    """Write the report of a result beside its mask."""
    report = {"name": "x", "pixels": {"flood": 1}, "source": {"name": "x.tif", "date": date}}
    path.with_name(f"{path.stem.removesuffix('_mask')}.json").write_text(json.dumps(report))
    return path


@pytest.mark.slow
def test_what_to_check_is_one_line_each(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    early = dated(write(tmp_path / "early_mask.tif", BEFORE), "2026-05-01T10:00:00")
    late = dated(write(tmp_path / "late_mask.tif", AFTER), "2026-05-03T10:00:00+00:00")
    assert compared(tmp_path, early, late).report["warnings"] == []
    swapped = compared(tmp_path, late, early, name="swapped").report["warnings"]
    assert len(swapped) == 1 and "BEFORE (2026-05-03 10:00) is later than AFTER (2026-05-01 10:00)" in swapped[0]
    coarse = write(tmp_path / "coarse.tif", BEFORE[:40, :40], Affine(4.5, 0, 500_000, 0, -4.5, 5_000_000))
    assert ["4 times" in line for line in compared(tmp_path, coarse, AFTER, name="c").report["warnings"]] == [True]
    close = write(tmp_path / "close.tif", BEFORE[:50, :50], Affine(3.9, 0, 500_000, 0, -3.9, 5_000_000))
    assert compared(tmp_path, close, AFTER, name="d").report["warnings"] == []
    hidden = np.full((SIDE, SIDE), 255, np.uint8)
    hidden[0, 0] = 0
    there = np.where(hidden == 0, 255, AFTER).astype(np.uint8)
    nothing = compared(tmp_path, hidden, there, name="e").report
    assert nothing["warnings"] == ["no pixel is observed on both dates"] and nothing["observed_share"] == 0
    [wrong] = compared(tmp_path, BEFORE, AFTER, before_value=7, name="f").report["warnings"]
    assert wrong == "BEFORE has no water with this --before-value: check the value"
    assert caplog.text.count("\n") == 4


def test_what_cannot_be_compared_is_refused_in_one_line_and_nothing_is_written(
    make_scene: SceneFactory, tmp_path: Path
) -> None:
    far = write(tmp_path / "far.tif", AFTER, Affine(1, 0, 900_000, 0, -1, 5_000_000))
    ours = write(tmp_path / "b.tif", BEFORE)
    text = tmp_path / "text.tif"
    text.write_text("no raster")
    bare = make_scene(pixels=AFTER[None, :50], crs=None, transform=None, name="bare.tif")
    for after, options, match in (
        (far, {}, "does not overlap"),
        (tmp_path / "none.tif", {}, "none.tif does not exist"),
        (tmp_path, {}, "is a folder"),
        (text, {}, r"text\.tif cannot be read"),
        (bare, {}, "without a CRS"),
        (ours, {"grid": "middle"}, "before or after"),
        (ours, {"name": "a/b"}, "no name for files"),
        (ours, {"formats": ("kml",)}, "formats"),
        (ours, {"min_area_m2": -1}, "min_area_m2"),
        (ours, {"resolution_m": 0}, "no pixel size"),
        (ours, {"threshold": 40}, "0.4"),
        (ours, {"bands": (1, 2, 3)}, "leave out --bands"),
        (ours, {"before_value": "class=water"}, "has no attribute"),
    ):
        with pytest.raises(FloodmapError, match=match) as error:
            floodmap.change(ours, after, out=tmp_path / "out", **options)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out").exists()


def test_results_are_not_overwritten_and_inputs_never(tmp_path: Path) -> None:
    first = compared(tmp_path)
    with pytest.raises(OutputError, match="--overwrite"):
        compared(tmp_path)
    again = compared(tmp_path, AFTER, BEFORE, overwrite=True)
    assert again.report["pixels"]["newly_flooded"] == first.report["pixels"]["receded"]
    with pytest.raises(OutputError, match="is read by this run"):
        floodmap.change(
            first.raster_path, tmp_path / "after.tif", out=tmp_path / "out", before_value="1,3", overwrite=True
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["after.tif", "before.tif", "out"]  # no .aux.xml


@pytest.mark.parametrize("broken", ["write_classes", "write_layers", "write_report"])
def test_a_failure_leaves_the_old_results_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    compared(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def fails(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"floodmap.analysis.change_files.{broken}", fails)
    with pytest.raises(OutputError, match="No space left on device"):
        compared(tmp_path, AFTER, BEFORE, overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_files_of_other_formats_left_from_an_earlier_run_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    compared(tmp_path, formats=("fgb",))
    compared(tmp_path, formats=("gpkg",), overwrite=True)
    assert caplog.text.count("is left from an earlier run") == 2


@pytest.mark.slow
def test_scenes_are_segmented_first(make_scene: SceneFactory, tmp_path: Path) -> None:
    scenes = [scene_of(make_scene, values, f"{name}.tif") for name, values in (("mon", BEFORE), ("thu", AFTER))]
    stages: list[tuple[float, str]] = []
    model = FakeSegmenter()
    options = {"out": tmp_path / "out", "model": model, "collar": "off", "formats": ("gpkg", "fgb"), **EXACT}
    result = floodmap.change(*scenes, **options, progress=lambda share, stage: stages.append((share, stage)))
    np.testing.assert_array_equal(result.classes(), expected(BEFORE, AFTER))
    assert (tmp_path / "out" / "before" / "mon_mask.tif").exists()
    assert (tmp_path / "out" / "after" / "thu.gpkg").exists() and (tmp_path / "out" / "thu_change.gpkg").exists()
    assert result.report["before"]["segmented"] and result.report["after"]["model"] == "fake"
    assert [stage for _, stage in stages] == sorted(
        (stage for _, stage in stages), key=["before", "after", "compare"].index
    )
    assert stages[-1] == (1.0, "compare")
    seen = len(model.tiles)
    with pytest.raises(OutputError, match="--overwrite"):
        floodmap.change(*scenes, **options)
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    for path in (tmp_path / "out").glob("thu_change*"):
        path.unlink()
    again = floodmap.change(*scenes, **options, resume=True)
    assert len(model.tiles) == seen and again.report["pixels"] == result.report["pixels"]


@pytest.mark.slow
def test_a_scene_and_a_mask_are_compared_and_the_threshold_is_that_of_the_scene(
    make_scene: SceneFactory, tmp_path: Path
) -> None:
    scene = scene_of(make_scene, AFTER, "thu.tif")
    ours = write(tmp_path / "b.tif", BEFORE)
    options = {"out": tmp_path / "out", "model": FakeSegmenter(), "collar": "off", "threshold": 0.7}
    result = floodmap.change(ours, scene, **options)
    np.testing.assert_array_equal(result.classes(), expected(BEFORE, AFTER))
    assert result.report["after"]["threshold"] == 0.7 and not result.report["before"]["segmented"]
    with pytest.raises(FloodmapError, match="leave out --after-value"):
        floodmap.change(ours, scene, after_value=1, **options)


def test_scenes_that_do_not_overlap_are_refused_before_the_model_is_loaded(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("floodmap.api.changes.load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    far = Affine(1, 0, 700_000, 0, -1, 5_000_000)
    scenes = scene_of(make_scene, BEFORE, "b.tif"), scene_of(make_scene, AFTER, "a.tif", transform=far)
    with pytest.raises(FloodmapError, match="does not overlap"):
        floodmap.change(*scenes, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_commands_leave_rasters_of_changes_out(tmp_path: Path) -> None:
    from floodmap.catalogue.finding import find_scenes
    from floodmap.errors import SceneError

    result = compared(tmp_path)
    with pytest.raises(SceneError, match="own results"):
        find_scenes([str(result.raster_path.parent)], tmp_path / "x")
    write(tmp_path / "out" / "y_mask.tif", AFTER)
    write(tmp_path / "references" / "y_reference.tif", AFTER)
    scores = floodmap.evaluate(tmp_path / "out", tmp_path / "references")
    assert len(scores.scenes) == 1 and not scores.unpaired_predictions


def test_a_mask_with_permanent_water_is_no_probability(tmp_path: Path) -> None:
    mask = write(tmp_path / "x_mask.tif", np.array([[0, 1, 2]], np.uint8), description="flood mask")
    with pytest.raises(FloodmapError, match="leave out --threshold"):
        floodmap.evaluate(mask, mask, threshold=0.5)


def test_the_command_prints_hectares_with_the_observed_share(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = [str(write(tmp_path / f"{name}.tif", values)) for name, values in (("b", BEFORE), ("a", AFTER))]
    out = str(tmp_path / "out")
    assert command(["change", *sides, "-o", out]) == 0
    printed = capsys.readouterr()
    report = json.loads((tmp_path / "out" / "a_change.json").read_text())
    for kind in WATER:
        assert f"{report['area_ha'][kind]:.2f} ha {kind.replace('_', ' ')}" in printed.out
    assert f"{report['observed_share']:.1%} observed on both dates" in printed.out and not printed.err
    assert command(["change", *sides, "-o", out]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert command(["change", *sides, "-o", out, "--overwrite", "--json", "--grid", "before"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == json.loads((tmp_path / "out" / "a_change.json").read_text()) and shown["grid"]["of"] == "before"


def test_options_of_the_command_reach_the_library(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "x_probability.tif", PER_CENT, description="flood probability")
    foreign = write(tmp_path / "landcover.tif", np.where(BEFORE == 255, 9, BEFORE + 4).astype(np.uint8), nodata=None)
    arguments = [
        "change", str(foreign), str(path), "-o", str(tmp_path / "out"), "--before-value", "5", "--ignore-value", "9",
        "--threshold", "0.7", "--name", "n", "--min-area", "3", "--simplify", "0", "--format", "fgb,shp", "--json",
    ]  # fmt: skip
    assert command(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["name"] == "n" and report["run"]["formats"] == ["fgb", "shp"]
    wanted = {"before_value": "5", "ignore_values": "9", "threshold": 0.7, "min_area_m2": 3, "simplify_m": 0}
    assert {key: report["settings"][key] for key in wanted} == wanted
    with rasterio.open(tmp_path / "out" / "n_change.tif") as raster:
        np.testing.assert_array_equal(raster.read(1), expected(BEFORE, (PER_CENT >= 70).astype(np.uint8)))
    for wrong in (["--grid", "both"], ["--threshold", "40"], ["--format", "kml"], ["--min-area", "-1"]):
        assert command(["change", str(foreign), str(path), *wrong]) == 2
    assert command(["change", str(foreign)]) == 2


@pytest.mark.slow
def test_the_command_segments_scenes_and_exits_with_3_if_windows_failed(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(tile: Any) -> None:
        if tile.window.row_off > 0 and tile.window.col_off > 0:
            raise RuntimeError("no luck")

    models = iter([FakeSegmenter(), FakeSegmenter(fails)])
    monkeypatch.setattr("floodmap.api.changes.load_model", lambda *_, **__: next(models))
    uncertain = np.full((3, 1200, 1300), 128, np.uint8)  # so that the coarse pass leaves no window out
    scenes = [str(make_scene(pixels=uncertain, transform=METRE, name=f"{name}.tif")) for name in ("mon", "thu")]
    plain = ["change", *scenes, "--collar", "off"]
    assert command([*plain, "-o", str(tmp_path / "good")]) == 0
    assert command([*plain, "-o", str(tmp_path / "bad")]) == 3
    report = json.loads((tmp_path / "bad" / "thu_change.json").read_text())
    assert report["before"]["failed_windows"] == 1 and report["pixels"]["unobserved"]["both"] > 0


def test_help_does_not_load_torch_or_geopandas() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from floodmap_cli.main import run; run(['change', '--help']); "
        "sys.exit(bool({'torch', 'geopandas', 'rasterio'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.slow
def test_masks_are_compared_without_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    sides = [str(write(tmp_path / f"{name}.tif", values)) for name, values in (("b", BEFORE), ("a", AFTER))]
    code = (
        f"import sys, floodmap; floodmap.change(*{sides!r}, out={str(tmp_path / 'o')!r}); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


def test_logs_are_quiet_without_anything_to_check(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    compared(tmp_path)
    assert caplog.text == ""
