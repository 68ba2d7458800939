"""`floodmap segment` on unusual scenes: each is mapped correctly or refused in one clear line."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine
from conftest import GEOGRAPHIC, NORTH_UP, ROTATED, SOUTH_UP, UTM, SceneFactory, picture
from fakes import FakeSegmenter
from rasterio.features import rasterize

from floodmap_cli.main import run

HW = (90, 130)
EXACT = ["--tile-size", "64", "--overlap", "8", "--prompts", "none", "--simplify", "0", "--min-area", "0"]
UNPLACED = Affine(1, 0, 0, 0, -1, 0)
Array = np.ndarray


@pytest.fixture(autouse=True)
def fake_model(monkeypatch: pytest.MonkeyPatch) -> FakeSegmenter:
    """Commands get a fake model without weights."""
    fake = FakeSegmenter()
    monkeypatch.setattr("floodmap_cli.loading.load", lambda model, device: fake)
    return fake


def where(shape_hw: tuple[int, int] = HW) -> Array:
    """Blocks, a speck, the first and the last pixel: ground to leave unobserved."""
    hole = np.zeros(shape_hw, bool)
    hole[20:50, 60:70] = hole[:9, 100:] = hole[77, 33] = hole[0, 0] = hole[-1, -1] = True
    return hole


def holed(value: float, *, bands: int = 3, dtype: str = "uint8") -> Array:
    pixels = picture(bands, HW, dtype)
    pixels[:, where()] = value
    return pixels


def one_band_empty(value: int) -> Array:
    """Nodata in all bands at the holes; in one band alone elsewhere, which is colour and not a hole."""
    pixels = holed(value)
    pixels[0, 60:70, 5:20] = value
    return pixels


def collared(value: int) -> Array:
    pixels = picture(3, HW)
    pixels[:, collar()] = value
    pixels[:, 40:44, 40:44] = value  # a pool or a roof, surrounded by ground
    return pixels


def collar() -> Array:
    rows, cols = np.indices(HW)
    return (rows + cols < 45) | (cols >= 118)


def palette(transparent: tuple[int, ...] = ()) -> dict[int, tuple[int, ...]]:
    return {i: (i, 255 - i, i, 0 if i in transparent else 255) for i in range(256)}


ALPHA = np.where(where(), 0, 255)
ALPHA[60, 5:30] = 1  # nearly transparent is still seen

SCENES: dict[str, tuple[dict[str, Any], dict[str, Array]]] = {
    "north_up": ({}, {}),
    "rotated": ({"transform": ROTATED}, {}),
    "rotated_sheared_and_oblong": ({"transform": ROTATED @ Affine.shear(20) @ Affine.scale(1, 3)}, {}),
    "south_up": ({"transform": SOUTH_UP}, {}),
    "east_left": ({"transform": Affine(-0.5, 0, 500_000, 0, -0.5, 5_000_000)}, {}),
    "columns_run_south": ({"transform": Affine(0, 0.5, 500_000, -0.5, 0, 5_000_000)}, {}),
    "geographic": ({"crs": "EPSG:4326", "transform": GEOGRAPHIC}, {}),
    "geographic_south_up_with_alpha": (
        {"crs": "EPSG:4326", "transform": Affine(1e-5, 0, -70, 0, 1e-5, -33), "alpha": ALPHA}, {"nodata": where()},
    ),
    "feet": ({"crs": "EPSG:2263", "transform": Affine(1, 0, 980_000, 0, -1, 200_000)}, {}),
    "uint16": ({"dtype": "uint16"}, {}),
    "int16_negative": ({"pixels": (holed(150, dtype="int16") - 15_000)}, {}),
    "uint16_nodata_0": ({"pixels": holed(0, dtype="uint16"), "nodata": 0}, {"nodata": where()}),
    "uint16_nodata_65535": ({"pixels": holed(65535, dtype="uint16"), "nodata": 65535}, {"nodata": where()}),
    "float32_nan": ({"pixels": holed(np.nan, dtype="float32")}, {"nodata": where()}),
    "float32_nodata_nan": ({"pixels": holed(np.nan, dtype="float32"), "nodata": np.nan}, {"nodata": where()}),
    "float32_nodata": ({"pixels": holed(-9999, dtype="float32"), "nodata": -9999}, {"nodata": where()}),
    "float64_infinite": ({"pixels": holed(np.inf, dtype="float64")}, {"nodata": where()}),
    "float32_nodata_lowest": (
        {"pixels": holed(np.finfo("float32").min, dtype="float32"), "nodata": float(np.finfo("float32").min)},
        {"nodata": where()},
    ),
    "four_bands": ({"bands": 4}, {}),
    "four_bands_nodata_0": ({"pixels": holed(0, bands=4), "nodata": 0}, {"nodata": where()}),
    "four_bands_uint16_alpha": ({"dtype": "uint16", "bands": 4, "alpha": ALPHA * 257}, {"nodata": where()}),
    "two_bands": ({"bands": 2}, {}),
    "seven_bands": ({"bands": 7, "dtype": "uint16"}, {}),
    "palette": ({"bands": 1, "colormap": palette()}, {}),
    "palette_transparent_png": (
        {"pixels": holed(7, bands=1), "colormap": palette(transparent=(7,)), "name": "scene.png", "crs": None,
         "transform": None}, {"nodata": where()},
    ),
    "palette_nodata": ({"pixels": holed(3, bands=1), "colormap": palette(), "nodata": 3}, {"nodata": where()}),
    "one_band": ({"bands": 1}, {}),
    "one_band_nodata_0": ({"pixels": holed(0, bands=1), "nodata": 0}, {"nodata": where()}),
    "one_band_float_nan_nodata": ({"pixels": holed(np.nan, bands=1, dtype="float32")}, {"nodata": where()}),
    "alpha": ({"alpha": ALPHA}, {"nodata": where()}),
    "one_band_alpha": ({"bands": 1, "alpha": ALPHA}, {"nodata": where()}),
    "rotated_alpha": ({"alpha": ALPHA, "transform": ROTATED}, {"nodata": where()}),
    "internal_mask": ({"mask": ~where()}, {"nodata": where()}),
    "internal_mask_jpeg": (
        {"mask": ~where(), "compress": "JPEG", "photometric": "YCBCR", "tiled": True, "blockxsize": 64,
         "blockysize": 64}, {"nodata": where()},
    ),
    "nodata_0": ({"pixels": one_band_empty(0), "nodata": 0}, {"nodata": where()}),
    "nodata_255": ({"pixels": one_band_empty(255), "nodata": 255}, {"nodata": where()}),
    "nodata_that_no_pixel_can_hold": ({"nodata": None, "pixels": holed(241)}, {}),
    "collar_black": ({"pixels": collared(0)}, {"collar": collar()}),
    "collar_white": ({"pixels": collared(255)}, {"collar": collar()}),
    "collar_black_rotated": ({"pixels": collared(0), "transform": ROTATED}, {"collar": collar()}),
    "collar_black_16_bit": ({"pixels": collared(0).astype("uint16") * 100}, {"collar": collar()}),
    "all_nodata": ({"pixels": np.zeros((3, *HW), "uint8"), "nodata": 0}, {"nodata": np.ones(HW, bool)}),
    "all_transparent": ({"alpha": np.zeros(HW)}, {"nodata": np.ones(HW, bool)}),
    "all_nan": (
        {"pixels": np.full((3, *HW), np.nan, "float32")}, {"nodata": np.ones(HW, bool)},
    ),
    "one_pixel": ({"shape_hw": (1, 1)}, {}),
    "one_pixel_uint16": ({"shape_hw": (1, 1), "dtype": "uint16"}, {}),
    "one_pixel_nodata": (
        {"pixels": np.zeros((3, 1, 1), "uint8"), "nodata": 0}, {"nodata": np.ones((1, 1), bool)},
    ),
    "one_row": ({"shape_hw": (1, 300)}, {}),
    "one_column": ({"shape_hw": (300, 1)}, {}),
    "smaller_than_a_window": ({"shape_hw": (20, 30)}, {}),
    "one_pixel_overhang": ({"shape_hw": (65, 129)}, {}),
    "no_crs_tif": ({"crs": None, "transform": None}, {}),
    "no_crs_tif_with_transform": ({"crs": None, "transform": NORTH_UP}, {}),
    "no_crs_png": ({"crs": None, "transform": None, "name": "scene.png"}, {}),
    "no_crs_png_alpha": (
        {"crs": None, "transform": None, "name": "scene.png", "alpha": ALPHA}, {"nodata": where()},
    ),
    "no_crs_jpg": ({"crs": None, "transform": None, "name": "scene.jpg"}, {}),
    "grey_jpg": ({"crs": None, "transform": None, "name": "scene.jpg", "bands": 1}, {}),
    "utf8_name": ({"name": "Übersicht Đồng Tháp 洪水 🌊.tif"}, {}),
    "spaces_and_quotes": ({"name": "it's a \"scene\" & 100% [1] #2.v3.tif"}, {}),
}  # fmt: skip


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.iterdir()}


def read(path: Path, level: int | None = None) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, **({} if level is None else {"overview_level": level})) as dataset:
            return dataset.read(1)


def segment(scene: Path, out: Path, *args: object) -> int:
    return run(["segment", str(scene), "-o", str(out), *EXACT, *map(str, args)])


def burnt(frame: geopandas.GeoDataFrame, shape_hw: tuple[int, int], transform: Affine) -> Array:
    """Rows of a layer, numbered from 1, in pixels; overlapping polygons would hide one another."""
    shapes = [(geometry, number) for number, geometry in enumerate(frame.geometry, 1)]
    if not shapes:
        return np.zeros(shape_hw, int)
    return rasterize(shapes, out_shape=shape_hw, transform=transform, dtype="int32")


def geodesic_area(frame: geopandas.GeoDataFrame) -> Array:
    """By pyproj.Geod, in longitude and latitude, each ring alone; edges are straight in the layer's CRS."""
    to_lonlat = pyproj.Transformer.from_crs(frame.crs, "EPSG:4326", always_xy=True)
    geod = pyproj.Geod(ellps="WGS84")

    def area(ring: shapely.LinearRing) -> float:
        xy = shapely.get_coordinates(shapely.segmentize(ring, ring.length / 200))
        return abs(geod.polygon_area_perimeter(*to_lonlat.transform(xy[:, 0], xy[:, 1]))[0])

    parts = (shapely.get_parts(geometry) for geometry in frame.geometry)
    return np.array([sum(area(p.exterior) - sum(map(area, p.interiors)) for p in polygons) for polygons in parts])


