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
class Outcome:
    """Success or failure of a window: the part of a `WindowResult` that is recorded and logged."""

    window: Window
    unread: str = ""
    """Error message if the window, or a part of the window, could not be read; otherwise empty."""
    reached: bool = False
    """True if the window, or a part of the window, was an input of the model."""
    failure: Failure | None = None
    """Error of the model on the window or on a part of the window; None if the model did not fail."""
    in_part: bool = False
    """True if only a part of the window could be read, and the model did not fail on this part."""

    @property
    def why(self) -> str:
        """Error message of the model, or else of reading the window; empty if nothing failed."""
        return self.failure.why if self.failure else self.unread


@dataclass(frozen=True, slots=True)
class WindowResult:
    """Prediction of a window, stored in pieces to save memory, because many results may wait in a queue."""

    window: Window
    reason: NDArray[np.uint8]
    """uint8 (height, width): code of the reason why a pixel is unobserved, 0 for observed pixels."""
    pieces: Sequence[tuple[Window, NDArray[np.float32]]] = ()
    """Parts of the window that the model predicted. Each part has a rectangle, in pixels of the window, and
    probabilities, float32 (part height, part width), 0 to 1. If the window was predicted as a whole, the only part is
    the whole window."""
    coarse: NDArray[np.float32] | None = None
    """Coarse probability, float32 (h, w) at the coarse resolution, 0 to 1. Outside the pieces, this probability is the
    result. None: the coarse probability is not used as a result."""
    unread: str = ""
    """Error message if the window, or a part of the window, could not be read; otherwise empty."""
    reached: bool = False
    """True if the window, or a part of the window, was an input of the model."""
    failure: Failure | None = None
    """Error of the model on the window or on a part of the window; None if the model did not fail."""

    @property
    def why(self) -> str:
        """Error message of the model, or else of reading the window; empty if nothing failed."""
        return self.failure.why if self.failure else self.unread

    @property
    def outcome(self) -> Outcome:
        """Success or failure of the window, without pixels."""
        in_part = bool(self.unread) and (self.reached or self.coarse is not None) and self.failure is None
        return Outcome(self.window, self.unread, self.reached, self.failure, in_part)

    def probability(self) -> NDArray[np.float32] | None:
        """Return the probabilities of the whole window, float32 (height, width), 0 to 1.

        The result is None if the model failed, or if no pixel of the window is observed.
        """
        if self.coarse is None:
            return self.pieces[0][1] if self.pieces else None
        whole = coarse_probability(self.coarse, self.reason.shape)
        for part, probability in self.pieces:
            blend_in(part, probability, whole)
        return whole


def predict(segmenter: Segmenter, batch: Sequence[WindowPlan]) -> tuple[list[WindowResult], dict[str, Any]]:
    """Predict a batch of windows.

    Args:
        segmenter: the model.
        batch: plans of the windows.

    Returns:
        A pair. The first value is the list of results, in the order of the batch. The second value is a dictionary with
        the notes on the batch, for the JSON report:

        - `run`: number of windows of which the model predicted all pixels, or parts.
        - `skipped`: number of windows without an observed pixel.
        - `skipped_by_coarse`: number of windows in which the coarse probability is the result for every pixel.
        - `pixels`: number of pixels that the model predicted.
        - `failed`: list with a dictionary for each failed window. `window` is the rectangle in pixels of the scene, a
          dictionary with the keys `row_off`, `col_off`, `height` and `width`. `why` is the error message.
    """
    predicted = iter(_attempt(segmenter, [view for plan in batch for view in plan.views]))
    results = [_result(plan, list(islice(predicted, len(plan.views)))) for plan in batch]
    return results, _notes(batch, results)


def no_notes() -> dict[str, Any]:
    """Return the notes on an empty batch, with all numbers 0; for the keys see `predict`."""
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
    """Return the notes on a batch; for the keys see `predict`.

    A window that could be read only in part is in the list `failed`, and also counts in `run` or `skipped_by_coarse`.
    """
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
    """Predict tiles; return for each tile the probabilities, float32 (height, width), or the failure of the model.

    If a batch fails, the halves of the batch are predicted one after the other, because each half may fit into memory.
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
