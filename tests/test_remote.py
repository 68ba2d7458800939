"""Scenes on web servers: the same bytes as from disk, few requests, a clear line for every fault of a network."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from conftest import SceneFactory, picture
from fakes import FakeSegmenter
from range_server import RangeServer, serving

from floodmap.errors import RemoteError
from floodmap.geo.source_name import SourceName
from floodmap.geo.urls import request, without_queries
from floodmap.geo.window import Window
from floodmap.imagery.scene import Scene
from floodmap.inspection import inspect_scene, valid_share
from floodmap.options import SceneOptions, SegmentOptions
from floodmap.output.results import FloodMap
from floodmap.pipeline import segment_scene
from floodmap_cli.main import run as cli

SECRET = "X-Amz-Signature=SECRET"
RASTERS = ("scene_mask.tif", "scene_probability.tif")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses between repeated requests."""
    for name, value in (("MAX_RETRY", "3"), ("RETRY_DELAY", "0.01"), ("LOW_SPEED_TIME", "1")):
        monkeypatch.setenv(f"GDAL_HTTP_{name}", value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def scene(make_scene: SceneFactory) -> Path:
    """A tiled scene of some hundred KB, so that it takes more than a few requests."""
    tiles = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate"}
    return make_scene(pixels=picture(3, (600, 700)), **tiles)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RangeServer]:
    """A server of the folders of all tests."""
    with serving(tmp_path_factory.getbasetemp()) as running:
        yield running


@pytest.fixture
def server(shared: RangeServer, scene: Path, tmp_path_factory: pytest.TempPathFactory) -> RangeServer:
    return shared.of(scene.parent.relative_to(tmp_path_factory.getbasetemp()).as_posix())


def run(source: Path | str, out: Path, **settings: object) -> FloodMap:
    options = SegmentOptions(tile_size=256, overlap=32, exhaustive=True, **settings)
    return segment_scene(source, out, FakeSegmenter(), options)


def rasters(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in RASTERS]


@pytest.mark.parametrize("behaviour", ["plain", "flaky", "cutting", "noetag"])
def test_the_rasters_are_those_of_the_local_file(
    scene: Path, server: RangeServer, tmp_path: Path, behaviour: str
) -> None:
    run(scene, tmp_path / "local")
    run(server.url("scene.tif", behaviour), tmp_path / "remote")
    assert rasters(tmp_path / "remote") == rasters(tmp_path / "local")


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("noranges", r"sends whole files only .* download the file first: curl -O http"),
        ("forbidden", r"may not be read: the server answered 403 .* signature may have expired"),
        ("expiring", r"may not be read: the server answered 403 .* signature may have expired"),
        ("failing", r"cannot be read: the server answered 503 .* try again later"),
        ("truncated", r"closes the connection too early"),
        ("changing", r"has changed while it was read; run again with --overwrite"),
        ("stalling", r"no answer from 127\.0\.0\.1"),
    ],
)
def test_a_fault_is_one_clear_line_without_the_signature(
    server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str, message: str
) -> None:
    if behaviour == "stalling":  # each try takes a second
        monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "1")
    with pytest.raises(RemoteError, match=message) as caught:
        run(f"{server.url('scene.tif', behaviour)}?{SECRET}", tmp_path / "out")
    assert "\n" not in str(caught.value) and "SECRET" not in str(caught.value)
    assert not (tmp_path / "out" / "scene.json").exists()


FAULTS = [*(f"miss{number}" for number in range(2, 12)), *(f"cut{number}" for number in range(4, 12))]


@pytest.fixture
def masked(scene: Path, make_scene: SceneFactory) -> dict[str, Path]:
    """Half of the scene is unobserved, by an internal mask at the end of the file, a mask beside it, or a sidecar."""
    half = np.zeros((600, 700), bool)
    half[:300] = True
    tiles = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate"}
    inside = make_scene(pixels=picture(3, (600, 700)), name="inside.tif", mask=half, **tiles)
    beside = make_scene(pixels=picture(3, (600, 700)), name="beside.tif", **tiles)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="NO"), rasterio.open(beside, "r+") as dataset:
        dataset.write_mask(half)
    vrt = scene.with_name("vrt.vrt")
    rasterio.shutil.copy(inside, vrt, driver="VRT")
    return {"inside": inside, "beside": beside}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["inside", "beside"])
