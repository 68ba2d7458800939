"""floodmap.evaluation, compared with computations on whole arrays and with scikit-learn."""

from __future__ import annotations

import csv
import json
import warnings
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
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.features import rasterize
from rasterio.transform import from_origin
from scipy import ndimage
from sklearn import metrics

import floodmap
import floodmap.output.polygons
from floodmap.errors import EvaluationError, FloodmapError, MissingCRSError, OutputError, VectorError
from floodmap.evaluation.counting import Counts, boundary, compare
from floodmap.evaluation.run import evaluate
from floodmap.evaluation.scores import Scores
from floodmap.evaluation.summary import Evaluation
from floodmap.geo.areas import cell_areas_m2
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.window import Window
from floodmap.masks.pairing import pair_files
from floodmap.masks.raster import RasterMask
from floodmap.masks.rules import FloodRule
from floodmap.masks.vector import PolygonMask, _cut, polygon_grid

UTM = "EPSG:32643"
GRID = from_origin(500_000, 3_000_000, 0.5, 0.5)


def write(path: Path, array: np.ndarray, *, crs: str | None = UTM, transform: Affine = GRID, **options: Any) -> Path:
    """Write (height, width) or (bands, height, width) as a GeoTIFF or PNG."""
    bands = array[None] if array.ndim == 2 else array
    driver = {".tif": "GTiff", ".png": "PNG"}[path.suffix]
    place = {} if crs is None and transform == GRID else {"crs": crs, "transform": transform}
    place = {"crs": UTM} if "gcps" in options else place
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = {"count": bands.shape[0], "height": bands.shape[1], "width": bands.shape[2]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver=driver, dtype=bands.dtype, **shape, **place, **options) as file:
            file.write(bands)
    return path


def blobs(seed: int, shape_hw: tuple[int, int] = (60, 70), scale: float = 4.0) -> np.ndarray:
    """A smooth random mask of 0 and 1."""
    noise = np.random.default_rng(seed).normal(size=shape_hw)
    return (ndimage.gaussian_filter(noise, scale) > 0).astype(np.uint8)


def polygons(
    path: Path, geometries: list[Any], *, crs: str | None = UTM, layer: str | None = None, **columns: Any
) -> Path:
    frame = geopandas.GeoDataFrame(columns, geometry=geometries, crs=crs)
    options = {"layer": layer} if layer else {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'crs' was not provided")
        frame.to_file(path, **options, **({} if len(geometries) else {"geometry_type": "Polygon"}))
    return path


def traced(mask: np.ndarray, transform: Affine = GRID) -> list[Any]:
    """Polygons of the pixels of value 1."""
    shapes = rasterio.features.shapes(mask, mask=mask == 1, transform=transform)
    return [shapely.geometry.shape(shape) for shape, _ in shapes]


def confusion(predicted: np.ndarray, referenced: np.ndarray) -> tuple[int, int, int, int]:
    """tp, fp, fn, tn by scikit-learn."""
    (tn, fp), (fn, tp) = metrics.confusion_matrix(referenced.ravel(), predicted.ravel(), labels=[0, 1])
    return int(tp), int(fp), int(fn), int(tn)


def counted(scores: Scores) -> tuple[int, int, int, int]:
    return scores.tp, scores.fp, scores.fn, scores.tn


def boundary_counts(p: np.ndarray, r: np.ndarray, steps: tuple[float, float], tolerance: float) -> tuple[int, ...]:
    """Boundary counts of whole arrays of 0, 1, 255, by erosion and distance transform."""
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


@pytest.mark.slow
@given(
    st.integers(0, 2**32 - 1), st.sampled_from([3, 7, 16, 64]), st.floats(0, 6), st.floats(0.1, 3), st.floats(0.1, 3)
)
@settings(deadline=None, max_examples=40)
def test_counts_by_blocks_equal_those_of_whole_arrays(
    seed: int, block: int, tolerance: float, down: float, across: float
) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 40, 2))
    p, r = rng.choice(np.array([0, 1, 255], np.uint8), shape, p=[0.6, 0.3, 0.1]), blobs(seed, shape, 1.5)
    # LAEA keeps distances at its centre, so that pixels of such steps are such steps on the ground.
    crs = CRS.from_proj4("+proj=laea +lat_0=10 +lon_0=20 +datum=WGS84")
    transform = Affine(across, 0, -across * shape[1] / 2, 0, -down, down * shape[0] / 2)
    frame = GeoGrid(crs, transform, shape)
    counts = compare(array_reader(p), array_reader(r), frame, tolerance=tolerance, block=block)
    seen = p != 255
    assert (counts.tp, counts.fp, counts.fn, counts.tn) == confusion(p[seen], r[seen])
    assert counts.unobserved == int((~seen).sum())
    assert of_boundary(counts) == boundary_counts(p, r, (down, across), tolerance)
    # The way back from LAEA is right to some 1e-12 radians, a few millionths of pixels as small as these.
    assert counts.predicted_m2 == pytest.approx(np.count_nonzero(p == 1) * down * across, rel=1e-4)


def test_a_boundary_at_exactly_the_tolerance_matches() -> None:
    p, r = np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8)
    p[:, :8], r[:, :11] = 1, 1
    frame = GeoGrid(None, Affine.identity(), (20, 20))
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
    with pytest.raises(EvaluationError, match="tolerance of 5000 is 9996 pixels"):
        evaluate(p, p, tolerance_m=5000)
    with pytest.raises(EvaluationError, match="tolerance"):
        evaluate(p, p, tolerance_m=-1)
    for nonsense in (float("nan"), float("inf")):
        with pytest.raises(EvaluationError, match="tolerance"):
            evaluate(p, p, tolerance_m=nonsense)


def test_default_tolerance_is_three_pixels(tmp_path: Path) -> None:
    p = write(tmp_path / "p.tif", blobs(0))
    assert evaluate(p, p).scenes[0].tolerance == pytest.approx(1.5, rel=1e-3)
    q = write(tmp_path / "p.png", blobs(0), crs=None)
    scores = evaluate(q, q).scenes[0]
    assert (scores.tolerance, scores.tolerance_unit, scores.area_error_ha) == (3, "px", None)


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


@pytest.mark.parametrize(
    ("crs", "x", "y", "step"), [(UTM, 170_000, 3e6, 1.0), ("EPSG:4326", 75, 60, 1e-5), ("EPSG:3857", 8e6, 8e6, 2.0)]
)
def test_area_error_is_the_geodesic_area_of_what_is_wrong(
    tmp_path: Path, crs: str, x: float, y: float, step: float
) -> None:
    transform = from_origin(x, y, step, step)
    r = np.zeros((150, 140), np.uint8)
    r[20:90, 30:100] = 1
    p = r.copy()
    p[90:120, 30:100] = 1
    scores = evaluate(
        write(tmp_path / "p.tif", p, crs=crs, transform=transform),
        write(tmp_path / "r.tif", r, crs=crs, transform=transform),
    ).scenes[0]
    to_lonlat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)

    def hectares(*rows: int) -> float:
        box = shapely.segmentize(shapely.box(30, rows[0], 100, rows[1]), 1.0)
        ring = np.transpose([transform @ point for point in box.exterior.coords])
        return abs(Geod(ellps="WGS84").polygon_area_perimeter(*to_lonlat.transform(*ring))[0]) / 1e4

    assert scores.predicted_ha == pytest.approx(hectares(20, 120), rel=1e-4)
    assert scores.reference_ha == pytest.approx(hectares(20, 90), rel=1e-4)
    assert scores.area_error_ha == pytest.approx(hectares(90, 120), rel=1e-3)


