"""Statistics of a comparison: mean scores with 95 % intervals, paired tests between models, tables as CSV and JSON."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from io import StringIO
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

from floodmap._runtime.files import write_whole
from floodmap.comparison.oracle import PromptKind
from floodmap.comparison.study import Study, Trial
from floodmap.evaluation.scores import COUNTS, RATIOS, Ratio, number
from floodmap.evaluation.summary import RESAMPLES, Evaluation
from floodmap.masks.audit import Finding
from floodmap.masks.rules import Codes
from floodmap.models.calibration import calibration_error, cross_fitted_error
from floodmap.strips.codes import FIRST_REASON, THRESHOLD

FAILURE_IOU = 0.4
"""IoU below which the prediction of a picture counts as a failure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Paired difference of a score between two models with the same kind of prompt, over a set of pictures."""

    first: str
    second: str
    prompts: str
    metric: Ratio
    mean: float
    """Mean over pictures of the second model's score minus the score of the first model."""
    low: float
    high: float
    """Lower and upper end (`low`, `high`) of the 95 % interval of the mean, by percentile bootstrap over pictures."""
    p_value: float
    """p-value of Wilcoxon's signed-rank test (1945), two-sided; 1 if the two models have equal scores on all
    pictures."""
    better: int
    worse: int
    """Numbers of pictures on which the second model scores higher (`better`) and lower (`worse`)."""

    @property
    def is_real(self) -> bool:
        """True if the difference is significant: p is below 0.05, and the interval does not contain 0."""
        return self.p_value < 0.05 and (self.low > 0 or self.high < 0)


def evaluation_of(study: Study, model: str, kind: PromptKind) -> Evaluation:
    """Return the evaluation of one model with one kind of prompt: scores of all pictures, means and 95 % intervals.

    Args:
        study: the study.
        model: name of the model.
        kind: kind of prompt.
    """
    return Evaluation(scenes=tuple(trial.scores for trial in study.of(model, kind)), seed=study.seed)


def differences(study: Study, metric: Ratio = "iou") -> Iterator[Difference]:
    """Yield the paired difference of every two models with every kind of prompt; for the arguments see `difference`."""
    for kind in study.kinds:
        for first, second in combinations(study.models, 2):
            yield difference(study, first, second, kind, metric)


def difference(study: Study, first: str, second: str, kind: PromptKind, metric: Ratio) -> Difference:
    """Compute the paired difference between two models, over the pictures on which both models have a score.

    The difference is the score of the second model minus the score of the first model. The mean is 0 if
    no picture has a score of both models.

    Args:
        study: the study.
        first: name of the first model.
        second: name of the second model.
        kind: kind of prompt.
        metric: score that is compared.
    """
    one, other = (np.array([getattr(t.scores, metric) for t in study.of(m, kind)]) for m in (first, second))
    change = (other - one)[np.isfinite(other - one)]
    if not len(change):
        change = np.zeros(1)
    means = np.random.default_rng(study.seed).choice(change, (RESAMPLES, len(change))).mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Difference(
        first=first, second=second, prompts=str(kind), metric=metric, mean=float(change.mean()), low=float(low),
        high=float(high), p_value=float(wilcoxon(change).pvalue) if change.any() else 1.0,
        better=int((change > 0).sum()), worse=int((change < 0).sum()),
    )  # fmt: skip


def failures(trials: list[Trial]) -> list[Trial]:
    """Return the trials with an IoU below `FAILURE_IOU`, in ascending order of the IoU."""
    return sorted((t for t in trials if t.scores.iou < FAILURE_IOU), key=lambda t: t.scores.iou)


def spread_out(trials: Sequence[Trial], count: int) -> list[Trial]:
    """Return at most `count` trials at evenly spaced ranks of the IoU, from the highest IoU to the lowest.

    Of nine trials and a count of 3, these are the best, the fifth best and the worst, whatever the values of the IoU.
    """
    ordered = sorted(trials, key=lambda trial: -trial.scores.iou)
    places = np.unique(np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int))
    return [ordered[i] for i in places]


