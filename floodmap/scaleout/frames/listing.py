"""Frames: overlapping georeferenced rasters, such as orthorectified aerial photographs, that form one product."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from floodmap.errors import FloodmapError, MissingCRSError, RemoteFileError, SceneError
from floodmap.geo.gdal import gdal_env
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.names import local_or_gdal
from floodmap.geo.source_name import SourceName, shown_name
from floodmap.imagery.overlay import BaseScene, open_overlay
from floodmap.imagery.raster.source import Source, open_source
from floodmap.imagery.raster.stac import scene_of
from floodmap.options import SceneOptions
from floodmap.scaleout.frames.overlay_files import OverlayFiles

log = logging.getLogger(__name__)

_NO_UPSAMPLING = 1.001
"""Quotient of a frame's own pixel and the wanted pixel from which the frame keeps its own pixels."""
_PHOTOGRAPH = (
    "is a photograph with a GPS position, but without a georeference; make orthophotos of the photographs first, for "
    "example with OpenDroneMap"
)
_UNPLACED = "has no CRS or no geotransform, so its place is not known; georeference it, or leave it out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A raster that covers a part of the product."""

    source: SourceName
    """Path of the raster, or another name that GDAL opens."""
    options: SceneOptions
    """Options for reading the raster, with local copies of remote files."""
    files: OverlayFiles
    """Mask and area of interest of all frames."""
    grid: GeoGrid
    """Working grid: the pixels in which the frame is segmented."""
    file_shape_hw: tuple[int, int]
    """Height and width of the file, in its own pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedFrame:
    """A frame that cannot be used."""

    source: SourceName
    """Path of the raster, or another name that GDAL opens."""
    why: str
    """Error message, one line."""
    grid: GeoGrid | None = None
    """Working grid; None if the place of the frame is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameList:
    """All frames of a product, sorted by name, so that the order of the arguments has no effect on the result."""

    files: OverlayFiles
    """Mask and area of interest of all frames."""
    frames: tuple[Frame, ...]
    """Frames to segment."""
    failed: tuple[FailedFrame, ...]
    """Frames whose header cannot be read, or whose place is not known."""
    outside: tuple[SourceName, ...]
    """Frames that do not overlap the area of interest."""
    warnings: tuple[str, ...] = ()
    """Warnings about the options, one line each."""


def read_frames(sources: Iterable[SourceName], files: OverlayFiles) -> FrameList:
    """Read the headers of all frames.

    Args:
        sources: paths of the rasters, other names that GDAL opens, and STAC items.
        files: options for reading every frame. With `resolution_m`, frames with finer pixels are resampled to this
            ground sample distance; frames with coarser pixels keep their own pixels.

    Returns:
        The frames, sorted by file name and then by path. Frames that cannot be used are logged as errors.

    Raises:
        SceneError: no frame can be used, or a raster given as mask or area of interest cannot be read.
        MissingCRSError: no frame has a place on the Earth.
        VectorError: polygons given as mask or area of interest cannot be read.
        RemoteError: a server cannot be reached.
    """
    frames, failed, outside = [], [], []
    options = files.given
    masked = options.mask is None
    for source in sorted(sources, key=_order):
        try:
            frame = _read(scene_of(source), files)
        except Exception as error:
            failed.append(FailedFrame(source=source, why=failure_text(source, error)))
            continue
        if not _meets(frame, files.local.aoi):
            outside.append(source)
            continue
        covered = options.mask is not None and _meets(frame, files.local.mask)
        masked |= covered
        frames.append(frame if covered else replace(frame, options=replace(frame.options, mask=None)))
    _refuse_none(frames, failed, options)
    for line in grouped([(str(one.source), one.why) for one in failed]):
        log.error("%s", line)
    idle = f"the mask {shown_name(options.mask)} overlaps no frame, so it hides nothing; check its CRS"
    warnings = () if masked else (idle,)
    for line in warnings:
        log.warning("%s", line)
    return FrameList(files=files, frames=tuple(frames), failed=tuple(failed), outside=tuple(outside), warnings=warnings)


def failure_text(source: SourceName, error: Exception) -> str:
    """Return the message for a frame that failed, one line.

    Raises:
        FloodmapError: the error concerns the run, such as an error of the disk or of the network, and not only this
            frame. The run stops, and can be resumed.
    """
    if isinstance(error, FloodmapError) and not isinstance(error, SceneError | RemoteFileError):
        raise error
    text = str(error) if isinstance(error, FloodmapError) else f"{source}: unexpected {type(error).__name__}: {error}"
    return " ".join(text.split())


def _order(source: SourceName) -> tuple[str, str]:
    return source.label, str(source.path.resolve()) if source.path else source.given


def _read(source: SourceName, files: OverlayFiles) -> Frame:
    options = files.local
    with ExitStack() as stack:
        raster = open_source(
            source, stack, bands=options.bands, nir=options.nir == "auto", nodata=options.nodata, crs=options.crs
        )
        if not raster.grid.is_on_earth:
            raise MissingCRSError(f"{source} {_PHOTOGRAPH if _has_gps(raster) else _UNPLACED}")
        own = raster.grid
    gsd_m, wanted = own.gsd_m or 0.0, options.resolution_m
    if wanted is not None and gsd_m * _NO_UPSAMPLING >= wanted:
        options = replace(options, resolution_m=None)
    grid = own.resampled(options.resolution_m, source)
    return Frame(source=source, options=options, files=files, grid=grid, file_shape_hw=own.shape_hw)


def _has_gps(raster: Source) -> bool:
    """Return whether the EXIF metadata of a raster contain a position."""
    return any("EXIF_GPSLatitude" in raster.dataset.tags(ns=domain) for domain in (None, "EXIF"))


def _meets(frame: Frame, overlay: Path | str | None) -> bool:
    """Return whether a mask or an area of interest overlaps a frame; True if there is none."""
    if overlay is None:
        return True
    with ExitStack() as stack, gdal_env():
        base = BaseScene(frame.source, frame.grid, frame.file_shape_hw)
        return open_overlay(local_or_gdal(overlay), base, stack).meets_scene()


def _refuse_none(frames: Sequence[Frame], failed: Sequence[FailedFrame], options: SceneOptions) -> None:
    """Raise an error if no frame is left."""
    if frames:
        return
    if not failed:
        raise SceneError(f"no frame overlaps the area of interest {shown_name(options.aoi)}; check the CRS of both")
    first, *others = grouped([(str(one.source), one.why) for one in failed])
    more = f" (and {len(others)} other errors)" if others else ""
    raise (MissingCRSError if _PHOTOGRAPH in first or _UNPLACED in first else SceneError)(f"{first}{more}")


def grouped(messages: Iterable[tuple[str, str]]) -> list[str]:
    """Return one line for all frames that have the same message.

    Args:
        messages: name of a frame, and message, which may contain the name.

    Returns:
        Lines in the order of the first frame of each group, such as "a.tif has no CRS (the same for 12 more frames)".
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for name, message in messages:
        groups[message.replace(name, "")].append(message)
    return [
        group[0] if len(group) == 1 else f"{group[0]} (the same for {len(group) - 1} more frames)"
        for group in groups.values()
    ]
