"""Pixel counts (confusion matrix, boundary pixels) of one scene, and scores: IoU, Dice, boundary F1, flooded areas.

In this module, observed pixels are pixels that are flooded or dry in both the prediction and the reference. No file is
read or written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

Ratio = Literal["iou", "dice", "precision", "recall", "accuracy", "boundary_f1"]
"""Names of scores between 0 and 1; 1 is the best value."""
Metric = Literal["iou", "dice", "precision", "recall", "accuracy", "boundary_f1", "area_error_ha"]
"""Names of all scores that have a mean over scenes and a pooled value (from the summed counts of all scenes)."""

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
"""Names of the counts, in the order of the argument `counts` of `ratio`."""


def _ratio(part: Floats, whole: Floats, otherwise: Floats | float) -> Floats:
    """Compute `part / whole` for each element of two arrays; the result is `otherwise` if `whole` is 0."""
    filled = np.broadcast_to(np.asarray(otherwise, np.float64), np.shape(whole)).copy()
    return np.divide(part, whole, out=filled, where=np.asarray(whole) > 0)


def _boundary_f1(counts: Floats) -> Floats:
    # The harmonic mean of the two shares of matched boundary pixels. A mask without a boundary is all flood or all dry.
    # If both masks have no boundary, the score is 1 for equal masks and 0 for different masks.
    wrong = counts[..., 1] + counts[..., 2]
    of_predicted = _ratio(counts[..., 5], counts[..., 4], 0.0)
    of_reference = _ratio(counts[..., 7], counts[..., 6], 0.0)
    none = counts[..., 4] + counts[..., 6] == 0
    return _ratio(2 * of_predicted * of_reference, of_predicted + of_reference, np.where(none & (wrong == 0), 1.0, 0.0))


def ratio(metric: Ratio, counts: Floats) -> Floats:
    """Compute one score from counts, for any number of scenes or bootstrap resamples.

    If both masks have no flood, IoU, Dice, precision and recall are 1, because the prediction is right. If only the
    reference has flood, the precision is 0; if only the prediction has flood, the recall is 0. Both would be 0 / 0;
    scikit-learn also returns 0.

    Args:
        metric: name of the score.
        counts: float64 (..., 8). The last axis holds the numbers of pixels in the order of `COUNTS`. The other axes
            hold the scenes or resamples. To get a pooled score, the caller sums the counts of several scenes.

    Returns:
        float64 (...), score of each scene or resample, 0 to 1; NaN if no pixel is observed.
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
    """Return a value unchanged, but None for NaN, because JSON has no NaN.

    A score is NaN if a scene has no observed pixels.
    """
    return None if value is None or value != value else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Pixel counts of a prediction and a reference: confusion matrix and boundaries."""

    tp: int = 0
    """True positives: number of pixels that are flooded in the prediction and in the reference."""
    fp: int = 0
    """False positives: number of pixels that are flooded in the prediction and dry in the reference."""
    fn: int = 0
    """False negatives: number of pixels that are dry in the prediction and flooded in the reference."""
    tn: int = 0
    """True negatives: number of pixels that are dry in the prediction and in the reference."""
    unobserved: int = 0
    """Number of pixels that are left out, because the prediction or the reference is unobserved there."""
    predicted_boundary: int = 0
    """Number of boundary pixels in the prediction: flooded, with a dry pixel left, right, above or below."""
    predicted_boundary_matched: int = 0
    """Number of boundary pixels in the prediction within the tolerance of a boundary pixel in the reference."""
    reference_boundary: int = 0
    """Number of boundary pixels in the reference."""
    reference_boundary_matched: int = 0
    """Number of boundary pixels in the reference within the tolerance of a boundary pixel in the prediction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores(Confusion):
    """Counts and scores of one scene, over the pixels that are flooded or dry in both prediction and reference."""

    name: str
    """Name of the scene."""
    predicted_ha: float | None = None
    """Geodesic area, in hectares, of the observed pixels that are flooded in the prediction.
    None without a geographic or projected CRS."""
    reference_ha: float | None = None
    """Geodesic area, in hectares, of the observed pixels that are flooded in the reference.
    None without a geographic or projected CRS."""
    tolerance: float | None = None
    """Largest distance at which boundary pixels match; None for pooled scores of scenes with different tolerances."""
    tolerance_unit: Literal["m", "px"] = "m"
    """Unit of the tolerance: metres ("m"); without a geographic or projected CRS, pixels ("px")."""
    prediction: str = ""
    """File of the prediction."""
    reference: str = ""
    """File of the reference."""

    @property
    def counts(self) -> Floats:
        """Numbers of pixels, float64 (8,): tp, fp, fn, tn and four counts of boundary pixels, ordered as `COUNTS`."""
        return np.array([getattr(self, name) for name in COUNTS], np.float64)

    @property
    def observed(self) -> int:
        """Number of observed pixels: flooded or dry in both prediction and reference."""
        return self.tp + self.fp + self.fn + self.tn

    @property
    def observed_share(self) -> float:
        """Share of observed pixels among all pixels of the compared grid, 0 to 1."""
        return self.observed / (self.observed + self.unobserved) if self.observed else 0.0

    @property
    def iou(self) -> float:
        """Intersection over union (Jaccard 1912), tp / (tp + fp + fn); 1 if both masks have no flood."""
        return float(ratio("iou", self.counts))

    @property
    def dice(self) -> float:
        """Dice coefficient (Dice 1945), equal to F1: 2 tp / (2 tp + fp + fn); 1 if both masks have no flood."""
        return float(ratio("dice", self.counts))

    @property
    def precision(self) -> float:
        """Share of the predicted flood that is flood in the reference, tp / (tp + fp)."""
        return float(ratio("precision", self.counts))

    @property
    def recall(self) -> float:
        """Share of the flood in the reference that is predicted, tp / (tp + fn)."""
        return float(ratio("recall", self.counts))

    @property
    def accuracy(self) -> float:
        """Share of the observed pixels that have the same class in prediction and reference, (tp + tn) / observed.

        If flood is rare, the accuracy is high even for a prediction without any flood.
        """
        return float(ratio("accuracy", self.counts))

    @property
    def boundary_f1(self) -> float:
        """Boundary F1 (Martin, Fowlkes & Malik 2004; for segmentation Csurka et al. 2013, section 3).

        The score is the harmonic mean of two shares. The first is the share of boundary pixels of the prediction within
        the tolerance of the boundary of the reference. The second is the share of boundary pixels of the reference
        within the tolerance of the boundary of the prediction. The score is 0 if only one mask has a boundary. If both
        masks have no boundary, the score is 1 for equal masks and 0 for different masks.
        """
        return float(ratio("boundary_f1", self.counts))

    @property
    def area_error_ha(self) -> float | None:
        """Area of flood in the prediction minus area of flood in the reference: `predicted_ha - reference_ha`.

        The areas are geodesic, in hectares. None without a geographic or projected CRS.
        """
        if self.predicted_ha is None or self.reference_ha is None:
            return None
        return self.predicted_ha - self.reference_ha

    def to_json(self) -> dict[str, Any]:
        """Return all fields and scores by name, as types that JSON can store. Undefined scores are None."""
        names = (*METRICS, "observed_share", *COUNTS, "unobserved", "predicted_ha", "reference_ha")
        values = {name: number(getattr(self, name)) for name in names}
        about = {name: getattr(self, name) for name in ("name", "prediction", "reference")}
        return about | values | {"tolerance": self.tolerance, "tolerance_unit": self.tolerance_unit}
