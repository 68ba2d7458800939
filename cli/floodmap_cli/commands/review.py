"""`floodmap review`: places of a result that are worth a look, and edits taken into the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ..options import dataset, json_option, overwrite_option, progress_option

if TYPE_CHECKING:
    from floodmap.analysis.review.ranking import Place


@click.command()
@click.argument("result", type=click.Path(path_type=Path), metavar="RESULT")
@click.option(
    "-o", "--output", "out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="GeoPackage to write, or with --apply to read.  [default: NAME_review.gpkg beside the result]",
)  # fmt: skip
@click.option("--count", type=click.IntRange(min=1), default=100, show_default=True, help="Largest number of places.")
@click.option(
    "--buildings", metavar="FILE", callback=dataset,
    help="Polygons or points. Places with uncertain buildings come first, those with the most at the top.",
)
@click.option("--buildings-layer", metavar="LAYER", help="Layer of the buildings.  [default: the first]")
@click.option("--apply", "applies", is_flag=True, help="Take the edits in the file into the result.")
@click.option("--undo", "undoes", is_flag=True, help="Bring the result of the model back. The edits are kept.")
@overwrite_option
@json_option
@progress_option
def review(
    result: Path, out: Path | None, count: int, buildings: Path | str | None, buildings_layer: str | None,
    applies: bool, undoes: bool, overwrite: bool, as_json: bool,
) -> None:
    """Write the places of RESULT that are most worth a look, or take edits into the result.

    RESULT is a result of segment or mosaic: one of its files, its folder and name, or its folder.

    \b
        floodmap review results/scene
        floodmap review results/scene --buildings osm.gpkg
        floodmap review results/scene --apply
        floodmap review results/scene --undo

    Each place is a square of a hundredth of the scene. The first has the largest expected error, by the probabilities
    of the model. In QGIS, set the status of a place: accepted (right), rejected (no flood here), or redrawn (the
    polygons of the layer `edits` are right). Polygons of `edits` also count outside of places.

    A building is uncertain if it is under water by the upper figure of `floodmap exposure` (from a probability of 0.3
    on), but not by the lower one (0.7). It belongs to the place in which its representative point lies.
    """
    from floodmap.analysis.review.run import apply_review, undo_review
    from floodmap.analysis.review.run import review as find_places

    if applies and undoes:
        raise click.UsageError("--apply and --undo exclude each other")
    if buildings and (applies or undoes):
        raise click.UsageError("--buildings ranks places; leave it out with --apply and --undo")
    given = click.get_current_context().get_parameter_source
    if (applies or undoes) and given("count") != ParameterSource.DEFAULT:
        raise click.UsageError("--count limits the list of places; leave it out with --apply and --undo")
    if undoes and out:
        raise click.UsageError("-o names the file of places; leave it out with --undo")
    if buildings_layer and not buildings:
        raise click.UsageError("--buildings-layer needs --buildings")
    if not applies and not undoes:
        found = find_places(
            result, out=out, count=count, buildings=buildings, buildings_layer=buildings_layer, overwrite=overwrite
        )
        uncertain = {} if buildings is None else {"buildings_uncertain": found.buildings_uncertain}
        if as_json:
            rows = [_row(rank, place) for rank, place in enumerate(found.places, 1)]
            click.echo(json.dumps({"file": str(found.path), "places": rows, **uncertain}))
            return
        text = f"{found.path}: {len(found.places)} places with {found.error_share:.0%} of the expected error"
        if uncertain:
            text += f" and {found.buildings_listed:,} of {found.buildings_uncertain:,} uncertain buildings"
        click.echo(text)
        return
    done = apply_review(result, out) if applies else undo_review(result)
    if as_json:
        click.echo(json.dumps(done.report, ensure_ascii=False))
        return
    area, about = done.report["flood_area_ha"], done.report.get("review")
    size = f"{done.report['pixels']['flood']:,} pixels" if area is None else f"{area:,.2f} ha"
    what = f"{about['pixels_changed']:,} pixels changed by the review" if about else "the result of the model"
    click.echo(f"{done.name}: {size} of flood, {what} -> {done.layer_paths[0]}")


def _row(rank: int, place: Place) -> dict[str, Any]:
    """Return one place for `--json`."""
    row: dict[str, Any] = {"rank": rank, "error_share": place.share}
    return row if place.buildings is None else {**row, "buildings_uncertain": place.buildings}
