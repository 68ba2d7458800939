"""The report of a comparison: complete, self-contained, small."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import HANGS
from PIL import Image

from floodmap.comparison.charts import COLOURS
from floodmap.comparison.difficulty import measure_difficulty
from floodmap.comparison.oracle import PromptKind
from floodmap.comparison.report import write_html
from floodmap.comparison.statistics import expected_iou, summary, table
from floodmap.comparison.study import Picture, Study, Trial
from floodmap.evaluation.scores import Scores
from floodmap.models.prompts import Prompts
from floodmap_cli.main import cli

KINDS = tuple(PromptKind.parse(text) for text in ("auto", "point", "box"))


def study_of(models: tuple[str, ...], count: int = 6, kinds: tuple[PromptKind, ...] = KINDS) -> Study:
    rng = np.random.default_rng(0)
    pictures, trials = [], []
    for i in range(count):
        rgb = rng.integers(0, 256, (3, 40, 60)).astype(np.uint8)
        reference = np.zeros((40, 60), np.uint8)
        reference[: 5 + 5 * i] = 1
        name = f"picture <{i}>"
        pictures.append(
            Picture(
                name=name, rgb=rgb, reference=reference, shape_hw=(80, 120), traits=measure_difficulty(rgb, reference)
            )
        )
        for m, model in enumerate(models):
            for kind in kinds:
                codes = np.where(np.roll(reference, (3 - 2 * m) * (1 + i % 3), axis=0) == 1, 90, 10).astype(np.uint8)
                hit = int(((codes > 50) & (reference == 1)).sum())
                wrong = int(((codes > 50) & (reference == 0)).sum()), int(((codes <= 50) & (reference == 1)).sum())
                given = Prompts.none()
                if kind.source == "points":
                    given = Prompts(points_xy=np.array([[10, 10]], np.float32), labels=np.array([1]))
                if kind.source == "box":
                    given = Prompts(boxes_xyxy=np.array([[0, 0, 60, 30]], np.float32))
                trials.append(Trial(
                    name=name, model=model, prompts=kind, given=given, preview=codes, seconds=0.1,
                    scores=Scores(name=name, tp=hit, fp=wrong[0], fn=wrong[1], tn=2400 - hit - sum(wrong)),
                    histogram=np.bincount(codes.ravel() * 2 + reference.ravel(), minlength=202).reshape(101, 2),
                ))  # fmt: skip
    return Study(pictures=tuple(pictures), trials=tuple(trials), models=models, kinds=kinds)


@pytest.mark.slow
def test_the_report_holds_every_part_and_fetches_nothing(tmp_path: Path) -> None:
    log = {"minutes": np.arange(5.0), "loss": np.linspace(1, 0.5, 5), "val_iou_auto": np.linspace(0.5, 0.7, 5)}
    logs = {"old & new": log, "new": log}
    path = write_html(study_of(("old & new", "new")), tmp_path / "r.html", title="a < b", footer="made here", logs=logs)
    html = path.read_text()
    parts = (
        "Means, and what changed", "How scores are spread", "The pictures", "Side by side", "The worst",
        "Calibration of the probabilities", "ORACLE", "Prompted with point", "Prompted with box", "Training",
        "How old &amp; new was trained", "How new was trained",
    )  # fmt: skip
    for part in parts:
        assert part in html, part
    assert "a &lt; b" in html and "picture &lt;3&gt;" in html and "old &amp; new" in html
    assert not re.search(r"(?:src|href)=.(?!data:|#)", html) and "@import" not in html and "url(http" not in html
    assert len(html) < 3_000_000


@pytest.mark.slow
def test_one_model_alone_gets_a_report(tmp_path: Path) -> None:
    html = write_html(study_of(("only",), count=2), tmp_path / "r.html", title="t", footer="f").read_text()
    assert "reaches a mean IoU" in html and "what changed" not in html


@pytest.mark.slow
def test_oracle_scores_stand_in_their_own_section(tmp_path: Path) -> None:
    html = write_html(study_of(("old", "new")), tmp_path / "r.html", title="t", footer="f").read_text()
    before, after = html.split('class="oracle"')
    assert "prompts: auto" in before and "prompts: point" not in before and "ORACLE" not in before
    assert after.count("<td>point</td>") == 2


def flat(html: str) -> str:
    return re.sub(r"<svg.*?</svg>", "", html, flags=re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("models", [("only",), ("old", "new")])
def test_scores_with_oracle_prompts_alone_are_not_called_scores_without_them(
    tmp_path: Path, models: tuple[str, ...]
) -> None:
    study = study_of(models, 2, KINDS[2:])
    html = flat(write_html(study, tmp_path / "r.html", title="t", footer="f").read_text())
    head = html.split('class="oracle"')[0]
    assert "without prompts from the reference" not in html and "Without any prompt" not in html
    assert "with prompts from the reference (box)" in head and '<span class="tag">ORACLE</span>' in head


@pytest.mark.slow
def test_the_page_and_the_table_have_the_intervals_of_summary_json(tmp_path: Path) -> None:
    study = replace(study_of(("old", "new"), kinds=KINDS[:1]), seed=5)
    html = flat(write_html(study, tmp_path / "r.html", title="t", footer="f").read_text())
    wanted = summary(study)
    assert wanted != summary(replace(study, seed=0))
    for one in wanted["results"]:
        low, high = one["mean"]["iou"]["interval_95"]
        assert html.count(f"{low:.3f} to {high:.3f}") == 2 and f"{low:.3f} to {high:.3f}" in table(study)
        assert f"{one['calibration_error_cross_fitted']:.3f} once" in html
    [change] = wanted["differences"]
    assert html.count(f"({change['low']:+.3f} to {change['high']:+.3f}") == 2


@pytest.mark.slow
def test_every_model_is_in_the_cards_and_in_every_chart(tmp_path: Path) -> None:
    names = tuple(f"model{i:02}" for i in range(len(COLOURS) + 1))
    html = write_html(study_of(names, 2, KINDS[:1]), tmp_path / "r.html", title="t", footer="f").read_text()
    assert html.count('class="card"') == len(names)
    charts = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert [names[-1] in chart for chart in charts] == [names[0] in chart for chart in charts]
    assert any(names[-1] in chart for chart in charts)


def test_expected_iou_follows_from_the_probabilities() -> None:
    assert expected_iou(np.array([[100, 100, 0, 0]], np.uint8)) == 1.0
    assert expected_iou(np.array([[50, 0]], np.uint8)) == pytest.approx(0.5)
    assert expected_iou(np.array([[80, 20, 255]], np.uint8)) == pytest.approx(0.8 / 1.2)


@pytest.mark.slow
def test_the_report_opens_in_a_browser(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no Chromium here")
    path = write_html(study_of(("old", "new")), tmp_path / "r.html", title="t", footer="f")
    shot = tmp_path / "shot.png"
    subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,2400", f"--screenshot={shot}",
         path.as_uri()], check=True, capture_output=True, timeout=HANGS,
    )  # fmt: skip
    assert len(np.unique(np.asarray(Image.open(shot).convert("L")))) > 50


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for folder in ("images", "masks"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    rng = np.random.default_rng(1)
    for i in range(2):
        mask = np.zeros((64, 64), np.uint8)
        mask[:, : 20 + 10 * i] = 1
        Image.fromarray(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(
            tmp_path / "set" / "images" / f"{i}.png"
        )
        Image.fromarray(mask).save(tmp_path / "set" / "masks" / f"{i}.png")
    return tmp_path / "set"


@pytest.mark.slow
def test_compare_writes_tables_and_a_report(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["compare", str(data), "--prompts", "none,points:2", "-o", str(out)]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and "oracle" in done.output
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "scores.csv", "summary.json"]
    again = CliRunner().invoke(cli, arguments)
    assert "holds a comparison already" in str(again.exception)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "told"),
    [(["--prompts", "auto,guess"], "no kind of prompt"), (["--prompts", "auto,auto"], "twice"),
     (["--models", "finetuned,finetuned"], "two models of one name"), (["--split", "val"], "no usable picture in val")],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused_in_one_line(
    data: Path, tmp_path: Path, options: list[str], told: str
) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(cli, ["compare", str(data), "-o", str(out), *options])
    assert told in str(done.exception) and not out.exists()
