"""Comparison of models and kinds of prompt on a folder of labelled pictures; writes HTML, CSV and JSON."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from floodmap._runtime.extras import require
from floodmap.comparison.oracle import PromptKind
from floodmap.comparison.statistics import summary, table, write_tables
from floodmap.comparison.study import Study, Trial, find_swapped_masks, run_study
from floodmap.errors import DownloadError, LabelError, ModelError, OutputError, PromptError, writing
from floodmap.masks.audit import Audit, Finding, audit
from floodmap.masks.labels import Labelled, find_labels, no_usable_picture
from floodmap.masks.rules import Ignore
from floodmap.models.protocol import Segmenter
from floodmap.models.training_record import curves_of

if TYPE_CHECKING:
    from floodmap.models.registry import ResolvedModel

log = logging.getLogger(__name__)

RESULTS = ("report.html", "scores.csv", "summary.json")
"""Names of the files that a comparison writes."""

Split = Literal["all", "train", "val", "test"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Results of a comparison: scores of every model with every kind of prompt on every picture."""

    study: Study
    """All pictures and all trials."""
    findings: tuple[Finding, ...]
    """Problems that were found in the labels."""
    out: Path
    """Folder of `report.html`, `scores.csv` and `summary.json`."""
    missing: tuple[str, ...] = ()
    """One line for each model that could not be downloaded, and therefore has no scores."""

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Content of `summary.json`; see `statistics.summary`."""
        return summary(self.study, self.findings, self.missing)

    @property
    def page_path(self) -> Path:
        """Path of the HTML page of the comparison, `report.html`."""
        return self.out / "report.html"

    def table(self) -> str:
        """Return the mean scores as lines of text. Scores with prompts from the reference (oracle) come last."""
        return "\n".join([*self.missing, table(self.study)])


@dataclass(frozen=True, slots=True)
class Contestant:
    """A model to compare."""

    segmenter: Segmenter
    """The loaded model."""
    file: Path | None = None
    """File of the model's weights; None if there is no such file.

    The HTML page of the comparison shows the training log of the model, if there is one in the folder of this file:
    `NAME_run/log.csv` for a file `NAME.safetensors`."""


def resolve_models(names: Sequence[str | Path]) -> tuple[list[ResolvedModel], list[str]]:
    """Find the weights of models by name or file, and download weights that are not on this machine.

    Args:
        names: names of models, or files of weights.

    Returns:
        The models that were found, and one line of text for each model that cannot be downloaded.

    Raises:
        ModelError: a name is unknown, a file is damaged, or none of the models is on this machine or can be downloaded.
    """
    from floodmap.models.registry import resolve

    found, missing = [], []
    for name in names:
        try:
            found.append(resolve(name))
        except ModelError as error:
            if not isinstance(error.__cause__, DownloadError) or (not found and name == names[-1]):
                raise
            missing.append(f"not compared: {error}")
    return found, missing


def compare_models(
    data: Path,
    models: Sequence[Contestant],
    prompts: Sequence[str],
    out: Path,
    *,
    missing: Sequence[str] = (),
    split: Split = "all",
    flood_value: str | None = None,
    ignore_values: Ignore = None,
    seed: int = 0,
    overwrite: bool = False,
    report: Callable[[Trial], None] = lambda _: None,
) -> Comparison:
    """Score every model with every kind of prompt on every labelled picture.

    Args:
        data: folder of labelled pictures: with the folders images/ and masks/, or with scenes beside their references.
            The data may be divided into folders train/, val/ and test/, or by a file splits.csv.
        models: models of different names.
        prompts: kinds of prompt: auto (as in `segment`), none, point, box or points:N (N points). The prompts of the
            last three kinds are computed from the reference (oracle).
        out: folder for `report.html`, `scores.csv` and `summary.json`; created if it is missing.
        missing: one line for each model that could not be downloaded; the lines appear in the results.
        split: part of the data that is used. "all" uses every picture, also if the data are not divided.
        flood_value: values of the masks that are flood, such as "1,2"; None: found from the masks.
        ignore_values: values of the masks that are neither flood nor dry; see `FloodRule.parse`.
        seed: seed of the bootstrap.
        overwrite: True: replace existing results.
        report: function that is called with each trial when the trial is finished, for example to show progress. It is
            not connected with `report.html`.

    Returns:
        The trials, and the problems found in the labels.

    Raises:
        LabelError: no picture can be used, or two models have one name.
        PromptError: a kind of prompt is unknown, or is named twice.
        OutputError: results exist already, or cannot be written.
    """
    from floodmap.comparison.report import write_html

    kinds = [PromptKind.parse(kind) for kind in prompts]
    if len(set(kinds)) < len(kinds):
        raise PromptError(f"--prompts contains a kind twice: {','.join(prompts)}")
    segmenters = [one.segmenter for one in models]
    if doubled := sorted({one.name for one in segmenters if [o.name for o in segmenters].count(one.name) > 1}):
        raise LabelError(f"there are two models of one name: {', '.join(doubled)}; rename a file")
    refuse_comparison(out, overwrite=overwrite)
    audited = audit(find_labels(data), flood_value=flood_value, ignore_values=ignore_values)
    for finding in audited.findings:
        log.warning("%s%s", "left out: " if finding.is_fatal else "", finding)
    study = run_study(
        _chosen(data, audited, split), segmenters, kinds, rule=audited.rule, clock=time.monotonic, seed=seed,
        report=report,
    )  # fmt: skip
    swapped = find_swapped_masks(study)
    for finding in swapped:
        log.warning("%s", finding)
    findings = (*audited.findings, *swapped)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    write_tables(study, out, findings, missing)
    title = f"{' against '.join(study.models)} on {data.name}"
    curves = {one.segmenter.name: curves_of(one.file) for one in models if one.file is not None}
    logs = {name: log for name, log in curves.items() if log is not None}
    footer = _footer(data, len(findings))
    write_html(study, out / "report.html", title=title, footer=footer, logs=logs, missing=missing)
    return Comparison(study=study, findings=findings, out=out, missing=tuple(missing))


def refuse_comparison(out: Path, *, overwrite: bool) -> None:
    """Check, before the scores are computed, that the results of a comparison can be written.

    Args:
        out: folder for the results; it need not exist yet.
        overwrite: True: results that exist are no error.

    Raises:
        OutputError: results exist already, or the folder cannot be written.
        MissingPackageError: matplotlib, which draws the charts, is not installed.
    """
    require("matplotlib", "comparing models")
    there = [name for name in RESULTS if (out / name).exists()]
    if there and not overwrite:
        raise OutputError(f"{out} holds a comparison already ({there[0]}); choose another folder or add --overwrite")
    ancestor = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not ancestor.is_dir() or not os.access(ancestor, os.W_OK):
        raise OutputError(f"{out} cannot be written: {ancestor} is no folder to write to; choose another output folder")


def _chosen(data: Path, audited: Audit, split: Split) -> list[Labelled]:
    """Return the usable pictures of a part of the data: all, train, val or test.

    Raises:
        LabelError: the part has no usable picture.
    """
    chosen = [one for one in audited.usable if split in ("all", one.split)]
    if not chosen:
        raise no_usable_picture(data, audited.findings, "" if split == "all" else split)
    return chosen


def _footer(data: Path, n_findings: int) -> str:
    """Return the last line of the HTML page: version of floodmap, date, name of the data, number of findings."""
    made = f"floodmap {version('floodmap')}, {date.today():%d %B %Y}, on {data.name}"
    wrong = f" What is wrong with the labels ({n_findings}) is in summary.json." if n_findings else ""
    return f"{made}; every figure is in scores.csv and summary.json beside this file.{wrong}"
