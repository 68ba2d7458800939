"""Assembly of a product from segmented frames: blended strips for the journal, and warnings about the product."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from floodmap._runtime.prefetch import ahead
from floodmap.geo.gdal import gdal_env
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.names import local_or_gdal
from floodmap.geo.window import Window
from floodmap.imagery.overlay import BaseScene, Overlay, open_overlay
from floodmap.inference.prediction import no_notes
from floodmap.models.protocol import Segmenter
from floodmap.scaleout.frames.blending import blend_rows, strip_rows
from floodmap.scaleout.frames.frame_loop import FrameResult, MosaicProgress, Report, frames_ood_warnings
from floodmap.scaleout.frames.listing import FrameList, grouped
from floodmap.scaleout.frames.resampling import PlacedFrame
from floodmap.strips.codes import OUTSIDE
from floodmap.strips.journal import Entry, Journal
from floodmap.strips.strip import Strip

log = logging.getLogger(__name__)

_THREADS = 2
"""Number of threads that blend strips. Two keep two cores busy; each needs the memory of one strip."""
_NAMED_FAILURES = 5
"""Largest number of failed frames that a warning names."""


def append_strips(
    journal: Journal, grid: GeoGrid, frames: Sequence[PlacedFrame], notes: Mapping[str, Any], aoi: Overlay | None,
    report: Report,
) -> None:  # fmt: skip
    """Blend the strips of a product that are missing in the journal, and append them to the journal.

    Args:
        journal: journal of the product.
        grid: grid of the product.
        frames: all frames, in the order in which they are summed.
        notes: notes on the windows of all frames, which become the notes of the first strip.
        aoi: area of interest on the grid of the product; None: the whole product.
        report: function that receives the progress after every strip.

    Raises:
        OutputError: a file cannot be written.
    """
    step, (height, width) = strip_rows(grid.width), grid.shape_hw
    strips = [(row, min(row + step, height)) for row in range(0, height, step)]
    first = journal.finished()
    blended = ahead(lambda rows: blend_rows(rows, width, frames), strips[first:], count=_THREADS, threads=_THREADS)
    with closing(blended):
        for index, codes in enumerate(blended, first):
            top, bottom = strips[index]
            if aoi is not None:
                codes[~aoi.covers(Window(top, 0, bottom - top, width), codes.shape)] = OUTSIDE
            journal.append(index, Entry(Strip.of(top, codes), notes if index == 0 else no_notes()))
            count, share = len(frames), (index + 1) / len(strips)
            report(MosaicProgress(frames_done=count, frames_total=count, share=share, stage="blend"))


def open_area(path: Path | str | None, name: str, grid: GeoGrid, stack: ExitStack) -> Overlay | None:
    """Open the area of interest on the grid of a product.

    Args:
        path: polygons or a raster; None: there is no area of interest.
        name: name of the product, for messages.
        grid: grid of the product.
        stack: exit stack that closes the file.
    """
    if path is None:
        return None
    with gdal_env():
        return open_overlay(local_or_gdal(path), BaseScene(name, grid, grid.shape_hw), stack)


def product_warnings(
    listed: FrameList, segmented: Sequence[FrameResult], name: str, segmenter: Segmenter
) -> tuple[str, ...]:
    """Return the warnings about a product, and log those that were not logged while frames were opened.

    Equal warnings about several frames are one line.
    """
    own = [(one.frame, one.codes.about) for one in segmented if one.codes]
    remarks, unsuited = (
        grouped([(str(frame.source), line) for frame, about in own for line in about[key]])
        for key in ("remarks", "unsuited")
    )
    new = [*unsuited, *frames_ood_warnings([frame for frame, _ in own], name, segmenter)]
    for line in new:
        log.warning("%s", line)
    failed = [one.source.label for one in listed.failed]
    failed += [one.frame.source.label for one in segmented if one.codes is None]
    return (*listed.warnings, *remarks, *new, *_failed_text(failed))


def _failed_text(names: Sequence[str]) -> tuple[str, ...]:
    """Return the warning about failed frames; empty if no frame failed."""
    if not names:
        return ()
    some = ", ".join(names[:_NAMED_FAILURES]) + (", ..." if len(names) > _NAMED_FAILURES else "")
    what = "1 frame" if len(names) == 1 else f"{len(names)} frames"
    return (f"{what} failed ({some}): ground that no other frame observes is unobserved there",)