@pytest.mark.slow
def test_unobserved_pixels_are_left_out_however_they_are_marked(tmp_path: Path) -> None:
    r, p = blobs(1), blobs(2)
    hole = np.zeros(r.shape, bool)
    hole[10:30, 20:50] = True
    opaque = np.where(hole, 0, 255).astype(np.uint8)
    alpha = {"photometric": "MINISBLACK", "alpha": "YES"}
    masks = {
        "nodata": write(tmp_path / "nodata.tif", np.where(hole, 255, r).astype(np.uint8), nodata=255),
        "undeclared": write(tmp_path / "undeclared.tif", np.where(hole, 255, r).astype(np.uint8)),
        "other": write(tmp_path / "other.tif", np.where(hole, 7, r).astype(np.int16), nodata=7),
        "nan": write(tmp_path / "nan.tif", np.where(hole, np.nan, r).astype(np.float32)),
        "declared_nan": write(tmp_path / "dnan.tif", np.where(hole, np.nan, r).astype(np.float32), nodata=np.nan),
        "alpha": write(tmp_path / "alpha.tif", np.stack([r, opaque]), **alpha),
        "float_alpha": write(tmp_path / "falpha.tif", np.stack([r, opaque / 255]).astype(np.float32), **alpha),
    }
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        masks["internal"] = write(tmp_path / "internal.tif", r)
        with rasterio.open(masks["internal"], "r+") as file:
            file.write_mask(~hole)
    prediction = write(tmp_path / "p.tif", p)
    # The same ground on a grid that begins elsewhere, so that the reference is warped.
    wide = np.full((70, 80), 255, np.uint8)
    wide[5:65, 5:75] = p
    shifted = write(tmp_path / "wide.tif", wide, transform=GRID @ Affine.translation(-5, -5), nodata=255)
    for name, mask in masks.items():
        for side in (prediction, shifted):
            scores = evaluate(side, mask).scenes[0]
            assert counted(scores) == confusion(p[~hole], r[~hole]), name
            assert scores.observed == int((~hole).sum())
            assert evaluate(mask, side).scenes[0].iou == scores.iou
        assert evaluate(prediction, mask).scenes[0].observed_share == pytest.approx((~hole).mean())


@pytest.mark.parametrize(
    "transform",
    [
        GRID,
        Affine(0.5, 0, 500_000, 0, 0.5, 2_999_960),  # south-up
        Affine.translation(500_010, 3_000_000) @ Affine.rotation(-25) @ Affine.scale(0.5, -0.5),
        from_origin(500_003.2, 2_999_990.7, 0.3, 0.4),
    ],
    ids=["same", "south-up", "rotated", "finer"],
)
def test_any_grid_is_compared_by_nearest_neighbour(tmp_path: Path, transform: Affine) -> None:
    p, r = blobs(3, (70, 80)), blobs(4, (80, 90))
    prediction = write(tmp_path / "p.tif", p)
    reference = write(tmp_path / "r.tif", r, transform=transform)
    rows, cols = np.mgrid[:70, :80] + 0.5
    at = ~transform @ GRID
    # Away from pixel edges, where nearest neighbour is a matter of rounding.
    x, y = at.a * cols + at.b * rows + at.c, at.d * cols + at.e * rows + at.f
    inside = (x >= 0) & (x < 90) & (y >= 0) & (y < 80)
    expected = confusion(p[inside], r[y[inside].astype(int), x[inside].astype(int)])
    scores = evaluate(prediction, reference).scenes[0]
    assert np.abs(np.subtract(counted(scores), expected)).max() <= 2
    assert scores.observed + scores.unobserved == p.size


def test_other_crs_are_warped(tmp_path: Path) -> None:
    p = write(tmp_path / "p.tif", blobs(5, (100, 100), 8), transform=from_origin(500_000, 3_000_000, 10, 10))
    geographic = tmp_path / "r.tif"
    with rasterio.open(p) as source:
        data, transform = rasterio.warp.reproject(
            source.read(1), src_transform=source.transform, src_crs=source.crs, dst_crs="EPSG:4326", resolution=2e-5,
            src_nodata=255, dst_nodata=255,
        )  # fmt: skip
    write(geographic, data[0] if data.ndim == 3 else data, crs="EPSG:4326", transform=transform, nodata=255)
    scores = evaluate(p, geographic).scenes[0]
    assert scores.iou > 0.97
    assert scores.observed_share > 0.97
    assert scores.predicted_ha == pytest.approx(scores.reference_ha, rel=0.01)


def test_a_png_cut_short_is_refused_and_not_read_as_whatever_lies_in_memory(tmp_path: Path) -> None:
    whole = write(tmp_path / "r.png", blobs(5, (200, 200)), crs=None)
    torn = tmp_path / "p.png"
    torn.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(EvaluationError, match=r"p\.png cannot be read"):
        evaluate(torn, whole, flood_value=1, reference_value=1)


def test_ground_outside_the_reference_is_unobserved(tmp_path: Path) -> None:
    p, r = blobs(6), blobs(7)
    small = write(tmp_path / "r.tif", r[:, :40])
    scores = evaluate(write(tmp_path / "p.tif", p), small).scenes[0]
    assert counted(scores) == confusion(p[:, :40], r[:, :40])
    assert scores.observed_share == pytest.approx(40 / 70)


def test_a_png_without_georeference_pairs_with_a_raster_of_its_size(tmp_path: Path) -> None:
    p, r = blobs(8), blobs(9)
    prediction, png = write(tmp_path / "p.tif", p), write(tmp_path / "r.png", r * 255, crs=None)
    scores = evaluate(prediction, png).scenes[0]
    assert counted(scores) == confusion(p, r)
    assert scores.area_error_ha is not None
    other = write(tmp_path / "small.png", r[:50] * 255, crs=None)
    with pytest.raises(MissingCRSError, match="60"):
        evaluate(prediction, other)


def test_world_files_without_crs_share_their_plane(tmp_path: Path) -> None:
    p, r = blobs(8), blobs(9)
    moved = GRID @ Affine.translation(10, 0)
    a, b = write(tmp_path / "p.tif", p, crs=None, transform=GRID @ Affine.scale(2)), tmp_path / "r.tif"
    write(b, r, crs=None, transform=moved @ Affine.scale(2))
    scores = evaluate(a, b).scenes[0]
    assert counted(scores) == confusion(p[:, 5:], r[:, :65])
    assert scores.area_error_ha is None


