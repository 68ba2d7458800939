"""PDF report: the figures of the JSON report as text, on at most two pages, from nothing but local files."""

from __future__ import annotations

import os
import socket
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROTATED, SceneFactory
from fakes import ConstantSegmenter, FakeSegmenter
from pypdf import PdfReader

from floodmap.errors import MissingPackageError
from floodmap.options import SceneOptions, SegmentOptions
from floodmap.output.pages import pdf_text
from floodmap.output.results import FloodMap
from floodmap.pipeline import segment_scene
from floodmap_cli.main import run as run_command

pytestmark = pytest.mark.slow

SMALL = {"tile_size": 64, "overlap": 8, "prompts": "none", "pdf": True}
DATED = {"tags": {"TIFFTAG_DATETIME": "2024:05:01 10:00:00"}}


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse every connection."""

    def refuse(*_: object) -> None:
        raise AssertionError("a test wanted the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def run(source: Path, out: Path, segmenter: FakeSegmenter | None = None, **settings: object) -> FloodMap:
    return segment_scene(source, out, segmenter or FakeSegmenter(), SegmentOptions(**{**SMALL, **settings}))


def text(result: FloodMap) -> str:
    """Text that a reader can select, without line breaks."""
    assert result.pdf_path is not None
    return " ".join(" ".join(page.extract_text() for page in PdfReader(result.pdf_path).pages).split())


def joined(words: str) -> str:
    return words.replace(" ", "")


def half_seen(make_scene: SceneFactory, **how: Any) -> Path:
    alpha = np.full((150, 200), 255)
    alpha[:, :70] = 0
    return make_scene(shape_hw=(150, 200), alpha=alpha, **{**DATED, **how})


def test_figures_and_provenance_are_selectable_text(make_scene: SceneFactory, tmp_path: Path) -> None:
    result = run(half_seen(make_scene), tmp_path / "out")
    said, told = result.report, text(result)
    assert f"{said['flood_area_m2'] / 1e4:,.2f} ha of flood water" in told
    assert f"{said['flood_area_m2']:,.0f} m²" in told
    assert f"{said['flood_share_of_observed']:.1%}".replace("%", " %") in told
    assert "35.0 % of the scene was not observed and may be wet or dry." in told
    assert f"{150 * 70:,} 35.0 %" in told
    assert joined(said["model"]["sha256"]) in joined(told) and joined(said["source"]["fingerprint"]) in joined(told)
    assert "fake, cpu float32" in told and f"floodmap {said['versions']['floodmap']}" in told
    assert "2024-05-01 (of the picture)" in told and said["run"]["finished"][:10] in told
    assert "20 m" in told and " N " in f" {told} " and "not observed" in told and "page 2 of 2" in told
    for area in result.polygons().nlargest(3, "area_m2")["area_m2"]:
        assert f"{area:,.1f} m²" in told


def test_pages_are_a4_two_and_the_same_for_the_same_results(make_scene: SceneFactory, tmp_path: Path) -> None:
    from floodmap.imagery.scene import Scene
    from floodmap.output.pages.pdf import write_pdf_report
    from floodmap.output.pages.scene_report import report_contents
    from floodmap.pipeline import preview

    scene = half_seen(make_scene)
    result = run(scene, tmp_path / "out", report=True)
    assert result.page_path is not None and result.pdf_path is not None
    reader = PdfReader(result.pdf_path)
    assert len(reader.pages) == 2
    assert all([round(float(side)) for side in page.mediabox[2:]] == [595, 842] for page in reader.pages)
    assert reader.metadata is not None and reader.metadata.title == "Flood map of scene"
    with Scene.open(scene) as opened:
        contents = report_contents(result, preview(opened))
    again = write_pdf_report(contents, tmp_path / "again.pdf").read_bytes()
    assert write_pdf_report(contents, tmp_path / "once-more.pdf").read_bytes() == again
    assert len(again) < 2_000_000


def test_maps_are_pictures_in_the_file(make_scene: SceneFactory, tmp_path: Path) -> None:
    pages = PdfReader(run(half_seen(make_scene), tmp_path / "out").pdf_path).pages
    assert [len(page.images) for page in pages] >= [2, 2]


@pytest.mark.parametrize("how", [{"crs": None}, {"transform": ROTATED}])
def test_any_scene_has_a_report(how: dict[str, Any], make_scene: SceneFactory, tmp_path: Path) -> None:
    told = text(run(make_scene(shape_hw=(100, 90), **how), tmp_path / "out"))
    assert ("no CRS" in told) == (how.get("crs", "") is None)
    assert ("longitude" in told) == ("crs" not in how)


def test_a_scene_without_flood_and_one_without_ground_say_so(make_scene: SceneFactory, tmp_path: Path) -> None:
    told = text(run(make_scene(name="dry.tif"), tmp_path / "out", ConstantSegmenter(0.1)))
    assert "No flood water was found" in told and "There is no polygon" in told and "Every pixel was observed." in told
    nothing = make_scene(name="none.tif", alpha=np.zeros((60, 80), np.uint8), shape_hw=(60, 80))
    assert "Nothing was observed" in text(run(nothing, tmp_path / "out"))


def test_warnings_and_failed_windows_are_stated(make_scene: SceneFactory, tmp_path: Path) -> None:
    def fail(tile: Any) -> None:
        if tile.window.col_off > 100:
            raise RuntimeError("no luck")

    scene = make_scene(shape_hw=(150, 200), tags={})
    told = text(run(scene, tmp_path / "out", FakeSegmenter(fail)))
    assert "windows failed, in whole or in part" in told and "no luck" in told and "failed, not observed" in told


def test_long_texts_do_not_leave_the_page(make_scene: SceneFactory, tmp_path: Path) -> None:
    name = "very-long-" * 17 + "name"
    mask = make_scene(name=f"{'cloud' * 30}.tif", pixels=np.zeros((1, 150, 200), np.uint8))
    result = run(half_seen(make_scene, name=f"{name}.tif"), tmp_path / "out", scene=SceneOptions(mask=mask))
    told = text(result)
    assert joined(name) in joined(told) and "cloud" * 3 in joined(told)
    assert len(PdfReader(result.pdf_path).pages) <= 3


@pytest.mark.parametrize(
    ("name", "shown"), [("наводнение", "наводнение"), ("πλημμύρα", "πλημμύρα"), ("洪水", "U+6D2AU+6C34")]
)
def test_no_letter_of_a_name_is_lost(name: str, shown: str, make_scene: SceneFactory, tmp_path: Path) -> None:
    assert shown in text(run(make_scene(name=f"{name}.tif"), tmp_path / "out"))


def test_without_matplotlib_letters_beyond_latin_are_codes(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pdf_text, "find_spec", lambda _: None)
    told = text(run(make_scene(name="Überflutung-вода.tif"), tmp_path / "out"))
    assert "Überflutung-U+0432U+043EU+0434U+0430" in told and "m²" in told


def test_a_missing_library_is_named_before_the_run(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = find_spec
    monkeypatch.setattr("floodmap._runtime.extras.find_spec", lambda name: None if name == "fpdf" else real(name))
    with pytest.raises(MissingPackageError, match=r"pip install 'floodmap\[pdf\]'"):
        run(make_scene(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_resume_adds_the_pdf_and_leaves_one_that_is_new(make_scene: SceneFactory, tmp_path: Path) -> None:
    scene, out = make_scene(), tmp_path / "out"
    assert run(scene, out, pdf=False).pdf_path is None
    path = run(scene, out, resume=True).pdf_path
    assert path is not None
    before = path.read_bytes(), path.stat().st_mtime_ns
    run(scene, out, resume=True)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    os.utime(path, ns=(0, 0))
    run(scene, out, resume=True)
    assert path.stat().st_mtime_ns >= before[1]


def test_many_frames_have_all_products(make_scene: SceneFactory, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("floodmap_cli.loading.load", lambda model, device: FakeSegmenter())
    frames = tmp_path / "frames"
    for number in range(2):
        transform = ROTATED.translation(500_000 + 30 * number, 5_000_000) @ ROTATED.scale(0.5, -0.5)
        make_scene(shape_hw=(100, 120), name=f"{number}.tif", folder=frames, transform=transform, **DATED)
    command = [
        "mosaic",
        str(frames),
        "-o",
        str(tmp_path / "out"),
        "--name",
        "EMSR1_AOI01_DEL_PRODUCT",
        "--stac",
        "--pdf",
    ]
    command += ["--schema", "cems", "--flood-type", "riverine"]
    assert run_command(command) == 0
    made = {path.name.removeprefix("EMSR1_AOI01_DEL_PRODUCT") for path in (tmp_path / "out").iterdir()}
    assert {"_stac.json", "_report.pdf", "_cems_v1.gpkg"} <= made
    import pyogrio

    source = pyogrio.read_dataframe(tmp_path / "out" / "EMSR1_AOI01_DEL_PRODUCT_cems_v1.gpkg", layer="source_v1")
    assert source["source_nam"].tolist() == ["2 frames", "0.tif", "1.tif"] and source["src_id"].tolist() == [1, 2, 3]
    assert source["src_date"].tolist() == ["01/05/2024"] * 3
    (tmp_path / "out" / "EMSR1_AOI01_DEL_PRODUCT_stac.json").unlink()
    assert run_command([*command, "--resume"]) == 0
    assert (tmp_path / "out" / "EMSR1_AOI01_DEL_PRODUCT_stac.json").exists()
