"""`floodmap exposure`: count buildings, roads and people under water, by district."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click

from ..options import dataset, json_option, overwrite_option, progress_option, verbosity_options
from ..terminal import progress_bar

SUFFIXES = (".xlsx", ".csv", ".gpkg", ".json")
"""Suffixes of tables."""
_COMMA = re.compile("|".join(rf"(?<=\{suffix})," for suffix in SUFFIXES), re.IGNORECASE)


def _tables(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[Path, ...]:
    """Split names of tables at commas after a suffix, and refuse other suffixes (callback of click)."""
    names = [name.strip() for text in value for name in _COMMA.split(text)]
    for name in names:
        if Path(name).suffix.lower() not in SUFFIXES:
            raise click.BadParameter(f"the suffix of {name!r} is not that of a table: {', '.join(SUFFIXES)}")
    return tuple(map(Path, names))


@click.command()
@click.argument("result", type=click.Path(path_type=Path))
@click.option("--buildings", metavar="FILE", callback=dataset, help="Buildings: polygons or points.")
@click.option("--roads", metavar="FILE", callback=dataset, help="Roads: lines.")
@click.option(
    "--admin", metavar="FILE", callback=dataset,
    help="Districts: polygons. A row is written for each that touches the scene.  [default: one row, the whole scene]",
)
@click.option("--population", metavar="FILE", callback=dataset, help="Raster of people.")
@click.option(
    "-o", "--output", "out", multiple=True, metavar="TABLE", callback=_tables,
    help=f"Table to write: {', '.join(SUFFIXES)}. Several: separated by commas, or the option repeated.",
)
@click.option(
    "--road-class", metavar="FIELD", help="Field with the class of a road.  [default: highway, fclass or class]"
)
@click.option("--district-name", metavar="FIELD", help="Field with the name of a district.  [default: name]")
@click.option(
    "--population-per", type=click.Choice(["pixel", "km2"]), default="pixel", show_default=True,
    help="Unit of the raster: people per pixel, or per square kilometre.",
)
@click.option("--buildings-layer", metavar="LAYER", help="Layer of the buildings.  [default: the first]")
@click.option("--roads-layer", metavar="LAYER", help="Layer of the roads.  [default: the first]")
@click.option("--admin-layer", metavar="LAYER", help="Layer of the districts.  [default: the first]")
@click.option("--report", is_flag=True, help="Write NAME_exposure.html as well, the figures on one page.")
@overwrite_option
@json_option
@progress_option
@verbosity_options
def exposure(
    result: Path, out: tuple[Path, ...], as_json: bool, verbosity: int, **options: Any
) -> None:
    """Count buildings, roads and people under water, by district.

    RESULT is a result of `floodmap segment` or `mosaic`: NAME.json, NAME_probability.tif, or the folder with NAME.

    \b
        floodmap exposure results/scene --buildings osm.gpkg --admin districts.gpkg -o exposure.xlsx

    Each figure is a best one with a lower and an upper one: flood from a probability of the result's threshold, 0.7 and
    0.3. Unobserved ground stands beside it. Permanent water in the mask is no flood. Areas and lengths are geodesic.
    Inputs may have any CRS and any format that GDAL reads.

    A building belongs to the district of its representative point, and a road is cut at the border. People are spread
    evenly over their pixel of the raster.
    """
    if not any(options[name] for name in ("buildings", "roads", "admin", "population")):
        raise click.UsageError("give at least one of --buildings, --roads, --admin, --population")
    from floodmap.analysis.exposure.run import exposure as expose

    with progress_bar(result.name, hidden=verbosity < 0) as update:
        exposed = expose(result, out=out, progress=update, **options)
    if as_json:
        click.echo(json.dumps(exposed.report, indent=2, ensure_ascii=False))
    elif verbosity >= 0:
        click.echo(exposed.table())
        for path in (*exposed.paths, *([exposed.page_path] if exposed.page_path else [])):
            click.echo(f"-> {path}")
