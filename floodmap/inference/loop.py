"""The loop over the windows of a scene: windows are read and predicted, and blended to strips for the journal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from floodmap._runtime.memory import trim_heap
from floodmap._runtime.prefetch import ahead
from floodmap.geo.window import Window
from floodmap.imagery.scene import Scene
from floodmap.inference.mosaic import Mosaic
from floodmap.inference.prediction import Outcome, no_notes, predict
from floodmap.inference.prompting import Prompter, make_prompter
from floodmap.inference.proof import Proof
from floodmap.inference.selection import Selection, WindowPlan
from floodmap.inference.tiling import Grid
from floodmap.models.protocol import Segmenter
from floodmap.strips.journal import Entry, Journal

log = logging.getLogger(__name__)


_MAX_BATCH_FACTOR = 4
"""Largest number of windows in a batch, as a multiple of the batch size. A batch has more windows than the batch size
only if the model predicts parts of some windows."""
_TRIM_EVERY = 50
"""Number of windows between two calls of `trim_heap`. Without these calls the resident memory grows for hours."""
_READERS = 3
"""Number of threads that read windows and build prompts if the model runs on a device other than the CPU: a single
thread is too slow for a large GPU."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a run."""

    windows_done: int
    """Number of finished windows, including windows of an interrupted run that is resumed."""
    windows_total: int
    """Number of windows of the scene."""
    pixels_done: int
    """Number of finished scene pixels; a pixel in several windows is counted once."""
    stage: str
    """"segment" while windows are computed, "write" while results are written."""
    workers: int = 0
    """Number of workers that compute windows; 0: this process computes them."""
    chunks_done: int = 0
    """Number of finished chunks of rows of windows; 0 without workers."""
    chunks_total: int = 0
    """Number of chunks of this run; 0 without workers."""


class WindowRunner(Protocol):
    """Worker processes that compute the windows of a scene in place of `run_windows`."""

    @property
    def size(self) -> int:
        """Number of workers."""
        ...

    @property
    def mixed(self) -> Sequence[Mapping[str, str]]:
        """Kinds of the workers if results may depend on which worker computes what; else empty."""
        ...

    @property
    def run_windows(self) -> Callable[..., None]:
        """Function with the arguments and the effect of `run_windows`."""
        ...


