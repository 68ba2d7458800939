"""Alignment of a raster with a target grid. A raster with other pixels than the grid is warped to the grid.

Warping also works across the antimeridian.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds

from floodmap.errors import EvaluationError, MissingCRSError
from floodmap.geo.gdal import GDAL_ERRORS, gdal_reason
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.turns import WARP_OPTIONS, overlaps, raster_shifts, x_period
from floodmap.geo.vrt import Rect
from floodmap.geo.window import Window
from floodmap.imagery.raster.gaps import Gaps

Absent = Callable[[Window], NDArray[np.bool_] | None]
"""Function from a window to bool (height, width), True for pixels that are missing in a raster.

Pixels are missing in blocks of a file that were never written, and in members of a VRT mosaic that cannot be read. The
function returns None if no pixel of the window is missing.
"""


def is_aligned(dataset: DatasetReader, own: GeoGrid, grid: GeoGrid, path: Path) -> bool:
    """Return whether a raster and a target grid have the same pixels, so that the raster needs no warping.

    If the raster or the grid has no georeference, the pixels are the same if the numbers of rows and columns are equal.

    Args:
        dataset: the raster.
        own: grid of the raster.
        grid: the target grid.
        path: path of the raster, for messages.

    Raises:
        MissingCRSError: the pixels differ, and the raster cannot be warped, because only one of raster and target grid
            has a CRS, or because one of them has neither a CRS nor a transform.
    """
    same_size = own.shape_hw == grid.shape_hw
    placed = [not side.lacks_georeference for side in (own, grid)]
    if same_size and not all(placed):
        return True
    if (own.crs is None) != (grid.crs is None) or not all(placed):
        if same_size and _same_pixels(own, grid):
            return True
        if dataset.gcps[0]:
            raise MissingCRSError(
                f"{path} is placed by control points alone; warp it first: gdalwarp {path.name} warped.tif"
            )
        raise MissingCRSError(
            f"{path} ({own.width} x {own.height} pixels) cannot be compared with the other file ({grid.width} x "
            f"{grid.height} pixels): without a CRS in both, they must have the same size and position; "
            "assign one with: rio edit-info --crs EPSG:CODE FILE"
        )
    return same_size and own.crs == grid.crs and _same_pixels(own, grid)


def warped(dataset: DatasetReader, own: GeoGrid, grid: GeoGrid, path: Path, stack: ExitStack) -> list[WarpedVRT]:
    """Warp a raster to a grid by nearest neighbour.

    Args:
        dataset: the raster.
        own: grid of the raster.
        grid: the target grid.
        path: path of the raster, for messages.
        stack: exit stack that closes the returned datasets.

    Returns:
        Warped datasets with the pixels of the grid; the last band of each is alpha. Usually the list has one dataset,
        warped from the raster as it is. Two cases differ, both near the antimeridian:

        - The raster overlaps the grid only if its x coordinates are shifted by one period (360 degrees): one dataset,
          warped from the shifted raster. Example: a raster from 170 to 190 degrees and a grid from -180 to -170.
        - The raster overlaps the grid with several shifts (0, minus one period, plus one period): one dataset for each
          shift. Example: the shifts 0 and 360 degrees, for a raster from -180 to 180 degrees and a grid from 170 to
          190 degrees. See `turns.raster_shifts`.

    Raises:
        EvaluationError: the raster does not overlap the grid, or cannot be warped to the grid.
    """
    # Two rasters with transforms but without CRS are taken to lie in the same plane. GDAL requires a CRS, and does not
    # reproject if both sides have the same CRS.
    plane = CRS.from_epsg(3857)
    require_overlap(own, grid, grid.crs or plane, path)
    shifts = raster_shifts(own.crs, own.span_x, grid.crs, grid.span_x)
    try:
        return [
            stack.enter_context(
                WarpedVRT(
                    dataset,
                    src_crs=own.crs or plane,
                    src_transform=Affine.translation(shift, 0) @ own.transform,
                    crs=grid.crs or plane,
                    transform=grid.transform,
                    width=grid.width,
                    height=grid.height,
                    resampling=Resampling.nearest,
                    tolerance=0.01,  # pixels; the default allows an error of an eighth of a pixel
                    add_alpha=ColorInterp.alpha not in dataset.colorinterp,
                    **WARP_OPTIONS,
                )
            )
            for shift in shifts or (0.0,)
        ]
    except RasterioError as error:
        raise EvaluationError(
            f"{path} cannot be warped to the grid of the file it is compared with: {gdal_reason(error)}"
        ) from error


def absent_on_grid(absent: Absent, own: GeoGrid, grid: GeoGrid) -> Absent:
    """Return a function that finds the missing pixels of a raster in windows of another grid (see `Absent`).

    Args:
        absent: function from a window of the raster to the missing pixels of the window.
        own: grid of the raster.
        grid: the other grid.

    Returns:
        Function from a window of the other grid to the missing pixels of the window. A pixel is missing if the centre
        of the pixel is in a missing pixel of the raster.
    """
    to_own = None
    if own.crs is not None and grid.crs is not None and own.crs != grid.crs:
        to_own = Transformer.from_crs(grid.crs.to_wkt(), own.crs.to_wkt(), always_xy=True)
    period, middle = x_period(own.crs), own.transform @ (own.width / 2, own.height / 2)

    def read(window: Window) -> NDArray[np.bool_] | None:
        rows, cols = np.mgrid[window.row_off : window.row_end, window.col_off : window.col_end] + 0.5
        x, y = grid.transform @ (cols, rows)
        x, y = (x, y) if to_own is None else to_own.transform(x, y)
        if period is not None:
            x = x + period * np.round((middle[0] - x) / period)
        col, row = (np.floor(along) for along in ~own.transform @ (x, y))
        inside = (col >= 0) & (col < own.width) & (row >= 0) & (row < own.height)
        if not inside.any():
            return None
        col, row = col[inside].astype(int), row[inside].astype(int)
        top, left = int(row.min()), int(col.min())
        missing = absent(Window(top, left, int(row.max()) - top + 1, int(col.max()) - left + 1))
        if missing is None:
            return None
        found = np.zeros(inside.shape, bool)
        found[inside] = missing[row - top, col - left]
        return found

    return read


def absent_in(gaps: Gaps) -> Absent:
    """Return a function that finds the pixels of a window that are in gaps of a raster (see `Absent`)."""

    def absent(window: Window) -> NDArray[np.bool_] | None:
        rect = Rect(window.col_off, window.row_off, window.width, window.height)
        found = gaps.within(rect, (window.height, window.width))
        return None if found is None else np.asarray(found > 0)

    return absent


def polygons_without_crs(path: Path, other: object) -> MissingCRSError:
    """Return the error that a file of polygons has no CRS, although the file it is compared with has one.

    Args:
        path: path of the file of polygons.
        other: text that names the other file in the message, such as its path or "the file it is compared with".
    """
    return MissingCRSError(
        f"{path} has no CRS, but {other} has one; assign it with: ogr2ogr -a_srs EPSG:CODE OUT {path.name}"
    )


def require_overlap(own: GeoGrid, grid: GeoGrid, crs: CRS, path: object) -> None:
    """Check that a raster overlaps a target grid.

    Args:
        own: grid of the raster.
        grid: the target grid.
        crs: CRS of the target grid, and of the raster if the raster has none.
        path: name of the raster, for messages.

    Raises:
        EvaluationError: they do not overlap, or the raster cannot be brought to the CRS.
    """
    try:
        bounds = transform_bounds(own.crs or crs, crs, *own.bounds)
    except GDAL_ERRORS as error:
        raise EvaluationError(
            f"{path} cannot be reprojected to the CRS of the file it is compared with: {gdal_reason(error)}"
        ) from error
    if not np.isfinite(bounds).all():
        raise EvaluationError(
            f"{path} has coordinates outside the CRS {crs} of the file it is compared with; check the CRS of both"
        )
    other = grid.bounds
    if not overlaps(bounds, other, grid.crs):
        raise EvaluationError(
            f"{path} does not overlap the file it is compared with: in the CRS of that file, the extents are "
            f"{bounds[0]:g}, {bounds[1]:g} to {bounds[2]:g}, {bounds[3]:g}, and "
            f"{other[0]:g}, {other[1]:g} to {other[2]:g}, {other[3]:g}; check the CRS of both"
        )


def _same_pixels(a: GeoGrid, b: GeoGrid) -> bool:
    """Return whether each corner of grid `a` is less than 1/100 of a pixel from the same corner of grid `b`."""
    across = ~b.transform @ a.transform
    corners = ((0, 0), (a.width, 0), (0, a.height), (a.width, a.height))
    return all(abs(got - want) < 0.01 for corner in corners for got, want in zip(across @ corner, corner, strict=True))
