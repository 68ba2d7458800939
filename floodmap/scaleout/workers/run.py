"""`Workers`: segments scenes in worker processes. The journal and all writing stay in this process."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from floodmap.imagery.scene import Scene
from floodmap.inference.loop import JournalWriter, Progress, pixels_done
from floodmap.inference.mosaic import Mosaic, Sums, joined
from floodmap.inference.prediction import Outcome, no_notes
from floodmap.inference.prompt_files import read_prompts
from floodmap.inference.prompting import Prompter
from floodmap.inference.proof import Failure
from floodmap.inference.tiling import Grid
from floodmap.models.infrared import WithInfrared
from floodmap.models.protocol import Segmenter
from floodmap.scaleout.workers.facts import Facts, kinds_of, refuse_mixture, versions
from floodmap.scaleout.workers.guides import Guides, guides_of
from floodmap.scaleout.workers.inputs import Inputs, absolute
from floodmap.scaleout.workers.job import Chunk, ChunkResult, Job, chunk_length, cut
from floodmap.scaleout.workers.model import ModelSource
from floodmap.scaleout.workers.pool import Call, Lost, Pool, in_order
from floodmap.scaleout.workers.remote import RemoteSegmenter
from floodmap.scaleout.workers.worker import coarse_chunk, report_facts, segment_chunk
from floodmap.strips.journal import Entry, Journal

log = logging.getLogger(__name__)


class Workers:
    """Worker processes with a loaded model, for `pipeline.segment_scene`.

    Args:
        pool: the worker processes.
        model: description of the model, which every worker loads.
        batch_size: function that returns the default batch size on this machine; None: the batch size that a worker
            reports.
        allow_mixed: True: workers may differ in versions, device or precision. The result then depends on which worker
            computes which windows.

    Raises:
        PoolError: there is no worker, or the workers differ.
        ModelError: a worker cannot load the model.
    """

    def __init__(
        self,
        pool: Pool,
        model: ModelSource,
        *,
        batch_size: Callable[[], int] | None = None,
        allow_mixed: bool = False,
    ) -> None:
        self._pool, self._model = pool, model
        with ThreadPoolExecutor(1) as executor:  # the batch size is determined while the workers load the model
            size = executor.submit(batch_size) if batch_size else None
            facts = pool.everywhere(report_facts, model)
        for line in dict.fromkeys(line for one in facts for line in one.remarks):
            log.warning("%s", line)
        if not allow_mixed:
            refuse_mixture(facts)
        self._expected = None if allow_mixed else facts[0].kind
        self._mixed = tuple(kinds_of(facts)) if allow_mixed and not _are_alike(pool, facts) else ()
        best = facts[0].best_batch_size if facts[0].offloads or size is None else size.result()
        self.segmenter = RemoteSegmenter(pool, model, facts[0], best)

    @property
    def size(self) -> int:
        """Number of chunks that are computed at the same time."""
        return self._pool.size

    @property
    def pool(self) -> Pool:
        """The worker processes."""
        return self._pool

    @property
    def model(self) -> ModelSource:
        """Description of the model of the workers."""
        return self._model

    @property
    def expected(self) -> Mapping[str, str] | None:
        """Properties of all workers (`Facts.kind`); None: workers may differ."""
        return self._expected

    @property
    def mixed(self) -> Sequence[Mapping[str, str]]:
        """Kinds of the workers (`Facts.kind`) if results may depend on which worker computes what; else empty."""
        return self._mixed

    def run_windows(
        self,
        scene: Scene,
        grid: Grid,
        segmenter: Segmenter,
        journal: Journal,
        report: Callable[[Progress], None],
        *,
        prompts: Path | str,
        batch_size: int,
        exhaustive: bool,
        keep: Callable[[Prompter], None] | None = None,
    ) -> None:
        """Compute the strips that are missing in the journal, and append them; see `inference.loop.run_windows`.

        Workers compute chunks of rows of windows. Their results arrive in any order, and are appended in order.

        Raises:
            ModelError: the model fails in the coarse pass, or always with the same error; see `Proof`.
            PoolError: the connection to the workers was lost.
        """
        begun, rows = journal.finished(), len(grid.row_offsets)
        if begun == rows:
            return
        given = None if prompts in ("auto", "none") else read_prompts(prompts, scene.grid)
        guides, first = guides_of(scene, segmenter, prompts), Mosaic.first_row_for(grid, begun)
        job = self._job(scene, grid, segmenter, journal.settings["settings"]["fingerprints"])
        job = replace(job, given=given, batch_size=batch_size, exhaustive=exhaustive)
        chunks = cut(grid, first, chunk_length(grid, rows - first, self.size))
        results = in_order(self._pool, _calls(job, chunks, guides), ahead=self.size + 1)
        recorder = _Recorder(scene, grid, JournalWriter(scene.path, journal, begun), report, len(chunks))
        with closing(results):
            for _ in guides.chunks:
                guides.add(next(results))
            if keep is not None and (prompter := guides.prompter(scene)) is not None:
                keep(prompter)
            for chunk, result in zip(chunks, results, strict=True):
                recorder.add(chunk, result, self.size)
        recorder.end()

    def _job(self, scene: Scene, grid: Grid, segmenter: Segmenter, files: Mapping[str, str | None]) -> Job:
        """Describe a run for the workers, with default values for the prompts, the batch size and `exhaustive`.

        `files` are the fingerprints of the files in the options.
        """
        return Job(
            key=uuid.uuid4().hex, source=scene.path.absolute(),
            options=absolute(scene.options), inputs=Inputs.of(scene, files), model=self._model,
            infrared=segmenter.infrared if isinstance(segmenter, WithInfrared) else None, grid=grid, batch_size=1,
            exhaustive=False, given=None, expected=self._expected,
        )  # fmt: skip


def _are_alike(pool: Pool, facts: Sequence[Facts]) -> bool:
    """Return True if the workers are of the kind of this process, and no worker of another kind can join later."""
    expected = {**facts[0].kind, **versions()}
    return pool.same_machine and all(one.kind == expected for one in facts)


def _calls(job: Job, chunks: list[Chunk], guides: Guides) -> Iterator[Call | None]:
    """Yield the calls of a run: the coarse pass, then the chunks. None: the guide of the next chunk is not complete.

    The first chunks are begun while the last chunks of the coarse pass are computed, so that no worker is idle.
    """
    for chunk in guides.chunks:
        yield Call(coarse_chunk, (job, chunk))
    for chunk in chunks:
        first, end = job.grid.row_offsets[chunk.first], job.grid.row_offsets[chunk.end - 1] + job.grid.shape_hw[0]
        while not guides.ready(first, end):
            yield None
        yield Call(segment_chunk, (job, chunk, guides.part(first, end)))


class _Recorder:
    """Joins the results of chunks, from the top of the scene, and adds them to the journal.

    Args:
        scene: the scene.
        grid: windows of the scene.
        writer: writer of strips and warnings.
        report: function that receives the progress after every chunk.
        chunks: number of chunks of the run.
    """

    def __init__(
        self, scene: Scene, grid: Grid, writer: JournalWriter, report: Callable[[Progress], None], chunks: int
    ) -> None:
        self._scene, self._grid, self._writer, self._report = scene, grid, writer, report
        self._chunks, self._done, self._above = chunks, 0, None

    _above: Sums | None

    def add(self, chunk: Chunk, result: ChunkResult | Lost, workers: int) -> None:
        """Add the result of the next chunk. `workers` is the number of workers now, for the progress."""
        if isinstance(result, Lost):
            result = _failed(self._scene, self._grid, chunk, result.why)
        columns, entries = len(self._grid.col_offsets), result.entries
        if self._above is not None:
            strip = joined(entries[0].strip, result.top, self._above)
            entries = [Entry(strip, entries[0].notes), *entries[1:]]
        for number, (row, entry) in enumerate(zip(chunk.rows, entries, strict=True)):
            for outcome in result.outcomes[number * columns : (number + 1) * columns]:
                self._writer.add(outcome)
            self._writer.append(row, entry)
        self._above = result.bottom
        self._done += 1
        windows, pixels = chunk.end * columns, pixels_done(self._grid, result.outcomes[-1].window)
        self._report(
            Progress(windows, len(self._grid), pixels, "segment", workers=workers, chunks_done=self._done,
                     chunks_total=self._chunks)
        )  # fmt: skip

    def end(self) -> None:
        """Finish after the last chunk; see `JournalWriter.end`."""
        self._writer.end()


def _failed(scene: Scene, grid: Grid, chunk: Chunk, why: str) -> ChunkResult:
    """Return the result of a chunk that ended several workers: every window failed.

    For `Proof`, which stops a run in which everything fails, the chunk counts as one failure of the model.
    """
    mosaic, entries, outcomes = Mosaic(grid, chunk.first), list[Entry](), list[Outcome]()
    for row in chunk.rows:
        failed: list[Any] = []
        for window in grid.row(row):
            strip = mosaic.add(window, None, scene.failed(window).reason)
            first = not outcomes
            outcomes.append(Outcome(window, why, reached=first, failure=Failure(why) if first else None))
            failed.append({"window": asdict(window), "why": why})
        if strip is not None:
            entries.append(Entry(strip, {**no_notes(), "failed": failed}))
    return ChunkResult(entries, outcomes, mosaic.top, mosaic.bottom)
