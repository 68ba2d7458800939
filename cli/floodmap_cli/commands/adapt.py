"""`floodmap adapt`: tune a model to the corrections of one scene, and say whether it helped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from floodmap.options import AdaptOptions, SceneOptions

from ..options import (
    FileOrUrl,
    device_option,
    json_option,
    options_of,
    overwrite_option,
    progress_option,
    verbosity_options,
)
from ..terminal import progress_bar

NOT_WRITTEN = 1
"""Exit code if nothing was written, because the new weights did not help."""


@click.command("adapt", short_help="Adapt a model to your corrections of one scene.")
@click.argument("scene", type=FileOrUrl())
@click.option(
    "--corrections", required=True, type=click.Path(exists=True, path_type=Path), metavar="FILE",
    help="Polygons and points with a field `label` or `class` (1 or flood, 0 or dry), or the file of `review`.",
)  # fmt: skip
@click.option(
    "-o", "--output", "out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.safetensors",
    default="adapted.safetensors", show_default=True, help="File of the new weights.",
)  # fmt: skip
@options_of(AdaptOptions)
@options_of(SceneOptions)
@device_option
@overwrite_option
@json_option
@progress_option
@verbosity_options
def adapt(
    scene: str | Path, corrections: Path, out: Path, base: str, parts: int, even_if_worse: bool, seed: int,
    device: str, overwrite: bool, as_json: bool, verbosity: int, **options: Any,
) -> int:  # fmt: skip
    """Tune the decoder and the calibration of a model to corrections of SCENE.

    \b
        floodmap adapt scene.tif --corrections edits.gpkg -o local.safetensors
        floodmap segment scene.tif --model local.safetensors

    Each part of the corrections is kept out once, and weights tuned without it are compared there with the old ones. If
    they are not better, nothing is written, and the exit code is 1.
    """
    from floodmap.training.adaptation.run import adapt_model

    settings = AdaptOptions(base=base, parts=parts, even_if_worse=even_if_worse, seed=seed)
    with progress_bar("adapt", hidden=verbosity < 0) as bar:
        done = adapt_model(
            scene, corrections, out, settings, scene_options=SceneOptions(**options), device=device,
            overwrite=overwrite, report=lambda share, stage: bar(share, label=stage, stage=stage),
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps(done.as_json(), ensure_ascii=False))
    else:
        click.echo(f"{done.line()} [{done.seconds:.0f} s]")
        use = f"Use it: floodmap segment SCENE --model {done.path}"
        click.echo(use if done.path else "Nothing was written. To write it anyway: --even-if-worse")
    return 0 if done.path else NOT_WRITTEN
