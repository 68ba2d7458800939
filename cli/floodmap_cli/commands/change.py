"""`floodmap change`: compare two dates; writes a raster, polygons and a JSON report of the changes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from floodmap.options import OUTPUT_FOLDER, SceneOptions, SegmentOptions

from ..options import (
    FileOrUrl,
    device_option,
    flips_option,
    ignore_option,
    json_option,
    model_option,
    options_of,
    progress_option,
    share,
    verbosity_options,
)  # fmt: skip
from ..terminal import progress_bar

if TYPE_CHECKING:
    from floodmap.analysis.change_files import Change

INCOMPLETE = 3
"""Exit code: the comparison is written, but some windows of the scenes failed."""
_VALUE = 'Water in {}: raster values ("1", "1,2"), or an attribute of polygons ("class=water").'


@click.command("change", short_help="Compare two dates: newly flooded, receded, unchanged water.")
@click.argument("before", type=FileOrUrl())
@click.argument("after", type=FileOrUrl())
@click.option(
    "-o", "--output", "out", default=OUTPUT_FOLDER, show_default=True,
    type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER",
    help="Folder for the results; created if it is missing.",
)
@click.option("--name", metavar="NAME", help="First part of the names of all result files.  [default: that of AFTER]")
@click.option(
    "--grid", type=click.Choice(["before", "after"]), default="after", show_default=True,
    help="Side whose pixels the result has.",
)
@click.option(
    "--before-value", metavar="VALUE",
    help=_VALUE.format("BEFORE") + "  [default: from the values; 1 and 2 in masks of floodmap; every polygon]",
)
@click.option("--after-value", metavar="VALUE", help=_VALUE.format("AFTER"))
@click.option(
    "--threshold", type=float, metavar="SHARE", callback=share,
    help="Probability, 0.01 to 1, from which a pixel of a probability raster, or of a scene, is water.  "
    "[default: 0.5]",
)
@ignore_option
@options_of(SegmentOptions, "min_area_m2", "simplify_m", "formats")
@model_option
@options_of(SceneOptions, "resolution_m", "bands", "nir", "nodata", "collar", "crs", "aoi")
@device_option
@flips_option
@options_of(SegmentOptions, "overwrite", "resume")
@json_option
@progress_option
@verbosity_options
def change(
    before: Path | str, after: Path | str, out: Path, as_json: bool, verbosity: int, **settings: Any
) -> int:  # fmt: skip
    """Compare two dates of a place: BEFORE and AFTER.

    \b
        floodmap change monday/scene_mask.tif thursday/scene_mask.tif -o compared
        floodmap change monday.tif thursday.tif -o compared

    Each side is a mask, a raster of probabilities, polygons, or the JSON of a result, in any CRS and on any grid; or a
    scene of several bands, which is segmented first into FOLDER/before or FOLDER/after. Of the options, --model,
    --bands, --nir, --nodata, --collar, --crs, --aoi, --device, --flips and --resume are for scenes, and --resolution is
    for scenes and polygons.

    The results are NAME_change.tif (0 dry, 1 newly flooded, 2 receded, 3 unchanged water, 255 unobserved on either
    date), NAME_change.gpkg with the layers `change` and `unobserved`, and NAME_change.json with areas and settings.
    Raster and layers have styles for QGIS. Permanent water of floodmap's masks is water here.

    Exit codes: 0 done; 1 the comparison was refused or failed; 2 wrong usage; 3 done, but some windows of the scenes
    failed; 130 interrupted.
    """
    from floodmap._runtime.memory import configure_low_memory

    configure_low_memory()  # before the following imports start threads
    from floodmap.api.changes import change as compare

    unset = {one.name: one.default for one in fields(SceneOptions)}
    settings = {key: value for key, value in settings.items() if key not in unset or value != unset[key]}
    with _progress(verbosity) as progress:
        try:
            result = compare(before, after, out=out, progress=progress, **settings)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("run the same command with --resume to continue") from None
    if as_json:
        click.echo(json.dumps(result.report, indent=2, ensure_ascii=False))
    elif verbosity >= 0:
        click.echo(_line(result))
        click.echo(f"Results are in {os.path.join(out, '')}")
    return INCOMPLETE if result.failed_windows else 0


def _line(result: Change) -> str:
    """Return the line on the result for standard output."""
    areas, pixels = result.report["area_ha"], result.report["pixels"]
    kinds = ("newly_flooded", "receded", "unchanged_water")
    sizes = [f"{pixels[kind]:,} pixels" if areas is None else f"{areas[kind]:,.2f} ha" for kind in kinds]
    shown = ", ".join(f"{size} {kind.replace('_', ' ')}" for size, kind in zip(sizes, kinds, strict=True))
    no_crs = " (no CRS, so no areas)" if areas is None else ""
    observed = f"{result.report['observed_share']:.1%} observed on both dates"
    return f"{result.name}: {shown}{no_crs}; {observed} -> {result.layer_paths[0]}"


@contextmanager
def _progress(verbosity: int) -> Iterator[Callable[[float, str], None]]:
    """Context manager: show the progress of all stages as one bar after the other."""
    labels = {"before": "segmenting BEFORE", "after": "segmenting AFTER", "compare": "comparing"}
    with progress_bar("comparing", hidden=verbosity < 0) as update:
        yield lambda finished, stage: update(finished, 1.0, labels[stage])
