"""Holes of mosaics: ground on which no member of a VRT, and no tile of an index, has data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from conftest import NORTH_UP, UTM, SceneFactory, picture

from floodmap.errors import SceneError
from floodmap.geo.vrt import Rect
from floodmap.geo.window import Window
from floodmap.imagery.raster.gaps import HiddenGaps
from floodmap.imagery.scene import Scene
from floodmap.masks.raster import RasterMask
from floodmap.masks.rules import FloodRule
from floodmap.options import SceneOptions
from floodmap.strips import codes

SIDE = 96
NODATA_255 = "<NODATA>255</NODATA>"
MASK_BAND = "<UseMaskBand>true</UseMaskBand>"


def hole() -> np.ndarray:
    found = np.zeros((SIDE, SIDE), bool)
    found[30:50, 41:70] = True
    return found


def reasons(path: Path | str, **options: object) -> np.ndarray:
    with Scene.open(path, SceneOptions(collar="off", **options)) as scene:  # type: ignore[arg-type]
        return scene.read(Window(0, 0, scene.height, scene.width)).reason


def complex_source(name: str, how: str, band: int) -> str:
    return (
        f"<ComplexSource><SourceFilename relativeToVRT='1'>{name}</SourceFilename><SourceBand>{band}</SourceBand>{how}"
        "</ComplexSource>"
    )


@pytest.fixture
def make_vrt(tmp_path: Path) -> Callable[..., Path]:
    """A VRT of `SIDE` x `SIDE` pixels, each band of it of the sources that a function gives for its number."""

    def make(sources: Callable[[int], str], *, bands: int = 3, beside: str = "", dtype: str = "Byte") -> Path:
        colours = ["Red", "Green", "Blue", "Alpha"] if bands > 1 else ["Gray"]
        inside = "".join(
            f"<VRTRasterBand dataType='{dtype}' band='{band}'><ColorInterp>{colour}</ColorInterp>{beside}"
            f"{sources(band)}</VRTRasterBand>"
            for band, colour in zip(range(1, bands + 1), colours, strict=False)
        )
        place = ",".join(map(str, NORTH_UP.to_gdal()))
        path = tmp_path / f"mosaic{len(list(tmp_path.iterdir()))}.vrt"
        path.write_text(
            f"<VRTDataset rasterXSize='{SIDE}' rasterYSize='{SIDE}'><SRS>{UTM}</SRS><GeoTransform>{place}"
            f"</GeoTransform>{inside}</VRTDataset>"
        )
        return path

    return make


@pytest.fixture
def below_255(make_scene: SceneFactory) -> str:
    pixels = picture(3, (SIDE, SIDE)).clip(1, 254)
    pixels[:, hole()] = 255
    pixels[0, 0, 0] = 255  # saturated in red alone: a colour
    return make_scene(pixels=pixels, name="nodata.tif").name


@pytest.fixture
def with_mask(make_scene: SceneFactory) -> str:
    path = make_scene(pixels=picture(3, (SIDE, SIDE)), name="masked.tif")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(~hole())
    return path.name


def test_nodata_of_a_member_is_unobserved_where_the_vrt_declares_no_nodata(
    make_vrt: Callable[..., Path], below_255: str
) -> None:
    path = make_vrt(lambda band: complex_source(below_255, NODATA_255, band))
    assert np.array_equal(reasons(path) == codes.NODATA, hole())


def test_nodata_that_the_dtype_of_the_vrt_cannot_hold_hides_no_hole(
    make_vrt: Callable[..., Path], below_255: str
) -> None:
    path = make_vrt(lambda band: complex_source(below_255, NODATA_255, band), beside="<NoDataValue>-9999</NoDataValue>")
    assert np.array_equal(reasons(path) == codes.NODATA, hole())


@pytest.mark.parametrize("beside", ["", "<NoDataValue>-1.#IND</NoDataValue>"])
def test_nan_as_old_gdal_wrote_it_on_windows_is_nodata_of_a_member(
    beside: str, make_vrt: Callable[..., Path], make_scene: SceneFactory
) -> None:
    pixels = picture(3, (SIDE, SIDE)).clip(1, 254).astype(np.float32)
    pixels[:, hole()] = np.nan
    name = make_scene(pixels=pixels, name="nan.tif").name
    path = make_vrt(lambda band: complex_source(name, "<NODATA>-1.#IND</NODATA>", band), beside=beside)
    assert np.array_equal(reasons(path) == codes.NODATA, hole())


@pytest.mark.parametrize(("shape_hw", "limit"), [((SIDE, SIDE), 7 * SIDE), ((13, 17), 900)])
def test_holes_of_a_large_part_are_read_in_pieces_of_rows(
    shape_hw: tuple[int, int], limit: int, make_vrt: Callable[..., Path], below_255: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    class Recorded:
        height = width = SIDE

        def read_masks(self, bands: list[int], window: object, out_shape: tuple[int, ...]) -> np.ndarray:
            sizes.append(out_shape[1] * out_shape[2])
            return coverage.read_masks(bands, window=window, out_shape=out_shape)

    sizes: list[int] = []
    below = make_vrt(lambda band: complex_source(below_255, NODATA_255, band), beside="<NoDataValue>0</NoDataValue>")
    with rasterio.open(below) as coverage:
        holes = HiddenGaps(coverage=Recorded(), bands=(1, 2, 3))  # type: ignore[arg-type]
        at_once = holes.within(Rect(0, 0, SIDE, SIDE), shape_hw)
        monkeypatch.setattr("floodmap.imagery.raster.gaps._MOST_READ", limit)
        assert len(sizes) == 1
        in_pieces = holes.within(Rect(0, 0, SIDE, SIDE), shape_hw)
    assert at_once is not None and in_pieces is not None
    assert len(sizes) > 2 and max(sizes[1:]) <= limit + 16 * shape_hw[1]
    assert at_once[at_once.shape[0] * 40 // SIDE, at_once.shape[1] * 55 // SIDE] == codes.NODATA
    assert (at_once != in_pieces).mean() < 0.05
    if shape_hw == (SIDE, SIDE):
        assert np.array_equal(at_once, in_pieces) and np.array_equal(at_once == codes.NODATA, hole())


def test_ground_that_the_mask_of_a_member_hides_is_unobserved_without_a_mask_of_the_vrt(
    make_vrt: Callable[..., Path], with_mask: str
) -> None:
    path = make_vrt(lambda band: complex_source(with_mask, MASK_BAND, band))
    assert np.array_equal(reasons(path) == codes.NODATA, hole())
    inner = make_vrt(lambda band: complex_source(path.name, "", band))
    assert np.array_equal(reasons(inner) == codes.NODATA, hole())


def test_a_member_below_shows_through_the_hole_of_a_member(
    make_vrt: Callable[..., Path], below_255: str, make_scene: SceneFactory
) -> None:
    beneath = make_scene(pixels=picture(3, (SIDE, SIDE), seed=4), name="beneath.tif").name
    path = make_vrt(lambda band: complex_source(beneath, "", band) + complex_source(below_255, NODATA_255, band))
    assert not reasons(path).any()


@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_the_hole_of_a_mosaic_is_unobserved_from_afar_and_nothing_far_from_it(
    factor: int, make_vrt: Callable[..., Path], below_255: str
) -> None:
    path = make_vrt(lambda band: complex_source(below_255, NODATA_255, band))
    blocks = hole().reshape(SIDE // factor, factor, SIDE // factor, factor)
    with Scene.open(path, SceneOptions(collar="off")) as scene:
        tile = scene.shrunk(Window(0, 0, SIDE // factor, SIDE // factor), factor)
    assert not tile.valid[blocks.all(axis=(1, 3))].any()
    assert np.array_equal(tile.valid, ~blocks.any(axis=(1, 3)))


def test_nodata_that_is_no_colour_is_unobserved_in_one_band_alone(
    make_vrt: Callable[..., Path], make_scene: SceneFactory
) -> None:
    pixels = picture(3, (SIDE, SIDE), "float32")
    pixels[1, hole()] = -9999
    name = make_scene(pixels=pixels, name="floats.tif").name
    path = make_vrt(lambda band: complex_source(name, "<NODATA>-9999</NODATA>", band), dtype="Float32")
    assert np.array_equal(reasons(path) == codes.NODATA, hole())


def test_a_mosaic_with_alpha_is_read_as_before(make_vrt: Callable[..., Path], make_scene: SceneFactory) -> None:
    name = make_scene(pixels=picture(3, (SIDE, SIDE)), name="rgba.tif", alpha=np.where(hole(), 0, 255)).name
    path = make_vrt(lambda band: complex_source(name, MASK_BAND, band), bands=4)
    with Scene.open(path, SceneOptions(collar="off")) as scene:
        assert scene.source.gaps is None
        assert np.array_equal(~scene.read(Window(0, 0, SIDE, SIDE)).valid, hole())


def test_the_hole_of_a_mosaic_of_masks_is_not_dry(make_vrt: Callable[..., Path], make_scene: SceneFactory) -> None:
    pixels = np.ones((1, SIDE, SIDE), np.uint8)
    pixels[:, hole()] = 255
    name = make_scene(pixels=pixels, name="mask.tif").name
    mask = RasterMask(make_vrt(lambda band: complex_source(name, NODATA_255, band), bands=1))
    classes = mask.on(mask.grid, FloodRule(values=(1.0,)))(mask.grid.whole)
    mask.close()
    assert np.array_equal(classes == codes.UNOBSERVED, hole()) and (classes[~hole()] == 1).all()


@pytest.fixture
def make_index(tmp_path: Path, make_scene: SceneFactory) -> Callable[..., Path]:
    """A tile index without nodata: 3 x 3 tiles of 32 x 32 pixels, without the middle one."""

    def make(*, relative: bool = False, **written: Any) -> Path:
        names, footprints = [], []
        for row, col in np.ndindex(3, 3):
            place = NORTH_UP @ Affine.translation(32 * col, 32 * row)
            tile = make_scene(shape_hw=(32, 32), transform=place, name=f"tile{row}{col}.tif", **written)
            if (row, col) != (1, 1):
                names.append(tile.name if relative else str(tile))
                with rasterio.open(tile) as dataset:
                    footprints.append(shapely.box(*dataset.bounds))
        index = tmp_path / "index.gti.gpkg"
        gpd.GeoDataFrame({"location": names}, geometry=footprints, crs=UTM).to_file(index, layer="index")
        return index

    return make


def middle() -> np.ndarray:
    found = np.zeros((SIDE, SIDE), bool)
    found[32:64, 32:64] = True
    return found


@pytest.mark.parametrize("relative", [False, True])
def test_ground_without_a_tile_in_a_tile_index_is_unobserved(relative: bool, make_index: Callable[..., Path]) -> None:
    index = make_index(relative=relative)
    assert np.array_equal(reasons(index) == codes.NODATA, middle())
    if not relative:
        assert np.array_equal(reasons(f"GTI:{index}") == codes.NODATA, middle())
    by_xml = index.with_name("index.gti")
    by_xml.write_text(
        f"<GDALTileIndexDataset><IndexDataset>{index}</IndexDataset><Filter>location NOT LIKE '%tile00.tif'</Filter>"
        "</GDALTileIndexDataset>"
    )
    expected = middle()
    expected[:32, :32] = True
    assert np.array_equal(reasons(by_xml) == codes.NODATA, expected)


def test_a_tile_index_with_nodata_is_read_as_before(make_index: Callable[..., Path]) -> None:
    with Scene.open(make_index(nodata=0), SceneOptions(collar="off")) as scene:
        assert scene.source.gaps is None
        assert np.array_equal(~scene.read(Window(0, 0, SIDE, SIDE)).valid, middle())


def test_a_tile_index_with_alpha_is_read_as_before(make_index: Callable[..., Path]) -> None:
    with Scene.open(make_index(alpha=np.full((32, 32), 255, np.uint8)), SceneOptions(collar="off")) as scene:
        assert scene.source.gaps is None
        assert np.array_equal(~scene.read(Window(0, 0, SIDE, SIDE)).valid, middle())


def test_a_tile_index_that_lacks_a_tile_is_refused_by_the_name_of_the_tile(
    make_index: Callable[..., Path], tmp_path: Path
) -> None:
    index = make_index()
    (tmp_path / "tile20.tif").unlink()
    with pytest.raises(SceneError, match=r"index\.gti\.gpkg: its tile .*tile20\.tif does not exist"):
        reasons(index)


@pytest.mark.parametrize("tiles_have_one", [False, True])
def test_a_tile_index_without_a_crs_shows_its_tiles(tiles_have_one: bool, make_index: Callable[..., Path]) -> None:
    index = make_index(**({} if tiles_have_one else {"crs": None}))
    shapefile = index.with_name("index.shp")
    gpd.read_file(index).to_file(shapefile)
    shapefile.with_suffix(".prj").unlink()
    assert np.array_equal(reasons(f"GTI:{shapefile}") == codes.NODATA, middle())


@pytest.mark.parametrize("before", ["<?xml version='1.0' encoding='UTF-8'?>\n", "<!-- of 2026 -->", "\ufeff"])
def test_the_xml_of_a_tile_index_may_begin_with_a_declaration_or_a_comment(
    before: str, make_index: Callable[..., Path]
) -> None:
    index = make_index()
    by_xml = index.with_name("index.gti")
    root = f"<GDALTileIndexDataset><IndexDataset>{index}</IndexDataset></GDALTileIndexDataset>"
    by_xml.write_text(before + root, encoding="utf-8")
    assert np.array_equal(reasons(by_xml) == codes.NODATA, middle())