def run_windows(
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
    """Compute the strips that are missing in the journal, and append these strips to the journal.

    Args:
        scene: the scene.
        grid: the windows of the scene.
        segmenter: the model.
        journal: journal with the strips that are finished already, from the top of the scene.
        report: function that receives the progress after every window.
        prompts: `auto`, `none`, or a vector file of points and boxes; see `make_prompter`.
        batch_size: size of a batch in whole windows; see `batches`.
        exhaustive: True: predict every window as a whole. False: if the model accepts crops of any size, predict only
            the parts of a window in which the coarse pass is uncertain.
        keep: function that receives the prompter of the scene, for later corrections; it is not called if no strip is
            missing.

    Raises:
        ModelError: the model fails in the coarse pass; or it fails on the first four windows that it predicts (on all,
            if there are fewer), always with the same error, and not for lack of memory (see the class `Proof`). The
            journal is then unchanged.
    """
    begun, rows = journal.finished(), len(grid.row_offsets)
    if begun == rows:
        return
    first = Mosaic.first_row_for(grid, begun)
    mosaic = Mosaic(grid, first)
    prompter = make_prompter(scene, segmenter, prompts, exhaustive=exhaustive)
    if keep is not None:
        keep(prompter)
    trim_heap()  # the memory of the coarse pass is freed, because its windows have another size
    selection = Selection(scene, prompter, exhaustive=exhaustive or not segmenter.any_size)
    writer, done = JournalWriter(scene.path, journal, begun), first * len(grid.col_offsets)

    def add(outcome: Outcome) -> None:
        nonlocal done
        writer.add(outcome)
        done += 1
        report(Progress(done, len(grid), pixels_done(grid, outcome.window), "segment"))

    entries = compute_rows(segmenter, selection, mosaic, range(first, rows), batch_size=batch_size, add=add)
    with closing(entries):
        for row, entry in enumerate(entries, first):
            writer.append(row, entry)
    writer.end()


def pixels_done(grid: Grid, window: Window) -> int:
    """Return the number of scene pixels in all windows up to a window, which is the last that is done."""
    top, end = grid.strip(grid.row_offsets.index(window.row_off))
    return top * grid.width + (end - top) * window.col_end


def compute_rows(
    segmenter: Segmenter,
    selection: Selection,
    mosaic: Mosaic,
    rows: range,
    *,
    batch_size: int,
    add: Callable[[Outcome], None],
) -> Generator[Entry, None, None]:
    """Compute some rows of windows. Close the generator before the scene is closed.

    Args:
        segmenter: the model.
        selection: planner for the windows of the scene.
        mosaic: mosaic of the scene, which begins with the first of the rows.
        rows: indices of the rows of windows.
        batch_size: size of a batch in whole windows; see `batches`.
        add: function that receives the outcome of every window, in the order of the windows.

    Yields:
        The strip of each row of windows, from the top, with the notes on the windows of the row.
    """
    windows = (window for row in rows for window in mosaic.grid.row(row))
    notes, since_trim = no_notes(), 0
    with ExitStack() as stack:
        readers = _READERS if segmenter.offloads else 1
        plans = ahead(selection.plan, windows, count=batch_size + readers, threads=readers)
        todo = batches(stack.enter_context(closing(plans)), len(mosaic.grid.col_offsets), batch_size)
        # Two batches are computed while one is blended, so that no core is idle. A GPU has a third batch in its queue.
        in_flight = 3 if segmenter.offloads else 2
        predicted = ahead(partial(predict, segmenter), todo, count=in_flight, threads=in_flight)
        stack.enter_context(closing(predicted))
        for results, batch_notes in predicted:
            notes = {key: value + batch_notes[key] for key, value in notes.items()}
            strip = None
            since_trim += len(results)
            while results:  # `pop` frees each result once it is blended
                result = results.pop(0)
                add(result.outcome)
                strip = mosaic.add(result.window, result.probability(), result.reason)
            if strip is None:
                continue
            yield Entry(strip, notes)
            notes, strip = no_notes(), None
            if since_trim >= _TRIM_EVERY:
                trim_heap()
                since_trim = 0


class JournalWriter:
    """Writer of strips to the journal and of warnings to the log.

    If the model has failed on every window so far, always with the same error, strips and warnings are kept in memory.
    They are written when the model first works on a window, or fails with another error (see `Proof.all_failed`). If
    they were written at once, a resumed run would begin with the failures of a broken model.

    These strips need little memory. At most three windows have failed, because `Proof` stops the run at the fourth
    failure. All other windows of these strips need no prediction by the model (for example, all pixels are nodata), and
    their compressed codes are small.

    Args:
        path: path of the scene, for messages.
        journal: the journal.
        begun: number of strips that are in the journal already.
    """

    def __init__(self, path: object, journal: Journal, begun: int) -> None:
        self._path, self._journal, self._begun, self._proof = path, journal, begun, Proof()
        self._strips: list[tuple[int, Entry]] = []
        self._failed: list[Outcome] = []
        self._earlier: list[Any] = []
        """Failed windows of the rows of windows whose strips are in the journal already."""

    def add(self, outcome: Outcome) -> None:
        """Add the outcome of the next window, in the order of the windows.

        Raises:
            ModelError: the first windows all failed with the same error; see `Proof.add`.
        """
        if outcome.reached:
            self._proof.add(self._path, outcome.window, outcome.failure)
        if outcome.why:
            self._failed.append(outcome)
        self._write()

    def append(self, row: int, entry: Entry) -> None:
        """Add a finished strip with the notes on its windows. `row` is the index of the strip, from the top.

        A strip that is in the journal already is not written again: its windows were computed again for the rows below
        it. The earlier run counted these windows. Only failures are kept, because they affect the next strip.
        """
        if row < self._begun:
            self._earlier += entry.notes["failed"]
            return
        notes = {**entry.notes, "failed": [*self._earlier, *entry.notes["failed"]]}
        self._earlier = []
        self._strips.append((row, Entry(entry.strip, notes)))
        self._write()

    def end(self) -> None:
        """Write the strips and warnings that are still in memory, after the last strip.

        Raises:
            ModelError: the model failed on every window.
        """
        self._proof.end()
        self._write()

    def _write(self) -> None:
        if self._proof.all_failed:
            return
        while self._failed:
            _warn(self._failed.pop(0))
        while self._strips:
            self._journal.append(*self._strips.pop(0))


def _warn(outcome: Outcome) -> None:
    what = "could be read in part, and the rest is unobserved" if outcome.in_part else "failed and is unobserved"
    log.warning("window at column %d, row %d %s: %s", outcome.window.col_off, outcome.window.row_off, what, outcome.why)


def batches(windows: Iterable[WindowPlan], columns: int, size: int) -> Iterator[list[WindowPlan]]:
    """Group the plans of windows into batches. All windows of a batch are in one row of windows.

    Args:
        windows: plans of all windows, row by row.
        columns: number of windows in a row.
        size: batch size. The model predicts at most as many pixels in a batch as `size` whole windows have. The number
            of plans in a batch is at most `_MAX_BATCH_FACTOR` times `size`.

    Yields:
        Batches of 1 plan or more, in the order of the windows.
    """
    for _, row in groupby(enumerate(windows), lambda pair: pair[0] // columns):
        batch: list[WindowPlan] = []
        for _, plan in row:
            pixels = sum(other.pixels for other in (*batch, plan))
            if len(batch) == _MAX_BATCH_FACTOR * size or pixels > size * plan.reason.size:
                yield batch
                batch = []
            batch.append(plan)
        if batch:
            yield batch


def segment_whole(
    scene: Scene, grid: Grid, segmenter: Segmenter, prompter: Prompter, *, exhaustive: bool = True, proof: Proof
) -> NDArray[np.uint8]:
    """Segment a scene that fits into memory, without a journal.

    Args:
        scene: the scene.
        grid: the windows of the scene.
        segmenter: the model.
        prompter: function that builds the prompts of each window.
        exhaustive: True: predict every window as a whole. False: predict only the parts of a window in which the coarse
            pass is uncertain.
        proof: record to which the success or failure of each window is added. The caller calls `Proof.end` after the
            last scene.

    Returns:
        Codes, uint8 (height, width).

    Raises:
        ModelError: the first windows all failed with the same error; see `Proof.add`.
    """
    mosaic, selection = Mosaic(grid), Selection(scene, prompter, exhaustive=exhaustive)
    codes = np.empty((grid.height, grid.width), np.uint8)
    for window in grid:
        for result in predict(segmenter, [selection.plan(window)])[0]:
            if result.reached:
                proof.add(scene.path, result.window, result.failure)
            if result.why:
                _warn(result.outcome)
            if strip := mosaic.add(result.window, result.probability(), result.reason):
                codes[strip.row_off : strip.row_off + strip.height] = strip.codes
    return codes