def summary(study: Study, findings: Sequence[Finding] = (), missing: Sequence[str] = ()) -> dict[str, Any]:
    """Return the content of `summary.json`.

    Args:
        study: the study.
        findings: problems that were found in the labels.
        missing: one line for each model that could not be downloaded.

    Returns:
        A dictionary of JSON types. `models` and `prompts` have the names of the models and of the kinds of prompt.
        `results` has means, intervals and failures of each model with each kind of prompt. `differences` has the paired
        differences of IoU between models. `pictures` has the name of each picture, and numbers that show how difficult
        the picture is, such as the share and the contrast of the flood (see `Difficulty`). `findings` has the argument
        `findings`. `seen` has one line for each model that was trained or validated on some of the pictures. `missing`
        has the argument `missing`.
    """
    blocks = []
    for model in study.models:
        for kind in study.kinds:
            trials = study.of(model, kind)
            scored = evaluation_of(study, model, kind).to_json()
            histograms = [trial.histogram for trial in trials]
            blocks.append({
                "model": model, "prompts": str(kind), "oracle": kind.is_oracle, "pictures": len(trials),
                "mean": scored["mean"], "pooled": scored["pooled"],
                "failures": [t.name for t in failures(trials)],
                "calibration_error": number(calibration_error(np.sum(histograms, axis=0))),
                "calibration_error_cross_fitted": number(cross_fitted_error(histograms, seed=study.seed)),
                "seconds": round(sum(trial.seconds for trial in trials), 2),
            })  # fmt: skip
    return {
        "models": list(study.models), "prompts": [str(kind) for kind in study.kinds],
        "results": blocks, "differences": [_jsonable(asdict(one)) for one in differences(study)],
        "pictures": [{"name": p.name, **_jsonable(asdict(p.traits))} for p in study.pictures],
        "findings": [asdict(finding) for finding in findings], "seen": list(study.seen()),
        "missing": list(missing),
    }  # fmt: skip


def _jsonable(values: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a dictionary with None in place of NaN, because JSON has no NaN."""
    return {key: number(value) if isinstance(value, float) else value for key, value in values.items()}


def write_tables(
    study: Study, folder: Path, findings: Sequence[Finding] = (), missing: Sequence[str] = ()
) -> tuple[Path, Path]:
    """Write `scores.csv` and `summary.json` to a folder. Each file is written completely or not at all.

    `scores.csv` has one row for each trial (a picture, a model and a kind of prompt). The docstring of the function
    `summary` describes the content of `summary.json`, and all arguments except `folder`.

    Returns:
        Path of `scores.csv`, and path of `summary.json`.
    """
    scores, summary_path = folder / "scores.csv", folder / "summary.json"
    columns = ("picture", "model", "prompts", "oracle", *RATIOS, "observed_share", *COUNTS, "unobserved", "seconds")
    lines = StringIO(newline="")
    writer = csv.writer(lines)
    writer.writerow(columns)
    for trial in study.trials:
        about = (trial.name, trial.model, str(trial.prompts), int(trial.prompts.is_oracle))
        values = [getattr(trial.scores, name) for name in columns[4:-1]]
        writer.writerow([*about, *values, round(trial.seconds, 3)])
    write_whole(scores, lines.getvalue())
    write_whole(summary_path, json.dumps(summary(study, findings, missing), indent=1, ensure_ascii=False) + "\n")
    return scores, summary_path


def table(study: Study) -> str:
    """Return a table in text form: mean scores of each model with each kind of prompt. Oracle prompts come last."""
    lines = [
        *study.seen(),
        f"{'model':<20} {'prompts':<10} {'IoU':>6} {'95 %':>15} {'Dice':>6} {'prec.':>6} {'recall':>6} {'<0.4':>5}",
    ]
    for oracle in (False, True):
        kinds = [kind for kind in study.kinds if kind.is_oracle == oracle]
        if kinds and oracle:
            lines.append("oracle: prompts taken from the reference")
        for kind in kinds:
            for model in study.models:
                scored = evaluation_of(study, model, kind)
                low, high = scored.interval("iou") or (np.nan, np.nan)
                means = [scored.mean(metric) for metric in ("iou", "dice", "precision", "recall")]
                iou, *others = (np.nan if mean is None else mean for mean in means)
                failed = len(failures(study.of(model, kind)))
                rest = " ".join(f"{value:>6.3f}" for value in others)
                lines.append(
                    f"{model:<20} {kind!s:<10} {iou:>6.3f} {f'{low:.3f} to {high:.3f}':>15} {rest} {failed:>5}"
                )
    return "\n".join(lines)


def nan_mean(values: NDArray[np.float64]) -> float:
    """Return the mean of the finite values of an array; NaN if no value is finite."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")


def rank_correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation between two arrays (n,). Pairs with a value that is not finite are left out.

    The result is NaN for fewer than three pairs, or if all values of one array are equal.
    """
    from scipy.stats import spearmanr

    finite = np.isfinite(one) & np.isfinite(other)
    if finite.sum() < 3 or np.ptp(one[finite]) == 0 or np.ptp(other[finite]) == 0:
        return float("nan")
    return float(spearmanr(one[finite], other[finite]).statistic)


def expected_iou(codes: Codes) -> float:
    """Estimate, without a reference, the IoU of a prediction from the predicted probabilities.

    If probabilities are calibrated, the result is the expected intersection divided by the expected union. A pixel is
    predicted as flood if its probability is at least 50 % (`THRESHOLD`). Unobserved pixels are left out.

    Args:
        codes: uint8 of any shape: probability in per cent, or from 250 the reason why the pixel is unobserved.

    Returns:
        IoU, 0 to 1; 1 if no pixel is predicted as flood.
    """
    probability = codes[codes < FIRST_REASON] / 100
    flood = probability >= THRESHOLD / 100
    union = flood.sum() + probability[~flood].sum()
    return float(probability[flood].sum() / union) if flood.any() else 1.0
