"""Scores of a model on corrections, through the pipeline of `segment`."""

from __future__ import annotations

from collections.abc import Mapping
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
    """Score of a model on corrections that it was not tuned on.

    Corrections lie where somebody saw errors, so this is no score of the scene. `right` also counts the ground around
    the corrections, by the calibrated probability of the old model: of all pixels of 3 per cent, 3 of 100 are water.
    """

    iou: float | None
    """IoU on corrected ground, 0 to 1; None if no flood was corrected."""
    right: float
    """Expected share of pixels that are right, of all pixels in the blocks of the corrections, 0 to 1."""
    missed: float | None
    """Share of corrected flood that the model calls dry, 0 to 1; None without corrected flood."""
    false_flood: float | None
    """Share of corrected dry ground that the model calls flood, 0 to 1; None without corrected dry ground."""

    @classmethod
    def of(cls, corrected: Counts, around: Counts) -> Score:
        """Compute the score from corrected pixels, and from the other pixels of the blocks."""
        (called_dry, missed), (false, hit) = corrected[:THRESHOLD].sum(axis=0), corrected[THRESHOLD:].sum(axis=0)
        total = corrected + around
        right = total[:THRESHOLD, 0].sum() + total[THRESHOLD:, 1].sum()
        return cls(
            iou=float(hit / (hit + missed + false)) if hit + missed else None,
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

    Windows are not blended with their neighbours: a pixel is taken from one of the windows that overlap there. The
    rectangle of the pixels that are taken from a window is its cell.

    Args:
        scene: the scene.
        multiple: coarsest stride of the models, in pixels.
    """

    def __init__(self, scene: Scene, multiple: int) -> None:
        self._scene = scene
        self._windows = _cells(Grid(height=scene.height, width=scene.width, multiple=multiple))

    def predicted(self, segmenter: Segmenter, prompter: Prompter, corrections: Corrections) -> dict[Window, Codes]:
        """Predict the windows that corrections touch.

        Args:
            segmenter: the model.
            prompter: prompter of the model for the scene.
            corrections: the corrections.

        Returns:
            Codes of each cell, uint8 (rows, columns).

        Raises:
            SceneError: a window cannot be read or predicted.
        """
        model, codes = with_infrared(segmenter, self._scene), {}
        selection = Selection(self._scene, prompter, exhaustive=not model.any_size)
        for window, cell in self._windows:
            if not corrections.touches(cell):
                continue
            [result] = predict(model, [selection.plan(window)])[0]
            if result.why:
                raise SceneError(f"{self._scene.path}: {result.why}")
            probability, reason = result.probability(), result.reason
            percent = np.zeros(reason.shape) if probability is None else np.round(100 * probability)
            codes[cell] = np.where(reason > 0, reason, percent.astype(np.uint8))[cell.within(window).slices]
        return codes


def counts(codes: Mapping[Window, Codes], old: Mapping[Window, Codes], part: Part) -> tuple[Counts, Counts]:
    """Count the pixels in the blocks of a part: those with a correction, and those around them.

    Args:
        codes: result of `Touched.predicted` for the corrections of the part.
        old: result of the model before it was tuned, for the same corrections or more.
        part: corrections and their blocks.
    """
    corrected, around = np.zeros((101, 2)), np.zeros((101, 2))
    for cell, now in codes.items():
        before = old[cell]
        labels, observed = part.corrections.drawn(cell), now < FIRST_REASON
        flood = np.where(labels == KEPT, before >= THRESHOLD, labels == FLOOD)
        corrected += _counts(now, flood.astype(float), observed & (labels != IGNORED))
        inside = observed & (labels == IGNORED) & (part.blocks.drawn(cell) != IGNORED)
        around += _counts(now, before / 100, inside)
    return corrected, around


def changed(codes: Mapping[Window, Codes], old: Mapping[Window, Codes], corrections: Corrections) -> float:
    """Return the share of the ground without a correction, in the cells, that changes between flood and dry."""
    n_changed = total = 0
    for cell, now in codes.items():
        free = (now < FIRST_REASON) & (corrections.drawn(cell) == IGNORED)
        n_changed += int((((now >= THRESHOLD) != (old[cell] >= THRESHOLD)) & free).sum())
        total += int(free.sum())
    return n_changed / max(total, 1)


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
