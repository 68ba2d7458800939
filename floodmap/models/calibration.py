"""Calibration of flood probabilities: reliability, expected calibration error, Platt scaling, scores by threshold.

All results are computed from histograms. A histogram counts pixels by predicted probability in per cent, and by the
reference: dry or flooded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Histogram = NDArray[np.int64]
"""Number of pixels, int64 (101, 2). Row i: probability of i per cent. Column 0: dry in the reference; 1: flooded."""
Floats = NDArray[np.float64]

PERCENT = np.arange(101) / 100
"""Predicted probability of each row of a `Histogram`, as a share and not in per cent: 0, 0.01 ... 1; float64 (101,)."""
BINS = 15
"""Number of bins of the expected calibration error, as in Guo et al. 2017."""


class Calibration(NamedTuple):
    """Platt scaling of a model's logits (Platt 1999): the calibrated logit is `scale * logit + shift`."""

    scale: float = 1.0
    """Factor on the logit."""
    shift: float = 0.0
    """Number that is added to the scaled logit."""


UNCALIBRATED = Calibration()
SCALES, SHIFTS = (0.4, 2.0), (-1.0, 1.0)
"""Bounds of the fitted `scale` and of the fitted `shift`, each (lowest, highest).
Without bounds, the fit diverges if every pixel is predicted correctly, or if all pixels have one label. Both may happen
if there are few pictures."""


def reliability(histogram: Histogram, probability: Floats = PERCENT) -> tuple[Floats, Floats, Floats]:
    """Compute the reliability diagram, with `BINS` bins of equal width over the predicted probability.

    Args:
        histogram: pixel counts, int64 (101, 2); see `Histogram`.
        probability: probability of each row of the histogram, float64 (101,), 0 to 1. By default, row i has i per cent.
            To measure calibrated probabilities, pass the result of `recalibrated`; the histogram stays the same.

    Returns:
        Three arrays, float64 (BINS,), 0 to 1, with one value for each bin: the mean predicted probability of the bin's
        pixels, the share of these pixels that is flooded, and the share of all pixels that lie in the bin.
        The first two values are NaN if a bin is empty.
    """
    total = histogram.sum(axis=1).astype(np.float64)
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    count, predicted, flooded = (
        np.bincount(bins, weights, BINS) for weights in (total, total * probability, histogram[:, 1].astype(float))
    )
    with np.errstate(invalid="ignore"):
        return predicted / count, flooded / count, count / max(count.sum(), 1.0)


def calibration_error(histogram: Histogram, probability: Floats = PERCENT) -> float:
    """Return the expected calibration error, 0 to 1 (Naeini et al. 2015; Guo et al. 2017, equation 3).

    A bin has two values: the mean predicted probability and the share of flooded pixels (see `reliability`). The error
    is the absolute difference between the two values, averaged over all pixels.

    Args:
        histogram: pixel counts, int64 (101, 2); see `Histogram`.
        probability: probability of each row of the histogram, float64 (101,), 0 to 1; see `reliability`.
    """
    predicted, flooded, share = reliability(histogram, probability)
    return float(np.nansum(share * np.abs(predicted - flooded)))


def recalibrated(scale: float, shift: float) -> Floats:
    """Return the calibrated probability of each histogram row, float64 (101,), 0 to 1.

    Args:
        scale: factor on the logit; see `Calibration`.
        shift: number that is added to the scaled logit.
    """
    return np.asarray(1 / (1 + np.exp(-(scale * _logit() + shift))))


def fit(histogram: Histogram) -> Calibration:
    """Fit Platt scaling to a histogram by maximum likelihood, within the bounds `SCALES` and `SHIFTS`.

    Args:
        histogram: pixel counts, int64 (101, 2); see `Histogram`.
    """
    from scipy.optimize import minimize  # imported here: it takes 15 MB of memory, and `segment` never fits

    counts, logit = histogram.astype(np.float64) / max(histogram.sum(), 1), _logit()

    def loss(parameters: Floats) -> float:
        z = parameters[0] * logit + parameters[1]
        return float((counts[:, 1] * np.logaddexp(0, -z) + counts[:, 0] * np.logaddexp(0, z)).sum())

    scale, shift = minimize(loss, Calibration(), method="Nelder-Mead", bounds=(SCALES, SHIFTS)).x
    return Calibration(float(scale), float(shift))


