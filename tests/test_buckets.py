"""Scenes in a bucket, on a server of the S3 protocol: the same rasters as from disk, fingerprints, clear messages."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import HANGS, SceneFactory, picture
from fakes import FakeSegmenter

from floodmap.errors import FloodmapError, RemoteError
from floodmap.geo.remote import content_of
from floodmap.geo.source_name import SourceName
from floodmap.imagery.scene import Scene
from floodmap.options import SegmentOptions
from floodmap.pipeline import segment_scene

obstore = pytest.importorskip("obstore", reason="obstore is not installed")
pytest.importorskip("moto", reason="moto is not installed")
S3Store = pytest.importorskip("obstore.store").S3Store
pytestmark = pytest.mark.slow
PROGRAM = """
import sys, threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
threading.Event().wait()
"""
OPTIONS = SegmentOptions(tile_size=256, overlap=32, exhaustive=True)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Address of a running server with an empty bucket `floods`; the environment has its credentials."""
    with (
        subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
        pytest.MonkeyPatch.context() as monkeypatch,
    ):
        assert process.stdout is not None
        host = f"127.0.0.1:{process.stdout.readline().decode().strip()}"
        variables = {
            "AWS_S3_ENDPOINT": host, "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE", "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "KEYNAME", "AWS_SECRET_ACCESS_KEY": "SECRET", "NO_PROXY": "127.0.0.1",
            "GDAL_HTTP_RETRY_DELAY": "0.01",
        }  # fmt: skip
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        try:
            make_bucket(f"http://{host}/floods")
            yield f"http://{host}"
        finally:
            process.kill()


def make_bucket(address: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(address, method="PUT"), timeout=HANGS):
        pass


def put(endpoint: str, key: str, content: bytes) -> None:
    """Write an object into the bucket; an object of this name is replaced."""
    store = S3Store(
        "floods", endpoint=endpoint, region="us-east-1", access_key_id="KEYNAME", secret_access_key="SECRET",
        client_options={"allow_http": True},
    )  # fmt: skip
    obstore.put(store, key, content)


@pytest.fixture
def scene(make_scene: SceneFactory) -> Path:
    return make_scene(pixels=picture(3, (600, 700)), tiled=True, blockxsize=128, blockysize=128, compress="deflate")


def test_the_rasters_are_those_of_the_local_file(endpoint: str, scene: Path, tmp_path: Path) -> None:
    put(endpoint, "a/scene.tif", scene.read_bytes())
    segment_scene(scene, tmp_path / "local", FakeSegmenter(), OPTIONS)
    result = segment_scene("s3://floods/a/scene.tif", tmp_path / "s3", FakeSegmenter(), OPTIONS)
    for kind in ("mask", "probability"):
        name = f"scene_{kind}.tif"
        assert (tmp_path / "s3" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
    assert result.report["source"]["fingerprint"]
    assert not any(b"SECRET" in file.read_bytes() for file in (tmp_path / "s3").iterdir())


def test_a_changed_object_has_another_fingerprint_and_stops_a_run(
    endpoint: str, scene: Path, make_scene: SceneFactory, tmp_path: Path
) -> None:
    other = make_scene(shape_hw=(600, 700), name="other.tif").read_bytes()
    prints = []
    for content in (scene.read_bytes(), other):
        put(endpoint, "scene.tif", content)
        with Scene.open("s3://floods/scene.tif") as opened:
            prints.append(opened.fingerprint)
    assert None not in prints and prints[0] != prints[1]
    put(endpoint, "scene.tif", scene.read_bytes())
    with pytest.raises(RemoteError, match=r"s3://floods/scene\.tif has changed while it was read"):
        segment_scene(
            "s3://floods/scene.tif",
            tmp_path / "out",
            FakeSegmenter(lambda _: put(endpoint, "scene.tif", other)),
            OPTIONS,
        )


def test_messages_name_the_object_and_the_remedy(
    endpoint: str, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FloodmapError, match=r"s3://floods/missing\.tif: the bucket floods has no such file"):
        Scene.open("s3://floods/missing.tif")
    put(endpoint, "item.json", b"{}")
    assert content_of(SourceName.of("s3://floods/item.json")) == b"{}"
    with pytest.raises(RemoteError, match=r"none\.json cannot be downloaded"):
        content_of(SourceName.of("s3://floods/none.json"))
