"""STAC items of results and models: valid by their schemas without a network, complete, and up to date."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import socket
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pystac
import pytest
import safetensors
from conftest import GEOGRAPHIC, SceneFactory
from fakes import FakeSegmenter
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

import floodmap
from floodmap.errors import FloodmapError, ModelError, OutputError
from floodmap.models.registry import WEIGHTS
from floodmap.options import SegmentOptions
from floodmap.output.products import model_item as model_items
from floodmap.output.results import FloodMap
from floodmap.pipeline import segment_scene
from floodmap_cli.main import run as run_command

SCHEMAS = Path(__file__).parent / "schemas"
SMALL = {"tile_size": 64, "overlap": 8, "prompts": "none", "stac": True}
DATED = {"tags": {"TIFFTAG_DATETIME": "2024:05:01 10:00:00"}}
LAEA = "+proj=laea +lat_0=45 +lon_0=15 +x_0=500000 +y_0=5000000 +datum=WGS84"


def registry() -> Registry[Any]:
    """The vendored schemas by address. Nothing is retrieved: an unknown address is an error."""
    addresses = {
        path: f"https://stac-extensions.github.io/{path.stem.replace('-v', '/v')}/schema.json"
        for path in SCHEMAS.glob("*.json")
    }
    addresses[SCHEMAS / "projjson-v0.7.json"] = "https://proj.org/schemas/v0.7/projjson.schema.json"
    # The schema of classification 1.1.0 names itself 1.0.0, and its own references go there.
    pairs = [(address, path) for path, address in addresses.items()]
    itself = "https://stac-extensions.github.io/classification/v1.0.0/schema.json"
    pairs.append((itself, SCHEMAS / "classification-v1.1.0.json"))
    contents = [(address, json.loads(path.read_text("utf-8"))) for address, path in pairs]
    geojson = resources.files("pystac.validation").joinpath("jsonschemas", "geojson", "Geometry.json")
    contents.append(("https://geojson.org/schema/Geometry.json", json.loads(geojson.read_text("utf-8"))))
    return Registry().with_resources(
        (address, Resource.from_contents(one, default_specification=DRAFT7)) for address, one in contents
    )


def check(item: dict[str, Any]) -> None:
    """Check an item by the schemas of STAC and of all its extensions."""
    assert "NaN" not in json.dumps(item) and "Infinity" not in json.dumps(item)
    schemas = registry()
    for address in item["stac_extensions"]:
        validator = jsonschema.Draft7Validator(schemas.contents(address), registry=schemas)
        assert [error.message for error in validator.iter_errors(item)] == [], address
    pystac.validation.validate_dict({**item, "stac_extensions": []})


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection."""

    def refuse(*_: object) -> None:
        raise AssertionError("a test wanted the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def run(scene: Path, out: Path, **settings: object) -> FloodMap:
    return segment_scene(scene, out, FakeSegmenter(), SegmentOptions(**{**SMALL, **settings}))


def item_of(result: FloodMap) -> dict[str, Any]:
    assert result.stac_path is not None
    return json.loads(result.stac_path.read_text("utf-8"))


def test_a_wrong_item_is_found_wrong(make_scene: SceneFactory, tmp_path: Path) -> None:
    item = item_of(run(make_scene(), tmp_path / "out"))
    check(item)
    for damage in (
        lambda one: one["properties"].update({"proj:shape": [1.5, 2]}),
        lambda one: one["assets"]["mask"].update({"file:checksum": "XYZ"}),
        lambda one: one["assets"]["mask"]["classification:classes"][0].pop("name"),
        lambda one: one["properties"].update({"processing:software": "floodmap"}),
    ):
        wrong = json.loads(json.dumps(item))
        damage(wrong)
        with pytest.raises(AssertionError):
            check(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("where", [{}, {"crs": "EPSG:4326", "transform": GEOGRAPHIC}, {"crs": LAEA}, {"crs": None}])
def test_items_are_valid_by_their_schemas(where: dict[str, Any], make_scene: SceneFactory, tmp_path: Path) -> None:
    result = run(make_scene(**where, **DATED), tmp_path / "out", report=True, pdf=True, formats=("gpkg", "shp"))
    item = item_of(result)
    check(item)
    assert item["properties"]["datetime"] == "2024-05-01T10:00:00+00:00"
    assert item["properties"]["created"] == result.report["run"]["finished"]
    if where.get("crs", "") is None:
        assert item["geometry"] is None and "bbox" not in item
        assert item["properties"]["proj:code"] is None and "proj:transform" not in item["properties"]
        assert "floodmap:flood_area_m2" not in item["properties"]


@pytest.mark.slow
def test_every_file_of_a_result_is_an_asset_with_its_checksum(make_scene: SceneFactory, tmp_path: Path) -> None:
    out = tmp_path / "out"
    water = make_scene(name="water.tif", pixels=np.full((1, 150, 200), 100, np.uint8))
    item = item_of(
        run(make_scene(), out, report=True, pdf=True, schema="cems", permanent_water=water,
            formats=("gpkg", "shp", "geojson", "fgb", "parquet"))
    )  # fmt: skip
    check(item)
    assets = {out / asset["href"]: asset for asset in item["assets"].values()}
    files = {path for path in out.iterdir() if path.suffix != ".qml" and not path.name.endswith("_stac.json")}
    files -= {out / "scene_source_v1.cpg"}  # the encoding is in the .dbf as well
    assert {path.resolve() for path in assets} == {path.resolve() for path in files}
    for path, asset in assets.items():
        assert not os.path.isabs(asset["href"])
        assert asset["file:size"] == path.stat().st_size
        assert asset["file:checksum"] == "1220" + hashlib.sha256(path.read_bytes()).hexdigest()
    classes = {one["value"]: one["name"] for one in item["assets"]["mask"]["classification:classes"]}
    assert classes == {0: "dry", 1: "flood", 2: "permanent_water", 255: "unobserved"}
    assert item["assets"]["mask"]["bands"][0]["nodata"] == 255
    assert item["links"] == []


def test_a_date_of_the_file_is_not_said_to_be_that_of_the_picture(make_scene: SceneFactory, tmp_path: Path) -> None:
    dated = item_of(run(make_scene(name="a.tif", **DATED), tmp_path / "out"))
    undated = item_of(run(make_scene(name="b.tif"), tmp_path / "out"))
    assert [one["properties"]["floodmap:date_of"] for one in (dated, undated)] == ["picture", "file"]


@pytest.mark.slow
def test_resume_adds_an_item_and_renews_one_that_is_out_of_date(make_scene: SceneFactory, tmp_path: Path) -> None:
    scene, out = make_scene(), tmp_path / "out"
    assert run(scene, out, stac=False).stac_path is None
    path = run(scene, out, resume=True).stac_path
    assert path is not None
    before = path.stat().st_mtime_ns
    assert run(scene, out, resume=True).stac_path == path and path.stat().st_mtime_ns == before
    with_page = item_of(run(scene, out, resume=True, report=True))  # the page is new, so the item is, too
    assert "page" in with_page["assets"] and path.stat().st_mtime_ns > before
    assert "page" in item_of(run(scene, out, resume=True))["assets"]  # also if the option is not given again
    old = out / "scene.json"
    os.utime(path, ns=(0, old.stat().st_mtime_ns - 1))
    run(scene, out, resume=True)
    assert path.stat().st_mtime_ns >= old.stat().st_mtime_ns


def test_an_item_is_refused_replaced_and_reported_as_the_other_files_are(
    make_scene: SceneFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene, out = make_scene(), tmp_path / "out"
    out.mkdir()
    (out / "scene_stac.json").write_text("{}")
    with pytest.raises(OutputError, match=r"scene_stac\.json exists already"):
        run(scene, out)
    assert item_of(run(scene, out, overwrite=True))["id"] == "scene"
    with caplog.at_level(logging.WARNING):
        run(scene, out, overwrite=True, stac=False)
    assert "scene_stac.json is left from an earlier run" in caplog.text


def test_no_item_of_old_results_is_left_when_new_ones_cannot_be_written(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, out = make_scene(), tmp_path / "out"
    run(scene, out)

    def fail(*_: object, **__: object) -> None:
        raise OutputError("full")

    monkeypatch.setattr("floodmap.pipeline.rehearse", lambda *_: None)
    monkeypatch.setattr("floodmap.output.finishing.Finishing.run", fail)
    with pytest.raises(OutputError, match="full"):
        run(scene, out, overwrite=True)
    assert not (out / "scene_stac.json").exists()


def test_the_item_of_the_shipped_model_is_valid_and_true() -> None:
    item = floodmap.model_item("finetuned")
    check(item)
    weights = WEIGHTS / "finetuned.safetensors"
    with safetensors.safe_open(weights, "np") as file:
        count = sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118 (no mapping)
    assert item["properties"]["mlm:total_parameters"] == count
    asset = item["assets"]["model"]
    assert asset["file:checksum"] == "1220" + hashlib.sha256(weights.read_bytes()).hexdigest()
    assert asset["href"] == "./finetuned.safetensors" and asset["file:size"] == weights.stat().st_size
    wrong = json.loads(json.dumps(item))
    wrong["properties"]["mlm:tasks"] = ["floods"]
    with pytest.raises(AssertionError):
        check(wrong)


def test_the_scaling_of_the_input_is_that_of_the_network() -> None:
    from floodmap.models.sam.common import PIXEL_MEAN, PIXEL_STD

    scaling = floodmap.model_item("finetuned")["properties"]["mlm:input"][0]["value_scaling"]
    assert [(one["mean"], one["stddev"]) for one in scaling] == list(zip(PIXEL_MEAN, PIXEL_STD, strict=True))


@pytest.mark.parametrize("model", ["sam_vit_b", "sam_vit_l", "sam_vit_h", "pretrained"])
def test_items_of_models_that_are_not_fetched_name_their_address(model: str) -> None:
    item = floodmap.model_item(model)
    check(item)
    assert item["assets"]["model"]["href"].endswith(".pth")


@pytest.mark.parametrize("stem", ["my model", "1", "ä"])
def test_a_file_of_weights_has_an_item_whatever_its_name(stem: str, tmp_path: Path) -> None:
    path = tmp_path / f"{stem}.safetensors"
    path.write_bytes((WEIGHTS / "finetuned.safetensors").read_bytes() + b"")
    check(floodmap.model_item(path))


def test_what_is_no_model_has_no_item(tmp_path: Path) -> None:
    for model in ("nothing", tmp_path / "none.safetensors"):
        with pytest.raises(ModelError):
            floodmap.model_item(model)


def test_the_command_writes_the_item_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.json"
    assert run_command(["models", "stac", "finetuned", "-o", str(path)]) == 0
    assert json.loads(path.read_text("utf-8")) == model_items.model_item("finetuned")
    assert run_command(["models", "stac", "finetuned", "-o", str(path)]) == 1
    assert "exists already" in capsys.readouterr().err
    assert run_command(["models", "stac", "finetuned", "-o", str(path), "--overwrite"]) == 0
    capsys.readouterr()
    assert run_command(["models", "stac", "finetuned"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == "finetuned"


def test_a_kind_of_flood_needs_the_schema() -> None:
    with pytest.raises(FloodmapError, match="--flood-type needs --schema cems"):
        SegmentOptions(flood_type="flash")
