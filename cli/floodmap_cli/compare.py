"""`floodmap compare`: models and kinds of prompt on labelled pictures."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

import click

from floodmap.errors import LabelError, OutputError, PromptError, writing
from floodmap.options import MODEL, OUTPUT_FOLDER

from .options import device_option, flips_option, ignore_option, json_option, overwrite_option, verbosity_options

log = logging.getLogger("floodmap.compare")

RESULTS = ("summary.json", "scores.csv", "report.html")
"""What a comparison writes."""


@click.command("compare", short_help="Score models and prompts on labelled pictures.")
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--models",
    default=MODEL,
    show_default=True,
    metavar="LIST",
    help="Names (see: floodmap models list) or files, separated by commas.",
)
@click.option(
    "--prompts",
    "kinds",
    default="auto,none",
    show_default=True,
    metavar="LIST",
    help="auto, none, point, box, points:N, separated by commas; the last three come from the reference (oracle).",
)
@click.option(
    "-o",
    "--output",
    "out",
    default=OUTPUT_FOLDER,
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Folder for report.html, scores.csv and summary.json; made if it is not there.",
)
@click.option(
    "--split",
    type=click.Choice(["all", "train", "val", "test"]),
    default="all",
    show_default=True,
    help="Which part of the data, where it says so itself.",
)
@click.option("--flood-value", metavar="VALUE", help="Flood in the masks; the rest is dry.  [default: found out]")
@ignore_option
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the bootstrap.")
@device_option
@overwrite_option
@flips_option
@json_option
@verbosity_options
def compare(
    data: Path, models: str, kinds: str, out: Path, split: str, flood_value: str | None,
    ignore_values: tuple[str, ...], seed: int, device: str, flips: bool, overwrite: bool, as_json: bool, verbosity: int,
) -> None:  # fmt: skip
    """Score every model with every kind of prompt on every labelled picture of DATA.

    DATA holds images/ and masks/, or scenes beside references (x.tif, x_reference.tif), perhaps in train/ and val/ or
    with a splits.csv. Scores made with prompts from the reference are oracle scores and are kept apart.

    \b
        floodmap compare flood-area
        floodmap compare flood-area --split val --models finetuned,mine.safetensors -o comparison
    """
    from floodmap.comparison.oracle import PromptKind
    from floodmap.comparison.report import write_html
    from floodmap.comparison.statistics import summary, table, write_tables
    from floodmap.comparison.study import run_study, swapped_in
    from floodmap.masks.audit import audit
    from floodmap.masks.labels import find_labels
    from floodmap.models.loading import load_segmenter
    from floodmap.models.mirrored import Flipped
    from floodmap.models.registry import resolve
    from floodmap.training.finetune import curves_of

    wanted = [PromptKind.parse(kind) for kind in kinds.split(",")]
    if len(set(wanted)) < len(wanted):
        raise PromptError(f"--prompts {kinds} names a kind twice")
    _refuse_output(out, overwrite=overwrite)
    audited = audit(find_labels(data), flood_value=flood_value, ignore_values=ignore_values)
    for finding in audited.findings:
        log.warning("%s%s", "left out: " if finding.is_fatal else "", finding)
    chosen = [one for one in audited.usable if split in ("all", one.split)]
    if not chosen:
        first = f"; the first finding: {audited.findings[0].text}" if audited.findings else ""
        raise LabelError(f"{data} has no usable picture{'' if split == 'all' else f' in {split}'}{first}")
    resolved = [resolve(model.strip()) for model in models.split(",")]
    loaded = [load_segmenter(model, device) for model in resolved]
    if len({model.name for model in loaded}) < len(loaded):
        raise LabelError(f"--models {models} has two of one name; rename a file")
    used = [Flipped(one) for one in loaded] if flips else loaded
    study = run_study(chosen, used, wanted, rule=audited.rule, clock=time.monotonic)
    swapped = swapped_in(study)
    for finding in swapped:
        log.warning("%s", finding)
    findings = [*audited.findings, *swapped]
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    write_tables(study, out, seed, findings)
    title = f"{' against '.join(study.models)} on {data.name}"
    footer = _footer(data, len(findings))
    write_html(study, out / "report.html", title=title, footer=footer, log=curves_of(resolved[-1].path))
    told = summary(study, seed, findings)
    click.echo(json.dumps(told, indent=1, ensure_ascii=False) if as_json else table(study))
    click.echo(f"Results: {out}{os.sep} ({', '.join(reversed(RESULTS))})", err=as_json)


def _refuse_output(out: Path, *, overwrite: bool) -> None:
    """Before anything is computed: scoring takes its time."""
    there = [name for name in RESULTS if (out / name).exists()]
    if there and not overwrite:
        raise OutputError(f"{out} holds a comparison already ({there[0]}); choose another folder or add --overwrite")
    ancestor = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not ancestor.is_dir() or not os.access(ancestor, os.W_OK):
        raise OutputError(f"{out} cannot be written: {ancestor} is no folder to write to; choose another output folder")


def _footer(data: Path, n_findings: int) -> str:
    from datetime import date

    from floodmap import __version__

    made = f"floodmap {__version__}, {date.today():%d %B %Y}, on {data.name}"
    wrong = f" What is wrong with the labels ({n_findings}) is in summary.json." if n_findings else ""
    return f"{made}; every figure is in scores.csv and summary.json beside this file.{wrong}"
