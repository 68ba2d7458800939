"""Masks and areas of interest laid over a scene: which pixels they cover."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from conftest import NORTH_UP, UTM, SceneFactory, picture

from floodmap.errors import SceneError
from floodmap.geo.window import Window
from floodmap.imagery.raster.fingerprint import of_input
from floodmap.imagery.scene import Scene
from floodmap.options import SceneOptions
from floodmap.strips import codes

HW = (60, 80)
HALF = np.indices(HW)[1] < 40


def covered(scene: Path, *, mask: Path | None = None, aoi: Path | None = None) -> np.ndarray:
    with Scene.open(scene, SceneOptions(mask=mask, aoi=aoi)) as opened:
        reason = opened.read(Window(0, 0, *HW)).reason
    return reason == codes.MASKED if mask else reason != codes.OUTSIDE


@pytest.mark.parametrize("shift", [0, 4])
@pytest.mark.parametrize("kind", ["nodata", "alpha", "mask", "void", "nan"])
def test_unobserved_pixels_of_a_raster_are_no_area_of_interest(kind: str, shift: int, make_scene: SceneFactory) -> None:
    ones = np.ones((1, *HW), np.uint8)
    halves = {
        "nodata": {"pixels": np.where(HALF, ones, 7), "nodata": 7},
        "alpha": {"pixels": ones, "alpha": np.where(HALF, 255, 0)},
        "mask": {"pixels": ones, "mask": HALF},
        "void": {"pixels": np.where(HALF, ones, np.float32(-9999))},
        "nan": {"pixels": np.where(HALF, ones, np.float32(np.nan))},
    }
    # Shifted by whole pixels it is warped onto the scene.
    place = NORTH_UP @ Affine.translation(shift, 0)
    aoi = make_scene(name="aoi.tif", transform=place, **halves[kind])  # type: ignore[arg-type]
    expected = np.roll(HALF, shift, axis=1)
    expected[:, :shift] = False
    scene = make_scene(pixels=picture(3, HW), name="scene.tif")
    assert np.array_equal(covered(scene, aoi=aoi), expected)


def test_where_a_mask_is_void_ground_stays_unobserved(make_scene: SceneFactory) -> None:
    clouds = np.where(HALF, 0, -9999).astype("int16")[None]
    scene = make_scene(pixels=picture(3, HW), name="scene.tif")
    assert np.array_equal(covered(scene, mask=make_scene(pixels=clouds, name="clouds.tif")), ~HALF)


@pytest.mark.parametrize("shift", [0, 4])
@pytest.mark.parametrize(("dtype", "value"), [("int16", -9999), ("uint8", 255), ("float32", np.nan)])
def test_where_a_mask_has_nodata_beside_0_ground_stays_unobserved(
    dtype: str, value: float, shift: int, make_scene: SceneFactory
) -> None:
    clouds = np.where(HALF, 0, np.array(value, dtype))[None].astype(dtype)
    place = NORTH_UP @ Affine.translation(shift, 0)
    mask = make_scene(pixels=clouds, nodata=value, transform=place, name="clouds.tif")
    expected = np.roll(~HALF, shift, axis=1)
    expected[:, :shift] = False  # outside of the mask
    scene = make_scene(pixels=picture(3, HW), name="scene.tif")
    assert np.array_equal(covered(scene, mask=mask), expected)


@pytest.mark.parametrize("value", [0, 255])
def test_nodata_of_a_mask_is_free_ground_where_it_holds_no_other_0(
    value: int, make_scene: SceneFactory, caplog: pytest.LogCaptureFixture
) -> None:
    mask = make_scene(pixels=np.where(HALF, 1, value).astype("uint8")[None], nodata=value, name="clouds.tif")
    assert np.array_equal(covered(make_scene(pixels=picture(3, HW), name="scene.tif"), mask=mask), HALF)
    assert ("clouds.tif holds no 0" in caplog.text) == (value != 0)


@pytest.mark.parametrize("option", ["mask", "aoi"])
def test_a_picture_is_no_mask_and_no_area_of_interest(option: str, make_scene: SceneFactory) -> None:
    scene, painted = make_scene(name="scene.tif"), make_scene(name="painted.tif")
    with pytest.raises(SceneError, match=r"painted\.tif has 3 bands: it is imagery") as caught:
        covered(scene, **{option: painted})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".gpkg", ".tif"])
def test_a_mask_beside_the_scene_is_a_remark(suffix: str, make_scene: SceneFactory, tmp_path: Path) -> None:
    mask = tmp_path / f"far{suffix}"
    if suffix == ".tif":
        make_scene(bands=1, transform=Affine.translation(1e5, 0) @ NORTH_UP, name=mask.name)
    else:
        geopandas.GeoDataFrame(geometry=[shapely.box(15, 47, 15.1, 47.1)], crs=UTM).to_file(mask)  # degrees
    for path in (mask, make_scene(bands=1, name="here.tif")):
        with Scene.open(make_scene(pixels=picture(3, HW), name="scene.tif"), SceneOptions(mask=path)) as opened:
            assert any("does not overlap" in line and mask.name in line for line in opened.remarks) == (path == mask)


@pytest.mark.parametrize("crs", [UTM, "EPSG:4326"])
def test_clouds_beside_the_scene_are_no_remark(crs: str, make_scene: SceneFactory, tmp_path: Path) -> None:
    clouds = geopandas.GeoDataFrame(geometry=[shapely.box(5.3e5, 4.99e6, 5.4e5, 5e6)], crs=UTM).to_crs(crs)
    clouds.to_file(tmp_path / "clouds.gpkg")
    scene = make_scene(pixels=picture(3, HW), name="scene.tif")
    with Scene.open(scene, SceneOptions(mask=tmp_path / "clouds.gpkg")) as opened:
        assert not opened.remarks


def test_a_raster_of_the_whole_earth_overlaps_a_scene_in_any_crs(make_scene: SceneFactory) -> None:
    turn, place = Affine(10, 0, -180, 0, -10, 90), Affine(1, 0, -6e5, 0, -1, -1.1e6)
    earth = make_scene(pixels=np.ones((1, 18, 36), np.uint8), crs="EPSG:4326", transform=turn, name="earth.tif")
    scene = make_scene(pixels=picture(3, HW), crs="EPSG:5514", transform=place, name="scene.tif")
    assert covered(scene, mask=earth).all() and covered(scene, aoi=earth).all()
    with Scene.open(scene, SceneOptions(mask=earth)) as opened:
        assert not opened.remarks
    whole = make_scene(pixels=picture(3, (18, 36)), crs="EPSG:4326", transform=turn, name="whole.tif")
    local = make_scene(pixels=np.ones((1, *HW), np.uint8), crs="EPSG:5514", transform=place, name="local.tif")
    with Scene.open(whole, SceneOptions(mask=local)) as opened:
        assert not opened.remarks


def test_a_south_up_raster_is_an_area_of_interest(make_scene: SceneFactory) -> None:
    north_first = np.where(np.indices(HW)[0] < 20, 1, 0).astype("uint8")
    x, y = NORTH_UP @ (0, HW[0])
    aoi = make_scene(pixels=north_first[None, ::-1], transform=Affine(0.5, 0, x, 0, 0.5, y), name="aoi.tif")
    assert np.array_equal(covered(make_scene(pixels=picture(3, HW), name="scene.tif"), aoi=aoi), north_first == 1)


def test_a_mosaic_that_lacks_a_member_is_no_area_of_interest(make_scene: SceneFactory, tmp_path: Path) -> None:
    part = make_scene(pixels=np.ones((1, *HW), np.uint8), name="part.tif")
    rasterio.shutil.copy(part, tmp_path / "aoi.vrt", driver="VRT")
    part.unlink()
    scene = make_scene(pixels=picture(3, HW), name="scene.tif")
    with pytest.raises(SceneError, match=r"aoi\.vrt: its part .*part\.tif cannot be read"):
        covered(scene, aoi=tmp_path / "aoi.vrt")


def test_masks_and_areas_of_interest_have_fingerprints_too(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    mask = make_scene(bands=1, name="mask.tif")
    before = of_input(mask)
    assert before == of_input(mask.rename(tmp_path / "renamed.tif"))
    assert of_input(make_scene(bands=1, name="mask.tif", shape_hw=(9, 9))) != before
    assert of_input("https://127.0.0.1:9/nobody.tif") is None and of_input("S3:nothing") is None


def test_areas_in_geoparquet_are_laid_over_a_scene(make_scene: SceneFactory, tmp_path: Path) -> None:
    scene = make_scene(pixels=picture(3, HW), name="scene.tif")
    left, top = NORTH_UP @ (0, 0)
    frame = geopandas.GeoDataFrame(geometry=[shapely.box(left, top - 100, left + 20, top)], crs=UTM)
    frame.to_parquet(tmp_path / "aoi.parquet")
    assert np.array_equal(covered(scene, aoi=tmp_path / "aoi.parquet"), HALF)


def test_of_several_layers_the_one_that_is_used_is_named(
    make_scene: SceneFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene = make_scene(pixels=picture(3, HW), name="scene.tif")
    left, top = NORTH_UP @ (0, 0)
    for layer, width in (("zz", 20), ("aa", 40)):
        frame = geopandas.GeoDataFrame(geometry=[shapely.box(left, top - 100, left + width, top)], crs=UTM)
        frame.to_file(tmp_path / "aoi.gpkg", layer=layer, mode="a" if layer == "aa" else "w")
    assert np.array_equal(covered(scene, aoi=tmp_path / "aoi.gpkg"), HALF)
    assert "zz, aa; only the layer zz is used" in caplog.text
