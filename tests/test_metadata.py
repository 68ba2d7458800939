"""Nodata values and masks that differ between the bands of a raster."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import NORTH_UP, UTM, SceneFactory, picture

from floodmap.errors import SceneError
from floodmap.geo.window import Window
from floodmap.imagery.raster.fingerprint import of_input
from floodmap.imagery.scene import Scene
from floodmap.options import SceneOptions
from floodmap.strips import codes

SIDE = 64
WHOLE = Window(0, 0, SIDE, SIDE)


def hole() -> np.ndarray:
    found = np.zeros((SIDE, SIDE), bool)
    found[20:36, 8:40] = True
    return found


def vrt_of(path: Path, beside: tuple[str, str, str]) -> Path:
    """A VRT of the three bands of a file, with further elements for each band."""
    bands = "".join(
        f"<VRTRasterBand dataType='Byte' band='{band}'>{further}<ColorInterp>{colour}</ColorInterp><SimpleSource>"
        f"<SourceFilename relativeToVRT='1'>{path.name}</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource>"
        "</VRTRasterBand>"
        for band, (colour, further) in enumerate(zip(("Red", "Green", "Blue"), beside, strict=True), 1)
    )
    place = ",".join(map(str, NORTH_UP.to_gdal()))
    vrt = path.with_suffix(".vrt")
    vrt.write_text(
        f"<VRTDataset rasterXSize='{SIDE}' rasterYSize='{SIDE}'><SRS>{UTM}</SRS><GeoTransform>{place}</GeoTransform>"
        f"{bands}</VRTDataset>"
    )
    return vrt


def nodata(value: int | None) -> str:
    return "" if value is None else f"<NoDataValue>{value}</NoDataValue>"


@pytest.mark.parametrize(
    ("declared", "stored"),
    [((255, 0, 255), (255, 0, 255)), ((None, 0, 0), (90, 0, 0)), ((0, None, None), (0, 0, 0)), ((7, 0, 7), (7, 0, 7))],
)
def test_nodata_of_each_band_counts(
    declared: tuple[int | None, ...], stored: tuple[int, ...], make_scene: SceneFactory
) -> None:
    pixels = picture(3, (SIDE, SIDE)).clip(20, 200)
    pixels[:, hole()] = np.array(stored, np.uint8)[:, None]
    path = vrt_of(make_scene(pixels=pixels), tuple(map(nodata, declared)))  # type: ignore[arg-type]
    with Scene.open(path, SceneOptions(collar="off")) as scene:
        tile, half = scene.read(WHOLE), scene.shrunk(Window(0, 0, SIDE // 2, SIDE // 2), 2)
    assert np.array_equal(tile.reason == codes.NODATA, hole())
    assert np.array_equal(half.valid, ~hole()[::2, ::2])
    assert abs(half.rgb[:, half.valid].astype(int).mean() - pixels[:, ~hole()].mean()) < 1


def test_a_value_that_is_nodata_in_another_band_is_a_colour(make_scene: SceneFactory) -> None:
    pixels = picture(3, (SIDE, SIDE)).clip(20, 200)
    pixels[:, hole()] = 255  # white, while nodata is 255, 0, 255
    path = vrt_of(make_scene(pixels=pixels), (nodata(255), nodata(0), nodata(255)))
    with Scene.open(path, SceneOptions(collar="off")) as scene:
        assert scene.read(WHOLE).valid.all()


@pytest.mark.parametrize("given", [40, "none"])
def test_nodata_that_the_user_gives_overrules_that_of_all_bands(given: object, make_scene: SceneFactory) -> None:
    pixels = picture(3, (SIDE, SIDE)).clip(50, 200)
    pixels[:, hole()] = 40
    pixels[:, 0, 0] = 255, 0, 255
    path = vrt_of(make_scene(pixels=pixels), (nodata(255), nodata(0), nodata(255)))
    with Scene.open(path, SceneOptions(collar="off", nodata=given)) as scene:  # type: ignore[arg-type]
        assert np.array_equal(~scene.read(WHOLE).valid, hole() if given == 40 else np.zeros_like(hole()))


@pytest.mark.parametrize("hidden", [(1, 2, 3), (2,)])
@pytest.mark.parametrize("given", [None, 3])
def test_the_mask_of_a_single_band_hides_pixels(
    hidden: tuple[int, ...], given: float | None, make_scene: SceneFactory
) -> None:
    pixels = picture(3, (SIDE, SIDE)).clip(20, 200)
    masks = np.where(hole(), 0, 255).astype(np.uint8)[None]
    make_scene(pixels=masks, name="masks.tif")
    mask = (
        "<MaskBand><VRTRasterBand dataType='Byte'><SimpleSource><SourceFilename relativeToVRT='1'>masks.tif"
        "</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></MaskBand>"
    )
    beside = tuple(mask if band in hidden else "" for band in (1, 2, 3))
    path = vrt_of(make_scene(pixels=pixels), beside)  # type: ignore[arg-type]
    with rasterio.open(path) as dataset:
        expected = (dataset.read_masks() == 0).any(axis=0)
    assert np.array_equal(expected, hole())
    with Scene.open(path, SceneOptions(collar="off", nodata=given)) as scene:
        assert np.array_equal(~scene.read(WHOLE).valid, expected)
        half = scene.shrunk(Window(0, 0, SIDE // 2, SIDE // 2), 2)
    assert np.array_equal(half.valid, ~hole()[::2, ::2])


SIDECAR = "".join(f"<PAMRasterBand band='{band}'><NoDataValue>0</NoDataValue></PAMRasterBand>" for band in (1, 2, 3))


@pytest.fixture
def with_sidecar(make_scene: SceneFactory) -> Path:
    pixels = picture(3, (SIDE, SIDE)).clip(20, 200)
    pixels[:, hole()] = 0
    path = make_scene(pixels=pixels, name="s.tif")
    path.with_name("s.tif.aux.xml").write_text(f"<PAMDataset>{SIDECAR}</PAMDataset>")
    return path


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_nodata_in_a_sidecar_counts_inside_an_archive_which_stays_as_it_is(
    kind: str, with_sidecar: Path, tmp_path: Path
) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "archive"), kind, tmp_path))
    before = archive.read_bytes()
    with Scene.open(f"/vsi{kind}/{archive}/s.tif", SceneOptions(collar="off")) as scene:
        assert np.array_equal(~scene.read(WHOLE).valid, hole())
    assert archive.read_bytes() == before


@pytest.mark.parametrize("kind", ["gz", "xz"])
def test_an_archive_cut_by_a_broken_download_is_read_as_far_as_it_goes_or_refused_in_one_line(
    kind: str, make_scene: SceneFactory, tmp_path: Path
) -> None:
    scene, archive = make_scene(), tmp_path / f"cut.tar.{kind}"
    noise = np.random.default_rng(0).bytes(2**20)
    with tarfile.open(archive, f"w:{kind}") as tar:  # type: ignore[call-overload]
        tar.add(scene, "s.tif")
        info = tarfile.TarInfo("noise.bin")
        info.size = len(noise)
        tar.addfile(info, io.BytesIO(noise))
    archive.write_bytes(archive.read_bytes()[: len(noise) // 2])
    name = f"/vsitar/{archive}/s.tif"
    if kind == "gz":
        with Scene.open(name) as opened:
            assert opened.fingerprint
    else:  # GDAL does not read xz
        with pytest.raises(SceneError, match=r"^[^\n]*cannot be read as a raster[^\n]*$"):
            Scene.open(name)
    assert of_input(name)
    with pytest.raises(SceneError, match=r"^[^\n]*cannot be read as a raster[^\n]*$"):
        Scene.open(f"/vsitar/{archive}/noise.bin")


def test_nodata_in_a_sidecar_counts_on_a_web_server(with_sidecar: Path) -> None:
    program = "import http.server as s; s.test(s.SimpleHTTPRequestHandler, port=0, bind='127.0.0.1')"
    command = [sys.executable, "-u", "-c", program]
    with subprocess.Popen(
        command, cwd=with_sidecar.parent, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as server:
        assert server.stdout is not None
        port = server.stdout.readline().decode().split("port ")[1].split()[0]
        try:
            with Scene.open(f"http://127.0.0.1:{port}/s.tif", SceneOptions(collar="off")) as scene:
                assert np.array_equal(~scene.read(WHOLE).valid, hole())
        finally:
            server.terminate()


def test_nodata_in_a_sidecar_inside_an_archive_lies_outside_the_area_of_interest(
    with_sidecar: Path, tmp_path: Path, make_scene: SceneFactory
) -> None:
    scene_path = make_scene(shape_hw=(SIDE, SIDE), name="scene.tif")
    area = np.where(hole(), 9, 1).astype(np.uint8)[None]
    make_scene(pixels=area, name="s.tif")
    (tmp_path / "s.tif.aux.xml").write_text(f"<PAMDataset>{SIDECAR.replace('>0<', '>9<')}</PAMDataset>")
    archive = shutil.make_archive(str(tmp_path / "archive"), "zip", tmp_path)
    with Scene.open(scene_path, SceneOptions(collar="off", aoi=f"/vsizip/{archive}/s.tif")) as scene:
        assert np.array_equal(scene.read(WHOLE).reason == codes.OUTSIDE, hole())
