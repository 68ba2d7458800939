"""Gaps: blocks that were never written and missing members of a mosaic are unobserved."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from conftest import NORTH_UP, UTM, SceneFactory, picture
from rasterio.control import GroundControlPoint
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window as RasterWindow

from floodmap.errors import EvaluationError, SceneError
from floodmap.evaluation.run import evaluate
from floodmap.geo.window import Window
from floodmap.imagery.raster.gaps import block_gaps
from floodmap.imagery.scene import Scene
from floodmap.options import SceneOptions
from floodmap.output.polygons import vectorize_layers
from floodmap.strips import codes

SIDE, BLOCK = 256, 64
WHOLE = Window(0, 0, SIDE, SIDE)


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """Blocks (1, 1) and (2, 3) of four by four were never written, and nodata is not declared."""
    path = tmp_path / "sparse.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=SIDE, height=SIDE, count=3, dtype="uint8", crs=UTM, transform=NORTH_UP,
        tiled=True, blockxsize=BLOCK, blockysize=BLOCK, sparse_ok=True, compress="deflate", interleave="band",
    ) as dataset:  # fmt: skip
        for row, col in np.ndindex(4, 4):
            if (row, col) not in ((1, 1), (2, 3)):
                window = RasterWindow(col * BLOCK, row * BLOCK, BLOCK, BLOCK)
                dataset.write(picture(3, (BLOCK, BLOCK), seed=row * 4 + col), window=window)
    return path


def never_written() -> np.ndarray:
    missing = np.zeros((SIDE, SIDE), bool)
    missing[64:128, 64:128] = missing[128:192, 192:] = True
    return missing


def vrt_of(folder: Path, places: dict[str, tuple[int, int, int, int]], shape_hw: tuple[int, int]) -> Path:
    """A mosaic of files at (left, top, width, height)."""
    sources = "".join(
        "<SimpleSource><SourceFilename relativeToVRT='1'>{}</SourceFilename><SourceBand>{{0}}</SourceBand>"
        "<SrcRect xOff='0' yOff='0' xSize='{}' ySize='{}'/><DstRect xOff='{}' yOff='{}' xSize='{}' ySize='{}'/>"
        "</SimpleSource>".format(name, *place[2:], *place)
        for name, place in places.items()
    )
    bands = "".join(
        f"<VRTRasterBand dataType='Byte' band='{band}'><ColorInterp>{colour}</ColorInterp>{sources.format(band)}"
        "</VRTRasterBand>"
        for band, colour in enumerate(("Red", "Green", "Blue"), 1)
    )
    place = ",".join(map(str, NORTH_UP.to_gdal()))
    path = folder / "mosaic.vrt"
    path.write_text(
        f"<VRTDataset rasterXSize='{shape_hw[1]}' rasterYSize='{shape_hw[0]}'><SRS>{UTM}</SRS>"
        f"<GeoTransform>{place}</GeoTransform>{bands}</VRTDataset>"
    )
    return path


def reasons(path: Path, **options: object) -> np.ndarray:
    with Scene.open(path, SceneOptions(collar="off", **options)) as scene:  # type: ignore[arg-type]
        return scene.read(Window(0, 0, scene.height, scene.width)).reason


def test_blocks_never_written_are_unobserved_wherever_they_lie(sparse: Path) -> None:
    assert np.array_equal(reasons(sparse) == codes.NODATA, never_written())


def test_blocks_never_written_are_unobserved_from_afar_and_at_another_resolution(sparse: Path) -> None:
    with Scene.open(sparse, SceneOptions(collar="off")) as scene:
        small = scene.shrunk(Window(0, 0, SIDE // 4, SIDE // 4), 4)
        assert np.array_equal(~small.valid, never_written()[::4, ::4])
        assert not small.complete[15:33, 15:33].any() and small.complete[:14].all()
        assert scene.preview(100).valid.mean() == pytest.approx(1 - never_written().mean(), abs=0.03)
    coarse = reasons(sparse, resolution_m=1.0)
    assert coarse.shape == (128, 128) and np.array_equal(coarse > 0, never_written()[::2, ::2])


@pytest.mark.slow
def test_a_mosaic_lacks_what_its_members_lack(sparse: Path, make_scene: SceneFactory) -> None:
    make_scene(pixels=picture(3, (SIDE, SIDE), seed=9), name="whole.tif")
    places = {"whole.tif": (0, 0, SIDE, SIDE), "sparse.tif": (SIDE, 0, SIDE, SIDE)}
    found = reasons(vrt_of(sparse.parent, places, (SIDE, 2 * SIDE)))
    assert not found[:, :SIDE].any() and np.array_equal(found[:, SIDE:] > 0, never_written())


@pytest.mark.slow
def test_blocks_never_written_of_an_upper_member_are_unobserved(sparse: Path, make_scene: SceneFactory) -> None:
    make_scene(pixels=picture(3, (SIDE, SIDE), seed=9), name="below.tif")
    whole = (0, 0, SIDE, SIDE)
    above = vrt_of(sparse.parent, {"below.tif": whole, "sparse.tif": whole}, (SIDE, SIDE))
    assert np.array_equal(reasons(above) == codes.NODATA, never_written())
    below = vrt_of(sparse.parent, {"sparse.tif": whole, "below.tif": whole}, (SIDE, SIDE))
    assert not reasons(below).any()


def test_ground_between_the_members_of_a_mosaic_is_unobserved(make_scene: SceneFactory, tmp_path: Path) -> None:
    for name in "ab":
        make_scene(pixels=picture(3, (64, 64)), name=f"{name}.tif")
    found = reasons(vrt_of(tmp_path, {"a.tif": (0, 0, 64, 64), "b.tif": (80, 30, 64, 64)}, (94, 144)))
    expected = np.ones((94, 144), bool)
    expected[:64, :64] = expected[30:94, 80:144] = False
    assert np.array_equal(found == codes.NODATA, expected)


@pytest.mark.parametrize("lost", ["missing", "empty", "no_raster", "nested"])
def test_a_member_that_cannot_be_read_is_named_and_what_it_covers_failed(
    lost: str, make_scene: SceneFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "abc":
        make_scene(pixels=picture(3, (100, 100), seed=ord(name)), name=f"{name}.tif")
    places = {f"{name}.tif": (100 * number, 0, 100, 100) for number, name in enumerate("abc")}
    with rasterio.open(tmp_path / "a.tif") as a, rasterio.open(tmp_path / "c.tif") as c:
        expected = a.read(), c.read()
    mosaic = vrt_of(tmp_path, places, (100, 300))
    if lost == "nested":
        mosaic.rename(tmp_path / "inner.vrt")
        mosaic = vrt_of(tmp_path, {"inner.vrt": (0, 0, 300, 100)}, (100, 300))
    (tmp_path / "b.tif").unlink()
    if lost in ("empty", "no_raster"):
        (tmp_path / "b.tif").write_text("" if lost == "empty" else "no raster")
    with Scene.open(mosaic, SceneOptions(collar="off")) as scene:
        for window in (Window(0, 0, 100, 300), Window(20, 90, 50, 120), Window(0, 0, 100, 300)):
            tile = scene.read(window)
            ends = slice(0, max(0, 100 - window.col_off)), slice(max(0, 200 - window.col_off), None)
            assert tile.failure.endswith("b.tif cannot be read") or "b.tif" in tile.failure
            assert not tile.reason[:, ends[0]].any() and not tile.reason[:, ends[1]].any()
            assert (tile.reason[:, ends[0].stop : ends[1].start] == codes.FAILED).all()
        whole = scene.read(Window(0, 0, 100, 300)).rgb
        assert np.array_equal(whole[:, :, :100], expected[0]) and np.array_equal(whole[:, :, 200:], expected[1])
        assert not scene.read(Window(0, 0, 100, 90)).failure
        assert any("b.tif" in line for line in scene.remarks)
    assert "b.tif" in caplog.text and "unobserved" in caplog.text


def test_what_lies_beneath_a_lost_member_is_real(make_scene: SceneFactory, tmp_path: Path) -> None:
    make_scene(pixels=picture(3, (100, 100)), name="a.tif")
    mosaic = vrt_of(tmp_path, {"a.tif": (0, 0, 100, 100), "gone.tif": (50, 0, 100, 100)}, (100, 150))
    found = reasons(mosaic)
    assert not found[:, :100].any() and (found[:, 100:] == codes.FAILED).all()


def test_a_scene_without_gaps_is_read_as_before(make_scene: SceneFactory) -> None:
    path = make_scene(pixels=picture(3, (100, 100)), transform=NORTH_UP @ Affine.translation(3, 4), tiled=True,
                      blockxsize=32, blockysize=32)  # fmt: skip
    with Scene.open(path) as scene:
        assert scene.source.gaps is None and not scene.remarks


def test_a_mask_is_unobserved_where_it_was_never_written(sparse: Path, make_scene: SceneFactory) -> None:
    flood = np.zeros((SIDE, SIDE), np.uint8)
    flood[:100] = 1
    reference = make_scene(pixels=flood[None], name="reference.tif")
    path = sparse.with_name("mask.tif")
    with rasterio.open(
        path, "w", driver="GTiff", width=SIDE, height=SIDE, count=1, dtype="uint8", crs=UTM, transform=NORTH_UP,
        tiled=True, blockxsize=BLOCK, blockysize=BLOCK, sparse_ok=True,
    ) as dataset:  # fmt: skip
        dataset.write(flood[:128, :], 1, window=RasterWindow(0, 0, SIDE, 128))
    for prediction, other in ((path, reference), (reference, path)):
        score = evaluate(prediction, other).scenes[0]
        assert (score.iou, score.tn, score.unobserved) == (1.0, 28 * SIDE, 128 * SIDE)
    assert vectorize_layers(path).unobserved.geometry.area.sum() == pytest.approx(128 * SIDE * 0.25)


def test_a_mask_that_lacks_a_member_is_refused_by_its_name(make_scene: SceneFactory, tmp_path: Path) -> None:
    reference = make_scene(pixels=np.ones((1, 64, 128), np.uint8), name="reference.tif")
    make_scene(pixels=np.ones((1, 64, 64), np.uint8), name="a.tif")
    mosaic = vrt_of(tmp_path, {"a.tif": (0, 0, 64, 64), "gone.tif": (64, 0, 64, 64)}, (64, 128))
    text = mosaic.read_text()
    mosaic.write_text(text[: text.index("<VRTRasterBand dataType='Byte' band='2'")] + "</VRTDataset>")
    for prediction, other in ((mosaic, reference), (reference, mosaic)):
        with pytest.raises(EvaluationError, match=r"gone\.tif cannot be read \(no such file\)"):
            evaluate(prediction, other)


def test_a_scene_with_gaps_that_control_points_place_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.tif"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver="GTiff", width=SIDE, height=SIDE, count=3, dtype="uint8", tiled=True, blockxsize=BLOCK,
            blockysize=BLOCK, sparse_ok=True,
        ) as dataset:  # fmt: skip
            corners = ((0, 0), (0, SIDE), (SIDE, 0), (SIDE, SIDE))
            points = [GroundControlPoint(row=r, col=c, x=500_000 + c, y=5_000_000 - r) for r, c in corners]
            dataset.gcps = points, rasterio.crs.CRS.from_string(UTM)
            dataset.write(picture(3, (128, SIDE)), window=RasterWindow(0, 0, SIDE, 128))
    with pytest.raises(SceneError, match="gdalwarp"):
        Scene.open(path)


def test_a_member_smaller_than_the_mosaic_says_is_lost(make_scene: SceneFactory, tmp_path: Path) -> None:
    make_scene(pixels=picture(3, (100, 100)), name="a.tif")
    make_scene(pixels=picture(3, (40, 40)), name="b.tif")
    found = reasons(vrt_of(tmp_path, {"a.tif": (0, 0, 100, 100), "b.tif": (100, 0, 100, 100)}, (100, 200)))
    assert not found[:, :100].any() and (found[:, 100:] == codes.FAILED).all()


def test_what_is_computed_from_all_members_lacks_what_any_lacks(make_scene: SceneFactory, tmp_path: Path) -> None:
    for name in "ab":
        make_scene(pixels=picture(3, (100, 100)) // 3, name=f"{name}.tif")
    mosaic = vrt_of(tmp_path, {"a.tif": (0, 0, 100, 100), "b.tif": (0, 0, 100, 100)}, (100, 100))
    text = mosaic.read_text().replace("<VRTRasterBand ", "<VRTRasterBand subClass='VRTDerivedRasterBand' ")
    mosaic.write_text(text.replace("<ColorInterp>", "<PixelFunctionType>sum</PixelFunctionType><ColorInterp>"))
    assert not reasons(mosaic).any()
    (tmp_path / "b.tif").unlink()
    assert (reasons(mosaic) == codes.FAILED).all()


def test_a_vrt_that_warps_what_lacks_something_is_refused(sparse: Path) -> None:
    with rasterio.open(sparse) as dataset, rasterio.vrt.WarpedVRT(dataset, crs="EPSG:32634") as warped:
        rasterio.shutil.copy(warped, sparse.with_name("warped.vrt"), driver="VRT")
    told = r"warped\.vrt is a warped copy of .*sparse\.tif, which has blocks that were never written"
    with pytest.raises(SceneError, match=told):
        Scene.open(sparse.with_name("warped.vrt"))


@pytest.mark.slow
def test_blocks_are_searched_in_rasters_of_more_than_a_million(tmp_path: Path) -> None:
    path, side = tmp_path / "many.tif", 16 * 1024
    with rasterio.open(
        path, "w", width=side, height=side, count=1, dtype="uint8", tiled=True, blockxsize=16, blockysize=16,
        sparse_ok=True, crs=UTM, transform=NORTH_UP,
    ) as dataset:  # fmt: skip
        dataset.write(np.ones((1, 16, 16), np.uint8), window=RasterWindow(32, 48, 16, 16))
    with rasterio.open(path) as dataset:
        found = block_gaps(dataset, (1,))
    assert found is not None and np.argwhere(~found.absent).tolist() == [[3, 2]]


def test_a_raster_of_too_many_blocks_to_search_is_remarked(
    sparse: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("floodmap.imagery.raster.gaps.MAX_BLOCKS", 16)
    with Scene.open(sparse):
        assert not caplog.text
    monkeypatch.setattr("floodmap.imagery.raster.gaps.MAX_BLOCKS", 15)
    with Scene.open(sparse):
        assert f"{sparse} has 16 blocks, too many to look for blocks that were never written" in caplog.text