def test_a_request_that_fails_once_never_makes_masked_ground_dry(
    server: RangeServer, masked: dict[str, Path], kind: str
) -> None:
    for behaviour in ("plain", "nohead", *FAULTS):
        if (kind, behaviour) == ("beside", "miss3"):  # the server denies that there is a mask
            continue
        try:
            with Scene.open(server.url(f"{kind}.tif", behaviour), SceneOptions(collar="off")) as scene:
                assert valid_share(scene) == 0.5, behaviour
        except RemoteError as error:
            assert "404" in str(error), behaviour  # the server denies that there is such a file


@pytest.mark.slow
def test_a_member_of_a_mosaic_that_fails_once_stops_the_run(scene: Path, server: RangeServer) -> None:
    for behaviour in FAULTS:
        vrt = scene.with_name(f"{behaviour}.vrt")
        with rasterio.open(server.url("scene.tif")) as remote:
            rasterio.shutil.copy(remote, vrt, driver="VRT")
        vrt.write_text(vrt.read_text().replace(server.url("scene.tif"), server.url("scene.tif", behaviour)))
        try:
            with Scene.open(vrt, SceneOptions(collar="off")) as opened, Scene.open(scene) as local:
                whole = Window(0, 0, 600, 700)
                assert np.array_equal(opened.read(whole).rgb, local.read(whole).rgb), behaviour
                assert valid_share(opened) == 1, behaviour
        except RemoteError as error:
            assert "SECRET" not in str(error)


def test_names_of_local_files_are_not_taken_for_remote_ones(tmp_path: Path) -> None:
    assert not SourceName.of(f"/vsizip/{tmp_path}/maps3/a.zip/b.tif").is_remote
    assert not SourceName.of(f"vrt://{tmp_path}/b.tif?bands=1").is_remote
    for name in (
        "/vsizip//vsicurl/https://h/a.zip/b.tif",
        "s3://b/k.tif",
        "/vsis3_streaming/b/k",
        "/vsizip/vsis3/b/k.zip",
    ):
        assert SourceName.of(name).is_remote, name
    name = SourceName.of(f"https://me:SECRET@h/a.tif?{SECRET}")
    assert "SECRET" not in f"{name}{name.label}{name.stem}"
    name = SourceName.of(f"GTIFF_DIR:1:/vsicurl/https://h/a.tif?{SECRET}")
    assert "SECRET" not in f"{name}{name.label}{name.stem}" and name.is_remote


