"""STAC items of results, and `floodmap segment --stac-items`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pystac
import pytest
import rasterio
import rasterio.warp
import shapely
from conftest import SceneFactory
from fakes import FakeSegmenter
from stac_geoparquet.arrow import stac_table_to_items

from floodmap.catalogue.stac_items import check_items_file, write_items
from floodmap.errors import OutputError
from floodmap.output.products.stac_item import EXTENSIONS, stac_item
from floodmap_cli.main import run

DATE = {"TIFFTAG_DATETIME": "2024:05:01 10:00:00"}


@pytest.fixture(autouse=True)
def fake_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands get a fake model without weights."""
    monkeypatch.setattr("floodmap_cli.loading.load", lambda model, device: FakeSegmenter())


@pytest.fixture
def folder(make_scene: SceneFactory, tmp_path: Path) -> Path:
    """Folder with two scenes in two CRS, a scene without CRS, and a damaged one."""
    folder = tmp_path / "scenes"
    make_scene(name="a.tif", folder=folder, tags=DATE)
    make_scene(name="b.tif", folder=folder, crs="EPSG:32644", tags=DATE)
    make_scene(name="c.tif", folder=folder, crs=None)
    (folder / "d.tif").write_bytes(b"no raster")
    return folder


def segment(*args: object) -> int:
    return run(["segment", *map(str, args), "--prompts", "none"])


def items_of(path: Path) -> list[dict[str, Any]]:
    return list(stac_table_to_items(pyarrow.parquet.read_table(path)))


def item(outline: shapely.Geometry, tmp_path: Path, **source: Any) -> dict[str, Any]:
    """STAC item of a made-up report; all files are one file."""
    file = tmp_path / "x.gpkg"
    file.write_bytes(b"flood")
    report = {
        "name": "x", "flood_area_m2": 1.0, "observed_share": 1.0, "windows": {"failed": []},
        "versions": {"floodmap": "0"}, "run": {"finished": "2024-05-02T00:00:00+00:00"}, "model": {"name": "m"},
        "source": {
            "name": "x.tif", "date": "2024-05-01T10:00:00+00:00", "gsd_m": 1.0, "crs": "EPSG:32643", "height": 2,
            "width": 3, "transform": [1.0, 0.0, 0.0, 0.0, -1.0, 0.0], **source,
        },
    }  # fmt: skip
    return stac_item(
        report, outline, mask=file, probability=file, layers=[file], report_path=file, folder=tmp_path / "items"
    )


def test_items_tell_where_and_when_a_scene_was_taken_and_which_files_there_are(
    folder: Path, tmp_path: Path, capsys
) -> None:
    path = tmp_path / "items.parquet"
    arguments = (folder, "-o", tmp_path / "out", "--format", "gpkg,fgb", "--stac-items", path)
    assert segment(*arguments) == 1  # as without the option: a scene failed
    assert capsys.readouterr().out.endswith(f"The STAC items are in {path}\n")
    found = items_of(path)
    assert [one["id"] for one in found] == ["a", "b"]
    assert [one["properties"]["proj:code"] for one in found] == ["EPSG:32633", "EPSG:32644"]
    first = found[0]
    assert first["properties"]["datetime"].startswith("2024-05-01T10:00:00")
    with rasterio.open(folder / "a.tif") as scene:
        corners = rasterio.warp.transform_bounds(scene.crs, "EPSG:4326", *scene.bounds)
        assert first["properties"]["proj:shape"] == list(scene.shape)
        assert first["properties"]["proj:transform"] == list(scene.transform)[:6]
    assert np.allclose(first["bbox"], corners, atol=1e-6)
    outline = shapely.geometry.shape(first["geometry"])
    assert outline.symmetric_difference(shapely.box(*corners)).area < 0.01 * outline.area
    assert shapely.get_num_coordinates(outline) < 10
    assert set(first["assets"]) == {"mask", "probability", "gpkg", "flood_fgb", "unobserved_fgb", "report"}
    for asset in first["assets"].values():
        content = (tmp_path / asset["href"]).read_bytes()
        assert asset["file:size"] == len(content)
        assert asset["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()  # multihash: SHA2-256, 32 bytes
    report = json.loads((tmp_path / "out" / "a.json").read_text())
    assert first["properties"]["floodmap:flood_area_m2"] == report["flood_area_m2"]


def test_items_are_valid_by_the_schema_of_stac(tmp_path: Path) -> None:
    made = item(shapely.box(1, 2, 3, 4), tmp_path)
    assert made.pop("stac_extensions") == list(EXTENSIONS)  # the schemas of extensions are on the network
    made["stac_extensions"] = []
    pystac.validation.validate_dict(made)


def test_paths_are_relative_to_the_folder_of_the_items(tmp_path: Path) -> None:
    assert item(shapely.box(1, 2, 3, 4), tmp_path)["assets"]["mask"]["href"] == "../x.gpkg"


def test_a_crs_without_a_code_is_written_in_full(tmp_path: Path) -> None:
    crs = "+proj=laea +lat_0=10 +lon_0=20 +datum=WGS84"
    properties = item(shapely.box(1, 2, 3, 4), tmp_path, crs=crs)["properties"]
    assert properties["proj:code"] is None and properties["proj:projjson"]["type"] == "ProjectedCRS"


@pytest.mark.parametrize("west", [179, -181])
def test_an_outline_across_the_antimeridian_is_cut_there(west: float, tmp_path: Path) -> None:
    made = item(shapely.box(west, -1, west + 2, 1), tmp_path)
    parts = shapely.geometry.shape(made["geometry"]).geoms
    assert sorted(part.bounds for part in parts) == [(-180, -1, -179, 1), (179, -1, 180, 1)]
    assert made["bbox"] == [179, -1, -179, 1]


def test_resume_replaces_items_and_nothing_else(folder: Path, tmp_path: Path, capsys) -> None:
    path, other = tmp_path / "items.parquet", tmp_path / "other.parquet"
    (folder / "d.tif").unlink()
    arguments = (folder, "-o", tmp_path / "out", "--catalogue", other)
    assert segment(*arguments, "--stac-items", path) == 0
    before = items_of(path)
    assert segment(*arguments, "--stac-items", path) == 1
    assert "exists already" in capsys.readouterr().err
    assert segment(*arguments, "--resume", "--stac-items", path) == 0 and items_of(path) == before
    assert segment(*arguments[:3], "--resume", "--stac-items", other) == 1
    assert "other.parquet exists already and has no STAC items" in capsys.readouterr().err


def test_names_that_cannot_be_are_refused_before_the_run(tmp_path: Path) -> None:
    for path, text in (
        (tmp_path / "items.json", "ending in .parquet"), (tmp_path / "none" / "i.parquet", "folder does not exist"),
        (tmp_path / "taken.parquet", "another file of this run"),
    ):  # fmt: skip
        with pytest.raises(OutputError, match=text):
            check_items_file(path, overwrite=True, resume=False, others=[tmp_path / "taken.parquet"])
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        check_items_file(tmp_path / "folder.parquet", overwrite=True, resume=False, others=[])


def test_without_a_scene_nothing_is_written(tmp_path: Path) -> None:
    assert write_items([], tmp_path / "items.parquet") == 0 and not (tmp_path / "items.parquet").exists()
