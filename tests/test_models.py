"""Names, files, hashes and downloads of models, against servers on localhost."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import HANGS

from floodmap.errors import DownloadError, ModelError
from floodmap.models import download as downloading
from floodmap.models import registry as models
from floodmap.models.download import download, sha256_of

BODY = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(BODY).hexdigest()


@dataclass
class Server:
    """Behaviour of the server, and the requests it got."""

    body: bytes = BODY
    cut_after: list[int] = field(default_factory=list)
    """Bytes to send before the connection is cut, for the first requests in turn."""
    ranges: bool = True
    status: int = 200
    statuses: list[int] = field(default_factory=list)
    """Statuses of the first requests, before `status`."""
    reset: bool = False
    """Cut with a TCP reset instead of an orderly end."""
    lengths: bool = True
    hold: threading.Event | None = None
    """Where set, an answer waits for this event half-way."""
    asked: list[str | None] = field(default_factory=list)
    """Range header of each request."""
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        behaviour: Server = self.server.behaviour
        behaviour.asked.append(self.headers.get("Range"))
        status = behaviour.statuses.pop(0) if behaviour.statuses else behaviour.status
        if status != 200:
            self.send_error(status)
            return
        start, body = 0, behaviour.body
        if behaviour.ranges and (matched := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))):
            start = int(matched[1])
        if start >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if behaviour.lengths:
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.send_body(body[start:], behaviour)

    def send_body(self, body: bytes, behaviour: Server) -> None:
        if behaviour.hold:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            behaviour.hold.wait(HANGS)
            body = body[len(body) // 2 :]
        if not behaviour.cut_after:
            self.wfile.write(body)
            return
        self.wfile.write(body[: behaviour.cut_after.pop(0)])
        self.wfile.flush()
        if behaviour.reset:
            # SO_LINGER with zero seconds turns close() into a TCP reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    behaviour = Server(url=f"http://127.0.0.1:{http.server_port}/")
    http.behaviour = behaviour
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield behaviour
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("FLOODMAP_CACHE", str(folder))
    monkeypatch.setattr(downloading.time, "sleep", lambda seconds: None)
    return folder


@pytest.fixture
def tiny(server: Server, monkeypatch: pytest.MonkeyPatch) -> models.Model:
    """A registered model whose file is BODY, fetched from the server."""
    model = models.Model(name="tiny", file="tiny.pth", architecture="vit_b", sha256=SHA256, size_mb=1.024)
    monkeypatch.setattr(models, "_SAM", (*models._SAM, model))
    monkeypatch.setenv("FLOODMAP_MODEL_URL", server.url)
    return model


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert text and "\n" not in text
    return text


def leftovers(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


def test_the_official_models_are_those_of_the_publisher() -> None:
    known = models.registry()
    assert known["sam_vit_b"].sha256 == "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"
    assert known["sam_vit_l"].sha256 == "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"
    assert known["sam_vit_h"].sha256 == "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"
    base = "https://dl.fbaipublicfiles.com/segment_anything/"
    assert known["sam_vit_b"].url == base + "sam_vit_b_01ec64.pth"
    assert known["sam_vit_l"].url == base + "sam_vit_l_0b3195.pth"
    assert known["sam_vit_h"].url == base + "sam_vit_h_4b8939.pth"


def test_pretrained_is_sam_vit_b() -> None:
    assert models.find("pretrained") == models.find("sam_vit_b")


def test_a_model_is_fetched_once_and_checked(server: Server, tiny: models.Model, cache: Path) -> None:
    reports: list[tuple[int, int | None]] = []
    resolved = models.resolve("tiny", progress=lambda done, total: reports.append((done, total)))
    assert resolved.path == cache / "tiny.pth"
    assert resolved.path.read_bytes() == BODY
    assert (resolved.name, resolved.architecture, resolved.sha256) == ("tiny", "vit_b", SHA256)
    assert [done for done, _ in reports] == sorted({done for done, _ in reports})
    assert reports[-1] == (len(BODY), len(BODY))
    assert models.resolve("tiny") == resolved
    assert server.asked == [None]
    assert leftovers(cache) == {"tiny.pth"}


@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_connection_is_taken_up_where_it_broke(server: Server, tiny: models.Model, reset: bool) -> None:
    server.cut_after, server.reset = [300_000, 500_000], reset
    assert models.fetch(tiny).read_bytes() == BODY
    assert server.asked[0] is None
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in server.asked[1:]]
    if reset:
        # What the kernel had not handed over is lost with a reset.
        assert 0 <= starts[0] <= 300_000 and starts == sorted(starts)
    else:
        assert starts == [300_000, 800_000]


def test_the_next_run_goes_on_with_what_an_earlier_one_left(server: Server, tiny: models.Model, cache: Path) -> None:
    cache.mkdir()
    (cache / "tiny.pth.part").write_bytes(BODY[:700_000])
    first: list[int] = []
    models.fetch(tiny, progress=lambda done, total: first.append(done))
    assert server.asked == ["bytes=700000-"]
    assert first[0] > 700_000
    assert leftovers(cache) == {"tiny.pth"}


def test_a_server_without_ranges_starts_over(server: Server, tiny: models.Model) -> None:
    server.ranges, server.cut_after = False, [300_000]
    assert models.fetch(tiny).read_bytes() == BODY
    assert server.asked == [None, "bytes=300000-"]


def test_a_connection_that_always_breaks_at_one_place_is_given_up(
    server: Server, tiny: models.Model, cache: Path
) -> None:
    server.ranges, server.cut_after = False, [300_000] * 50
    with pytest.raises(ModelError, match="broke off after 300000 of 1024000 bytes") as error:
        models.fetch(tiny)
    assert "floodmap models add tiny.pth" in one_line(error)
    assert len(server.asked) == 6
    assert (cache / "tiny.pth.part").stat().st_size == 300_000


def test_a_slow_drip_of_progress_is_not_given_up(server: Server, tiny: models.Model) -> None:
    server.cut_after = [60_000] * 17
    assert models.fetch(tiny).read_bytes() == BODY
    assert len(server.asked) == 18


def test_a_part_of_another_file_is_thrown_away(server: Server, tiny: models.Model, cache: Path) -> None:
    cache.mkdir()
    (cache / "tiny.pth.part").write_bytes(b"x" * 500_000)
    assert models.fetch(tiny).read_bytes() == BODY
    assert server.asked == ["bytes=500000-", None]


@pytest.mark.parametrize("part", [BODY, BODY + b"more"])
def test_a_part_as_long_as_the_file_or_longer_is_settled_by_its_hash(
    server: Server, tiny: models.Model, cache: Path, part: bytes
) -> None:
    cache.mkdir()
    (cache / "tiny.pth.part").write_bytes(part)
    assert models.fetch(tiny).read_bytes() == BODY
    assert len(server.asked) == (1 if part == BODY else 2)


def test_a_wrong_hash_is_refused_and_nothing_stays(server: Server, tiny: models.Model, cache: Path) -> None:
    server.body = BODY[:-1] + b"!"
    with pytest.raises(ModelError, match="wrong SHA-256") as error:
        models.resolve("tiny")
    text = one_line(error)
    assert hashlib.sha256(server.body).hexdigest() in text and SHA256 in text
    assert leftovers(cache) == set()


def test_a_resumed_download_with_a_wrong_hash_is_tried_once_more_only(
    server: Server, tiny: models.Model, cache: Path
) -> None:
    cache.mkdir()
    (cache / "tiny.pth.part").write_bytes(b"x" * 10)
    server.body = BODY[:-1] + b"!"
    with pytest.raises(ModelError, match="wrong SHA-256"):
        models.fetch(tiny)
    assert server.asked == ["bytes=10-", None]
    assert leftovers(cache) == set()


def test_a_truncated_answer_without_a_length_is_found_by_its_hash(server: Server, tiny: models.Model) -> None:
    server.lengths, server.cut_after = False, [1000]
    with pytest.raises(ModelError, match="wrong SHA-256"):
        models.fetch(tiny)


def test_a_missing_file_is_not_asked_for_twice(server: Server, tiny: models.Model, cache: Path) -> None:
    server.status = 404
    with pytest.raises(ModelError, match="404") as error:
        models.fetch(tiny)
    assert "tiny.pth" in one_line(error)
    assert len(server.asked) == 1
    assert leftovers(cache) == set()


def test_a_busy_server_is_asked_again(server: Server, tiny: models.Model) -> None:
    server.statuses = [503, 429]
    assert models.fetch(tiny).read_bytes() == BODY
    assert len(server.asked) == 3


def test_without_a_network_one_line_says_how_to_bring_the_file(
    cache: Path, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    url = f"http://127.0.0.1:{closed_port()}"
    monkeypatch.setenv("FLOODMAP_MODEL_URL", url)
    slept: list[float] = []
    monkeypatch.setattr(downloading.time, "sleep", slept.append)
    with pytest.raises(ModelError) as error:
        models.resolve("pretrained")
    text = one_line(error)
    assert "sam_vit_b_01ec64.pth" in text
    assert f"{url}/sam_vit_b_01ec64.pth" in text
    assert "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912" in text
    assert "floodmap models add sam_vit_b_01ec64.pth" in text
    assert slept == []
    assert leftovers(cache) == set()


@pytest.mark.parametrize("base", ["no address", "http://127.0.0.1:port/", "gopher://x/"])
def test_a_base_url_that_is_none_is_one_line(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOODMAP_MODEL_URL", base)
    with pytest.raises(ModelError) as error:
        models.resolve("sam_vit_b")
    one_line(error)


def test_a_folder_can_be_the_mirror(tiny: models.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "tiny.pth").write_bytes(BODY)
    monkeypatch.setenv("FLOODMAP_MODEL_URL", (tmp_path / "mirror").as_uri())
    assert models.fetch(tiny).read_bytes() == BODY


def test_two_downloads_at_once_fetch_one_file_once(server: Server, tiny: models.Model, cache: Path, caplog) -> None:
    server.hold = threading.Event()
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(models.fetch(tiny).read_bytes())) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(caplog.records) < 2 and all(thread.is_alive() for thread in threads):
        threading.Event().wait(0.005)
    server.hold.set()
    for thread in threads:
        thread.join(HANGS)
    assert results == [BODY] * 3
    assert server.asked == [None]
    assert sum("waiting" in record.getMessage() for record in caplog.records) == 2
    assert leftovers(cache) == {"tiny.pth"}


def test_a_full_disk_is_told_before_the_download(
    server: Server, tiny: models.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(downloading.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(ModelError, match=r"needs 1.0 MB more.*1.0 kB left.*FLOODMAP_CACHE") as error:
        models.fetch(tiny)
    assert "models add" not in one_line(error)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full to fail the write")
def test_a_disk_that_fills_up_on_the_way_is_one_line(tiny: models.Model, cache: Path) -> None:
    cache.mkdir()
    (cache / "tiny.pth.part").symlink_to("/dev/full")
    with pytest.raises(ModelError, match=r"tiny\.pth\.part cannot be written: No space left on device") as error:
        models.fetch(tiny)
    assert "FLOODMAP_CACHE" in one_line(error)
    assert not (cache / "tiny.pth").exists()


def test_a_cache_that_cannot_be_made_is_one_line(
    tiny: models.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("FLOODMAP_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelError, match=r"cannot be created.*FLOODMAP_CACHE") as error:
        models.fetch(tiny)
    one_line(error)


@pytest.mark.parametrize("refusal", [PermissionError(13, "Permission denied"), NotImplementedError("no flock here")])
def test_a_cache_that_cannot_be_written_is_one_line(
    tiny: models.Model, monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise refusal

    monkeypatch.setattr(downloading.filelock.FileLock, "acquire", refuse)
    with pytest.raises(ModelError, match=r"cannot be written: (Permission denied|no flock here); set FLOODMAP_"):
        models.fetch(tiny)


def test_a_damaged_file_in_the_cache_is_refused_and_pulled_afresh(tiny: models.Model, cache: Path) -> None:
    models.fetch(tiny)
    (cache / "tiny.pth").write_bytes(BODY[:-5])
    assert models.verify(tiny) == "damaged"
    with pytest.raises(ModelError, match=r"damaged.*floodmap models pull tiny") as error:
        models.resolve("tiny")
    one_line(error)
    models.fetch(tiny)
    assert models.verify(tiny) == "ok"


def test_add_takes_a_file_of_any_name_by_its_hash(
    server: Server, tiny: models.Model, tmp_path: Path, cache: Path
) -> None:
    brought = tmp_path / "from a stick.bin"
    brought.write_bytes(BODY)
    assert models.add(brought) == (tiny, cache / "tiny.pth")
    assert brought.read_bytes() == BODY
    assert models.resolve("tiny").path.read_bytes() == BODY
    assert server.asked == []
    assert leftovers(cache) == {"tiny.pth"}


def test_add_of_the_file_in_the_cache_leaves_it_there(tiny: models.Model, cache: Path) -> None:
    path = models.fetch(tiny)
    assert models.add(path) == (tiny, path)
    assert path.read_bytes() == BODY


def test_add_mends_a_damaged_file(tiny: models.Model, cache: Path, tmp_path: Path) -> None:
    cache.mkdir()
    (cache / "tiny.pth").write_bytes(b"damaged")
    (tmp_path / "good.pth").write_bytes(BODY)
    models.add(tmp_path / "good.pth")
    assert models.verify(tiny) == "ok"


def test_add_refuses_a_file_it_does_not_know(tmp_path: Path, cache: Path) -> None:
    other = tmp_path / "sam_vit_b_01ec64.pth"
    other.write_bytes(b"half a model")
    with pytest.raises(ModelError, match="none of") as error:
        models.add(other)
    assert hashlib.sha256(b"half a model").hexdigest() in one_line(error)
    assert not cache.exists()


@pytest.mark.parametrize("make", [lambda path: None, Path.mkdir])
def test_add_refuses_what_is_no_file(tmp_path: Path, make) -> None:
    make(tmp_path / "model.pth")
    with pytest.raises(ModelError, match="is not a file"):
        models.add(tmp_path / "model.pth")


def write_safetensors(path: Path, metadata: dict[str, str]) -> None:
    header = json.dumps({"__metadata__": metadata, "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0")


def test_a_file_of_ones_own_is_named_by_its_stem_and_described_by_its_metadata(tmp_path: Path) -> None:
    path = tmp_path / "my run.safetensors"
    write_safetensors(path, {"architecture": "flood_sam", "epochs": "3"})
    resolved = models.resolve(path)
    assert (resolved.name, resolved.architecture, resolved.path) == ("my run", "flood_sam", path)
    assert resolved.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert models.read_metadata(path) == {"architecture": "flood_sam", "epochs": "3"}


def test_read_metadata_agrees_with_the_safetensors_package(tmp_path: Path) -> None:
    import numpy as np
    from safetensors import numpy, safe_open

    path = tmp_path / "x.safetensors"
    numpy.save_file({"a": np.zeros(3, np.float32)}, path, metadata={"über": "ß"})
    with safe_open(path, "np") as opened:
        assert models.read_metadata(path) == opened.metadata()


def test_a_pth_file_leaves_its_architecture_to_its_tensors(tmp_path: Path) -> None:
    (tmp_path / "own.pth").write_bytes(b"weights")
    assert models.resolve(str(tmp_path / "own.pth")).architecture is None


def test_a_known_file_under_another_name_is_recognized(tiny: models.Model, tmp_path: Path) -> None:
    (tmp_path / "renamed.pth").write_bytes(BODY)
    resolved = models.resolve(tmp_path / "renamed.pth")
    assert (resolved.name, resolved.architecture) == ("tiny", "vit_b")
    assert resolved.path == tmp_path / "renamed.pth"


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x02" + b"\0" * 7 + b"[]", b"\x04" + b"\0" * 7 + b"{{{{"])
def test_a_damaged_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"bad\.safetensors") as error:
        models.resolve(tmp_path / "bad.safetensors")
    one_line(error)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nonsense", "no model is named 'nonsense'; choose from"),
        ("there/is/none.pth", "is not a file"),
        ("sam_vit_l_0b3195.pth", "is not a file; to fetch it: --model sam_vit_l"),
        ("FINETUNED", "no model is named 'FINETUNED'"),
        ("", "no model is named ''"),
    ],
)
def test_what_names_no_model_is_refused_in_one_line(name: str, words: str) -> None:
    with pytest.raises(ModelError) as error:
        models.resolve(name)
    assert words in one_line(error)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scene.tif").write_bytes(b"II*")
    with pytest.raises(ModelError, match=r"must end in \.safetensors or \.pth"):
        models.resolve(tmp_path / "scene.tif")
    with pytest.raises(ModelError, match="is not a file"):
        models.resolve(tmp_path)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a shipped model."""
    folder = tmp_path / "weights"
    folder.mkdir()
    write_safetensors(folder / "finetuned.safetensors", {"architecture": "flood_sam"})
    sha256 = sha256_of(folder / "finetuned.safetensors")
    (folder / "finetuned.json").write_text(json.dumps({"sha256": sha256, "training": {"minutes": 40}}))
    monkeypatch.setattr(models, "WEIGHTS", folder)
    return folder


