"""Polygons of a changed scene from kept outlines: the same as if the whole scene was traced anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

from floodmap.correction.outlines import areas, cells, network, recording, smoothing, splicing
from floodmap.correction.outlines.changing import Change
from floodmap.correction.outlines.recording import record
from floodmap.correction.outlines.stored import Outlines
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.window import Window
from floodmap.output.polygons import outlined
from floodmap.output.tracing import Components
from floodmap.strips.codes import FLOOD, PERMANENT, flood_kinds

UTM = CRS.from_epsg(32643)
CODES = [0, 0, 0, 50, 77, 255, 150]
"""Dry ground three times, flood twice, no data, permanent water."""
Codes = NDArray[np.uint8]
Found = tuple[Components, dict[str, NDArray[np.float64]]]


@pytest.fixture
def small_cells(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Cells of 8 pixels and a short reach, so that small scenes have many cells, and far corners."""
    for module in (areas, cells, network, recording, splicing):
        monkeypatch.setattr(module, "CELL", 8)
    monkeypatch.setattr(smoothing, "REACH", 24)
    monkeypatch.setattr(smoothing, "_BAND", (6, 20))
    monkeypatch.setattr(smoothing, "_JOIN", 10)
    yield


def grid_of(codes: Codes, crs: CRS | None = UTM) -> GeoGrid:
    return GeoGrid(crs, Affine(0.5, 0, 500_000, 0, -0.5, 3_000_000), codes.shape)


def traced(codes: Codes, min_area_m2: float = 0.0, simplify_m: float = 0.0, crs: CRS | None = UTM) -> Found:
    return outlined(
        [(0, codes)], kinds=flood_kinds(50), of_water=(FLOOD, PERMANENT), grid=grid_of(codes, crs), source="s",
        min_area_m2=min_area_m2, simplify_m=simplify_m,
    )  # fmt: skip


def kept(codes: Codes, folder: Path, min_area_m2: float = 0.0, simplify_m: float = 0.0, crs: CRS | None = UTM) -> None:
    strips = ((row, codes[row : row + 7]) for row in range(0, len(codes), 7))
    record(
        folder, strips, grid=grid_of(codes, crs), threshold=50, min_area_m2=min_area_m2, simplify_m=simplify_m,
        source="s",
    )  # fmt: skip


def changed(folder: Path, boxes: list[Window], new: Codes, crs: CRS | None = UTM) -> Found | None:
    outlines = Outlines.load(folder)
    assert outlines is not None
    return Change(outlines, boxes, grid=grid_of(new, crs)).apply(lambda window: new[window.slices])


def assert_same(found: Found, expected: Found) -> None:
    (components, measures), (of_all, of_whole) = found, expected
    for name in ("kind", "first", "n_pixels", "code_sum", "code_min"):
        np.testing.assert_array_equal(getattr(components, name), getattr(of_all, name))
    assert shapely.equals_exact(components.outline, of_all.outline, 0).all()
    for name, values in of_whole.items():
        np.testing.assert_allclose(measures[name], values, rtol=1e-9)


