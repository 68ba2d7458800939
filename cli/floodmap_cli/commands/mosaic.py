"""`floodmap mosaic`: map many overlapping frames as one product; writes the same files as `floodmap segment`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from floodmap.options import OUTPUT_FOLDER, MosaicOptions, SceneOptions, SegmentOptions

from .. import loading
from ..options import (
    device_option,
    flips_option,
    json_option,
    model_option,
    options_of,
    progress_option,
    verbosity_options,
)  # fmt: skip
from ..terminal import print_result, progress_bar

if TYPE_CHECKING:
    from floodmap.scaleout.frames.frame_loop import MosaicProgress

INCOMPLETE = 3
"""Exit code: the product is written, but some frames or some windows failed."""


@click.command("mosaic", short_help="Map many overlapping frames as one product.")
@click.argument("frames", nargs=-1, required=True, metavar="FRAME...")
@click.option(
    "-o",
    "--output",
    "out",
    default=OUTPUT_FOLDER,
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Folder for the results; created if it is missing.",
)
@options_of(MosaicOptions)
@model_option
@options_of(SceneOptions)
@options_of(
    SegmentOptions, "tile_size", "overlap", "threshold", "permanent_water", "permanent_least", "permanent_rim_m",
    "min_area_m2", "simplify_m", "formats", "report", "pdf", "stac", "schema", "flood_type",
)
@device_option
@flips_option
@options_of(SegmentOptions, "batch_size", "exhaustive", "overwrite", "resume")
@json_option
@progress_option
@verbosity_options
def mosaic(
    frames: tuple[str, ...], out: Path, name: str, product_crs: str | None, model: str, device: str, flips: bool,
    as_json: bool, verbosity: int, batch_size: int | None, **settings: Any,
) -> int:  # fmt: skip
    """Map FRAME... (files, folders or patterns; anything GDAL reads) as one product.

    \b
        floodmap mosaic orthophotos/ -o results

    Frames are overlapping rasters with a georeference, such as orthophotos of single photographs, or tiles. They may
    differ in CRS, pixel size and light. Each frame is segmented by itself, with its own stretch. Where frames overlap,
    the probabilities are averaged; a frame has less weight near its edge. Ground is unobserved only if no frame
    observes it. The results are those of `floodmap segment` for one scene.

    With --resume, an interrupted run goes on with the frames that are missing.

    Exit codes: 0 done; 1 the run was refused or failed; 2 wrong usage; 3 done, but some frames failed (the product is
    made of the others), or some windows failed; 130 interrupted.
    """
    from floodmap._runtime.memory import configure_low_memory

    configure_low_memory()  # before the following imports start threads
    from floodmap.output.rehearsal import Helper, is_loaded

    chosen = MosaicOptions(name=name, product_crs=product_crs)
    scene_options = SceneOptions(**{one.name: settings.pop(one.name) for one in fields(SceneOptions)})
    # As in `floodmap segment`: with polygons as input, this process loads the libraries anyway.
    helper = None if scene_options.aoi or scene_options.mask or is_loaded() else Helper()
    from floodmap.catalogue.finding import find_sources
    from floodmap.models.mirrored import Mirrored
    from floodmap.pipeline import refuse_other_run
    from floodmap.scaleout.frames.product import mosaic_frames

    sources = find_sources(frames, out)
    refuse_other_run(out, chosen.name)  # before a model is loaded in vain
    segmenter = loading.load(model, device)
    segmenter = Mirrored(segmenter) if flips else segmenter
    options = SegmentOptions(scene=scene_options, batch_size=batch_size or segmenter.best_batch_size, **settings)
    with _progress(chosen.name, verbosity) as progress:
        try:
            result = mosaic_frames(
                sources, out, segmenter, options, name=chosen.name, product_crs=chosen.product_crs, progress=progress,
                helper=helper,
            )  # fmt: skip
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"{chosen.name} is unfinished; run the same command with --resume to continue"
            ) from None
    print_result(result, as_json, verbosity)
    if verbosity >= 0:
        click.echo(f"Results are in {os.path.join(out, '')}", err=as_json)
    if as_json:
        click.echo(json.dumps(result.report, indent=2, ensure_ascii=False, default=str))
    return INCOMPLETE if result.report["frames"]["failed"] or result.failed_windows else 0


@contextmanager
def _progress(name: str, verbosity: int) -> Iterator[Callable[[MosaicProgress], None]]:
    """Context manager: show the progress of all frames as one bar.

    Yields:
        The function for the argument `progress` of `mosaic_frames`.
    """
    stages = {"segment": "frame {} of {}", "blend": "blending {1} frames", "write": "writing results"}
    with progress_bar(name, hidden=verbosity < 0) as update:

        def show(one: MosaicProgress) -> None:
            number = min(one.frames_done + 1, one.frames_total)
            label = f"{name}: {stages[one.stage].format(number, one.frames_total)}"
            update(one.share, 1.0, label, one.stage)

        yield show
