"""`floodmap compare`: score models and kinds of prompt on labelled pictures."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import click

from floodmap.options import MODEL, OUTPUT_FOLDER

from ..options import device_option, flips_option, ignore_option, json_option, overwrite_option, verbosity_options

log = logging.getLogger("floodmap.compare")

INCOMPLETE = 3
"""Exit code if some models could not be downloaded."""


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
    help="Folder for report.html, scores.csv and summary.json; created if it is missing.",
)
@click.option(
    "--split",
    type=click.Choice(["all", "train", "val", "test"]),
    default="all",
    show_default=True,
    help="Part of the data to use, if the data is divided into train, val or test.",
)
@click.option(
    "--flood-value", metavar="VALUE",
    help="Value of flood in the masks; all others are dry.  [default: from the masks]",
)
@ignore_option
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the bootstrap.")
@device_option
@overwrite_option
@flips_option
@json_option
@verbosity_options
def compare(
    data: Path, models: str, kinds: str, out: Path, split: Any, flood_value: str | None,
    ignore_values: tuple[str, ...], seed: int, device: str, flips: bool, overwrite: bool, as_json: bool, verbosity: int,
) -> int:  # fmt: skip
    """Score every model with every kind of prompt on every labelled picture of DATA.

    DATA is a folder with images/ and masks/, or with scenes beside references (x.tif, x_reference.tif). DATA may be
    divided into folders train/, val/ and test/, or by a file splits.csv. Scores with prompts from the reference are
    oracle scores and are listed separately. If some models cannot be downloaded (no network), these models are listed,
    the other models are compared, and the exit code is 3.

    \b
        floodmap compare flood-area
        floodmap compare flood-area --split val --models finetuned,mine.safetensors -o comparison
    """
    from floodmap.comparison.run import RESULTS, Contestant, compare_models, refuse_comparison, resolve_models
    from floodmap.models.loading import load_segmenter
    from floodmap.models.mirrored import Mirrored

    refuse_comparison(out, overwrite=overwrite)  # early, because loading the models takes long
    resolved, missing = resolve_models([model.strip() for model in models.split(",")])
    for line in missing:
        log.warning("%s", line)
    loaded = [load_segmenter(model, device) for model in resolved]
    used = [Mirrored(one) for one in loaded] if flips else loaded
    comparison = compare_models(
        data, [Contestant(one, model.path) for one, model in zip(used, resolved, strict=True)], kinds.split(","), out,
        missing=missing, split=split, flood_value=flood_value, ignore_values=ignore_values, seed=seed,
        overwrite=overwrite,
    )  # fmt: skip
    click.echo(json.dumps(comparison.summary, indent=1, ensure_ascii=False) if as_json else comparison.table())
    click.echo(f"Results: {out}{os.sep} ({', '.join(RESULTS)})", err=as_json)
    return INCOMPLETE if missing else 0