def random_change(rng: np.random.Generator, side: int) -> tuple[Codes, Codes, list[Window]]:
    """A random scene, and the same scene with other codes in some boxes. The last column is often unobserved in both,
    so that the rightmost corner stays where it is."""
    height, width = (int(n) for n in rng.integers(1, side, 2))
    values = rng.choice(CODES, size=rng.integers(2, 5), replace=False)
    block = int(rng.integers(1, 4))
    coarse = rng.choice(values, size=(-(-height // block), -(-width // block)))
    old = np.kron(coarse, np.ones((block, block), int))[:height, :width].astype(np.uint8)
    if rng.random() < 0.8:
        old[:, -1] = 255
    new, boxes = old.copy(), []
    for _ in range(rng.integers(1, 4)):
        row, col = int(rng.integers(0, height)), int(rng.integers(0, width))
        rows, cols = (int(rng.integers(1, max(n // 3, 2))) for n in (height, width))
        boxes.append(Window(row, col, rows, cols))
        inside = new[row : row + rows, col : col + cols]
        mode = rng.integers(3)
        if mode == 0:
            inside[:] = rng.choice(values, size=inside.shape)
        elif mode == 1:
            inside[:] = rng.choice(values)
        else:
            inside[rng.random(inside.shape) < 0.3] = rng.choice(values)
    if rng.random() < 0.8:
        new[:, -1] = old[:, -1]
    return old, new, boxes


@pytest.mark.parametrize("simplify_m", [0.0, 0.4, 0.5])
@pytest.mark.parametrize("min_area_m2", [0.0, 2.0])
def test_changed_polygons_are_those_of_a_new_trace(
    small_cells: None, tmp_path: Path, simplify_m: float, min_area_m2: float
) -> None:
    rng, spliced, settings = np.random.default_rng(7), 0, (min_area_m2, simplify_m)
    for number in range(40):
        old, new, boxes = random_change(rng, 90)
        kept(old, tmp_path / str(number), *settings)
        found = changed(tmp_path / str(number), boxes, new)
        if found is not None:  # None: the whole scene has to be traced
            spliced += 1
            assert_same(found, traced(new, *settings))
    assert spliced >= (40 if not simplify_m else 20)


def test_large_cells_and_reaches_give_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    noise = np.kron(rng.integers(0, 2, (90, 120)), np.ones((9, 9), int))
    old = np.where(noise == 1, 80, 10).astype(np.uint8)
    old[:, -3:] = 255
    new = old.copy()
    new[300:500, 400:700] = np.where(rng.random((200, 300)) < 0.5, 90, 20)
    kept(old, tmp_path / "kept", 5.0, 0.5)
    found = changed(tmp_path / "kept", [Window(300, 400, 200, 300)], new)
    assert found is not None
    assert_same(found, traced(new, 5.0, 0.5))


def test_a_lake_that_is_cut_in_two_becomes_two_polygons(small_cells: None, tmp_path: Path) -> None:
    old = np.zeros((60, 60), np.uint8)
    old[20:40, 5:55] = 90
    new = old.copy()
    new[15:45, 28:32] = 0
    kept(old, tmp_path / "kept")
    found = changed(tmp_path / "kept", [Window(15, 28, 30, 4)], new)
    assert found is not None and len(found[0].first) == 2
    assert_same(found, traced(new))


def test_without_a_crs_polygons_have_no_areas(small_cells: None, tmp_path: Path) -> None:
    old, new, boxes = random_change(np.random.default_rng(1), 60)
    kept(old, tmp_path / "kept", crs=None)
    found = changed(tmp_path / "kept", boxes, new, crs=None)
    assert found is not None and np.isnan(found[1]["area_m2"]).all()
    assert shapely.equals_exact(found[0].outline, traced(new, crs=None)[0].outline, 0).all()


def test_a_change_of_the_rightmost_corner_is_traced_anew(small_cells: None, tmp_path: Path) -> None:
    old = np.zeros((40, 60), np.uint8)
    old[10:20, 10:20] = 90
    new = old.copy()
    new[12:18, 20:30] = 90
    kept(old, tmp_path / "kept", simplify_m=0.5)
    assert changed(tmp_path / "kept", [Window(12, 20, 6, 10)], new) is None


@pytest.mark.parametrize("limit", ["MAX_VERTICES", "MAX_NODES"])
def test_too_many_outlines_are_not_kept(
    small_cells: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(recording, limit, 3)
    codes = np.random.default_rng(0).choice(np.array([0, 90], np.uint8), (50, 50))
    kept(codes, tmp_path / "kept")
    assert not list(tmp_path.iterdir())


def test_strong_simplification_keeps_no_outlines(tmp_path: Path) -> None:
    codes = np.zeros((50, 50), np.uint8)
    codes[10:40, 10:40] = 90
    kept(codes, tmp_path / "kept", simplify_m=3.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["no folder", "other format", "cut file"])
def test_damaged_outlines_count_as_missing(tmp_path: Path, damage: str) -> None:
    codes = np.zeros((20, 20), np.uint8)
    codes[5:10, 5:10] = 90
    kept(codes, tmp_path / "kept")
    assert Outlines.load(tmp_path / "kept") is not None
    if damage == "other format":
        file = tmp_path / "kept" / "outlines.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "format": 0}))
    elif damage == "cut file":
        (tmp_path / "kept" / "x.npy").write_bytes((tmp_path / "kept" / "x.npy").read_bytes()[:-3])
    assert Outlines.load(tmp_path / ("kept" if damage != "no folder" else "none")) is None
