"""Exposure: buildings, roads and people under water, held against overlays of geopandas and sums of pixels."""

from __future__ import annotations

import csv
import json
import sqlite3
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import pytest
import rasterio
import rasterio.features
import shapely
from affine import Affine
from exactextract import exact_extract
from exactextract.raster import NumPyRasterSource
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.errors import NotGeoreferencedWarning
from shapely.geometry import LineString, MultiPoint, MultiPolygon, Point, Polygon, box

import floodmap
from floodmap.analysis.exposure import buildings as buildings_module
from floodmap.analysis.exposure import features as features_module
from floodmap.analysis.exposure import overlap, writing
from floodmap.analysis.exposure import roads as roads_module
from floodmap.analysis.exposure.geometry import ring_edges
from floodmap.analysis.exposure.overlap import PolygonAreas, overlay
from floodmap.analysis.exposure.result import find_result
from floodmap.errors import FloodmapError, MissingCRSError, MissingPackageError, OutputError, SceneError, VectorError
from floodmap.output.results import FloodMap
from floodmap_cli.main import run

UTM = "EPSG:32633"
METRE = Affine(1, 0, 500_000, 0, -1, 5_000_000)
LEVELS = ("lower", "best", "upper")
PERCENT = {"lower": 70, "best": 50, "upper": 30}

MakeResult = Callable[..., Path]
Frame = geopandas.GeoDataFrame


@pytest.fixture
def make_result(tmp_path: Path) -> MakeResult:
    """Return a function that writes the files of a flood map, and returns the path of the JSON report."""

    def make(
        percent: NDArray[np.uint8], *, crs: str | None = UTM, transform: Affine = METRE, threshold: float = 0.5,
        permanent: NDArray[np.bool_] | None = None, name: str = "scene",
    ) -> Path:  # fmt: skip
        folder = tmp_path / "results"
        folder.mkdir(exist_ok=True)
        mask = np.where(percent == 255, 255, percent >= 100 * threshold).astype(np.uint8)
        if permanent is not None:
            mask[permanent & (mask == 1)] = 2
        for ending, values in (("probability", percent), ("mask", mask)):
            write_raster(folder / f"{name}_{ending}.tif", values, crs=crs, transform=transform, nodata=255)
        settings = {"threshold": threshold, "permanent_water": None if permanent is None else "lakes.gpkg"}
        source = {"name": f"{name}.tif", "fingerprint": "f" * 64, "date": "2024-05-01T10:00:00+00:00"}
        (folder / f"{name}.json").write_text(json.dumps({"settings": settings, "source": source}))
        return folder / f"{name}.json"

    return make


def write_raster(path: Path, values: NDArray[Any], **profile: Any) -> Path:
    height, width = values.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver="GTiff", width=width, height=height, count=1, dtype=values.dtype, **profile
        ) as dataset:
            dataset.write(values, 1)
    return path


def frame(geometries: Any, crs: Any = UTM, **columns: Any) -> Frame:
    return geopandas.GeoDataFrame(columns, geometry=list(geometries), crs=crs)


def write(path: Path, table: Frame, **options: Any) -> Path:
    table.to_file(path, **options)
    return path


def blobs(height: int, width: int) -> NDArray[np.uint8]:
    """Smooth probabilities in per cent, with an unobserved corner."""
    rows, cols = np.mgrid[:height, :width]
    percent = np.round(50 + 50 * np.sin(cols / 47 + 0.3) * np.cos(rows / 39)).astype(np.uint8)
    percent[: height // 6, : width // 8] = 255
    return percent


def half_flooded() -> NDArray[np.uint8]:
    """40 x 60 pixels: the left third is sure flood, the middle 60 per cent, the right third dry."""
    return np.repeat(np.array([[90, 60, 5]], np.uint8), 20, axis=1).repeat(40, axis=0)


def place(col: float, row: float) -> tuple[float, float]:
    """Coordinates of a point in the raster of `METRE`."""
    return 500_000 + col, 5_000_000 - row


def rectangle(left: float, top: float, right: float, bottom: float) -> Polygon:
    """Rectangle by columns and rows in the raster of `METRE`."""
    return box(500_000 + left, 5_000_000 - bottom, 500_000 + right, 5_000_000 - top)


def total(path: Path, **inputs: Any) -> dict[str, Any]:
    return floodmap.exposure(path, **inputs).total


# Against overlays in an equal-area CRS

HEIGHT, WIDTH = 560, 720


def placed(crs: str) -> Affine:
    """Transform of a raster of pixels of about 1 m near 15 degrees east, 45 degrees north, slightly rotated in UTM."""
    x, y = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(15.02, 45.1)
    if crs == "EPSG:4326":
        return Affine(1.3e-5, 0, x, 0, -0.9e-5, y)
    return Affine.translation(x, y) @ Affine.rotation(7 if crs == UTM else 0) @ Affine.scale(1.1, -1.1)


def random_features(transform: Affine, crs: str) -> dict[str, Frame]:
    """2,000 buildings, 500 roads and 12 districts over the raster and beyond, in the CRS of the raster."""
    rng = np.random.default_rng(5)

    def moved(shapes: list[Any]) -> list[Any]:
        return [shapely.transform(one, lambda xy: np.stack(transform @ (xy[:, 0], xy[:, 1]), axis=1)) for one in shapes]

    houses = []
    for _ in range(2000):
        col, row = rng.uniform(-30, WIDTH + 30), rng.uniform(-30, HEIGHT + 30)
        house = box(col, row, col + rng.uniform(4, 22), row + rng.uniform(4, 22))
        if rng.random() < 0.2:
            house = house.difference(house.centroid.buffer(1.5, 2))
        houses.append(shapely.affinity.rotate(house, rng.uniform(0, 90)))
    roads = []
    for _ in range(500):
        start = np.array([[rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT)]])
        roads.append(LineString(np.cumsum(np.concatenate([start, rng.normal(0, 40, (9, 2))]), axis=0)))
    nodes = np.stack(np.meshgrid(np.linspace(-60, WIDTH - 40, 5), np.linspace(30, HEIGHT + 90, 4)), axis=-1)
    nodes += rng.uniform(-25, 25, nodes.shape)
    districts = [Polygon([nodes[j, i], nodes[j, i + 1], nodes[j + 1, i + 1], nodes[j + 1, i]])
                 for j in range(3) for i in range(4)]  # fmt: skip
    classes = rng.choice(["primary", "track", "path"], 500)
    return {
        "buildings": frame(moved(houses), crs),
        "roads": frame(moved(roads), crs, highway=classes),
        "districts": frame(moved(districts), crs, name=[f"D{number}" for number in range(12)]),
    }