def check(out: Path, name: str, reasons: dict[str, Array], crs: Any, transform: Affine, shape_hw: Any) -> Array:
    """Check all results of one scene against each other; returns the mask."""
    said = json.loads((out / f"{name}.json").read_text("utf-8"))
    mask, probability = read(out / f"{name}_mask.tif"), read(out / f"{name}_probability.tif")
    for kind in ("mask", "probability"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(out / f"{name}_{kind}.tif") as dataset:
                assert dataset.shape == tuple(shape_hw) and dataset.crs == crs
                assert dataset.transform.almost_equals(transform, 1e-9)
                assert dataset.nodata == 255 and dataset.dtypes == ("uint8",)
    hidden = np.zeros(shape_hw, bool)
    for pixels in reasons.values():
        hidden |= pixels
    np.testing.assert_array_equal(mask == 255, hidden)
    np.testing.assert_array_equal(probability == 255, hidden)
    assert probability[~hidden].max(initial=0) <= 100
    np.testing.assert_array_equal(mask[~hidden], probability[~hidden] >= 50)
    gpkg = out / f"{name}.gpkg"
    flood, unobserved = (geopandas.read_file(gpkg, layer=layer) for layer in ("flood", "unobserved"))
    assert flood.crs == crs and unobserved.crs == crs
    assert flood.is_valid.all() and unobserved.is_valid.all()
    np.testing.assert_array_equal(burnt(flood, shape_hw, transform) > 0, mask == 1)
    numbers = burnt(unobserved, shape_hw, transform)
    for reason in {*reasons, *unobserved["reason"]}:
        rows = np.flatnonzero(unobserved["reason"] == reason) + 1
        np.testing.assert_array_equal(np.isin(numbers, rows), reasons.get(reason, np.zeros(shape_hw, bool)))
    assert said["pixels"]["flood"] == (mask == 1).sum() and said["pixels"]["dry"] == (mask == 0).sum()
    assert said["pixels"]["unobserved"] == {reason: int(pixels.sum()) for reason, pixels in reasons.items()}
    assert said["observed_share"] == pytest.approx(1 - hidden.mean(), abs=1e-6)
    assert said["windows"]["failed"] == []
    if crs is None:
        assert said["flood_area_m2"] is None and flood["area_m2"].isna().all() and unobserved["area_m2"].isna().all()
    else:
        for layer in (flood, unobserved):
            np.testing.assert_allclose(layer["area_m2"], geodesic_area(layer), rtol=1e-3)
        assert said["flood_area_m2"] == pytest.approx(flood["area_m2"].sum(), rel=1e-3, abs=0.01)
    assert {p.name for p in out.iterdir()} == {
        f"{name}{end}" for end in (".json", ".gpkg", "_mask.tif", "_mask.qml", "_probability.tif", "_probability.qml")
    }
    return mask


@pytest.mark.slow
@pytest.mark.parametrize("kind", SCENES)
def test_an_odd_scene_is_mapped_right_to_the_last_pixel(
    kind: str, make_scene: SceneFactory, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    keywords, reasons = SCENES[kind]
    scene = make_scene(**{"shape_hw": HW, "folder": tmp_path / "in", **keywords})
    before = snapshot(scene.parent)
    assert segment(scene, tmp_path / "out", "--nir", "off") == 0  # infrared knows no fake model's floods
    said = capfd.readouterr()
    crs = keywords.get("crs", UTM)
    transform = keywords.get("transform", NORTH_UP) or UNPLACED
    shape_hw = keywords["pixels"].shape[1:] if "pixels" in keywords else keywords.get("shape_hw", HW)
    mask = check(tmp_path / "out", scene.stem, reasons, crs, transform, shape_hw)
    assert snapshot(scene.parent) == before
    guessed = kind in ("two_bands", "seven_bands", "four_bands_uint16_alpha")  # the file does not identify its red band
    assert said.out.count("\n") == 2 and said.err.count("\n") == (crs is None) + guessed
    assert ("--bands" in said.err) == guessed
    blue = np.asarray(read_blue(scene, kind), "float64")
    if (mask == 1).any() and (mask == 0).any():
        # Whatever the stretch, flooded pixels of the fake model are the bluer ones.
        assert blue[mask == 1].min() >= blue[mask == 0].max()
    elif mask.size > 300 and (mask != 255).any():
        pytest.fail("all flood or all dry: the picture was lost on the way")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in SCENES if kind.startswith("four_bands")])