def fit_scale(counts: Histogram | Floats, steps: int = 161) -> Calibration:
    """Fit the scale alone by maximum likelihood, within `SCALES` (temperature scaling; Guo et al. 2017).

    Probabilities of 50 per cent stay as they are, so the border between flood and dry ground does not move.

    Args:
        counts: pixel counts, (101, 2); see `Histogram`. They may be sums of probabilities.
        steps: number of scales that are tried.
    """
    scales = np.linspace(*SCALES, steps)
    z = scales[:, None] * _logit()
    losses = np.logaddexp(0, -z) @ counts[:, 1] + np.logaddexp(0, z) @ counts[:, 0]
    return Calibration(float(scales[losses.argmin()]), 0.0)


def cross_fitted_error(histograms: Sequence[Histogram], folds: int = 5, seed: int = 0) -> float:
    """Compute the expected calibration error by cross-validation over pictures.

    The pictures of each fold are recalibrated with Platt scaling that was fitted to the pictures of the other folds.
    The pixels of all folds are then counted in the same bins, and one error is computed for all pictures together.
    A single picture is not recalibrated, because there are no other pictures.

    Args:
        histograms: one for each picture: number of scored pixels by predicted probability in per cent and by label,
            int64 (101, 2); see `Histogram`.
        folds: number of folds; if there are fewer pictures, each picture is one fold.
        seed: seed of the random assignment of pictures to folds.

    Returns:
        The error of all pictures together, 0 to 1; see `calibration_error`.
    """
    order = np.random.default_rng(seed).permutation(len(histograms))
    predicted, flooded, count = np.zeros((3, BINS))
    for part in np.array_split(order, min(folds, len(histograms))):
        rest = [histograms[i] for i in range(len(histograms)) if i not in set(part.tolist())]
        probability = recalibrated(*fit(np.sum(rest, axis=0))) if rest else PERCENT
        own = np.sum([histograms[i] for i in part], axis=0)
        mean, share_flooded, share = reliability(own, probability)
        weight = share * own.sum()
        predicted += np.nan_to_num(mean) * weight
        flooded += np.nan_to_num(share_flooded) * weight
        count += weight
    return float(np.abs(predicted - flooded).sum() / max(count.sum(), 1.0))


def by_threshold(histogram: Histogram) -> tuple[Floats, Floats, Floats]:
    """Compute IoU, precision and recall at thresholds of 1, 2 ... 100 per cent.

    A pixel is predicted as flood if its probability is equal to the threshold or higher.

    Args:
        histogram: pixel counts, int64 (101, 2); see `Histogram`.

    Returns:
        IoU, precision and recall, float64 (100,) each, 0 to 1, with one value for each threshold. IoU is 1 if there is
        neither flood nor predicted flood. Recall is 1 if there is no flood. Precision is 1 if no flood is predicted.
    """
    positive = histogram[::-1].cumsum(axis=0)[::-1][1:].astype(np.float64)
    tp, fp, flood = positive[:, 1], positive[:, 0], float(histogram[:, 1].sum())
    iou = np.divide(tp, flood + fp, out=np.ones(100), where=flood + fp > 0)
    precision = np.divide(tp, tp + fp, out=np.ones(100), where=tp + fp > 0)
    recall = tp / flood if flood else np.ones(100)
    return iou, precision, recall


def _logit() -> Floats:
    """Return the logit of the probability of each histogram row, float64 (101,), finite for 0 and 1."""
    probability = np.clip(PERCENT, 0.005, 0.995)  # probabilities are rounded to whole per cents
    return np.asarray(np.log(probability / (1 - probability)))
