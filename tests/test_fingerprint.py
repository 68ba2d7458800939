"""Fingerprints: everything that affects a scene's pixels changes them, and nothing else does."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import shapely
from conftest import NORTH_UP, UTM, SceneFactory, picture
from range_server import serving
from rasterio.errors import NotGeoreferencedWarning

from floodmap.imagery.raster import fingerprint as module
from floodmap.imagery.raster.fingerprint import of_input
from floodmap.imagery.scene import Scene

HW = (64, 96)
WORLD = "0.5\n0\n0\n-0.5\n500000.25\n4999999.75\n"


def of(name: str | os.PathLike[str]) -> str | None:
    with Scene.open(name) as scene:
        return scene.fingerprint


Make = Callable[[Path, int], str]
"""Writes a picture, another for each number, under the same name in a folder; returns its name."""


def tif(folder: Path, number: int, name: str = "s.tif") -> str:
    path, pixels = folder / name, picture(3, HW)
    pixels[1, 30, 40] += number  # a single value of a single pixel
    place = {"crs": UTM, "transform": NORTH_UP} if name.endswith(".tif") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", width=HW[1], height=HW[0], count=3, dtype="uint8", **place) as dataset:
            dataset.write(pixels)
    return str(path)


def png(folder: Path, number: int) -> str:
    name = tif(folder, number, "s.png")
    (folder / "s.pgw").write_text(WORLD)  # GDAL takes an older one away
    return name


def vrt(folder: Path, number: int) -> str:
    rasterio.shutil.copy(tif(folder, number), folder / "s.vrt", driver="VRT")
    return str(folder / "s.vrt")


def vrt_of_vrt(folder: Path, number: int) -> str:
    rasterio.shutil.copy(vrt(folder, number), folder / "outer.vrt", driver="VRT")
    return str(folder / "outer.vrt")


def in_zip(folder: Path, number: int) -> str:
    with zipfile.ZipFile(folder / "s.zip", "w") as archive:
        archive.write(tif(folder, number), "in/s.tif")
    os.remove(folder / "s.tif")
    return f"/vsizip/{folder}/s.zip/in/s.tif"


def in_tar(folder: Path, number: int) -> str:
    with tarfile.open(folder / "s.tgz", "w:gz") as archive:
        archive.add(tif(folder, number), "s.tif")
    os.remove(folder / "s.tif")
    return f"/vsitar/{folder}/s.tgz/s.tif"


def vrt_of_zip(folder: Path, number: int) -> str:
    rasterio.shutil.copy(in_zip(folder, number), folder / "s.vrt", driver="VRT")
    return str(folder / "s.vrt")


def geopackage(folder: Path, number: int) -> str:
    (folder / "s.gpkg").unlink(missing_ok=True)
    rasterio.shutil.copy(tif(folder, number), folder / "s.gpkg", driver="GPKG", RASTER_TABLE="T", TILE_FORMAT="PNG")
    return f"GPKG:{folder}/s.gpkg:T"


def netcdf(folder: Path, number: int) -> str:
    (folder / "s.nc").unlink(missing_ok=True)
    rasterio.shutil.copy(tif(folder, number), folder / "s.nc", driver="netCDF")
    return f'NETCDF:"{folder}/s.nc":Band2'


def directory_of_tif(folder: Path, number: int) -> str:
    return f"GTIFF_DIR:1:{tif(folder, number)}"


def inline(folder: Path, number: int) -> str:
    text = Path(vrt(folder, number)).read_text()
    return text.replace('relativeToVRT="1">s.tif', f'relativeToVRT="0">{folder}/s.tif')


def masked(folder: Path, number: int) -> str:
    path = tif(folder, 0)
    mask = np.full(HW, 255, np.uint8)
    mask[10, 10 : 10 + 2 * number] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="NO"), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(mask)
    assert (folder / "s.tif.msk").exists()
    return path


KINDS = (
    tif, png, vrt, vrt_of_vrt, in_zip, in_tar, vrt_of_zip, geopackage, netcdf, directory_of_tif, inline, masked,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_two_pictures_never_share_a_fingerprint_and_one_has_but_one(make: Make, tmp_path: Path) -> None:
    prints = []
    for number in (0, 1, 2, 0):
        name = make(tmp_path, number)
        prints.append(of(name))
        assert prints[-1] == of(name)
    assert None not in prints and len(set(prints[:3])) == 3
    assert prints[0] == prints[3] or make in (geopackage, netcdf)  # which hold the time they were written


def test_no_two_kinds_of_source_share_one(tmp_path: Path) -> None:
    prints = set()
    for make in KINDS:
        folder = tmp_path / make.__name__
        folder.mkdir()
        prints.add(of(make(folder, KINDS.index(make) + 1)))
    assert len(prints) == len(KINDS)


def test_parts_of_one_file_differ(tmp_path: Path) -> None:
    name = netcdf(tmp_path, 0)
    assert of(name) != of(name.replace("Band2", "Band3"))


def test_a_member_is_told_from_others_by_what_it_holds_alone(tmp_path: Path) -> None:
    name = in_zip(tmp_path, 1)
    before = of(name)
    with zipfile.ZipFile(tmp_path / "s.zip", "a") as archive:
        archive.writestr("another.txt", "new")
    # GDAL remembers the archive's index.
    copied = str(shutil.copy(tmp_path / "s.zip", tmp_path / "copy.zip"))
    assert of(name.replace(str(tmp_path / "s.zip"), copied)) == before


@pytest.mark.slow
def test_a_pixel_in_the_middle_of_a_large_file_counts(
    make_scene: SceneFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_scene(shape_hw=(2000, 2500))  # 15 MB, not compressed: no block changes its place
    before = of(path)
    stamps = path.stat()
    with path.open("r+b") as file:
        file.seek(7_123_456)
        byte = file.read(1)[0]
        file.seek(7_123_456)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(stamps.st_atime_ns, stamps.st_mtime_ns))
    assert of(path) != before
    monkeypatch.setattr(module, "WHOLE_BYTES", 2**20)  # as of a huge one
    before = of(path)
    os.utime(path, ns=(stamps.st_atime_ns, stamps.st_mtime_ns + 10**9))
    assert of(path) != before


def test_statistics_histograms_and_overviews_that_are_not_read_change_nothing(make_scene: SceneFactory) -> None:
    path = make_scene(shape_hw=(256, 256))
    before = of(path)
    sidecar = path.with_name(f"{path.name}.aux.xml")
    sidecar.write_text(
        "<PAMDataset><PAMRasterBand band='1'><Histograms><HistItem><HistMin>0</HistMin><HistMax>255</HistMax>"
        "<BucketCount>2</BucketCount><HistCounts>1|2</HistCounts></HistItem></Histograms>"
        "<Metadata><MDI key='STATISTICS_MEAN'>97.1</MDI></Metadata></PAMRasterBand></PAMDataset>"
    )
    assert of(path) == before
    make_scene(shape_hw=(256, 256), name="other.tif", pixels=picture(3, (256, 256), seed=5))
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(path.with_name("other.tif"), "r+") as dataset:
        dataset.build_overviews([2, 4], rasterio.enums.Resampling.average)
    path.with_name("other.tif.ovr").rename(path.with_name(f"{path.name}.ovr"))
    assert of(path) == before  # another picture's, which are not used


def test_the_place_counts_wherever_it_is_written(make_scene: SceneFactory, tmp_path: Path) -> None:
    name = png(tmp_path, 0)
    before = of(name)
    (tmp_path / "s.pgw").write_text(WORLD.replace("500000", "500001"))
    moved = of(name)
    assert moved != before
    (tmp_path / "s.pgw").write_text(WORLD)
    (tmp_path / "s.png.aux.xml").write_text("<PAMDataset><SRS>EPSG:32633</SRS></PAMDataset>")
    assert of(name) not in (before, moved)


def test_of_a_url_what_the_server_says_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    prints = []
    with serving(tmp_path) as server:
        url = f"{server.url('s.tif')}?token=secret"
        for number in (0, 1):
            tif(tmp_path, number)
            prints.append(of(url))
            with Scene.open(f"/vsicurl/{url}") as scene:
                assert scene.fingerprint is not None and "secret" not in f"{scene.path}{scene.path.label}{scene.name}"
        assert None not in prints and prints[0] != prints[1]
        # Without that a picture may change behind the same header.
        assert of(server.url("s.tif", "noetag")) is None


def test_the_pixels_of_a_mosaic_of_raw_files_count(tmp_path: Path) -> None:
    prints = []
    for number in (0, 1):
        rasterio.shutil.copy(tif(tmp_path, number), tmp_path / "s.raw", driver="ENVI")
        rasterio.shutil.copy(tmp_path / "s.raw", tmp_path / "s.vrt", driver="VRT")
        prints.append(of(tmp_path / "s.vrt"))
    assert None not in prints and prints[0] != prints[1]


def areas(path: Path, number: int) -> Path:
    """Write one labelled square, which `number` moves and relabels, in any vector format."""
    square = shapely.box(500_000 + number, 4_999_900, 500_010 + number, 4_999_910)
    for old in path.parent.glob(f"{path.stem}.*"):
        old.unlink()
    geopandas.GeoDataFrame({"label": [number]}, geometry=[square], crs=UTM).to_file(path)
    return path


def mask_vrt(folder: Path, number: int) -> str:
    return vrt(folder, number)


def mask_with_world_file(folder: Path, number: int) -> str:
    name = png(folder, 0)
    (folder / "s.pgw").write_text(WORLD.replace("500000", f"50000{number}"))
    return name


def mask_placed_by_pam(folder: Path, number: int) -> str:
    (folder / "s.png.aux.xml").unlink(missing_ok=True)
    name = png(folder, 0)
    (folder / "s.png.aux.xml").write_text(f"<PAMDataset><SRS>EPSG:3263{3 + number}</SRS></PAMDataset>")
    return name


def mapinfo(folder: Path, number: int) -> str:
    return str(areas(folder / "s.tab", number))


def labels_of_shapefile(folder: Path, number: int) -> str:
    areas(folder / "s.shp", 0)
    other = areas(folder / "t.shp", number).with_suffix(".dbf")
    shutil.copy(other, folder / "s.dbf")
    return str(folder / "s.shp")


def crs_of_shapefile_in_capitals(folder: Path, number: int) -> str:
    for part in [*areas(folder / "s.shp", 0).parent.glob("s.*")]:
        part.rename(folder / part.name.upper())
    (folder / "S.PRJ").write_text(rasterio.CRS.from_epsg(32633 + number).to_wkt(version="WKT1_ESRI"))
    return str(folder / "S.SHP")


def labels_in_zip(folder: Path, number: int) -> str:
    labels_of_shapefile(folder, number)
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for part in folder.glob("s.*"):
            archive.write(part, f"in/{part.name}")
    return f"/vsizip/{folder}/a.zip/in/s.shp"


def ogr_vrt(folder: Path, number: int) -> str:
    areas(folder / "member.shp", number)
    (folder / "s.vrt").write_text(
        '<OGRVRTDataSource><OGRVRTLayer name="member"><SrcDataSource relativeToVRT="1">member.shp</SrcDataSource>'
        "</OGRVRTLayer></OGRVRTDataSource>"
    )
    return str(folder / "s.vrt")


INPUTS = (
    mask_vrt, mask_with_world_file, mask_placed_by_pam, mapinfo, labels_of_shapefile, crs_of_shapefile_in_capitals,
    labels_in_zip, ogr_vrt,
)  # fmt: skip


@pytest.mark.parametrize("make", INPUTS, ids=lambda make: make.__name__)
def test_every_file_of_a_mask_or_area_counts(make: Make, tmp_path: Path) -> None:
    prints = []
    for number in (0, 1):
        name = make(tmp_path, number)
        prints.append(of_input(name))
        assert prints[-1] == of_input(name)
    assert None not in prints and prints[0] != prints[1]


EDIT = """
import sqlite3, sys
edit = sqlite3.connect(sys.argv[1])
edit.execute("PRAGMA journal_mode=WAL")
for (trigger,) in edit.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
    edit.execute(f'DROP TRIGGER "{trigger}"')  # they call functions that only GDAL and QGIS have
