"""One scene over several worker processes: the same bytes as in one process, whatever ends meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import HANGS, SceneFactory, picture, scene_factory
from fakes import FakeSegmenter, FakeSource, ThreadPool
from hypothesis import given, settings
from hypothesis import strategies as st
from test_pipeline import digests, read

import floodmap
from floodmap.errors import ModelError, WorkerError
from floodmap.geo.window import Window
from floodmap.imagery.tile import Tile
from floodmap.inference.coarse_map import CoarseMap, CoarsePart, MapPart, coarse_rows, crop_coarse
from floodmap.inference.loop import Progress
from floodmap.inference.mosaic import Mosaic, can_begin_at, joined
from floodmap.inference.observed import Observed
from floodmap.inference.prompting import CoarsePrompter
from floodmap.inference.tiling import Grid
from floodmap.options import SceneOptions, SegmentOptions
from floodmap.output.results import FloodMap
from floodmap.pipeline import segment_scene
from floodmap.scaleout.workers import local
from floodmap.scaleout.workers.job import cut
from floodmap.scaleout.workers.local import LocalPool
from floodmap.scaleout.workers.opening import open_workers
from floodmap.scaleout.workers.pool import Call, Lost, Pool, WorkerDied, in_order
from floodmap.scaleout.workers.run import Workers
from floodmap.strips.strip import Strip
from floodmap_cli.main import run

SETTINGS = {"tile_size": 128, "overlap": 16, "min_area_m2": 0.0, "simplify_m": 0.0}
SHAPE = (700, 600)
"""Height and width of the scenes: 6 rows of windows, and a coarse pass."""
REHEARSED: set[Hashable] = set()
"""Kinds of runs that were rehearsed; see `rehearsal.rehearse`."""
PlainRuns = Callable[..., FloodMap]


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    """Two worker processes."""
    with LocalPool(["cpu", "cpu"]) as found:
        yield found


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    alpha = np.full(SHAPE, 255)
    alpha[200:330, 100:300] = 0
    return scene_factory(tmp_path_factory.mktemp("scene"))(shape_hw=SHAPE, alpha=alpha)


@pytest.fixture(scope="module")
def one(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> PlainRuns:
    """Function that returns the results of a run on `scene` without workers, with the given settings."""
    done: dict[str, FloodMap] = {}

    def run_of(**settings: Any) -> FloodMap:
        key = repr(settings)
        if key not in done:
            done[key] = plain(scene, tmp_path_factory.mktemp("one"), **settings)
        return done[key]

    return run_of


def plain(source: Path, out: Path, segmenter: FakeSegmenter | None = None, **settings: Any) -> FloodMap:
    options = SegmentOptions(**{**SETTINGS, **settings})
    return segment_scene(source, out, segmenter or FakeSegmenter(), options, rehearsed=REHEARSED)


def spread(
    pool: Pool, source: Path, out: Path, model: FakeSource | None = None, progress: Any = None, **settings: Any
) -> FloodMap:
    workers = Workers(pool, model or FakeSource())
    options = SegmentOptions(**{**SETTINGS, **settings})
    return segment_scene(
        source, out, workers.segmenter, options, workers=workers, progress=progress, rehearsed=REHEARSED
    )


def without_run(result: FloodMap) -> dict[str, Any]:
    report = json.loads(result.report_path.read_text())
    return {key: value for key, value in report.items() if key != "run"}


# Rows of windows that are computed apart and joined.


def strips(grid: Grid, rows: range) -> tuple[list[Strip], Mosaic]:
    """Strips of some rows of windows with random probabilities, which depend on the window alone."""
    mosaic, found = Mosaic(grid, rows.start), []
    for row in rows:
        for window in grid.row(row):
            random = np.random.default_rng([window.row_off, window.col_off])
            probability = random.random((window.height, window.width), np.float32)
            reason = np.where(random.random(probability.shape) < 0.1, np.uint8(255), np.uint8(0))
            failed = random.random() < 0.2
            if strip := mosaic.add(window, None if failed else probability, reason):
                found.append(strip)
    return found, mosaic


@given(
    height=st.integers(1, 400), width=st.integers(1, 150), overlap=st.integers(0, 32),
    length=st.integers(1, 4),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_chunks_joined_are_the_mosaic_of_the_whole_scene_byte_by_byte(
    height: int, width: int, overlap: int, length: int
) -> None:
    grid = Grid(height=height, width=width, tile_size=64, overlap=overlap)
    whole, _ = strips(grid, range(len(grid.row_offsets)))
    above, found = None, []
    for chunk in cut(grid, 0, length):
        part, mosaic = strips(grid, chunk.rows)
        found += part if above is None else [joined(part[0], mosaic.top, above), *part[1:]]
        above = mosaic.bottom
    assert found == whole


def test_a_chunk_begins_only_where_it_can_be_joined() -> None:
    grid = Grid(height=200, width=64, tile_size=64, overlap=32, multiple=1)
    for chunk in cut(grid, 0, 1)[1:]:
        assert can_begin_at(grid, chunk.first)
    assert [row for chunk in cut(grid, 1, 2) for row in chunk.rows] == list(range(1, len(grid.row_offsets)))


@given(first=st.integers(0, 690), rows=st.integers(1, 300), cells=st.integers(1, 350))
@settings(max_examples=60, deadline=None)
def test_a_part_of_the_coarse_map_gives_the_prompts_of_the_whole_map(first: int, rows: int, cells: int) -> None:
    class Size:
        height, width = SHAPE

    end, codes = min(first + rows, 700), np.random.default_rng(cells).integers(0, 256, (cells, 300)).astype(np.uint8)
    codes[(codes > 100) & (codes < 250)] = 7
    whole, observed = CoarseMap(300), Observed(cells, 300)
    whole.append(codes)
    seen = np.random.default_rng(1).random((cells, 300)) < 0.999
    observed.add(Window(0, 0, cells, 300), seen)
    needed = coarse_rows(first, end, 700, cells)
    part, likely = whole.part(needed, cells), np.random.default_rng(2).random((cells, 300), np.float32)
    assert isinstance(part, CoarsePart)
    for window_of in (Window(first, 40, end - first, 200), Window(first, 0, 1, 600)):
        np.testing.assert_array_equal(crop_coarse(part, window_of, Size), crop_coarse(whole, window_of, Size))
        np.testing.assert_array_equal(
            crop_coarse(MapPart.of(likely, needed), window_of, Size), crop_coarse(likely, window_of, Size)
        )
        both = (CoarsePrompter(Size, whole, one).is_observed(window_of) for one in (observed, observed.part(needed)))
        assert len(set(both)) == 1


def test_parts_of_the_record_of_observed_squares_are_merged() -> None:
    whole, merged, seen = Observed(100, 50), Observed(100, 50), np.ones((40, 50), bool)
    seen[7, 9] = seen[39, 49] = False
    whole.add(Window(30, 0, 40, 50), seen)
    merged.merge(whole.part(slice(0, 48)))
    merged.merge(whole.part(slice(48, 100)))
    squares = [Window(row, col, 16, 16) for row in range(0, 96, 16) for col in range(0, 48, 16)]
    assert [merged.covers(one) for one in squares] == [whole.covers(one) for one in squares]
    assert not all(map(whole.covers, squares))


# Whole runs.


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"prompts": "none"}, {"exhaustive": True}, {"overlap": 64, "tile_size": 160},
     {"scene": SceneOptions(resolution_m=0.9)}],
    ids=["auto", "none", "exhaustive", "overlap", "resolution"],
)  # fmt: skip
def test_workers_give_the_bytes_and_the_report_of_one_process(
    pool: LocalPool, scene: Path, one: PlainRuns, tmp_path: Path, options: dict[str, Any]
) -> None:
    seen: list[Progress] = []
    alone, two = one(**options), spread(pool, scene, tmp_path / "two", progress=seen.append, **options)
    assert digests(alone.mask_path.parent) == digests(tmp_path / "two")
    assert without_run(alone) == without_run(two)
    assert alone.report["run"]["workers"] == 0 and two.report["run"]["workers"] == 2
    segment = [progress for progress in seen if progress.stage == "segment"]
    assert {progress.workers for progress in segment} == {2}
    assert segment[-1].chunks_done == segment[-1].chunks_total > 1
    assert segment[-1].windows_done == segment[-1].windows_total
    assert segment[-1].pixels_done == two.report["source"]["height"] * two.report["source"]["width"]
    assert not [path for path in (tmp_path / "two").iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_near_infrared_an_area_of_interest_and_points_reach_the_workers(
    pool: LocalPool, make_scene: SceneFactory, tmp_path: Path
) -> None:
    scene = make_scene(pixels=picture(4, SHAPE))
    aoi = make_scene(
        name="aoi.tif", pixels=np.repeat(np.arange(600) > 90, 700).reshape(600, 700).T[None].astype("uint8")
    )
    points = tmp_path / "points.geojson"
    geometry = {"type": "Point", "coordinates": [500_100.0, 4_999_900.0]}
    feature = {"type": "Feature", "properties": {"label": 1}, "geometry": geometry}
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    points.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))
    options = {"scene": SceneOptions(aoi=aoi, bands=(1, 2, 3, 4)), "prompts": points}
    one, two = plain(scene, tmp_path / "one", **options), spread(pool, scene, tmp_path / "two", **options)
    assert digests(tmp_path / "one") == digests(tmp_path / "two") and without_run(one) == without_run(two)
    assert two.report["source"]["near_infrared"]["used"]


@pytest.mark.slow
def test_windows_that_end_workers_are_computed_again_or_unobserved_and_the_rest_is_kept(
    pool: LocalPool, scene: Path, one: PlainRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert local.MAX_DEATHS == 3
    monkeypatch.setattr(local, "MAX_DEATHS", 2)  # each start of a process takes a second
    grid = Grid(height=700, width=600, tile_size=128, overlap=16)
    (kills := tmp_path / "kills").mkdir()
    model = FakeSource(grid.row_offsets[1], 1, str(kills), deadly_row=grid.row_offsets[3])
    result = spread(pool, scene, tmp_path / "two", model, prompts="none")
    failed = result.report["windows"]["failed"]
    assert len(list(kills.iterdir())) == 1
    assert {one["window"]["row_off"] for one in failed} == {grid.row_offsets[3]}
    assert len(failed) == len(grid.col_offsets) and "signal 9) 2 times" in failed[0]["why"]
    found, expected = read(result.probability_path), read(one(prompts="none").probability_path)
    first, end = grid.row_offsets[3], grid.row_offsets[3] + grid.shape_hw[0]
    assert (found[slice(*grid.strip(3))] == 255).all()
    assert (found[:first] == expected[:first]).all() and (found[end:] == expected[end:]).all()


@pytest.mark.slow
def test_a_model_that_fails_on_every_window_stops_the_run(pool: LocalPool, scene: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no luck") as alone:
        plain(scene, tmp_path / "one", FakeSegmenter(FakeSource(fails=True)._before), prompts="none")
    with pytest.raises(ModelError, match="no luck") as spread_out:
        spread(pool, scene, tmp_path / "two", FakeSource(fails=True), prompts="none")
    assert str(alone.value) == str(spread_out.value) and not (tmp_path / "two").exists()


@pytest.mark.slow
@pytest.mark.parametrize("begun_by_workers", [True, False])
def test_an_interrupted_run_is_resumed_with_workers_and_without(
    pool: LocalPool, scene: Path, one: PlainRuns, tmp_path: Path, begun_by_workers: bool
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.windows_done > 12:
            raise KeyboardInterrupt

    def interrupt_at(tile: Tile) -> None:
        if tile.window.row_off > 300:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        if begun_by_workers:
            spread(pool, scene, out, progress=interrupt, exhaustive=True)
        else:
            plain(scene, out, FakeSegmenter(interrupt_at), prompts="auto", exhaustive=True)
    begun = len(list(out.glob(".*/*.strip")))
    assert begun > 0
    resume = {"resume": True, "exhaustive": True}
    result = plain(scene, out, **resume) if begun_by_workers else spread(pool, scene, out, **resume)
    whole = one(exhaustive=True)
    assert digests(out) == digests(whole.mask_path.parent) and without_run(result) == without_run(whole)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_worker_processes_end_with_the_pool_and_with_the_client(scene: Path, tmp_path: Path) -> None:
    with LocalPool(["cpu"]) as own:
        process = own.workers[0].popen
        assert process.poll() is None
    assert process.poll() is not None
    code = (
        "import sys, time; from floodmap.scaleout.workers.local import LocalPool\n"
        "pool = LocalPool(['cpu']); print(pool.workers[0].popen.pid, flush=True); time.sleep(900)"
    )
    client = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with client:
        pid = int(client.stdout.readline())
        client.send_signal(signal.SIGKILL)
    ended = time.monotonic() + HANGS
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < ended
        time.sleep(0.05)


# The order of results, and what is in memory at a time.


def test_results_come_in_order_and_few_wait() -> None:
    first, running, most = threading.Event(), [0], [0]
    lock = threading.Lock()

    def work(number: int) -> int:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        if number == 0:
            first.wait(HANGS)
        with lock:
            running[0] -= 1
        return number

    begun: list[int] = []

    def calls() -> Iterator[Call]:
        for number in range(20):
            begun.append(number)
            if number == 4:  # two run at a time, and two results may wait for the first: no fifth call is begun
                raise AssertionError("too many results wait")
            yield Call(work, (number,))

    with ThreadPool(2) as threads:
        results = in_order(threads, calls(), ahead=2)
        threading.Timer(0.2, first.set).start()
        assert next(results) == 0
        results.close()
        assert [*in_order(threads, (Call(work, (n,)) for n in range(1, 20)), ahead=2)] == list(range(1, 20))
    assert most[0] <= 2 and begun == [0, 1, 2, 3]


def test_a_call_that_depends_on_a_result_waits_for_it() -> None:
    seen: list[int] = []

    def calls() -> Iterator[Call | None]:
        yield Call(int, ("1",))
        while not seen:
            yield None
        yield Call(int, (str(seen[0] + 1),))

    with ThreadPool(2) as threads:
        for result in in_order(threads, calls(), ahead=2):
            seen.append(result)
    assert seen == [1, 2]


def test_a_lost_call_is_a_result_and_an_error_is_raised() -> None:
    def lose() -> None:
        raise WorkerDied("three workers\nended")

    with ThreadPool(2) as threads:
        assert list(in_order(threads, iter([Call(lose, ())]), ahead=1)) == [Lost("three workers ended")]
        with pytest.raises(ValueError, match="invalid literal"):
            list(in_order(threads, iter([Call(int, ("x",))]), ahead=1))


# Refusals.


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"workers": 0}, "at least one worker"),
        ({"workers": 3, "device": "cuda:0,cuda:1"}, "3 workers and 2 devices"),
        ({"workers": 2, "scheduler": "tcp://x:1"}, "--scheduler excludes"),
    ],
)
def test_options_that_exclude_each_other_are_refused(options: dict[str, Any], said: str) -> None:
    from floodmap.models.registry import resolve

    with pytest.raises(WorkerError, match=said), open_workers(resolve("finetuned"), **options):
        pass


# Ctrl-C, and the shipped model.

PROGRAM = """
import signal, sys
from contextlib import contextmanager
signal.signal(signal.SIGINT, signal.default_int_handler)  # the background jobs of a shell ignore it
sys.path[:0] = [sys.argv[1]]
import floodmap_cli.commands.segment as segment
from fakes import FakeSource
from floodmap.scaleout.workers.local import LocalPool
from floodmap.scaleout.workers.run import Workers
from floodmap_cli.main import run

