"""`floodmap vectorize`: trace a mask or probability raster as polygons."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path

import click

from floodmap.errors import OutputError
from floodmap.options import FORMATS, FloodType, Schema, SegmentOptions

from ..options import (
    FileOrUrl,
    ignore_option,
    json_option,
    not_negative,
    options_of,
    overwrite_option,
    progress_option,
    share,
)  # fmt: skip


def _output(ctx: click.Context, param: click.Parameter, value: Path) -> Path:
    """Refuse an output file if the suffix is not the suffix of a vector format (callback of click)."""
    if value.suffix.lower().removeprefix(".") not in FORMATS:
        raise click.BadParameter(f"the suffix of {value.name} is no format; choose from {', '.join(FORMATS)}")
    return value


@click.command()
@click.argument("mask", type=FileOrUrl(exists=True, dir_okay=False))
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    callback=_output,
    help=f"File to write; its suffix is the format: {', '.join(FORMATS)}.",
)
@click.option(
    "--threshold",
    type=float,
    metavar="SHARE",
    callback=share,
    help="Probability, 0.01 to 1, from which a pixel is flood; the raster then holds probabilities or per cent.  "
    "[default: 0.5 for x_probability.tif]",
)
@click.option(
    "--flood-value",
    metavar="VALUE",
    help='Value of flooded pixels of a mask ("1", "1,2").  [default: 1 in masks of 0 and 1, 255 in masks of 0 and 255]',
)
@ignore_option
@click.option(
    "--min-area",
    "min_area_m2",
    type=float,
    default=0.0,
    metavar="M2",
    callback=not_negative,
    help="Drop flood polygons below this area on the ground, in square metres.",
)
@click.option(
    "--simplify",
    "simplify_m",
    type=float,
    default=0.0,
    metavar="METRES",
    callback=not_negative,
    help="Remove details of outlines below about this size; flood and unobserved ground keep their common border.",
)
@options_of(SegmentOptions, "schema", "flood_type")
@overwrite_option
@json_option
@progress_option
def vectorize(
    mask: Path | str,
    output: Path,
    threshold: float | None,
    flood_value: str | None,
    ignore_values: tuple[str, ...],
    min_area_m2: float,
    simplify_m: float,
    schema: Schema,
    flood_type: FloodType,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Trace a mask or probability raster as polygons.

    MASK is a raster of one band, or its URL, written by floodmap or another program. Pixels are unobserved if they
    are nodata or transparent, or have a value below 0, or the value 255 in a mask of 0 and 1. A GeoPackage has the
    layers flood and unobserved, styled for QGIS. In other formats, the unobserved polygons are in a second file, with
    _unobserved before the suffix. With --schema cems, the file has the layers of Copernicus EMS Rapid Mapping instead.

    \b
        floodmap vectorize results/scene_mask.tif -o flood.gpkg
        floodmap vectorize results/scene_probability.tif -o flood.geojson --threshold 0.7 --min-area 100
        floodmap vectorize landcover.tif -o water.gpkg --flood-value 11,12
    """
    from floodmap.geo.crs import is_placed
    from floodmap.geo.downloads import local_file
    from floodmap.output.polygons import vectorize_layers
    from floodmap.output.products.cems_of_mask import write_cems_of_mask
    from floodmap.output.vector_files import write_file

    SegmentOptions(schema=schema, flood_type=flood_type)  # refuses a kind of flood without the schema
    if output.exists() and not overwrite:
        raise OutputError(f"{output} exists already; choose another name or add --overwrite")
    with local_file(mask) as file:
        layers = vectorize_layers(
            file, flood_value=flood_value, threshold=threshold, ignore_values=ignore_values, min_area_m2=min_area_m2,
            simplify_m=simplify_m,
        )  # fmt: skip
        if schema == "cems":
            paths = write_cems_of_mask(file, layers, output, flood_type=flood_type, overwrite=overwrite)
        else:
            date = datetime.fromtimestamp(file.stat().st_mtime, UTC)
            paths = write_file(layers.flood, layers.unobserved, output, date=date, overwrite=overwrite)
    # Without `skipna=False`, pandas counts unknown areas as 0.
    area = float(layers.flood["area_m2"].sum(skipna=False)) if is_placed(layers.flood.crs) else None
    area = None if area is None or math.isnan(area) else area
    if as_json:
        report = {"files": [str(path) for path in paths], "polygons": len(layers.flood),
                  "unobserved": len(layers.unobserved), "area_m2": area}  # fmt: skip
        click.echo(json.dumps(report))
    else:
        size = "" if area is None else f", {area / 1e4:,.2f} ha"
        click.echo(f"{paths[0]}: {len(layers.flood)} flood polygons{size}; {len(layers.unobserved)} unobserved")
