"""Windows of a scene at work: read ahead, prompted, segmented, blended into strips, and these into the journal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from floodmap._runtime.memory import trim_heap
from floodmap._runtime.prefetch import ahead
from floodmap.imagery.scene import Scene
from floodmap.inference.mosaic import Mosaic
from floodmap.inference.prediction import WindowResult, no_notes, predict
from floodmap.inference.prompting import Prompter, make_prompter
from floodmap.inference.proof import Proof
from floodmap.inference.selection import Selection, WindowPlan
from floodmap.inference.tiling import Grid
from floodmap.models.protocol import Segmenter
from floodmap.strips.journal import Entry, Journal

log = logging.getLogger(__name__)


_WAITING = 4
"""Times as many windows as are seen at a time may be put together to be seen in part."""
_GIVE_BACK = 50
"""Windows after which memory that is free is handed back: which pages were ever touched grows for hours otherwise."""
_READERS = 3
"""Threads that read and prompt windows where the model leaves them cores: one is not as fast as a large GPU."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    windows_done: int
    windows_total: int
    pixels_done: int
    """Scene pixels, each counted once."""
    stage: str


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
) -> None:
    """Compute the strips the journal does not hold; `exhaustive`: windows as a whole, whatever the coarse pass says.

    Raises:
        ModelError: the model works nowhere (see `proof`); the journal is then as it was.
    """
    begun, rows, columns = journal.finished(), len(grid.row_offsets), len(grid.col_offsets)
    if begun == rows:
        return
    first = Mosaic.first_row_for(grid, begun)
    mosaic = Mosaic(grid, first)
    prompter = make_prompter(scene, segmenter, prompts, exhaustive=exhaustive)
    trim_heap()  # windows of the coarse pass are of another size
    done = given_back = first * columns
    row, notes, record = first, no_notes(), _Record(scene.path, journal)
    windows = (window for number in range(first, rows) for window in grid.row(number))
    selection = Selection(scene, prompter, exhaustive=exhaustive or not segmenter.any_size)
    with ExitStack() as stack:
        readers = _READERS if segmenter.offloads else 1
        plans = ahead(selection.plan, windows, count=batch_size + readers, threads=readers)
        todo = batches(stack.enter_context(closing(plans)), columns, batch_size)
        # The next batch is at work while this one is blended, and one more waits for whatever core that leaves idle.
        at_work = 3 if segmenter.offloads else 2  # a GPU has one more in store
        predicted = ahead(partial(predict, segmenter), todo, count=at_work, threads=at_work)
        stack.enter_context(closing(predicted))
        for results, noted in predicted:
            notes = {key: value + noted[key] for key, value in notes.items()}
            top, end = grid.strip(row)
            while results:  # each forgotten once it is blended
                found = results.pop(0)
                record.see(found)
                strip = mosaic.add(found.window, found.probability(), found.reason)
                done += 1
                pixels = top * grid.width + (end - top) * found.window.col_end
                report(Progress(done, len(grid), pixels, "segment"))
            if strip is None:
                continue
            if row >= begun:
                record.append(row, Entry(strip, notes))
                notes = no_notes()
            else:
                # A row of a finished strip, computed once more for the part that reaches below: it was counted
                # then, but what fails now is missing there.
                notes = {**no_notes(), "failed": notes["failed"]}
            strip, row = None, row + 1
            if done - given_back >= _GIVE_BACK:
                trim_heap()
                given_back = done
    record.end()


class _Record:
    """Writes down what becomes of windows: nothing of a model that may fail everywhere.

    While all windows that reached the model failed alike, strips and warnings are held back. They are few, or of ground
    that the model need not see, and small.
    """

    def __init__(self, path: object, journal: Journal) -> None:
        self._path, self._journal, self._proof = path, journal, Proof()
        self._strips: list[tuple[int, Entry]] = []
        self._failed: list[WindowResult] = []

    def see(self, found: WindowResult) -> None:
        """Take in a window, in their order."""
        if found.reached:
            self._proof.see(self._path, found.window, found.failure)
        if found.why:
            self._failed.append(found)
        self._write()

    def append(self, row: int, entry: Entry) -> None:
        """Take in a finished strip."""
        self._strips.append((row, entry))
        self._write()

    def end(self) -> None:
        """Nothing more comes."""
        self._proof.end()
        self._write()

    def _write(self) -> None:
        if self._proof.doubtful:
            return
        while self._failed:
            _warn(self._failed.pop(0))
        while self._strips:
            self._journal.append(*self._strips.pop(0))


def _warn(found: WindowResult) -> None:
    in_part = found.unread and (found.reached or found.coarse is not None) and not found.failure
    what = "could be read in part, and the rest is unobserved" if in_part else "failed and is unobserved"
    log.warning("window at column %d, row %d %s: %s", found.window.col_off, found.window.row_off, what, found.why)


def batches(windows: Iterable[WindowPlan], columns: int, size: int) -> Iterator[list[WindowPlan]]:
    """Windows of one row, with as much to be seen as in `size` of them, or a few times as many."""
    for _, row in groupby(enumerate(windows), lambda pair: pair[0] // columns):
        batch: list[WindowPlan] = []
        for _, one in row:
            if len(batch) == _WAITING * size or sum(other.pixels for other in (*batch, one)) > size * one.reason.size:
                yield batch
                batch = []
            batch.append(one)
        if batch:
            yield batch


def segment_whole(
    scene: Scene, grid: Grid, segmenter: Segmenter, prompter: Prompter, *, exhaustive: bool = True, proof: Proof
) -> NDArray[np.uint8]:
    """Codes of a scene that fits into memory, (height, width), without a journal.

    Args:
        proof: takes in the scene's windows; `end` it when no more scenes come.
    """
    mosaic, selection = Mosaic(grid), Selection(scene, prompter, exhaustive=exhaustive)
    codes = np.empty((grid.height, grid.width), np.uint8)
    for window in grid:
        for found in predict(segmenter, [selection.plan(window)])[0]:
            if found.reached:
                proof.see(scene.path, found.window, found.failure)
            if found.why:
                _warn(found)
            if strip := mosaic.add(found.window, found.probability(), found.reason):
                codes[strip.row_off : strip.row_off + strip.height] = strip.codes
    return codes
