"""Scene: every odd raster is either read right, held against rasterio and plain numpy, or refused in one line."""

from __future__ import annotations

import os
import threading
import warnings
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import rasterio.vrt
import rasterio.windows
from affine import Affine
from conftest import GEOGRAPHIC, NORTH_UP, ROTATED, SOUTH_UP, UTM, SceneFactory, picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyproj import Geod, Transformer
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling

from floodmap.errors import FloodmapError, MissingCRSError, SceneError
from floodmap.geo.window import Window
from floodmap.imagery.scene import Scene
from floodmap.imagery.tile import Tile
from floodmap.inspection import valid_share
from floodmap.masks.raster import RasterMask
from floodmap.options import SceneOptions
from floodmap.strips import codes

SHARED = Path(__file__).parents[2] / "shared" / "scenes"


def whole(path: Path, **options: object) -> Tile:
    """The whole scene as one tile."""
    with Scene.open(path, SceneOptions(**options)) as scene:  # type: ignore[arg-type]
        return scene.read(Window(0, 0, scene.height, scene.width))


def reasons(tile: Tile) -> set[int]:
    return set(np.unique(tile.reason).tolist())


@pytest.mark.parametrize(
    ("crs", "transform"),
    [(UTM, NORTH_UP), (UTM, ROTATED), (UTM, SOUTH_UP), ("EPSG:4326", GEOGRAPHIC), ("EPSG:25833+5783", NORTH_UP)],
    ids=["north-up", "rotated", "south-up", "geographic", "compound"],
)
def test_a_window_is_the_file_s_pixels_and_the_georeference_is_kept(make_scene: SceneFactory, crs, transform) -> None:
    path = make_scene(crs=crs, transform=transform)
    with Scene.open(path) as scene, rasterio.open(path) as file:
        tile = scene.read(Window(5, 7, 20, 30))
        assert np.array_equal(tile.rgb, file.read()[:, 5:25, 7:37])
        assert tile.rgb.dtype == np.uint8 and tile.valid.all() and tile.nir is None
        flat = CRS.from_epsg(25833) if "+" in crs else file.crs  # heights are dropped
        assert (scene.transform, scene.crs, scene.width, scene.height) == (file.transform, flat, 64, 48)


@pytest.mark.parametrize(
    ("crs", "transform"), [(UTM, NORTH_UP), (UTM, ROTATED), ("EPSG:4326", GEOGRAPHIC), ("EPSG:3857", NORTH_UP)]
)
def test_the_ground_sample_distance_is_geodesic(make_scene: SceneFactory, crs, transform) -> None:
    with Scene.open(make_scene(crs=crs, transform=transform)) as scene:
        ends = [scene.transform @ point for point in ((0, 24), (64, 24), (32, 0), (32, 48))]
        lon, lat = Transformer.from_crs(crs, 4326, always_xy=True).transform(*np.transpose(ends))
        _, _, (across, down) = Geod(ellps="WGS84").inv(lon[::2], lat[::2], lon[1::2], lat[1::2])
        assert scene.gsd_m == pytest.approx(np.sqrt(across / 64 * down / 48), rel=1e-4)


@pytest.mark.slow
def test_sixteen_bits_are_stretched_once_for_the_scene(make_scene: SceneFactory) -> None:
    path = make_scene(dtype="uint16", shape_hw=(300, 400))
    with Scene.open(path) as scene, rasterio.open(path) as file:
        values = file.read().astype(float)
        low, high = np.percentile(values, [1, 99], axis=(1, 2))
        assert scene.stretch.low == pytest.approx(low, rel=0.05) and scene.stretch.high == pytest.approx(high, rel=0.05)
        tile = scene.read(Window(10, 20, 100, 90))
        low, high = (np.array(side)[:, None, None] for side in (scene.stretch.low, scene.stretch.high))
        expected = np.clip(np.rint((values[:, 10:110, 20:110] - low) / (high - low) * 255), 0, 255)
        assert np.abs(tile.rgb - expected).max() <= 1 and np.mean(tile.rgb != expected) < 1e-3


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
def test_a_constant_scene_of_any_dtype_is_mid_grey(make_scene: SceneFactory, dtype: str) -> None:
    tile = whole(make_scene(pixels=np.full((3, 9, 11), 100, dtype)))
    assert tile.valid.all() and set(np.unique(tile.rgb)) <= {127, 128}


def test_negative_and_huge_values_are_stretched(make_scene: SceneFactory) -> None:
    ramp = np.linspace(-1, 1, 40 * 50).reshape(1, 40, 50).repeat(3, axis=0)
    for dtype, factor in (("int8", 120), ("int16", 30000), ("float32", 3e38), ("float64", 1e300)):
        tile = whole(make_scene(pixels=(ramp * factor).astype(dtype), name=f"{dtype}.tif"))
        assert tile.valid.all() and tile.rgb.min() == 0 and tile.rgb.max() == 255, dtype
        assert abs(float(tile.rgb.mean()) - 127.5) < 2 and (np.diff(tile.rgb[0].ravel().astype(int)) >= 0).all(), dtype


