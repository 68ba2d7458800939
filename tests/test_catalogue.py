"""Catalogues: many scenes side by side, one file with all polygons, and a row for each scene."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import geopandas
import numpy as np
import pyogrio
import pytest
import shapely
from conftest import GEOGRAPHIC, HANGS, SceneFactory, kill, killed, picture, scene_factory
from fakes import FakeSegmenter, FakeSource
from test_pipeline import digests

from floodmap.catalogue import file, side_by_side, size
from floodmap.catalogue.file import check_target, work_folder
from floodmap.catalogue.finding import find_scenes
from floodmap.catalogue.run import Catalogue, ScenesProgress, reserved, run_scenes
from floodmap.catalogue.side_by_side import SceneOutcome
from floodmap.errors import OutputError, SceneError
from floodmap.geo.source_name import SourceName
from floodmap.inference.tiling import Grid
from floodmap.options import SegmentOptions
from floodmap.scaleout.workers.local import LocalPool
from floodmap.scaleout.workers.pool import Pool
from floodmap.scaleout.workers.run import Workers
from floodmap_cli.many import exit_code

SETTINGS = {"tile_size": 128, "overlap": 16, "min_area_m2": 0.0, "simplify_m": 0.0}
SHAPE = (90, 100)


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    """Two worker processes."""
    with LocalPool(["cpu", "cpu"]) as found:
        yield found


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with four scenes of one CRS, one with unobserved ground, and a damaged one."""
    folder = tmp_path_factory.mktemp("given") / "scenes"
    make_scene = scene_factory(folder)
    for number in range(4):
        alpha = np.full(SHAPE, 255)
        alpha[20:40, 30:70] = 0 if number == 2 else 255
        pixels = picture(3, SHAPE, seed=number)
        make_scene(pixels=pixels, alpha=alpha, name=f"s{number}.tif", tags=dated(number))
    (folder / "s4.tif").write_bytes(b"II*\0 damaged")
    return folder


