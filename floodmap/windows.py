"""Windows of a scene at work: read ahead, prompted, segmented, blended into strips, and these into the journal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from floodmap.ahead import ahead
from floodmap.errors import SceneError
from floodmap.grid import Grid, Window
from floodmap.journal import Entry, Journal
from floodmap.memory import give_back
from floodmap.parts import put, standing, unsure_parts
from floodmap.prompter import FarView, Prompter, Segmenter, make_prompter
from floodmap.prompts import Prompts
from floodmap.scene import Scene, Tile
from floodmap.stitch import Mosaic

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


Read = tuple[Tile, str]
"""A tile, and why it could not be read: nothing where it could."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was found of a window; pieces of it until it is blended, since many may be waiting."""

    window: Window
    reason: NDArray[np.uint8]
    """Why a pixel is unobserved, (height, width)."""
    pieces: Sequence[tuple[Window, NDArray[np.float32]]] = ()
    """Parts of it, in its own pixels, and their probabilities; one alone where the whole window was seen."""
    standing: NDArray[np.float32] | None = None
    """What a coarse pass said of it, at its own resolution, where that is to stand beside the parts."""

    def probability(self) -> NDArray[np.float32] | None:
        """(height, width); None where the window has none."""
        if self.standing is None:
            return self.pieces[0][1] if self.pieces else None
        whole = standing(self.standing, self.reason.shape)
        for part, probability in self.pieces:
            put(part, probability, whole)
        return whole


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
    """Compute the strips the journal does not hold; `exhaustive`: windows as a whole, whatever the coarse pass says."""
    begun, rows, columns = journal.finished(), len(grid.row_offsets), len(grid.col_offsets)
    if begun == rows:
        return
    first = Mosaic.first_row_for(grid, begun)
    mosaic = Mosaic(grid, first)
    prompter = make_prompter(scene, segmenter, prompts, exhaustive=exhaustive)
    give_back()  # windows of the coarse pass are of another size
    done = given_back = first * columns
    row, notes = first, _no_notes()
    windows = (window for number in range(first, rows) for window in grid.row(number))

    whole = exhaustive or not segmenter.any_size

    def ask(window: Window) -> Asked:
        settled = prompter.settles(window) if isinstance(prompter, FarView) and not whole else None
        if settled is not None:
            return Asked(window, np.broadcast_to(np.uint8(0), (window.height, window.width)), "", standing=settled)
        return asked(prompter, read(scene, window), exhaustive=whole)

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
                strip = mosaic.add(found.window, found.probability(), found.reason)
                done += 1
                pixels = top * grid.width + (end - top) * found.window.col_end
                report(Progress(done, len(grid), pixels, "segment"))
            if strip is None:
                continue
            if row >= begun:
                journal.append(row, Entry(strip, notes))
                notes = _no_notes()
            else:
                # A row of a finished strip, computed once more for the part that reaches below: it was counted
                # then, but what fails now is missing there.
                notes = {**_no_notes(), "failed": notes["failed"]}
            strip, row = None, row + 1
            if done - given_back >= _GIVE_BACK:
                give_back()
                given_back = done


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
    scene: Scene, grid: Grid, segmenter: Segmenter, prompter: Prompter, *, exhaustive: bool = True
) -> NDArray[np.uint8]:
    """Codes of a scene that fits into memory, (height, width), without a journal."""
    mosaic = Mosaic(grid)
    codes = np.empty((grid.height, grid.width), np.uint8)
    for window in grid:
        for found in predict(segmenter, [asked(prompter, read(scene, window), exhaustive=exhaustive)])[0]:
            if strip := mosaic.add(found.window, found.probability(), found.reason):
                codes[strip.row_off : strip.row_off + strip.height] = strip.codes
    return codes


def read(scene: Scene, window: Window) -> Read:
    """A tile; where it cannot be read, what stands for it, and the reason."""
    try:
        return scene.read(window), ""
    except SceneError as error:
        return scene.failed(window), str(error)


