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
from floodmap.models.infrared import with_infrared
from floodmap.models.protocol import Segmenter
from floodmap.strips.codes import FIRST_REASON, THRESHOLD
from floodmap.training.adaptation.corrections import FLOOD, KEPT, Corrections
from floodmap.training.adaptation.split import Part
from floodmap.training.samples import IGNORED

Codes = NDArray[np.uint8]
Counts = NDArray[np.float64]
"""Number of pixels, float64 (101, 2). Row i: probability of i per cent. Column 0: dry in the reference; 1: flooded."""


@dataclass(frozen=True, slots=True)
class Score:
    """Score of a model on ground that was kept out: blocks of the scene with corrections, and what lies around them.

    The reference of a corrected pixel is the correction. Every other pixel of a block counts by the calibrated
    probability of the old model: of all pixels of 3 per cent, 3 of 100 are water. So a model that is better at the
    corrections, but changes ground of which the old model was sure, loses.
    """

    iou: float | None
    """Expected IoU in the blocks, 0 to 1; None if no flood was corrected there."""
    right: float
    """Expected share of pixels that are right, of all pixels in the blocks, 0 to 1."""
    missed: float | None
    """Share of corrected flood that the model calls dry, 0 to 1; None without corrected flood."""
    false_flood: float | None
    """Share of corrected dry ground that the model calls flood, 0 to 1; None without corrected dry ground."""

    @classmethod
    def of(cls, corrected: Counts, around: Counts) -> Score:
        """Compute the score from corrected pixels, and from the other pixels of the blocks."""
        (called_dry, missed), (false, hit) = corrected[:THRESHOLD].sum(axis=0), corrected[THRESHOLD:].sum(axis=0)
        total = corrected + around
        flooded = total[THRESHOLD:]
        union = total[:THRESHOLD, 1].sum() + flooded.sum()
        right = total[:THRESHOLD, 0].sum() + flooded[:, 1].sum()
        return cls(
            iou=float(flooded[:, 1].sum() / union) if hit + missed else None,
            right=float(right / max(total.sum(), 1)),
            missed=float(missed / (hit + missed)) if hit + missed else None,
            false_flood=float(false / (false + called_dry)) if false + called_dry else None,
        )

    @property
    def value(self) -> float:
        """The number that decides: `iou`, or `right` where no flood was corrected."""
        return self.right if self.iou is None else self.iou


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

    def counts(self, codes: Sequence[Codes], old: Sequence[Codes], part: Part) -> tuple[Counts, Counts]:
        """Count the pixels in the blocks of a part: those with a correction, and those around them.

        Args:
            codes: result of `predicted`.
            old: result of `predicted` of the model before it was tuned.
            part: corrections and their blocks.
        """
        corrected, around = np.zeros((101, 2)), np.zeros((101, 2))
        for (_, cell), now, before in zip(self._windows, codes, old, strict=True):
            labels, observed = part.corrections.drawn(cell), now < FIRST_REASON
            flood = np.where(labels == KEPT, before >= THRESHOLD, labels == FLOOD)
            corrected += _counts(now, flood.astype(float), observed & (labels != IGNORED))
            inside = observed & (labels == IGNORED) & (part.blocks.drawn(cell) != IGNORED)
            around += _counts(now, before / 100, inside)
        return corrected, around

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


def _counts(percent: Codes, flood: NDArray[np.float64], where: NDArray[np.bool_]) -> Counts:
    """Count pixels by probability in per cent and by reference, float64 (101, 2), for a reference from 0 to 1."""
    total = np.bincount(percent[where], minlength=101).astype(float)
    wet = np.bincount(percent[where], weights=flood[where], minlength=101)
    return np.stack([total - wet, wet], axis=1)
