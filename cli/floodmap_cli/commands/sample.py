"""`floodmap sample`: write a synthetic flooded scene and its reference."""

from __future__ import annotations

from pathlib import Path

import click

from ..options import overwrite_option, positive, progress_option, verbosity_options
from ..terminal import progress_bar

PIXELS = click.IntRange(min=1)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("scene", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--size", type=PIXELS, default=2048, show_default=True, metavar="PIXELS", help="Width and height.")
@click.option("--width", type=PIXELS, metavar="PIXELS", help="Width, if it differs from --size.")
@click.option("--height", type=PIXELS, metavar="PIXELS", help="Height, if it differs from --size.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Number of the landscape.")
@click.option(
    "--gsd", "gsd_m", type=float, default=0.3, show_default=True, metavar="METRES", callback=positive,
    help="Ground sample distance.",
)  # fmt: skip
@overwrite_option
@progress_option
@verbosity_options
def sample(
    scene: Path,
    size: int,
    width: int | None,
    height: int | None,
    seed: int,
    gsd_m: float,
    overwrite: bool,
    verbosity: int,
) -> None:
    """Write a synthetic flooded scene to the file SCENE, and the reference to a second file beside SCENE.

    The name of the reference has _reference before the suffix: x_reference.tif for x.tif. The same seed, size and
    ground sample distance give the same pixels on every machine. Scenes of any size are drawn in little memory.
    """
    from floodmap.synthetic.sample import write_sample

    with progress_bar(scene.name, hidden=verbosity < 0) as update:
        paths = write_sample(
            scene, width=width or size, height=height or size, seed=seed, gsd_m=gsd_m, overwrite=overwrite,
            progress=update,
        )  # fmt: skip
    for path in paths:
        click.echo(path)