def test_nan_and_infinity_are_nodata_and_do_not_touch_the_stretch(make_scene: SceneFactory) -> None:
    pixels = picture(3, (40, 50), "float32")
    dirty = pixels.copy()
    dirty[0, :5], dirty[1, 5:9], dirty[2, 9] = np.nan, np.inf, -np.inf
    tile = whole(make_scene(pixels=dirty))
    assert (tile.reason[:10] == codes.NODATA).all() and tile.valid[10:].all()
    assert np.array_equal(tile.rgb[:, 10:], whole(make_scene(pixels=pixels[:, 10:], name="clean.tif")).rgb)


def test_a_palette_is_expanded_and_its_transparent_entries_are_nodata(make_scene: SceneFactory) -> None:
    index = np.random.default_rng(1).integers(0, 3, (1, 20, 30), dtype=np.uint8)
    table = {0: (10, 20, 30, 255), 1: (200, 100, 50, 255), 2: (0, 0, 0, 0)}
    path = make_scene(pixels=index, colormap=table, name="palette.png", driver="PNG", transform=None, crs=None)
    for name, file in (("png", path), ("tif", make_scene(pixels=index, colormap=table, nodata=2))):
        tile = whole(file)
        assert np.array_equal(tile.valid, index[0] != 2), name
        colours = np.array([table[n][:3] for n in range(3)])[index[0]].transpose(2, 0, 1)
        assert np.array_equal(tile.rgb[:, tile.valid], colours[:, tile.valid]), name


def test_one_band_is_grey(make_scene: SceneFactory) -> None:
    path = make_scene(bands=1)
    tile = whole(path)
    with rasterio.open(path) as file:
        assert all(np.array_equal(band, file.read(1)) for band in tile.rgb)
    assert tile.rgb.flags.writeable


def test_alpha_0_is_nodata_and_1_is_not(make_scene: SceneFactory) -> None:
    alpha = np.full((48, 64), 255)
    alpha[:10], alpha[10:12] = 0, 1
    for bands, dtype in ((1, "uint8"), (3, "uint8"), (3, "uint16")):
        path = make_scene(bands=bands, dtype=dtype, alpha=alpha, name=f"a{bands}{dtype}.tif")
        with Scene.open(path) as scene:
            tile = scene.read(Window(0, 0, 48, 64))
            assert len(scene.bands) == bands and scene.nir_band is None
            assert (tile.reason[:10] == codes.NODATA).all() and tile.valid[10:].all()


def test_four_bands_without_alpha_are_rgb_and_near_infrared(make_scene: SceneFactory) -> None:
    for dtype in ("uint8", "uint16"):
        path = make_scene(bands=4, dtype=dtype, name=f"{dtype}.tif")
        with Scene.open(path) as scene, rasterio.open(path) as file:
            tile = scene.read(Window(0, 0, 48, 64))
            assert (scene.bands, scene.nir_band) == ((1, 2, 3), 4) and tile.nir is not None
            assert np.corrcoef(tile.nir.ravel(), file.read(4).ravel())[0, 1] > 0.99


def test_near_infrared_that_gdal_took_for_alpha_is_near_infrared(make_scene: SceneFactory, caplog) -> None:
    pixels = picture(4, (200, 200))
    pixels[3, :80] = 0  # deep water; as alpha it would be nodata
    path = make_scene(pixels=pixels[:3], alpha=pixels[3])
    with rasterio.open(path) as file:
        assert file.colorinterp[3] == ColorInterp.alpha
    with Scene.open(path, SceneOptions(collar="off")) as scene:
        tile = scene.read(Window(0, 0, 200, 200))
        assert scene.nir_band == 4 and tile.valid.all() and np.array_equal(tile.nir, pixels[3])
        assert scene.preview(20).valid.all()
    assert "band 4 as near infrared" in caplog.text and "--bands" in caplog.text


def test_bands_can_be_chosen_and_wrong_ones_are_refused(make_scene: SceneFactory) -> None:
    path = make_scene(bands=5)
    with rasterio.open(path) as file:
        values = file.read()
    tile = whole(path, bands=(4, 3, 2, 5))
    assert np.array_equal(tile.rgb, values[[3, 2, 1]]) and np.array_equal(tile.nir, values[4])
    assert np.array_equal(whole(path).rgb, values[:3])
    assert np.array_equal(whole(path, bands=(2,)).rgb, values[[1, 1, 1]])
    for wrong, line in (((1, 2, 6), "no band 6"), ((0, 1, 2), "no band 0"), ((1, 2), "2 bands chosen")):
        with pytest.raises(SceneError, match=line):
            whole(path, bands=wrong)


def test_descriptions_and_colour_interpretation_name_the_bands(make_scene: SceneFactory) -> None:
    named = make_scene(bands=5, descriptions=["Blue", "Green", "Red", "Rededge", "NIR"], name="named.tif")
    bgr = make_scene(colorinterp=[ColorInterp.blue, ColorInterp.green, ColorInterp.red], name="bgr.tif")
    with Scene.open(named) as scene, Scene.open(bgr) as other:
        assert (scene.bands, scene.nir_band, other.bands) == ((3, 2, 1), 5, (3, 2, 1))


@pytest.mark.parametrize("nodata", [0, 255])
def test_only_pixels_that_are_nodata_in_all_bands_are_nodata(make_scene: SceneFactory, nodata: int) -> None:
    pixels = picture(3, (48, 64))
    pixels[:, :10], pixels[0, 20] = nodata, nodata
    for option, path in (
        (None, make_scene(pixels=pixels, nodata=nodata)),
        (nodata, make_scene(pixels=pixels, name="b.tif")),
    ):
        tile = whole(path, nodata=option)
        assert (tile.reason[:10] == codes.NODATA).all() and tile.valid[10:].all()
        assert np.array_equal(tile.rgb, pixels)


