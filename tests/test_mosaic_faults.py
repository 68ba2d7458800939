"""Faults of products of many frames: frames that fail or change, runs that are resumed, signatures in addresses."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import geopandas
import numpy as np
import pytest
from affine import Affine
from conftest import NORTH_UP, UTM, SceneFactory
from shapely.geometry import box
from test_catalogue import collection_with_a_bad_item
from test_mosaic import BlueSegmenter, percents, product, read

from floodmap.catalogue.finding import find_sources
from floodmap.errors import MissingCRSError, OutputError, RemoteError, RemoteFileError, SceneError
from floodmap.geo.source_name import SourceName
from floodmap.imagery.scene import Scene
from floodmap.options import SceneOptions
from floodmap.scaleout.frames import listing
from floodmap.scaleout.frames.frame_loop import MosaicProgress

DATED = {"TIFFTAG_DATETIME": "2024:05:01 10:00:00"}
"""Tags that keep the date of a frame when its file is written again."""
EAST = NORTH_UP @ Affine.translation(60, 0)
"""Place of a frame beside a frame of 60 columns at `NORTH_UP`."""


@pytest.fixture
def without_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames have no fingerprint, like those of a server that sends neither ETag nor Last-Modified."""
    monkeypatch.setattr(Scene, "fingerprint", None)


def frame_of(make_scene: SceneFactory, level: int, name: str = "f.tif", **how: Any) -> Path:
    """A frame of 90 x 60 pixels whose probability is `level` per cent everywhere."""
    pixels = percents((90, 60))
    pixels[2] = level
    return make_scene(pixels=pixels, name=name, tags=DATED, **how)


