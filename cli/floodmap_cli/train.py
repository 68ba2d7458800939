"""`floodmap train`: a model of one's own from labelled imagery."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from floodmap.defaults import MODEL

from .options import device_option, ignore_option, overwrite_option, positive, verbosity_options
from .progress import progress_bar


@click.command("train", short_help="Train a model on labelled imagery.")
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "-o",
    "--output",
    "out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.safetensors",
    help="The weights; NAME_run beside it holds the log, the curves and what is needed to go on.  "
    "[default: named after DATA, in the current folder]",
)
@click.option("--base", default=MODEL, show_default=True, metavar="NAME|FILE", help="Weights to begin with.")
@click.option(
    "--train",
    "what",
    type=click.Choice(["full", "lora", "decoder"]),
    default="full",
    show_default=True,
    help="Train everything; the decoder and adapters in a SAM encoder; or the decoder alone: fast, for few pictures.",
)
@click.option("--epochs", type=float, default=20.0, show_default=True, callback=positive, help="Looks at each picture.")
@click.option("--learning-rate", type=float, default=2e-4, show_default=True, callback=positive)
@click.option(
    "--val-share",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.2,
    show_default=True,
    help="Share of the pictures to validate on, where the data does not say.",
)
@click.option(
    "--views",
    type=click.IntRange(min=0),
    default=8,
    show_default=True,
    help="With --train decoder: views of each picture to encode once and learn from; 0: new ones always.",
)
@click.option("--patience", type=click.IntRange(min=1), default=8, show_default=True, help="Half epochs without gain.")
@click.option("--flood-value", metavar="VALUE", help="Flood in the masks; the rest is dry.  [default: found out]")
@ignore_option
@click.option("--strict", is_flag=True, help="Stop if anything is wrong with the labels.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@device_option
@overwrite_option
@click.option("--resume", is_flag=True, help="Go on with a run that was broken off.")
@verbosity_options
def train(
    data: Path, out: Path | None, device: str, overwrite: bool, resume: bool, verbosity: int, **settings: Any
) -> None:  # fmt: skip
    """Train a model on the labelled imagery in DATA, beginning with one that knows floods.

    DATA holds images/ and masks/, or scenes beside references (x.tif and x_reference.tif or x.gpkg), perhaps in train/
    and val/ or with a splits.csv. The labels are audited first; near-duplicates stay on one side of the split.

    \b
        floodmap train my-floods
        floodmap segment scene.tif --model my-floods.safetensors
        floodmap train landcover -o mine.safetensors --flood-value 5 --ignore-value 0
    """
    from floodmap.models.loading import pick_device
    from floodmap.models.registry import read_metadata
    from floodmap.training.distributed import Crew
    from floodmap.training.finetune import FineTuneOptions, fine_tune

    out = out or Path(f"{data.resolve().name or 'mine'}.safetensors")
    options = FineTuneOptions(device=str(pick_device(device)), **settings)
    with progress_bar("train", hidden=verbosity < 0) as bar:
        path = fine_tune(
            data, out, options, overwrite=overwrite, resume=resume, report=lambda share, stage: bar(share, label=stage)
        )
    if not Crew(options.device).is_first:
        return
    told = read_metadata(path)
    scored, pictures = json.loads(told["scores"])["val_iou_auto"], len(json.loads(told["training"])["val"])
    click.echo(f"{path}: mean IoU {scored:.3f} on {pictures} pictures it was not trained on")
    click.echo(f"Use it: floodmap segment SCENE --model {path}")
