"""Every score compared with an independent implementation: scikit-learn, scikit-image, torchmetrics, scipy."""

from __future__ import annotations

import warnings
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from scipy import ndimage
from skimage.metrics import contingency_table, hausdorff_distance
from skimage.morphology import dilation, disk
from skimage.segmentation import find_boundaries
from sklearn import metrics
from torchmetrics.classification import BinaryCalibrationError, BinaryF1Score, BinaryJaccardIndex, BinaryStatScores

from floodmap.evaluation.counting import boundary, compare
from floodmap.evaluation.run import evaluate
from floodmap.evaluation.scores import RATIOS, Scores
from floodmap.evaluation.summary import Evaluation
from floodmap.geo.geogrid import GeoGrid
from floodmap.models.calibration import by_threshold, calibration_error

Mask = NDArray[np.uint8]
"""0 dry, 1 flood, 255 unobserved."""

pytestmark = pytest.mark.slow  # scikit-learn takes seconds to load

EXACT = 1e-9
COUNT = 60
TOLERANCE = 2.3
"""Tolerance in pixels; no distance between two pixels is exactly this."""
LOOKS = ("speckle", "blobs", "empty", "full")


def random_mask(rng: np.random.Generator, shape_hw: tuple[int, int], look: str) -> Mask:
    noise = rng.normal(size=shape_hw)
    smooth = ndimage.gaussian_filter(noise, 2.5) if look == "blobs" else noise
    levels = {"empty": np.inf, "full": -np.inf}
    mask = (smooth > levels.get(look, float(np.quantile(smooth, rng.random())))).astype(np.uint8)
    hidden = ndimage.gaussian_filter(rng.normal(size=shape_hw), 1.5)
    return np.where(hidden > np.quantile(hidden, rng.choice([1.0, 0.9, 0.6])), np.uint8(255), mask)


def random_pairs() -> dict[str, tuple[Mask, Mask]]:
    """Pairs of predictions and references of all kinds, with some ground observed in both."""
    rng, looks = np.random.default_rng(0), list(product(LOOKS, LOOKS))
    pairs: dict[str, tuple[Mask, Mask]] = {}
    while len(pairs) < COUNT:
        shape_hw = (int(rng.integers(1, 60)), int(rng.integers(1, 60)))
        one, other = (random_mask(rng, shape_hw, look) for look in looks[len(pairs) % len(looks)])
        if ((one != 255) & (other != 255)).any():
            pairs[f"s{len(pairs):02d}"] = one, other
    return pairs


PAIRS = random_pairs()


def write(path: Path, mask: Mask) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver="GTiff", dtype="uint8", count=1, height=mask.shape[0], width=mask.shape[1], nodata=255
        ) as file:
            file.write(mask, 1)


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    folder = tmp_path_factory.mktemp("pairs")
    for name, (prediction, reference) in PAIRS.items():
        write(folder / "out" / f"{name}_mask.tif", prediction)
        write(folder / "refs" / f"{name}_reference.tif", reference)
    found = evaluate(folder / "out", folder / "refs", flood_value=1, reference_value=1, tolerance_m=TOLERANCE)
    assert not found.refused and len(found.scenes) == COUNT
    return found


def seen(names: list[str]) -> tuple[Mask, Mask]:
    """Jointly observed pixels of all scenes in one row: the reference's, and the prediction's."""
    rows = []
    for prediction, reference in (PAIRS[name] for name in names):
        both = (prediction != 255) & (reference != 255)
        rows.append((reference[both], prediction[both]))
    truth, said = zip(*rows, strict=True)
    return np.concatenate(truth), np.concatenate(said)


def of_sklearn(truth: Mask, said: Mask) -> dict[str, float]:
    # Where both are dry calling it dry is right; where one of them is, scikit-learn's own 0 is ours.
    otherwise = float(not truth.any() and not said.any())
    return {
        "iou": metrics.jaccard_score(truth, said, zero_division=otherwise),
        "dice": metrics.f1_score(truth, said, zero_division=otherwise),
        "precision": metrics.precision_score(truth, said, zero_division=otherwise),
        "recall": metrics.recall_score(truth, said, zero_division=otherwise),
        "accuracy": metrics.accuracy_score(truth, said),
    }