def test_the_shipped_model_needs_no_network_and_no_cache(weights: Path, cache: Path) -> None:
    resolved = models.resolve("finetuned")
    assert resolved.path == weights / "finetuned.safetensors"
    assert (resolved.name, resolved.architecture) == ("finetuned", "flood_sam")
    assert next(iter(models.registry())) == "finetuned"
    assert models.find("finetuned").url is None
    assert not cache.exists()


def test_a_damaged_shipped_model_is_refused(weights: Path) -> None:
    with (weights / "finetuned.safetensors").open("ab") as file:
        file.write(b"!")
    with pytest.raises(ModelError, match="damaged; reinstall floodmap"):
        models.resolve("finetuned")
    with pytest.raises(ModelError, match="ships with floodmap"):
        models.fetch(models.find("finetuned"))


def test_a_package_without_its_model_says_so(weights: Path) -> None:
    (weights / "finetuned.safetensors").unlink()
    with pytest.raises(ModelError, match="absent; reinstall floodmap"):
        models.resolve("finetuned")
    (weights / "finetuned.json").unlink()
    with pytest.raises(ModelError, match=r"missing from .*; reinstall floodmap"):
        models.resolve("finetuned")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": 3}', '{"sha256": "abc"}', "\udcff"])
def test_a_damaged_model_card_is_one_line(weights: Path, text: str) -> None:
    (weights / "finetuned.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelError, match=r"finetuned\.json is damaged") as error:
        models.resolve("finetuned")
    one_line(error)


def test_the_weights_in_this_tree_are_those_its_card_names() -> None:
    if not models.model_card():
        pytest.skip("this tree has no shipped model yet")
    model = models.find("finetuned")
    assert models.verify(model) == "ok"
    assert model.path.stat().st_size <= 25_000_000


def test_sizes_on_record_are_within_a_per_cent_of_the_publishers() -> None:
    sizes = {"sam_vit_b": 375_042_383, "sam_vit_l": 1_249_524_607, "sam_vit_h": 2_564_550_879}
    for name, size in sizes.items():
        assert models.find(name).size_mb * 1e6 == pytest.approx(size, rel=0.01)


def test_the_cache_folder_is_the_users_own_unless_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLOODMAP_CACHE", "~/models")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert models.cache_dir() == tmp_path / "models"
    monkeypatch.setenv("FLOODMAP_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert models.cache_dir().name == "floodmap"


def test_download_rejects_a_server_that_sends_another_range(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.part").write_bytes(BODY[:100])
    header = Handler.send_header

    def lying(self: Handler, name: str, value: str) -> None:
        header(self, name, value.replace("bytes 100-", "bytes 90-") if name == "Content-Range" else value)

    monkeypatch.setattr(Handler, "send_header", lying)
    download(server.url, tmp_path / "x", sha256=SHA256)
    assert (tmp_path / "x").read_bytes() == BODY
    assert server.asked == ["bytes=100-", None]


def test_download_errors_are_connection_errors_of_floodmaps_own(server: Server, tmp_path: Path) -> None:
    server.status = 403
    with pytest.raises(DownloadError, match="403") as error:
        download(server.url, tmp_path / "x", sha256=SHA256)
    assert isinstance(error.value, OSError) and isinstance(error.value, ModelError)
    assert replace(models.find("sam_vit_b"), file="y").url is not None
