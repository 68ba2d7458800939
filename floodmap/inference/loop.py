"""Windows of a scene at work: read ahead, prompted, segmented, blended into strips, and these into the journal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from floodmap._runtime.memory import give_back
from floodmap._runtime.prefetch import ahead
from floodmap.geo.window import Window
from floodmap.imagery.scene import Scene
from floodmap.imagery.tile import Tile
from floodmap.inference.mosaic import Mosaic
from floodmap.inference.prompting import FarView, Prompter, make_prompter
from floodmap.inference.proof import NO_NUMBER, Failure, Proof
from floodmap.inference.requests import Asked, Found, asked, read
from floodmap.inference.tiling import Grid
from floodmap.models.prompts import Prompts
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
    give_back()  # windows of the coarse pass are of another size
    done = given_back = first * columns
    row, notes, record = first, _no_notes(), _Record(scene.path, journal)
    windows = (window for number in range(first, rows) for window in grid.row(number))
    ask = partial(_ask, scene, prompter, whole=exhaustive or not segmenter.any_size)
    with ExitStack() as stack:
        readers = _READERS if segmenter.offloads else 1
        told = stack.enter_context(closing(ahead(ask, windows, count=batch_size + readers, threads=readers)))
        todo = batches(told, columns, batch_size)
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
                notes = _no_notes()
            else:
                # A row of a finished strip, computed once more for the part that reaches below: it was counted
                # then, but what fails now is missing there.
                notes = {**_no_notes(), "failed": notes["failed"]}
            strip, row = None, row + 1
            if done - given_back >= _GIVE_BACK:
                give_back()
                given_back = done
    record.end()


def _ask(scene: Scene, prompter: Prompter, window: Window, *, whole: bool) -> Asked:
    """A window, read and prompted unless the coarse pass settles it; `whole`: none is settled or seen in part."""
    settled = prompter.settles(window) if isinstance(prompter, FarView) and not whole else None
    if settled is not None:
        return Asked(window, np.broadcast_to(np.uint8(0), (window.height, window.width)), "", standing=settled)
    return asked(prompter, read(scene, window), exhaustive=whole)


class _Record:
    """Writes down what becomes of windows: nothing of a model that may fail everywhere.

    While all windows that reached the model failed alike, strips and warnings are held back. They are few, or of ground
    that the model need not see, and small.
    """

    def __init__(self, path: object, journal: Journal) -> None:
        self._path, self._journal, self._proof = path, journal, Proof()
        self._strips: list[tuple[int, Entry]] = []
        self._failed: list[Found] = []

    def see(self, found: Found) -> None:
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


def _warn(found: Found) -> None:
    in_part = found.unread and (found.reached or found.standing is not None) and not found.failure
    what = "could be read in part, and the rest is unobserved" if in_part else "failed and is unobserved"
    log.warning("window at column %d, row %d %s: %s", found.window.col_off, found.window.row_off, what, found.why)


def batches(windows: Iterable[Asked], columns: int, size: int) -> Iterator[list[Asked]]:
    """Windows of one row, with as much to be seen as in `size` of them, or a few times as many."""
    for _, row in groupby(enumerate(windows), lambda pair: pair[0] // columns):
        batch: list[Asked] = []
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
    mosaic = Mosaic(grid)
    codes = np.empty((grid.height, grid.width), np.uint8)
    for window in grid:
        for found in predict(segmenter, [asked(prompter, read(scene, window), exhaustive=exhaustive)])[0]:
            if found.reached:
                proof.see(scene.path, found.window, found.failure)
            if found.why:
                _warn(found)
            if strip := mosaic.add(found.window, found.probability(), found.reason):
                codes[strip.row_off : strip.row_off + strip.height] = strip.codes
    return codes


def predict(segmenter: Segmenter, batch: Sequence[Asked]) -> tuple[list[Found], dict[str, Any]]:
    """What is found of a batch, and notes of how many windows were run, skipped, foregone, and failed."""
    results = iter(_attempt(segmenter, [pair for one in batch for pair in one.seen]))
    found = [_found(one, list(islice(results, len(one.seen)))) for one in batch]
    return found, _noted(batch, found)


def _found(one: Asked, results: Sequence[NDArray[np.float32] | Failure]) -> Found:
    """What there is of a window once the model has seen what it was to see."""
    reached = bool(one.seen)
    for result in results:
        if isinstance(result, Failure):
            return Found(one.window, one.reason, unread=one.unread, reached=reached, failure=result)
    parts = [tile.window.within(one.window) for tile, _ in one.seen]
    pieces = [(part, cast("NDArray[np.float32]", result)) for part, result in zip(parts, results, strict=True)]
    return Found(one.window, one.reason, pieces, one.standing, unread=one.unread, reached=reached)


def _noted(batch: Sequence[Asked], found: Sequence[Found]) -> dict[str, Any]:
    """Counts of windows, and those that failed, in whole or in part: the latter are among those run, too."""
    notes = _no_notes()
    for one, its in zip(batch, found, strict=True):
        if its.why:
            notes["failed"].append({"window": asdict(one.window), "why": its.why})
        if its.failure or (its.unread and not its.reached and its.standing is None):
            continue
        notes["run" if its.reached else "skipped" if its.standing is None else "foregone"] += 1
        notes["pixels"] += one.pixels
    return notes


def _attempt(segmenter: Segmenter, wanted: Sequence[tuple[Tile, Prompts]]) -> list[NDArray[np.float32] | Failure]:
    """Each tile's probabilities, or why it has none; a batch that fails is halved: memory may do for the halves."""
    if not wanted:
        return []
    try:
        probabilities = segmenter.predict(*zip(*wanted, strict=True))
    except (RuntimeError, MemoryError) as error:
        if len(wanted) == 1:
            return [Failure.of(error)]
        middle = len(wanted) // 2
    else:
        return [one if np.isfinite(one).all() else Failure(NO_NUMBER) for one in probabilities]
    # Outside the handler: the error's traceback holds on to the memory that ran out.
    return _attempt(segmenter, wanted[:middle]) + _attempt(segmenter, wanted[middle:])


def _no_notes() -> dict[str, Any]:
    return {"run": 0, "skipped": 0, "foregone": 0, "failed": [], "pixels": 0}