@pytest.fixture(scope="module")
def one_by_one(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the results of the scenes in `out`, and their catalogue `all.gpkg`."""
    folder = tmp_path_factory.mktemp("done")
    run(scenes, folder / "out", folder / "all.gpkg")
    return folder


@pytest.fixture
def done(one_by_one: Path, tmp_path: Path) -> Path:
    """The folder of the test, with a copy of `one_by_one`."""
    shutil.copytree(one_by_one, tmp_path, dirs_exist_ok=True)
    return tmp_path


def dated(number: int) -> dict[str, str]:
    return {"TIFFTAG_DATETIME": f"2024:05:0{number + 1} 10:00:00"}


def run(
    folder: Path, out: Path, path: Path | None, *, pool: Pool | None = None, model: FakeSource | None = None,
    on_scene: Callable[..., None] = lambda *_: None, **settings: Any,
) -> Catalogue:  # fmt: skip
    found = find_scenes([str(folder)], out)
    options = SegmentOptions(**{**SETTINGS, **settings})
    workers = Workers(pool, model or FakeSource()) if pool else None
    with reserved(path, found, out, options) as unfinished:
        segmenter = workers.segmenter if workers else FakeSegmenter()
        return run_scenes(
            found, out, segmenter, options, path=path, folder=unfinished, workers=workers, on_scene=on_scene
        )


def table(path: Path, layer: str) -> geopandas.GeoDataFrame:
    if path.suffix == ".gpkg":
        return geopandas.read_file(path, layer=layer)
    return geopandas.read_parquet(path if layer == "scenes" else path.with_name(f"{path.stem}_{layer}.parquet"))


def names(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


# The file.


@pytest.mark.parametrize("suffix", [".gpkg", ".parquet"])
def test_a_catalogue_has_the_polygons_of_all_scenes_and_a_row_for_each(scenes: Path, done: Path, suffix: str) -> None:
    out, path = done / "out", done / f"all{suffix}"
    catalogue = run(scenes, out, path, resume=True)
    rows = table(path, "scenes").set_index("name")
    assert list(rows.index) == [f"s{number}" for number in range(5)]
    assert list(rows.status) == ["done"] * 4 + ["failed"] and catalogue.paths[-1] == path
    for layer in ("flood", "unobserved"):
        polygons = table(path, layer)
        own = [geopandas.read_file(out / f"s{number}.gpkg", layer=layer) for number in range(4)]
        assert polygons.crs == own[0].crs == "EPSG:32633"
        assert len(polygons) == sum(map(len, own)) > 0
        for number, expected in enumerate(own):
            found = polygons[polygons.scene == f"s{number}"].reset_index(drop=True)
            assert found.geometry.geom_equals(expected.geometry).all()
            for column in set(expected.columns) - {"geometry"}:
                assert list(found[column]) == list(expected[column])
    report = json.loads((out / "s2.json").read_text())
    row = rows.loc["s2"]
    assert (row.flood_area_m2, row.observed_share) == (report["flood_area_m2"], report["observed_share"])
    assert (row.crs, row.date, row.failed_windows) == ("EPSG:32633", report["source"]["date"], 0)
    for column in ("mask", "probability", "polygons", "report"):
        assert (done / row[column]).is_file() and not Path(row[column]).is_absolute()
    assert row.geometry.bounds == (500_000, 5_000_000 - 45, 500_050, 5_000_000)
    failed = rows.loc["s4"]
    assert "s4.tif" in failed.error and failed.geometry is None
    assert failed.isna()[["mask", "flood_area_m2", "observed_share", "failed_windows", "date", "crs"]].all()


def test_scenes_of_several_crs_are_in_longitude_and_latitude_with_the_areas_of_their_own_grids(
    make_scene: SceneFactory, tmp_path: Path
) -> None:
    folder, path = tmp_path / "scenes", tmp_path / "all.gpkg"
    make_scene(shape_hw=SHAPE, name="a.tif", folder=folder)
    make_scene(shape_hw=SHAPE, name="b.tif", folder=folder, crs="EPSG:4326", transform=GEOGRAPHIC)
    make_scene(shape_hw=SHAPE, name="nowhere.tif", folder=folder, crs=None, transform=None)
    run(folder, tmp_path / "out", path)
    flood, rows = table(path, "flood"), table(path, "scenes").set_index("name")
    assert flood.crs == rows.crs == "EPSG:4326" and set(flood.scene) == {"a", "b"}
    own = geopandas.read_file(tmp_path / "out" / "a.gpkg", layer="flood")
    assert list(flood[flood.scene == "a"].area_m2) == list(own.area_m2)
    west, south, east, north = flood[flood.scene == "a"].to_crs("EPSG:32633").total_bounds
    np.testing.assert_allclose((west, south, east, north), own.total_bounds, atol=1e-3)
    assert rows.loc["nowhere"].geometry is None and rows.loc["nowhere"].status == "done"


@pytest.mark.parametrize("formats", [("shp",), ("parquet", "fgb"), ("geojson",)])
def test_polygons_are_read_from_any_format(
    scenes: Path, one_by_one: Path, tmp_path: Path, formats: tuple[Any, ...]
) -> None:
    run(scenes, tmp_path / "out", tmp_path / "all.gpkg", formats=formats)
    for layer in ("flood", "unobserved"):
        expected, found = table(one_by_one / "all.gpkg", layer), table(tmp_path / "all.gpkg", layer)
        assert list(found.columns) == list(expected.columns) and list(found.scene) == list(expected.scene)
        np.testing.assert_allclose(found.area_m2, expected.area_m2, rtol=1e-6)
        assert found.symmetric_difference(expected, align=False).area.max() < 0.01  # square metres


def test_a_catalogue_without_any_result_has_rows_and_empty_layers(tmp_path: Path) -> None:
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes" / "a.tif").write_bytes(b"no raster")
    catalogue = run(tmp_path / "scenes", tmp_path / "out", tmp_path / "all.gpkg")
    assert [row.status for row in catalogue.failed] == ["failed"]
    assert len(table(tmp_path / "all.gpkg", "flood")) == 0 and len(table(tmp_path / "all.gpkg", "scenes")) == 1


def test_qgis_finds_styles_and_the_layers_in_order(one_by_one: Path) -> None:
    assert [name for name, kind in pyogrio.list_layers(one_by_one / "all.gpkg") if kind is not None] == [
        "flood", "unobserved", "scenes",
    ]  # fmt: skip
    styles = pyogrio.read_dataframe(one_by_one / "all.gpkg", layer="layer_styles")
    assert list(styles.f_table_name) == ["flood", "unobserved"]


def test_polygons_are_written_in_batches(scenes: Path, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "_BATCH_VERTICES", 1)
    monkeypatch.setattr(file, "_ROWS", 2)
    run(scenes, done / "out", done / "two.gpkg", resume=True)
    for layer in ("flood", "unobserved", "scenes"):
        assert table(done / "all.gpkg", layer).equals(table(done / "two.gpkg", layer))


def test_a_catalogue_replaces_nothing_else(scenes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for path, word in (
        (tmp_path / "all.shp", ".gpkg or .parquet"), (tmp_path / "none" / "all.gpkg", "folder does not exist"),
        (out / "s1.gpkg", "is a file of a scene"), (out / "s1.parquet", "is a file of a scene"),
    ):  # fmt: skip
        out.mkdir(exist_ok=True)
        with pytest.raises(OutputError, match=word):
            run(scenes, out, path, overwrite=True)
    (tmp_path / "all.gpkg").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        run(scenes, out, tmp_path / "all.gpkg")
    assert (tmp_path / "all.gpkg").read_text() == "mine" and names(out) == []
    run(scenes / "s0.tif", out, tmp_path / "all.gpkg", overwrite=True)
    assert len(table(tmp_path / "all.gpkg", "scenes")) == 1
    (tmp_path / "b_flood.parquet").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        check_target(tmp_path / "b.parquet", overwrite=True, resume=False, others=[])


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".gpkg", ".parquet"])
def test_a_run_that_resumes_replaces_no_foreign_file(make_scene: SceneFactory, tmp_path: Path, suffix: str) -> None:
    folder = make_scene(shape_hw=SHAPE, folder=tmp_path / "scenes").parent
    foreign = geopandas.GeoDataFrame({"name": ["county"]}, geometry=[shapely.box(0, 0, 1, 1)], crs="EPSG:32633")
    mine = [(tmp_path / f"a{suffix}", None), (tmp_path / f"b{suffix}", "scenes"), (tmp_path / f"c{suffix}", "text")]
    for path, layer in mine:
        if layer == "text":
            path.write_text("mine")
        elif suffix == ".gpkg":
            foreign.to_file(path, layer=layer)
        else:
            foreign.to_parquet(path)
        before = path.read_bytes()
        with pytest.raises(OutputError, match=rf"{path.name} exists already and is no catalogue.*--overwrite"):
            run(folder, tmp_path / "out", path, resume=True)
        assert path.read_bytes() == before
    path = tmp_path / f"all{suffix}"
    run(folder, tmp_path / "out", path)
    run(folder, tmp_path / "out", path, resume=True)
    assert list(table(path, "scenes").status) == ["done"]


@pytest.mark.parametrize("how", ["resume", "overwrite"])
def test_a_run_in_which_all_scenes_fail_keeps_the_catalogue(
    make_scene: SceneFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    scene, path = make_scene(shape_hw=SHAPE, folder=tmp_path / "scenes"), tmp_path / "all.gpkg"
    run(scene.parent, tmp_path / "out", path)
    before = path.read_bytes()
    scene.write_bytes(b"damaged")
    catalogue = run(scene.parent, tmp_path / "out", path, **{how: True})
    assert catalogue.paths == () and len(catalogue.failed) == 1 and path.read_bytes() == before
    assert "all.gpkg is left as it was, because all scenes failed" in caplog.text


def test_an_error_leaves_the_old_catalogue(scenes: Path, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = done / "all.gpkg"
    before = path.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file.TABLES[".gpkg"], "close", full)
    with pytest.raises(OutputError, match=r"all\.gpkg cannot be written: .*No space left"):
        run(scenes, done / "out", path, resume=True)
    assert path.read_bytes() == before and names(done) == ["all.gpkg", "out"]


def test_a_scene_whose_polygons_cannot_be_read_is_failed(scenes: Path, done: Path) -> None:
    (done / "out" / "s1.gpkg").write_bytes((done / "out" / "s1.gpkg").read_bytes()[:5000])
    catalogue = run(scenes, done / "out", done / "all.gpkg", resume=True)
    rows = table(done / "all.gpkg", "scenes").set_index("name")
    assert [row.name for row in catalogue.failed] == ["s1", "s4"] and rows.loc["s1"].status == "failed"
    assert "the polygons (flood) are not in the catalogue: " in rows.loc["s1"].error
    assert exit_code(catalogue) == 3 and "s1 failed: the polygons" in catalogue.summary()
    assert set(table(done / "all.gpkg", "flood").scene) == {"s0", "s2", "s3"}


@pytest.mark.slow
def test_files_of_a_catalogue_that_do_not_belong_together_have_no_rows(
    scenes: Path, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, plain = done / "all.parquet", Path.replace
    run(scenes, done / "out", path, resume=True)

    def stop(source: Path, target: Path) -> Path:
        if target.name == "all_unobserved.parquet":
            raise KeyboardInterrupt
        return plain(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", stop)
        run(scenes, done / "out", path, resume=True)
    assert not path.exists() and (done / "all_flood.parquet").exists()
    run(scenes, done / "out", path, resume=True)
    assert len(table(path, "scenes")) == 5


def test_a_style_of_the_user_is_not_replaced(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "all_flood.qml").write_text("mine")
    with pytest.raises(OutputError, match=r"all_flood\.qml exists already"):
        run(scenes, tmp_path / "out", tmp_path / "all.parquet")
    assert (tmp_path / "all_flood.qml").read_text() == "mine"


def test_an_error_of_the_run_is_not_blamed_on_the_catalogue(tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError), work_folder(tmp_path / "all.gpkg"):
        raise BrokenPipeError
    assert names(tmp_path) == []


def test_two_runs_do_not_write_one_catalogue(scenes: Path, tmp_path: Path) -> None:
    with work_folder(tmp_path / "all.gpkg"), pytest.raises(OutputError, match="another floodmap run"):
        run(scenes, tmp_path / "out", tmp_path / "all.gpkg")


def test_what_a_killed_run_left_is_deleted(scenes: Path, done: Path) -> None:
    left = done / ".all.gpkg.catalogue"
    left.mkdir()
    (left / "0.gpkg").write_text("half")
    run(scenes, done / "out", done / "all.gpkg", resume=True)
    assert len(table(done / "all.gpkg", "scenes")) == 5 and not left.exists()


# Side by side.


@pytest.mark.slow
def test_scenes_side_by_side_have_the_bytes_of_scenes_one_by_one(
    pool: LocalPool, scenes: Path, one_by_one: Path, tmp_path: Path
) -> None:
    run(scenes, tmp_path / "out", tmp_path / "all.gpkg", pool=pool)
    assert digests(one_by_one / "out") == digests(tmp_path / "out")
    for layer in ("flood", "unobserved", "scenes"):
        assert table(one_by_one / "all.gpkg", layer).equals(table(tmp_path / "all.gpkg", layer))


@pytest.mark.slow
def test_workers_of_another_folder_compute_windows_only(
    pool: LocalPool, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scenes.parent)
    catalogue = run(Path("scenes"), tmp_path / "out", None, pool=pool)
    assert [row.name for row in catalogue.failed] == ["s4"]
    reports = (tmp_path / "out").glob("*.json")
    assert {json.loads(path.read_text())["run"]["workers"] for path in reports} == {2}


def test_scenes_that_workers_do_not_find_are_not_side_by_side(scenes: Path, tmp_path: Path) -> None:
    tested: list[list[Path]] = []

    def shares(files: list[Path], cwd: str) -> bool:
        tested.append(files)
        return not any(scenes in file.parents for file in files)

    class Elsewhere:
        """Pool of workers that find the output folder, but not the scenes."""

        def everywhere(self, call: Any, *arguments: Any) -> list[bool]:
            return [shares(*arguments), True]

    workers = SimpleNamespace(pool=Elsewhere())
    found = [SourceName.of(path) for path in sorted(scenes.iterdir())]
    assert not side_by_side._share_folders(workers, tmp_path / "out", found)  # type: ignore[arg-type]
    assert side_by_side._share_folders(workers, tmp_path / "out", found[:0])  # type: ignore[arg-type]
    assert [len(files) for files in tested] == [2, 1] and not (tmp_path / "out").exists()


def test_a_scene_is_large_by_the_pixels_of_its_file(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(size, "LARGE_PIXELS", 40 * 50)
    paths = [make_scene(shape_hw=shape, name=f"{shape[0]}.tif") for shape in ((40, 49), (41, 49))]
    sources = [SourceName.of(path) for path in (*paths, tmp_path / "missing.tif", *paths)]
    assert size.are_large(sources) == [False, True, False, False, True]


@pytest.mark.slow
def test_windows_of_large_scenes_are_spread(
    pool: LocalPool, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = scenes / "s0.tif"
    monkeypatch.setattr(size, "is_large", lambda source: source.path == large)
    catalogue = run(scenes, tmp_path / "two", None, pool=pool)
    spread = [json.loads((tmp_path / "two" / f"s{n}.json").read_text())["run"]["workers"] for n in range(4)]
    assert spread == [2, 0, 0, 0] and len(catalogue.failed) == 1 and catalogue.paths == ()


@pytest.mark.slow
def test_a_worker_that_ends_costs_no_scene(pool: LocalPool, scenes: Path, one_by_one: Path, tmp_path: Path) -> None:
    (kills := tmp_path / "kills").mkdir()
    catalogue = run(scenes, tmp_path / "two", None, pool=pool, model=FakeSource(0, 2, str(kills)))
    assert len(list(kills.iterdir())) == 2 and [row.name for row in catalogue.failed] == ["s4"]
    assert digests(one_by_one / "out") == digests(tmp_path / "two")
    assert not [name for name in names(tmp_path / "two") if name.startswith(".")]


@pytest.mark.slow
def test_scenes_that_end_three_workers_fail_alone(pool: LocalPool, make_scene: SceneFactory, tmp_path: Path) -> None:
    for number in range(3):  # only the first has a second row of windows
        make_scene(shape_hw=(220 if number == 0 else 100, 100), name=f"s{number}.tif", folder=tmp_path / "scenes")
    (kills := tmp_path / "kills").mkdir()
    row = Grid(height=220, width=100, tile_size=128, overlap=16).row_offsets[1]
    model = FakeSource(row, 9, str(kills))
    catalogue = run(tmp_path / "scenes", tmp_path / "two", None, pool=pool, model=model, prompts="none")
    assert [row.status for row in catalogue.scenes] == ["failed", "done", "done"]
    assert "signal 9" in (catalogue.scenes[0].error or "")
    summary = catalogue.summary().splitlines()
    assert summary[0] == "2 of 3 scenes are done" and summary[1].startswith("  s0 failed: ") and len(summary) == 2


@pytest.mark.slow
@pytest.mark.parametrize("with_workers", [True, False])
def test_results_of_another_run_are_kept_unless_they_are_resumed_or_replaced(
    pool: LocalPool, scenes: Path, done: Path, with_workers: bool
) -> None:
    given = {"pool": pool} if with_workers else {}
    before = {path: path.stat().st_mtime_ns for path in (done / "out").iterdir()}
    refused = run(scenes, done / "out", None, **given)
    assert len(refused.failed) == 5 and "--overwrite" in (refused.failed[0].error or "")
    resumed = run(scenes, done / "out", None, **given, resume=True)
    assert [row.name for row in resumed.failed] == ["s4"]
    assert before == {path: path.stat().st_mtime_ns for path in (done / "out").iterdir()}
    replaced = run(scenes, done / "out", None, **given, overwrite=True)
    assert len(replaced.failed) == 1
    assert not {*before.values()} & {path.stat().st_mtime_ns for path in (done / "out").glob("*.tif")}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_killed_run_is_resumed_with_the_same_rasters_and_rows(scenes: Path, one_by_one: Path, tmp_path: Path) -> None:
    def kill_at_second(_: SceneOutcome, progress: ScenesProgress) -> None:
        if progress.done == 2:
            kill()

    assert killed(lambda: run(scenes, tmp_path / "out", tmp_path / "all.gpkg", on_scene=kill_at_second))
    assert not (tmp_path / "all.gpkg").exists()
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("s0*")}
    run(scenes, tmp_path / "out", tmp_path / "all.gpkg", resume=True)
    assert first and first == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("s0*")}
    assert digests(tmp_path / "out") == digests(one_by_one / "out")
    for layer in ("flood", "unobserved", "scenes"):
        assert table(tmp_path / "all.gpkg", layer).equals(table(one_by_one / "all.gpkg", layer))


CLUSTER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from distributed import Client, LocalCluster
from floodmap.scaleout.workers.cluster import DaskPool
import test_catalogue
if __name__ == "__main__":
    options = dict(n_workers=1, threads_per_worker=4, dashboard_address=None, memory_limit=0)
    with LocalCluster(**options) as cluster, Client(cluster) as client, DaskPool(client, "cpu") as pool:
        test_catalogue.run(Path(sys.argv[2]), Path(sys.argv[3]), None, pool=pool)
"""
"""Script with a cluster of one process of four threads: as many calls at a time as there are scenes.

Several processes are tested with the pool of this machine, and on a cluster with the windows of one scene."""


@pytest.mark.slow
def test_scenes_are_side_by_side_on_a_dask_cluster(scenes: Path, one_by_one: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="needs the extra dask")
    (tmp_path / "cluster.py").write_text(CLUSTER)
    folders = [str(Path(__file__).parent), str(scenes), str(tmp_path / "two")]
    path = os.pathsep.join([folders[0], *sys.path])  # for the processes of the cluster
    ended = subprocess.run(
        [sys.executable, "cluster.py", *folders], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path},
        capture_output=True, text=True, timeout=HANGS, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert digests(one_by_one / "out") == digests(tmp_path / "two")
    assert {json.loads(file.read_text())["run"]["workers"] for file in (tmp_path / "two").glob("*.json")} == {0}


def test_unexpected_errors_fail_one_scene(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = side_by_side.segment_scene

    def odd(source: SourceName, *args: Any, **kwargs: Any) -> Any:
        if source.stem == "s1":
            raise ZeroDivisionError("odd")
        return plain(source, *args, **kwargs)

    monkeypatch.setattr(side_by_side, "segment_scene", odd)
    catalogue = run(scenes, tmp_path / "out", None)
    assert [row.name for row in catalogue.failed] == ["s1", "s4"]
    assert "unexpected ZeroDivisionError: odd" in (catalogue.failed[0].error or "")


# Names.


@pytest.mark.parametrize(
    ("scenes", "expected"),
    [
        (["s3://b/A/TCI.tif", "s3://b/B/TCI.tif"], ["A_TCI", "B_TCI"]),
        (["s3://a/TCI.tif", "/vsis3/b/x%20y/TCI.tif?k=SECRET"], ["a_TCI", "x_y_TCI"]),
        (["2024/north/1.tif", "2025/north/1.tif", "2.tif"], ["2024_north_1", "2025_north_1", "2"]),
        (["2024/1.tif", "2025/1.tif"], ["2024_1", "2025_1"]),
        (["a/s.tif", "a/s.png", "b.tif"], ["s_tif", "s_png", "b"]),
        (["a/x.tif", "b/x.tif", "a_x.tif"], [None, None, "a_x"]),
        (["a/x.tif", "A/x.tif"], [None, None]),
        (["https://h/x.tif?id=1", "https://h/x.tif?id=2"], [None, None]),
    ],
)
def test_scenes_of_one_name_get_different_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenes: list[str], expected: list[str | None]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = [name for name, _ in find_scenes(scenes, tmp_path / "out")]
    assert len({name.casefold() for name in found}) == len(scenes)
    assert [name if wanted else None for name, wanted in zip(found, expected, strict=True)] == expected
    assert not any("SECRET" in name or "/" in name for name in found)


def test_items_of_one_name_get_the_names_of_their_folders(tmp_path: Path) -> None:
    pytest.importorskip("pystac")
    links = [item(f"./S2A_{number}/item.json") for number in range(3)]
    write(tmp_path / "collection.json", kind="Collection", links=links)
    found = find_scenes([str(tmp_path / "collection.json")], tmp_path / "out")
    assert [name for name, _ in found] == ["S2A_0_item", "S2A_1_item", "S2A_2_item"]


# STAC collections.


def stac_collection(folder: Path) -> Path:
    """A catalogue with an item of its own, and a collection with two items."""
    child = {"rel": "child", "href": "./child/collection.json"}
    root = {"rel": "root", "href": "./catalog.json"}
    write(folder / "catalog.json", kind="Catalog", links=[root, item("./a/a.json"), child, child])
    up = {"rel": "child", "href": "../catalog.json"}
    write(folder / "child" / "collection.json", kind="Collection", links=[item("b.json"), item("../a/a.json"), up])
    return folder / "catalog.json"


def item(href: str) -> dict[str, str]:
    return {"rel": "item", "href": href, "type": "application/geo+json"}


def write(path: Path, *, kind: str, links: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"stac_version": "1.0.0", "type": kind, "id": path.stem, "description": "x", "links": links}
    path.write_text(json.dumps(content))


def test_the_items_of_a_stac_catalogue_are_scenes(tmp_path: Path) -> None:
    pytest.importorskip("pystac")
    found = find_scenes([str(stac_collection(tmp_path))], tmp_path / "out")
    assert [(name, str(source)) for name, source in found] == [
        ("a", str(tmp_path / "a" / "a.json")), ("b", str(tmp_path / "child" / "b.json")),
    ]  # fmt: skip


def test_a_stac_catalogue_without_items_or_with_a_broken_link_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pystac")
    write(tmp_path / "empty.json", kind="Collection", links=[])
    with pytest.raises(SceneError, match="no links to items"):
        find_scenes([str(tmp_path / "empty.json")], tmp_path / "out")
    write(tmp_path / "broken.json", kind="Catalog", links=[{"rel": "child", "href": "./gone.json"}])
    with pytest.raises(SceneError, match=r"gone\.json cannot be read"):
        find_scenes([str(tmp_path / "broken.json")], tmp_path / "out")
    (tmp_path / "other.json").write_text("{}")
    assert [str(source) for _, source in find_scenes([str(tmp_path / "other.json")], tmp_path / "out")] == [
        str(tmp_path / "other.json")
    ]


def test_the_items_of_a_stac_catalogue_on_a_server_are_urls(tmp_path: Path) -> None:
    pytest.importorskip("pystac")
    stac_collection(tmp_path)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        found = find_scenes([f"{address}/catalog.json"], tmp_path / "out")
        gone = [f"{address}/gone.json", f"{address}/also-gone.json"]  # each is a scene that fails when it is opened
        assert [name for name, _ in find_scenes(gone, tmp_path / "out")] == ["gone", "also-gone"]
        server.shutdown()
    assert [(name, source.given) for name, source in found] == [
        ("a", f"{address}/a/a.json"), ("b", f"{address}/child/b.json"),
    ]  # fmt: skip


def collection_with_a_bad_item(make_scene: SceneFactory, folder: Path) -> Path:
    """A collection with two items; the raster of the item `bad` is missing."""
    make_scene(shape_hw=SHAPE, folder=folder)
    write(folder / "collection.json", kind="Collection", links=[item("./good.json"), item("./bad.json")])
    for name, href in (("good", "./scene.tif"), ("bad", "./gone.tif")):
        asset = {"href": href, "type": "image/tiff; application=geotiff", "roles": ["visual"]}
        content = {
            "type": "Feature", "stac_version": "1.0.0", "id": name, "geometry": None, "links": [],
            "properties": {"datetime": "2024-05-01T10:00:00Z"}, "assets": {"visual": asset},
        }  # fmt: skip
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder / "collection.json"


def test_an_item_that_cannot_be_read_fails_alone(make_scene: SceneFactory, tmp_path: Path) -> None:
    pytest.importorskip("pystac")
    collection = collection_with_a_bad_item(make_scene, tmp_path / "stac")
    run(collection, tmp_path / "out", tmp_path / "all.gpkg")
    items = [str(collection.with_name(f"{name}.json")) for name in ("good", "bad", "bad")]
    assert [name for name, _ in find_scenes(items, tmp_path / "out")] == ["good", "bad"]
    rows = table(tmp_path / "all.gpkg", "scenes").set_index("name")
    assert dict(rows.status) == {"good": "done", "bad": "failed"} and "no such file" in rows.loc["bad"].error
    assert rows.loc["good"].date.startswith("2024-05-01T10:00:00")