@pytest.mark.parametrize(
    ("values", "nodata", "flood"),
    [((0, 1), None, 1), ((0, 255), None, 255), ((0, 1), 255, 1), ((0, 1, 255), None, 1), ((0,), None, 1)],
)
def test_a_clear_flood_value_is_found(tmp_path: Path, values: tuple[int, ...], nodata: int | None, flood: int) -> None:
    r = np.random.default_rng(0).choice(np.array(values, np.uint8), (30, 30))
    scores = evaluate(
        write(tmp_path / "p.tif", blobs(1, (30, 30))), write(tmp_path / "r.tif", r, nodata=nodata)
    ).scenes[0]
    assert scores.tp + scores.fn == np.count_nonzero(r == flood)


@pytest.mark.parametrize(
    ("values", "nodata", "message"),
    [
        ((0, 1, 2), None, r"values 0, 1, 2; say which .* --reference-value"),
        ((255,), None, "values 255"),
        ((1, 255), None, "values 1, 255"),
        (tuple(range(100)), None, r"0, 1, 2, 3, 4, 5, \.\.\."),
        ((0, 1), 0, "declares 0 as nodata"),
    ],
)
def test_an_unclear_flood_value_is_refused(
    tmp_path: Path, values: tuple[int, ...], nodata: int | None, message: str
) -> None:
    r = np.random.default_rng(0).choice(np.array(values, np.uint8), (40, 40))
    p = write(tmp_path / "p.tif", blobs(1, (40, 40)))
    with pytest.raises(EvaluationError, match=message):
        evaluate(p, write(tmp_path / "r.tif", r, nodata=nodata))


@pytest.mark.parametrize(
    ("dtype", "odd"),
    [("int16", -1), ("int8", -1), ("int16", 32767), ("uint16", 65535), ("uint8", 255), ("float32", 1e20)],
)
@pytest.mark.parametrize("given", [None, 1])
def test_what_hardly_means_dry_is_unobserved_unless_that_is_asked_for(
    tmp_path: Path, dtype: str, odd: float, given: int | None
) -> None:
    p, r = blobs(1), blobs(2).astype(dtype)
    r[:, 50:] = odd
    files = write(tmp_path / "p.tif", p), write(tmp_path / "r.tif", r)
    scores = evaluate(*files, reference_value=given).scenes[0]
    assert counted(scores) == confusion(p[:, :50], r[:, :50])
    scores = evaluate(*files, reference_value=1, ignore_values="none").scenes[0]
    assert counted(scores) == confusion(p, (r == 1).astype(np.uint8))
    scores = evaluate(*files, reference_value=odd, ignore_values=(1,)).scenes[0]
    assert scores.unobserved == np.count_nonzero(r == 1) and scores.tp + scores.fn == np.count_nonzero(r == r[0, 50])


