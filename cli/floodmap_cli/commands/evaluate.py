"""`floodmap evaluate`: score predictions against references."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from floodmap.errors import OutputError

from ..lines import lines
from ..options import (
    FileOrUrl,
    ignore_option,
    json_option,
    not_negative,
    overwrite_option,
    positive,
    progress_option,
    share,
)  # fmt: skip


@click.command()
@click.argument("prediction", type=FileOrUrl())
@click.argument("reference", type=FileOrUrl())
@click.option(
    "--flood-value", metavar="VALUE",
    help='Flood in the prediction: raster values ("1", "1,2"), or an attribute of polygons ("class=water").  '
    "[default: 1 in rasters of 0 and 1, 255 in rasters of 0 and 255, every polygon]",
)
@click.option("--reference-value", metavar="VALUE", help="Flood in the reference, in the form of --flood-value.")
@click.option(
    "--threshold", type=float, metavar="SHARE", callback=share,
    help="Probability, 0.01 to 1, from which a pixel of the prediction is flood. The prediction is then a raster of "
    "probabilities or per cent; in a folder, x_probability.tif is used.",
)
@ignore_option
@click.option(
    "--tolerance", "tolerance_m", type=float, metavar="METRES", callback=not_negative,
    help="Largest distance between boundaries that agree; in pixels if there is no CRS.  [default: 3 pixels]",
)
@click.option(
    "--resolution", "resolution_m", type=float, metavar="METRES", callback=positive,
    help="Size of the pixels that are counted if both sides are polygons.  [default: 1]",
)
@click.option(
    "--errors", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.gpkg",
    help="Write the false positives (red) and false negatives (green) as a styled layer.",
)
@click.option(
    "--csv", "csv_file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Write all scores and counts to this file: a row per scene, then the mean and pooled scores with intervals.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the bootstrap.")
@overwrite_option
@json_option
@progress_option
@click.pass_context
def evaluate(
    ctx: click.Context,
    /,
    prediction: Path | str,
    reference: Path | str,
    csv_file: Path | None,
    as_json: bool,
    overwrite: bool,
    **options: Any,
) -> None:
    """Score flood predictions against references.

    PREDICTION and REFERENCE are each a raster of one band or a polygon file, in any CRS and on any grid, the URL of
    such a file, or a folder of such files. Files in folders are paired by name: x_mask.tif (or x.gpkg ...) with
    x_reference.tif, x_mask.png, x.tif or x.gpkg. Files without a partner are listed.

    Pixels that are unobserved in the prediction or in the reference are left out: nodata, 255, values below 0,
    transparent pixels, pixels outside a raster, polygons of a layer "unobserved", and values of --ignore-value. In the
    prediction, --ignore-value does not apply to 0 or to flood values. The share of observed pixels stands beside every
    score. Ground outside polygons is dry. For several scenes, mean scores and pooled scores follow. In mean scores,
    every scene has equal weight; in pooled scores, every pixel has equal weight. The 95 % intervals of both come from a
    bootstrap over scenes.

    \b
        floodmap evaluate results/scene_mask.tif scene_reference.tif
        floodmap evaluate results references --errors wrong.gpkg --csv scores.csv
        floodmap evaluate results/scene.gpkg landuse.shp --reference-value class=water,river
        floodmap evaluate results/scene_mask.tif classes.tif --reference-value 5 --ignore-value 0,9
        floodmap evaluate results references --threshold 0.7
    """
    from floodmap.evaluation.run import evaluate as score

    if csv_file is not None and csv_file.exists() and not overwrite:
        raise OutputError(f"{csv_file} exists already; choose another name or add --overwrite")
    evaluation = score(prediction, reference, overwrite=overwrite, **options)
    if csv_file is not None:
        evaluation.write_csv(csv_file, overwrite=overwrite)
    click.echo(json.dumps(evaluation.to_json(), indent=2, ensure_ascii=False) if as_json else evaluation.table())
    for side, files in (("prediction", evaluation.unpaired_predictions), ("reference", evaluation.unpaired_references)):
        for file in files:
            lines.message("info", f"unpaired {side}: {file}")
    for line in evaluation.refused:
        lines.message("error", line)
    if evaluation.refused:
        ctx.exit(1)
