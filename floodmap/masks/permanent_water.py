"""Permanent water: lakes and rivers that are always there, separated from flood by a raster or polygons.

A reference of permanent water is often coarse: its pixels have 30 m, and those of a scene 0.3 m. If water were
permanent only inside the pixels of the reference, nearly every bank would be flood. Therefore there is a rim of one
pixel of the reference around its water. Water in the rim is permanent, unless it is near water beyond the rim. So a
bank belongs to the lake, and a flood that begins at the bank is flood up to the edge of the reference.

The rim is computed on cells: squares of pixels of the scene, about an eighth of the rim wide.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from scipy.ndimage import distance_transform_edt

from floodmap.errors import MissingCRSError, SceneError, writing
from floodmap.geo.downloads import local_copy
from floodmap.geo.gdal import gdal_env, gdal_env_of
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.names import has_gdal_name
from floodmap.geo.source_name import SourceName, shown_name
from floodmap.geo.vectors import is_vector
from floodmap.geo.window import Window
from floodmap.imagery.overlay import BaseScene, Overlay, open_overlay
from floodmap.options import SegmentOptions
from floodmap.strips.codes import PERMANENT_CODE
from floodmap.strips.stored import StoredStrips

log = logging.getLogger(__name__)

OCCURRENCE = 50.0
"""Least value of permanent water in a raster of per cent, such as the occurrence of water by JRC: half of the time."""
CELLS = 2**26
"""Largest number of cells of a scene. In a larger scene, cells are larger than an eighth of the rim."""
_SAMPLE = 2048
"""Longest side in pixels of the sample in which the values of a raster are looked up."""
_BLOCK = 2048
"""Side in cells of the blocks in which distances are computed."""

Codes = NDArray[np.uint8]
Bools = NDArray[np.bool_]


class StripSource(Protocol):
    """Finished strips of a scene; see `journal.Strips`."""

    @property
    def scratch(self) -> Path:
        """Folder for temporary files."""

    def notes(self) -> list[Mapping[str, Any]]:
        """Return the notes of each strip."""

    def strips(self) -> Iterator[tuple[int, Codes]]:
        """Yield first row and codes, uint8 (rows, width), of each strip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PermanentWater:
    """A reference of permanent water, and how it is used."""

    file: str
    """Raster or polygons: a path, or a name that GDAL opens."""
    least: float | None = None
    """Least value of permanent water in the raster. None: 1 in a raster of 0 and 1, 255 in a raster of 0 and 255, else
    `OCCURRENCE`."""
    rim_m: float | None = None
    """Width of the rim in metres. None: the side of a pixel of the raster; 0 for polygons."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """An open reference of permanent water."""

    overlay: Overlay
    rim_px: float
    """Width of the rim in pixels of the scene."""


def permanent_of(options: SegmentOptions) -> PermanentWater | None:
    """Return the reference of permanent water in the options of a run; None if there is none."""
    if options.permanent_water is None:
        return None
    return PermanentWater(
        file=os.fspath(options.permanent_water), least=options.permanent_least, rim_m=options.permanent_rim_m
    )


def check_reference(options: SegmentOptions, grid: GeoGrid, scene: str) -> None:
    """Check, before the first window, that the reference of permanent water in the options can be used.

    If the reference does not overlap the scene, a warning is logged.

    Raises:
        SceneError, VectorError, MissingCRSError: see `open_reference`.
    """
    if water := permanent_of(options):
        with open_reference(water, grid, scene) as reference:
            if not reference.overlay.meets_scene():
                log.warning("the permanent water %s does not overlap %s; check its CRS", shown_name(water.file), scene)


@contextmanager
def open_reference(water: PermanentWater, grid: GeoGrid, scene: str) -> Iterator[Reference]:
    """Context manager: open a reference of permanent water for a scene.

    Args:
        water: the reference.
        grid: working grid of the scene.
        scene: name of the scene, for messages.

    Raises:
        SceneError, VectorError: the file cannot be read.
        MissingCRSError: the scene or the file has no CRS, and they cannot be laid over each other; or a rim is given,
            and the scene has no CRS.
    """
    with ExitStack() as stack, gdal_env():
        file = local_copy(water.file, stack)
        base = BaseScene(path=scene, grid=grid, source_shape_hw=grid.shape_hw)
        if is_vector(file):
            overlay, pixel_m = open_overlay(file, base, stack), 0.0
        else:
            least, most, pixel_m = _levels(file, water.least)
            overlay = open_overlay(file, base, stack, between=(least, most))
        yield Reference(overlay=overlay, rim_px=_rim_px(water, pixel_m, grid, scene))


def _rim_px(water: PermanentWater, pixel_m: float, grid: GeoGrid, scene: str) -> float:
    """Return the width of the rim in pixels of the scene; below half a pixel there is none."""
    rim_m = pixel_m if water.rim_m is None else water.rim_m
    if grid.gsd_m is None:
        if water.rim_m:
            raise MissingCRSError(f"{scene} has no CRS, so --permanent-rim cannot be used; assign one with --crs")
        return 0.0
    return rim_m / grid.gsd_m if rim_m >= grid.gsd_m / 2 else 0.0


def _levels(path: Path | str, least: float | None) -> tuple[float, float, float]:
    """Return the least and the greatest value of permanent water in a raster, and the side of its pixels in metres.

    255 is no value of per cent: in the occurrence of water by JRC it stands for no data, declared or not. The side is 0
    without CRS.

    Raises:
        SceneError: the file cannot be read.
    """
    name = SourceName.of(path if has_gdal_name(path) else Path(path))
    try:
        with warnings.catch_warnings(), gdal_env_of(name):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(name.opened) as dataset:
                pixel_m = GeoGrid.of(dataset).gsd_m or 0.0
                scale = min(1.0, _SAMPLE / max(dataset.shape))
                shape = tuple(max(1, round(side * scale)) for side in dataset.shape)
                values = set(np.unique(dataset.read(1, out_shape=shape, resampling=Resampling.nearest)).tolist())
                values -= {dataset.nodata}
    except RasterioError as error:
        raise SceneError(f"{path} can be read neither as a raster nor as polygons") from error
    if least is None:
        least = 1.0 if values <= {0, 1, 255} and 1 in values else 255.0 if values <= {0, 255} else OCCURRENCE
    return least, (math.inf if least > 100 else 254.0), pixel_m


@contextmanager
def separated(strips: StripSource, reference: Reference, threshold: int, grid: GeoGrid) -> Iterator[StripSource]:
    """Context manager: strips in which permanent water has other codes than flood (`PERMANENT_CODE`).

    The strips are written to a temporary file, which is deleted at the end.

    Args:
        strips: the strips of the whole scene.
        reference: the reference of permanent water.
        threshold: in per cent; codes from the threshold to 100 are water.
        grid: working grid of the scene.

    Raises:
        OutputError: the file cannot be written.
    """
    flood = _flood_cells(strips.strips(), reference, threshold, grid) if reference.rim_px else None
    with writing(strips.scratch), tempfile.TemporaryDirectory(prefix=".permanent-", dir=strips.scratch) as folder:
        marked = _marked(strips.strips(), reference, threshold, flood)
        yield _Separated(StoredStrips.of(marked, Path(folder) / "strips"), strips)


@dataclass(frozen=True, slots=True)
class _Cells:
    """A map of cells, and the side of a cell in pixels."""

    values: Bools
    side: int

    def pixels(self, window: Window) -> Bools:
        """Return the values of the cells of all pixels of a window, bool (height, width)."""
        rows = np.arange(window.row_off, window.row_end) // self.side
        return np.asarray(self.values[rows].repeat(self.side, axis=1)[:, : window.width])


def _flood_cells(strips: Iterable[tuple[int, Codes]], reference: Reference, threshold: int, grid: GeoGrid) -> _Cells:
    """Return the cells in which water outside the reference is flood: those near water beyond the rim."""
    side = max(1, int(reference.rim_px // 8), math.ceil(math.sqrt(grid.height * grid.width / CELLS)))
    shape = -(-grid.height // side), -(-grid.width // side)
    permanent, water = np.zeros(shape, bool), np.zeros(shape, bool)
    for row, codes in strips:
        covered = reference.overlay.covers(Window(row, 0, *codes.shape), codes.shape)
        _mark(permanent, covered, row, side)
        _mark(water, _is_water(codes, threshold) & ~covered, row, side)
    reach = reference.rim_px / side
    return _Cells(_within(water & ~_within(permanent, reach), reach), side)


def _marked(
    strips: Iterable[tuple[int, Codes]], reference: Reference, threshold: int, flood: _Cells | None
) -> Iterator[tuple[int, Codes]]:
    """Yield the strips with the codes of permanent water; `flood`: see `_flood_cells`, None without a rim."""
    for row, codes in strips:
        window = Window(row, 0, *codes.shape)
        permanent = reference.overlay.covers(window, codes.shape)
        if flood is not None:
            permanent |= ~flood.pixels(window)
        permanent &= _is_water(codes, threshold)
        yield row, codes + PERMANENT_CODE * permanent.view(np.uint8)


def _is_water(codes: Codes, threshold: int) -> Bools:
    return np.asarray((codes >= threshold) & (codes <= 100))


def _mark(cells: Bools, pixels: Bools, row: int, side: int) -> None:
    """Set the cells that contain a pixel of `pixels`, bool (rows, width), whose first row is `row` in the scene."""
    rows = np.arange(row, row + len(pixels)) // side
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    found = np.logical_or.reduceat(pixels, starts, axis=0)
    cells[rows[starts]] |= np.logical_or.reduceat(found, np.arange(0, pixels.shape[1], side), axis=1)


def _within(region: Bools, reach: float) -> Bools:
    """Return the cells whose distance to a region is at most `reach` cells, block by block to limit memory."""
    near, margin = np.zeros_like(region), math.ceil(reach) + 1
    for top in range(0, region.shape[0], _BLOCK):
        for left in range(0, region.shape[1], _BLOCK):
            first_row, first_col = max(0, top - margin), max(0, left - margin)
            part = region[first_row : top + _BLOCK + margin, first_col : left + _BLOCK + margin]
            if part.any():
                close = distance_transform_edt(~part) <= reach
                block = near[top : top + _BLOCK, left : left + _BLOCK]
                inner = close[top - first_row :, left - first_col :]
                block[:] = inner[: block.shape[0], : block.shape[1]]
    return near


@dataclass(frozen=True, slots=True)
class _Separated:
    """Strips with the codes of permanent water, in a temporary file."""

    stored: StoredStrips
    origin: StripSource
    """The strips from which they were made."""

    @property
    def scratch(self) -> Path:
        """Folder for temporary files."""
        return self.origin.scratch

    def notes(self) -> list[Mapping[str, Any]]:
        """Return the notes of each strip."""
        return self.origin.notes()

    def strips(self) -> Iterator[tuple[int, Codes]]:
        """Yield first row and codes, uint8 (rows, width), of each strip."""
        return self.stored.strips()