def test_info_shows_a_file_that_has_changed_since(
    server: RangeServer, scene: Path, make_scene: SceneFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("floodmap.inspection.shipped_model", FakeSegmenter)
    url = server.url("scene.tif")
    options = SceneOptions(collar="off")
    assert inspect_scene(url, options)["size"]["width"] == 700
    make_scene(pixels=picture(3, (600, 600)))
    assert inspect_scene(url, options)["size"]["width"] == 600


def test_credentials_in_the_address_and_in_the_environment_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert request("https://me:it%27s@h/ä b.tif").get_header("Authorization") == "Basic bWU6aXQncw=="
    assert request("https://me:x@h/ä b.tif").full_url == "https://h/%C3%A4%20b.tif"
    monkeypatch.setenv("GDAL_HTTP_HEADERS", "X-Key: a, b,Other: c")
    assert request("https://h/a.tif", 10).headers == {"Range": "bytes=0-9", "X-key": "a, b", "Other": "c"}


def test_a_missing_file_and_a_missing_host_are_clear_lines(server: RangeServer, tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match=r"missing\.tif: the server has no such file \(it answered 404\)"):
        run(server.url("missing.tif"), tmp_path / "out")
    with pytest.raises(RemoteError, match=r"the host no-such-host\.invalid was not found"):
        run("https://no-such-host.invalid/a.tif", tmp_path / "out")


def test_a_run_whose_server_fails_goes_on_with_what_was_done(scene: Path, server: RangeServer, tmp_path: Path) -> None:
    """The file is renamed after some windows, and back before the run is resumed."""
    url, moved, windows = server.url("scene.tif"), scene.with_name("moved.tif"), []

    def move(_: object) -> None:
        windows.append(1)
        if len(windows) == 8:
            scene.rename(moved)

    options = SegmentOptions(tile_size=128, overlap=32, exhaustive=True, prompts="none")
    with pytest.raises(RemoteError, match="404"):
        segment_scene(url, tmp_path / "out", FakeSegmenter(move), options)
    moved.rename(scene)
    rest = FakeSegmenter()
    resumed = SegmentOptions(tile_size=128, overlap=32, exhaustive=True, prompts="none", resume=True)
    segment_scene(url, tmp_path / "out", rest, resumed)
    whole = FakeSegmenter()
    segment_scene(scene, tmp_path / "local", whole, options)
    assert rasters(tmp_path / "out") == rasters(tmp_path / "local") and len(rest.tiles) < len(whole.tiles)


def test_no_output_holds_the_signature_of_a_url(server: RangeServer, tmp_path: Path, make_scene: SceneFactory) -> None:
    make_scene(pixels=np.zeros((1, 600, 700), np.uint8), name="cloud.tif")
    signed = f"{server.url('scene.tif')}?{SECRET}"
    mask = f"{server.url('cloud.tif')}?{SECRET}"
    run(signed, tmp_path / "out", report=True, scene=SceneOptions(mask=mask))
    for file in (tmp_path / "out").rglob("*"):
        assert b"SECRET" not in (file.read_bytes() if file.is_file() else b""), file


def test_another_signature_of_the_same_file_resumes(server: RangeServer, tmp_path: Path) -> None:
    run(f"{server.url('scene.tif')}?{SECRET}1", tmp_path / "out", scene=SceneOptions(aoi=None))
    again = segment_scene(
        f"{server.url('scene.tif')}?{SECRET}2",
        tmp_path / "out",
        FakeSegmenter(),
        SegmentOptions(tile_size=256, overlap=32, exhaustive=True, resume=True),
    )
    assert again.report["run"]


def test_info_takes_at_most_six_requests_and_reads_an_overview(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("floodmap.inspection.shipped_model", FakeSegmenter)
    pixels = np.repeat(np.repeat(picture(3, (300, 260), "uint16"), 10, 1), 10, 2)
    plain = make_scene(pixels=pixels, nodata=0, tiled=True, blockxsize=256, blockysize=256)
    rasterio.shutil.copy(plain, tmp_path / "cog.tif", driver="COG", compress="deflate")
    local = inspect_scene(tmp_path / "cog.tif", SceneOptions())
    with serving(tmp_path) as server:
        found = inspect_scene(server.url("cog.tif"), SceneOptions())
        time.sleep(0.2)  # the last lines of the server's log arrive
        assert len(server.lines) <= 6
        bare = inspect_scene(server.url("scene.tif"), SceneOptions())
    for key in ("size", "crs", "transform", "gsd_m", "bands", "dtype", "nodata", "windows", "collar"):
        assert found[key] == local[key]
    assert found["valid_share"] == pytest.approx(local["valid_share"], abs=0.02)
    assert found["stretch"]["low"] == pytest.approx(local["stretch"]["low"], rel=0.3)
    # Without overviews, the whole file would have to be read.
    assert bare["size"] == local["size"] and bare["stretch"] is None and bare["valid_share"] is None


def test_masks_and_polygons_are_scored_and_traced_from_a_server(
    scene: Path, server: RangeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(scene, scene.parent)
    texts = []
    for where in (f"{scene.parent}/{{}}", f"{server.url('{}')}?{SECRET}"):
        assert cli(["evaluate", where.format("scene_mask.tif"), where.format("scene.gpkg"), "--json"]) == 0
        texts.append(json.loads(capsys.readouterr().out))
    assert texts[0]["scenes"][0]["iou"] == texts[1]["scenes"][0]["iou"] > 0.5
    traced = []
    for number, mask in enumerate((scene.parent / "scene_mask.tif", server.url("scene_mask.tif"))):
        out = tmp_path / str(number) / "flood.geojson"
        out.parent.mkdir()
        assert cli(["vectorize", str(mask), "-o", str(out)]) == 0
        traced.append(out.read_bytes())
    assert traced[0] == traced[1]
    assert cli(["vectorize", server.url("none.tif"), "-o", str(tmp_path / "none.gpkg")]) == 1
    assert "none.tif: the server has no such file" in capsys.readouterr().err


def test_queries_are_cut_from_texts() -> None:
    text = "https://h/a.tif?sig=x%2B and a.tif?sig=x, band 1: failed? perhaps"
    assert without_queries(text) == "https://h/a.tif and a.tif, band 1: failed? perhaps"
    assert json.loads(without_queries(json.dumps({"a": "s3://b/c.tif?k=v"}))) == {"a": "s3://b/c.tif"}


def test_settings_of_the_user_have_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    from floodmap.geo.remote import delays_s, setting

    assert setting("GDAL_HTTP_MAX_RETRY") == "3" == os.environ["GDAL_HTTP_MAX_RETRY"]
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "2")
    assert list(delays_s()) == [2, 4, 8]
