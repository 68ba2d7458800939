"""Parts of a product of many frames: pixel grid, codes on disk, distances from edges, resampling."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from conftest import NORTH_UP
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.warp import transform as warp_points
from scipy.ndimage import distance_transform_edt

from floodmap.errors import SceneError
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.window import Window
from floodmap.scaleout.frames import frame_codes
from floodmap.scaleout.frames.blending import Blend, blend_rows
from floodmap.scaleout.frames.edge_distance import CELL, Completeness, cell_edges
from floodmap.scaleout.frames.frame_codes import FrameCodes
from floodmap.scaleout.frames.interpolation import averaged, interpolated, interpolated_along_axes
from floodmap.scaleout.frames.placement import Placement
from floodmap.scaleout.frames.product_grid import product_grid
from floodmap.scaleout.frames.resampling import Contribution, PlacedFrame, edge_weight

UTM, OTHER = CRS.from_epsg(32633), CRS.from_epsg(32634)


def grid(col: float = 0, row: float = 0, side: float = 1.0, crs: CRS = UTM, turn: float = 0) -> GeoGrid:
    """A grid of 40 x 50 pixels, at a column and row of `NORTH_UP`, with pixels of `side` times 0.5 m."""
    place = NORTH_UP @ Affine.translation(col, row) @ Affine.rotation(turn) @ Affine.scale(side)
    return GeoGrid(crs, place, (40, 50))


def test_the_product_continues_the_pixels_that_most_frames_share() -> None:
    found = product_grid([grid(), grid(30, -10), grid(10.4, 5.2), grid(60, 3)])
    assert found.crs == UTM and found.transform == NORTH_UP @ Affine.translation(0, -10)
    assert found.shape_hw == (56, 110)
    assert Placement(grid(60, 3), found).shift == (13, 60)
    assert Placement(grid(10.4, 5.2), found).shift is None


def test_a_close_up_does_not_refine_the_whole_product() -> None:
    found = product_grid([grid(), grid(20), grid(5, 5, side=0.1)])
    assert found.transform == NORTH_UP and found.shape_hw == (40, 70)


def test_the_most_frequent_crs_is_chosen_and_another_one_can_be_given() -> None:
    (x,), (y,) = warp_points(UTM, OTHER, [500_020.0], [5_000_000.0])
    elsewhere = GeoGrid(OTHER, Affine(0.5, 0, x, 0, -0.5, y), (40, 50))
    assert product_grid([elsewhere, grid(), grid(9)]).crs == UTM
    found = product_grid([grid(), grid(9)], crs="EPSG:32634")
    assert (
        found.crs == OTHER and found.transform.b == found.transform.d == 0 and found.transform.a > 0 > found.transform.e
    )
    assert found.gsd_m == pytest.approx(0.5, rel=1e-2)
    degrees = product_grid([grid(), grid(9)], crs="EPSG:4326", resolution_m=1.0)
    assert degrees.gsd_m == pytest.approx(1, rel=1e-3) and degrees.steps_m[0] == pytest.approx(
        degrees.steps_m[1], rel=1e-3
    )


def test_a_given_resolution_is_a_round_number_of_metres_at_multiples_of_it() -> None:
    found = product_grid([grid(0.3, 0.7), grid(9)], resolution_m=2.0)
    assert (found.transform.a, found.transform.e) == (2, -2)
    assert found.transform.c % 2 == found.transform.f % 2 == 0


def test_turned_frames_give_a_product_that_is_north_up_unless_all_share_one_grid() -> None:
    both = product_grid([grid(turn=20), GeoGrid(UTM, grid(turn=20).transform @ Affine.translation(10, 4), (40, 50))])
    assert both.transform == grid(turn=20).transform and both.shape_hw == (44, 60)
    mixed = product_grid([grid(turn=20), grid(turn=50), grid(turn=80)])
    assert mixed.transform.b == mixed.transform.d == 0 and mixed.transform.a == pytest.approx(0.5)


def test_frames_on_both_sides_of_180_degrees_need_a_projected_crs() -> None:
    places = [Affine(1e-5, 0, west, 0, -1e-5, -18) for west in (179.999, -179.9995)]
    sides = [GeoGrid(CRS.from_epsg(4326), place, (40, 50)) for place in places]
    with pytest.raises(SceneError, match=r"from b\.tif to a\.tif; if they lie on both sides .*--product-crs EPSG:"):
        product_grid(sides, names=["a.tif", "b.tif"])
    found = product_grid(sides, crs="EPSG:32760")
    assert found.width < 1000 and found.gsd_m == pytest.approx(1.1, rel=0.1)


codes_arrays = st.tuples(st.integers(1, 70), st.integers(1, 90), st.integers(0, 2**32 - 1))


@settings(max_examples=40, deadline=None)
@given(codes_arrays, st.data())
def test_any_window_of_stored_codes_comes_back(shape: tuple[int, int, int], data: st.DataObject) -> None:
    height, width, seed = shape
    codes = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    step = data.draw(st.integers(1, height))
    blocks = [(row, codes[row : row + step]) for row in range(0, height, step)]
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    window = Window(top, left, data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left)))
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(frame_codes, "_BLOCK_COLS", data.draw(st.integers(1, 100)))
        written = FrameCodes.write(Path(folder, "a.codes"), (height, width), blocks, {"name": "a"})
        opened = FrameCodes.open(Path(folder, "a.codes"))
        assert opened is not None and opened.about == {"name": "a"} and opened.shape_hw == (height, width)
        for stored in (written, opened):
            np.testing.assert_array_equal(stored.read(window), codes[window.slices])
            assert stored.distances().shape == stored.distances_hw


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "empty"])
def test_damaged_codes_are_not_used(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.codes"
    FrameCodes.write(path, (30, 40), [(0, np.full((30, 40), 7, np.uint8))], {})
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"cut": whole[:-3], "changed": whole[:-1] + b"\xff", "empty": b""}[damage])
    assert FrameCodes.open(path) is None


@pytest.mark.parametrize("length", [1, 15, 16, 17, 100, 1000])
def test_cells_are_even_and_cover_an_axis(length: int) -> None:
    edges = cell_edges(length)
    assert edges[0] == 0 and edges[-1] == length and 0 < np.diff(edges).min() <= np.diff(edges).max() <= CELL


def test_distances_agree_with_those_of_every_pixel() -> None:
    codes = np.zeros((200, 330), np.uint8)
    codes[90:120, 150:200] = 255
    complete = Completeness(codes.shape)
    for row in range(0, 200, 37):
        complete.add(row, codes[row : row + 37])
    distances = complete.distances()
    exact = distance_transform_edt(np.pad(codes == 0, 1))[1:-1, 1:-1]
    rows, cols = (
        np.arange(count - 2) * (length / (count - 2))
        for count, length in zip(distances.shape, codes.shape, strict=True)
    )
    for row, y in enumerate(rows + 8):
        for col, x in enumerate(cols + 8):
            assert distances[row + 1, col + 1] == pytest.approx(exact[int(y) - 1, int(x) - 1], abs=1.3 * CELL)
    assert (distances[0] < 0).all() and (distances[:, -1] < 0).all()


def test_weights_rise_from_the_edge_and_never_are_zero() -> None:
    weights = edge_weight(np.array([-20, 0, 0.5, 1, 100, 256, 511, 512, 5000], np.float32))
    assert (weights > 0).all() and weights[0] == weights[2] < weights[3] and weights[5] == 0.5
    assert (np.diff(weights) >= 0).all() and weights[-2] == weights[-1] == 1


def test_squares_are_observed_by_majority_and_means_are_those_of_observed_pixels() -> None:
    codes = np.array([[10, 255, 20, 254], [30, 50, 252, 255], [40, 40, 255, 255]], np.uint8)
    percent, reason = averaged(codes, 2)
    assert reason.tolist() == [[0, 252], [0, 255]]
    np.testing.assert_allclose(percent[:, 0], [30, 40])


def test_interpolation_leaves_out_what_is_unobserved() -> None:
    percent, reason = np.array([[10, 99, 30]], np.float32), np.array([[0, 255, 0]], np.uint8)
    found, why = interpolated(percent, reason, np.array([0.5, 0.9, 1.2, 2.1, 2.9]), np.full(5, 0.5))
    assert why.tolist() == [0, 0, 255, 0, 0]
    np.testing.assert_allclose(found[[0, 1, 3, 4]], [10, 10, 30, 30])
    both, _ = interpolated(
        np.array([[10, 20]], np.float32), np.zeros((1, 2), np.uint8), np.array([1.0]), np.array([0.1])
    )
    np.testing.assert_allclose(both, [15])


def test_interpolation_along_axes_is_that_at_free_positions() -> None:
    rng = np.random.default_rng(0)
    percent, reason = rng.uniform(0, 100, (9, 11)).astype(np.float32), np.zeros((9, 11), np.uint8)
    x, y = rng.uniform(0, 11, 40), rng.uniform(0, 9, 30)
    for hole in (False, True):
        reason[3:5, 2:6] = 255 * hole
        free, why = interpolated(percent, reason, *(at.ravel() for at in np.meshgrid(x, y)))
        found, reasons = interpolated_along_axes(percent, reason, x, y)
        np.testing.assert_array_equal(reasons.ravel(), why)
        np.testing.assert_allclose(found.ravel()[why == 0], free[why == 0], rtol=1e-4)


class CountedCodes:
    """Codes of a frame, 50 per cent everywhere, that count the pixels that are read."""

    def __init__(self) -> None:
        self.windows: list[Window] = []

    def read(self, window: Window) -> np.ndarray:
        self.windows.append(window)
        return np.full((window.height, window.width), 50, np.uint8)

    def distances(self) -> np.ndarray:
        return np.full((12, 12), 100, np.float32)


@pytest.mark.parametrize(("side", "turn"), [(1, 45), (1, 3), (0.25, 45), (0.25, 0), (8, 20)])
def test_a_strip_across_a_frame_reads_little_of_the_frame(side: float, turn: float) -> None:
    length = round(2000 / side)
    place = NORTH_UP @ Affine.translation(0.3, 0.3) @ Affine.rotation(turn) @ Affine.scale(side)
    frame = GeoGrid(UTM, place, (length, length))
    corners = np.array([place @ (x, y) for x in (0, length) for y in (0, length)])
    cols, rows = GeoGrid(UTM, NORTH_UP, (1, 1)).to_pixels(corners).T
    place = NORTH_UP @ Affine.translation(np.floor(cols.min()), np.floor(rows.min()))
    whole = GeoGrid(UTM, place, (int(np.ptp(rows)) + 3, int(np.ptp(cols)) + 3))
    counted, top = CountedCodes(), whole.height // 2
    codes = blend_rows((top, top + 64), whole.width, [PlacedFrame(Placement(frame, whole), counted)])  # type: ignore[arg-type]
    inside = (codes == 50).sum() / side**2
    assert inside > 0 and set(np.unique(codes)) <= {50, 255}
    read = [window.height * window.width for window in counted.windows]
    assert max(read) <= 2**18 * 1.1 and sum(read) <= max(5 * inside, 2**14)


def test_the_weighted_mean_and_the_lowest_reason_are_kept() -> None:
    blend = Blend((5, 6), 4)
    weights = np.array([[1, 1, 3, 1]], np.float32)
    first = Contribution(np.array([[10, 10, 10, 0]], np.float32), np.array([[0, 0, 0, 254]], np.uint8), weights)
    second = Contribution(
        np.full((1, 4), 50, np.float32), np.array([[0, 252, 0, 252]], np.uint8), np.ones((1, 4), np.float32)
    )
    blend.add(Window(5, 0, 1, 4), first)
    blend.add(Window(5, 0, 1, 4), second)
    assert blend.codes().tolist() == [[30, 10, 20, 252]]
