"""Windows of a scene at work: read ahead, prompted, segmented, blended into strips, and these into the journal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from floodmap.ahead import ahead
from floodmap.errors import SceneError
from floodmap.grid import Grid, Window
from floodmap.journal import Entry, Journal
from floodmap.memory import give_back
from floodmap.prompter import Prompter, Segmenter, make_prompter
from floodmap.prompts import Prompts
from floodmap.scene import Scene, Tile
from floodmap.stitch import Mosaic

log = logging.getLogger(__name__)


DRY, FLOOD = 0.03, 0.98
"""A window is not run where the coarse pass gives less, or more, than this everywhere in it."""


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
Predicted = tuple[Window, NDArray[np.float32] | None, NDArray[np.uint8]]
"""A window, its probabilities if there are any, and the reasons of its unobserved pixels."""


def run_windows(
    scene: Scene,
    grid: Grid,
    segmenter: Segmenter,
    journal: Journal,
    report: Callable[[Progress], None],
    *,
    prompts: Path | Literal["auto", "none"],
    batch_size: int,
    exhaustive: bool,
) -> None:
    """Compute the strips the journal does not hold; `exhaustive`: whatever the coarse pass says of a window."""
    begun, rows, columns = journal.finished(), len(grid.row_offsets), len(grid.col_offsets)
    if begun == rows:
        return
    first = Mosaic.first_row_for(grid, begun)
    mosaic = Mosaic(grid, first)
    prompter = make_prompter(scene, segmenter, prompts)
    give_back()  # windows of the coarse pass are of another size
    done, row, notes = first * columns, first, _no_notes()
    windows = (window for number in range(first, rows) for window in grid.row(number))
    ask = partial(asked, prompter, exhaustive=exhaustive)
    with ExitStack() as stack:
        tiles = stack.enter_context(closing(ahead(partial(read, scene), windows)))
        todo = batches(map(ask, tiles), columns, batch_size)
        # The next batch is at work while this one is blended.
        predicted = stack.enter_context(closing(ahead(partial(predict, segmenter), todo, count=1)))
        for results, noted in predicted:
            notes = {key: value + noted[key] for key, value in notes.items()}
            top, end = grid.strip(row)
            for window, probability, reason in results:
                strip = mosaic.add(window, probability, reason)
                done += 1
                pixels = top * grid.width + (end - top) * window.col_end
                report(Progress(done, len(grid), pixels, "segment"))
            if strip is None:
                continue
            if row >= begun:
                journal.append(row, Entry(strip, notes))
                notes = _no_notes()
                give_back()
            else:
                # A row of a finished strip, computed once more for the part that reaches below: it was counted
                # then, but what fails now is missing there.
                notes = {**_no_notes(), "failed": notes["failed"]}
            strip, row = None, row + 1


def batches(windows: Iterable[Asked], columns: int, size: int) -> Iterator[list[Asked]]:
    """Windows of one row, as many as hold `size` that are to be run, but not so many that they take much memory."""
    for _, row in groupby(enumerate(windows), lambda pair: pair[0] // columns):
        batch: list[Asked] = []
        for _, one in row:
            batch.append(one)
            if sum(other.runs for other in batch) == size or len(batch) == 4 * size:
                yield batch
                batch = []
        if batch:
            yield batch


def segment_whole(scene: Scene, grid: Grid, segmenter: Segmenter, prompter: Prompter) -> NDArray[np.uint8]:
    """Codes of a scene that fits into memory, (height, width), without a journal."""
    mosaic = Mosaic(grid)
    codes = np.empty((grid.height, grid.width), np.uint8)
    for window in grid:
        for result in predict(segmenter, [asked(prompter, read(scene, window))])[0]:
            if strip := mosaic.add(*result):
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
    """A window, and what is to be made of it."""

    tile: Tile
    why: str
    """Why it could not be read: nothing where it could."""
    prompts: Prompts
    """What the model is told."""
    runs: bool
    """Whether it sees the window at all."""
    standing: NDArray[np.float32] | None = None
    """What a coarse pass said of it, (height, width), where that is to stand."""


def asked(prompter: Prompter, found: Read, *, exhaustive: bool = True) -> Asked:
    """Prompt a window; unless `exhaustive`, one of which a coarse pass is sure is not run: what that said stands."""
    tile, why = found
    if why or not tile.valid.any():
        return Asked(tile, why, Prompts.none(), runs=False)
    prompts = prompter(tile)
    standing = None if exhaustive else foregone(prompts, tile.reason.shape)
    return Asked(tile, why, prompts, standing is None, standing)


def predict(segmenter: Segmenter, batch: Sequence[Asked]) -> tuple[list[Predicted], dict[str, Any]]:
    """Probabilities of a batch, and notes of how many windows were run, skipped, foregone, and failed."""
    notes = _no_notes()
    results = iter(_attempt(segmenter, [(one.tile, one.prompts) for one in batch if one.runs]))
    return [_result(one, results, notes) for one in batch], notes


def _result(one: Asked, results: Iterator[NDArray[np.float32] | str], notes: dict[str, Any]) -> Predicted:
    """What there is of the next tile of a batch, noted."""
    tile = one.tile
    if one.standing is not None:
        notes["foregone"] += 1
        return tile.window, one.standing, tile.reason
    if not one.why and not one.runs:
        notes["skipped"] += 1
        return tile.window, None, tile.reason
    result = one.why or next(results)
    if isinstance(result, str):
        at = (tile.window.col_off, tile.window.row_off)
        log.warning("window at column %d, row %d failed and is unobserved: %s", *at, result)
        notes["failed"].append({"window": asdict(tile.window), "why": result})
        return tile.window, None, tile.reason
    notes["run"] += 1
    notes["pixels"] += result.size
    return tile.window, result, tile.reason


def foregone(prompt: Prompts, shape_hw: tuple[int, int]) -> NDArray[np.float32] | None:
    """Probabilities of a window, (height, width), that a coarse pass is sure of everywhere; None if it is not.

    A person's points and boxes are always heard.
    """
    mask = prompt.mask
    if mask is None or prompt.bounded or len(prompt.points_xy) or (mask.max() >= DRY and mask.min() <= FLOOD):
        return None
    rows, cols = (np.arange(n) * m // n for n, m in zip(shape_hw, mask.shape, strict=True))
    return mask[np.ix_(rows, cols)]


def _attempt(segmenter: Segmenter, wanted: Sequence[tuple[Tile, Prompts]]) -> list[NDArray[np.float32] | str]:
    """Each tile's probabilities, or why it has none; a batch that fails is halved: memory may do for the halves."""
    if not wanted:
        return []
    try:
        probabilities = segmenter.predict([tile for tile, _ in wanted], [prompt for _, prompt in wanted])
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
