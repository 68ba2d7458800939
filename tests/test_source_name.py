"""Names of rasters, taken literally."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from conftest import SceneFactory
from fakes import FakeSegmenter

from floodmap.errors import SceneError
from floodmap.geo.source_name import SourceName
from floodmap.geo.window import Window
from floodmap.imagery.scene import Scene
from floodmap_cli.main import run


@pytest.mark.parametrize(
    ("given", "opened", "stem", "label"),
    [
        ("/vsizip//a/b.zip/c d.tif", "/vsizip//a/b.zip/c d.tif", "c_d", "c d.tif"),
        ("https://x.org/p/s.tif?key=secret", "/vsicurl/https://x.org/p/s.tif?key=secret", "s", "s.tif"),
        ("s3://bucket/p/s.tif", "/vsis3/bucket/p/s.tif", "s", "s.tif"),
        ("zip:///a/b.zip!c.tif", "/vsizip//a/b.zip/c.tif", "c", "c.tif"),
        ('NETCDF:"/a/f.nc":red', 'NETCDF:"/a/f.nc":red', "f_red", 'NETCDF:"f.nc":red'),
        ("GPKG:/a/f.gpkg:table", "GPKG:/a/f.gpkg:table", "f_table", "GPKG:f.gpkg:table"),
        ("GTIFF_DIR:2:/a/s.tif", "GTIFF_DIR:2:/a/s.tif", "s_2", "GTIFF_DIR:2:s.tif"),
    ],
)
def test_names_that_gdal_alone_understands_reach_it_unchanged(given: str, opened: str, stem: str, label: str) -> None:
    name = SourceName.of(given)
    assert (name.path, name.opened, name.stem, name.label) == (None, opened, stem, label)
    assert "secret" not in f"{name}{name.label}{name.stem}"


@pytest.mark.parametrize(
    "file", ["a!b.tif", "x;y #1 100%?.tif", "{0}[1]*.tif", "two\nlines.tif", "GPKG:f.gpkg:a", "-o"]
)
def test_a_file_is_one_whatever_it_is_called(
    file: str, make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_scene(name="plain.tif").rename(tmp_path / file)
    monkeypatch.chdir(tmp_path)
    name = SourceName.of(file)
    assert name.path == Path(file) and name.opened == path
    with Scene.open(file) as scene, rasterio.open(path) as expected:
        assert np.array_equal(scene.read(Window(0, 0, 48, 64)).rgb, expected.read())


def test_a_name_that_is_none_is_refused() -> None:
    for wrong in ("", "a\0b"):
        with pytest.raises(SceneError, match=r"name"):
            SourceName.of(wrong)
    with pytest.raises(SceneError, match=r"missing.tif: no such file"):
        Scene.open("missing.tif")
    with pytest.raises(SceneError, match="cannot be read as a raster"):
        Scene.open("NETCDF:missing.nc:red")


@pytest.mark.slow
def test_every_kind_of_name_is_segmented_by_the_command(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = make_scene(bands=3, shape_hw=(64, 64))
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.write(scene, "in/a.tif")
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(scene, "b.tif")
    rasterio.shutil.copy(scene, tmp_path / "f.gpkg", driver="GPKG", RASTER_TABLE="t")
    monkeypatch.setattr("floodmap_cli.loading.load", lambda model, device: FakeSegmenter())
    monkeypatch.chdir(tmp_path)
    names = {
        f"/vsizip/{tmp_path}/s.zip/in/a.tif": "a", "/vsitar/s.tar/b.tif": "b", "GPKG:f.gpkg:T": "f_T",
        f"GTIFF_DIR:1:{scene}": "scene_1", f"zip://{tmp_path}/s.zip!in/a.tif": "a", scene.as_uri(): "scene",
    }  # fmt: skip
    for number, (name, stem) in enumerate(names.items()):
        assert run(["segment", name, "-o", f"out{number}", "--prompts", "none"]) == 0, name
        with rasterio.open(tmp_path / f"out{number}" / f"{stem}_mask.tif") as mask:
            assert mask.shape == (64, 64) and (mask.read(1) == 1).any()


def test_an_absolute_name_has_the_texts_of_the_given_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = SourceName.of("a/scene.tif"), SourceName("a.tif", Path("a.tif"), title="S2A_1"), SourceName.of("s3://b/c")
    for name in names:
        absolute = name.absolute()
        assert (str(absolute), absolute.label, absolute.stem) == (str(name), name.label, name.stem)
        assert absolute.opened == name.opened and absolute.acquired == name.acquired
        assert absolute.path is None or absolute.path.is_absolute()
