"""Predictions of planned windows, and what becomes of those that fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from floodmap.geo.window import Window
from floodmap.imagery.tile import Tile
from floodmap.inference.parts import blend_in, coarse_probability
from floodmap.inference.proof import NO_NUMBER, Failure
from floodmap.inference.selection import WindowPlan
from floodmap.models.prompts import Prompts
from floodmap.models.protocol import Segmenter


@dataclass(frozen=True, slots=True)
class WindowResult:
    """What was found of a window; in pieces until it is blended, since many results may be waiting."""

    window: Window
    reason: NDArray[np.uint8]
    """Why a pixel is unobserved, (height, width)."""
    pieces: Sequence[tuple[Window, NDArray[np.float32]]] = ()
    """Parts of it, in its own pixels, and their probabilities; one alone where the whole window was seen."""
    coarse: NDArray[np.float32] | None = None
    """Probabilities of the coarse pass, at its own resolution, where they are final beside the pieces."""
    unread: str = ""
    """Why it, or a part of it, could not be read: empty where it could."""
    reached: bool = False
    """Whether the model saw any of it."""
    failure: Failure | None = None
    """Why the model gave nothing for it, or for a part of it."""

    @property
    def why(self) -> str:
        """What failed: empty where nothing did."""
        return self.failure.why if self.failure else self.unread

    def probability(self) -> NDArray[np.float32] | None:
        """(height, width); None where the window has none."""
        if self.coarse is None:
            return self.pieces[0][1] if self.pieces else None
        whole = coarse_probability(self.coarse, self.reason.shape)
        for part, probability in self.pieces:
            blend_in(part, probability, whole)
        return whole


def predict(segmenter: Segmenter, batch: Sequence[WindowPlan]) -> tuple[list[WindowResult], dict[str, Any]]:
    """Results of a batch, and notes of how many windows were run, skipped, skipped_by_coarse, and failed."""
    predicted = iter(_attempt(segmenter, [view for plan in batch for view in plan.views]))
    results = [_result(plan, list(islice(predicted, len(plan.views)))) for plan in batch]
    return results, _noted(batch, results)


def no_notes() -> dict[str, Any]:
    """Notes of no window."""
    return {"run": 0, "skipped": 0, "skipped_by_coarse": 0, "failed": [], "pixels": 0}


def _result(plan: WindowPlan, predicted: Sequence[NDArray[np.float32] | Failure]) -> WindowResult:
    reached = bool(plan.views)
    for one in predicted:
        if isinstance(one, Failure):
            return WindowResult(plan.window, plan.reason, unread=plan.unread, reached=reached, failure=one)
    parts = [tile.window.within(plan.window) for tile, _ in plan.views]
    pieces = [(part, cast("NDArray[np.float32]", one)) for part, one in zip(parts, predicted, strict=True)]
    return WindowResult(plan.window, plan.reason, pieces, plan.coarse, unread=plan.unread, reached=reached)


def _noted(batch: Sequence[WindowPlan], results: Sequence[WindowResult]) -> dict[str, Any]:
    """Counts of windows, and those that failed, in whole or in part: the latter are among those run, too."""
    notes = no_notes()
    for plan, result in zip(batch, results, strict=True):
        if result.why:
            notes["failed"].append({"window": asdict(plan.window), "why": result.why})
        if result.failure or (result.unread and not result.reached and result.coarse is None):
            continue
        notes["run" if result.reached else "skipped" if result.coarse is None else "skipped_by_coarse"] += 1
        notes["pixels"] += plan.pixels
    return notes


def _attempt(segmenter: Segmenter, views: Sequence[tuple[Tile, Prompts]]) -> list[NDArray[np.float32] | Failure]:
    """Each tile's probabilities, or why it has none; a batch that fails is halved: memory may do for the halves."""
    if not views:
        return []
    try:
        probabilities = segmenter.predict(*zip(*views, strict=True))
    except (RuntimeError, MemoryError) as error:
        if len(views) == 1:
            return [Failure.of(error)]
        middle = len(views) // 2
    else:
        return [one if np.isfinite(one).all() else Failure(NO_NUMBER) for one in probabilities]
    # Outside the handler: the error's traceback holds on to the memory that ran out.
    return _attempt(segmenter, views[:middle]) + _attempt(segmenter, views[middle:])