def flood_polygons(percent: NDArray[np.uint8], least: int, transform: Affine, crs: str) -> Frame:
    chosen = (percent >= least) & (percent <= 100)
    shapes = rasterio.features.shapes(chosen.astype(np.uint8), mask=chosen, transform=transform)
    return frame([shapely.geometry.shape(one) for one, _ in shapes], crs)


@pytest.mark.slow
@pytest.mark.parametrize(("crs", "other"), [(UTM, "EPSG:4326"), ("EPSG:4326", "EPSG:3857"), ("EPSG:3857", UTM)])
def test_figures_agree_with_overlays_of_geopandas(
    make_result: MakeResult, tmp_path: Path, crs: str, other: str
) -> None:
    percent, transform = blobs(HEIGHT, WIDTH), placed(crs)
    features = random_features(transform, crs)
    paths = {
        "buildings": write(tmp_path / "buildings.gpkg", features["buildings"].to_crs(other)),
        "roads": write(tmp_path / "roads.fgb", features["roads"].to_crs(crs)),
        "admin": write(tmp_path / "districts.gpkg", features["districts"].to_crs(other)),
    }
    exposed = floodmap.exposure(make_result(percent, crs=crs, transform=transform), **paths)
    rows = {row["district"]: row for row in exposed.districts}
    by_class = {(row["district"], row["road_class"]): row for row in exposed.report["roads_by_class"]}
    assert len(rows) == 14

    lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(*(transform @ (WIDTH / 2, HEIGHT / 2)))
    plane = f"+proj=laea +lon_0={lon} +lat_0={lat} +ellps=WGS84 +units=m"
    corners = [transform @ corner for corner in ((0, 0), (WIDTH, 0), (WIDTH, HEIGHT), (0, HEIGHT))]
    houses, roads, districts = (one.to_crs(plane) for one in features.values())
    scene = frame([Polygon(corners)], crs).to_crs(plane)
    lowest = {"flood_{}_ha": 1.0, "footprints_flood_{}_m2": 100.0, "road_flood_{}_km": 0.2}
    for level in LEVELS:
        flood = flood_polygons(percent, PERCENT[level], transform, crs).to_crs(plane)
        wet = geopandas.overlay(houses.reset_index(), flood, keep_geom_type=True)
        wet_m2 = wet.area.groupby(wet["index"]).sum().reindex(houses.index, fill_value=0.0)
        # Of buildings in two districts, the representative point decides; in another CRS it is nearly the same.
        middle = frame(features["buildings"].to_crs(other).representative_point(), other).to_crs(plane)
        home = geopandas.sjoin(middle, districts, how="left")["name"].fillna("in no district")
        wet_roads = geopandas.overlay(
            geopandas.overlay(roads, districts, keep_geom_type=True), flood, keep_geom_type=True
        )
        wet_ground = geopandas.overlay(districts, flood, keep_geom_type=True)
        expected = {
            "flood_{}_ha": wet_ground.area.groupby(wet_ground["name"]).sum() / 1e4,
            "footprints_flood_{}_m2": wet_m2.groupby(home).sum(),
            "road_flood_{}_km": wet_roads.length.groupby(wet_roads["name"]).sum() / 1e3,
        }
        for name in districts["name"]:
            for column, values in expected.items():
                figure, wanted = rows[name][column.format(level)], values.get(name, 0.0)
                assert figure == pytest.approx(wanted, rel=1e-3, abs=1e-3 * lowest[column]), (level, name, column)
        share = wet_m2 / houses.area
        for column, count in (("touched", share > 1e-9), ("10_percent", share >= 0.1), ("50_percent", share >= 0.5)):
            assert exposed.total[f"buildings_{column}_{level}"] == count.sum()
        assert exposed.total[f"footprints_flood_{level}_m2"] == pytest.approx(wet_m2.sum(), rel=1e-3)
        all_wet = geopandas.overlay(roads, flood, keep_geom_type=True)
        assert exposed.total[f"road_flood_{level}_km"] == pytest.approx(all_wet.length.sum() / 1e3, rel=1e-3)
        for name, length in all_wet.length.groupby(all_wet["highway"]).sum().items():
            assert by_class["whole scene", name][f"road_flood_{level}_km"] == pytest.approx(length / 1e3, rel=1e-3)
    inside = geopandas.overlay(districts, scene, keep_geom_type=True)
    for name, area, part in zip(
        districts["name"], districts.area, inside.set_index("name").reindex(districts["name"]).area, strict=True
    ):
        assert rows[name]["district_ha"] == pytest.approx(area / 1e4, rel=1e-3)
        assert rows[name]["scene_ha"] == pytest.approx(part / 1e4, rel=1e-3)
        assert rows[name]["scene_share"] == pytest.approx(part / area, rel=1e-3)
    assert exposed.total["buildings"] == houses.intersects(scene.geometry[0]).sum()
    _check_sums(exposed.districts)


