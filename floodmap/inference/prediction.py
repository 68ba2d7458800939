"""Predictions of planned windows, and the handling of failures."""

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
from floodmap.inference.proof import NOT_FINITE, Failure
from floodmap.inference.selection import WindowPlan
from floodmap.models.prompts import Prompts
from floodmap.models.protocol import Segmenter


@dataclass(frozen=True, slots=True)
class WindowResult:
    """Prediction of a window, kept in pieces until it is blended, because many results may wait in a queue."""

    window: Window
    reason: NDArray[np.uint8]
    """Code of the reason why a pixel is unobserved, 0 where it is observed, (height, width)."""
    pieces: Sequence[tuple[Window, NDArray[np.float32]]] = ()
    """Parts in pixels of the window, with their probabilities, float32 (height, width), 0 to 1. A window that is
    predicted as a whole has a single part."""
    coarse: NDArray[np.float32] | None = None
    """Coarse probability, float32 (h, w) at the coarse resolution, 0 to 1, which is final outside the pieces. None if
    the window is predicted as a whole."""
    unread: str = ""
    """Error message of reading the window or a part of it; empty if all of it was read."""
    reached: bool = False
    """True if the window, or a part of it, was an input of the model."""
    failure: Failure | None = None
    """The model's error on the window or on a part of it; None if the model did not fail."""

    @property
    def why(self) -> str:
        """Error message of the model or of reading; empty if nothing failed."""
        return self.failure.why if self.failure else self.unread

    def probability(self) -> NDArray[np.float32] | None:
        """Return the probabilities of the whole window, float32 (height, width), 0 to 1; None if there are none."""
        if self.coarse is None:
            return self.pieces[0][1] if self.pieces else None
        whole = coarse_probability(self.coarse, self.reason.shape)
        for part, probability in self.pieces:
            blend_in(part, probability, whole)
        return whole


def predict(segmenter: Segmenter, batch: Sequence[WindowPlan]) -> tuple[list[WindowResult], dict[str, Any]]:
    """Predict a batch of windows.

    Returns:
        The results, in the order of the batch; and notes. The notes hold the number of windows that were run, skipped
        (no pixel is observed) and skipped_by_coarse (the coarse probability is final), the failed windows, and the
        number of predicted pixels.
    """
    predicted = iter(_attempt(segmenter, [view for plan in batch for view in plan.views]))
    results = [_result(plan, list(islice(predicted, len(plan.views)))) for plan in batch]
    return results, _notes(batch, results)


def no_notes() -> dict[str, Any]:
    """Return notes with all counts 0."""
    return {"run": 0, "skipped": 0, "skipped_by_coarse": 0, "failed": [], "pixels": 0}


def _result(plan: WindowPlan, predicted: Sequence[NDArray[np.float32] | Failure]) -> WindowResult:
    reached = bool(plan.views)
    for one in predicted:
        if isinstance(one, Failure):
            return WindowResult(plan.window, plan.reason, unread=plan.unread, reached=reached, failure=one)
    parts = [tile.window.within(plan.window) for tile, _ in plan.views]
    pieces = [(part, cast("NDArray[np.float32]", one)) for part, one in zip(parts, predicted, strict=True)]
    return WindowResult(plan.window, plan.reason, pieces, plan.coarse, unread=plan.unread, reached=reached)


def _notes(batch: Sequence[WindowPlan], results: Sequence[WindowResult]) -> dict[str, Any]:
    """Count the windows and list the failed windows; a window that was read only in part is listed and also counted."""
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
    """Return the probabilities or the failure of each tile.

    A batch that fails is halved, because each half may fit into memory.
    """
    if not views:
        return []
    try:
        probabilities = segmenter.predict(*zip(*views, strict=True))
    except (RuntimeError, MemoryError) as error:
        if len(views) == 1:
            return [Failure.of(error)]
        middle = len(views) // 2
    else:
        return [one if np.isfinite(one).all() else Failure(NOT_FINITE) for one in probabilities]
    # Outside the `except` block, because the error's traceback keeps references to the arrays that filled the memory.
    return _attempt(segmenter, views[:middle]) + _attempt(segmenter, views[middle:])
