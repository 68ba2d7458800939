"""Windows of a scene at work: read ahead, prompted, segmented, blended into strips, and these into the journal."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
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
    done = first * columns
    windows = (window for row in range(first, rows) for window in grid.row(row))
    sizes = [min(batch_size, columns - start) for start in range(0, columns, batch_size)]
    with closing(ahead(partial(read, scene), windows)) as tiles:
        batches = (list(islice(tiles, size)) for _ in range(first, rows) for size in sizes)
        work = partial(predict, segmenter, prompter, exhaustive=exhaustive)
        # The next batch is at work while this one is blended.
        with closing(ahead(work, batches, count=1)) as predicted:
            notes = _no_notes()
            for row in range(first, rows):
                top, end = grid.strip(row)
                for results, noted in islice(predicted, len(sizes)):
                    notes = {key: value + noted[key] for key, value in notes.items()}
                    for window, probability, reason in results:
                        strip = mosaic.add(window, probability, reason)
                        done += 1
                        pixels = top * grid.width + (end - top) * window.col_end
                        report(Progress(done, len(grid), pixels, "segment"))
                if strip is not None and row >= begun:
                    journal.append(row, Entry(strip, notes))
                    strip, notes = None, _no_notes()
                    give_back()
                else:
                    # A row of a finished strip, computed once more for the part that reaches below: it was counted
                    # then, but what fails now is missing there.
                    notes = {**_no_notes(), "failed": notes["failed"]}


def segment_whole(scene: Scene, grid: Grid, segmenter: Segmenter, prompter: Prompter) -> NDArray[np.uint8]:
    """Codes of a scene that fits into memory, (height, width), without a journal."""
    mosaic = Mosaic(grid)
    codes = np.empty((grid.height, grid.width), np.uint8)
    for window in grid:
        for result in predict(segmenter, prompter, [read(scene, window)])[0]:
            if strip := mosaic.add(*result):
                codes[strip.row_off : strip.row_off + strip.height] = strip.codes
    return codes


def read(scene: Scene, window: Window) -> Read:
    """A tile; where it cannot be read, what stands for it, and the reason."""
    try:
        return scene.read(window), ""
    except SceneError as error:
        return scene.failed(window), str(error)


def predict(
    segmenter: Segmenter, prompter: Prompter, batch: Sequence[Read], *, exhaustive: bool = True
) -> tuple[list[Predicted], dict[str, Any]]:
    """Probabilities of a batch, and notes: windows without any observed pixel are skipped, those that fail are noted.

    Unless `exhaustive`, a window of which a coarse pass is sure is not run: what that said stands.
    """
    notes = _no_notes()
    wanted = [(tile, prompter(tile)) for tile, why in batch if not why and tile.valid.any()]
    standing = [None if exhaustive else foregone(prompt, tile.reason.shape) for tile, prompt in wanted]
    results = iter(_attempt(segmenter, [pair for pair, one in zip(wanted, standing, strict=True) if one is None]))
    known = iter(standing)
    return [_result(tile, why, known, results, notes) for tile, why in batch], notes


def _result(
    tile: Tile,
    why: str,
    standing: Iterator[NDArray[np.float32] | None],
    results: Iterator[NDArray[np.float32] | str],
    notes: dict[str, Any],
) -> Predicted:
    """What there is of the next tile of a batch, noted."""
    if not why and not tile.valid.any():
        notes["skipped"] += 1
        return tile.window, None, tile.reason
    if not why and (stands := next(standing)) is not None:
        notes["foregone"] += 1
        return tile.window, stands, tile.reason
    result = why or next(results)
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
