"""What is lost with a worker: a part of the coarse pass, a scene, or its folder; the rest of the run goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SceneFactory
from fakes import FakeSegmenter, FakeSource, ThreadPool
from test_pipeline import read

from floodmap.catalogue.probe import Probe, probe_in
from floodmap.catalogue.side_by_side import segment_scenes
from floodmap.catalogue.task import error_text
from floodmap.errors import PoolError, WorkerError
from floodmap.geo.source_name import SourceName
from floodmap.options import SegmentOptions
from floodmap.pipeline import segment_scene
from floodmap.scaleout.workers import worker
from floodmap.scaleout.workers.pool import WorkerDied
from floodmap.scaleout.workers.run import Workers

OPTIONS: dict[str, Any] = {"tile_size": 128, "overlap": 16, "min_area_m2": 0.0, "simplify_m": 0.0}


class LosingPool(ThreadPool):
    """Threads in which calls of one function are lost."""

    def __init__(self, function: Any) -> None:
        super().__init__(2)
        self.function, self.number = function, 0

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        if function is not self.function:
            return super().submit(function, *args, **kwargs)
        self.number += 1
        lost: Future[Any] = Future()
        lost.set_exception(WorkerDied("its worker ended"))
        return lost


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process as a worker."""
    monkeypatch.setattr(worker, "_state", worker._State())
    yield
    worker.release()


def test_a_lost_part_of_the_coarse_pass_is_computed_at_full_resolution(
    make_scene: SceneFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene = make_scene(shape_hw=(700, 600))
    options = SegmentOptions(**OPTIONS)
    with LosingPool(worker.coarse_chunk) as pool, caplog.at_level(logging.WARNING, "floodmap"):
        workers = Workers(pool, FakeSource())
        result = segment_scene(scene, tmp_path / "two", workers.segmenter, options, workers=workers)
    assert pool.number > 0 and result.failed_windows == 0
    assert "its worker ended; it is computed at full resolution" in caplog.text
    whole = segment_scene(scene, tmp_path / "one", FakeSegmenter(), SegmentOptions(**OPTIONS, exhaustive=True))
    assert (read(result.probability_path) == read(whole.probability_path)).all()
    assert len(np.unique(read(whole.probability_path))) > 10


def test_only_an_error_of_all_workers_stops_a_run_over_many_scenes() -> None:
    source = SourceName.of("scene.tif")
    assert error_text(source, WorkerError("three workers ended")) == "three workers ended"
    with pytest.raises(PoolError):
        error_text(source, PoolError("the connection was lost"))


def test_a_scene_goes_to_other_workers_if_one_has_other_folders(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = [(name, SourceName.of(make_scene(shape_hw=(60, 60), name=f"{name}.tif"))) for name in "abc"]
    here = iter([False, True, True])
    monkeypatch.setattr(Probe, "is_here", lambda _: next(here))
    out = tmp_path / "out"
    with ThreadPool(2) as pool:
        workers = Workers(pool, FakeSource())
        outcomes = list(segment_scenes(scenes, out, workers.segmenter, SegmentOptions(**OPTIONS), workers=workers))
    assert {one.row.name: one.row.status for one in outcomes} == dict.fromkeys("abc", "done")
    assert sorted(one.flood_map.report["run"]["workers"] for one in outcomes if one.flood_map) == [0, 0, 2]
    assert not list(out.glob(".*"))


def test_a_probe_is_found_in_the_same_folders_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with probe_in(Path("out")) as probe:
        assert probe.is_here()
        (tmp_path / "other").mkdir()
        monkeypatch.chdir(tmp_path / "other")
        assert not probe.is_here()
    monkeypatch.chdir(tmp_path)
    assert not probe.is_here()