def test_the_nodata_option_overrides_the_file(make_scene: SceneFactory) -> None:
    pixels = picture(3, (48, 64))
    pixels[:, :10], pixels[:, 10:20] = 77, 99
    path = make_scene(pixels=pixels, nodata=77)
    tile = whole(path, nodata=99)
    assert tile.valid[:10].all() and (tile.reason[10:20] == codes.NODATA).all() and tile.valid[20:].all()


def test_nodata_that_no_pixel_can_hold_is_ignored_in_files_and_refused_as_an_option(make_scene: SceneFactory) -> None:
    vrt = make_scene(name="a.tif").with_suffix(".vrt")
    source = "<SourceFilename relativeToVRT='1'>a.tif</SourceFilename><SourceBand>{0}</SourceBand>"
    source = f"<SimpleSource>{source}</SimpleSource>"
    band = "<VRTRasterBand dataType='Byte' band='{0}'><NoDataValue>-9999</NoDataValue>" + source + "</VRTRasterBand>"
    bands = "".join(band.format(n) for n in (1, 2, 3))
    vrt.write_text(f"<VRTDataset rasterXSize='64' rasterYSize='48'>{bands}</VRTDataset>")
    assert whole(vrt).valid.all()
    for value in (-9999.0, 0.5, float("nan")):
        with pytest.raises(SceneError, match="cannot occur"):
            whole(vrt, nodata=value)


@pytest.mark.parametrize("nodata", [-9999.0, -3.4028234663852886e38, float("nan")])
def test_float_nodata_is_found_and_leaves_averages_alone(make_scene: SceneFactory, nodata: float) -> None:
    pixels = picture(3, (48, 64), "float32")
    pixels[:, :, :21] = nodata
    for option, path in (
        (None, make_scene(pixels=pixels, nodata=nodata)),
        (nodata, make_scene(pixels=pixels, name="b.tif")),
    ):
        tile = whole(path, nodata=option)
        assert (tile.reason[:, :21] == codes.NODATA).all() and tile.valid[:, 21:].all()
        coarse = whole(path, nodata=option, resolution_m=1.0)
        column = coarse.rgb[:, :, 10]  # source columns 20 (nodata) and 21
        if not np.isnan(nodata) or option is None:
            assert np.abs(column - tile.rgb[:, ::2, 21].astype(int)).mean() < 40


def test_an_internal_mask_hides_what_is_under_it(make_scene: SceneFactory) -> None:
    mask = np.random.default_rng(3).random((48, 64)) > 0.3
    for extra in ({}, {"nodata": 40}, {"compress": "JPEG", "photometric": "YCbCr"}):
        pixels = picture(3, (48, 64))
        tile = whole(make_scene(pixels=pixels, mask=mask, **extra))
        assert np.array_equal(tile.reason == codes.NODATA, ~mask)


def test_a_scene_of_nothing_but_nodata_opens(make_scene: SceneFactory) -> None:
    for dtype in ("uint8", "uint16", "float32"):
        path = make_scene(pixels=np.zeros((3, 40, 50), dtype), nodata=0, name=f"{dtype}.tif")
        with Scene.open(path) as scene:
            assert reasons(scene.read(Window(0, 0, 40, 50))) == {codes.NODATA} and valid_share(scene) == 0


