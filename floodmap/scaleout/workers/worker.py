"""Functions that run in workers. A worker keeps its model, and the scenes of the runs in which it takes part."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from floodmap._runtime.memory import configure_low_memory, freed_memory_kept, trim_heap
from floodmap.errors import FloodmapError, PoolError
from floodmap.imagery.scene import Scene
from floodmap.imagery.tile import Tile
from floodmap.inference.coarse_pass import coarse_grid, coarse_strips
from floodmap.inference.loop import compute_rows
from floodmap.inference.mosaic import Mosaic
from floodmap.inference.observed import Observed
from floodmap.inference.prediction import Outcome
from floodmap.inference.prompting import CoarsePrompter, LikelihoodPrompter, Prompter, joined, unprompted
from floodmap.inference.selection import Selection
from floodmap.models.infrared import WithInfrared
from floodmap.models.protocol import Segmenter
from floodmap.scaleout.workers.facts import Facts, place, refuse_other_kind, versions
from floodmap.scaleout.workers.job import (
    Chunk,
    ChunkResult,
    CoarseGuide,
    CoarseResult,
    Guide,
    Job,
    LikelihoodGuide,
)
from floodmap.scaleout.workers.model import Loaded, ModelSource
from floodmap.scaleout.workers.process import BROKEN_GPU


class BrokenGpuError(PoolError):
    """Exception raised if the GPU of a worker cannot compute any more, until the process is started anew."""


@dataclass
class _Session:
    """Open scene and model of a run."""

    scene: Scene
    segmenter: Segmenter
    stack: ExitStack
    users: int = 0
    """Number of calls that use the session now."""


class _State:
    """State of this worker process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.device, self.share = "auto", 1
        self.model: tuple[tuple[ModelSource, str], Segmenter, Facts] | None = None
        """Description and device of the model, the loaded model, and its properties."""
        self.sessions: dict[str, _Session] = {}


_state = _State()


def settle(device: str, share: int) -> None:
    """Set the device of this worker, and the number of worker processes that share the cores of the machine."""
    _state.device, _state.share = device, share


def run_on(device: str, function: Callable[..., Any], *args: Any) -> Any:
    """Run a function of this module in a worker that was not started by floodmap, with a model on a device.

    The message of a `FloodmapError` gets the place of the worker: its files are perhaps not those of the client.
    """
    if "torch" not in sys.modules:  # once in each worker, before the model is loaded
        configure_low_memory(one_heap=False)
    settle(device, 1)
    try:
        return function(*args)
    except BrokenGpuError:
        _end_under_nanny()
        raise
    except FloodmapError as error:
        if place() not in str(error):
            error.args = (f"{error} (on worker {place()})",)
        raise


def _end_under_nanny() -> None:
    """End this Dask worker if a nanny starts it anew. The scheduler then runs its calls on other workers."""
    with suppress(ImportError, ValueError):  # the last: this process is no Dask worker
        from distributed import get_worker

        if get_worker().nanny:
            os._exit(BROKEN_GPU)


def report_facts(model: ModelSource) -> Facts:
    """Load a model, unless this worker has it, and return the properties of the worker and of the model."""
    return _loaded(model)[1]


def segmenter_of(model: ModelSource, expected: Mapping[str, str] | None) -> Segmenter:
    """Return the model of this worker, which is loaded at the first call.

    Args:
        model: description of the model.
        expected: properties of all workers (`Facts.kind`); None: workers may differ.

    Raises:
        PoolError: this worker differs from the others.
        ModelError: the model cannot be loaded.
    """
    segmenter, facts = _loaded(model)
    if expected is not None:
        refuse_other_kind(facts, expected)
    return segmenter


def ood_score(model: ModelSource, tiles: list[Tile]) -> float:
    """Compute the out-of-distribution score of a scene from some of its tiles; see `protocol.Segmenter`."""
    return _loaded(model)[0].ood_score(tiles)


def coarse_chunk(job: Job, chunk: Chunk) -> CoarseResult:
    """Compute a chunk of the coarse pass; the rows of `chunk` are those of the shrunk scene."""
    with _session(job) as session:
        scene, segmenter = session.scene, session.segmenter
        factor, grid = coarse_grid(scene, segmenter)
        observed, mosaic = Observed(grid.height, grid.width), Mosaic(grid, chunk.first)
        strips = list(coarse_strips(scene, segmenter, mosaic, chunk.rows, factor, observed, exhaustive=job.exhaustive))
        trim_heap()  # windows of the coarse pass and of the scene have other sizes
        seen = slice(grid.row_offsets[chunk.first], grid.row_offsets[chunk.end - 1] + grid.shape_hw[0])
        return CoarseResult(strips, observed.part(seen), mosaic.top, mosaic.bottom)