def test_floats_in_per_cent_are_recognized_by_other_files_of_their_side(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A scene where nothing is above 1 per cent is dry, though it might hold shares."""
    flood = blobs(3)
    for name, percent in (("dry", np.full(flood.shape, 0.8)), ("wet", 70.0 * flood)):
        write(tmp_path / "out" / f"{name}_probability.tif", percent.astype(np.float32))
        write(tmp_path / "refs" / f"{name}_reference.tif", flood * (name == "wet"))
    scenes = evaluate(tmp_path / "out", tmp_path / "refs", threshold=0.7).scenes
    assert [scene.iou for scene in scenes] == [1, 1] and scenes[0].tp == 0
    assert caplog.text.count("the threshold 0.7 is used as 70") == 2
    odd = 70.0 * flood
    odd[:5] = 255
    write(tmp_path / "out" / "wet_probability.tif", odd.astype(np.float32))
    refused = evaluate(tmp_path / "out", tmp_path / "refs", threshold=0.7).refused
    assert "holds 255, which is no probability" in refused[0]
    scenes = evaluate(tmp_path / "out", tmp_path / "refs", threshold=0.7, ignore_values="255,2").scenes
    assert [scene.iou for scene in scenes] == [1, 1] and scenes[1].unobserved == 5 * 70


def test_flood_values_can_be_given(tmp_path: Path) -> None:
    r = np.random.default_rng(0).integers(0, 5, (40, 40)).astype(np.uint8)
    p, reference = blobs(1, (40, 40)), write(tmp_path / "r.tif", r)
    prediction = write(tmp_path / "p.tif", p)
    for given_value in ("2,4", (2, 4), [2.0, 4.0]):
        scores = evaluate(prediction, reference, reference_value=given_value).scenes[0]
        assert counted(scores) == confusion(p, np.isin(r, (2, 4)))
    with pytest.raises(EvaluationError, match="'water' is not a flood value"):
        evaluate(prediction, reference, reference_value="water")
    with pytest.raises(EvaluationError, match="one of them"):
        FloodRule.parse(1, 0.5)


def test_traps_in_values_are_refused(tmp_path: Path) -> None:
    percent = np.random.default_rng(0).integers(0, 101, (40, 40)).astype(np.uint8)
    probability = write(tmp_path / "x_probability.tif", percent, nodata=255)
    mask = write(tmp_path / "r.tif", blobs(1, (40, 40)), nodata=255)
    with pytest.raises(EvaluationError, match=r"for 50 per cent write 0\.5"):
        evaluate(probability, mask, threshold=50)
    with pytest.raises(EvaluationError, match="declares 255 as nodata"):
        evaluate(mask, mask, reference_value=255)
    with pytest.raises(EvaluationError, match="is a raster and has no attribute"):
        evaluate(mask, mask, reference_value="class=water")
    with pytest.raises(EvaluationError, match="9 is both a flood value and an ignored value"):
        evaluate(mask, mask, reference_value=9, ignore_values="4,9")
    with pytest.raises(EvaluationError, match="'water' is no value to ignore"):
        evaluate(mask, mask, ignore_values="water")
    assert evaluate(probability, mask, threshold=0.5).scenes[0].observed_share == 1


def test_a_given_value_that_occurs_nowhere_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mask = write(tmp_path / "r.tif", blobs(1))
    evaluate(mask, mask, reference_value=9)
    assert "no reference has flood with this --reference-value" in caplog.text


def test_alpha_of_lossy_files_counts_from_the_middle_up(tmp_path: Path) -> None:
    """Compression makes alpha 1 to 30 along the rim of what is transparent, and less than 255 within the rest."""
    alpha = np.where(np.add(*np.indices((96, 96))) < 70, 0, 255).astype(np.uint8)
    lossy = {"compress": "jpeg", "jpeg_quality": 40, "interleave": "pixel", "alpha": "YES", "photometric": "MINISBLACK"}
    reference = write(tmp_path / "r.tif", np.stack([np.full((96, 96), 255, np.uint8), alpha]), **lossy)
    with rasterio.open(reference) as file:
        stored = file.read(2)
    assert np.count_nonzero((stored > 0) & (alpha == 0)) > 50
    prediction = write(tmp_path / "p.tif", np.ones((96, 96), np.uint8))
    shifted = write(tmp_path / "q.tif", np.ones((96, 96), np.uint8), transform=GRID @ Affine.translation(0, 0.001))
    for guess in (prediction, shifted):
        scores = evaluate(guess, reference, reference_value=255).scenes[0]
        assert scores.unobserved == np.count_nonzero(stored < 128)


@pytest.mark.parametrize("nodata", [9, 254])
@pytest.mark.parametrize("finer", [1, 2])
def test_alpha_and_nodata_of_one_mask_are_both_unobserved_on_any_grid(tmp_path: Path, nodata: int, finer: int) -> None:
    classes, alpha = blobs(1), np.full((60, 70), 255, np.uint8)
    classes[:10], alpha[:, :20] = nodata, 0
    path = write(tmp_path / "r.tif", np.stack([classes, alpha]), nodata=nodata, alpha="YES", photometric="MINISBLACK")
    expected = np.where((alpha == 0) | (classes == nodata), 255, classes)
    expected = np.pad(expected, 5, constant_values=255).repeat(finer, 0).repeat(finer, 1)  # outside is unobserved
    frame = GeoGrid(CRS.from_string(UTM), GRID @ Affine.translation(-5, -5) @ Affine.scale(1 / finer), expected.shape)
    assert np.array_equal(RasterMask(path).on(frame, FloodRule(values=(1.0,)))(frame.whole), expected)
    own = RasterMask(path)
    inside = expected[5 * finer : -5 * finer : finer, 5 * finer : -5 * finer : finer]
    assert np.array_equal(own.on(own.grid, FloodRule(values=(1.0,)))(own.grid.whole), inside)


def test_probabilities_with_a_scale_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "p.tif", np.full((60, 70), 60, np.uint8))
    with rasterio.open(path, "r+") as file:
        file.scales = (1 / 255,)  # 60 is a probability of 0.24
    for call in (evaluate, lambda mask, _, threshold: floodmap.vectorize(mask, threshold=threshold)):
        with pytest.raises(FloodmapError, match=r"p\.tif declares a scale or an offset"):
            call(path, write(tmp_path / "r.tif", blobs(1)), threshold=0.5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_integers_with_a_scale_of_one_hundredth_are_per_cent(dtype: type, tmp_path: Path) -> None:
    flood = blobs(1)
    path = write(tmp_path / "p.tif", np.where(flood, 90, 5).astype(dtype))
    with rasterio.open(path, "r+") as file:
        file.scales = (0.01,)
    assert evaluate(path, write(tmp_path / "r.tif", flood), threshold=0.5).scenes[0].iou == 1
    for offsets, scales in (((1.0,), (0.01,)), ((0.0,), (0.1,))):
        with rasterio.open(path, "r+") as file:
            file.scales, file.offsets = scales, offsets
        with pytest.raises(FloodmapError, match=r"p\.tif declares a scale or an offset"):
            evaluate(path, tmp_path / "r.tif", threshold=0.5)


def test_a_mask_blurred_by_lossy_compression_is_refused(tmp_path: Path) -> None:
    blurred = write(tmp_path / "r.tif", 255 * blobs(1, (128, 128), 2.0), compress="jpeg", jpeg_quality=30)
    with pytest.raises(EvaluationError, match="compressed with loss, which has blurred its classes"):
        evaluate(write(tmp_path / "p.tif", blobs(1, (128, 128))), blurred, reference_value=255)


@pytest.mark.parametrize("turn", [0, 360])
def test_ground_without_pixels_is_unobserved_on_any_grid(tmp_path: Path, turn: int) -> None:
    """Blocks of a raster that were never written are read as 0, but are not dry."""
    degrees = Affine(1e-5, 0, 179.9995, 0, -1e-5, 10)
    frames = [degrees @ Affine.translation(turn / 1e-5, 0), degrees @ Affine.translation(turn / 1e-5 - 7.2, 4.3)]
    mask = RasterMask(write(tmp_path / "r.tif", blobs(1), crs="EPSG:4326", transform=degrees))
    gone = np.zeros((60, 70), bool)
    gone[16:32, 32:64] = True
    mask._absent = lambda window: gone[window.slices] if gone[window.slices].any() else None
    rule = FloodRule(values=(1.0,))
    for transform, (down, right) in zip(frames, ((0, 0), (4, -7)), strict=True):
        frame = GeoGrid(CRS.from_epsg(4326), transform, (60, 70))
        codes = mask.on(frame, rule)(Window(10, 0, 50, 70))
        lacking = np.roll(gone, (-down, -right), (0, 1))[10:]
        real = np.pad(np.ones((60, 70), bool), 8)[8 + down :, 8 + right :][10:60, :70]
        assert np.array_equal(codes == 255, lacking | ~real)
    mask._absent = lambda window: np.ones((window.height, window.width), bool)
    assert mask.values() == set()


@pytest.mark.parametrize("shift", [0, 3])
def test_blocks_never_written_and_lost_members_of_mosaics_are_not_dry(
    tmp_path: Path, shift: int, caplog: pytest.LogCaptureFixture
) -> None:
    p, r = blobs(1, (64, 96)), blobs(2, (64, 96))
    sparse = tmp_path / "sparse.tif"
    place = {"crs": UTM, "transform": GRID, "count": 1, "dtype": "uint8", "height": 64, "width": 96}
    blocks = {"tiled": True, "blockxsize": 32, "blockysize": 32, "sparse_ok": True}
    with rasterio.open(sparse, "w", driver="GTiff", **place, **blocks) as file:
        for row in (0, 32):
            for col in (0, 32, 64):
                if (row, col) != (32, 32):
                    window = rasterio.windows.Window(col, row, 32, 32)
                    file.write(r[row : row + 32, col : col + 32], 1, window=window)
    members = [(write(tmp_path / f"{name}.tif", r[:, at], transform=GRID @ Affine.translation(at.start, 0)), at.start)
               for name, at in (("a", slice(0, 32)), ("b", slice(32, 64)), ("c", slice(64, 96)))]  # fmt: skip
    sources = "".join(
        f'<SimpleSource><SourceFilename relativeToVRT="1">{path.name}</SourceFilename><SourceBand>1</SourceBand>'
        f'<SrcRect xOff="0" yOff="0" xSize="32" ySize="64"/><DstRect xOff="{at}" yOff="0" xSize="32" ySize="64"/>'
        "</SimpleSource>"
        for path, at in members
    )
    transform = ", ".join(map(str, GRID.to_gdal()))
    (tmp_path / "m.vrt").write_text(
        f'<VRTDataset rasterXSize="96" rasterYSize="64"><SRS>{UTM}</SRS><GeoTransform>{transform}</GeoTransform>'
        f'<VRTRasterBand dataType="Byte" band="1">{sources}</VRTRasterBand></VRTDataset>'
    )
    members[1][0].unlink()
    seen = np.ones((64, 96), bool)
    prediction = write(tmp_path / "p.tif", p, transform=GRID @ Affine.translation(shift, 0))
    seen[32:, 32:64] = False
    scores = evaluate(prediction, sparse).scenes[0]
    there = seen[:, shift:]
    assert counted(scores) == confusion(p[:, : 96 - shift][there], r[:, shift:][there])
    assert caplog.text.count("some blocks were never written") == 1
    with pytest.raises(EvaluationError, match=r"m\.vrt: its part .*b\.tif cannot be read \(no such file\)"):
        evaluate(prediction, tmp_path / "m.vrt")
    unobserved = floodmap.output.polygons.vectorize_layers(sparse).unobserved
    assert unobserved.geometry.area.tolist() == [32 * 32 / 4]


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("nodata", [None, 255])
def test_rasters_of_few_bits_are_masks_like_others(tmp_path: Path, bits: int, nodata: int | None) -> None:
    p, r = blobs(1), blobs(2)
    prediction = write(tmp_path / "p.tif", p, nbits=bits, nodata=nodata)
    for transform in (GRID, GRID @ Affine.translation(3, 0)):
        reference = write(tmp_path / "r.tif", r, nbits=bits, nodata=nodata, transform=transform)
        shift = 0 if transform == GRID else 3
        scores = evaluate(prediction, reference).scenes[0]
        assert counted(scores) == confusion(p[:, shift:], r[:, : 70 - shift]) and scores.unobserved == 60 * shift
    assert floodmap.vectorize(prediction).geometry.area.sum() == p.sum() / 4


@pytest.mark.parametrize("layers", [("flood",), ("flood", "unobserved"), ("water",)])
def test_a_file_geodatabase_is_a_file(tmp_path: Path, layers: tuple[str, ...]) -> None:
    p, r = blobs(1), blobs(2)
    database = tmp_path / "refs" / "x.gdb"
    database.parent.mkdir()
    for layer in layers:
        shape = shapely.box(500_000, 2_999_990, 500_035, 3_000_000)
        frame = geopandas.GeoDataFrame(geometry=[shape] if layer == "unobserved" else traced(r), crs=UTM)
        frame.to_file(database, layer=layer, driver="OpenFileGDB")
    seen = slice(20, None) if "unobserved" in layers else slice(None)
    prediction = write(tmp_path / "x_mask.tif", p)
    for reference in (database, database.parent):
        assert counted(evaluate(prediction, reference).scenes[0]) == confusion(p[seen], r[seen])
    assert counted(evaluate(database, prediction).scenes[0]) == confusion(r[seen], p[seen])


def test_imagery_missing_and_foreign_files_are_refused_in_one_line(tmp_path: Path) -> None:
    mask = write(tmp_path / "p.tif", blobs(1))
    image = write(tmp_path / "image.tif", np.zeros((3, 60, 70), np.uint8))
    text = tmp_path / "notes.txt"
    text.write_text("no raster")
    cut = tmp_path / "cut.tif"
    cut.write_bytes(mask.read_bytes()[:2000])
    elsewhere = write(tmp_path / "far.tif", blobs(2), transform=from_origin(700_000, 3_000_000, 0.5, 0.5))
    empty = write(tmp_path / "empty.tif", np.full((60, 70), 255, np.uint8), nodata=255)
    for reference, message in (
        (image, "has 3 bands"),
        (tmp_path / "absent.tif", "does not exist"),
        (text, "notes.txt"),
        (cut, "cut.tif"),
        (elsewhere, "does not overlap"),
        (empty, "no observed pixel"),
    ):
        with pytest.raises(FloodmapError, match=message) as caught:
            evaluate(mask, reference)
        assert "\n" not in str(caught.value)
    with pytest.raises(EvaluationError, match="unobserved throughout"):
        evaluate(empty, mask)
    far = np.full((60, 70), 255, np.uint8)
    far[:5] = 1
    near = np.full((60, 70), 255, np.uint8)
    near[-5:] = 1
    with pytest.raises(EvaluationError, match="share no observed pixel"):
        evaluate(write(tmp_path / "a.tif", far, nodata=255), write(tmp_path / "b.tif", near, nodata=255))


@pytest.mark.parametrize("crs", ["EPSG:4326", 'LOCAL_CS["site",UNIT["metre",1]]'])
def test_a_crs_that_cannot_place_the_coordinates_is_refused(tmp_path: Path, crs: str) -> None:
    bad = write(tmp_path / "bad.tif", blobs(1), crs=crs)
    good = write(tmp_path / "good.tif", blobs(2)[:50])
    for pair in ((bad, good), (good, bad)):
        with pytest.raises((EvaluationError, MissingCRSError)) as caught:
            evaluate(*pair)
        assert len(str(caught.value)) < 400


def test_complex_numbers_and_control_points_are_refused(tmp_path: Path) -> None:
    mask = write(tmp_path / "p.tif", blobs(1))
    with pytest.raises(EvaluationError, match="complex"):
        evaluate(mask, write(tmp_path / "c.tif", blobs(1).astype(np.complex64)))
    points = [GroundControlPoint(row, col, 500_000 + col, 3_000_000 - row) for row in (0, 9) for col in (0, 9)]
    placed = write(tmp_path / "g.tif", blobs(1)[:50], crs=None, gcps=points)
    with pytest.raises(MissingCRSError, match="control points"):
        evaluate(mask, placed)


def test_sources_are_left_as_they_were(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    p = write(folder / "p.tif", blobs(1))
    r = write(folder / "r.png", blobs(2), crs=None)
    polygons(folder / "r.gpkg", traced(blobs(2)))
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()}
    evaluate(p, r)
    evaluate(p, folder / "r.gpkg")
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.iterdir()} == before


@pytest.mark.parametrize("suffix", [".gpkg", ".shp", ".geojson", ".fgb", ".parquet"])
def test_polygons_are_the_mask_they_were_traced_from(tmp_path: Path, suffix: str) -> None:
    p, r = blobs(1), blobs(2)
    frame = geopandas.GeoDataFrame(geometry=traced(r), crs=UTM)
    path = tmp_path / f"r{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_crs("EPSG:4326" if suffix == ".geojson" else UTM).to_file(path)
    prediction = write(tmp_path / "p.tif", p)
    scores = evaluate(prediction, path).scenes[0]
    assert counted(scores) == confusion(p, r)
    assert scores.observed_share == 1
    assert evaluate(path, prediction).scenes[0].iou == scores.iou


def test_lines_and_points_of_geoparquet_are_no_flood(tmp_path: Path) -> None:
    x, y = GRID @ (0, 0)
    line = [(x + 20.25, y - 5.25), (x + 20.25, y - 25.25)]
    spike = shapely.Polygon([(x, y), (x, y - 10), (x + 10, y - 10), (x + 30, y - 25), (x + 10, y - 10), (x + 10, y)])
    prediction, path = write(tmp_path / "p.tif", blobs(1)), tmp_path / "r.parquet"
    collapsed = shapely.Polygon([*line, *line])
    geopandas.GeoDataFrame(geometry=[spike, collapsed], crs=UTM).to_parquet(path)
    scores = evaluate(prediction, path).scenes[0]
    assert scores.tp + scores.fn == 20 * 20  # a square of 10 m
    geopandas.GeoDataFrame(geometry=[shapely.LineString(line), shapely.Point(line[0])], crs=UTM).to_parquet(path)
    with pytest.raises(VectorError, match=r"r\.parquet holds LineString, Point; polygons are needed"):
        evaluate(prediction, path)


@pytest.mark.parametrize("name", ["x.gpkg", "x_flood.geojson"])
@pytest.mark.parametrize("outside", [0, 700])
def test_polygons_of_a_run_with_an_area_of_interest_are_warned_of(
    tmp_path: Path, name: str, outside: int, caplog: pytest.LogCaptureFixture
) -> None:
    path, other = polygons(tmp_path / name, traced(blobs(1))), write(tmp_path / "other.tif", blobs(1))
    (tmp_path / "x.json").write_text(json.dumps({"pixels": {"flood": 9, "dry": 9, "outside": outside}}))
    for pair in ((path, other), (other, path)):
        caplog.clear()
        evaluate(*pair)
        lines = [line for line in caplog.messages if "score x_mask.tif instead" in line and name in line]
        assert len(lines) == (1 if outside else 0)


@pytest.mark.slow
@pytest.mark.parametrize("angle", [0, 20])
def test_polygons_burn_like_rasterio_burns_them(tmp_path: Path, angle: float) -> None:
    transform = GRID @ Affine.rotation(angle)
    rng = np.random.default_rng(0)
    hole = shapely.Point(*(transform @ (30, 30))).buffer(2)
    centres = [shapely.Point(*(transform @ tuple(at))) for at in rng.uniform(0, 60, (6, 2))]
    discs = [centre.buffer(rng.uniform(0.5, 8), quad_segs=4000).difference(hole) for centre in centres]
    prediction = write(tmp_path / "p.tif", blobs(1), transform=transform)
    path = polygons(tmp_path / "r.gpkg", discs)
    expected = rasterize(discs, out_shape=(60, 70), transform=transform)
    frame = RasterMask(prediction).grid
    read = PolygonMask(path).on(frame, FloodRule())
    for block in (13, 64):
        got = np.zeros((60, 70), np.uint8)
        for window in frame.blocks(block):
            got[window.slices] = read(window)
        assert np.array_equal(got, expected)


def test_large_polygons_are_cut_without_loss() -> None:
    disc = shapely.Point(100.2, 90.7).buffer(80.3, quad_segs=20_000).difference(shapely.Point(90, 90).buffer(7))
    pieces = _cut(disc, 4096)
    assert len(pieces) > 8
    assert max(shapely.get_num_coordinates(pieces)) <= 4096
    assert shapely.area(pieces).sum() == pytest.approx(disc.area, rel=1e-12)
    assert np.array_equal(rasterize(pieces, out_shape=(200, 200)), rasterize([disc], out_shape=(200, 200)))


@pytest.mark.slow
def test_attributes_choose_the_flood(tmp_path: Path) -> None:
    boxes = [shapely.box(500_000 + 5 * i, 2_999_980, 500_004 + 5 * i, 3_000_000) for i in range(4)]
    path = polygons(tmp_path / "r.gpkg", boxes, kind=["water", "river", "field", None], code=[1, 2, 3, 1])
    prediction = write(tmp_path / "p.tif", blobs(1))

    def flooded(value: str) -> int:
        scores = evaluate(prediction, path, reference_value=value).scenes[0]
        return scores.tp + scores.fn

    each = 8 * 40
    assert [flooded(v) for v in ("kind=water", "kind=water, river", "code=1", "code=1.0,3")] == [
        each,
        2 * each,
        2 * each,
        3 * each,
    ]
    with pytest.raises(EvaluationError, match="no attribute depth; it has kind, code"):
        evaluate(prediction, path, reference_value="depth=1")
    with pytest.raises(EvaluationError, match="attribute=value"):
        evaluate(prediction, path, reference_value=1)


@pytest.mark.slow
def test_an_unobserved_layer_is_honoured_on_either_side(tmp_path: Path) -> None:
    p, r = blobs(1), blobs(2)
    hole = np.zeros(p.shape, bool)
    hole[:20] = True
    prediction = write(tmp_path / "p.tif", p)
    path = polygons(tmp_path / "r.gpkg", traced(r), layer="flood")
    polygons(path, traced(hole.astype(np.uint8)), layer="unobserved")
    polygons(tmp_path / "r_flood.shp", traced(r))
    polygons(tmp_path / "r_unobserved.shp", traced(hole.astype(np.uint8)))
    polygons(tmp_path / "r.shp", traced(r))
    for file in (path, tmp_path / "r_flood.shp", tmp_path / "r.shp"):
        scores = evaluate(prediction, file).scenes[0]
        assert counted(scores) == confusion(p[~hole], r[~hole])
        assert evaluate(file, prediction).scenes[0].observed == scores.observed
    with pytest.raises(VectorError, match="several layers"):
        other = polygons(tmp_path / "o.gpkg", traced(r), layer="a")
        polygons(other, traced(r), layer="b")
        evaluate(prediction, other)


def test_values_to_ignore_are_refused_where_both_sides_hold_polygons(tmp_path: Path) -> None:
    both = [polygons(tmp_path / f"{name}.gpkg", traced(blobs(1))) for name in "pr"]
    assert evaluate(*both, ignore_values="none").scenes[0].iou == 1
    with pytest.raises(EvaluationError, match="both sides hold polygons"):
        evaluate(*both, ignore_values=9)


def test_no_polygons_mean_dry_and_polygons_elsewhere_a_mistake(tmp_path: Path) -> None:
    prediction = write(tmp_path / "p.tif", blobs(1))
    scores = evaluate(prediction, polygons(tmp_path / "dry.gpkg", [])).scenes[0]
    assert (scores.tp, scores.fn, scores.observed_share) == (0, 0, 1)
    far = polygons(tmp_path / "far.gpkg", [shapely.box(600_000, 0, 600_010, 10)])
    with pytest.raises(EvaluationError, match="does not overlap"):
        evaluate(prediction, far)
    bare = polygons(tmp_path / "bare.gpkg", traced(blobs(1)), crs=None)
    with pytest.raises(MissingCRSError, match="no CRS"):
        evaluate(prediction, bare)


@pytest.mark.slow
@pytest.mark.parametrize(("crs", "scale"), [(UTM, 1.0), ("EPSG:4326", 1e-5), ("EPSG:3857", 2.0)])
def test_two_polygon_files_are_compared_on_a_grid_of_metres(tmp_path: Path, crs: str, scale: float) -> None:
    x, y = (75.0, 50.0) if crs == "EPSG:4326" else (500_000, 6_000_000)
    a = polygons(tmp_path / "a.gpkg", [shapely.box(x, y, x + 40 * scale, y + 60 * scale)], crs=crs)
    b = polygons(tmp_path / "b.gpkg", [shapely.box(x + 20 * scale, y, x + 60 * scale, y + 60 * scale)], crs=crs)
    scores = evaluate(a, b, resolution_m=0.05).scenes[0]
    assert scores.iou == pytest.approx(1 / 3, abs=0.01)
    assert scores.tolerance == pytest.approx(0.15, rel=1e-3)
    ring = shapely.segmentize(shapely.box(x, y, x + 40 * scale, y + 60 * scale), scale).exterior.coords
    lonlat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(*np.transpose(ring))
    assert scores.predicted_ha == pytest.approx(
        abs(Geod(ellps="WGS84").polygon_area_perimeter(*lonlat)[0]) / 1e4, rel=0.01
    )
    with pytest.raises(EvaluationError, match="coarser"):
        evaluate(a, b, resolution_m=1e-4)
    assert polygon_grid(PolygonMask(a), PolygonMask(b), 1.0).crs == CRS.from_user_input(crs)


def test_folders_pair_by_name_and_list_the_rest(tmp_path: Path) -> None:
    out, refs = tmp_path / "out", tmp_path / "refs"
    for i, name in enumerate("abcd"):
        write(out / f"{name}_mask.tif", blobs(i), nodata=255)
        write(out / f"{name}_probability.tif", blobs(i) * 100, nodata=255)
        polygons(out / f"{name}.gpkg", traced(blobs(i)))
        (out / f"{name}.json").write_text("{}")
        (out / f"{name}_mask.qml").write_text("<qgis/>")
    write(refs / "a_reference.tif", blobs(10))
    write(refs / "a.tif", np.zeros((3, 60, 70), np.uint8))
    write(refs / "b.png", blobs(11) * 1, crs=None)
    polygons(refs / "c.gpkg", traced(blobs(12)))
    write(refs / "lonely_mask.tif", blobs(13))
    write(refs / "d.tif", np.zeros((3, 60, 70), np.uint8))
    evaluation = evaluate(out, refs)
    names = [(s.name, Path(s.prediction).name, Path(s.reference).name) for s in evaluation.scenes]
    assert names == [
        ("a", "a_mask.tif", "a_reference.tif"),
        ("b", "b_mask.tif", "b.png"),
        ("c", "c_mask.tif", "c.gpkg"),
    ]
    for i, scores in enumerate(evaluation.scenes):
        assert counted(scores) == confusion(blobs(i), blobs(10 + i))
    assert [Path(path).name for path in evaluation.unpaired_predictions] == ["d_mask.tif"]
    assert [Path(path).name for path in evaluation.unpaired_references] == ["lonely_mask.tif"]
    by_probability = evaluate(out, refs, threshold=0.5)
    assert Path(by_probability.scenes[0].prediction).name == "a_probability.tif"
    assert by_probability.scenes[0].iou == evaluation.scenes[0].iou


def test_one_folder_may_hold_both_sides(tmp_path: Path) -> None:
    write(tmp_path / "x.tif", np.zeros((3, 60, 70), np.uint8))
    write(tmp_path / "x_reference.tif", blobs(1))
    write(tmp_path / "x_mask.tif", blobs(2), nodata=255)
    polygons(tmp_path / "x.gpkg", traced(blobs(2)))
    evaluation = evaluate(tmp_path, tmp_path)
    assert [(Path(s.prediction).name, Path(s.reference).name) for s in evaluation.scenes] == [
        ("x_mask.tif", "x_reference.tif")
    ]
    assert not evaluation.unpaired_predictions
    assert not evaluation.unpaired_references


@pytest.mark.parametrize("name", ["river_mask", "Überflutung 3", "x.1", "mask"])
def test_awkward_scene_names_pair(tmp_path: Path, name: str) -> None:
    write(tmp_path / "out" / f"{name}_mask.tif", blobs(1))
    polygons(tmp_path / "out" / f"{name}.gpkg", traced(blobs(1)))
    write(tmp_path / "refs" / f"{name}_reference.tif", blobs(1))
    pairs = pair_files(tmp_path / "out", tmp_path / "refs", is_imagery=lambda path: False)
    assert [(pair.name, pair.prediction.name) for pair in pairs.pairs] == [(name, f"{name}_mask.tif")]
    assert not pairs.unpaired_predictions


def test_nothing_that_pairs_is_an_error_that_names_what_was_tried(tmp_path: Path) -> None:
    write(tmp_path / "out" / "a_mask.tif", blobs(1))
    write(tmp_path / "refs" / "b.tif", blobs(1))
    with pytest.raises(EvaluationError, match=r"a_mask\.tif.*b\.tif.*a_reference\.tif"):
        evaluate(tmp_path / "out", tmp_path / "refs")


def test_masks_of_one_side_decide_together_what_is_flood(tmp_path: Path) -> None:
    for name, array in (("a", blobs(1) * 255), ("b", np.full((60, 70), 255)), ("c", np.zeros((60, 70)))):
        write(tmp_path / "refs" / f"{name}.png", array.astype(np.uint8), crs=None)
        write(tmp_path / "out" / f"{name}_mask.tif", blobs(1), nodata=255)
    evaluation = evaluate(tmp_path / "out", tmp_path / "refs")
    assert [scores.tp + scores.fn for scores in evaluation.scenes] == [int(blobs(1).sum()), 60 * 70, 0]


def test_one_bad_pair_is_named_and_the_others_are_scored(tmp_path: Path) -> None:
    for i, name in enumerate("abc"):
        write(tmp_path / "out" / f"{name}_mask.tif", blobs(i))
        write(tmp_path / "refs" / f"{name}_reference.tif", blobs(i + 5))
    (tmp_path / "refs" / "b_reference.tif").write_bytes(b"broken")
    evaluation = evaluate(tmp_path / "out", tmp_path / "refs")
    assert [scores.name for scores in evaluation.scenes] == ["a", "c"]
    assert len(evaluation.refused) == 1
    assert evaluation.refused[0].startswith("b: ")
    (tmp_path / "refs" / "a_reference.tif").write_bytes(b"broken")
    (tmp_path / "refs" / "c_reference.tif").write_bytes(b"broken")
    with pytest.raises(EvaluationError, match="none of the 3 pairs"):
        evaluate(tmp_path / "out", tmp_path / "refs")


def some_scores(n: int) -> tuple[Scores, ...]:
    rng = np.random.default_rng(3)
    return tuple(
        Scores(
            name=str(i),
            predicted_ha=float(i),
            reference_ha=1.0,
            tolerance=1.0,
            **dict(zip(names, map(int, values), strict=True)),
        )
        for i, values in enumerate(rng.integers(1, 1000, (n, 4)))
        for names in [("tp", "fp", "fn", "tn")]
    )


def test_mean_and_pool_are_those_of_their_definitions() -> None:
    scenes = some_scores(7)
    evaluation = Evaluation(scenes=scenes)
    assert evaluation.mean("iou") == pytest.approx(np.mean([s.tp / (s.tp + s.fp + s.fn) for s in scenes]), abs=1e-12)
    tp, wrong = sum(s.tp for s in scenes), sum(s.fp + s.fn for s in scenes)
    assert evaluation.pooled.iou == pytest.approx(tp / (tp + wrong), abs=1e-12)
    assert evaluation.pooled.area_error_ha == pytest.approx(sum(range(7)) - 7)


def test_intervals_agree_with_a_plain_bootstrap() -> None:
    scenes = some_scores(12)
    evaluation = Evaluation(scenes=scenes)
    rng = np.random.default_rng(1)
    draws = rng.integers(0, 12, (20_000, 12))
    ious = np.array([s.iou for s in scenes])
    counts = np.array([[s.tp, s.tp + s.fp + s.fn] for s in scenes])
    pooled = counts[draws].sum(axis=1)
    for got, resampled in (
        (evaluation.interval("iou"), ious[draws].mean(axis=1)),
        (evaluation.interval("iou", pooled=True), pooled[:, 0] / pooled[:, 1]),
    ):
        low, high = np.percentile(resampled, (2.5, 97.5))
        assert got == pytest.approx((low, high), abs=0.05 * (high - low))
    assert evaluation.interval("iou") == evaluation.interval("iou")
    assert evaluation.interval("iou", rng=np.random.default_rng(9)) != evaluation.interval("iou")


def test_one_scene_has_no_interval_and_scenes_without_crs_no_area() -> None:
    assert Evaluation(scenes=some_scores(1)).interval("iou") is None
    bare = (*some_scores(2), Scores(name="bare", tp=1, fp=0, fn=0, tn=0, tolerance_unit="px"))
    evaluation = Evaluation(scenes=bare)
    assert evaluation.mean("area_error_ha") is None
    assert evaluation.pooled.area_error_ha is None
    assert evaluation.interval("area_error_ha") is None
    assert evaluation.pooled.tolerance is None
    assert evaluation.interval("iou") is not None


def test_json_csv_and_table_say_the_same(tmp_path: Path) -> None:
    evaluation = Evaluation(scenes=some_scores(3))
    report = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
    assert report["scenes_count"] == 3
    assert report["mean"]["iou"]["value"] == evaluation.mean("iou")
    assert report["pooled"]["iou"]["interval_95"] == list(evaluation.interval("iou", pooled=True) or ())
    evaluation.write_csv(tmp_path / "s.csv")
    with (tmp_path / "s.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == ["scene"] * 3 + ["mean", "pooled"]
    assert float(rows[3]["iou"]) == evaluation.mean("iou")
    table = evaluation.table()
    assert f"{evaluation.mean('iou'):.3f}" in table
    assert "mean of 3" in table
    assert table.count("95 %") == 2
    assert "95 %" not in Evaluation(scenes=some_scores(1)).table()
    with pytest.raises(OutputError, match="exists already"):
        evaluation.write_csv(tmp_path / "s.csv")
    assert [file.name for file in tmp_path.iterdir()] == ["s.csv"]


def test_errors_layer_holds_exactly_what_is_wrong(tmp_path: Path) -> None:
    p, r = blobs(1), blobs(2)
    p[:4] = 255
    path = tmp_path / "wrong.gpkg"
    scores = evaluate(write(tmp_path / "p.tif", p, nodata=255), write(tmp_path / "r.tif", r), errors=path).scenes[0]
    layer = geopandas.read_file(path, layer="errors")
    assert layer.crs == UTM
    for kind, wrong, count in (
        ("false_positive", (p == 1) & (r == 0), scores.fp),
        ("false_negative", (p == 0) & (r == 1), scores.fn),
    ):
        part = layer[layer["kind"] == kind]
        assert np.array_equal(rasterize(part.geometry, out_shape=p.shape, transform=GRID), wrong.astype(np.uint8))
        assert part["area_m2"].sum() == pytest.approx(count * 0.25, rel=2e-3)
    style = geopandas.read_file(path, layer="layer_styles").iloc[0]
    assert (style["f_table_name"], style["useAsDefault"]) == ("errors", 1)
    assert "false_positive" in style["styleQML"]
    with pytest.raises(OutputError, match="exists already"):
        evaluate(tmp_path / "p.tif", tmp_path / "r.tif", errors=path)
    with pytest.raises(OutputError, match=r"\.gpkg"):
        evaluate(tmp_path / "p.tif", tmp_path / "r.tif", errors=tmp_path / "wrong.shp")
    evaluate(tmp_path / "r.tif", tmp_path / "r.tif", errors=path, overwrite=True)
    assert len(geopandas.read_file(path, layer="errors")) == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == ["p.tif", "r.tif", "wrong.gpkg"]


def test_errors_of_scenes_in_different_crs_share_one_layer(tmp_path: Path) -> None:
    for name, crs in (("a", UTM), ("b", "EPSG:32644")):
        write(tmp_path / "out" / f"{name}_mask.tif", blobs(1), crs=crs)
        write(tmp_path / "refs" / f"{name}_reference.tif", blobs(2), crs=crs)
    evaluate(tmp_path / "out", tmp_path / "refs", errors=tmp_path / "wrong.gpkg")
    layer = geopandas.read_file(tmp_path / "wrong.gpkg", layer="errors")
    assert layer.crs == "EPSG:4326"
    assert sorted(layer["scene"].unique()) == ["a", "b"]


def test_evaluate_is_the_package_attribute() -> None:
    assert floodmap.evaluate is evaluate
    assert floodmap.Scores is Scores


def test_errors_without_crs_are_in_pixels(tmp_path: Path) -> None:
    p, r = (write(tmp_path / f"{name}.png", blobs(seed), crs=None) for name, seed in (("p", 1), ("r", 2)))
    evaluate(p, r, errors=tmp_path / "wrong.gpkg")
    layer = geopandas.read_file(tmp_path / "wrong.gpkg", layer="errors")
    assert layer.area.sum() == np.count_nonzero(blobs(1) != blobs(2))
    assert layer["area_m2"].isna().all()
    placed = write(tmp_path / "out" / "a_mask.tif", blobs(1)).parent
    write(placed / "b_mask.png", blobs(1), crs=None)
    with pytest.raises(EvaluationError, match="separately"):
        evaluate(placed, placed.parent / "out", errors=tmp_path / "both.gpkg")
    assert not (tmp_path / "both.gpkg").exists()


def test_a_raster_that_says_it_holds_per_cent_is_one_of_probabilities_however_dry(tmp_path: Path) -> None:
    percent = np.zeros((64, 96), np.uint8)
    percent[:8] = 1  # 1 per cent, not flood
    path = write(tmp_path / "x_probability.tif", percent, nodata=255)
    with rasterio.open(path, "r+") as file:
        file.units = ("%",)
    reference = write(tmp_path / "x_reference.tif", np.zeros((64, 96), np.uint8))
    scores = evaluate(path, reference).scenes[0]
    assert (scores.tp, scores.fp, scores.tn) == (0, 0, percent.size)
    assert len(floodmap.vectorize(path)) == 0


def test_255_of_a_mask_in_a_wider_type_is_unobserved_whoever_says_what_is_flood(tmp_path: Path) -> None:
    mask = np.zeros((64, 96), "int16")
    mask[:20], mask[20:30] = 1, 255
    path, other = write(tmp_path / "wide.tif", mask), write(tmp_path / "mask.tif", (mask == 1).astype("uint8"))
    for value in (None, 1):
        scores = evaluate(other, path, reference_value=value).scenes[0]
        assert (scores.iou, scores.unobserved) == (1.0, 960)


def test_many_values_below_0_are_no_probabilities(tmp_path: Path) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (64, 96)).astype("float32")
    path, other = write(tmp_path / "logits.tif", logits), write(tmp_path / "mask.tif", (logits > 0).astype("uint8"))
    with pytest.raises(FloodmapError, match="no probabilities"):
        evaluate(path, other, threshold=0.5)