@pytest.mark.parametrize("shape_hw", [(1, 1), (1, 70), (50, 1), (3, 2)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_scenes_of_a_few_pixels_are_read(make_scene: SceneFactory, shape_hw: tuple[int, int], dtype: str) -> None:
    path = make_scene(shape_hw=shape_hw, dtype=dtype)
    with Scene.open(path) as scene:
        tile = scene.read(Window(0, 0, *shape_hw))
        assert tile.rgb.shape == (3, *shape_hw) and tile.valid.all() and valid_share(scene) == 1
        assert scene.preview(1).rgb.shape == (3, 1, 1)


def test_a_window_outside_the_scene_is_refused(make_scene: SceneFactory) -> None:
    with Scene.open(make_scene()) as scene:
        for window in (Window(0, 0, 49, 64), Window(-1, 0, 5, 5), Window(0, 60, 5, 5), Window(0, 0, 0, 5)):
            with pytest.raises(SceneError, match="not inside"):
                scene.read(window)


@pytest.mark.slow
def test_ground_control_points_place_a_scene_to_a_fraction_of_a_pixel(make_scene: SceneFactory) -> None:
    pixels = np.full((3, 120, 160), 90, np.uint8)
    pixels[:, 40:60, 100:130] = 200  # a block whose corners can be found again
    place = Affine.translation(500_000, 5_000_000) @ Affine.rotation(20) @ Affine.scale(0.5, -0.5)
    points = [(r, c, *(place @ (c, r))) for r in (0, 60, 120) for c in (0, 80, 160)]
    with Scene.open(make_scene(pixels=pixels, gcps=points)) as scene:
        assert scene.crs.to_epsg() == 32633 and scene.gsd_m == pytest.approx(0.5, rel=0.1)
        tile = scene.read(Window(0, 0, scene.height, scene.width))
        bright = (tile.rgb[0] > 145) & tile.valid
        rows, cols = np.nonzero(bright)
        centre = scene.transform @ (cols.mean() + 0.5, rows.mean() + 0.5)
        assert np.hypot(*np.subtract(centre, place @ (115, 50))) < 0.1
        pixel_area = abs(scene.transform.determinant)
        assert bright.sum() * pixel_area == pytest.approx(20 * 30 * 0.25, rel=0.03)
        assert tile.valid.sum() * pixel_area == pytest.approx(120 * 160 * 0.25, rel=0.03)
        assert reasons(tile) == {0, codes.NODATA}


def test_a_gcp_scene_keeps_its_nodata_and_its_alpha(make_scene: SceneFactory) -> None:
    points = [(r, c, 500_000 + c, 5_000_000 - r) for r in (0, 24, 48) for c in (0, 32, 64)]
    pixels = picture(3, (48, 64))
    pixels[:, :, :32] = 7
    alpha = np.where(np.arange(64) < 32, 0, 255)[None].repeat(48, axis=0)
    for path in (make_scene(pixels=pixels, gcps=points, nodata=7), make_scene(alpha=alpha, gcps=points, name="b.tif")):
        tile = whole(path)
        assert tile.valid.mean() == pytest.approx(0.5, abs=0.02) and (tile.reason[:, 5] == codes.NODATA).all()


def test_control_points_that_place_nothing_are_refused_in_one_line(make_scene: SceneFactory, capfd) -> None:
    points = [(r, r, 500_000 + r, 5_000_000 - r) for r in range(0, 48, 6)]  # all on one line
    with pytest.raises(SceneError, match="cannot be placed by its 8 control points"):
        Scene.open(make_scene(gcps=points))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["photo.jpg", "photo.png", "Überflutung 洪水.tif"])
def test_pictures_without_a_place_are_read_in_pixels_without_a_warning(make_scene: SceneFactory, name: str) -> None:
    path = make_scene(crs=None, transform=None, name=name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Scene.open(path) as scene:
            tile = scene.read(Window(0, 0, 48, 64))
            scene.preview(10)
            assert scene.crs is None and scene.transform == Affine.scale(1, -1) and scene.gsd_m is None
            assert scene.name == Path(name).stem and tile.valid.all()


def test_a_crs_can_be_assigned_where_there_is_a_world_file_and_not_where_there_is_none(
    make_scene: SceneFactory,
) -> None:
    with Scene.open(make_scene(crs=None)) as scene:
        assert scene.crs is None and scene.transform == NORTH_UP and scene.gsd_m is None
    for crs in (None, "EPSG:32634"):
        with Scene.open(make_scene(crs=crs), SceneOptions(crs=UTM)) as scene:
            assert scene.crs.to_epsg() == 32633 and scene.gsd_m == pytest.approx(0.5, rel=1e-3)
    bare = make_scene(crs=None, transform=None)
    with pytest.raises(SceneError, match="world file"):
        Scene.open(bare, SceneOptions(crs=UTM))
    with pytest.raises(SceneError, match="not a CRS"):
        Scene.open(make_scene(), SceneOptions(crs="EPSG:0"))


def test_a_crs_that_is_not_on_the_earth_is_no_crs(make_scene: SceneFactory, caplog) -> None:
    with Scene.open(make_scene(crs='LOCAL_CS["site",UNIT["metre",1]]')) as scene:
        assert scene.crs is None
    assert "without a position on the Earth" in caplog.text


def test_coordinates_that_the_crs_does_not_have_are_refused(make_scene: SceneFactory) -> None:
    with pytest.raises(SceneError, match=r"does not exist in EPSG:4326.*--crs"):
        Scene.open(make_scene(crs="EPSG:4326", transform=NORTH_UP))


def test_a_raster_at_the_origin_of_a_projected_crs_keeps_its_place(make_scene: SceneFactory) -> None:
    at_origin = Affine(1, 0, 0, 0, -1, 0)  # as floodmap writes it for pictures without a place
    path = make_scene(crs="EPSG:3857", transform=at_origin)
    with rasterio.open(path) as dataset, Scene.open(path) as scene:
        assert (scene.crs, scene.transform) == (dataset.crs, dataset.transform) == ("EPSG:3857", at_origin)
    mask = RasterMask(make_scene(bands=1, crs="EPSG:3857", transform=at_origin, name="mask.tif"))
    assert mask.grid.crs == "EPSG:3857"
    mask.close()
    for crs in (None, "EPSG:4326"):  # pixels of one degree are those of a picture without a place
        with Scene.open(make_scene(crs=crs, transform=at_origin)) as scene:
            assert scene.crs is None


def test_the_sidecar_of_a_png_places_it(make_scene: SceneFactory) -> None:
    path = make_scene(name="ortho.tif")
    png = path.with_suffix(".png")
    with rasterio.Env(GDAL_PAM_ENABLED="YES"):
        rasterio.shutil.copy(path, png, driver="PNG")
    assert Path(f"{png}.aux.xml").exists()
    with Scene.open(png) as scene:
        assert scene.crs.to_epsg() == 32633 and scene.transform == NORTH_UP


@pytest.mark.parametrize("transform", [NORTH_UP, ROTATED, SOUTH_UP])
def test_a_coarser_resolution_averages_blocks_of_pixels(make_scene: SceneFactory, transform: Affine) -> None:
    path = make_scene(shape_hw=(60, 90), transform=transform)
    with Scene.open(path, SceneOptions(resolution_m=1.5)) as scene, rasterio.open(path) as file:
        assert (scene.height, scene.width) == (20, 30) and scene.gsd_m == pytest.approx(1.5, rel=1e-3)
        corner, expected = scene.transform @ (30, 20), file.transform @ (90, 60)
        assert corner == pytest.approx(expected) and scene.transform.b / 3 == pytest.approx(file.transform.b)
        blocks = file.read().reshape(3, 20, 3, 30, 3).mean(axis=(2, 4))
        window = Window(4, 6, 10, 20)
        assert np.abs(scene.read(window).rgb - blocks[:, 4:14, 6:26]).max() <= 0.51


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("nodata", [None, 0])
def test_shrunk_windows_are_what_gdal_makes_of_them(make_scene: SceneFactory, factor: int, nodata: int | None) -> None:
    pixels = np.random.default_rng(0).integers(1, 256, (3, 241, 323)).astype(np.uint8)
    pixels[:, 100:130, 200:230] = 0
    path = make_scene(pixels=pixels, nodata=nodata)
    with Scene.open(path) as scene, rasterio.open(path) as file:
        for window in (Window(0, 0, 25, 40), Window(24, 40, 30, 30), Window(33, 10, 240 // factor - 33, 71)):
            part = rasterio.windows.Window(
                *(factor * n for n in (window.col_off, window.row_off, window.width, window.height))
            )
            how = {"window": part, "out_shape": (3, window.height, window.width)}
            tile = scene.shrunk(window, factor)
            hidden = (file.read(**how, resampling=Resampling.nearest) == 0).all(axis=0) & (nodata is not None)
            np.testing.assert_array_equal(tile.valid, ~hidden)
            expected = file.read(**how, resampling=Resampling.average)
            difference = np.abs(tile.rgb[:, ~hidden].astype(int) - expected[:, ~hidden])
            assert difference.max() <= 1 and (difference > 0).mean() < 0.001  # GDAL rounds some halves down


def test_windows_of_a_resampled_scene_fit_together(make_scene: SceneFactory) -> None:
    for resolution in (0.3, 0.7, 1.3):
        with Scene.open(make_scene(shape_hw=(90, 120)), SceneOptions(resolution_m=resolution)) as scene:
            full = scene.read(Window(0, 0, scene.height, scene.width))
            half_h, half_w = scene.height // 2, scene.width // 3
            part = scene.read(Window(half_h, half_w, scene.height - half_h, scene.width - half_w))
            difference = np.abs(part.rgb.astype(int) - full.rgb[:, half_h:, half_w:])
            assert difference.max() <= 1, resolution


@pytest.mark.parametrize("nodata", [0, 255])
def test_near_infrared_of_nodata_pixels_is_left_out_of_means(make_scene: SceneFactory, nodata: int) -> None:
    pixels = np.full((4, 64, 64), 100, np.uint8)
    pixels[:3, :, 1::2] = nodata
    pixels[3, :, 1::2] = 50
    colours = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.undefined)
    path = make_scene(pixels=pixels, nodata=nodata, colorinterp=colours)
    with Scene.open(path, SceneOptions(bands=(1, 2, 3, 4))) as scene:
        tile = scene.shrunk(Window(0, 0, 16, 16), 4)
    assert tile.valid.all() and (tile.rgb == 100).all()
    assert tile.nir is not None and (tile.nir == 100).all()


def test_nodata_at_a_coarser_resolution_does_not_bleed(make_scene: SceneFactory) -> None:
    pixels = np.full((3, 60, 60), 100, np.uint8)
    pixels[:, :, :29] = 0
    for nodata, path in ((None, make_scene(pixels=pixels, nodata=0)), (0, make_scene(pixels=pixels, name="b.tif"))):
        tile = whole(path, nodata=nodata, resolution_m=2.0)
        assert (tile.rgb[:, tile.valid] == 100).all() and 0.45 < tile.valid.mean() < 0.6


def test_resolutions_that_make_no_sense_are_refused(make_scene: SceneFactory) -> None:
    path = make_scene()
    with pytest.raises(SceneError, match="adds no detail"):
        Scene.open(path, SceneOptions(resolution_m=0.1))
    with pytest.raises(SceneError, match="smaller than one pixel"):
        Scene.open(path, SceneOptions(resolution_m=1000))
    with pytest.raises(MissingCRSError, match="--crs"):
        Scene.open(make_scene(crs=None), SceneOptions(resolution_m=1))


@pytest.mark.slow
def test_a_preview_shows_the_scene_and_reads_overviews(make_scene: SceneFactory) -> None:
    path = make_scene(shape_hw=(256, 512), overviews=[2, 4])
    with Scene.open(path) as scene, rasterio.open(path) as file:
        small = scene.preview(64)
        blocks = file.read().reshape(3, 32, 8, 64, 8).mean(axis=(2, 4))
        assert small.rgb.shape == (3, 32, 64) and np.abs(small.rgb - blocks).mean() < 5
        assert scene.preview(10_000).rgb.shape == (3, 256, 512)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("missing.tif", None, "no such file"),
        ("empty.tif", b"", "is empty"),
        ("notes.tif", b"these are words, not pixels", "cannot be read as a raster"),
    ],
)
def test_what_is_no_raster_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes | None, line: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SceneError, match=line) as caught:
        Scene.open(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="is a folder"):
        Scene.open(tmp_path)


