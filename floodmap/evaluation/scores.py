"""Confusion counts of one scene, and the scores derived from them: IoU, Dice, boundary F1, areas. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

Ratio = Literal["iou", "dice", "precision", "recall", "accuracy", "boundary_f1"]
"""Scores between 0 and 1, 1 being best."""
Metric = Literal["iou", "dice", "precision", "recall", "accuracy", "boundary_f1", "area_error_ha"]
"""Everything that is averaged over scenes and pooled."""

RATIOS: tuple[Ratio, ...] = get_args(Ratio)
METRICS: tuple[Metric, ...] = get_args(Metric)

COUNTS = (
    "tp",
    "fp",
    "fn",
    "tn",
    "predicted_boundary",
    "predicted_boundary_matched",
    "reference_boundary",
    "reference_boundary_matched",
)
"""Names of the counts, in the order of the argument of `ratio`."""


def _ratio(part: Floats, whole: Floats, otherwise: Floats | float) -> Floats:
    """`part / whole`, and `otherwise` where there is nothing to divide by."""
    filled = np.broadcast_to(np.asarray(otherwise, np.float64), np.shape(whole)).copy()
    return np.divide(part, whole, out=filled, where=np.asarray(whole) > 0)


def _boundary_f1(counts: Floats) -> Floats:
    # The harmonic mean of the two matched shares. A mask without a boundary is all flood or all dry: two such masks
    # agree or they do not, and there is no distance to measure.
    wrong = counts[..., 1] + counts[..., 2]
    of_predicted = _ratio(counts[..., 5], counts[..., 4], 0.0)
    of_reference = _ratio(counts[..., 7], counts[..., 6], 0.0)
    none = counts[..., 4] + counts[..., 6] == 0
    return _ratio(2 * of_predicted * of_reference, of_predicted + of_reference, np.where(none & (wrong == 0), 1.0, 0.0))


def ratio(metric: Ratio, counts: Floats) -> Floats:
    """One score from counts, for any number of scenes or resamples at once.

    Where neither mask has flood, IoU, Dice, precision and recall are 1: calling dry ground dry is right. Where only
    one of them has, what cannot be divided is 0, as in scikit-learn.

    Args:
        metric: which score.
        counts: float64 (..., 8) in the order of `Scores.counts`; sums of scenes count as one large scene.

    Returns:
        float64 (...), 0 to 1; NaN where no pixel was observed.
    """
    tp, fp, fn, tn = (counts[..., i] for i in range(4))
    both_empty = np.where(tp + fp + fn == 0, 1.0, 0.0)
    formulas: dict[Ratio, Callable[[], Floats]] = {
        "iou": lambda: _ratio(tp, tp + fp + fn, 1.0),
        "dice": lambda: _ratio(2 * tp, 2 * tp + fp + fn, 1.0),
        "precision": lambda: _ratio(tp, tp + fp, both_empty),
        "recall": lambda: _ratio(tp, tp + fn, both_empty),
        "accuracy": lambda: _ratio(tp + tn, tp + fp + fn + tn, 1.0),
        "boundary_f1": lambda: _boundary_f1(counts),
    }
    return np.where(tp + fp + fn + tn > 0, formulas[metric](), np.nan)


def number(value: float | None) -> float | None:
    """The value, or None for NaN, which JSON lacks; a score over no pixels is NaN."""
    return None if value is None or value != value else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Pixel counts of two masks: confusion matrix and boundaries."""

    tp: int = 0
    """Pixels flooded in both."""
    fp: int = 0
    """Pixels flooded in the prediction alone."""
    fn: int = 0
    """Pixels flooded in the reference alone."""
    tn: int = 0
    """Pixels dry in both."""
    unobserved: int = 0
    """Pixels left out: unobserved in the prediction, in the reference, or outside either."""
    predicted_boundary: int = 0
    """Boundary pixels of the predicted flood: flooded, with a dry pixel left, right, above or below."""
    predicted_boundary_matched: int = 0
    """Of these, pixels within the tolerance of a boundary pixel of the reference."""
    reference_boundary: int = 0
    """Boundary pixels of the reference."""
    reference_boundary_matched: int = 0
    """Of these, pixels within the tolerance of a boundary pixel of the prediction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores(Confusion):
    """Counts and scores of one scene, over the ground that prediction and reference both observed."""

    name: str
    """Name of the scene."""
    predicted_ha: float | None = None
    """Predicted flood on jointly observed ground, geodesic hectares; None without a CRS."""
    reference_ha: float | None = None
    """The reference's flood on the same ground, geodesic hectares; None without a CRS."""
    tolerance: float | None = None
    """Largest distance at which boundaries match; None where pooled scenes differ in it."""
    tolerance_unit: Literal["m", "px"] = "m"
    """Metres, or pixels where there is no CRS."""
    prediction: str = ""
    """The prediction's file."""
    reference: str = ""
    """The reference's file."""

    @property
    def counts(self) -> Floats:
        """tp, fp, fn, tn and the boundary counts, float64 (8,): what `ratio` takes."""
        return np.array([getattr(self, name) for name in COUNTS], np.float64)

    @property
    def observed(self) -> int:
        """Pixels both sides observed."""
        return self.tp + self.fp + self.fn + self.tn

    @property
    def observed_share(self) -> float:
        """Share of the compared grid's pixels that both sides observed, 0 to 1."""
        return self.observed / (self.observed + self.unobserved) if self.observed else 0.0

    @property
    def iou(self) -> float:
        """Intersection over union (Jaccard 1912), tp / (tp + fp + fn); 1 where both are empty."""
        return float(ratio("iou", self.counts))

    @property
    def dice(self) -> float:
        """Dice coefficient (Dice 1945), which is F1: 2 tp / (2 tp + fp + fn); 1 where both are empty."""
        return float(ratio("dice", self.counts))

    @property
    def precision(self) -> float:
        """Share of the predicted flood that is flood, tp / (tp + fp)."""
        return float(ratio("precision", self.counts))

    @property
    def recall(self) -> float:
        """Share of the flood that was predicted, tp / (tp + fn)."""
        return float(ratio("recall", self.counts))

    @property
    def accuracy(self) -> float:
        """Share of the observed pixels that agree, (tp + tn) / observed; high for any map where flood is rare."""
        return float(ratio("accuracy", self.counts))

    @property
    def boundary_f1(self) -> float:
        """Boundary F1 (Martin, Fowlkes & Malik 2004; for segmentation Csurka et al. 2013, section 3).

        The harmonic mean of the share of predicted boundary pixels within the tolerance of the reference's boundary
        and of the share the other way round. 0 where only one side has a boundary; where neither has, 1 if the masks
        agree everywhere and 0 otherwise.
        """
        return float(ratio("boundary_f1", self.counts))

    @property
    def area_error_ha(self) -> float | None:
        """Predicted minus reference flood, hectares; None without a CRS."""
        if self.predicted_ha is None or self.reference_ha is None:
            return None
        return self.predicted_ha - self.reference_ha

    def to_json(self) -> dict[str, Any]:
        """Names, counts and scores, as JSON types; what is undefined is None."""
        names = (*METRICS, "observed_share", *COUNTS, "unobserved", "predicted_ha", "reference_ha")
        values = {name: number(getattr(self, name)) for name in names}
        about = {name: getattr(self, name) for name in ("name", "prediction", "reference")}
        return about | values | {"tolerance": self.tolerance, "tolerance_unit": self.tolerance_unit}