def agree(scores: Scores, expected: dict[str, float]) -> None:
    assert {name: getattr(scores, name) for name in expected} == pytest.approx(expected, abs=EXACT, rel=0)


def test_every_scene_scores_as_scikit_learn_says(evaluation: Evaluation) -> None:
    for scores in evaluation.scenes:
        agree(scores, of_sklearn(*seen([scores.name])))


def test_the_pool_scores_as_all_pixels_in_one_row_and_the_mean_as_the_mean(evaluation: Evaluation) -> None:
    agree(evaluation.pooled, of_sklearn(*seen(list(PAIRS))))
    each = [of_sklearn(*seen([name])) for name in PAIRS]
    for metric in RATIOS[:5]:
        assert evaluation.mean(metric) == pytest.approx(np.mean([one[metric] for one in each]), abs=EXACT, rel=0)


def test_counts_are_those_of_torchmetrics_and_scikit_image(evaluation: Evaluation) -> None:
    for scores in evaluation.scenes:
        prediction, reference = PAIRS[scores.name]
        truth = np.where((prediction == 255) | (reference == 255), 255, reference).astype(np.int64)
        tensors = torch.from_numpy(prediction % 255).flatten(), torch.from_numpy(truth).flatten()
        tp, fp, tn, fn, _ = BinaryStatScores(ignore_index=255)(*tensors).tolist()
        table = contingency_table(truth, prediction, sparse_type="array").toarray()
        table = np.pad(table, ((0, 256 - table.shape[0]), (0, 256 - table.shape[1])))[:2, :2]
        assert [[scores.tn, scores.fp], [scores.fn, scores.tp]] == [[tn, fp], [fn, tp]] == table.tolist()
        if tp + fp + fn:
            # Its ratios are of single precision.
            assert scores.iou == pytest.approx(float(BinaryJaccardIndex(ignore_index=255)(*tensors)), abs=1e-6)
            assert scores.dice == pytest.approx(float(BinaryF1Score(ignore_index=255)(*tensors)), abs=1e-6)


def edges_of(name: str) -> tuple[NDArray[np.bool_], NDArray[np.bool_], bool]:
    """Boundaries of a pair by scikit-image, and whether the masks agree on all jointly observed ground."""
    prediction, reference = PAIRS[name]
    both = (prediction != 255) & (reference != 255)
    found = [both & (mask == 1) & dilation(both & (mask == 0), disk(1)) for mask in (prediction, reference)]
    return found[0], found[1], bool((prediction == reference)[both].all())


def matched(of: NDArray[np.bool_], to: NDArray[np.bool_]) -> int:
    """Pixels of one boundary within the tolerance of the other, by scipy's distance transform."""
    return int((ndimage.distance_transform_edt(~to)[of] <= TOLERANCE).sum()) if to.any() else 0


def f1(hit: tuple[int, int], total: tuple[int, int], equal: bool) -> float:
    if not sum(total):
        return float(equal)
    precision, recall = (h / t if t else 0.0 for h, t in zip(hit, total, strict=True))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def test_boundary_f1_is_that_of_distance_transforms(evaluation: Evaluation) -> None:
    hits, totals, equal = np.zeros(2, int), np.zeros(2, int), True
    for scores in evaluation.scenes:
        ours, theirs, same = edges_of(scores.name)
        hit, total = (matched(ours, theirs), matched(theirs, ours)), (int(ours.sum()), int(theirs.sum()))
        assert scores.boundary_f1 == pytest.approx(f1(hit, total, same), abs=EXACT, rel=0), scores.name
        hits, totals, equal = hits + hit, totals + total, equal and same
    pooled = f1((int(hits[0]), int(hits[1])), (int(totals[0]), int(totals[1])), equal)
    assert evaluation.pooled.boundary_f1 == pytest.approx(pooled, abs=EXACT, rel=0)
    assert {0.0, 1.0} < {scores.boundary_f1 for scores in evaluation.scenes}


