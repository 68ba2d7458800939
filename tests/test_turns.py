"""The antimeridian: +180 and -180 degrees are the same place, and scores there are as anywhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.features
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.crs import CRS
from scipy import ndimage

from floodmap.evaluation.run import evaluate
from floodmap.geo.turns import bounds_of, overlaps, raster_shifts, turned, unwrapped, x_period
from floodmap.imagery.scene import Scene
from floodmap.inference.prompt_files import read_prompts
from floodmap.options import SceneOptions

STEP, SIDE, NORTH = 0.001, 200, 10.1
UTM = {180: "EPSG:32660", 174: "EPSG:32659"}
RASTERS = ("east", "west", "utm", "pacific", "web east", "web west", "nz")
POLYGONS = ("geojson", "geojson utm", "gpkg")


def ground(seed: int) -> NDArray[np.uint8]:
    """Flood on a grid of 0.2 by 0.2 degrees."""
    noise = np.random.default_rng(seed).normal(size=(SIDE, SIDE))
    return (ndimage.gaussian_filter(noise, 8) > 0).astype(np.uint8)


def geographic(lon: float) -> Affine:
    return Affine(STEP, 0, lon - 0.1, 0, -STEP, NORTH)


def write(path: Path, pixels: NDArray[Any], crs: str, transform: Affine) -> Path:
    bands = pixels.reshape(-1, *pixels.shape[-2:])
    shape = dict(zip(("count", "height", "width"), bands.shape, strict=True))
    with rasterio.open(path, "w", driver="GTiff", dtype=bands.dtype, crs=crs, transform=transform, **shape) as file:
        file.write(bands)
    return path


def projected(path: Path, flood: NDArray[np.uint8], crs: str, lon: int, turn: float = 0.0) -> Path:
    """Flood on pixels of 150 units of another CRS, looked up by pyproj: 255 beyond it."""
    to_lonlat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    x, y = to_lonlat.transform(lon - 0.08, NORTH - 0.02, direction="INVERSE")
    cols, rows = np.meshgrid(np.arange(130) + 0.5, np.arange(130) + 0.5)
    lons, lats = to_lonlat.transform(x + 150 * cols, y - 150 * rows)
    i, j = np.floor((NORTH - lats) / STEP), np.floor(((lons - lon + 180) % 360 - 180 + 0.1) / STEP)
    inside = (i >= 0) & (i < SIDE) & (j >= 0) & (j < SIDE)
    pixels = np.where(inside, flood[i.clip(0, SIDE - 1).astype(int), j.clip(0, SIDE - 1).astype(int)], 255)
    return write(path, pixels.astype(np.uint8), crs, Affine(150, 0, x + turn, 0, -150, y))


def outlines(flood: NDArray[np.uint8], lon: float) -> NDArray[np.object_]:
    found = rasterio.features.shapes(flood, mask=flood == 1, transform=geographic(lon))
    return np.array([shapely.geometry.shape(shape) for shape, _ in found], object)


def split(polygons: NDArray[np.object_]) -> NDArray[np.object_]:
    """As in RFC 7946: parts beyond 180 degrees are moved to -180."""
    near = shapely.clip_by_rect(polygons, -180, -90, 180, 90)
    far = shapely.transform(shapely.clip_by_rect(polygons, 180, -90, 540, 90), lambda xy: xy - [360, 0])
    return np.array(
        [shapely.MultiPolygon([p for p in (*shapely.get_parts(a), *shapely.get_parts(b)) if p.area > 1e-12])
         for a, b in zip(near, far, strict=True)], object
    )  # fmt: skip


def made(folder: Path, kind: str, seed: int, lon: int) -> Path:
    """One side of a comparison, of one kind."""
    flood, path = ground(seed), folder / f"side_{kind.replace(' ', '_')}_{seed}_{lon}"
    tif, turn = path.with_suffix(".tif"), 2 * np.pi * 6378137
    if kind in ("east", "west", "nz"):
        crs = "EPSG:4167" if kind == "nz" else "EPSG:4326"
        return write(tif, flood, crs, geographic(lon if kind == "east" else lon - 360))
    if kind in ("utm", "pacific"):
        return projected(tif, flood, UTM[lon] if kind == "utm" else "EPSG:3832", lon)
    if kind in ("web east", "web west"):
        return projected(tif, flood, "EPSG:3857", lon, 0.0 if kind == "web east" else -turn)
    polygons = outlines(flood, lon)
    frame = geopandas.GeoDataFrame(geometry=split(polygons), crs="EPSG:4326")
    if kind == "gpkg":
        frame = geopandas.GeoDataFrame(geometry=polygons, crs="EPSG:4326")
    elif kind == "geojson utm":
        frame = geopandas.GeoDataFrame(geometry=polygons, crs="EPSG:4326").to_crs(UTM[lon])
    path = path.with_suffix(".geojson" if kind == "geojson" else ".gpkg")
    frame.to_file(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("reference", RASTERS + POLYGONS)
@pytest.mark.parametrize("prediction", ["east", "west", "utm", "geojson"])
def test_scores_at_the_antimeridian_are_those_of_any_other_meridian(
    tmp_path: Path, prediction: str, reference: str
) -> None:
    both = []
    for lon in (180, 174):
        files = made(tmp_path, prediction, 1, lon), made(tmp_path, reference, 2, lon)
        both.append(evaluate(*files, resolution_m=110).scenes[0])
    here, there = both
    for count in ("tp", "fp", "fn", "tn", "unobserved"):
        assert getattr(here, count) == pytest.approx(getattr(there, count), abs=60), count
    assert here.tp > 2500 and here.reference_ha == pytest.approx(there.reference_ha, rel=0.01)


def test_errors_at_the_antimeridian_are_the_ground_that_is_wrong(tmp_path: Path) -> None:
    files = made(tmp_path, "east", 1, 180), made(tmp_path, "geojson", 2, 180)
    scores = evaluate(*files, errors=tmp_path / "wrong.gpkg").scenes[0]
    wrong = geopandas.read_file(tmp_path / "wrong.gpkg", layer="errors")
    pixels = {kind: shapely.area(part.geometry).sum() / STEP**2 for kind, part in wrong.groupby("kind")}
    assert pixels == pytest.approx({"false_positive": scores.fp, "false_negative": scores.fn})


def test_a_raster_of_the_whole_world_meets_a_frame_across_its_edge(tmp_path: Path) -> None:
    world = np.zeros((180, 360), np.uint8)
    world[70:90, [0, 1, 358, 359]] = 1
    reference = write(tmp_path / "world.tif", world, "EPSG:4326", Affine(1, 0, -180, 0, -1, 90))
    everything = write(tmp_path / "p.tif", np.ones((5, 8), np.uint8), "EPSG:4326", Affine(1, 0, 176, 0, -1, 20))
    scores = evaluate(everything, reference).scenes[0]
    assert (scores.tp, scores.fp, scores.unobserved) == (20, 20, 0)


@pytest.fixture
def scenes(tmp_path: Path) -> dict[str, Path]:
    """One picture across the antimeridian, placed in three ways."""
    rgb = np.random.default_rng(0).integers(40, 200, (3, SIDE, SIDE)).astype(np.uint8)
    x, y = Transformer.from_crs("EPSG:4326", UTM[180], always_xy=True).transform(179.92, NORTH - 0.02)
    return {
        "east": write(tmp_path / "east.tif", rgb, "EPSG:4326", geographic(180)),
        "west": write(tmp_path / "west.tif", rgb, "EPSG:4326", geographic(-180)),
        "utm": write(tmp_path / "utm.tif", rgb, UTM[180], Affine(80, 0, x, 0, -80, y)),
    }


@pytest.mark.slow
@pytest.mark.parametrize("where", ["east", "west", "utm"])
@pytest.mark.parametrize("option", ["mask", "aoi"])
@pytest.mark.parametrize("kind", RASTERS + POLYGONS)
def test_masks_and_areas_of_interest_are_laid_over_both_ends(
    tmp_path: Path, scenes: dict[str, Path], where: str, option: str, kind: str
) -> None:
    flood = ground(3)
    given = made(tmp_path, kind, 3, 180)
    if kind in ("utm", "pacific", "web east", "web west"):  # no 255, which would cover
        with rasterio.open(given, "r+") as file:
            file.write(file.read() % 255)
    with Scene.open(scenes[where], SceneOptions(**{option: given})) as scene:
        tile = scene.preview(SIDE)
        cols, rows = np.meshgrid(np.arange(SIDE) + 0.5, np.arange(SIDE) + 0.5)
        x, y = scene.transform @ (cols, rows)
        lons, lats = Transformer.from_crs(scene.crs, "EPSG:4326", always_xy=True).transform(x, y)
    i, j = np.floor((NORTH - lats) / STEP).astype(int), np.floor((lons % 360 - 179.9) / STEP).astype(int)
    # Rasters of coarser pixels end before the scene does.
    inner = (slice(30, 150), slice(30, 150))
    covered = flood[i.clip(0, SIDE - 1), j.clip(0, SIDE - 1)][inner] == 1
    hidden = ~tile.valid[inner]
    assert np.mean(hidden == (covered if option == "mask" else ~covered)) > 0.97


@pytest.mark.parametrize("where", ["east", "west", "utm"])
def test_prompts_are_found_on_both_sides(tmp_path: Path, scenes: dict[str, Path], where: str) -> None:
    features = [
        {"type": "Feature", "properties": {"label": 1}, "geometry": {"type": "Point", "coordinates": [lon, 10.0]}}
        for lon in (179.95, -179.95)
    ]
    path = tmp_path / "points.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    with Scene.open(scenes[where]) as scene:
        points = read_prompts(path, scene.grid).points_xy
        lon, _ = Transformer.from_crs(scene.crs, "EPSG:4326", always_xy=True).transform(*(scene.transform @ points.T))
    assert sorted((np.asarray(lon) % 360).round(3).tolist()) == [179.95, 180.05]


def test_a_turn_is_what_leads_back_to_the_same_ground() -> None:
    assert x_period(CRS.from_epsg(4326)) == 360 and x_period("EPSG:4807") == pytest.approx(400)
    assert x_period("EPSG:3857") == pytest.approx(x_period("EPSG:3832")) == pytest.approx(2 * np.pi * 6378137)
    assert x_period("EPSG:32660") is None and x_period("EPSG:3413") is None and x_period(None) is None


def test_rasters_are_looked_for_only_where_they_lie() -> None:
    assert raster_shifts("EPSG:4326", (10, 11), "EPSG:4326", (10, 12)) == (0,)
    assert raster_shifts("EPSG:4326", (179, 181), "EPSG:4326", (-181, -179)) == (-360,)
    assert raster_shifts("EPSG:4326", (179, 181), "EPSG:32660", (2e5, 8e5)) == (0, -360)
    assert raster_shifts("EPSG:4326", (0, 360), "EPSG:4326", (-10, 10)) == (0, -360)
    assert raster_shifts("EPSG:32660", (2e5, 8e5), "EPSG:4326", (179, 181)) == (0,)
    assert overlaps((179, 0, 181, 1), (-181, 0, -179, 1), "EPSG:4326")
    assert overlaps((179, 0, -179, 1), (-180, 0, -179.5, 1), "EPSG:4326")
    assert not overlaps((179, 0, 181, 1), (-179, 0, -178, 1), "EPSG:4326")
    assert not overlaps((179, 0, 181, 1), (-181, 0, -179, 1), "EPSG:32660")


def test_polygons_are_turned_mended_and_bounded_the_short_way() -> None:
    boxes = np.array([shapely.box(179.9, 0, 180, 1), shapely.box(-180, 0, -179.8, 1), shapely.box(5, 0, 6, 1)])
    assert bounds_of(boxes[:2], "EPSG:4326") == pytest.approx((179.9, 0, 180.2, 1))
    assert bounds_of(boxes[2:], "EPSG:4326") == (5, 0, 6, 1)
    world = np.array([shapely.box(-180, -90, 180, 90)])
    assert bounds_of(world, "EPSG:4326") == (-180, -90, 180, 90)
    near = turned(boxes, "EPSG:4326", (179.9, 180.1))
    assert sorted(shapely.bounds(near)[:, 0].round(1).tolist()) == [179.9, 180.0]
    assert len(turned(world, "EPSG:4326", (170, 190))) == 2
    hole = shapely.box(179.95, 0.4, 180.05, 0.6).exterior.coords
    whole = shapely.segmentize(shapely.Polygon(shapely.box(179.9, 0, 180.1, 1).exterior.coords, [hole]), 0.02)
    torn = shapely.transform(whole, lambda xy: np.stack([(xy[:, 0] + 180) % 360 - 180, xy[:, 1]], axis=1))
    [mended] = unwrapped(np.array([torn]), "EPSG:4326")
    assert mended.is_valid and mended.area == pytest.approx(whole.area)
