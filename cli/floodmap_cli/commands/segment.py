"""`floodmap segment`: find flood water in scenes; writes rasters and polygons."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from floodmap.errors import FloodmapError
from floodmap.options import OUTPUT_FOLDER, SceneOptions, SegmentOptions

from ..lines import lines
from ..loading import open_model
from ..options import (
    catalogue_option,
    devices_option,
    flips_option,
    json_option,
    model_option,
    options_of,
    progress_option,
    stac_items_option,
    verbosity_options,
    workers_options,
)  # fmt: skip
from ..terminal import print_result, scene_bar

if TYPE_CHECKING:
    from floodmap.geo.source_name import SourceName
    from floodmap.inference.loop import Progress
    from floodmap.output.results import FloodMap

    from ..watching import State

log = logging.getLogger("floodmap")

REFUSED, FAILED_WINDOWS = 1, 3
"""Exit codes: a scene was refused or failed (1); all scenes are done, but some windows failed (3)."""


@click.command("segment", short_help="Find flood water in scenes; write rasters and polygons.")
@click.argument("scenes", nargs=-1, required=True, metavar="SCENE...")
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
@model_option
@options_of(SegmentOptions, "prompts")
@options_of(SceneOptions)
@options_of(
    SegmentOptions, "tile_size", "overlap", "threshold", "permanent_water", "permanent_least", "permanent_rim_m",
    "min_area_m2", "simplify_m", "formats", "report", "pdf", "stac", "schema", "flood_type", "keep_features",
)
@catalogue_option
@stac_items_option
@devices_option
@workers_options
@flips_option
@options_of(SegmentOptions, "batch_size", "exhaustive", "overwrite", "resume")
@click.option(
    "--watch", is_flag=True, help="Go on after the run: correct the result whenever the file of --prompts changes; end "
    "with Ctrl+C."
)
@json_option
@progress_option
@verbosity_options
def segment(
    scenes: tuple[str, ...], out: Path, model: str, device: str, flips: bool, as_json: bool, verbosity: int,
    batch_size: int | None, workers: int | None, scheduler: str | None, allow_mixed: bool, catalogue: Path | None,
    stac_items: Path | None, watch: bool, **settings: Any,
) -> int:  # fmt: skip
    """Find flood water in SCENE... (files, folders, patterns or STAC collections; anything GDAL reads).

    \b
        floodmap segment scene.tif --model finetuned

    For each scene NAME the results are NAME_mask.tif (0 dry, 1 flood, 255 unobserved), NAME_probability.tif (per cent),
    NAME.gpkg with the layers `flood` and `unobserved`, and NAME.json with areas and settings. The rasters and the
    layers have styles for QGIS. With --report, NAME_report.html shows the results on one page. With --report and
    --resume, this page is added to results that exist already.

    With --permanent-water, lakes and rivers that are always there are the class 2 of the mask and the layer
    `permanent_water`, and no flood.

    With --stac, NAME_stac.json is a STAC item of the results, with --pdf, NAME_report.pdf is the report on A4 pages.
    With --schema cems, the layers are also written in the schema of Copernicus EMS Rapid Mapping.

    With --catalogue, the polygons of all scenes and a row for each scene are in one file. With --workers, small scenes
    are computed side by side.

    With --keep-features, the result can be corrected by points in seconds: segment again with --resume and --prompts
    FILE. With --watch, this happens whenever the points are saved. Without points, the first result comes back.

    Exit codes: 0 done; 1 a scene was refused or failed, or the model fails on every window; 2 wrong usage; 3 done, but
    some windows failed, in whole or in part (the failed pixels are unobserved, unless a neighbouring window covers
    them), or with --catalogue some scenes failed; 130 interrupted.
    """
    from floodmap._runtime.memory import configure_low_memory

    configure_low_memory()  # before the following imports start threads
    from floodmap.output.rehearsal import Helper, is_loaded

    # The libraries that write polygons also read polygons. If an input has polygons, this process loads the libraries
    # anyway, and a helper process would save nothing.
    scene_options = SceneOptions(**{one.name: settings.pop(one.name) for one in fields(SceneOptions)})
    vector_inputs = scene_options.aoi or scene_options.mask or settings["prompts"] not in ("auto", "none")
    from floodmap.catalogue.finding import find_scenes

    found = find_scenes(scenes, out)
    in_workers = len(found) > 1 and (workers or scheduler)  # workers rehearse for themselves
    helper = None if vector_inputs or in_workers or is_loaded() else Helper()
    from floodmap.pipeline import segment_scene
    from floodmap.scaleout.workers.opening import needs_workers

    from ..many import segment_many

    opened = open_model(model, device, flips, workers, scheduler, allow_mixed)

    def options_for(best_batch_size: int | None) -> SegmentOptions:
        return SegmentOptions(scene=scene_options, batch_size=batch_size or best_batch_size or 1, **settings)

    in_one_file = catalogue is not None or stac_items is not None
    if watch and (len(found) > 1 or in_one_file or as_json or not isinstance(settings["prompts"], Path)):
        raise click.UsageError("--watch needs one scene and a local file of points (--prompts FILE), and no --json")
    seen = None
    if watch:
        from ..watching import state_of

        settings["keep_features"] = True
        seen = state_of(settings["prompts"])  # before the points are read: a change during the first run counts
    if in_one_file or (len(found) > 1 and needs_workers(workers, scheduler, device)):
        return segment_many(
            found, out, catalogue, opened, options_for, items=stac_items, helper=helper, as_json=as_json,
            verbosity=verbosity, print_result=lambda result: print_result(result, as_json, verbosity),
        )  # fmt: skip
    free = list(_without_busy(found, out))
    if not free:
        if as_json:
            click.echo("[]")
        return REFUSED
    results: list[FloodMap] = []
    worst = 0 if len(free) == len(found) else REFUSED
    rehearsed: set[Hashable] = set()
    with opened as (segmenter, runner):
        options = options_for(segmenter.best_batch_size)

        def segmented(name: str, path: SourceName, options: SegmentOptions) -> FloodMap:
            with _progress(name, verbosity) as progress:
                result = segment_scene(
                    path, out, segmenter, options, name=name, progress=progress, helper=helper, workers=runner,
                    rehearsed=rehearsed,
                )  # fmt: skip
            print_result(result, as_json, verbosity)
            return result

        for name, path in free:
            try:
                results.append(segmented(name, path, options))
            except KeyboardInterrupt:
                raise KeyboardInterrupt(
                    f"{name} is unfinished; run the same command with --resume to continue"
                ) from None
            except FloodmapError as error:
                if len(found) == 1:
                    raise
                log.error("%s", error)
                worst = REFUSED
        if watch:
            again = replace(options, resume=True, overwrite=False)
            _watch(results[0], lambda: segmented(*free[0], again), settings["prompts"], seen)
    if results and verbosity >= 0:  # with --json, this line goes to standard error: standard output holds only the JSON
        click.echo(f"Results are in {os.path.join(out, '')}", err=as_json)
    if as_json:
        click.echo(json.dumps([result.report for result in results], indent=2, ensure_ascii=False, default=str))
    if worst == 0 and any(result.failed_windows for result in results):
        worst = FAILED_WINDOWS
    return worst


def _watch(first: FloodMap, correct: Callable[[], FloodMap], points: Path, seen: State | None) -> None:
    """Correct a result whenever the file of points changes, until the user presses Ctrl+C.

    While it waits, the event "watching" is written every few seconds, so that the run ends if its reader has ended.

    Args:
        first: the result of the first run.
        correct: function that makes the result again.
        points: the file of points.
        seen: its state before the first run.
    """
    from ..watching import changes_of

    code = FAILED_WINDOWS if first.failed_windows else 0

    def wait() -> None:
        lines.event("watching", exit_code=code)

    lines.message("info", f"waiting for changes of {points}; end with Ctrl+C")
    with suppress(KeyboardInterrupt):
        wait()
        for _ in changes_of(points, seen, wait):
            lines.event("correcting")
            try:
                code = FAILED_WINDOWS if correct().failed_windows else 0
            except FloodmapError as error:  # for example a point that has no label yet
                log.error("%s", error)
                code = REFUSED
            wait()


def _without_busy(found: list[tuple[str, SourceName]], out: Path) -> Iterator[tuple[str, SourceName]]:
    """Yield the pairs (name, scene) of `found`, without scenes that another run is processing.

    For each scene that another run is processing, an error is logged. If this scene is the only scene of `found`, the
    error is raised instead. The function is called before the model is loaded, so that such errors appear early.
    """
    from floodmap.pipeline import refuse_other_run

    for name, path in found:
        try:
            refuse_other_run(out, name)
        except FloodmapError as error:
            if len(found) == 1:
                raise
            log.error("%s", error)
            continue
        yield name, path


@contextmanager
def _progress(name: str, verbosity: int) -> Iterator[Callable[[Progress], None]]:
    """Context manager: show the progress of one scene, and log the time that the scene took.

    Yields:
        The function for the argument `progress` of `segment_scene`.
    """
    started = time.monotonic()
    with scene_bar(name, hidden=verbosity < 0) as update:
        yield lambda p: update(p.windows_done, p.windows_total, p.pixels_done, p.stage, _workers_text(p))
    log.info("%s took %.1f s", name, time.monotonic() - started)



def _workers_text(progress: Progress) -> str:
    """Return the numbers of workers and of finished chunks of windows, such as "2 workers 3/10".

    The text is empty without workers.
    """
    if not progress.workers:
        return ""
    return f"{progress.workers} workers {progress.chunks_done}/{progress.chunks_total}"
