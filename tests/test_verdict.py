"""Statistics of a study: paired differences, failures, tables."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from floodmap.comparison.oracle import PromptKind
from floodmap.comparison.statistics import difference, differences, failures, summary, table, write_tables
from floodmap.comparison.study import Study, Trial
from floodmap.evaluation.scores import Scores
from floodmap.models.prompts import Prompts

AUTO, POINT = PromptKind.parse("auto"), PromptKind.parse("point")


def trial(name: str, model: str, iou: float, kind: PromptKind = AUTO) -> Trial:
    tp = round(1000 * iou)
    return Trial(
        name=name, model=model, prompts=kind, given=Prompts.none(), preview=np.zeros((4, 4), np.uint8), seconds=0.5,
        scores=Scores(name=name, tp=tp, fp=0, fn=1000 - tp, tn=1000), histogram=np.ones((101, 2), np.int64),
    )  # fmt: skip


def study_of(first: list[float], second: list[float], kind: PromptKind = AUTO) -> Study:
    trials = [
        trial(f"p{i}", model, iou, kind)
        for model, ious in (("old", first), ("new", second))
        for i, iou in enumerate(ious)
    ]
    return Study(pictures=(), trials=tuple(trials), models=("old", "new"), kinds=(kind,))


def test_a_steady_gain_is_real_and_a_chance_one_is_not() -> None:
    rng = np.random.default_rng(0)
    old = rng.uniform(0.4, 0.8, 30)
    gain = difference(study_of(old.tolist(), (old + rng.uniform(0.0, 0.1, 30)).tolist()), "old", "new", AUTO, "iou")
    assert gain.is_real and gain.low < gain.mean < gain.high and gain.p_value < 0.001 and gain.worse == 0
    noise = difference(study_of(old.tolist(), (old + rng.normal(0, 0.05, 30)).tolist()), "old", "new", AUTO, "iou")
    assert not noise.is_real and noise.low < 0 < noise.high


def test_equal_models_do_not_differ() -> None:
    [same] = differences(study_of([0.5, 0.7], [0.5, 0.7]))
    assert same.mean == 0 and same.p_value == 1.0 and not same.is_real and same.better == same.worse == 0


def test_failures_are_listed_worst_first() -> None:
    study = study_of([0.3, 0.9, 0.1], [0.8, 0.9, 0.39])
    assert [t.name for t in failures(study.of("old", AUTO))] == ["p2", "p0"]
    assert [t.name for t in failures(study.of("new", AUTO))] == ["p2"]


def test_tables_hold_every_trial_and_every_mean(tmp_path: Path) -> None:
    study = study_of([0.3, 0.9], [0.8, 0.9])
    scores, told = write_tables(study, tmp_path)
    with scores.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and [float(row["iou"]) for row in rows] == [0.3, 0.9, 0.8, 0.9]
    said = json.loads(told.read_text())
    assert said == json.loads(json.dumps(summary(study)))
    assert said["results"][1]["mean"]["iou"]["value"] == pytest.approx(0.85)
    assert said["results"][0]["failures"] == ["p0"]


def test_oracle_scores_are_kept_apart_in_the_table() -> None:
    automatic, oracle = study_of([0.5], [0.6]), study_of([0.7], [0.8], POINT)
    both = replace(automatic, trials=automatic.trials + oracle.trials, kinds=(POINT, AUTO))
    lines = table(both).splitlines()
    marker = next(i for i, line in enumerate(lines) if line.startswith("oracle"))
    assert all(" auto " in line for line in lines[1:marker]) and all(" point " in line for line in lines[marker + 1 :])