def test_an_odd_scene_is_mapped_whole_with_near_infrared(kind: str, make_scene: SceneFactory, tmp_path: Path) -> None:
    keywords, reasons = SCENES[kind]
    scene = make_scene(**{"shape_hw": HW, "folder": tmp_path / "in", **keywords})
    assert segment(scene, tmp_path / "out") == 0
    check(tmp_path / "out", scene.stem, reasons, keywords.get("crs", UTM), keywords.get("transform", NORTH_UP), HW)
    said = json.loads((tmp_path / "out" / f"{scene.stem}.json").read_text("utf-8"))
    assert said["source"]["near_infrared"]["used"]


def read_blue(scene: Path, kind: str) -> Array:
    """Band that the fake model uses, as stored: blue, or the only band."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(scene) as dataset:
            colours = 3 if dataset.count >= 3 else 1
            return dataset.read(colours)


@pytest.mark.slow
def test_a_scene_placed_by_control_points_is_mapped_where_they_say(make_scene: SceneFactory, tmp_path: Path) -> None:
    rows, cols = (np.linspace(0, side, 4).tolist() for side in HW)
    points = [(row, col, *(NORTH_UP @ (col, row))) for row in rows for col in cols]
    placed, plain = make_scene(shape_hw=HW, gcps=points, name="gcp.tif"), make_scene(shape_hw=HW, name="plain.tif")
    before = snapshot(tmp_path)
    out = tmp_path / "out"
    assert segment(placed, out) == 0 and segment(plain, tmp_path / "plain") == 0
    assert snapshot(tmp_path).keys() - before.keys() == {"out", "plain"}
    with rasterio.open(out / "gcp_mask.tif") as dataset:
        mask, crs, transform = dataset.read(1), dataset.crs, dataset.transform
    assert crs == UTM
    # Resampling moves shorelines by up to a pixel.
    west, north = ~NORTH_UP @ (transform.c, transform.f)
    assert abs(west) < 1 and abs(north) < 1 and transform.a == pytest.approx(0.5, rel=0.02)
    same = mask[: HW[0] - 2, : HW[1] - 2]
    assert (same == read(tmp_path / "plain" / "plain_mask.tif")[: HW[0] - 2, : HW[1] - 2]).mean() > 0.93
    flood = geopandas.read_file(out / "gcp.gpkg", layer="flood")
    np.testing.assert_array_equal(burnt(flood, mask.shape, transform) > 0, mask == 1)


@pytest.mark.parametrize("kind", ["missing", "empty", "words", "folder", "complex", "cut_jpg", "on_one_line", "bands"])
def test_what_cannot_be_mapped_is_refused_in_one_line(
    kind: str, make_scene: SceneFactory, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    path, args = source / "scene.tif", []
    if kind in ("empty", "words"):
        path.write_bytes(b"" if kind == "empty" else b"these are words, not pixels")
    elif kind == "folder":
        path.mkdir()
    elif kind == "complex":
        make_scene(folder=source, pixels=np.ones((1, 8, 8), np.complex64))
    elif kind == "cut_jpg":
        path = make_scene(folder=source, name="scene.jpg", shape_hw=(300, 300), crs=None, transform=None)
        path.write_bytes(path.read_bytes()[:4000])
    elif kind == "on_one_line":
        make_scene(folder=source, gcps=[(r, r, 500_000 + r, 5_000_000 - r) for r in range(0, 48, 6)])
    elif kind == "bands":
        make_scene(folder=source)
        args = ["--bands", "1,2,9"]
    before = snapshot(source)
    assert segment(path, tmp_path / "out", *args) in (1, 2)
    said = capfd.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "Traceback" not in said.err and path.name in said.err
    assert not (tmp_path / "out").exists() and snapshot(source) == before
