"""HTML report of a study: one file with all pictures and charts, which opens offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from floodmap.comparison import charts
from floodmap.comparison.oracle import PromptKind
from floodmap.comparison.statistics import (
    FAILURE_IOU,
    Difference,
    difference,
    evaluation_of,
    expected_iou,
    failures,
    nan_mean,
    rank_correlation,
    spread_out,
)
from floodmap.comparison.study import Study, Trial
from floodmap.comparison.thumbnails import rgb_of, with_difference, with_prediction, with_prompts, with_reference
from floodmap.evaluation.scores import Ratio
from floodmap.models.calibration import calibration_error, cross_fitted_error
from floodmap.output.pages.html import jpeg, write_page
from floodmap.strips.codes import FLOOD, UNOBSERVED

THUMBNAIL_SIDE = 300
"""Limit in pixels of the longer side of a picture in the report, so that a report on 300 pictures is below 10 MB."""
SHEET, CHOSEN, WORST = 12, 5, 4
"""Largest numbers of pictures in sections of the report. SHEET: evenly spaced pictures in the order of the study, for
example every fifth. CHOSEN: evenly spaced pictures in the order of IoU. WORST: the pictures with the lowest IoU."""
METRICS: tuple[Ratio, ...] = ("iou", "dice", "precision", "recall")
LABELS = {"iou": "IoU", "dice": "Dice", "precision": "precision", "recall": "recall"}
TRAITS = {
    "flood_share": "share of water", "largest_share": "largest part of it", "irregularity": "irregularity of shape",
    "texture": "texture of the water", "contrast": "contrast with land",
}  # fmt: skip


def write_html(
    study: Study,
    path: Path,
    *,
    title: str,
    footer: str,
    logs: Mapping[str, dict[str, Any]] | None = None,
    missing: Sequence[str] = (),
) -> Path:
    """Write the HTML report of a study to the file `path`, and return `path`.

    Args:
        study: trials of at least one model on at least one picture.
        footer: last line of the report: version of floodmap, date of the report, and name of the data.
        logs: training logs, by name of the model that has one. A log maps column names to float64 (rows of the log,).
        missing: one line for each model that could not be downloaded.
    """
    write_page(path, "comparison.html", **_context(study, title, footer, logs or {}, missing))
    return path


def _context(
    study: Study, title: str, footer: str, logs: Mapping[str, dict[str, Any]], missing: Sequence[str]
) -> dict[str, Any]:
    automatic = [kind for kind in study.kinds if not kind.is_oracle] or list(study.kinds[:1])
    oracle = [kind for kind in study.kinds if kind.is_oracle]
    main = automatic[0]
    pair = (study.models[0], study.models[1]) if len(study.models) > 1 else None
    last = study.models[-1] if pair is None else pair[1]
    change = difference(study, *pair, main, "iou") if pair else None
    worst = sorted(study.of(study.models[0], main), key=lambda trial: trial.scores.iou)[:WORST]
    return {
        "title": title,
        "subtitle": f"{len(study.pictures)} pictures, {_listed(study.models)}; prompts: {_listed(study.kinds)}",
        "seen": [*study.seen(), *missing],
        "verdict": _headline(study, main, change),
        "pair": pair,
        "cards": [_card(study, model, main, colour) for colour, model in charts.coloured(study.models)],
        "helped": str(main) if main.is_oracle else "",
        "automatic": [_block(study, kind, pair) for kind in automatic],
        "spreads": _spreads(study, automatic),
        "sheet": _sheet(study),
        "chosen_prompts": str(main),
        "chosen": [_row(study, trial.name, main) for trial in spread_out(study.of(last, main), CHOSEN)],
        "worst": [_row(study, trial.name, main) for trial in worst],
        "worst_text": _worst_text(study, main, pair),
        "traits": _traits_table(study, main),
        "scatter": charts.scatter(_traits(study), {model: _ious(study, model, main) for model in study.models}),
        "groups": _groups(study, main),
        "calibration": charts.calibration({model: _pooled(study, model, main) for model in study.models}),
        "calibration_text": _calibration_text(study, main),
        "oracle": _oracle(study, oracle) if oracle else None,
        "curves": {name: charts.curves(log, "minutes" if "minutes" in log else "epoch") for name, log in logs.items()},
        "footer": footer,
    }


def _listed(names: Sequence[object]) -> str:
    return ", ".join(map(str, names))


def _ious(study: Study, model: str, kind: PromptKind) -> NDArray[np.float64]:
    return np.array([trial.scores.iou for trial in study.of(model, kind)])


def _pooled(study: Study, model: str, kind: PromptKind) -> NDArray[np.int64]:
    return np.asarray(np.sum([trial.histogram for trial in study.of(model, kind)], axis=0))


def _headline(study: Study, kind: PromptKind, change: Difference | None) -> str:
    given = f" with prompts from the reference ({kind})" if kind.is_oracle else ""
    if change is None:
        mean, alone = np.nanmean(_ious(study, study.models[0], kind)), given or " without prompts from the reference"
        return f"<b>{escape(study.models[0])}</b> reaches a mean IoU of {mean:.3f}{alone}."
    first, second = f"<b>{escape(change.first)}</b>", f"<b>{escape(change.second)}</b>"
    interval = f"({change.low:+.3f} to {change.high:+.3f}; Wilcoxon p {_p(change.p_value)})"
    if not change.is_real:
        return f"{second} and {first} do not differ beyond chance{given}: {change.mean:+.3f} IoU {interval}."
    word = "better" if change.mean > 0 else "worse"
    return (
        f"{second} is {word} than {first} by {abs(change.mean):.3f} IoU{given} {interval}: "
        f"higher on {change.better} pictures, lower on {change.worse}."
    )


def _p(value: float) -> str:
    return "below 0.001" if value < 0.001 else f"{value:.3f}"


def _card(study: Study, model: str, kind: PromptKind, colour: str) -> dict[str, str]:
    scored, failed = evaluation_of(study, model, kind), len(failures(study.of(model, kind)))
    return {
        "model": model, "colour": colour, "prompts": str(kind), "iou": _number(scored.mean("iou")),
        "interval": _interval(scored.interval("iou")),
        "failures": f"{failed} of {len(scored.scenes)} under {FAILURE_IOU:.2f}",
    }  # fmt: skip


def _number(value: float | None) -> str:
    return "n/a" if value is None or not np.isfinite(value) else f"{value:.3f}"


def _interval(ends: tuple[float, float] | None) -> str:
    return "n/a" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"


def _scored_row(study: Study, model: str, kind: PromptKind) -> dict[str, Any]:
    scored = evaluation_of(study, model, kind)
    cells = [{"mean": _number(scored.mean(name)), "interval": _interval(scored.interval(name))} for name in METRICS]
    return {
        "model": model, "prompts": str(kind), "cells": cells, "failures": len(failures(study.of(model, kind)))
    }  # fmt: skip


def _block(study: Study, kind: PromptKind, pair: tuple[str, str] | None) -> dict[str, Any]:
    means = {}
    for model in study.models:
        scored = evaluation_of(study, model, kind)
        means[model] = {
            LABELS[name]: (mean, *(scored.interval(name) or (mean, mean)))
            for name in METRICS
            if (mean := scored.mean(name)) is not None
        }
    block: dict[str, Any] = {
        "prompts": str(kind), "bars": charts.bars(means), "metrics": [LABELS[name] for name in METRICS],
        "rows": [_scored_row(study, model, kind) for model in study.models],
    }  # fmt: skip
    if pair:
        one, other = (means[model] for model in pair)
        block["change"] = [f"{other[name][0] / one[name][0] - 1:+.1%}" if one[name][0] else "n/a" for name in one]
        before, after = ({t.name for t in failures(study.of(model, kind))} for model in pair)
        block["removed"] = f"{len(before - after)} of {len(before)} removed" if before else ""
        change = difference(study, *pair, kind, "iou")
        block["test"] = (
            f"IoU, {pair[1]} minus {pair[0]}, picture by picture: {change.mean:+.3f} "
            f"({change.low:+.3f} to {change.high:+.3f}), Wilcoxon p {_p(change.p_value)}."
        )
    return block


def _spreads(study: Study, kinds: Sequence[PromptKind]) -> list[str]:
    def scores(trials: Sequence[Trial]) -> dict[str, NDArray[np.float64]]:
        return {LABELS[name]: np.array([getattr(trial.scores, name) for trial in trials]) for name in METRICS}

    series = {model: scores(study.of(model, kinds[0])) for model in study.models}
    if len(study.models) == 1:
        series = {f"{study.models[0]}, {kind}": scores(study.of(study.models[0], kind)) for kind in kinds}
    return [charts.histograms({LABELS[m]: {name: own[LABELS[m]] for name, own in series.items()} for m in METRICS})]


def _sheet(study: Study) -> list[dict[str, str]]:
    places = np.unique(np.linspace(0, len(study.pictures) - 1, min(SHEET, len(study.pictures))).round().astype(int))
    shown = []
    for picture in (study.pictures[i] for i in places):
        mask = np.where(picture.reference == FLOOD, 255, np.where(picture.reference == UNOBSERVED, 110, 25))
        both = np.concatenate([rgb_of(picture), np.repeat(mask.astype(np.uint8)[..., None], 3, axis=2)], axis=1)
        share = picture.traits.flood_share
        shown.append({"image": jpeg(both, 2 * THUMBNAIL_SIDE), "caption": f"{picture.name}, {share:.0%} water"})
    return shown


def _row(study: Study, name: str, kind: PromptKind) -> list[dict[str, str]]:
    """Return picture, reference and an error map per model, as dicts with the keys `image` (data URL) and `caption`."""
    picture = next(one for one in study.pictures if one.name == name)
    shown = [
        {"image": jpeg(rgb_of(picture), THUMBNAIL_SIDE), "caption": name},
        {"image": jpeg(with_reference(picture), THUMBNAIL_SIDE), "caption": "reference"},
    ]
    for model in study.models:
        trial = next(trial for trial in study.of(model, kind) if trial.name == name)
        caption = f"{model}: IoU {trial.scores.iou:.2f}, Dice {trial.scores.dice:.2f}"
        shown.append({"image": jpeg(with_difference(picture, trial), THUMBNAIL_SIDE), "caption": caption})
    return shown


def _worst_text(study: Study, kind: PromptKind, pair: tuple[str, str] | None) -> str:
    first = study.models[0]
    before = {trial.name for trial in failures(study.of(first, kind))}
    text = f"{first} scores below {FAILURE_IOU:.2f} on {len(before)} of {len(study.pictures)} pictures"
    if pair and before:
        after = {trial.name for trial in failures(study.of(pair[1], kind))}
        text += f"; {pair[1]} removes {len(before - after)} of these ({len(before - after) / len(before):.0%})"
        text += f" and adds {len(after - before)}" if after - before else " and adds none"
    return text + f". The worst pictures of {first} follow."


def _traits(study: Study) -> dict[str, NDArray[np.float64]]:
    return {label: np.array([getattr(p.traits, name) for p in study.pictures]) for name, label in TRAITS.items()}


def _traits_table(study: Study, kind: PromptKind) -> dict[str, Any] | None:
    """Return a table that compares the difficulty of failures and other pictures; None if there are under 4 pictures.

    Each row shows one measure in `TRAITS`: its means over failures and over others, and its rank correlation with the
    IoU. A failure is a picture on which the first model of the study has an IoU below `FAILURE_IOU`. If there are fewer
    than two such pictures, the quarter of the pictures with the lowest IoU is compared with the others instead.
    """
    ious = _ious(study, study.models[0], kind)
    if len(ious) < 4:
        return None
    failed = ious < FAILURE_IOU
    name = f"under {FAILURE_IOU:.2f}"
    if failed.sum() < 2:
        failed, name = ious <= np.quantile(ious, 0.25), "worst quarter"
    rows = []
    for label, values in _traits(study).items():
        correlation = rank_correlation(values, ious)
        cells = [f"{nan_mean(values[failed]):.2f}", f"{nan_mean(values[~failed]):.2f}", f"{correlation:+.2f}"]
        rows.append({"name": label, "cells": cells})
    columns = [f"{name} ({failed.sum()})", f"the others ({(~failed).sum()})", "rank correlation with IoU"]
    return {"columns": columns, "rows": rows}


def _groups(study: Study, kind: PromptKind) -> list[str]:
    """Return bar charts (SVG): mean IoU by flooded share of a picture, and by the share its largest flood covers."""
    shares = np.array([picture.traits.flood_share for picture in study.pictures])
    parts = np.array([p.traits.flood_share * np.nan_to_num(p.traits.largest_share) for p in study.pictures])
    shown = []
    for values, title in ((shares, "By share of water"), (parts, "By size of the largest water")):
        edges = np.array([0, 0.1, 0.25, 0.5, 1.0])
        group = np.clip(np.searchsorted(edges, values, "left") - 1, 0, 3)
        names = [f"{low:.0%} to {high:.0%}\n({(group == i).sum()})" for i, (low, high) in enumerate(pairwise(edges))]
        means = {}
        for model in study.models:
            ious = _ious(study, model, kind)
            means[model] = np.array([ious[group == i].mean() if (group == i).any() else np.nan for i in range(4)])
        shown.append(charts.grouped(names, means, title))
    return shown


def _calibration_text(study: Study, kind: PromptKind) -> str:
    parts = []
    for model in study.models:
        own = [trial.histogram for trial in study.of(model, kind)]
        parts.append(
            f"{model}: expected calibration error {calibration_error(np.sum(own, axis=0)):.3f}, "
            f"{cross_fitted_error(own, seed=study.seed):.3f} once recalibrated on other pictures"
        )
    return "; ".join(parts) + ". On the diagonal, of the pixels given 70 per cent 70 in 100 are flooded."


def _oracle(study: Study, kinds: Sequence[PromptKind]) -> dict[str, Any]:
    rows = [_scored_row(study, model, kind) for kind in kinds for model in study.models]
    series = {
        f"{model}, {kind}" if len(study.models) > 1 else str(kind): study.of(model, kind)
        for kind in kinds
        for model in study.models
    }
    spreads = charts.histograms({
        LABELS[metric]: {_: np.array([getattr(t.scores, metric) for t in trials]) for _, trials in series.items()}
        for metric in METRICS
    })  # fmt: skip
    panels = []
    for kind in kinds:
        panel = [_prompted_row(study, trial) for trial in spread_out(study.of(study.models[-1], kind), 3)]
        what = "a box around all flood" if kind.source == "box" else f"{kind.count} point{'s' * (kind.count > 1)}"
        text = (
            f"{study.models[-1]} with {what}. Then the difference: grey found, red false, green missed; "
            "“expects” is the IoU computed from the model's own probabilities."
        )
        panels.append({"title": f"Prompted with {kind}", "text": text, "rows": panel})
    return {"rows": rows, "spreads": [spreads], "panels": panels}


def _prompted_row(study: Study, trial: Trial) -> list[dict[str, str]]:
    picture = next(one for one in study.pictures if one.name == trial.name)
    scale = picture.rgb.shape[2] / picture.shape_hw[1]
    overlay = with_prediction(picture, trial)
    return [
        {"image": jpeg(with_prompts(rgb_of(picture), trial.given, scale), THUMBNAIL_SIDE), "caption": trial.name},
        {"image": jpeg(with_reference(picture), THUMBNAIL_SIDE), "caption": "reference"},
        {"image": jpeg(overlay, THUMBNAIL_SIDE), "caption": f"expects {expected_iou(trial.preview):.2f}"},
        {"image": jpeg(with_difference(picture, trial), THUMBNAIL_SIDE), "caption": f"IoU {trial.scores.iou:.2f}"},
    ]
