"""Calibration from histograms, compared with the definitions on single pixels."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from floodmap.models.calibration import (
    PERCENT,
    by_threshold,
    calibration_error,
    cross_fitted_error,
    fit,
    fit_scale,
    recalibrated,
    reliability,
)


def pixels(seed: int, scale: float = 1.0, count: int = 20_000) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Predicted per cent and truth; calibrated where the scale is 1."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(0, 2, count)
    flood = rng.random(count) < 1 / (1 + np.exp(-logit))
    return np.round(100 / (1 + np.exp(-scale * logit))).astype(np.int64), flood


def counted(percent: NDArray[np.int64], flood: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.bincount(percent * 2 + flood, minlength=202).reshape(101, 2)


def test_error_is_that_of_single_pixels() -> None:
    percent, flood = pixels(0, scale=2.0)
    bins = np.minimum(percent * 15 // 100, 14)
    expected = sum(
        abs(percent[bins == b].mean() / 100 - flood[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)
    )
    assert calibration_error(counted(percent, flood)) == pytest.approx(expected, abs=1e-12)
    said, flooded, share = reliability(counted(percent, flood))
    assert np.isfinite(said).all() and share.sum() == pytest.approx(1) and (np.diff(flooded) > -0.05).all()


def test_a_calibrated_model_has_no_error_and_an_overconfident_one_has() -> None:
    assert calibration_error(counted(*pixels(1))) < 0.02
    assert calibration_error(counted(*pixels(1, scale=2.5))) > 0.05


def test_fitting_finds_the_scale_back() -> None:
    histogram = counted(*pixels(2, scale=2.0, count=200_000))
    scale, shift = fit(histogram)
    assert scale == pytest.approx(0.5, abs=0.05) and shift == pytest.approx(0, abs=0.05)
    assert calibration_error(histogram, recalibrated(scale, shift)) < 0.02
    assert recalibrated(1.0, 0.0)[1:-1] == pytest.approx(PERCENT[1:-1])


def test_cross_fitting_leaves_the_picture_itself_out() -> None:
    boastful = [counted(*pixels(seed, scale=2.0)) for seed in range(10)]
    assert cross_fitted_error(boastful) < 0.02
    # Half of the pictures say the opposite: what is fitted to the others cannot help those.
    contrary = [counted(100 - percent, flood) for percent, flood in (pixels(9, scale=2.0),)]
    assert cross_fitted_error([boastful[0], *contrary], folds=2) > 0.2


def test_thresholds_agree_with_masks() -> None:
    percent, flood = pixels(3)
    iou, precision, recall = by_threshold(counted(percent, flood))
    for threshold in (1, 50, 93):
        claimed = percent >= threshold
        assert iou[threshold - 1] == pytest.approx((claimed & flood).sum() / (claimed | flood).sum())
        assert precision[threshold - 1] == pytest.approx(flood[claimed].mean())
        assert recall[threshold - 1] == pytest.approx(claimed[flood].mean())


@pytest.mark.parametrize("scale", [0.6, 1.0, 1.6])
def test_the_fitted_scale_undoes_a_wrong_scale_and_keeps_the_border(scale: float) -> None:
    found = fit_scale(counted(*pixels(1, scale=scale, count=200_000)))
    assert found.scale == pytest.approx(1 / scale, abs=0.06) and found.shift == 0
    assert ((recalibrated(*found) >= 0.5) == (PERCENT >= 0.5)).all()
