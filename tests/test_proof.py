"""A model that fails everywhere stops a run; one that fails in places does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from conftest import SceneFactory
from fakes import ConstantSegmenter, FakeSegmenter
from numpy.typing import NDArray

from floodmap.errors import ModelError
from floodmap.geo.window import Window
from floodmap.imagery.scene import Scene
from floodmap.imagery.tile import Tile
from floodmap.inference.proof import Failure, Proof
from floodmap.models.prompts import Prompts
from floodmap.options import SegmentOptions
from floodmap.output.results import FloodMap
from floodmap.pipeline import segment_scene
from floodmap.strips.codes import FAILED

SMALL = {"tile_size": 64, "overlap": 0, "prompts": "none"}
SIDE = 64


def run(scene: Path, out: Path, segmenter: FakeSegmenter, **settings: object) -> FloodMap:
    return segment_scene(scene, out, segmenter, SegmentOptions(**{**SMALL, **settings}))


def failing(error: Callable[[], BaseException], *, last: int = 10**9, first: int = 0) -> FakeSegmenter:
    """A model that raises an error for the windows it gets, from the first to before the last."""
    numbers = count()

    def before(_: object) -> None:
        if first <= next(numbers) < last:
            raise error()

    return FakeSegmenter(before)


@pytest.mark.slow
@pytest.mark.parametrize("columns", [1, 2, 5])
@pytest.mark.parametrize("rows", [1, 3, 6])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_model_that_fails_everywhere_is_one_line_and_leaves_nothing(
    make_scene: SceneFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture, rows: int, columns: int, batch_size: int
) -> None:
    scene, numbers = make_scene(shape_hw=(SIDE * rows, SIDE * columns)), count()
    broken = failing(lambda: RuntimeError(f"operator 0x7f{next(numbers)} is missing\nand much more"))
    with pytest.raises(ModelError, match=r"scene\.tif: the model fails on every window \(operator .* --model") as one:
        run(scene, tmp_path / "out", broken, batch_size=batch_size)
    assert "\n" not in str(one.value) and not caplog.records
    assert not (tmp_path / "out").exists()


def test_a_model_that_gives_no_number_anywhere_is_refused(make_scene: SceneFactory, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="returned NaN or infinity"):
        run(make_scene(shape_hw=(40, 40)), tmp_path / "out", ConstantSegmenter(float("nan")))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "error",
    [
        MemoryError,
        lambda: torch.OutOfMemoryError("CUDA has no room"),
        lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 5 bytes"),
        lambda: RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 7 bytes"),
        lambda: RuntimeError("CUDA error: out of memory"),
        lambda: RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        lambda: RuntimeError("std::bad_alloc"),
    ],
)
def test_where_memory_runs_out_windows_are_unobserved(
    make_scene: SceneFactory, tmp_path: Path, error: Callable[[], BaseException]
) -> None:
    result = run(make_scene(shape_hw=(SIDE * 2, SIDE * 3)), tmp_path / "out", failing(error))
    assert result.failed_windows == 6 and result.report["windows"]["run"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("working", [0, 3])
def test_a_model_that_works_on_one_of_its_first_windows_goes_on(
    make_scene: SceneFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture, working: int
) -> None:
    numbers = count()

    def before(_: object) -> None:
        if next(numbers) != working:
            raise RuntimeError("no luck")

    result = run(make_scene(shape_hw=(SIDE * 8, SIDE)), tmp_path / "out", FakeSegmenter(before))
    assert result.failed_windows == 7 and result.report["windows"]["run"] == 1
    assert [record.getMessage().count("no luck") for record in caplog.records] == [1] * 7
    with rasterio.open(result.mask_path) as dataset:
        mask = dataset.read(1)
    unobserved = (mask == 255).reshape(8, SIDE * SIDE)
    assert unobserved.all(axis=1).tolist() == unobserved.any(axis=1).tolist() == [n != working for n in range(8)]


def test_errors_that_differ_are_windows_that_fail(make_scene: SceneFactory, tmp_path: Path) -> None:
    words = iter(["one", "two", "two", "two", "two"])
    result = run(make_scene(shape_hw=(SIDE, SIDE * 5)), tmp_path / "out", failing(lambda: RuntimeError(next(words))))
    assert result.failed_windows == 5


def test_windows_that_the_model_does_not_run_prove_nothing(make_scene: SceneFactory, tmp_path: Path) -> None:
    alpha = np.full((SIDE * 10, SIDE), 255)
    alpha[SIDE : SIDE * 8] = 0
    scene = make_scene(shape_hw=alpha.shape, alpha=alpha)
    with pytest.raises(ModelError, match="no luck"):
        run(scene, tmp_path / "out", failing(lambda: RuntimeError("no luck")))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_what_an_earlier_run_finished_is_kept_and_can_be_gone_on_with(make_scene: SceneFactory, tmp_path: Path) -> None:
    scene, out = make_scene(shape_hw=(SIDE * 8, SIDE)), tmp_path / "out"

    def stop() -> BaseException:
        return KeyboardInterrupt()

    with pytest.raises(KeyboardInterrupt):
        run(scene, out, failing(stop, first=4))
    work = out / ".scene.floodmap"
    kept = {path.name: path.read_bytes() for path in work.glob("*.strip")}
    assert 2 <= len(kept) <= 4
    with pytest.raises(ModelError, match="no luck"):
        run(scene, out, failing(lambda: RuntimeError("no luck")), resume=True)
    assert {path.name: path.read_bytes() for path in work.glob("*.strip")} == kept
    rest = FakeSegmenter()
    assert run(scene, out, rest, resume=True).failed_windows == 0
    assert len(rest.tiles) == 8 - len(kept)


@pytest.mark.slow
def test_results_that_are_there_are_not_touched_by_a_model_that_fails(make_scene: SceneFactory, tmp_path: Path) -> None:
    scene, out = make_scene(shape_hw=(SIDE, SIDE)), tmp_path / "out"
    run(scene, out, FakeSegmenter())
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ModelError, match="no luck"):
        run(scene, out, failing(lambda: RuntimeError("no luck")), overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_scene_that_cannot_be_read_is_no_failure_of_the_model(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from floodmap.errors import SceneError

    def read(self: Scene, window: Window) -> Tile:
        raise SceneError("the disk is gone")

    monkeypatch.setattr(Scene, "read", read)
    result = run(make_scene(shape_hw=(SIDE * 2, SIDE * 3)), tmp_path / "out", FakeSegmenter())
    assert result.failed_windows == 6 and result.report["windows"]["run"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("works", [False, True])
def test_the_worker_gets_no_strip_that_is_held_back(make_scene: SceneFactory, tmp_path: Path, works: bool) -> None:
    model = failing(lambda: RuntimeError("no luck"), last=3 if works else 10**9)
    model.offloads = True
    scene, out = make_scene(shape_hw=(SIDE * 8, SIDE)), tmp_path / "out"
    if works:
        assert run(scene, out, model).failed_windows == 3
    else:
        with pytest.raises(ModelError, match="no luck"):
            run(scene, out, model)
        assert not out.exists()


@pytest.mark.slow
def test_windows_of_which_every_part_fails_count(make_scene: SceneFactory, tmp_path: Path) -> None:
    pixels = np.full((3, 1024, 4096), 100, np.uint8)
    pixels[2] = 2
    pixels[2, 500:600, 300::1024] = 140  # something to look at from near in each window

    def before(tile: Tile) -> None:
        if tile.reason.shape == (320, 320):
            raise RuntimeError("no luck")

    with pytest.raises(ModelError, match="on every window"):
        run(make_scene(pixels=pixels), tmp_path / "out", FakeSegmenter(before), prompts="auto", tile_size=1024)


class Numberless(FakeSegmenter):
    def predict(self, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> NDArray[np.float32]:
        found = super().predict(tiles, prompts).copy()
        found[0, 3, 3] = np.nan
        return found


@pytest.mark.slow
@pytest.mark.parametrize("exhaustive", [True, False])
@pytest.mark.parametrize(
    ("model", "word"),
    [(failing(lambda: RuntimeError("no\nluck")), "no"), (Numberless(), "the model returned NaN or infinity")],
)
def test_a_coarse_pass_that_fails_is_the_same_kind_of_line(
    make_scene: SceneFactory, tmp_path: Path, model: FakeSegmenter, word: str, exhaustive: bool
) -> None:
    scene = make_scene(shape_hw=(600, 600))
    with pytest.raises(ModelError, match=rf"^.*scene\.tif: the model fails in the coarse pass \({word}\); try another"):
        run(scene, tmp_path / "out", model, prompts="auto", exhaustive=exhaustive)
    assert not (tmp_path / "out").exists()


def test_a_window_read_in_part_is_run_and_listed_as_failed(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    own = Scene.read

    def read(self: Scene, window: Window) -> Tile:
        tile = own(self, window)
        if window.col_off != SIDE:
            return tile
        reason = tile.reason.copy()
        reason[:, :10] = FAILED
        return replace(tile, reason=reason, failure="b.tif is missing")

    monkeypatch.setattr(Scene, "read", read)
    result = run(make_scene(shape_hw=(SIDE, SIDE * 3)), tmp_path / "out", FakeSegmenter())
    windows = json.loads(result.report_path.read_text())["windows"]
    assert windows["run"] == 3 and windows["skipped"] == 0 and result.failed_windows == 1
    assert windows["failed"] == [
        {"window": {"row_off": 0, "col_off": SIDE, "height": SIDE, "width": SIDE}, "why": "b.tif is missing"}
    ]
    with rasterio.open(result.mask_path) as dataset:
        mask = dataset.read(1)
    assert (mask[:, SIDE : SIDE + 10] == 255).all() and (mask == 255).sum() == SIDE * 10
    assert ["in part" in record.getMessage() for record in caplog.records] == [True]


def test_a_window_skipped_by_the_coarse_pass_still_counts_what_could_not_be_read(
    make_scene: SceneFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.full((3, 512, 1024), 100, np.uint8)
    pixels[2] = 2

    def spoiled(own: Callable[..., Tile]) -> Callable[..., Tile]:
        def read(self: Scene, window: Window, *more: int) -> Tile:
            return replace(own(self, window, *more), failure="b.tif is missing")

        return read

    monkeypatch.setattr(Scene, "read", spoiled(Scene.read))
    monkeypatch.setattr(Scene, "shrunk", spoiled(Scene.shrunk))
    result = run(make_scene(pixels=pixels), tmp_path / "out", FakeSegmenter(), prompts="auto", tile_size=512)
    assert result.report["windows"]["skipped_by_coarse"] == 2 and result.failed_windows == 2


def test_failures_are_alike_but_for_numbers_and_addresses() -> None:
    one = Failure.of(RuntimeError("at 0x7fa0: 12 of 3"))
    assert one.same_as(Failure.of(RuntimeError("at 0x1: 7 of 99"))) and not one.same_as(
        Failure.of(RuntimeError("at 7"))
    )
    assert Failure.of(RuntimeError()).why == "RuntimeError"


def test_a_proof_ends_at_the_fourth_window() -> None:
    proof = Proof()
    for left in (0, 8, 16, 16):  # the last one twice, differently prompted
        proof.add(Path("a.tif"), Window(0, left, 8, 8), Failure("no"))
    assert proof.all_failed
    with pytest.raises(ModelError, match=r"a\.tif"):
        proof.add(Path("b.tif"), Window(0, 0, 8, 8), Failure("no"))