def interrupt_blending(frames: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until half of the strips are blended."""
    monkeypatch.setattr("floodmap.scaleout.frames.assembly.strip_rows", lambda width: 16)

    def stop(one: MosaicProgress) -> None:
        if one.stage == "blend" and one.share > 0.4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        product(frames, out, progress=stop)


def test_a_finished_map_of_frames_without_fingerprint_is_not_taken_for_that_of_new_frames(
    make_scene: SceneFactory, tmp_path: Path, without_fingerprint: None
) -> None:
    frame = frame_of(make_scene, 10)
    product([frame], tmp_path / "out")
    frame_of(make_scene, 90)
    with pytest.raises(OutputError, match=r"f\.tif has no fingerprint, so changes .* add --overwrite"):
        product([frame], tmp_path / "out", resume=True)
    again = product([frame], tmp_path / "out", resume=True, overwrite=True)
    assert set(np.unique(read(again.probability_path))) == {90}


@pytest.mark.parametrize("how", ["resume", "overwrite"])
def test_strips_of_frames_without_fingerprint_are_blended_again(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_fingerprint: None, how: str
) -> None:
    frame = frame_of(make_scene, 10)
    interrupt_blending([frame], tmp_path / "out", monkeypatch)
    frame_of(make_scene, 90)
    result = product([frame], tmp_path / "out", **{how: True})
    assert set(np.unique(read(result.probability_path))) == {90}


def test_two_frames_of_one_name_without_fingerprint_are_both_used(
    make_scene: SceneFactory, tmp_path: Path, without_fingerprint: None
) -> None:
    frames = [frame_of(make_scene, level, f"{level}/f.tif") for level in (10, 90)]
    assert set(np.unique(read(product(frames, tmp_path / "out").probability_path))) == {50}


def test_a_run_whose_mask_has_no_fingerprint_is_not_resumed(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, mask = frame_of(make_scene, 10), make_scene(bands=1, name="clouds.tif")
    monkeypatch.setattr("floodmap.scaleout.frames.overlay_files.of_input", lambda _: None)
    interrupt_blending([frame], tmp_path / "out", monkeypatch)
    with pytest.raises(OutputError, match=r"clouds\.tif has no fingerprint"):
        product([frame], tmp_path / "out", resume=True, mask=mask)


@pytest.mark.parametrize("change", ["moved", "smaller"])
def test_a_frame_that_is_replaced_during_the_run_fails(make_scene: SceneFactory, tmp_path: Path, change: str) -> None:
    frames = [frame_of(make_scene, 10, "a.tif"), frame_of(make_scene, 10, "b.tif", transform=EAST)]
    place = {"moved": EAST @ Affine.translation(7, 0), "smaller": EAST @ Affine.scale(2)}[change]

    def replace_second(one: MosaicProgress) -> None:
        if one.frames_done == 1 and one.stage == "segment":
            frame_of(make_scene, 90, "b.tif", transform=place)

    result = product(frames, tmp_path / "out", progress=replace_second)
    (failed,) = result.report["frames"]["failed"]
    assert failed["name"] == "b.tif" and "has changed since the run began; run again with --resume" in failed["why"]
    assert set(np.unique(read(result.probability_path)[:, 60:])) == {255}
    resumed = product(frames, tmp_path / "out", resume=True)
    assert resumed.report["frames"]["failed"] == [] and set(np.unique(read(resumed.mask_path))) <= {0, 1, 255}
    assert (read(resumed.mask_path) == 1).any()


def test_a_remote_frame_that_changes_while_it_is_read_fails(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def changed(scene: Scene) -> None:
        if scene.name == "b":
            raise RemoteFileError("b.tif has changed")

    monkeypatch.setattr(Scene, "refuse_changed", changed)
    frames = [frame_of(make_scene, 10, "a.tif"), frame_of(make_scene, 10, "b.tif", transform=EAST)]
    (failed,) = product(frames, tmp_path / "out").report["frames"]["failed"]
    assert failed["name"] == "b.tif" and "has changed since the run began" in failed["why"]


@pytest.mark.slow
@pytest.mark.parametrize("killed", [False, True])
def test_the_map_of_other_frames_is_not_replaced(make_scene: SceneFactory, tmp_path: Path, killed: bool) -> None:
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"II*\0 damaged")
    first = product([frame_of(make_scene, 10, "a.tif"), bad], tmp_path / "out")  # leaves the codes of a.tif
    if killed:  # as if while the results were written
        first.report_path.unlink()
    before = first.mask_path.read_bytes()
    with pytest.raises(OutputError, match=r"mosaic_mask\.tif exists already and cannot be resumed"):
        product([frame_of(make_scene, 90, "b.tif")], tmp_path / "out", resume=True)
    assert first.mask_path.read_bytes() == before
    result = product([tmp_path / "a.tif", tmp_path / "b.tif"], tmp_path / "out", resume=True)
    assert result.report["frames"]["failed"] == [] and not (tmp_path / "out" / ".mosaic.floodmap").exists()


class Counting(SimpleHTTPRequestHandler):
    """Serves a folder, and counts the requests by name of the file."""

    counts: Counter[str]

    def do_GET(self) -> None:
        self.counts[Path(urlsplit(self.path).path).name] += 1
        super().do_GET()

    def log_message(self, *_: object) -> None:
        """Log nothing on standard error."""


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a server of the folder `web`."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(Counting, "counts", Counter(), raising=False)
    (tmp_path / "web").mkdir()
    handler = partial(Counting, directory=str(tmp_path / "web"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
def test_a_signed_mask_and_area_are_fetched_once_and_no_signature_is_shown(
    make_scene: SceneFactory, tmp_path: Path, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    frames = [
        frame_of(make_scene, 60, f"{number}.tif", transform=EAST @ Affine.translation(30 * number, 0))
        for number in range(3)
    ]
    left, top = EAST @ (0, 0)
    for name, width, write in (("district.parquet", 50, "to_parquet"), ("clouds.geojson", 10, "to_file")):
        area = geopandas.GeoDataFrame(geometry=[box(left, top - 100, left + width, top)], crs=UTM)
        getattr(area if write == "to_parquet" else area.to_crs("EPSG:4326"), write)(tmp_path / "web" / name)

    def signed(signature: str) -> dict[str, str]:
        query = f"?X-Amz-Signature={signature}"
        return {"mask": f"{address}/clouds.geojson{query}", "aoi": f"{address}/district.parquet{query}"}

    result = product(frames, tmp_path / "out", **signed("SECRET1"))
    found = read(result.probability_path)
    assert set(np.unique(found[:, 25:95])) == {60} and set(np.unique(found[:, :15])) == {255}
    assert result.report["settings"]["scene"]["mask"] == f"{address}/clouds.geojson"
    assert max(Counting.counts.values()) <= 2  # the file, and its time of last change
    model = BlueSegmenter()
    product(frames, tmp_path / "out", model, resume=True, **signed("SECRET2"))
    assert model.tiles == []
    with pytest.raises(SceneError, match=r"no frame overlaps the area of interest http") as caught:
        far = frame_of(make_scene, 1, "far.tif", transform=EAST @ Affine.translation(9e4, 0))
        product([far], tmp_path / "far", **signed("SECRET3"))
    bare = frame_of(make_scene, 1, "bare.tif", transform=EAST @ Affine.translation(40, 0))
    product([bare], tmp_path / "bare", **signed("SECRET4"))
    assert "clouds.geojson overlaps no frame" in caplog.text
    texts = [caplog.text, str(caught.value), *(file.read_bytes().decode("latin-1") for file in files_in(tmp_path))]
    assert not [text for text in texts if "SECRET" in text]


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_signature_of_a_mask_is_in_no_remark_of_a_scene(
    make_scene: SceneFactory, tmp_path: Path, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    scene = make_scene()
    area = geopandas.GeoDataFrame(geometry=[box(11, 47, 11.1, 47.1)], crs="EPSG:4326")
    area.to_file(tmp_path / "web" / "far.geojson")
    url = f"{address}/far.geojson?X-Amz-Signature=SECRET"
    with Scene.open(scene, SceneOptions(mask=url)) as opened:
        assert any("far.geojson does not overlap" in line for line in opened.remarks)
    with pytest.raises(SceneError, match=r"far\.geojson does not overlap") as caught:
        Scene.open(scene, SceneOptions(aoi=url))
    assert "SECRET" not in caplog.text + str(caught.value)


def fail_at(monkeypatch: pytest.MonkeyPatch, place: str, error: Exception) -> None:
    """Let the frame b.tif raise an error when its header is read, or when it is opened to be segmented."""
    if place == "header":
        plain = listing.open_source

        def open_source(name: SourceName, *args: Any, **how: Any) -> Any:
            if name.label == "b.tif":
                raise error
            return plain(name, *args, **how)

        monkeypatch.setattr(listing, "open_source", open_source)
        return
    opened = Scene.open

    def open_scene(path: SourceName, *args: Any, **how: Any) -> Any:
        if path.label == "b.tif":
            raise error
        return opened(path, *args, **how)

    monkeypatch.setattr(Scene, "open", open_scene)


def two_frames(make_scene: SceneFactory) -> list[Path]:
    return [frame_of(make_scene, 10, "a.tif"), frame_of(make_scene, 10, "b.tif", transform=EAST)]


@pytest.mark.parametrize("place", ["header", "frame"])
@pytest.mark.parametrize("error", [RemoteFileError("b.tif: the server answered 404"), ZeroDivisionError("odd\nerror")])
def test_an_error_of_one_frame_fails_this_frame_alone(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, error: Exception
) -> None:
    frames = two_frames(make_scene)
    fail_at(monkeypatch, place, error)
    (failed,) = product(frames, tmp_path / "out").report["frames"]["failed"]
    assert failed["name"] == "b.tif" and "b.tif: " in failed["why"] and "\n" not in failed["why"]
    assert ("unexpected ZeroDivisionError: odd error" in failed["why"]) == isinstance(error, ZeroDivisionError)


@pytest.mark.parametrize("place", ["header", "frame"])
@pytest.mark.parametrize("error", [RemoteError("b.tif: no answer"), OutputError("the disk is full")])
def test_an_error_of_the_network_or_the_disk_stops_the_run_which_can_be_resumed(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, error: Exception
) -> None:
    frames = two_frames(make_scene)
    with monkeypatch.context() as patch:
        fail_at(patch, place, error)
        with pytest.raises(type(error), match=str(error)):
            product(frames, tmp_path / "out")
    model = BlueSegmenter()
    result = product(frames, tmp_path / "out", model, resume=True)
    assert result.report["frames"]["failed"] == []
    assert len(model.tiles) == result.report["windows"]["run"] / (2 if place == "frame" else 1)


def test_frames_that_a_server_lacks_fail_alone(make_scene: SceneFactory, tmp_path: Path, address: str) -> None:
    result = product([frame_of(make_scene, 10), f"{address}/gone.tif?X-Amz-Signature=SECRET"], tmp_path / "out")
    (failed,) = result.report["frames"]["failed"]
    assert failed["name"] == "gone.tif" and "the server has no such file" in failed["why"]
    assert "SECRET" not in result.report_path.read_text()


def test_an_item_that_cannot_be_read_is_a_failed_frame(make_scene: SceneFactory, tmp_path: Path) -> None:
    pytest.importorskip("pystac")
    sources = find_sources([str(collection_with_a_bad_item(make_scene, tmp_path / "stac"))], tmp_path / "out")
    frames = product(sources, tmp_path / "out").report["frames"]
    assert [one["name"] for one in frames["segmented"]] == ["good"] and "no such file" in frames["failed"][0]["why"]


@pytest.mark.slow
def test_a_frame_that_is_gone_at_the_end_is_only_left_out_of_the_picture(
    make_scene: SceneFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = two_frames(make_scene)

    def remove(one: MosaicProgress) -> None:
        if one.frames_done == 2:
            frames[1].unlink(missing_ok=True)

    result = product(frames, tmp_path / "out", progress=remove, report=True)
    assert result.report["frames"]["failed"] == [] and set(np.unique(read(result.probability_path))) == {10}
    assert result.page_path is not None and result.page_path.exists()
    assert "b.tif is left out of the check" in caplog.text and "b.tif is left out of the picture" in caplog.text


def test_an_area_without_crs_is_refused_before_the_first_frame(make_scene: SceneFactory, tmp_path: Path) -> None:
    aoi = make_scene(pixels=np.ones((1, 90, 60), np.uint8), crs=None, transform=None, name="aoi.tif")
    model = BlueSegmenter()
    with pytest.raises(MissingCRSError, match=r"aoi\.tif has no CRS and another size than mosaic"):
        product(two_frames(make_scene), tmp_path / "out", model, aoi=aoi)
    assert model.tiles == [] and not (tmp_path / "out").exists()


def test_a_mask_without_crs_fits_a_frame_that_is_resampled(make_scene: SceneFactory, tmp_path: Path) -> None:
    hidden = np.zeros((1, 90, 60), np.uint8)
    hidden[:, :45] = 1
    mask = make_scene(pixels=hidden, crs=None, transform=None, name="mask.tif")
    result = product([frame_of(make_scene, 60)], tmp_path / "out", mask=mask, resolution_m=1.0)
    found = read(result.mask_path)
    assert found.shape == (45, 30) and (found[:22] == 255).all() and (found[23:] == 1).all()


@pytest.mark.parametrize("damaged", [False, True])
def test_strips_that_a_killed_run_left_beside_complete_results_are_deleted(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: bool
) -> None:
    frames = two_frames(make_scene)
    if damaged:
        frames[1].write_bytes(b"II*\0 damaged")
    with monkeypatch.context() as patch:
        patch.setattr("floodmap.scaleout.frames.product.Journal.remove", lambda _: None)
        patch.setattr("floodmap.scaleout.frames.product._Run.clear", lambda *_: None)
        product(frames, tmp_path / "out")
    work = tmp_path / "out" / ".mosaic.floodmap"
    assert (work / "product").is_dir()
    product(frames, tmp_path / "out", resume=True)
    assert [path.name for path in work.iterdir() if path.is_dir()] == ["frames"] if damaged else not work.exists()
