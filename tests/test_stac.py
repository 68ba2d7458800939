"""STAC items as scenes: assets by name, role and grid; the date of the item; the same bytes as the file itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from conftest import NORTH_UP, UTM, SceneFactory, picture
from fakes import FakeSegmenter
from range_server import serving
from rasterio.enums import ColorInterp

from floodmap.catalogue.finding import find_scenes
from floodmap.errors import SceneError
from floodmap.geo.source_name import SourceName
from floodmap.imagery.raster.stac import scene_of
from floodmap.imagery.scene import Scene
from floodmap.options import SegmentOptions
from floodmap.pipeline import segment_scene

pytest.importorskip("pystac", reason="pystac is not installed")
HW = (200, 260)


def item(folder: Path, **assets: dict[str, Any]) -> Path:
    """Write an item of 3 March 2024, 10:20:30 UTC, with assets of the media type GeoTIFF."""
    known = {key: {"type": "image/tiff; application=geotiff", **asset} for key, asset in assets.items()}
    content = {
        "type": "Feature", "stac_version": "1.0.0", "id": "flood/1 of 2", "geometry": None, "links": [],
        "properties": {"datetime": "2024-03-03T11:20:30+01:00"}, "assets": known, "bbox": [0, 0, 1, 1],
    }  # fmt: skip
    path = folder / "item.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def bands(make_scene: SceneFactory) -> np.ndarray:
    """Blue, green, red, near infrared; each a file of one band, `b1.tif` to `b4.tif`."""
    pixels = picture(4, HW, "uint16")
    for number in range(4):
        make_scene(pixels=pixels[number : number + 1], name=f"b{number + 1}.tif", nodata=0)
    return pixels


def one_band(number: int, name: str) -> dict[str, Any]:
    return {"href": f"./b{number}.tif", "eo:bands": [{"name": f"B{number}", "common_name": name}]}


COLOURS = {"b": one_band(1, "blue"), "g": one_band(2, "green"), "r": one_band(3, "red")}


def test_assets_of_one_band_become_one_scene_with_near_infrared_and_the_date(bands: np.ndarray, tmp_path: Path) -> None:
    name = scene_of(SourceName.of(item(tmp_path, **COLOURS, n=one_band(4, "nir"))))
    with Scene.open(name) as scene:
        assert scene.bands == (1, 2, 3) and scene.nir_band == 4 and scene.nodata == 0
        assert scene.date.isoformat() == "2024-03-03T10:20:30+00:00"
        assert scene.name == "flood_1_of_2" == str(scene.path)
        assert scene.crs.to_epsg() == rasterio.crs.CRS.from_user_input(UTM).to_epsg() and scene.transform == NORTH_UP
    with rasterio.open(name.given) as vrt:
        assert np.array_equal(vrt.read(), bands[[2, 1, 0, 3]])


def test_near_infrared_of_another_grid_is_left_out(bands: np.ndarray, tmp_path: Path, make_scene: SceneFactory) -> None:
    make_scene(shape_hw=(100, 130), bands=1, dtype="uint16", name="b4.tif")
    with rasterio.open(scene_of(SourceName.of(item(tmp_path, **COLOURS, n=one_band(4, "nir")))).given) as vrt:
        assert vrt.count == 3


def test_colours_of_different_grids_are_refused(bands: np.ndarray, tmp_path: Path, make_scene: SceneFactory) -> None:
    make_scene(shape_hw=(100, 130), bands=1, dtype="uint16", name="b1.tif")
    with pytest.raises(SceneError, match="the assets r and b have different pixel grids"):
        scene_of(SourceName.of(item(tmp_path, **COLOURS)))


def test_one_asset_of_named_bands_is_taken_before_others(make_scene: SceneFactory, tmp_path: Path) -> None:
    pixels = picture(4, HW)
    make_scene(pixels=pixels, name="all.tif")
    named = [{"name": "x", "eo:common_name": colour} for colour in ("nir", "red", "green", "blue")]
    path = item(tmp_path, visual={"href": "all.tif", "roles": ["visual"]}, all={"href": "all.tif", "bands": named})
    with rasterio.open(scene_of(SourceName.of(path)).given) as vrt:
        assert np.array_equal(vrt.read(), pixels[[1, 2, 3, 0]])
        assert vrt.colorinterp[:3] == (ColorInterp.red, ColorInterp.green, ColorInterp.blue)


@pytest.mark.parametrize("role", ["visual", "data"])
def test_without_named_bands_the_role_counts(make_scene: SceneFactory, tmp_path: Path, role: str) -> None:
    pixels = picture(3, HW)
    make_scene(pixels=pixels, name="picture.tif", alpha=np.full(HW, 255))
    path = item(tmp_path, a={"href": "picture.tif", "roles": [role]}, t={"href": "t.tif", "roles": ["thumbnail"]})
    with Scene.open(scene_of(SourceName.of(path))) as scene:
        assert scene.bands == (1, 2, 3) and scene.nir_band is None
    with rasterio.open(scene_of(SourceName.of(path)).given) as vrt:
        assert vrt.colorinterp[3] == ColorInterp.alpha and np.array_equal(vrt.read()[:3], pixels)


def test_an_item_that_fits_no_rule_names_its_assets(make_scene: SceneFactory, tmp_path: Path) -> None:
    path = item(tmp_path, one={"href": "a.tif", "roles": ["data"]}, two={"href": "b.tif", "roles": ["data"]})
    with pytest.raises(SceneError, match=r"item\.json: no assets .* its assets: one, two"):
        scene_of(SourceName.of(path))
    path.write_text(json.dumps({"type": "Collection", "stac_version": "1.0.0"}))
    with pytest.raises(SceneError, match="is a STAC Collection, not an item"):
        scene_of(SourceName.of(path))


def test_an_item_on_a_server_gives_the_rasters_of_the_file(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    scene = make_scene(shape_hw=HW, name="picture.tif", tiled=True, blockxsize=128, blockysize=128)
    item(tmp_path, a={"href": "./picture.tif?sig=SECRET", "roles": ["data"]})
    options = SegmentOptions(tile_size=128, overlap=32, exhaustive=True)
    segment_scene(scene, tmp_path / "local", FakeSegmenter(), options)
    with serving(tmp_path) as server:
        ((name, source),) = find_scenes([server.url("item.json")], tmp_path)
        result = segment_scene(source, tmp_path / "remote", FakeSegmenter(), options, name=name)
    assert name == "flood_1_of_2" and result.report["source"]["date"] == "2024-03-03T10:20:30+00:00"
    for kind in ("mask", "probability"):
        with (
            rasterio.open(tmp_path / "local" / f"picture_{kind}.tif") as local,
            rasterio.open(tmp_path / "remote" / f"{name}_{kind}.tif") as remote,
        ):
            assert np.array_equal(local.read(), remote.read()) and local.profile == remote.profile
    assert not any(b"SECRET" in file.read_bytes() for file in (tmp_path / "remote").iterdir())
