"""floodmap.evaluation, and the modules it is made of, held against whole-array computations and scikit-learn."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod, Transformer
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.features import rasterize
from rasterio.transform import from_origin
from scipy import ndimage
from sklearn import metrics

import floodmap
from floodmap.comparison import Counts, boundary, compare
from floodmap.errors import EvaluationError, FloodmapError, MissingCRSError, OutputError, VectorError
from floodmap.evaluation import Evaluation, Scores, evaluate
from floodmap.ground import cell_areas_m2
from floodmap.masks import FloodRule, Frame
from floodmap.outlines import PolygonMask, _cut, polygon_frame
from floodmap.pairs import pair_files
from floodmap.rasters import RasterMask

UTM = "EPSG:32643"
GRID = from_origin(500_000, 3_000_000, 0.5, 0.5)


def write(path: Path, array: np.ndarray, *, crs: str | None = UTM, transform: Affine = GRID, **options: Any) -> Path:
    """Write (height, width) or (bands, height, width) as a GeoTIFF or PNG."""
    bands = array[None] if array.ndim == 2 else array
    driver = {".tif": "GTiff", ".png": "PNG"}[path.suffix]
    place = {} if crs is None and transform == GRID else {"crs": crs, "transform": transform}
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = {"count": bands.shape[0], "height": bands.shape[1], "width": bands.shape[2]}
    with rasterio.open(path, "w", driver=driver, dtype=bands.dtype, **shape, **place, **options) as file:
        file.write(bands)
    return path


def blobs(seed: int, shape_hw: tuple[int, int] = (60, 70), scale: float = 4.0) -> np.ndarray:
    """A smooth random mask of 0 and 1."""
    noise = np.random.default_rng(seed).normal(size=shape_hw)
    return (ndimage.gaussian_filter(noise, scale) > 0).astype(np.uint8)


def polygons(path: Path, geometries: list[Any], *, crs: str | None = UTM, layer: str | None = None, **columns: Any) -> Path:
    frame = geopandas.GeoDataFrame(columns, geometry=geometries, crs=crs)
    options = {"layer": layer} if layer else {}
    frame.to_file(path, **options, **({} if len(geometries) else {"geometry_type": "Polygon"}))
    return path


def traced(mask: np.ndarray, transform: Affine = GRID) -> list[Any]:
    """Polygons of the ones."""
    shapes = rasterio.features.shapes(mask, mask=mask == 1, transform=transform)
    return [shapely.geometry.shape(shape) for shape, _ in shapes]


def confusion(predicted: np.ndarray, referenced: np.ndarray) -> tuple[int, int, int, int]:
    """tp, fp, fn, tn by scikit-learn."""
    (tn, fp), (fn, tp) = metrics.confusion_matrix(referenced.ravel(), predicted.ravel(), labels=[0, 1])
    return int(tp), int(fp), int(fn), int(tn)


def counted(scores: Scores) -> tuple[int, int, int, int]:
    return scores.tp, scores.fp, scores.fn, scores.tn


def boundary_counts(p: np.ndarray, r: np.ndarray, steps: tuple[float, float], tolerance: float) -> tuple[int, ...]:
    """Whole arrays of 0, 1, 255, by erosion and distance transform."""
    seen = (p != 255) & (r != 255)
    edges = []
    for mask in (p, r):
        dry = seen & (mask == 0)
        edges.append(seen & (mask == 1) & ndimage.binary_dilation(dry, ndimage.generate_binary_structure(2, 1)))
    result = []
    for own, other in (edges, edges[::-1]):
        far = ndimage.distance_transform_edt(~other, sampling=steps) if other.any() else np.full(own.shape, np.inf)
        result += [int(own.sum()), int((own & (far <= tolerance + 1e-9)).sum())]
    return tuple(result)


def of_boundary(counts: Counts | Scores) -> tuple[int, ...]:
    names = "predicted_boundary", "predicted_boundary_matched", "reference_boundary", "reference_boundary_matched"
    return tuple(getattr(counts, name) for name in names)


def array_reader(array: np.ndarray) -> Callable[..., np.ndarray]:
    return lambda window: array[window.slices]


# --- scores ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_scores_equal_scikit_learn(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    p, r = (rng.random((40, 50)) < rng.random()).astype(np.uint8), (rng.random((40, 50)) < 0.3).astype(np.uint8)
    scores = evaluate(write(tmp_path / "p.tif", p), write(tmp_path / "r.tif", r)).scenes[0]
    for name, theirs in (
        ("iou", metrics.jaccard_score),
        ("dice", metrics.f1_score),
        ("precision", metrics.precision_score),
        ("recall", metrics.recall_score),
        ("accuracy", metrics.accuracy_score),
    ):
        assert getattr(scores, name) == pytest.approx(theirs(r.ravel(), p.ravel()), abs=1e-9)


@pytest.mark.parametrize(
    ("p", "r", "expected"),
    [
        (0, 0, {"iou": 1, "dice": 1, "precision": 1, "recall": 1, "accuracy": 1, "boundary_f1": 1}),
        (1, 1, {"iou": 1, "dice": 1, "precision": 1, "recall": 1, "accuracy": 1, "boundary_f1": 1}),
        (1, 0, {"iou": 0, "dice": 0, "precision": 0, "recall": 0, "accuracy": 0, "boundary_f1": 0}),
        (0, 1, {"iou": 0, "dice": 0, "precision": 0, "recall": 0, "accuracy": 0, "boundary_f1": 0}),
    ],
)
def test_uniform_masks_have_defined_scores(tmp_path: Path, p: int, r: int, expected: dict[str, float]) -> None:
    files = [write(tmp_path / f"{name}.tif", np.full((5, 6), value, np.uint8)) for name, value in (("p", p), ("r", r))]
    scores = evaluate(*files).scenes[0]
    assert {name: getattr(scores, name) for name in expected} == expected


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 5, 16, 64]), st.floats(0, 6), st.floats(0.1, 3), st.floats(0.1, 3))
@settings(deadline=None, max_examples=40)
def test_counts_by_blocks_equal_those_of_whole_arrays(seed: int, block: int, tolerance: float, down: float, across: float) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 40, 2))
    p, r = rng.choice(np.array([0, 1, 255], np.uint8), shape, p=[0.6, 0.3, 0.1]), blobs(seed, shape, 1.5)
    # LAEA keeps distances at its centre, so that pixels of such steps are such steps on the ground.
    crs = CRS.from_proj4("+proj=laea +lat_0=10 +lon_0=20 +datum=WGS84")
    transform = Affine(across, 0, -across * shape[1] / 2, 0, -down, down * shape[0] / 2)
    frame = Frame(crs=crs, transform=transform, height=shape[0], width=shape[1])
    counts = compare(array_reader(p), array_reader(r), frame, tolerance=tolerance, block=block)
    seen = p != 255
    assert (counts.tp, counts.fp, counts.fn, counts.tn) == confusion(p[seen], r[seen])
    assert counts.unobserved == int((~seen).sum())
    assert of_boundary(counts) == boundary_counts(p, r, (down, across), tolerance)
    assert counts.predicted_m2 == pytest.approx(np.count_nonzero(p == 1) * down * across, rel=1e-6)


def test_a_boundary_at_exactly_the_tolerance_matches() -> None:
    p, r = np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8)
    p[:, :8], r[:, :11] = 1, 1
    frame = Frame(crs=None, transform=Affine.identity(), height=20, width=20)
    for tolerance, matched in ((3, 20), (2.9, 0), (0, 0)):
        counts = compare(array_reader(p), array_reader(r), frame, tolerance=tolerance)
        assert of_boundary(counts) == (20, matched, 20, matched)


def test_flood_has_no_boundary_with_unobserved_ground_nor_with_the_edge() -> None:
    flood, seen = np.zeros((5, 6), bool), np.ones((5, 6), bool)
    flood[:, :3] = True
    seen[:, 3:] = False
    assert not boundary(flood, seen).any()
    seen[2, 3] = True
    assert np.argwhere(boundary(flood, seen)).tolist() == [[2, 2]]


def test_a_tolerance_of_too_many_pixels_is_refused(tmp_path: Path) -> None:
    p = write(tmp_path / "p.tif", blobs(0))
    with pytest.raises(EvaluationError, match="tolerance of 5000 is 10000 pixels"):
        evaluate(p, p, tolerance_m=5000)
    with pytest.raises(EvaluationError, match="tolerance"):
        evaluate(p, p, tolerance_m=-1)


def test_default_tolerance_is_three_pixels(tmp_path: Path) -> None:
    p = write(tmp_path / "p.tif", blobs(0))
    assert evaluate(p, p).scenes[0].tolerance == pytest.approx(1.5, rel=1e-3)
    q = write(tmp_path / "p.png", blobs(0), crs=None)
    scores = evaluate(q, q).scenes[0]
    assert (scores.tolerance, scores.tolerance_unit, scores.area_error_ha) == (3, "px", None)


# --- areas ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("crs", "x", "y", "step"),
    [
        ("EPSG:32643", 166_100, 1_000_000, 10.0),  # the zone's western edge
        ("EPSG:32643", 833_900, 7_000_000, 10.0),
        ("EPSG:4326", 75.3, 62.1, 1e-4),
        ("EPSG:4326", -179.9999, -12.0, 1e-4),
        ("EPSG:3857", 8_000_000, 9_000_000, 10.0),
        ("EPSG:2263", 1_000_000, 200_000, 30.0),  # feet
        ("EPSG:3031", 1_000_000, 1_500_000, 100.0),
    ],
)
@pytest.mark.parametrize("angle", [0.0, 33.0])
def test_pixel_areas_equal_geodesic_polygons(crs: str, x: float, y: float, step: float, angle: float) -> None:
    transform = Affine.translation(x, y) @ Affine.rotation(angle) @ Affine.scale(step, -step)
    edges = np.array([0.0, 40.0, 64.0])
    areas = cell_areas_m2(CRS.from_user_input(crs), transform, edges, edges)
    to_lonlat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    for row in range(2):
        for col in range(2):
            box = shapely.segmentize(shapely.box(edges[col], edges[row], edges[col + 1], edges[row + 1]), 1.0)
            ring = [transform @ (a, b) for a, b in box.exterior.coords]
            area, _ = Geod(ellps="WGS84").polygon_area_perimeter(*to_lonlat.transform(*np.transpose(ring)))
            assert areas[row, col] == pytest.approx(abs(area), rel=2e-5)


@pytest.mark.parametrize(("crs", "x", "y", "step"), [(UTM, 170_000, 3e6, 1.0), ("EPSG:4326", 75, 60, 1e-5), ("EPSG:3857", 8e6, 8e6, 2.0)])
def test_area_error_is_the_geodesic_area_of_what_is_wrong(tmp_path: Path, crs: str, x: float, y: float, step: float) -> None:
    transform = from_origin(x, y, step, step)
    r = np.zeros((150, 140), np.uint8)
    r[20:90, 30:100] = 1
    p = r.copy()
    p[90:120, 30:100] = 1
    scores = evaluate(
        write(tmp_path / "p.tif", p, crs=crs, transform=transform), write(tmp_path / "r.tif", r, crs=crs, transform=transform)
    ).scenes[0]
    to_lonlat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)

    def hectares(*rows: int) -> float:
        box = shapely.segmentize(shapely.box(30, rows[0], 100, rows[1]), 1.0)
        ring = np.transpose([transform @ point for point in box.exterior.coords])
        return abs(Geod(ellps="WGS84").polygon_area_perimeter(*to_lonlat.transform(*ring))[0]) / 1e4

    assert scores.predicted_ha == pytest.approx(hectares(20, 120), rel=1e-4)
    assert scores.reference_ha == pytest.approx(hectares(20, 90), rel=1e-4)
    assert scores.area_error_ha == pytest.approx(hectares(90, 120), rel=1e-3)
