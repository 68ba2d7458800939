"""Prompts, the unsupervised likelihood, and prompts read from vector files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
from affine import Affine
from hypothesis import example, given, settings
from hypothesis import strategies as st
from shapely import LineString, MultiPoint, MultiPolygon, Point, Polygon, box
from skimage.color import rgb2lab
from skimage.transform import resize

from floodmap.errors import PromptError, VectorError
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.window import Window
from floodmap.inference.likelihood import _enlarge, _shrink, _to_lab, likelihood
from floodmap.inference.prompt_files import read_prompts
from floodmap.models.prompts import Prompts, pick_prompts

NORTH_UP = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
ROTATED = Affine.translation(500_000, 5_000_000) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5)
SOUTH_UP = Affine(0.5, 0, 500_000, 0, 0.5, 5_000_000)


def flooded_field(shape_hw: tuple[int, int] = (120, 160)) -> tuple[np.ndarray, np.ndarray]:
    """Smooth brown water left of a diagonal, rough green vegetation right of it: rgb and where the water is."""
    rng = np.random.default_rng(1)
    rows, cols = np.indices(shape_hw)
    water = cols + rows * 0.3 < shape_hw[1] * 0.6
    texture = rng.normal(0, 1, shape_hw) * np.where(water, 1.5, 22)
    colour = np.where(water, np.array([150, 125, 95])[:, None, None], np.array([70, 100, 50])[:, None, None])
    return np.clip(colour + texture, 0, 255).astype(np.uint8), water


def points(likelihood: np.ndarray, valid: np.ndarray, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    prompts = pick_prompts(likelihood.astype(np.float32), valid, **options)
    return prompts.points_xy, prompts.labels


def test_likelihood_tells_muddy_water_from_vegetation() -> None:
    rgb, water = flooded_field()
    found = likelihood(rgb, np.ones(water.shape, bool)) >= 0.5
    assert (found & water).sum() / (found | water).sum() > 0.9


@settings(deadline=None, max_examples=25)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    seed=st.integers(0, 99),
    share=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    with_nir=st.booleans(),
    gsd_m=st.sampled_from([None, 0.1]),
)
def test_likelihood_is_a_probability_of_the_image_s_shape_and_0_where_unobserved(
    height: int, width: int, seed: int, share: float, with_nir: bool, gsd_m: float | None
) -> None:
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (3, height, width), dtype=np.uint8)
    valid = rng.random((height, width)) < share
    nir = rng.integers(0, 256, (height, width), dtype=np.uint8) if with_nir else None
    result = likelihood(rgb, valid, nir=nir, gsd_m=gsd_m)
    assert result.shape == (height, width) and result.dtype == np.float32
    assert np.isfinite(result).all() and result.min() >= 0 and result.max() <= 1
    assert not result[~valid].any()
    assert np.array_equal(result, likelihood(rgb, valid, nir=nir, gsd_m=gsd_m))


@pytest.mark.parametrize("value", [0, 17, 128, 255])
@pytest.mark.parametrize("shape_hw", [(1, 1), (1, 300), (33, 50), (700, 3)])
def test_likelihood_of_a_constant_image_is_constant_over_the_ground(value: int, shape_hw: tuple[int, int]) -> None:
    result = likelihood(np.full((3, *shape_hw), value, np.uint8), np.ones(shape_hw, bool), gsd_m=1.0)
    assert np.isfinite(result).all() and np.ptp(result) < 1e-4


def test_likelihood_does_not_depend_on_what_lies_under_invalid_pixels() -> None:
    rgb, water = flooded_field()
    valid = np.ones(water.shape, bool)
    valid[:, :30] = valid[50:60] = False
    other = rgb.copy()
    other[:, ~valid] = 255
    assert np.array_equal(likelihood(rgb, valid), likelihood(other, valid))


def test_likelihood_leaves_its_inputs_alone() -> None:
    rgb, water = flooded_field()
    valid = np.ones(water.shape, bool)
    before = rgb.copy()
    likelihood(rgb, valid)
    assert np.array_equal(rgb, before) and valid.all()


def test_ndwi_tells_water_from_ground_of_the_same_colour() -> None:
    rng = np.random.default_rng(2)
    rgb = rng.normal(110, 6, (3, 80, 100)).clip(0, 255).astype(np.uint8)
    water = np.zeros((80, 100), bool)
    water[20:60, 30:80] = True
    nir = np.where(water, 40, 190).astype(np.uint8)
    valid = np.ones(water.shape, bool)
    with_nir = likelihood(rgb, valid, nir=nir, gsd_m=0.5) >= 0.5
    without = likelihood(rgb, valid, gsd_m=0.5) >= 0.5
    assert (with_nir & water).sum() / (with_nir | water).sum() > 0.9
    assert (without & water).sum() / (without | water).sum() < 0.7


def test_sky_is_dry_in_a_photograph_and_not_looked_for_in_a_map() -> None:
    rgb, water = flooded_field()
    rgb[:, :35] = np.array([205, 215, 230], np.uint8)[:, None, None]
    valid = np.ones(water.shape, bool)
    assert likelihood(rgb, valid)[:30].max() < 0.05
    assert likelihood(rgb, valid, gsd_m=0.2)[:30].max() > 0.05


def test_grey_water_at_the_top_edge_that_comes_back_below_is_not_sky() -> None:
    rng = np.random.default_rng(3)
    rgb = rng.normal(60, 20, (3, 120, 160))
    for rows in (slice(0, 30), slice(70, 110)):
        rgb[:, rows] = np.array([172, 172, 174])[:, None, None] + rng.normal(0, 1, (3, 1, 1))
    result = likelihood(rgb.clip(0, 255).astype(np.uint8), np.ones((120, 160), bool))
    assert result[5:25].mean() > 0.5


@pytest.mark.parametrize(
    ("rgb", "valid", "nir"),
    [((4, 5, 6), (5, 6), None), ((3, 5, 6), (6, 5), None), ((3, 5, 6), (5, 6), (5, 5)), ((3, 0, 6), (0, 6), None)],
)
def test_likelihood_refuses_arrays_that_do_not_fit(rgb: Any, valid: Any, nir: Any) -> None:
    with pytest.raises(PromptError):
        likelihood(np.zeros(rgb, np.uint8), np.ones(valid, bool), nir=None if nir is None else np.zeros(nir, np.uint8))


def test_lab_is_that_of_scikit_image() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (3, 20, 20)).astype(float)
    expected = rgb2lab(rgb.transpose(1, 2, 0) / 255).transpose(2, 0, 1)
    assert np.abs(_to_lab(rgb) - expected).max() < 0.02


def test_enlarging_is_bilinear_about_pixel_centres() -> None:
    image = np.random.default_rng(0).random((7, 9))
    expected = resize(image, (21, 45), order=1, mode="edge", anti_aliasing=False)
    assert np.allclose(_enlarge(image, (21, 45)), expected)


def test_shrinking_averages_valid_pixels_alone() -> None:
    rng = np.random.default_rng(0)
    bands, valid = rng.integers(0, 256, (3, 512, 300), dtype=np.uint8), rng.random((512, 300)) < 0.7
    valid[:, :40] = False
    mean, observed = _shrink(bands, valid)
    assert mean.shape == (3, 256, 150) and not observed[:, :20].any()
    cell = valid[100:102, 200:202]
    assert np.allclose(mean[:, 50, 100], bands[:, 100:102, 200:202][:, cell].mean(axis=1))


def test_points_lie_on_confident_ground_of_their_label() -> None:
    rgb, water = flooded_field()
    xy, labels = points(likelihood(rgb, np.ones(water.shape, bool)), np.ones(water.shape, bool))
    cols, rows = xy.astype(int).T
    assert {0, 1} == set(labels.tolist())
    assert np.array_equal(water[rows, cols], labels == 1)


@settings(deadline=None, max_examples=40)
@example(seed=258, coarse=(40, 40), tile=(9, 9))
@given(
    seed=st.integers(0, 999),
    coarse=st.sampled_from([(12, 17), (40, 40), (75, 31)]),
    tile=st.sampled_from([(60, 85), (40, 40), (9, 9)]),
)
def test_points_never_lie_on_invalid_pixels(seed: int, coarse: tuple[int, int], tile: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    smooth = np.kron(rng.random((3, 3)), np.ones((25, 25)))[: coarse[0], : coarse[1]]
    valid = np.ones(tile, bool)
    valid[rng.integers(0, tile[0]), rng.integers(0, tile[1])] = False
    valid[:, : rng.integers(0, tile[1])] = False
    prompts = pick_prompts(smooth.astype(np.float32), valid)
    cols, rows = prompts.points_xy.astype(int).T
    assert valid[rows, cols].all()
    boxes = prompts.boxes_xyxy
    assert (boxes >= 0).all() and (boxes[:, 2] <= tile[1]).all() and (boxes[:, 3] <= tile[0]).all()


def test_points_are_the_deepest_places_in_tile_pixels_whatever_the_likelihood_s_resolution() -> None:
    coarse = np.full((20, 40), 0.0)
    coarse[5:14, 10:19] = 1.0
    prompts = pick_prompts(coarse.astype(np.float32), np.ones((200, 400), bool), max_points=1)
    assert prompts.points_xy[0].tolist() == [145.0, 95.0]
    assert prompts.boxes_xyxy.tolist() == [[100.0, 50.0, 190.0, 140.0]]
    assert np.array_equal(prompts.mask, coarse)


@pytest.mark.parametrize("level", [0.0, 0.5, 0.79])
def test_nothing_is_picked_where_nothing_is_confidently_flood(level: float) -> None:
    prompts = pick_prompts(np.full((30, 30), level, np.float32), np.ones((30, 30), bool))
    assert not len(prompts.points_xy) and not len(prompts.boxes_xyxy) and prompts.mask is None


def test_nothing_is_picked_where_nothing_is_valid() -> None:
    prompts = pick_prompts(np.ones((30, 30), np.float32), np.zeros((30, 30), bool))
    assert not len(prompts.points_xy) and prompts.mask is None


def test_no_more_points_and_boxes_are_picked_than_asked_for() -> None:
    coarse = np.kron(np.indices((6, 6)).sum(0) % 2, np.ones((12, 12)))
    prompts = pick_prompts(coarse.astype(np.float32), np.ones(coarse.shape, bool), max_points=4, max_boxes=2)
    assert (prompts.labels == 1).sum() == 4 and (prompts.labels == 0).sum() == 4 and len(prompts.boxes_xyxy) == 2
    assert len(np.unique(prompts.points_xy, axis=0)) == 8


@pytest.mark.parametrize(
    "wrong",
    [
        {"points_xy": np.zeros((2, 3))},
        {"points_xy": np.zeros((2, 2)), "labels": np.zeros(1)},
        {"points_xy": np.zeros((1, 2)), "labels": np.array([2])},
        {"points_xy": np.full((1, 2), np.nan), "labels": np.array([1])},
        {"boxes_xyxy": np.array([[5.0, 5.0, 5.0, 9.0]])},
        {"boxes_xyxy": np.array([[5.0, 9.0, 6.0, 8.0]])},
        {"boxes_xyxy": np.array([[0.0, 0.0, np.inf, 1.0]])},
        {"mask": np.zeros((2, 2, 2))},
        {"mask": np.full((2, 2), 1.5)},
        {"mask": np.full((2, 2), np.nan)},
    ],
)
def test_malformed_prompts_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(PromptError):
        Prompts(**wrong)


def test_within_shifts_points_clips_boxes_and_drops_what_is_outside() -> None:
    scene = Prompts(
        points_xy=np.array([[10, 10], [29.5, 20], [30, 20], [9.9, 15]], np.float32),
        labels=np.array([1, 0, 1, 1]),
        boxes_xyxy=np.array([[0, 0, 15, 15], [0, 0, 10, 40], [12, 12, 14, 14], [25, 5, 90, 90]], np.float32),
    )
    part = scene.within(Window(row_off=10, col_off=10, height=15, width=20))
    assert part.points_xy.tolist() == [[0, 0], [19.5, 10]] and part.labels.tolist() == [1, 0]
    assert part.boxes_xyxy.tolist() == [[0, 0, 5, 5], [2, 2, 4, 4], [15, 0, 20, 15]]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), cut=st.integers(1, 49))
def test_every_point_of_a_scene_is_in_one_of_two_windows_that_divide_it(seed: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    scene = Prompts(points_xy=rng.uniform(0, 50, (20, 2)).astype(np.float32), labels=rng.integers(0, 2, 20))
    halves = [scene.within(w) for w in (Window(0, 0, 50, cut), Window(0, cut, 50, 50 - cut))]
    assert sum(len(half.labels) for half in halves) == 20
    assert sum(half.labels.sum() for half in halves) == scene.labels.sum()


def test_a_mask_cannot_be_cut_to_a_window() -> None:
    with pytest.raises(PromptError, match="mask"):
        Prompts.from_mask(np.zeros((4, 4))).within(Window(0, 0, 2, 2))


def write(path: Path, geometries: list[Any], crs: str | None, layer: str | None = None, **columns: Any) -> Path:
    gpd.GeoDataFrame(columns, geometry=geometries, crs="EPSG:32633").to_crs(crs or "EPSG:32633").to_file(
        path, layer=layer
    )
    return path


def on_ground(transform: Affine, *xy: tuple[float, float]) -> list[Point]:
    return [Point(*(transform * p)) for p in xy]


@pytest.mark.parametrize("transform", [NORTH_UP, ROTATED, SOUTH_UP])
@pytest.mark.parametrize(
    ("suffix", "crs"), [("gpkg", "EPSG:32633"), ("gpkg", "EPSG:3857"), ("geojson", "EPSG:4326"), ("gpkg", "EPSG:32634")]
)
def test_points_and_boxes_come_back_in_scene_pixels_from_any_crs(
    tmp_path: Path, transform: Affine, suffix: str, crs: str
) -> None:
    corners = [transform * p for p in ((10, 20), (40, 20), (40, 60), (10, 60))]
    path = write(
        tmp_path / f"prompts.{suffix}",
        [*on_ground(transform, (5.5, 7.5), (90, 70)), Polygon(corners)],
        crs,
        label=["flood", "dry", None],
    )
    prompts = read_prompts(path, GeoGrid("EPSG:32633", transform, (80, 100)))
    assert np.allclose(prompts.points_xy, [[5.5, 7.5], [90, 70]], atol=0.02)
    assert prompts.labels.tolist() == [1, 0]
    assert np.allclose(prompts.boxes_xyxy, [[10, 20, 40, 60]], atol=0.02)


@pytest.mark.parametrize(
    "labels", [[1, 0], ["1", "0"], [1.0, 0.0], ["Flood", " DRY "], [True, False], ["true", "false"]]
)
@pytest.mark.parametrize("suffix", ["gpkg", "geojson"])
def test_labels_are_understood_as_numbers_words_and_booleans(tmp_path: Path, labels: list[Any], suffix: str) -> None:
    path = write(tmp_path / f"p.{suffix}", on_ground(NORTH_UP, (1, 1), (2, 2)), "EPSG:4326", Label=labels)
    prompts = read_prompts(path, GeoGrid("EPSG:32633", NORTH_UP, (9, 9)))
    assert prompts.labels.tolist() == [1, 0]


def test_numeric_labels_beside_boxes_without_one_are_understood(tmp_path: Path) -> None:
    path = write(
        tmp_path / "p.gpkg",
        [*on_ground(NORTH_UP, (1, 1)), box(500_001, 4_999_996, 500_003, 4_999_999)],
        None,
        label=[1, None],
    )
    prompts = read_prompts(path, GeoGrid("EPSG:32633", NORTH_UP, (9, 9)))
    assert prompts.labels.tolist() == [1] and prompts.boxes_xyxy.tolist() == [[2, 2, 6, 8]]


def test_points_and_boxes_may_lie_in_two_layers_and_an_empty_one_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "p.gpkg"
    write(path, [], None, layer="sketch", label=[])
    write(path, on_ground(NORTH_UP, (1, 1)), None, layer="points", label=[0])
    write(path, [box(500_001, 4_999_996, 500_003, 4_999_999)], None, layer="boxes")
    prompts = read_prompts(path, GeoGrid("EPSG:32633", NORTH_UP, (9, 9)))
    assert prompts.labels.tolist() == [0] and prompts.boxes_xyxy.tolist() == [[2, 2, 6, 8]]


def test_multipart_geometries_are_prompts_of_their_own(tmp_path: Path) -> None:
    points = MultiPoint(on_ground(NORTH_UP, (1, 1), (2, 2)))
    boxes = MultiPolygon([box(500_000, 4_999_999, 500_001, 5_000_000), box(500_002, 4_999_997, 500_003, 4_999_998)])
    path = write(tmp_path / "p.gpkg", [points, boxes], None, label=["dry", None])
    prompts = read_prompts(path, GeoGrid("EPSG:32633", NORTH_UP, (9, 9)))
    assert prompts.labels.tolist() == [0, 0]
    assert prompts.boxes_xyxy.tolist() == [[0, 0, 2, 2], [4, 4, 6, 6]]


def test_prompts_outside_the_scene_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "p.gpkg", on_ground(NORTH_UP, (1, 1), (-1, 1), (1, 9)), None, label=[1, 0, 0])
    assert read_prompts(path, GeoGrid("EPSG:32633", NORTH_UP, (9, 9))).labels.tolist() == [1]


def test_prompts_that_all_lie_outside_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "p.gpkg", on_ground(NORTH_UP, (100, 1)), None, label=[1])
    with pytest.raises(PromptError, match=r"p\.gpkg: none of its 1 prompts"):
        read_prompts(path, GeoGrid("EPSG:32633", NORTH_UP, (9, 9)))


@pytest.mark.parametrize(
    ("geometry", "columns", "message"),
    [
        (Point(500_001, 4_999_999), {"name": ["a"]}, "no field named label"),
        (Point(500_001, 4_999_999), {"label": ["maybe"]}, "label maybe"),
        (Point(500_001, 4_999_999), {"label": [2]}, "label 2"),
        (LineString([(500_001, 4_999_999), (500_002, 4_999_998)]), {"label": [1]}, "LineString"),
    ],
)
def test_files_that_cannot_prompt_are_refused_in_one_line(
    tmp_path: Path, geometry: Any, columns: Any, message: str
) -> None:
    path = write(tmp_path / "p.gpkg", [geometry], None, **columns)
    with pytest.raises(PromptError, match=message) as caught:
        read_prompts(path, GeoGrid("EPSG:32633", NORTH_UP, (9, 9)))
    assert "p.gpkg" in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_or_empty_file_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.geojson"
    empty.write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    for path in (tmp_path / "none.gpkg", empty):
        with pytest.raises(VectorError, match=path.name):
            read_prompts(path, GeoGrid("EPSG:32633", NORTH_UP, (9, 9)))


def test_without_a_crs_coordinates_are_those_of_the_transform(tmp_path: Path) -> None:
    path = tmp_path / "p.geojson"
    feature = {"type": "Feature", "properties": {"label": 1}, "geometry": {"type": "Point", "coordinates": [3.5, 4.5]}}
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    prompts = read_prompts(path, GeoGrid(None, Affine.identity(), (9, 9)))
    assert prompts.points_xy.tolist() == [[3.5, 4.5]]


def test_flood_is_bounded_by_boxes_and_points_in_every_window_of_a_scene() -> None:
    given = Prompts(
        points_xy=np.array([[900.0, 100.0], [50.0, 50.0]]), labels=np.array([1, 0]),
        boxes_xyxy=np.array([[10, 20, 30, 60]]),
    )  # fmt: skip
    here = given.within(Window(0, 0, 100, 100)).bounds((100, 100))
    assert here[20:60, 10:30].all() and here.sum() == 40 * 20
    assert not given.within(Window(300, 0, 100, 100)).bounds((100, 100)).any()
    assert given.within(Window(0, 850, 200, 100)).bounds((200, 100)).all()
    assert Prompts.none().bounds((5, 7)).all()