def segment_chunk(job: Job, chunk: Chunk, guide: Guide) -> ChunkResult:
    """Compute a chunk of the windows of a scene."""
    with _session(job) as session:
        prompter = _prompter(session.scene, job, guide)
        exhaustive = job.exhaustive or not session.segmenter.any_size
        selection = Selection(session.scene, prompter, exhaustive=exhaustive)
        mosaic, outcomes = Mosaic(job.grid, chunk.first), list[Outcome]()
        entries = compute_rows(
            session.segmenter, selection, mosaic, chunk.rows, batch_size=job.batch_size, add=outcomes.append
        )
        result = ChunkResult(list(entries), outcomes, mosaic.top, mosaic.bottom)
        if any(outcome.failure for outcome in outcomes):
            refuse_broken_gpu(session.segmenter)
        return result


def release(key: str | None = None) -> None:
    """Close the scene of a run; or, without a key, close all scenes and drop the model. What is in use is kept."""
    with _state.lock:
        for one in [key] if key is not None else list(_state.sessions):
            session = _state.sessions.get(one)
            if session and not session.users:
                del _state.sessions[one]
                session.stack.close()
        if key is None and not _state.sessions:
            _state.model = None
    trim_heap()


def refuse_broken_gpu(segmenter: Segmenter) -> None:
    """Check after a failure that the GPU of this worker works. A broken GPU fails fast, and would take most chunks.

    Raises:
        BrokenGpuError: the GPU cannot compute any more.
    """
    if not segmenter.runs_on.startswith("cuda"):
        return
    from floodmap.models.hardware import gpu_works

    if not gpu_works(_state.device):
        raise BrokenGpuError(f"the GPU of worker {place()} failed; restart this worker, and continue with --resume")


def _prompter(scene: Scene, job: Job, guide: Guide) -> Prompter:
    prompter: Prompter = unprompted
    if isinstance(guide, CoarseGuide):
        prompter = CoarsePrompter(scene, guide.coarse, guide.observed)
    elif isinstance(guide, LikelihoodGuide):
        prompter = LikelihoodPrompter(scene, guide.likely)
    return prompter if job.given is None else joined(job.given, prompter)


@contextmanager
def _session(job: Job) -> Iterator[_Session]:
    """Context manager: yield the session of a run; the first call of a run opens the scene and loads the model.

    Scenes of other runs are closed first, unless another call uses them now.
    """
    with _state.lock:
        if job.key not in _state.sessions:
            for key in list(_state.sessions):
                release(key)
            _state.sessions[job.key] = _open(job)
        session = _state.sessions[job.key]
        session.users += 1
    try:
        yield session
    finally:
        with _state.lock:
            session.users -= 1


def _open(job: Job) -> _Session:
    """Open the scene of a job and load the model.

    Raises:
        PoolError: this worker differs from the others.
        SceneError: the scene, or a file in the options, is not the same as on the client's machine.
    """
    segmenter = segmenter_of(job.model, job.expected)
    if job.infrared is not None:
        segmenter = WithInfrared(segmenter, job.infrared)
    with ExitStack() as stack:
        stack.enter_context(freed_memory_kept(large_apart=segmenter.any_size))
        scene = stack.enter_context(Scene.open(job.source, job.options))
        job.inputs.refuse_other(scene, job.options)
        return _Session(scene, segmenter, stack.pop_all())


def _loaded(model: ModelSource) -> tuple[Segmenter, Facts]:
    with _state.lock:
        wanted = model, _state.device
        if _state.model is None or _state.model[0] != wanted:
            _state.model = None  # frees the memory of the other model first
            with warnings_kept() as lines:
                loaded = model.load(_state.device, _state.share)
            _state.model = wanted, loaded.segmenter, _facts(loaded, tuple(lines))
        return _state.model[1:]


def _facts(loaded: Loaded, remarks: tuple[str, ...]) -> Facts:
    segmenter = loaded.segmenter
    return Facts(
        place=place(), versions=versions(), device=loaded.device, name=segmenter.name,
        sha256=segmenter.sha256, knows_floods=segmenter.knows_floods, multiple=segmenter.multiple,
        any_size=segmenter.any_size, best_batch_size=loaded.batch_size, offloads=segmenter.offloads,
        runs_on=segmenter.runs_on, training=segmenter.training, remarks=remarks,
    )  # fmt: skip


@contextmanager
def warnings_kept() -> Iterator[list[str]]:
    """Context manager: yield a list, to which the warnings of floodmap are added."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    lines: list[str] = []
    logger, handler = logging.getLogger("floodmap"), Handler(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
