"""The pipeline of one scene: from a raster to flood rasters, polygons and reports."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from floodmap._runtime.extras import require
from floodmap._runtime.forks import at_work
from floodmap._runtime.memory import freed_memory_kept
from floodmap.correction.features import COARSE, Features, keep_features, remove_features, save_coarse
from floodmap.correction.run import Correction
from floodmap.description import describe
from floodmap.errors import MissingCRSError, OutputError, writing
from floodmap.geo.geogrid import how_to_place
from floodmap.geo.names import refuse_unreadable
from floodmap.geo.source_name import SourceName, shown_name
from floodmap.imagery.raster.fingerprint import of_input
from floodmap.imagery.raster.stac import scene_of
from floodmap.imagery.scene import Scene
from floodmap.imagery.tile import Tile
from floodmap.inference.loop import Progress, WindowRunner, run_windows
from floodmap.inference.strangeness import ood_warnings
from floodmap.inference.tiling import Grid
from floodmap.masks.permanent_water import check_reference, permanent_of
from floodmap.models.infrared import with_infrared
from floodmap.models.protocol import Segmenter
from floodmap.options import SegmentOptions
from floodmap.output.finishing import Finishing
from floodmap.output.paths import result_paths, stac_path_of, wanted_files
from floodmap.output.products.completing import NO_DATE, completed
from floodmap.output.rehearsal import Helper, rehearse
from floodmap.output.results import (
    FloodMap,
    check_disk,
    finished_before,
    output_folder,
    refuse_existing,
    refuse_inputs,
    refuse_long_names,
)
from floodmap.output.worker import FinishingProcess
from floodmap.strips.journal import Journal, has_strips, refuse_busy

log = logging.getLogger(__name__)

_DECOMPRESSION_THREADS = 4
"""Number of threads that decompress a scene if the model runs on another device than the CPU."""


def segment_scene(
    source: str | os.PathLike[str] | SourceName,
    out: Path,
    segmenter: Segmenter,
    options: SegmentOptions,
    *,
    name: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    helper: Helper | None = None,
    workers: WindowRunner | None = None,
    rehearsed: set[Hashable] | None = None,
) -> FloodMap:
    """Segment one scene with a loaded model, as `floodmap.segment` does.

    Args:
        source: path of the scene, or a name that GDAL opens.
        out: folder for the results; created if it is missing.
        segmenter: the loaded model.
        options: settings of the run.
        name: first part of the names of all files; None: the source's name without suffix.
        progress: function called with a `Progress` after every window, and before results are written.
        helper: helper process for the rehearsal: a write of all results for a scene of two pixels, before the first
            window (see `rehearsal.rehearse`); None: this process does the rehearsal.
        workers: worker processes that compute the windows, with `segmenter` as their model; None: this process.
        rehearsed: kinds of runs that need no rehearsal, for several scenes in one process; see `rehearsal.rehearse`.

    Returns:
        The results on disk: paths of all files, and the content of the JSON report.
    """
    started = time.time()
    source = scene_of(SourceName.of(source))
    if options.keep_features and options.has_points_file and Features.of(out, name or source.stem) is None:
        # Points are taken out again by going back to the automatic result, which therefore comes first.
        automatic = replace(options, prompts="auto", report=False, pdf=False, stac=False)
        segment_scene(
            source, out, segmenter, automatic, name=name, progress=progress, helper=helper, workers=workers,
            rehearsed=rehearsed,
        )  # fmt: skip
        options = replace(options, resume=True, overwrite=False)
    refuse_unreadable(source.path or "", out, *options.files.values())
    threads = _DECOMPRESSION_THREADS if segmenter.offloads else 1
    refuse_other_run(out, name or source.stem)
    with at_work(), Scene.open(source, options.scene, threads=threads) as scene, output_folder(out):
        name = name or scene.name
        options, segmenter = with_defaults(_resuming(options, scene), scene), with_infrared(segmenter, scene)
        for line in scene.unsuited:
            log.warning("%s", line)
        if scene.crs is None:
            log.warning(
                "%s has no CRS: it is mapped in pixels, without areas; %s", source, how_to_place(scene.transform)
            )
        grid = Grid(
            height=scene.height, width=scene.width, tile_size=options.tile_size, overlap=options.overlap,
            multiple=segmenter.multiple,
        )  # fmt: skip
        results = result_paths(out, name, options.formats, **wanted_files(options))
        refuse_long_names(results)
        own = scene.path.container
        refuse_inputs(results, (*([own[0]] if own else []), *options.files.values()))
        settings = describe(scene, segmenter, options)
        if workers and workers.mixed:
            settings["model"]["mixed"] = [dict(kind) for kind in workers.mixed]
        if done := _done_before(scene, out, name, options, settings):
            return done
        if correction := Correction.of(scene, out, name, options, settings):
            finishing = _finishing(scene, out, name, options, settings, started, ())
            with Journal(work_folder(out, name), settings, resume=False, discard=options.overwrite) as journal:
                done = correction.make(
                    scene, grid, segmenter, options, finishing, journal.scratch, _windows_only(progress)
                )  # fmt: skip
            return completed(done, options, lambda: preview(scene))
        work = work_folder(out, name)
        if not options.overwrite and not has_strips(work):
            refuse_existing(results, settings if options.resume else None)
        check_disk(out, scene.width * scene.height)
        check_reference(options, scene.grid, str(scene.path))
        report = progress or (lambda _: None)
        with Journal(work, settings, resume=options.resume, discard=options.overwrite) as journal, ExitStack() as stack:
            for line in (ood_lines := ood_warnings(scene, segmenter)):
                log.warning("%s", line)
            finishing = _finishing(scene, out, name, options, settings, started, ood_lines)
            finishing = replace(finishing, workers=workers.size if workers else 0)
            rehearse(finishing, journal.scratch, helper, rehearsed)
            worker = stack.enter_context(FinishingProcess(finishing, journal)) if segmenter.offloads else None
            with freed_memory_kept(large_apart=segmenter.any_size):
                run = workers.run_windows if workers else run_windows
                run(
                    scene, grid, segmenter, journal, report, prompts=options.prompts, batch_size=options.batch_size,
                    exhaustive=options.exhaustive,
                    keep=save_coarse(journal.scratch / COARSE) if options.keep_features else None,
                )  # fmt: skip
                scene.refuse_changed()
                picture = preview(scene) if options.report or options.pdf else None
                scene.close()  # frees GDAL's block cache
            report(Progress(len(grid), len(grid), scene.width * scene.height, "write"))
            json_report = out / f"{name}.json"  # it marks the other files as complete, and they are about to change
            with writing(json_report):
                json_report.unlink(missing_ok=True)
                remove_features(out, name)  # they do not match the new results
                if options.stac:
                    stac_path_of(out, name).unlink(missing_ok=True)
            flood_map = worker.result() if worker else finishing.run(journal)
            if options.keep_features:
                keep_features(flood_map, journal, settings, finishing)
            journal.remove()
        return completed(flood_map, options, lambda: picture)


def _finishing(
    scene: Scene,
    out: Path,
    name: str,
    options: SegmentOptions,
    settings: dict[str, Any],
    started: float,
    ood_lines: tuple[str, ...],
) -> Finishing:
    """Collect the settings for writing the results of a scene: files, thresholds and formats."""
    return Finishing(
        source=scene.path.label, grid=scene.grid, date=scene.date, out=out, name=name,
        threshold=options.threshold_percent, min_area_m2=options.min_area_m2 or 0.0,
        simplify_m=options.simplify_m or 0.0, formats=options.formats, files=wanted_files(options), settings=settings,
        started=started, warnings=(*scene.remarks, *scene.unsuited, *ood_lines), permanent=permanent_of(options),
        flood_type=options.flood_type,
    )  # fmt: skip


def _done_before(
    scene: Scene, out: Path, name: str, options: SegmentOptions, settings: dict[str, Any]
) -> FloodMap | None:
    """Return the results of an earlier, finished run with the same settings, if the option `resume` is set; else None.

    None is also returned if there is no such run. If the HTML report, the PDF report or the STAC item is wanted, and is
    missing or older than the results, it is written now.
    """
    if not options.resume:
        return None
    cems = options.flood_type if options.schema == "cems" else None
    done = finished_before(out, name, options.formats, settings, cems=cems)
    if done is None:
        return None
    if options.keep_features and Features.of(out, name) is None:
        log.warning("%s: the results that are there have no features; to keep them, segment with --overwrite", name)
    log.info("%s: nothing left to do", name)
    work = work_folder(out, name)
    if work.exists():  # the earlier run was killed while it deleted the folder
        Journal(work, settings, resume=False, discard=True).remove()
    return completed(done, options, lambda: preview(scene), again=False)


def _windows_only(progress: Callable[[Progress], None] | None) -> Callable[[int, int], None]:
    """Return a function that reports the numbers of windows of a correction as a `Progress`."""
    return lambda done, total: progress(Progress(done, total, 0, "segment")) if progress else None


def work_folder(out: Path, name: str) -> Path:
    """Return the work folder of a scene, `OUT/.NAME.floodmap`, for finished strips; it exists until the run is done."""
    return out / f".{name}.floodmap"


def refuse_other_run(out: Path, name: str) -> None:
    """Raise OutputError at once if another run has locked the work folder of the scene `name` in the folder `out`."""
    refuse_busy(work_folder(out, name))


def _resuming(options: SegmentOptions, scene: Scene) -> SegmentOptions:
    """Return `resuming` of the options for one scene. Inputs are the scene and the files in the options."""
    if not options.resume:
        return options
    unverified = [shown_name(path) for path in options.files.values() if of_input(path) is None]
    if scene.fingerprint is None:
        unverified = [str(scene.path), *unverified]
    return resuming(options, unverified)


def resuming(options: SegmentOptions, unverified: Sequence[str]) -> SegmentOptions:
    """Return the options of the run; `resume` is set to False if the run cannot be resumed but may start anew.

    A run cannot be resumed if an input has no fingerprint, because a change of the input since an earlier run would not
    be detected. If `overwrite` is True, such a run starts anew.

    Args:
        options: settings of the run.
        unverified: names, for messages, of the inputs without a fingerprint.

    Raises:
        OutputError: `resume` is True, `overwrite` is False, and an input has no fingerprint.
    """
    if not options.resume or not unverified:
        return options
    if not options.overwrite:
        raise OutputError(
            f"{unverified[0]} has no fingerprint, so changes since an earlier run cannot be detected; run without "
            "--resume, or add --overwrite"
        )
    return replace(options, resume=False)


def preview(scene: Scene) -> Tile:
    """Read a picture of the whole scene for the reports, downsampled to at most `maps.SIDE` pixels a side."""
    from floodmap.output.pages.maps import SIDE

    return scene.preview(SIDE)


def with_defaults(options: SegmentOptions, scene: Scene) -> SegmentOptions:
    """Return the options with default values in place of None for `min_area_m2` and `simplify_m`.

    The default of `min_area_m2` is the area of 25 pixels, the default of `simplify_m` is the side of one pixel. For a
    scene without a CRS, both values are 0.

    Raises:
        MissingCRSError: an option or a format requires a CRS, and the scene has none.
    """
    if "parquet" in options.formats:
        require("pyarrow", "the format parquet")
    if options.pdf:
        require("fpdf", "the PDF report")
    if scene.gsd_m is None and options.schema == "cems":
        raise MissingCRSError(
            f"{scene.path} has no CRS, so --schema cems cannot be used; {how_to_place(scene.transform)}"
        )
    if options.schema == "cems" and not scene.is_dated:
        log.warning(NO_DATE, scene.path.label)
    if scene.crs is None and "geojson" in options.formats:
        raise MissingCRSError(
            f"{scene.path} has no CRS and GeoJSON is always in WGS 84; choose gpkg, or {how_to_place(scene.transform)}"
        )
    if scene.gsd_m is None:
        for value, flag in ((options.min_area_m2, "--min-area"), (options.simplify_m, "--simplify")):
            if value:
                raise MissingCRSError(
                    f"{scene.path} has no CRS, so {flag} cannot be used; {how_to_place(scene.transform)}"
                )
        return replace(options, min_area_m2=0.0, simplify_m=0.0)
    area = 25 * scene.gsd_m**2 if options.min_area_m2 is None else options.min_area_m2
    return replace(
        options, min_area_m2=area, simplify_m=scene.gsd_m if options.simplify_m is None else options.simplify_m
    )