@dataclass(frozen=True, slots=True)
class Asked:
    """A window, and what is to be made of it; no more of its pixels than that takes, since many may be waiting."""

    window: Window
    reason: NDArray[np.uint8]
    """Why a pixel is unobserved, (height, width)."""
    why: str
    """Why the window could not be read: nothing where it could."""
    seen: tuple[tuple[Tile, Prompts], ...] = ()
    """What the model is to see, the window or parts of it, and what it is told."""
    standing: NDArray[np.float32] | None = None
    """What a coarse pass said of the window, at its own resolution, where that is to stand."""

    @property
    def pixels(self) -> int:
        """Pixels the model is to see."""
        return sum(tile.reason.size for tile, _ in self.seen)


def asked(prompter: Prompter, found: Read, *, exhaustive: bool = True) -> Asked:
    """Prompt a window; unless `exhaustive`, only parts of which a coarse pass is not sure are to be seen."""
    tile, why = found
    if not tile.reason.any():  # nothing is kept for each of many windows that wait
        tile = replace(tile, reason=np.broadcast_to(np.uint8(0), tile.reason.shape))
    if why or not tile.valid.any():
        return Asked(tile.window, tile.reason, why)
    prompts = prompter(tile)
    parts = None if exhaustive else unsure_parts(prompts, tile.reason.shape)
    if parts is None or prompts.mask is None:
        return Asked(tile.window, tile.reason, why, ((tile, prompts),))
    tiles = [tile.part(window) for window in parts]
    return Asked(tile.window, tile.reason, why, tuple((one, prompter(one)) for one in tiles), prompts.mask)


def predict(segmenter: Segmenter, batch: Sequence[Asked]) -> tuple[list[Found], dict[str, Any]]:
    """What is found of a batch, and notes of how many windows were run, skipped, foregone, and failed."""
    notes = _no_notes()
    results = iter(_attempt(segmenter, [pair for one in batch for pair in one.seen]))
    return [_found(one, list(islice(results, len(one.seen))), notes) for one in batch], notes


def _found(one: Asked, results: Sequence[NDArray[np.float32] | str], notes: dict[str, Any]) -> Found:
    """What there is of a window once the model has seen what it was to see, noted."""
    window = one.window
    parts = [tile.window.within(window) for tile, _ in one.seen]
    pieces = [(part, result) for part, result in zip(parts, results, strict=True) if not isinstance(result, str)]
    why = one.why or next((result for result in results if isinstance(result, str)), "")
    if why:
        log.warning("window at column %d, row %d failed and is unobserved: %s", window.col_off, window.row_off, why)
        notes["failed"].append({"window": asdict(window), "why": why})
        return Found(window, one.reason)
    notes["run" if one.seen else "skipped" if one.standing is None else "foregone"] += 1
    notes["pixels"] += one.pixels
    return Found(window, one.reason, pieces, one.standing)


def _attempt(segmenter: Segmenter, wanted: Sequence[tuple[Tile, Prompts]]) -> list[NDArray[np.float32] | str]:
    """Each tile's probabilities, or why it has none; a batch that fails is halved: memory may do for the halves."""
    if not wanted:
        return []
    try:
        probabilities = segmenter.predict(*zip(*wanted, strict=True))
    except (RuntimeError, MemoryError) as error:
        if len(wanted) == 1:
            return [str(error).splitlines()[0] if str(error) else type(error).__name__]
        middle = len(wanted) // 2
    else:
        return [one if np.isfinite(one).all() else "the model gave no number" for one in probabilities]
    # Outside the handler: the error's traceback holds on to the memory that ran out.
    return _attempt(segmenter, wanted[:middle]) + _attempt(segmenter, wanted[middle:])


def _no_notes() -> dict[str, Any]:
    return {"run": 0, "skipped": 0, "foregone": 0, "failed": [], "pixels": 0}