@contextmanager
def opened(*_):
    with LocalPool(["cpu", "cpu"]) as pool:
        workers = Workers(pool, FakeSource(hang_row=int(sys.argv[2])))
        yield workers.segmenter, workers

segment.open_model = opened
sys.exit(run(sys.argv[3:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_ctrl_c_ends_the_workers_and_the_run_is_resumed(scene: Path, one: PlainRuns, tmp_path: Path) -> None:
    whole_grid = Grid(height=700, width=600, tile_size=128, overlap=16)
    out, row = tmp_path / "out", whole_grid.row_offsets[3]
    settings = ("--tile-size", "128", "--overlap", "16", "--min-area", "0", "--simplify", "0", "--prompts", "none")
    command = [
        sys.executable,
        "-c",
        PROGRAM,
        str(Path(__file__).parent),
        str(row),
        "segment",
        str(scene),
        "-o",
        str(out),
    ]
    client = subprocess.Popen(
        [*command, *settings, "--workers", "2"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    with client:
        while client.poll() is None and len(list(out.glob(".*/*.strip"))) < 2:  # the worker of the fourth row hangs
            time.sleep(0.02)
        workers = [pid for pid in children(client.pid) if "floodmap.scaleout.workers.process" in line_of(pid)]
        os.killpg(client.pid, signal.SIGINT)
        said = client.communicate(timeout=HANGS)[1]
    assert client.returncode == 130 and "--resume" in said and "Traceback" not in said
    assert len(workers) == 2 and not any("floodmap.scaleout.workers.process" in line_of(pid) for pid in workers)
    rest = FakeSegmenter()
    plain(scene, out, rest, resume=True, prompts="none")
    assert digests(out) == digests(one(prompts="none").mask_path.parent) and 0 < len(rest.tiles) < len(whole_grid)


def children(pid: int) -> list[int]:
    return [int(one) for task in Path(f"/proc/{pid}/task").glob("*/children") for one in task.read_text().split()]


def line_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sample scene, and the results of a run without workers in the folder `one`."""
    folder = tmp_path_factory.mktemp("sample")
    floodmap.sample(folder / "scene.tif", width=500, height=900, seed=3)
    assert segment(folder, "one") == 0
    return folder


def segment(folder: Path, out: str, *options: object) -> int:
    """Run `floodmap segment`; return the exit code."""
    return run(
        ["segment", f"{folder / 'scene.tif'}", "-o", f"{folder / out}", "--tile-size", "320", *map(str, options)]
    )


@pytest.mark.slow
def test_the_shipped_model_gives_the_same_bytes_in_workers(sample: Path) -> None:
    assert segment(sample, "two", "--workers", 2) == 0
    assert digests(sample / "one") == digests(sample / "two")
    assert json.loads((sample / "two" / "scene.json").read_text())["run"]["workers"] == 2


CLUSTER = """
import sys
from distributed import Client, LocalCluster
import floodmap
from floodmap_cli.main import run
if __name__ == "__main__":
    options = dict(n_workers=2, threads_per_worker=1, dashboard_address=None, memory_limit=0)
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        floodmap.segment("scene.tif", out="client", tile_size=320, scheduler=client)
        assert client.run(lambda: 1), "the client stays connected"
        code = run(["segment", "scene.tif", "-o", "address", "--tile-size", "320", "--scheduler",
                    cluster.scheduler_address])
    sys.exit(code)
"""


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_bytes(sample: Path) -> None:
    pytest.importorskip("distributed", reason="needs the extra dask")
    (sample / "cluster.py").write_text(CLUSTER)
    done = subprocess.run([sys.executable, "cluster.py"], cwd=sample, capture_output=True, text=True, timeout=HANGS)
    assert done.returncode == 0, done.stderr
    for name in ("client", "address"):
        assert digests(sample / "one") == digests(sample / name)
        assert json.loads((sample / name / "scene.json").read_text())["run"]["workers"] == 2


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--device", "cuda:0,gpu"], 2, "'gpu' is no device"),
        (["--workers", "0"], 2, "--workers"),
        (["--workers", "2", "--scheduler", "tcp://127.0.0.1:9"], 1, "--scheduler excludes --workers"),
        pytest.param(
            ["--workers", "1", "--device", "cuda:99"], 1, "device 'cuda:99' is not available", marks=pytest.mark.slow
        ),
    ],
)
def test_wrong_options_are_one_line(
    make_scene: SceneFactory,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    code: int,
    said: str,
) -> None:
    make_scene()
    assert segment(tmp_path, "none", *options) == code
    assert said in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_a_loaded_model_is_refused_for_workers(make_scene: SceneFactory, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="give its name or file"):
        floodmap.segment(make_scene(), out=tmp_path / "out", model=FakeSegmenter(), workers=2)