def test_boundaries_are_the_inner_ones_of_scikit_image() -> None:
    rng = np.random.default_rng(1)
    for look in LOOKS * 4:
        flood = random_mask(rng, (40, 50), look) == 1
        expected = find_boundaries(flood.astype(int), connectivity=1, mode="inner", background=0)
        assert (boundary(flood, np.ones_like(flood)) == expected).all()


def test_the_hausdorff_distance_is_the_least_tolerance_at_which_all_of_both_boundaries_match() -> None:
    rng = np.random.default_rng(2)
    for _ in range(12):
        one, other = (random_mask(rng, (40, 50), "blobs") % 255 for _ in range(2))
        frame = GeoGrid(None, Affine.identity(), (40, 50))
        whole = np.ones((40, 50), bool)
        distance = hausdorff_distance(boundary(one == 1, whole), boundary(other == 1, whole))
        for tolerance, all_match in ((distance, True), (distance * (1 - 1e-3), False)):
            counts = compare(
                lambda w, mask=one: mask[w.slices], lambda w, mask=other: mask[w.slices], frame, tolerance=tolerance
            )
            missed = (counts.predicted_boundary - counts.predicted_boundary_matched) + (
                counts.reference_boundary - counts.reference_boundary_matched
            )
            assert (missed == 0) == all_match


def said_and_there(seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Probabilities in per cent and truth: of calibrated, overconfident, constant, all dry and all flooded pictures."""
    rng = np.random.default_rng(seed)
    percent = rng.integers(0, 101, 4000) if seed % 3 else np.full(4000, rng.integers(0, 101))
    share = {0: percent / 100, 1: (percent / 100) ** 3, 2: np.zeros(4000), 3: np.ones(4000)}[seed % 4]
    return percent, (rng.random(4000) < share).astype(np.int64)


def histogram_of(percent: NDArray[np.int64], flood: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.bincount(percent * 2 + flood, minlength=202).reshape(101, 2)


@pytest.mark.parametrize("seed", range(12))
def test_calibration_error_is_that_of_torchmetrics(seed: int) -> None:
    percent, flood = said_and_there(seed)
    # torchmetrics keeps a bin of its own for exactly 1, which Guo et al. 2017 (equation 3) do not: the last ends there.
    probability = np.minimum(percent / 100, np.nextafter(1, 0))
    theirs = BinaryCalibrationError(n_bins=15, norm="l1")
    theirs.update(torch.from_numpy(probability), torch.from_numpy(flood))
    assert calibration_error(histogram_of(percent, flood)) == pytest.approx(float(theirs.compute()), abs=EXACT, rel=0)


@pytest.mark.parametrize("seed", range(12))
def test_every_threshold_scores_as_scikit_learn_says(seed: int) -> None:
    percent, flood = said_and_there(seed)
    scorers = {"iou": metrics.jaccard_score, "precision": metrics.precision_score, "recall": metrics.recall_score}
    found = dict(zip(scorers, by_threshold(histogram_of(percent, flood)), strict=True))
    for threshold in (1, 2, 13, 49, 50, 51, 67, 99, 100):
        said = percent >= threshold
        # Of no claim none is wrong, and of no flood none is missed, as in scikit-learn's own curve.
        for name, theirs in scorers.items():
            expected = theirs(flood, said, zero_division=1.0)
            assert found[name][threshold - 1] == pytest.approx(expected, abs=EXACT, rel=0), (name, threshold)


@pytest.mark.parametrize("seed", [1, 4, 5, 7])
def test_the_curve_is_scikit_learns(seed: int) -> None:
    percent, flood = said_and_there(seed)
    _, precision, recall = by_threshold(histogram_of(percent, flood))
    theirs = metrics.precision_recall_curve(flood, percent)
    for p, r, threshold in zip(theirs[0], theirs[1], theirs[2], strict=False):
        if threshold >= 1:
            assert (precision[threshold - 1], recall[threshold - 1]) == pytest.approx((p, r), abs=EXACT, rel=0)