def _check_sums(rows: list[dict[str, Any]]) -> None:
    """Lower, best and upper are in order, and the rows add up to the last one."""
    for name in rows[-1]:
        if name.endswith("lower") or "_lower_" in name:
            best, upper = name.replace("lower", "best"), name.replace("lower", "upper")
            assert all(row[name] <= row[best] <= row[upper] for row in rows), name
        if isinstance(rows[-1][name], int | float) and "share" not in name:
            assert sum(row[name] for row in rows[:-1]) == pytest.approx(
                rows[-1][name], abs=1.0 if name.endswith("m2") else 0.02
            ), name


def test_areas_in_polygons_agree_with_exactextract(make_result: MakeResult) -> None:
    percent = blobs(90, 130)
    result = find_result(make_result(percent), pytest.fail)
    rng = np.random.default_rng(2)
    stars = [shapely.make_valid(Polygon(rng.uniform((-20, -20), (150, 110), (7, 2)))).buffer(0) for _ in range(20)]
    ring = Point(60, 40).buffer(30).difference(box(40, 30, 70, 50))
    polygons = np.array([*stars, ring, MultiPolygon([box(0, 0, 3, 3), box(127, 87, 140, 95)]), box(5, 5, 6, 6)], object)
    edges, px = ring_edges(polygons)
    areas = PolygonAreas(result.grid)
    areas.append(edges, len(polygons))
    overlay(result, [iter([areas])], lambda _: None)
    flipped = [shapely.transform(one, lambda xy: xy * [1, -1]) for one in polygons]
    source = NumPyRasterSource(result.table()[percent], 0, -90, 130, 0)
    found = exact_extract(source, frame(flipped), ["values", "coverage"], output="pandas")
    pixel_m2 = 1 / 0.9996**2
    for index, (values, coverage) in enumerate(zip(found["values"], found["coverage"], strict=True)):
        expected = np.bincount(values.astype(int), coverage, 6) * pixel_m2
        np.testing.assert_allclose(areas.areas_m2[index], expected, rtol=1e-4, atol=2e-3)
    np.testing.assert_allclose(px, shapely.area(polygons))


# Single properties


def test_a_building_counts_by_its_share_under_water(make_result: MakeResult, tmp_path: Path) -> None:
    houses = [rectangle(2, 2, 8, 8), rectangle(39, 2, 59, 8), rectangle(30, 10, 50, 20), rectangle(45, 2, 50, 8)]
    row = total(make_result(half_flooded()), buildings=write(tmp_path / "b.gpkg", frame(houses)))
    assert row["buildings"] == 4
    assert [row[f"buildings_touched_{level}"] for level in LEVELS] == [1, 3, 3]
    assert [row[f"buildings_10_percent_{level}"] for level in LEVELS] == [1, 2, 2]
    assert [row[f"buildings_50_percent_{level}"] for level in LEVELS] == [1, 2, 2]
    assert row["footprints_flood_best_m2"] == pytest.approx((36 + 6 + 100) / 0.9996**2, abs=0.1)


def test_a_building_beside_a_flooded_pixel_is_not_touched(make_result: MakeResult, tmp_path: Path) -> None:
    houses = [rectangle(40, 3, 46, 9), rectangle(40.3, 1.7, 51.9, 8.1), rectangle(39.999, 11, 45, 15)]
    path = write(tmp_path / "b.gpkg", frame(houses))
    assert total(make_result(half_flooded()), buildings=path)["buildings_touched_upper"] == 1


def test_unobserved_ground_is_neither_wet_nor_dry_and_stands_beside(make_result: MakeResult, tmp_path: Path) -> None:
    percent = half_flooded()
    percent[:, 30:] = 255
    houses = [rectangle(32, 2, 38, 8), rectangle(26, 12, 34, 18), rectangle(2, 2, 8, 8), rectangle(-5, 30, 5, 38)]
    roads = [LineString([place(0, 20), place(60, 20)])]
    people = write_raster(tmp_path / "people.tif", np.full((4, 6), 10.0), crs=UTM, transform=METRE @ Affine.scale(10))
    row = total(
        make_result(percent), buildings=write(tmp_path / "b.gpkg", frame(houses)),
        roads=write(tmp_path / "r.gpkg", frame(roads)), population=people,
    )  # fmt: skip
    assert row["observed_ha"] == row["unobserved_ha"] == pytest.approx(0.12 / 0.9996**2, abs=1e-4)
    # The last building is partly outside of the scene, where nothing was observed either.
    assert (row["buildings"], row["buildings_with_unobserved_ground"], row["buildings_unobserved"]) == (4, 3, 1)
    assert [row[f"buildings_touched_{level}"] for level in LEVELS] == [2, 3, 3]
    assert (row["road_km"], row["road_unobserved_km"]) == pytest.approx((0.06, 0.03), abs=1e-4)
    assert row["road_flood_upper_km"] == pytest.approx(0.03, abs=1e-4)
    assert (row["people"], row["people_on_unobserved_ground"]) == pytest.approx((240, 120))
    assert [row[f"people_exposed_{level}"] for level in LEVELS] == pytest.approx([80, 120, 120])


def test_permanent_water_of_the_mask_is_no_flood(make_result: MakeResult, tmp_path: Path) -> None:
    lake = np.zeros((40, 60), bool)
    lake[:20] = True
    houses = write(tmp_path / "b.gpkg", frame([rectangle(2, 2, 8, 8), rectangle(2, 30, 8, 36)]))
    row = total(make_result(half_flooded(), permanent=lake), buildings=houses)
    assert row["permanent_water_ha"] == row["flood_best_ha"] == pytest.approx(0.08 / 0.9996**2, abs=1e-4)
    assert row["buildings_touched_best"] == 1 and row["buildings_with_unobserved_ground"] == 0
    assert row["observed_ha"] == row["scene_ha"]


def test_the_best_figure_has_the_threshold_of_the_result(make_result: MakeResult, tmp_path: Path) -> None:
    path = make_result(half_flooded(), threshold=0.8)
    exposed = floodmap.exposure(path, buildings=write(tmp_path / "b.gpkg", frame([rectangle(2, 2, 8, 8)])))
    assert exposed.report["thresholds"] == {"lower": 0.8, "best": 0.8, "upper": 0.3}
    assert exposed.total["flood_lower_ha"] == exposed.total["flood_best_ha"] < exposed.total["flood_upper_ha"]


