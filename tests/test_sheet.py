"""Report of a scene: correct, escaped, self-contained, small, and among the results of a run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import GEOGRAPHIC, ROTATED, SOUTH_UP, UTM, SceneFactory, picture
from fakes import ConstantSegmenter, FakeSegmenter
from rasterio.crs import CRS

from floodmap.errors import OutputError
from floodmap.geo.geogrid import UNPLACED, GeoGrid
from floodmap.imagery.tile import Tile
from floodmap.options import SceneOptions, SegmentOptions
from floodmap.output.pages.maps import MapFrame
from floodmap.output.results import FloodMap
from floodmap.pipeline import segment_scene
from floodmap_cli.main import run as run_command

SMALL = {"tile_size": 64, "overlap": 8, "prompts": "none", "min_area_m2": 0.0, "simplify_m": 0.0, "report": True}


def run(source: Path, out: Path, segmenter: FakeSegmenter | None = None, **settings: object) -> FloodMap:
    return segment_scene(source, out, segmenter or FakeSegmenter(), SegmentOptions(**{**SMALL, **settings}))


def page(result: FloodMap) -> str:
    assert result.page_path is not None
    return result.page_path.read_text("utf-8")


def text(html: str) -> str:
    """Visible text of a page, without charts."""
    html = re.sub(r"<(style|svg)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


@pytest.mark.slow
def test_figures_are_those_of_the_json_file(make_scene: SceneFactory, tmp_path: Path) -> None:
    alpha = np.full((150, 200), 255)
    alpha[:, :70] = 0
    result = run(make_scene(shape_hw=(150, 200), alpha=alpha), tmp_path / "out")
    said, told = json.loads(result.report_path.read_text()), text(page(result))
    assert f"{said['flood_area_m2'] / 1e4:,.2f} ha of flood water" in told
    assert f"{said['flood_area_m2']:,.0f} m²" in told
    assert f"{said['flood_share_of_observed']:.1%}".replace("%", " %") in told and "65.0 % of the scene" in told
    assert f"Flooded places {said['polygons']['flood']} polygons" in told
    assert f"nodata or transparent {150 * 70:,} 35.0 %" in told and "35.0 % of the scene was not observed" in told
    assert said["model"]["sha256"] in told and said["source"]["fingerprint"] in told
    assert f"floodmap {said['versions']['floodmap']}" in told
    largest = result.polygons().nlargest(10, "area_m2")["area_m2"]
    shown = re.findall(r"<tr><td>(\d+)</td><td>([\d.]+) m²</td>", page(result))
    assert [float(area) for _, area in shown] == pytest.approx(largest.tolist(), abs=0.06)


@pytest.mark.slow
def test_the_area_at_each_threshold_is_that_of_a_run_with_it(make_scene: SceneFactory, tmp_path: Path) -> None:
    scene = make_scene(shape_hw=(150, 200))
    told = text(page(run(scene, tmp_path / "out", threshold=0.4)))
    for threshold in (0.3, 0.4, 0.5, 0.7):
        m2 = run(scene, tmp_path / str(threshold), threshold=threshold).report["flood_area_m2"]
        used = " (used here)" if threshold == 0.4 else ""
        area = f"{m2 / 1e4:,.2f} ha" if m2 >= 1000 else f"{m2:,.1f} m²"
        assert f"{threshold:.2f}{used} {area}" in told


@pytest.mark.slow
def test_nothing_is_fetched_and_what_comes_from_outside_is_escaped(make_scene: SceneFactory, tmp_path: Path) -> None:
    name = "a<script>alert(1)<&'b" if os.name != "nt" else "a&'b"
    mask = make_scene(name="cloud & <i>.tif", pixels=np.zeros((1, 150, 200), np.uint8))
    scene = make_scene(shape_hw=(150, 200), name=f"{name}.tif")

    def fail(tile: object) -> None:
        if tile.window.col_off > 100:  # type: ignore[attr-defined]
            raise RuntimeError("<u>no luck")

    html = page(run(scene, tmp_path / "out", FakeSegmenter(fail), scene=SceneOptions(mask=mask)))
    assert "<script" not in html and "<u>" not in html and "<i>.tif" not in html
    assert "a&lt;script&gt;alert(1)&lt;&amp;&#39;b" in html and "cloud &amp; &lt;i&gt;.tif" in html
    assert not re.search(r"(?:src|href)=.(?!data:|#)", html) and "@import" not in html and "url(http" not in html
    assert 'href="data:image/jpeg;base64,' in html


@pytest.mark.slow
def test_areas_of_a_scene_without_crs_are_in_pixels(make_scene: SceneFactory, tmp_path: Path) -> None:
    result = run(make_scene(shape_hw=(100, 90), crs=None, transform=None, name="photo.png", driver="PNG"), tmp_path)
    html, flooded = page(result), result.report["pixels"]["flood"]
    assert f"{flooded:,} px of flood water" in text(html) and " ha" not in text(html)
    assert "<th>column</th>" in html and "longitude" not in html and ">N</text>" not in html
    sizes = result.polygons().area.nlargest(10)
    assert [int(size) for size in re.findall(r"<td>\d+</td><td>([\d,]+) px</td>", html)] == sizes.round().tolist()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["shp", "geojson", "fgb", "parquet"])
def test_any_vector_format_gives_the_same_table(make_scene: SceneFactory, tmp_path: Path, form: str) -> None:
    scene = make_scene(shape_hw=(150, 200))
    tables = [
        re.search(r"<th>number</th>.*?</table>", page(run(scene, tmp_path / one, formats=(one,))), re.DOTALL)[0]
        for one in ("gpkg", form)
    ]
    rows = [re.findall(r"<td>([\d,.]+)", table) for table in tables]
    assert len(rows[0]) == len(rows[1]) >= 5 * 3
    np.testing.assert_allclose(np.array(rows[0], float), np.array(rows[1], float), atol=2e-5)


@pytest.mark.slow
def test_a_scene_without_flood_says_so(make_scene: SceneFactory, tmp_path: Path) -> None:
    told = text(page(run(make_scene(), tmp_path / "out", ConstantSegmenter(0.1))))
    assert "No flood water was found on the ground that was observed." in told and "There is no polygon" in told
    assert "Every pixel was observed, and no window failed." in told


def no_room(_: Tile) -> None:
    """Fails on every window for want of memory, which does not stop a run."""
    raise MemoryError("no room")


def test_a_scene_of_which_nothing_was_observed_is_not_called_dry(make_scene: SceneFactory, tmp_path: Path) -> None:
    told = text(page(run(make_scene(), tmp_path / "out", FakeSegmenter(no_room))))
    assert "Nothing was observed : there is no result for this scene." in told
    assert "No flood water" not in told and "How certain" not in told
    assert "1 window failed, in whole or in part NOT SEEN" in told and "no room" in told
    assert "could not be read or segmented" in told and "Share flooded n/a" in told


def test_a_few_failed_windows_are_listed_and_the_others_counted(make_scene: SceneFactory, tmp_path: Path) -> None:
    scene = make_scene(shape_hw=(200, 230))
    result = run(scene, tmp_path / "out", FakeSegmenter(no_room))
    told = text(page(result))
    assert result.failed_windows > 6
    assert f"{result.failed_windows} windows failed" in told and f"and {result.failed_windows - 5} more" in told


@pytest.mark.slow
def test_resume_adds_a_missing_report_computes_nothing_and_leaves_a_fresh_one(
    make_scene: SceneFactory, tmp_path: Path
) -> None:
    scene, out = make_scene(shape_hw=(100, 100)), tmp_path / "out"
    assert run(scene, out, report=False).page_path is None and not list(out.glob("*.html"))
    others = {p: p.read_bytes() for p in out.iterdir()}
    again = FakeSegmenter()
    added = run(scene, out, again, resume=True)
    assert again.tiles == [] and added.page_path == out / "scene_report.html"
    assert {p: p.read_bytes() for p in out.iterdir() if p != added.page_path} == others
    html = page(added)
    assert page(run(scene, tmp_path / "once"))[:200] == html[:200]
    added.page_path.write_text("mine")
    assert page(run(scene, out, again, resume=True)) == "mine"
    os.utime(added.page_path, (1, 1))  # of results that have been replaced since
    assert page(run(scene, out, again, resume=True)) == html and again.tiles == []


@pytest.mark.slow
def test_a_report_that_is_there_is_replaced_only_when_asked_for(make_scene: SceneFactory, tmp_path: Path) -> None:
    scene, out = make_scene(), tmp_path / "out"
    out.mkdir()
    (out / "scene_report.html").write_text("mine")
    with pytest.raises(OutputError, match=r"scene_report\.html exists already; .* --overwrite"):
        run(scene, out)
    assert [path.name for path in out.iterdir()] == ["scene_report.html"]
    assert "of flood water" in page(run(scene, out, overwrite=True))
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_a_stale_report_is_warned_of(make_scene: SceneFactory, tmp_path: Path, caplog) -> None:
    scene = make_scene()
    run(scene, tmp_path / "out")
    run(scene, tmp_path / "out", report=False, overwrite=True)
    assert "scene_report.html is left from an earlier run" in caplog.text


@pytest.mark.slow
def test_a_noisy_scene_stays_below_2_mb(make_scene: SceneFactory, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(1, 255, (3, 1500, 1500)).astype(np.uint8)
    result = run(make_scene(pixels=pixels), tmp_path / "out", tile_size=1024, min_area_m2=None, simplify_m=None)
    assert result.page_path is not None and result.page_path.stat().st_size < 2_000_000


@pytest.mark.slow
@pytest.mark.parametrize("shape_hw", [(1, 1), (3, 400), (400, 3)])
@pytest.mark.parametrize("transform", [GEOGRAPHIC, SOUTH_UP, ROTATED])
def test_odd_shapes_and_places_get_a_report(
    make_scene: SceneFactory, tmp_path: Path, shape_hw: tuple[int, int], transform: object
) -> None:
    crs = "EPSG:4326" if transform is GEOGRAPHIC else UTM
    scene = make_scene(pixels=picture(3, shape_hw), crs=crs, transform=transform)
    assert ">N</text>" in page(run(scene, tmp_path / "out", ConstantSegmenter(0.8)))


@pytest.mark.parametrize(("transform", "turned"), [(SOUTH_UP, 0), (ROTATED, 30), (GEOGRAPHIC, 0)])
def test_north_the_scale_and_places_are_right(transform: object, turned: float) -> None:
    crs = CRS.from_epsg(4326 if transform is GEOGRAPHIC else 32633)
    frame = MapFrame(GeoGrid(crs, transform, (1000, 2000)))
    assert frame.north_deg == pytest.approx(turned, abs=0.2)
    gsd_x = 1e-5 * 111_320 * np.cos(np.radians(47)) if transform is GEOGRAPHIC else 0.5
    bar = frame.scale_bar
    assert bar is not None and bar.text in ("200 m", "500 m")
    metres = float(bar.text.split()[0])
    assert bar.length == pytest.approx(metres / (gsd_x * 2000) * frame.size[0], rel=5e-3)
    x, y = transform @ (0, 0)  # type: ignore[operator]
    corner = frame.place(x, y)
    assert corner == pytest.approx((0, frame.size[1] if transform is SOUTH_UP else 0), abs=1e-6)


def test_a_frame_without_place_has_neither_scale_nor_north() -> None:
    frame = MapFrame(GeoGrid(None, UNPLACED, (40, 20)))
    assert frame.size == (500, 1000) and frame.scale_bar is None and frame.north_deg is None
    assert frame.place(10, -20) == (250, 500)


@pytest.mark.slow
def test_a_report_in_the_folder_of_scenes_is_no_scene(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr("floodmap_cli.loading.load", lambda model, device: FakeSegmenter())
    scene = make_scene(folder=tmp_path / "in")
    args = ["segment", str(tmp_path / "in"), "-o", str(tmp_path / "in"), "--prompts", "none", "--report"]
    assert run_command(args) == 0
    assert str(scene.with_name("scene_report.html")) in capsys.readouterr().out
    assert run_command([*args, "--overwrite"]) == 0 and capsys.readouterr().out.count("\n") == 2
    assert len(list((tmp_path / "in").glob("*.html"))) == 1


@pytest.mark.slow
def test_what_draws_reports_is_loaded_only_for_one() -> None:
    loaded = "{'jinja2', 'matplotlib', 'PIL', 'floodmap.output.pages.scene_report'} & set(sys.modules)"
    code = f"import floodmap.pipeline, sys; print(*{loaded})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
