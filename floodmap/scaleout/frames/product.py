"""The product of many frames: every frame is segmented by itself, then all are blended and written like one scene."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from floodmap._runtime.extras import require
from floodmap._runtime.forks import at_work
from floodmap.description import versions
from floodmap.errors import OutputError, PromptError, writing
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.names import refuse_unreadable
from floodmap.geo.source_name import SourceName, shown_name
from floodmap.imagery.raster.fingerprint import of_input
from floodmap.masks.permanent_water import check_reference, permanent_of
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
from floodmap.pipeline import refuse_other_run, resuming, work_folder
from floodmap.scaleout.frames.assembly import append_strips, open_area, product_warnings
from floodmap.scaleout.frames.description import describe_product, product_notes
from floodmap.scaleout.frames.frame_loop import (
    FrameResult,
    MosaicProgress,
    Report,
    any_begun,
    described_frames,
    segment_frames,
    unverified_frames,
)
from floodmap.scaleout.frames.listing import FrameList, read_frames
from floodmap.scaleout.frames.overlay_files import OverlayFiles
from floodmap.scaleout.frames.picture import product_picture
from floodmap.scaleout.frames.placement import Placement
from floodmap.scaleout.frames.product_grid import product_grid
from floodmap.scaleout.frames.resampling import PlacedFrame
from floodmap.strips.journal import Journal

log = logging.getLogger(__name__)

FRAMES, BLENDED = "frames", "product"
"""Folders in the work folder: codes of the finished frames, and journal of the blended strips."""


def mosaic_frames(
    sources: Sequence[SourceName],
    out: Path,
    segmenter: Segmenter,
    options: SegmentOptions,
    *,
    name: str,
    product_crs: str | None = None,
    progress: Callable[[MosaicProgress], None] | None = None,
    helper: Helper | None = None,
) -> FloodMap:
    """Map many overlapping frames as one product with a loaded model, as `floodmap.mosaic` does.

    Args:
        sources: paths of the frames, or other names that GDAL opens.
        out: folder for the results; created if it is missing.
        segmenter: the loaded model.
        options: settings of the run. The option `prompts` must be `auto` or `none`.
        name: first part of the names of all files.
        product_crs: CRS of the product, such as "EPSG:32643"; None: the most frequent CRS of the frames.
        progress: function called with a `MosaicProgress` after every window and every strip.
        helper: helper process for the rehearsal; None: this process does the rehearsal.

    Returns:
        The results on disk. The entry `frames` of the JSON report lists the frames, with those that failed.

    Raises:
        FloodmapError: no frame can be used, a result exists already or cannot be written, or the model does not work.
    """
    started = time.time()
    if options.prompts not in ("auto", "none"):
        raise PromptError("points and boxes cannot be used with many frames; segment a VRT of the frames instead")
    refuse_unreadable(*(source.path or "" for source in sources), out, *options.files.values())
    refuse_other_run(out, name)
    if "parquet" in options.formats:
        require("pyarrow", "the format parquet")
    if options.pdf:
        require("fpdf", "the PDF report")
    with at_work(), output_folder(out), ExitStack() as stack:
        files = OverlayFiles.open(options.scene, stack)
        water = options.permanent_water
        unverified = [] if water is None or of_input(water) else [shown_name(water)]
        options = resuming(options, [*files.unverified, *unverified])
        listed = read_frames(sources, files)
        grid = product_grid(
            [frame.grid for frame in listed.frames], crs=product_crs, resolution_m=options.scene.resolution_m,
            names=[frame.source for frame in listed.frames],
        )  # fmt: skip
        run = _Run(out, name, segmenter, _with_defaults(options, grid), listed, grid, product_crs, started)
        run.check()
        if done := run.done_before():
            return done
        return run.whole(progress or (lambda _: None), helper)


def _with_defaults(options: SegmentOptions, grid: GeoGrid) -> SegmentOptions:
    """Return the options with default values: a minimum area of 25 pixels, simplification within one pixel."""
    side = grid.gsd_m or 0.0
    area = 25 * side**2 if options.min_area_m2 is None else options.min_area_m2
    return replace(options, min_area_m2=area, simplify_m=side if options.simplify_m is None else options.simplify_m)


@dataclass(frozen=True, slots=True)
class _Run:
    """One run of `mosaic_frames`."""

    out: Path
    """Folder for the results."""
    name: str
    """First part of the names of all files."""
    segmenter: Segmenter
    """The loaded model."""
    options: SegmentOptions
    """Settings of the run, with default values filled in."""
    listed: FrameList
    """All frames."""
    grid: GeoGrid
    """Grid of the product."""
    product_crs: str | None
    """CRS of the product that the user chose; None: chosen from the frames."""
    started: float
    """Time at which the run began, in seconds since the epoch."""

    @property
    def work(self) -> Path:
        """Work folder."""
        return work_folder(self.out, self.name)

    @property
    def frames_folder(self) -> Path:
        """Folder for the codes of the frames."""
        return self.work / FRAMES

    @property
    def results(self) -> list[Path]:
        """Paths of the results."""
        return result_paths(self.out, self.name, self.options.formats, **wanted_files(self.options))

    def is_unfinished(self) -> bool:
        """Return whether the work folder holds frames of an earlier run."""
        return self.frames_folder.is_dir() and any(self.frames_folder.iterdir())

    def check(self) -> None:
        """Check the output folder before the first frame is segmented.

        Raises:
            OutputError: a result exists already, would replace an input, or does not fit on the disk.
            MissingCRSError: the area of interest is a raster without a CRS, and has another size than the product.
            SceneError, VectorError: the reference of permanent water cannot be used.
        """
        with ExitStack() as stack:
            open_area(self.listed.files.local.aoi, self.name, self.grid, stack)
        check_reference(self.options, self.grid, self.name)
        refuse_long_names(self.results)
        sources = [frame.source.container for frame in self.listed.frames]
        refuse_inputs(self.results, [*(own[0] for own in sources if own), *self.options.files.values()])
        if not self.options.overwrite and not self.options.resume:
            if self.is_unfinished():
                raise OutputError(
                    f"{self.out}: holds an unfinished run of {self.name}; go on with --resume, or start afresh with "
                    "--overwrite"
                )
            refuse_existing(self.results)
        pixels = sum(frame.grid.height * frame.grid.width for frame in self.listed.frames)
        check_disk(self.out, self.grid.height * self.grid.width + pixels // 2)

    def done_before(self) -> FloodMap | None:
        """Return the results of an earlier, finished run of the same frames and settings; None if there are none.

        Raises:
            OutputError: there are results of other frames or settings, and no unfinished run of these frames, and
                `overwrite` is False.
        """
        options = self.options
        if not options.resume or not any(path.exists() for path in self.results):
            return None
        goes_on = any_begun(self.listed.frames, self.segmenter, options, self.frames_folder)
        if goes_on and not (self.out / f"{self.name}.json").exists():
            return None  # killed while results were written
        described = described_frames(self.listed.frames, self.segmenter, options)
        settings, unverified = self.describe(described), unverified_frames(described)
        cems = options.flood_type if options.schema == "cems" else None
        done = None if unverified else finished_before(self.out, self.name, options.formats, settings, cems=cems)
        if done is None:
            if not options.overwrite and not goes_on:
                resuming(options, unverified)
                refuse_existing(self.results, settings)
            return None
        log.info("%s: nothing left to do", self.name)
        if self.work.exists():  # the earlier run was killed while it deleted the folder, or a frame failed
            with self.lock():
                self.clear(() if done.report["frames"]["failed"] else (FRAMES,))
        return self.completed(done, again=False)

    def clear(self, names: Sequence[str] = (FRAMES,)) -> None:
        """Delete the blended strips, and other folders of the work folder by name: by default all codes of frames."""
        for name in (BLENDED, *names):
            shutil.rmtree(self.work / name, ignore_errors=True)

    def describe(self, described: Sequence[tuple[Any, Mapping[str, Any] | str]]) -> dict[str, Any]:
        """Return the description of the product, for the JSON report."""
        return describe_product(self.grid, self.listed, described, self.options, self.product_crs)

    def whole(self, report: Report, helper: Helper | None) -> FloodMap:
        """Segment and blend the frames, and write the results."""
        with self.lock() as lock, self.codes():
            first = {"versions": versions(), "model": {"name": self.segmenter.name}}
            trial = self.finishing(first, datetime.fromtimestamp(self.started), ())
            rehearse(trial, lock.scratch, helper)
            segmented = segment_frames(self.listed.frames, self.segmenter, self.options, self.frames_folder, report)
            flood_map = self.finish(segmented, report)
            failed = bool(flood_map.report["frames"]["failed"])
            if not failed:
                self.clear()
        if failed:
            log.error("the codes of the other frames are kept in %s; after repairs go on with --resume", self.work)
        return self.completed(flood_map)

    def lock(self) -> Journal:
        """Lock the work folder.

        No strips are kept there: they can be blended again from the codes of the frames. The journal is therefore
        deleted on exit from the `with` block.
        """
        return Journal(self.work, {BLENDED: FRAMES}, resume=True, discard=self.options.overwrite)

    @contextmanager
    def codes(self) -> Iterator[None]:
        """Context manager: create the folder for the codes of the frames. On exit it is deleted if it is empty."""
        if self.options.overwrite and not self.options.resume:
            self.clear()
        with writing(self.frames_folder):
            self.frames_folder.mkdir(exist_ok=True)
        try:
            yield
        finally:
            with suppress(OSError):
                self.frames_folder.rmdir()

    def finish(self, segmented: Sequence[FrameResult], report: Report) -> FloodMap:
        """Blend the frames to strips, and write the results."""
        described = [(one.frame, one.codes.about["settings"] if one.codes else one.why) for one in segmented]
        settings = self.describe(described)
        if self.options.schema == "cems" and settings["source"]["date_of"] == "file":
            log.warning(NO_DATE, "a frame")
        goes_on = not self.listed.files.unverified and not unverified_frames(described)
        placed = [(one, Placement(one.frame.grid, self.grid)) for one in segmented]
        notes = product_notes((one.frame, place, one.codes.about["notes"]) for one, place in placed if one.codes)
        date = datetime.fromisoformat(settings["source"]["date"])
        finishing = self.finishing(settings, date, product_warnings(self.listed, segmented, self.name, self.segmenter))
        with Journal(self.work / BLENDED, settings, resume=goes_on, discard=True) as journal, ExitStack() as stack:
            frames = [PlacedFrame(place, one.codes) for one, place in placed]
            aoi = open_area(self.listed.files.local.aoi, self.name, self.grid, stack)
            append_strips(journal, self.grid, frames, notes, aoi, report)
            count = len(segmented)
            report(MosaicProgress(frames_done=count, frames_total=count, share=1.0, stage="write"))
            json_report = self.out / f"{self.name}.json"  # it marks the other files as complete
            with writing(json_report):
                json_report.unlink(missing_ok=True)
                if self.options.stac:
                    stac_path_of(self.out, self.name).unlink(missing_ok=True)
            flood_map = finishing.run(journal)
            journal.remove()
        return flood_map

    def finishing(self, settings: Mapping[str, Any], date: datetime, warnings: tuple[str, ...]) -> Finishing:
        """Return the settings for writing the results."""
        options, source = self.options, settings.get("source", {"name": self.name})
        return Finishing(
            source=source["name"], grid=self.grid, date=date, out=self.out, name=self.name,
            threshold=options.threshold_percent, min_area_m2=options.min_area_m2 or 0.0,
            simplify_m=options.simplify_m or 0.0, formats=options.formats, files=wanted_files(options),
            settings=settings, started=self.started, warnings=warnings, permanent=permanent_of(options),
            flood_type=options.flood_type,
        )  # fmt: skip

    def completed(self, flood_map: FloodMap, *, again: bool = True) -> FloodMap:
        """Write the HTML report, the PDF report and the STAC item, as far as wanted; see `completing.completed`."""
        failed = {one["name"] for one in flood_map.report["frames"]["failed"]}
        frames = [frame for frame in self.listed.frames if frame.source.label not in failed]
        return completed(flood_map, self.options, lambda: product_picture(frames, self.grid), again=again)