def test_points_count_by_the_pixel_beneath(make_result: MakeResult, tmp_path: Path) -> None:
    percent = half_flooded()
    percent[35:, :] = 255
    points = [
        Point(place(0.01, 0.01)), Point(place(19.99, 5)), Point(place(20.01, 5)), Point(place(50, 5)),
        Point(place(5, 36)), Point(place(-0.01, 5)), Point(place(60.01, 5)), MultiPoint([place(5, 5), place(6, 5)]),
    ]  # fmt: skip
    path = write(tmp_path / "b.gpkg", frame(points).to_crs(4326))
    row = total(make_result(percent), buildings=path)
    assert row["buildings"] == 6 and row["buildings_unobserved"] == 1 and row["footprints_m2"] == 0
    assert [row[f"buildings_touched_{level}"] for level in LEVELS] == [3, 4, 4]
    assert [row[f"buildings_50_percent_{level}"] for level in LEVELS] == [3, 4, 4]


def test_invalid_polygons_are_repaired_and_counted(make_result: MakeResult, tmp_path: Path) -> None:
    bow_tie = Polygon([place(2, 2), place(10, 10), place(10, 2), place(2, 10)])
    line = Polygon([place(2, 20), place(8, 20), place(2, 20), place(2, 20)])
    table = frame([bow_tie, line, None, rectangle(45, 2, 50, 8)])
    exposed = floodmap.exposure(make_result(half_flooded()), buildings=write(tmp_path / "b.gpkg", table))
    assert exposed.report["inputs"]["buildings"]["repaired"] == 2
    assert exposed.total["buildings"] == 2
    assert exposed.total["footprints_flood_lower_m2"] == pytest.approx(32 / 0.9996**2, abs=0.1)


def test_a_rotated_scene_of_several_strips_equals_its_pixels(
    make_result: MakeResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlap, "STRIP_PIXELS", 60 * 7)
    transform = METRE @ Affine.rotation(30)
    corners = [transform @ (col, row) for col, row in ((-9, -9), (70, -9), (70, 50), (-9, 50))]
    path = write(tmp_path / "b.gpkg", frame([Polygon(corners)]))
    row = total(make_result(half_flooded(), transform=transform), buildings=path)
    for level, pixels in zip(LEVELS, (800, 1600, 1600), strict=True):
        assert row[f"footprints_flood_{level}_m2"] == pytest.approx(1e4 * row[f"flood_{level}_ha"], abs=1)
        assert row[f"flood_{level}_ha"] == pytest.approx(pixels / 1e4 / 0.9996**2, rel=1e-4, abs=1e-4)


def test_a_scene_across_the_antimeridian(make_result: MakeResult, tmp_path: Path) -> None:
    transform = Affine(1e-5, 0, 179.9997, 0, -1e-5, -17.0)
    houses = [box(179.99972, -17.0001, 179.99978, -17.00005), box(-179.99998, -17.0001, -179.99992, -17.00005)]
    across = Polygon([(179.99998, -17.0003), (-179.99998, -17.0003), (-179.99998, -17.0002), (179.99998, -17.0002)])
    everywhere = frame([*houses, across], 4326)
    result = make_result(half_flooded(), crs="EPSG:4326", transform=transform)
    for crs in ("EPSG:4326", "EPSG:32701"):
        table = everywhere.to_crs(crs)
        if crs == "EPSG:32701":
            far = Transformer.from_crs(4326, crs, always_xy=True)
            table.geometry = [
                Polygon([far.transform(x, y) for x, y in one.exterior.coords]) for one in everywhere.geometry
            ]
        row = total(result, buildings=write(tmp_path / f"{crs[5:]}.gpkg", table))
        assert row["buildings"] == 3 and [row[f"buildings_touched_{level}"] for level in LEVELS] == [1, 3, 3]


