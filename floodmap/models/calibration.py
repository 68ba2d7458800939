"""Whether 70 per cent means 70 per cent: reliability, calibration error, thresholds; from counts by probability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Histogram = NDArray[np.int64]
"""(101, 2): pixels by probability in per cent, dry and flooded in the reference."""
Floats = NDArray[np.float64]

PERCENT = np.arange(101) / 100
BINS = 15
"""Bins of the expected calibration error, as is usual since Guo et al. 2017."""


class Calibration(NamedTuple):
    """What is done to a model's logits so that its probabilities are shares (Platt 1999): scaled, then shifted."""

    scale: float = 1.0
    shift: float = 0.0


UNCALIBRATED = Calibration()
SCALES, SHIFTS = (0.4, 2.0), (-1.0, 1.0)
"""Bounds of what is fitted: a handful of pictures, all right or all dry, would ask for infinities."""


def reliability(histogram: Histogram, probability: Floats = PERCENT) -> tuple[Floats, Floats, Floats]:
    """Mean probability, flooded share and share of all pixels in each of `BINS` bins; NaN in empty ones.

    Args:
        histogram: the counts.
        probability: what each per cent stands for, (101,); other values after a recalibration.
    """
    total = histogram.sum(axis=1).astype(np.float64)
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    count, said, flooded = (
        np.bincount(bins, weights, BINS) for weights in (total, total * probability, histogram[:, 1].astype(float))
    )
    with np.errstate(invalid="ignore"):
        return said / count, flooded / count, count / max(count.sum(), 1.0)


def calibration_error(histogram: Histogram, probability: Floats = PERCENT) -> float:
    """Expected calibration error (Naeini et al. 2015; Guo et al. 2017, equation 3), 0 to 1."""
    said, flooded, share = reliability(histogram, probability)
    return float(np.nansum(share * np.abs(said - flooded)))


def recalibrated(scale: float, shift: float) -> Floats:
    """What each per cent stands for once logits are scaled and shifted (Platt 1999), (101,)."""
    return np.asarray(1 / (1 + np.exp(-(scale * _logit() + shift))))


def fit(histogram: Histogram) -> Calibration:
    """Scale and shift of the logits under which the counts are likeliest, within bounds."""
    from scipy.optimize import minimize  # here: it takes 15 MB, and segmenting does not fit

    counts, logit = histogram.astype(np.float64) / max(histogram.sum(), 1), _logit()

    def loss(parameters: Floats) -> float:
        z = parameters[0] * logit + parameters[1]
        return float((counts[:, 1] * np.logaddexp(0, -z) + counts[:, 0] * np.logaddexp(0, z)).sum())

    scale, shift = minimize(loss, Calibration(), method="Nelder-Mead", bounds=(SCALES, SHIFTS)).x
    return Calibration(float(scale), float(shift))


def cross_fitted_error(histograms: Sequence[Histogram], folds: int = 5, seed: int = 0) -> float:
    """Calibration error where each picture's probabilities are recalibrated on the others.

    Args:
        histograms: one a picture.
        folds: parts; each is recalibrated with what was fitted to the others.
        seed: of the draw of the parts.
    """
    order = np.random.default_rng(seed).permutation(len(histograms))
    said, flooded, count = np.zeros((3, BINS))
    for part in np.array_split(order, min(folds, len(histograms))):
        rest = [histograms[i] for i in range(len(histograms)) if i not in set(part.tolist())]
        probability = recalibrated(*fit(np.sum(rest, axis=0))) if rest else PERCENT
        own = np.sum([histograms[i] for i in part], axis=0)
        mean, share_flooded, share = reliability(own, probability)
        weight = share * own.sum()
        said += np.nan_to_num(mean) * weight
        flooded += np.nan_to_num(share_flooded) * weight
        count += weight
    return float(np.abs(said - flooded).sum() / max(count.sum(), 1.0))


def by_threshold(histogram: Histogram) -> tuple[Floats, Floats, Floats]:
    """IoU, precision and recall if flood began at 1, 2 ... 100 per cent; (100,) each.

    IoU and recall are 1 where there is neither flood nor a claim of it, and precision is 1 where nothing is claimed.
    """
    claimed = histogram[::-1].cumsum(axis=0)[::-1][1:].astype(np.float64)
    tp, fp, flood = claimed[:, 1], claimed[:, 0], float(histogram[:, 1].sum())
    iou = np.divide(tp, flood + fp, out=np.ones(100), where=flood + fp > 0)
    precision = np.divide(tp, tp + fp, out=np.ones(100), where=tp + fp > 0)
    recall = tp / flood if flood else np.ones(100)
    return iou, precision, recall


def _logit() -> Floats:
    probability = np.clip(PERCENT, 0.005, 0.995)  # half a per cent is what rounding hides
    return np.asarray(np.log(probability / (1 - probability)))
