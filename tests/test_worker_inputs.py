"""A worker computes only what the client reads: the same files, read in the same way."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio.shutil
from conftest import SceneFactory, picture
from fakes import FakeSegmenter, FakeSource

from floodmap.errors import SceneError
from floodmap.imagery.raster.fingerprint import of_input
from floodmap.imagery.scene import Scene
from floodmap.inference.tiling import Grid
from floodmap.options import SceneOptions
from floodmap.scaleout.workers import inputs, worker
from floodmap.scaleout.workers.job import Chunk, Job
from floodmap.scaleout.workers.reading import reading_of
from floodmap.scaleout.workers.run import Workers

SHAPE = (80, 80)


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process as a worker that was started anew."""
    monkeypatch.setattr(worker, "_state", worker._State())
    yield
    worker.release()


def job_of(path: Path | str, options: SceneOptions | None = None) -> Job:
    """The job of a run that a client has begun."""
    with Scene.open(path, options) as scene:
        return job(scene)


def job(scene: Scene) -> Job:
    runner = object.__new__(Workers)
    runner._model, runner._expected = FakeSource(), None
    files = {name: of_input(file) for name in ("mask", "aoi") if (file := getattr(scene.options, name))}
    return runner._job(scene, Grid(height=80, width=80, tile_size=64, overlap=8), FakeSegmenter(), files)


def compute(one: Job) -> int:
    """Compute a chunk in this process; return the number of strips."""
    return len(worker.segment_chunk(one, Chunk(0, 1), None).entries)


def test_a_worker_refuses_a_scene_with_another_content(make_scene: SceneFactory) -> None:
    first = job_of(make_scene(shape_hw=SHAPE))
    assert compute(first) == 1
    worker.release()
    other = replace(first.inputs, fingerprint="0", identity=None)
    with pytest.raises(SceneError, match="another file"):
        compute(replace(first, key="2", inputs=other))
    assert not worker._state.sessions
    assert compute(replace(first, key="3", inputs=replace(first.inputs, identity=None))) == 1


@pytest.mark.parametrize("option", ["aoi", "mask"])
def test_a_file_that_changed_reaches_no_chunk_although_the_scene_is_the_same(
    make_scene: SceneFactory, option: str
) -> None:
    scene = make_scene(shape_hw=SHAPE)
    half = np.repeat(np.arange(80) > 40, 80).reshape(1, 80, 80).astype("uint8")
    other = make_scene(name="other.tif", pixels=half)
    begun = job_of(scene, SceneOptions(**{option: other}))
    assert compute(begun) == 1
    worker.release()  # the process ends, and another one is started
    make_scene(name="other.tif", pixels=1 - half)
    with pytest.raises(SceneError, match=r"other\.tif .* is another file"):
        compute(begun)


def test_a_scene_of_several_files_is_hashed_also_on_the_same_machine(make_scene: SceneFactory) -> None:
    member = make_scene(shape_hw=SHAPE)
    assert job_of(member).inputs.identity is not None
    vrt = member.with_name("scene.vrt")
    rasterio.shutil.copy(member, vrt, driver="VRT")
    begun = job_of(vrt)
    assert begun.inputs.identity is None and compute(begun) == 1
    worker.release()
    make_scene(pixels=picture(3, SHAPE, seed=1))
    with pytest.raises(SceneError, match="another file"):
        compute(begun)


def test_an_unchanged_scene_on_the_same_machine_is_not_hashed_again(
    make_scene: SceneFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = job_of(make_scene(shape_hw=SHAPE))
    monkeypatch.setattr(Scene, "fingerprint", property(lambda _: pytest.fail("the scene is hashed")))
    assert compute(begun) == 1


@pytest.mark.parametrize("what", ["scene", "aoi"])
def test_a_file_replaced_before_the_first_chunk_is_refused(make_scene: SceneFactory, what: str) -> None:
    path = make_scene(shape_hw=SHAPE)
    aoi = make_scene(name="aoi.tif", pixels=np.ones((1, 80, 80), "uint8"))
    replaced = path if what == "scene" else aoi
    with Scene.open(path, SceneOptions(aoi=aoi)) as scene:
        assert scene.fingerprint
        shutil.copy(replaced, replaced.with_name("copy.tif"))
        os.replace(replaced.with_name("copy.tif"), replaced)
        with pytest.raises(SceneError, match=rf"{replaced.name} changed while it was read"):
            job(scene)


def test_a_worker_refuses_what_it_reads_in_another_way(make_scene: SceneFactory) -> None:
    begun = job_of(make_scene(shape_hw=SHAPE, dtype="uint16"))
    changed = {**begun.inputs.reading, "stretch": "0 1", "grid": "elsewhere"}
    with pytest.raises(SceneError, match="grid, stretch differ"):
        compute(replace(begun, inputs=replace(begun.inputs, reading=changed)))


def test_an_area_of_interest_at_another_place_is_another_reading(make_scene: SceneFactory) -> None:
    scene, place = make_scene(shape_hw=SHAPE), make_scene(name="aoi.tif", pixels=np.ones((1, 40, 40), "uint8"))
    with Scene.open(scene, SceneOptions(aoi=place)) as opened:
        with_aoi = reading_of(opened, with_pixels=False)
    with Scene.open(scene) as opened:
        without = reading_of(opened, with_pixels=False)
    assert {name for name in without if without[name] != with_aoi[name]} == {"area of interest"}


def test_a_source_without_a_fingerprint_is_compared_by_some_pixels(
    make_scene: SceneFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Scene, "fingerprint", None)
    path = make_scene(shape_hw=SHAPE)
    begun = job_of(path)
    assert "pixels" in begun.inputs.reading
    begun = replace(begun, inputs=replace(begun.inputs, identity=None))
    assert compute(begun) == 1
    worker.release()
    make_scene(pixels=np.full((3, *SHAPE), 77, "uint8"))
    with pytest.raises(SceneError, match="pixels differ"):
        compute(begun)


def test_a_worker_that_cannot_compute_a_fingerprint_names_the_package() -> None:
    with pytest.raises(SceneError, match=r"floodmap\[remote\]"):
        inputs._refuse_other_file("https://host/a.tif", None, "0" * 64)


def test_the_fingerprint_does_not_depend_on_the_folder_of_the_process(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_scene(shape_hw=SHAPE)
    monkeypatch.chdir(tmp_path)
    with Scene.open(path.name) as relative, Scene.open(path) as absolute:
        assert relative.fingerprint == absolute.fingerprint is not None
    begun = job_of(path.name)
    assert compute(replace(begun, inputs=replace(begun.inputs, identity=None))) == 1