def test_people_are_kept_and_spread_evenly_over_their_pixel(make_result: MakeResult, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    percent = blobs(120, 160)
    people = rng.integers(0, 40, (12, 16)).astype(np.float32)
    people[3, 4] = -9999
    path = write_raster(
        tmp_path / "p.tif", people, crs=UTM, transform=METRE @ Affine.scale(10), nodata=-9999
    )  # fmt: skip
    districts = [rectangle(-20, -20, 63, 71), rectangle(63, -20, 150, 71), rectangle(-20, 71, 150, 119)]
    admin = write(tmp_path / "a.gpkg", frame(districts))
    exposed = floodmap.exposure(make_result(percent), admin=admin, population=path)
    people[3, 4] = 0
    assert exposed.total["people"] == pytest.approx(people.sum(), abs=0.01)
    assert exposed.report["inputs"]["population"]["pixels_without_value"] == 1
    cells = percent.reshape(12, 10, 16, 10)
    for level in LEVELS:
        share = ((cells >= PERCENT[level]) & (cells <= 100)).mean(axis=(1, 3))
        assert exposed.total[f"people_exposed_{level}"] == pytest.approx((people * share).sum(), abs=0.01)
    unobserved = (people * (cells == 255).mean(axis=(1, 3))).sum()
    assert exposed.total["people_on_unobserved_ground"] == pytest.approx(unobserved, abs=0.01)
    assert exposed.districts[0]["people"] == pytest.approx(
        people[:7, :6].sum() + 0.3 * people[:7, 6].sum() + 0.1 * people[7, :6].sum() + 0.03 * people[7, 6], abs=0.01
    )
    _check_sums(exposed.districts)


def test_a_raster_of_densities_and_one_that_is_partly_outside(make_result: MakeResult, tmp_path: Path) -> None:
    grid = {"crs": UTM, "transform": METRE @ Affine.translation(-20, -20) @ Affine.scale(40)}
    counts = write_raster(tmp_path / "counts.tif", np.full((2, 3), 100.0), **grid)
    density = write_raster(tmp_path / "density.tif", np.full((2, 3), 1e6), **grid)
    result = make_result(half_flooded())
    row = total(result, population=counts)
    assert row["people"] == pytest.approx(100 * 40 * 60 / 1600)
    assert row["people_exposed_lower"] == pytest.approx(100 * 40 * 20 / 1600)
    row = total(result, population=density, population_per="km2")
    assert row["people"] == pytest.approx(40 * 60 / 0.9996**2, rel=1e-3)


def test_a_population_raster_in_degrees_keeps_its_people(make_result: MakeResult, tmp_path: Path) -> None:
    x, y = Transformer.from_crs(UTM, 4326, always_xy=True).transform(*place(3, 3))
    people = write_raster(
        tmp_path / "p.tif", np.full((3, 3), 7.0), crs="EPSG:4326", transform=Affine(1e-4, 0, x, 0, -1e-4, y)
    )
    assert total(make_result(half_flooded()), population=people)["people"] == pytest.approx(63)


def test_districts_half_outside_of_the_scene_and_ground_in_none(make_result: MakeResult, tmp_path: Path) -> None:
    districts = frame(
        [rectangle(-30, 0, 30, 40), rectangle(30, 0, 45, 40), rectangle(500, 0, 600, 40)], NAME=["west", None, "far"]
    )
    houses = frame([rectangle(50, 2, 55, 8), rectangle(28, 2, 33, 8)])
    roads = frame([LineString([place(-10, 20), place(70, 20)])], fclass=["track"])
    exposed = floodmap.exposure(
        make_result(half_flooded()), admin=write(tmp_path / "a.gpkg", districts),
        buildings=write(tmp_path / "b.gpkg", houses), roads=write(tmp_path / "r.gpkg", roads),
    )  # fmt: skip
    west, middle, outside, _ = exposed.districts
    assert [row["district"] for row in exposed.districts] == ["west", "district 2", "in no district", "whole scene"]
    assert [row["kind"] for row in exposed.districts] == ["district", "district", "outside", "total"]
    assert exposed.report["inputs"]["admin"]["elsewhere"] == 1
    assert west["scene_share"] == pytest.approx(0.5) and middle["scene_share"] == pytest.approx(1)
    assert outside["scene_ha"] == pytest.approx(0.06 / 0.9996**2, abs=1e-4) and outside["scene_share"] is None
    assert [row["buildings"] for row in exposed.districts] == [0, 1, 1, 2]
    assert [row["road_km"] for row in exposed.districts] == pytest.approx([0.03, 0.015, 0.015, 0.06], abs=1e-4)
    _check_sums(exposed.districts)


def test_ground_in_two_districts_counts_for_the_first(
    make_result: MakeResult, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    districts = frame([rectangle(0, 0, 40, 40), rectangle(20, 0, 60, 40)], name=["a", "b"])
    roads = frame([LineString([place(0, 20), place(60, 20)])])
    people = write_raster(tmp_path / "p.tif", np.full((4, 6), 1.0), crs=UTM, transform=METRE @ Affine.scale(10))
    exposed = floodmap.exposure(
        make_result(half_flooded()), admin=write(tmp_path / "a.gpkg", districts),
        roads=write(tmp_path / "r.gpkg", roads), population=people,
    )  # fmt: skip
    assert "overlap by" in caplog.text and exposed.report["warnings"]
    assert [row["scene_ha"] for row in exposed.districts[:2]] == pytest.approx([0.16, 0.08], rel=1e-2)
    assert [row["road_km"] for row in exposed.districts[:2]] == pytest.approx([0.04, 0.02], rel=1e-2)
    assert [row["people"] for row in exposed.districts[:2]] == pytest.approx([16, 8])
    _check_sums(exposed.districts)


def test_without_flood_or_features_the_figures_are_zero(
    make_result: MakeResult, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    far = frame([rectangle(9_000, 0, 9_010, 10)])
    lines = frame([LineString([place(9_000, 0), place(9_100, 0)])], highway=["track"])
    exposed = floodmap.exposure(
        make_result(np.zeros((40, 60), np.uint8)), buildings=write(tmp_path / "b.gpkg", far),
        roads=write(tmp_path / "r.gpkg", lines), admin=write(tmp_path / "a.gpkg", far),
        out=[tmp_path / "t.gpkg", tmp_path / "t.csv", tmp_path / "t.xlsx"], report=True,
    )  # fmt: skip
    assert exposed.total["flood_upper_ha"] == exposed.total["buildings"] == exposed.total["road_km"] == 0
    for kind in ("building", "road", "district"):
        assert f"no {kind} of" in caplog.text
    assert len(pyogrio.read_dataframe(tmp_path / "t.gpkg", layer="buildings")) == 0


def test_an_empty_file_of_buildings_is_no_error(make_result: MakeResult, tmp_path: Path) -> None:
    path = tmp_path / "b.gpkg"
    pyogrio.write_dataframe(frame([]), path, geometry_type="Polygon")
    row = total(make_result(np.full((40, 60), 255, np.uint8)), buildings=path)
    assert row["buildings"] == row["observed_ha"] == 0 and row["flood_share_of_observed"] is None


@pytest.mark.parametrize("suffix", ["shp", "geojson", "fgb", "parquet", "gml"])
def test_the_format_of_the_features_does_not_matter(make_result: MakeResult, tmp_path: Path, suffix: str) -> None:
    houses = frame([rectangle(2, 2, 8, 8), rectangle(39, 2, 59, 8)], name=["a", "b"]).to_crs(4326)
    path = tmp_path / f"b.{suffix}"
    if suffix == "parquet":
        houses.to_parquet(path)
    else:
        houses.to_file(path)
    before = sorted(tmp_path.rglob("*"))
    row = total(make_result(half_flooded()), buildings=path)
    assert [row[f"buildings_touched_{level}"] for level in LEVELS] == [1, 2, 2]
    assert row["footprints_flood_best_m2"] == pytest.approx(42 / 0.9996**2, abs=0.1)
    assert [one for one in sorted(tmp_path.rglob("*")) if "results" not in one.parts] == before


def test_geoparquet_with_coordinates_as_arrow_types_is_read(make_result: MakeResult, tmp_path: Path) -> None:
    path = tmp_path / "b.parquet"
    frame([Point(place(5, 5)), Point(place(50, 5))]).to_parquet(path, geometry_encoding="geoarrow")
    assert total(make_result(half_flooded()), buildings=path)["buildings_touched_best"] == 1


def test_batches_and_passes_do_not_change_figures(
    make_result: MakeResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = random_features(METRE, UTM)
    paths = {
        "buildings": write(tmp_path / "b.gpkg", features["buildings"][:400]),
        "roads": write(tmp_path / "r.gpkg", features["roads"][:60]),
        "admin": write(tmp_path / "a.gpkg", features["districts"]),
    }
    result = make_result(blobs(HEIGHT, WIDTH))
    whole = floodmap.exposure(result, **paths, out=tmp_path / "whole.gpkg")
    monkeypatch.setattr(features_module, "BATCH", 57)
    monkeypatch.setattr(buildings_module, "EDGES", 500)
    monkeypatch.setattr(roads_module, "EDGES", 100)
    monkeypatch.setattr(overlap, "STRIP_PIXELS", WIDTH * 33)
    monkeypatch.setattr(overlap, "PIECES", 1000)
    parts = floodmap.exposure(result, **paths, out=tmp_path / "parts.gpkg")
    for one, other in zip(whole.districts, parts.districts, strict=True):
        assert one == pytest.approx(other, abs=0.11)
    for layer in ("districts", "buildings"):
        one, other = (pyogrio.read_dataframe(tmp_path / f"{name}.gpkg", layer=layer) for name in ("whole", "parts"))
        assert len(one) == len(other) and list(one.columns) == list(other.columns)
        assert one.geometry.geom_equals(other.geometry).all()


# Results, tables and errors


@pytest.mark.parametrize("given", ["scene.json", "scene_probability.tif", "scene", "scene.gpkg", "scene_mask.tif", ""])
def test_a_result_may_be_named_by_its_files(make_result: MakeResult, tmp_path: Path, given: str) -> None:
    folder = make_result(half_flooded()).parent
    houses = write(tmp_path / "b.gpkg", frame([rectangle(2, 2, 8, 8)]))
    assert floodmap.exposure(folder / given, buildings=houses).report["name"] == "scene"


def test_a_flood_map_of_python_is_a_result(make_result: MakeResult, tmp_path: Path) -> None:
    folder = make_result(half_flooded()).parent
    result = FloodMap(
        name="scene", mask_path=folder / "scene_mask.tif", probability_path=folder / "scene_probability.tif",
        layer_paths=(), report_path=folder / "scene.json", report={},
    )  # fmt: skip
    houses = write(tmp_path / "b.gpkg", frame([rectangle(2, 2, 8, 8)]))
    assert floodmap.exposure(result, buildings=houses).total["buildings_touched_lower"] == 1


def test_without_the_json_the_default_threshold_is_used_with_a_warning(
    make_result: MakeResult, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_result(half_flooded())
    path.unlink()
    houses = write(tmp_path / "b.gpkg", frame([rectangle(2, 2, 8, 8)]))
    exposed = floodmap.exposure(path, buildings=houses)
    assert exposed.report["thresholds"]["best"] == 0.5 and "is missing: the best figure" in caplog.text


@pytest.fixture
def exposed(make_result: MakeResult, tmp_path: Path) -> tuple[floodmap.Exposure, Path]:
    """An exposure with all inputs and tables, and the folder of the tables."""
    houses = [rectangle(2, 2, 8, 8), rectangle(25, 2, 30, 8), rectangle(50, 2, 55, 8)]
    roads = [LineString([place(0, 20), place(60, 20)]), LineString([place(0, 30), place(60, 30)])]
    people = write_raster(tmp_path / "p.tif", np.full((4, 6), 10.0), crs=UTM, transform=METRE @ Affine.scale(10))
    districts = frame([rectangle(-30, 0, 30, 40), rectangle(30, 0, 60, 40)], name=["=west", "east <b>"])
    out = tmp_path / "tables"
    tables = [out / f"t.{suffix}" for suffix in ("xlsx", "csv", "gpkg", "json")]
    done = floodmap.exposure(
        make_result(half_flooded()), buildings=write(tmp_path / "b.gpkg", frame(houses)),
        roads=write(tmp_path / "r.gpkg", frame(roads, highway=["primary", "track"])),
        admin=write(tmp_path / "a.gpkg", districts.to_crs(3857)), population=people, out=tables, report=True,
    )  # fmt: skip
    assert done.paths == tuple(tables) and done.page_path == out / "scene_exposure.html"
    assert sorted(path.name for path in out.iterdir()) == ["scene_exposure.html", *sorted(path.name for path in tables)]
    return done, out


def test_the_csv_and_the_json_hold_all_figures(exposed: tuple[floodmap.Exposure, Path]) -> None:
    done, out = exposed
    with (out / "t.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["kind"] for row in rows] == ["district", "district", "outside", "total"]
    for row, expected in zip(rows, done.districts, strict=True):
        for name, value in expected.items():
            assert row[name] == ("" if value is None else str(value))
    assert float(rows[0]["road_primary_flood_best_km"]) == pytest.approx(0.03, abs=1e-3)
    assert float(rows[1]["road_track_km"]) == pytest.approx(0.03, abs=1e-3)
    assert json.loads((out / "t.json").read_text("utf-8")) == done.report
    assert done.report["inputs"]["buildings"]["features"] == 3
    assert done.report["source"]["fingerprint"] == "f" * 64


def test_the_workbook_has_its_sheets_and_no_formula(exposed: tuple[floodmap.Exposure, Path]) -> None:
    with zipfile.ZipFile(exposed[1] / "t.xlsx") as book:
        names = book.read("xl/workbook.xml").decode()
        strings = book.read("xl/sharedStrings.xml").decode()
        sheets = [book.read(name).decode() for name in book.namelist() if "worksheets/sheet" in name]
    assert all(f'name="{name}"' in names for name in ("districts", "roads by class", "building classes", "notes"))
    assert "=west" in strings and "ODbL" in strings and "f" * 64 in strings and not any("<f>" in one for one in sheets)


def test_the_geopackage_has_styled_layers_in_the_crs_of_the_sources(exposed: tuple[floodmap.Exposure, Path]) -> None:
    done, out = exposed
    districts = pyogrio.read_dataframe(out / "t.gpkg", layer="districts")
    assert list(districts["district"]) == ["=west", "east <b>"] and districts.crs == "EPSG:3857"
    assert list(districts["flood_best_ha"]) == [row["flood_best_ha"] for row in done.districts[:2]]
    houses = pyogrio.read_dataframe(out / "t.gpkg", layer="buildings")
    assert list(houses["district"]) == ["=west", "=west"] and houses.crs == UTM
    assert houses[["share_lower", "share_best", "share_upper"]].values.tolist() == [[1, 1, 1], [0, 1, 1]]
    assert list(houses["source_fid"]) == [1, 2] and list(houses["unobserved_share"]) == [0, 0]
    with sqlite3.connect(out / "t.gpkg") as database:
        styles = dict(database.execute("SELECT f_table_name, styleQML FROM layer_styles"))
    assert set(styles) == {"districts", "buildings"}
    for layer, field in (("districts", "flood_share_of_observed"), ("buildings", "share_best")):
        assert f'attr="{field}"' in styles[layer] and field in pyogrio.read_info(out / "t.gpkg", layer=layer)["fields"]


def test_points_and_the_outline_of_the_scene_are_layers(make_result: MakeResult, tmp_path: Path) -> None:
    points = write(tmp_path / "b.gpkg", frame([Point(place(5, 5)), Point(place(50, 5))]))
    floodmap.exposure(make_result(half_flooded()), buildings=points, out=tmp_path / "t.gpkg")
    layer = pyogrio.read_dataframe(tmp_path / "t.gpkg", layer="building_points")
    assert list(layer["share_best"]) == [1] and layer.geometry[0].equals(Point(place(5, 5)))
    scene = pyogrio.read_dataframe(tmp_path / "t.gpkg", layer="districts")
    assert scene.geometry[0].equals(MultiPolygon([rectangle(0, 0, 60, 40)]))


def test_a_building_of_the_upper_figure_alone_is_in_the_layer(make_result: MakeResult, tmp_path: Path) -> None:
    houses = write(tmp_path / "b.gpkg", frame([rectangle(25, 2, 30, 8), rectangle(50, 2, 55, 8)]))
    floodmap.exposure(make_result(half_flooded(), threshold=0.8), buildings=houses, out=tmp_path / "t.gpkg")
    layer = pyogrio.read_dataframe(tmp_path / "t.gpkg", layer="buildings")
    assert layer[["share_best", "share_upper"]].values.tolist() == [[0, 1]]


def test_the_page_shows_ranges_and_escapes_names(exposed: tuple[floodmap.Exposure, Path]) -> None:
    page = (exposed[1] / "scene_exposure.html").read_text("utf-8")
    assert "2 (1 to 2)" in page and "east &lt;b&gt;" in page and "<b>" not in page.replace("<b>2", "").split("east")[1]
    assert page.count("<path d=") == 2 and "ODbL" in page and "http://" not in page and "https://" not in page


def test_the_bytes_of_the_geopackage_depend_on_the_inputs_alone(make_result: MakeResult, tmp_path: Path) -> None:
    houses = write(tmp_path / "b.gpkg", frame([rectangle(2, 2, 8, 8)]))
    result = make_result(half_flooded())
    for name in ("one", "two"):
        floodmap.exposure(result, buildings=houses, out=tmp_path / f"{name}.gpkg")
    assert (tmp_path / "one.gpkg").read_bytes() == (tmp_path / "two.gpkg").read_bytes()


def test_nothing_is_written_if_one_table_cannot_be(
    make_result: MakeResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(writing.WRITERS, ".csv", full)
    out = tmp_path / "out"
    houses = write(tmp_path / "b.gpkg", frame([rectangle(2, 2, 8, 8)]))
    with pytest.raises(OutputError, match="No space left"):
        floodmap.exposure(make_result(half_flooded()), buildings=houses, out=[out / "t.json", out / "t.csv"])
    assert list(out.iterdir()) == []


def test_a_scene_without_a_crs_is_refused(make_result: MakeResult, tmp_path: Path, capfd: Any) -> None:
    path = make_result(half_flooded(), crs=None, transform=Affine.identity())
    houses = write(tmp_path / "b.gpkg", frame([rectangle(2, 2, 8, 8)]))
    with pytest.raises(MissingCRSError, match="has no CRS"):
        floodmap.exposure(path, buildings=houses)
    assert run(["exposure", str(path), "--buildings", str(houses), "-o", str(tmp_path / "t.csv")]) == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and "--crs" in lines[0] and not (tmp_path / "t.csv").exists()


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_what_cannot_be_used_is_named(make_result: MakeResult, tmp_path: Path) -> None:
    result = make_result(half_flooded())
    houses = write(tmp_path / "b.gpkg", frame([rectangle(2, 2, 8, 8)], kind=["x"]))
    lines = write(tmp_path / "r.gpkg", frame([LineString([place(0, 20), place(60, 20)])]))
    bare = write(tmp_path / "bare.gpkg", frame([rectangle(2, 2, 8, 8)]).set_crs(None, allow_override=True))
    plain = write_raster(tmp_path / "plain.tif", np.ones((4, 4)), transform=METRE)
    cases: list[tuple[type[FloodmapError], str, Any, dict[str, Any]]] = [
        (VectorError, "nothing to overlay", result, {}),
        (SceneError, "no result of floodmap", tmp_path / "nothing", {"buildings": houses}),
        (SceneError, "no file NAME_probability.tif", tmp_path, {"buildings": houses}),
        (VectorError, "buildings are polygons or points", result, {"buildings": lines}),
        (VectorError, "roads are lines", result, {"roads": houses}),
        (VectorError, "districts are polygons", result, {"admin": lines}),
        (VectorError, "has no CRS", result, {"buildings": bare}),
        (VectorError, "no such file", result, {"buildings": tmp_path / "none.gpkg"}),
        (VectorError, "has no field 'road'; it has", result, {"roads": lines, "road_class": "road"}),
        (VectorError, "has no field 'town'; it has kind", result, {"admin": houses, "district_name": "town"}),
        (VectorError, "has no layer 'x'", result, {"buildings": houses, "buildings_layer": "x"}),
        (VectorError, "GeoParquet has no layers", result, {"buildings": "b.parquet", "buildings_layer": "x"}),
        (SceneError, "has no CRS", result, {"population": plain}),
        (SceneError, "cannot be read as a population raster", result, {"population": houses}),
        (OutputError, "must be one of .xlsx", result, {"buildings": houses, "out": tmp_path / "t.txt"}),
        (OutputError, "would be replaced", result, {"buildings": houses, "out": houses, "overwrite": True}),
        (OutputError, "exists already", result, {"buildings": houses, "out": bare}),
    ]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for kind, text, given, inputs in cases:
        with pytest.raises(kind) as caught:
            floodmap.exposure(given, **inputs)
        assert text in str(caught.value) and "\n" not in str(caught.value), str(caught.value)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("package", "inputs"),
    [
        ("pyarrow", {"buildings": "b.gpkg"}),
        ("exactextract", {"population": "p.tif"}),
        ("xlsxwriter", {"buildings": "b.gpkg", "out": "t.xlsx"}),
    ],
)
def test_a_missing_package_is_named(
    make_result: MakeResult, monkeypatch: pytest.MonkeyPatch, package: str, inputs: dict[str, str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"needs {package}, .* pip install 'floodmap\["):
        floodmap.exposure(make_result(half_flooded()), **inputs)


def test_a_missing_mask_with_permanent_water_is_refused(make_result: MakeResult, tmp_path: Path) -> None:
    path = make_result(half_flooded(), permanent=np.ones((40, 60), bool))
    path.with_name("scene_mask.tif").unlink()
    with pytest.raises(SceneError, match="permanent water, which would count as flood"):
        floodmap.exposure(path, buildings=write(tmp_path / "b.gpkg", frame([rectangle(2, 2, 8, 8)])))


def test_one_of_several_layers_is_chosen(make_result: MakeResult, tmp_path: Path) -> None:
    path = write(tmp_path / "osm.gpkg", frame([LineString([place(0, 20), place(60, 20)])]), layer="roads")
    write(path, frame([rectangle(2, 2, 8, 8)]), layer="houses", mode="a")
    row = total(
        make_result(half_flooded()), buildings=path, buildings_layer="houses", roads=path, roads_layer="roads"
    )  # fmt: skip
    assert row["buildings_touched_lower"] == 1 and row["road_km"] == pytest.approx(0.06, abs=1e-3)


# Command line


def test_the_command_writes_tables_and_prints_figures(make_result: MakeResult, tmp_path: Path, capfd: Any) -> None:
    houses = write(tmp_path / "b.gpkg", frame([rectangle(2, 2, 8, 8), rectangle(25, 2, 30, 8)]))
    command = ["exposure", str(make_result(half_flooded())), "--buildings", str(houses)]
    tables = [tmp_path / name for name in ("a,b.csv", "t.json", "t.xlsx")]
    assert run([*command, "-o", f"{tables[0]},{tables[1]}", "-o", str(tables[2]), "--report"]) == 0
    out, err = capfd.readouterr()
    assert "2 (1 to 2)" in out and "whole scene" in out and all(str(path) in out for path in tables) and not err
    assert all(path.exists() for path in tables) and (tmp_path / "scene_exposure.html").exists()
    assert run([*command, "-o", str(tables[1])]) == 1
    assert "exists already" in capfd.readouterr().err
    assert run([*command, "-o", str(tables[1]), "--overwrite", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["districts"][0]["buildings_touched_best"] == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "at least one of --buildings"),
        (["--buildings", "missing.gpkg"], "does not exist"),
        (["--buildings", "b.gpkg", "-o", "t.doc"], "is not that of a table"),
        (["--buildings", "b.gpkg", "--population-per", "mile"], "mile"),
    ],
)
def test_wrong_usage_is_exit_code_2(
    make_result: MakeResult,
    tmp_path: Path,
    capfd: Any,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    text: str,
) -> None:
    write(tmp_path / "b.gpkg", frame([rectangle(2, 2, 8, 8)]))
    monkeypatch.chdir(tmp_path)
    assert run(["exposure", str(make_result(half_flooded())), *arguments]) == 2
    assert text in capfd.readouterr().err


def test_rows_without_a_class_of_road_are_unknown(make_result: MakeResult, tmp_path: Path) -> None:
    roads = frame([LineString([place(0, 20), place(60, 20)])] * 3, kind=["a", None, ""])
    path = write(tmp_path / "r.gpkg", roads)
    exposed = floodmap.exposure(make_result(half_flooded()), roads=path, road_class="kind")
    assert {row["road_class"]: round(row["road_km"], 2) for row in exposed.report["roads_by_class"]} == {
        "a": 0.06, "unknown": 0.12,
    }  # fmt: skip
    assert isinstance(pd.DataFrame(exposed.districts), pd.DataFrame)
