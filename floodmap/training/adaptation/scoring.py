"""Scores of a model on corrections, through the pipeline of `segment`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from floodmap.errors import SceneError
from floodmap.geo.window import Window
from floodmap.imagery.scene import Scene
from floodmap.inference.prediction import predict
from floodmap.inference.prompting import Prompter
from floodmap.inference.selection import Selection
from floodmap.inference.tiling import Grid
from floodmap.models.calibration import Histogram
from floodmap.models.infrared import with_infrared
from floodmap.models.protocol import Segmenter
from floodmap.strips.codes import FIRST_REASON, THRESHOLD
from floodmap.training.adaptation.corrections import FLOOD, KEPT, Corrections
from floodmap.training.samples import IGNORED

Codes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Score:
    """Score of a model on corrected pixels."""

    right: float
    """Share of the corrected pixels that is right, 0 to 1: the mean of the share of flood and the share of dry ground,
    so that a class of which little was drawn counts as much as the other. With one class, the share of this class."""
    iou: float | None
    """IoU on the corrected pixels, 0 to 1; None if none of them is flood."""
    missed: float | None
    """Share of corrected flood that the model calls dry, 0 to 1; None without corrected flood."""
    false_flood: float | None
    """Share of corrected dry ground that the model calls flood, 0 to 1; None without corrected dry ground."""
    pixels: int
    """Number of corrected pixels."""

    @classmethod
    def of(cls, histogram: Histogram) -> Score:
        """Compute the score of pixels counted by probability in per cent and by correction, int64 (101, 2)."""
        (called_dry, missed), (false, hit) = histogram[:THRESHOLD].sum(axis=0), histogram[THRESHOLD:].sum(axis=0)
        flood, dry = int(hit + missed), int(false + called_dry)
        shares = ([hit / flood] if flood else []) + ([called_dry / dry] if dry else [])
        return cls(
            right=float(np.mean(shares)) if shares else 0.0,
            iou=float(hit / (flood + false)) if flood else None,
            missed=float(missed / flood) if flood else None,
            false_flood=float(false / dry) if dry else None,
            pixels=flood + dry,
        )


class Touched:
    """Windows of a scene that corrections touch, which models predict as `segment` does.

    Windows are not blended with their neighbours: a pixel is taken from one of the windows that overlap there.

    Args:
        scene: the scene.
        corrections: the corrections.
        multiple: coarsest stride of the models, in pixels.
    """

    def __init__(self, scene: Scene, corrections: Corrections, multiple: int) -> None:
        grid = Grid(height=scene.height, width=scene.width, multiple=multiple)
        self._scene = scene
        self._windows = [one for one in _cells(grid) if corrections.touches(one[1])]

    def predicted(self, segmenter: Segmenter, prompter: Prompter) -> list[Codes]:
        """Predict the windows.

        Args:
            segmenter: the model.
            prompter: prompter of the model for the scene.

        Returns:
            Codes of each window without what neighbours cover, uint8 (rows, columns).

        Raises:
            SceneError: a window cannot be read or predicted.
        """
        model, codes = with_infrared(segmenter, self._scene), []
        selection = Selection(self._scene, prompter, exhaustive=not model.any_size)
        for window, cell in self._windows:
            [result] = predict(model, [selection.plan(window)])[0]
            if result.why:
                raise SceneError(f"{self._scene.path}: {result.why}")
            probability, reason = result.probability(), result.reason
            percent = np.zeros(reason.shape) if probability is None else np.round(100 * probability)
            codes.append(np.where(reason > 0, reason, percent.astype(np.uint8))[cell.within(window).slices])
        return codes

    def histogram(self, codes: Sequence[Codes], old: Sequence[Codes], corrections: Corrections) -> Histogram:
        """Count corrected and observed pixels by predicted probability in per cent and by correction, int64 (101, 2).

        Args:
            codes: result of `predicted`.
            old: result of `predicted` of the model before it was tuned: what `KEPT` keeps.
            corrections: corrections to count.
        """
        total = np.zeros((101, 2), np.int64)
        for (_, cell), now, before in zip(self._windows, codes, old, strict=True):
            labels = corrections.drawn(cell)
            counted = (now < FIRST_REASON) & (labels != IGNORED)
            flood = np.where(labels == KEPT, before >= THRESHOLD, labels == FLOOD)
            total += np.bincount(now[counted].astype(np.int64) * 2 + flood[counted], minlength=202).reshape(101, 2)
        return total

    def changed(self, codes: Sequence[Codes], old: Sequence[Codes], corrections: Corrections) -> float:
        """Return the share of the ground without a correction, in the windows, that changes between flood and dry."""
        changed = total = 0
        for (_, cell), now, before in zip(self._windows, codes, old, strict=True):
            free = (now < FIRST_REASON) & (corrections.drawn(cell) == IGNORED)
            changed += int((((now >= THRESHOLD) != (before >= THRESHOLD)) & free).sum())
            total += int(free.sum())
        return changed / max(total, 1)


def _cells(grid: Grid) -> list[tuple[Window, Window]]:
    """Return each window of a grid with the rectangle from its first pixel to the first pixel of the next window."""
    rows, cols = (*grid.row_offsets, grid.height), (*grid.col_offsets, grid.width)
    height, width = grid.shape_hw
    return [
        (Window(row, col, height, width), Window(row, col, rows[i + 1] - row, cols[j + 1] - col))
        for i, row in enumerate(rows[:-1])
        for j, col in enumerate(cols[:-1])
    ]
