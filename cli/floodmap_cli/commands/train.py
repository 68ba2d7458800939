"""`floodmap train`: train a model on labelled imagery."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from floodmap.options import FineTuneOptions

from ..options import device_option, ignore_option, options_of, overwrite_option, progress_option, verbosity_options
from ..terminal import progress_bar


@click.command("train", short_help="Train a model on labelled imagery.")
@click.argument("data", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "-o",
    "--output",
    "out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.safetensors",
    help="File of the weights; NAME_run beside it holds the log, the curves and the state for --resume.  "
    "[default: named after DATA, in the current folder]",
)
@options_of(
    FineTuneOptions, "base", "what", "epochs", "learning_rate", "val_share", "views", "patience", "augment",
    "flood_value",
)
@ignore_option
@options_of(FineTuneOptions, "strict", "seed")
@device_option
@overwrite_option
@click.option("--resume", is_flag=True, help="Continue an interrupted run.")
@progress_option
@verbosity_options
def train(
    data: Path, out: Path | None, device: str, overwrite: bool, resume: bool, verbosity: int, **settings: Any
) -> None:  # fmt: skip
    """Train a model on the labelled imagery in DATA, starting from the weights of --base.

    DATA is a folder with images/ and masks/, or with scenes beside references (x.tif with x_reference.tif or x.gpkg).
    DATA may be divided into folders train/ and val/, or by a file splits.csv. If DATA is not divided, pictures for
    validation are drawn at random, and near-duplicates stay together: all in train or all in val. The labels are
    checked for errors first.

    \b
        floodmap train my-floods
        floodmap segment scene.tif --model my-floods.safetensors
        floodmap train landcover -o mine.safetensors --flood-value 5 --ignore-value 0
    """
    from floodmap.models.loading import pick_device
    from floodmap.training.distributed import ProcessGroup
    from floodmap.training.finetune import fine_tune

    out = out or Path(f"{data.resolve().name or 'mine'}.safetensors")
    options = FineTuneOptions(device=str(pick_device(device)), **settings)
    with progress_bar("train", hidden=verbosity < 0) as bar:
        model = fine_tune(
            data, out, options, overwrite=overwrite, resume=resume,
            report=lambda share, stage: bar(share, label=stage, stage="train"),
            on_checkpoint=lambda checkpoint: None if verbosity < 0 else click.echo(str(checkpoint), err=True),
        )  # fmt: skip
    if not ProcessGroup(options.device).is_first:
        return
    click.echo(
        f"{model.path}: mean IoU {model.val_iou:.3f}, before {model.val_iou_before:.3f}, "
        f"on {len(model.val)} pictures it was not trained on"
    )
    click.echo(f"Use it: floodmap segment SCENE --model {model.path}")