for label in (1, 2):
    edit.execute(f"UPDATE clicks SET label = {label}")
    edit.commit()
    print("saved", flush=True)
    sys.stdin.readline()
"""


def test_edits_that_qgis_has_not_yet_merged_into_a_geopackage_count(tmp_path: Path) -> None:
    path, prints, wholes = areas(tmp_path / "clicks.gpkg", 0), [], []
    with subprocess.Popen(
        [sys.executable, "-c", EDIT, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as qgis:
        assert qgis.stdin and qgis.stdout
        for label in (1, 2):
            assert qgis.stdout.readline() == "saved\n"
            prints.append(of_input(path))
            wholes.append(path.read_bytes())
            assert of_input(path) == prints[-1] and geopandas.read_file(path).label[0] == label
            qgis.stdin.write("\n")
            qgis.stdin.flush()
    assert wholes[0] == wholes[1]  # the edit is in clicks.gpkg-wal alone
    assert None not in prints and prints[0] != prints[1]


@pytest.mark.parametrize("name", ["mask.tif", "aoi.gpkg"])
def test_of_a_file_that_stands_alone_its_bytes_are_the_fingerprint(
    make_scene: SceneFactory, tmp_path: Path, name: str
) -> None:
    path = make_scene(bands=1, name=name) if name == "mask.tif" else areas(tmp_path / name, 0)
    path.with_suffix(".json").write_text("a result of floodmap")
    known = hashlib.sha256(hashlib.sha256(path.read_bytes()).digest()).hexdigest()
    assert of_input(path) == known == of_input(os.path.relpath(path))
    sidecar = "<PAMDataset><PAMRasterBand><Metadata><MDI key='STATISTICS_MEAN'>9</MDI></Metadata></PAMRasterBand>"
    path.with_name(f"{name}.aux.xml").write_text(f"{sidecar}</PAMDataset>")
    assert of_input(path) == known


@pytest.mark.parametrize("name", ["site.dxf", "site.csv"])
def test_a_scene_and_results_beside_an_area_of_the_same_name_are_no_part_of_it(name: str, tmp_path: Path) -> None:
    area = tmp_path / name
    area.write_text("an area")
    area.with_suffix(".prj").write_text("a CRS")
    before = of_input(area)
    for result in (".tif", ".json", ".gpkg", ".html"):
        area.with_suffix(result).write_text("a scene or a result")
    assert of_input(area) == before
    area.with_suffix(".prj").write_text("another CRS")
    assert before is not None and of_input(area) != before


def test_a_shapefile_at_a_url_has_none_because_its_labels_may_change(tmp_path: Path) -> None:
    assert of_input("/vsicurl/http://127.0.0.1:9/s.shp") is None