def test_complex_numbers_are_refused(make_scene: SceneFactory) -> None:
    with pytest.raises(SceneError, match="complex64"):
        Scene.open(make_scene(pixels=np.ones((1, 8, 8), np.complex64)))


def cut(path: Path) -> Path:
    """Drop the last two fifths of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    return path


@pytest.mark.parametrize("creation", [{}, {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "JPEG"}])
def test_a_truncated_tiff_fails_where_it_is_cut_and_is_read_elsewhere(make_scene: SceneFactory, creation: dict) -> None:
    pixels = np.random.default_rng(0).integers(40, 200, (3, 512, 256), dtype=np.uint8)
    with Scene.open(cut(make_scene(pixels=pixels, name="cut.tif", **creation))) as scene:
        top, bottom = Window(0, 0, 128, 256), Window(384, 0, 128, 256)
        assert scene.read(top).valid.all()
        with pytest.raises(SceneError, match=r"cut\.tif cannot be read in rows 384 to 512") as caught:
            scene.read(bottom)
        assert "\n" not in str(caught.value) and "previous" not in str(caught.value)
        assert reasons(scene.failed(bottom)) == {codes.FAILED}
        seen = scene.preview(64).reason
        assert (seen[:20] == 0).all() and (seen[-10:] == codes.FAILED).all()
        assert 0.3 < valid_share(scene) < 0.8


def test_a_truncated_png_fails_where_it_is_cut_and_is_read_elsewhere(make_scene: SceneFactory) -> None:
    pixels = np.random.default_rng(0).integers(40, 200, (3, 512, 256), dtype=np.uint8)
    with Scene.open(cut(make_scene(pixels=pixels, name="cut.png", transform=None, crs=None))) as scene:
        assert np.array_equal(scene.read(Window(128, 0, 128, 256)).rgb, pixels[:, 128:256])
        with pytest.raises(SceneError, match=r"cut\.png cannot be read in rows 384 to 512"):
            scene.read(Window(384, 0, 128, 256))
        seen = scene.preview(64).reason
        assert (seen[:20] == 0).all() and (seen[-10:] == codes.FAILED).all()


def test_a_truncated_jpeg_is_refused_in_one_line(make_scene: SceneFactory) -> None:
    pixels = np.random.default_rng(0).integers(40, 200, (3, 512, 256), dtype=np.uint8)
    path = cut(make_scene(pixels=pixels, name="cut.jpg", transform=None, crs=None))
    with pytest.raises(SceneError, match=r"cut\.jpg (is damaged|cannot be read)") as caught:
        Scene.open(path)
    assert "\n" not in str(caught.value)


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {entry.name: (entry.stat().st_size, entry.stat().st_mtime_ns) for entry in os.scandir(folder)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg"])
def test_reading_leaves_the_folder_as_it_was(make_scene: SceneFactory, tmp_path: Path, name: str) -> None:
    path = make_scene(shape_hw=(200, 300), name=name, crs=None, transform=None)
    before = listing(tmp_path)
    with Scene.open(path, SceneOptions(nodata=3)) as scene:
        scene.read(Window(0, 0, 200, 300))
        scene.preview(50)
        valid_share(scene)
        assert scene.fingerprint and scene.date
    assert listing(tmp_path) == before


def test_the_fingerprint_is_of_the_contents_alone(make_scene: SceneFactory, tmp_path: Path) -> None:
    pixels = picture(3, (48, 64))
    first = make_scene(pixels=pixels, name="one.tif")
    copy = tmp_path / "two.tif"
    copy.write_bytes(first.read_bytes())
    os.utime(copy, (1, 1))
    pixels[1, 20, 30] += 1
    changed = make_scene(pixels=pixels, name="three.tif")
    prints = []
    for path in (first, copy, changed):
        with Scene.open(path) as scene:
            prints.append(scene.fingerprint)
    assert prints[0] == prints[1] != prints[2]


def test_the_fingerprint_of_a_mosaic_follows_its_parts(make_scene: SceneFactory) -> None:
    path = make_scene(name="part.tif")
    mosaic = path.with_suffix(".vrt")
    rasterio.shutil.copy(path, mosaic, driver="VRT")
    prints = []
    for seed in (1, 2):
        make_scene(pixels=picture(3, (48, 64), seed=seed), name="part.tif")
        with Scene.open(mosaic) as scene:
            prints.append(scene.fingerprint)
    assert prints[0] != prints[1]


def test_the_date_is_the_file_s_tag_else_when_it_changed(make_scene: SceneFactory) -> None:
    tagged = make_scene(tags={"TIFFTAG_DATETIME": "2021:07:15 10:30:00"}, name="tagged.tif")
    plain = make_scene(name="plain.tif")
    os.utime(plain, (1_000_000, 1_000_000))
    with Scene.open(tagged) as scene, Scene.open(plain) as other:
        assert scene.date == datetime(2021, 7, 15, 10, 30, tzinfo=UTC)
        assert other.date == datetime.fromtimestamp(1_000_000, UTC)


def test_another_thread_may_read(make_scene: SceneFactory) -> None:
    path = make_scene(shape_hw=(200, 200))
    windows = [Window(row, col, 50, 50) for row in range(0, 200, 50) for col in range(0, 200, 50)]
    found: dict[Window, np.ndarray] = {}
    with Scene.open(path) as scene:
        threads = [
            threading.Thread(target=lambda part=part: found.update({w: scene.read(w).rgb for w in part}))
            for part in (windows[::2], windows[1::2])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    with rasterio.open(path) as file:
        values = file.read()
    assert all(np.array_equal(found[window], values[(slice(None), *window.slices)]) for window in windows)


@given(st.integers(1, 40), st.integers(1, 40), st.data())
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_window_is_a_cut_of_the_whole(
    make_scene: SceneFactory, height: int, width: int, data: st.DataObject
) -> None:
    pixels = np.random.default_rng(height).integers(30, 200, (3, height, width), dtype=np.uint8)
    row, col = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    window = Window(row, col, data.draw(st.integers(1, height - row)), data.draw(st.integers(1, width - col)))
    with Scene.open(make_scene(pixels=pixels, nodata=30)) as scene:
        tile = scene.read(window)
    cut = pixels[(slice(None), *window.slices)]
    assert np.array_equal(tile.rgb, cut) and np.array_equal(tile.valid, (cut != 30).any(axis=0))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["RGB.byte.tif", "cogeo.tif", "rgb16.tif"])
def test_real_scenes_are_read(name: str) -> None:
    path = SHARED / name
    if not path.exists():
        pytest.skip("the real scenes are not part of the repository")
    before = listing(SHARED)
    with Scene.open(path, SceneOptions(collar="off")) as scene, rasterio.open(path) as file:
        tile = scene.read(Window(0, 0, scene.height, scene.width))
        values = file.read()
        if values.dtype == np.uint8:
            assert np.array_equal(tile.rgb, values)
        if file.nodata is not None:
            assert np.array_equal(tile.valid, (values != file.nodata).any(axis=0))
        elif name == "cogeo.tif":
            assert np.array_equal(tile.valid, file.dataset_mask() > 0)
        assert scene.gsd_m == pytest.approx(file.res[0], rel=0.3) and scene.preview(100).valid.any()
    assert listing(SHARED) == before


def test_every_refusal_is_a_floodmap_error() -> None:
    assert issubclass(SceneError, FloodmapError) and issubclass(MissingCRSError, SceneError)


def polygons_file(path: Path, geometries: list, crs: str) -> Path:
    """Write geometries as a vector file, without geopandas."""
    import pyogrio
    import shapely

    wkb = np.array([shapely.to_wkb(geometry) for geometry in geometries], dtype=object)
    pyogrio.raw.write(path, wkb, [], [], geometry_type="Unknown", crs=crs)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("transform", [NORTH_UP, ROTATED, SOUTH_UP])
@pytest.mark.parametrize("crs", [UTM, "EPSG:4326"])
def test_polygons_mask_and_bound_a_scene(make_scene: SceneFactory, tmp_path: Path, transform: Affine, crs: str) -> None:
    import shapely

    path = make_scene(transform=transform)
    to_crs = Transformer.from_crs(UTM, crs, always_xy=True).transform

    def ground(left: float, top: float, right: float, bottom: float) -> shapely.Geometry:
        box = shapely.box(left, top, right, bottom)
        placed = shapely.transform(box, lambda x, y: transform @ (x, y), interleaved=False)
        return shapely.transform(placed, to_crs, interleaved=False)

    mask = polygons_file(tmp_path / "cloud.gpkg", [ground(10, 5, 20, 15), ground(40, 30, 90, 90)], crs)
    aoi = polygons_file(tmp_path / "aoi.geojson" if crs != UTM else tmp_path / "aoi.fgb", [ground(5, 0, 50, 40)], crs)
    expected = np.zeros((48, 64), np.uint8)
    expected[5:15, 10:20] = expected[30:, 40:] = codes.MASKED
    outside = np.ones((48, 64), bool)
    outside[:40, 5:50] = False
    expected[outside] = codes.OUTSIDE
    with Scene.open(path, SceneOptions(mask=mask, aoi=aoi)) as scene:
        tile = scene.read(Window(0, 0, 48, 64))
        # Through another CRS an edge that runs exactly between pixels may fall on either side.
        assert np.mean(tile.reason != expected) < (1e-9 if crs == UTM else 0.03)
        part = Window(20, 30, 28, 34)
        assert np.array_equal(scene.read(part).reason, tile.reason[part.slices])
        assert np.array_equal(scene.failed(part).reason == codes.OUTSIDE, tile.reason[part.slices] == codes.OUTSIDE)
        far = scene.read(Window(44, 0, 4, 64))
        assert reasons(far) == {codes.OUTSIDE} and reasons(scene.preview(16)) == {0, codes.MASKED, codes.OUTSIDE}
        inside = expected != codes.OUTSIDE
        assert valid_share(scene) == pytest.approx((expected[inside] == 0).mean(), abs=0.02)


def test_rasters_mask_a_scene_in_any_crs_and_grid(make_scene: SceneFactory) -> None:
    path = make_scene(transform=ROTATED)
    covered = np.zeros((1, 48, 64), np.uint8)
    covered[0, 10:30, 20:40] = 7
    same = make_scene(pixels=covered, transform=ROTATED, name="same.tif")
    bare = make_scene(pixels=covered, transform=None, crs=None, name="bare.png")
    with rasterio.open(same) as file, rasterio.vrt.WarpedVRT(file, crs="EPSG:4326") as warped:
        elsewhere = make_scene(pixels=warped.read(), crs="EPSG:4326", transform=warped.transform, name="far.tif")
    for mask, slack in ((same, 0), (bare, 0), (elsewhere, 0.04)):
        tile = whole(path, mask=mask)
        assert np.mean((tile.reason == codes.MASKED) != (covered[0] > 0)) <= slack, mask.name
    assert np.array_equal(whole(path, aoi=same).reason == codes.OUTSIDE, covered[0] == 0)
    coarse = whole(path, mask=bare, resolution_m=1.0)
    assert np.array_equal(coarse.reason == codes.MASKED, covered[0, ::2, ::2] > 0)


def test_a_mask_cannot_be_laid_over_a_scene_without_a_place(make_scene: SceneFactory, tmp_path: Path) -> None:
    import shapely

    scene = make_scene(crs=None, transform=None, name="scene.png")
    cover = np.ones((1, 48, 64), np.uint8)
    assert reasons(whole(scene, mask=make_scene(pixels=cover, crs=None, transform=None, name="m.png"))) == {
        codes.MASKED
    }
    polygons = polygons_file(tmp_path / "p.gpkg", [shapely.box(0, 0, 9, 9)], UTM)
    small = make_scene(pixels=cover[:, :9], crs=None, transform=None, name="small.png")
    for mask in (polygons, small, make_scene(pixels=cover, name="placed.tif")):
        with pytest.raises(MissingCRSError, match=r"scene\.png has no CRS"):
            whole(scene, mask=mask)
    with pytest.raises(MissingCRSError, match="another size than"):
        whole(make_scene(), mask=small)


def test_an_area_of_interest_elsewhere_is_refused(make_scene: SceneFactory, tmp_path: Path) -> None:
    import shapely

    away = polygons_file(tmp_path / "away.gpkg", [shapely.box(0, 0, 9, 9)], UTM)
    other = make_scene(bands=1, transform=Affine.translation(9000, 0) @ NORTH_UP, name="other.tif")
    for aoi in (away, other):
        with pytest.raises(SceneError, match="does not overlap"):
            whole(make_scene(), aoi=aoi)
    for missing in ("no.tif", "no.gpkg"):
        with pytest.raises(FloodmapError, match="no such file"):
            whole(make_scene(), mask=tmp_path / missing)
    (tmp_path / "words.txt").write_text("words")
    with pytest.raises(SceneError, match="neither as a raster nor as polygons"):
        whole(make_scene(), mask=tmp_path / "words.txt")


def test_nodata_outside_the_area_of_interest_is_outside(make_scene: SceneFactory, tmp_path: Path) -> None:
    import shapely

    pixels = picture(3, (48, 64))
    pixels[:, :, :32] = 0
    aoi = polygons_file(tmp_path / "aoi.gpkg", [shapely.box(500_000, 4_999_990, 500_064, 5_000_000)], UTM)
    tile = whole(make_scene(pixels=pixels, nodata=0), aoi=aoi)
    assert reasons(tile) == {0, codes.NODATA, codes.OUTSIDE} and (tile.reason[20:] == codes.OUTSIDE).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_values_of_few_bits_fill_the_range(make_scene: SceneFactory, bits: int) -> None:
    pixels = picture(3, (64, 96)) >> (8 - bits)
    with Scene.open(make_scene(pixels=pixels, nbits=bits)) as scene:
        tile = scene.read(Window(0, 0, 64, 96))
        assert tile.valid.all() and np.array_equal(tile.rgb, pixels * (255 // (2**bits - 1)))
        assert len(scene.remarks) == 1 and f"{2**bits} values" in scene.remarks[0]


@pytest.mark.slow
@pytest.mark.parametrize("quality", [20, 60, 90])
@pytest.mark.parametrize("beneath", ["black", "colours"])
def test_alpha_compressed_with_loss_counts_from_the_middle_up(
    make_scene: SceneFactory, tmp_path: Path, quality: int, beneath: str
) -> None:
    rows, cols = np.indices((256, 256))
    transparent = rows + cols < 200
    pixels = picture(3, (256, 256))
    if beneath == "black":
        pixels[:, transparent] = 0
    jpeg = {"compress": "jpeg", "jpeg_quality": quality, "tiled": True, "blockxsize": 128, "blockysize": 128}
    path = make_scene(pixels=pixels, alpha=np.where(transparent, 0, 255), interleave="pixel", **jpeg)
    rasterio.shutil.copy(path, tmp_path / "s.vrt", driver="VRT")
    for name in (path, tmp_path / "s.vrt"):
        with Scene.open(name, SceneOptions(collar="off")) as scene:
            assert scene.nir_band is None and not scene.remarks
            assert (scene.read(Window(0, 0, 256, 256)).valid == ~transparent).mean() > 0.999


@pytest.mark.slow
def test_alpha_of_another_range_than_its_type_is_alpha(make_scene: SceneFactory, tmp_path: Path) -> None:
    transparent = np.indices((256, 256)).sum(axis=0) < 200
    pixels = picture(3, (256, 256)).astype("uint16") * 16
    plain = make_scene(pixels=pixels, alpha=np.where(transparent, 0, 4095))
    rasterio.shutil.copy(plain, tmp_path / "s.jp2", driver="JP2OpenJPEG", QUALITY="40", REVERSIBLE="NO")
    for name in (plain, tmp_path / "s.jp2"):
        with Scene.open(name) as scene:
            assert (scene.read(Window(0, 0, 256, 256)).valid == ~transparent).mean() > 0.99
