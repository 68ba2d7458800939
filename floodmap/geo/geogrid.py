"""GeoGrid: the pixel grid of a raster with CRS and affine transform."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import Geod, Transformer
from pyproj.exceptions import CRSError as ProjCRSError
from pyproj.exceptions import ProjError

from floodmap.errors import MissingCRSError, SceneError
from floodmap.geo.areas import cell_areas_m2, equal_area
from floodmap.geo.crs import is_placed, known_crs
from floodmap.geo.window import Window

Floats = NDArray[np.float64]

_LARGEST_UPSAMPLING = 4

UNPLACED = Affine.scale(1, -1)
"""Transform of a picture without georeference: x is the column, y is minus the row.

QGIS draws a picture without georeference in the same coordinates, so that results lie over the picture.
"""


def is_unplaced(transform: Affine, crs: Any) -> bool:
    """Return whether a raster has no georeference, according to the metadata in its file.

    There are two cases without a georeference:

    - The transform is the identity, with or without a CRS. The identity is GDAL's value for a raster without a
      transform.
    - The transform is `UNPLACED`, and the CRS is None or not projected. `UNPLACED` with a projected CRS is a
      georeference: the side of a pixel is one unit of the CRS, such as 1 m, and the upper left corner is at the origin.

    Args:
        transform: the transform in the raster's metadata, from (column, row) to coordinates.
        crs: the CRS in the raster's metadata, a `rasterio.crs.CRS`; None if there is none.
    """
    return transform.is_identity or (transform == UNPLACED and not (crs and crs.is_projected))


def how_to_place(transform: Affine) -> str:
    """Return the advice in error messages on how to georeference a raster without CRS.

    The advice depends on the transform of the raster. If the transform is `UNPLACED`, the option `--crs` alone does not
    help.
    """
    return "give it a world file and --crs" if transform == UNPLACED else "assign one with --crs"


class Raster(Protocol):
    """A raster that is open, with CRS, transform and shape (height, width); for instance a dataset of rasterio."""

    crs: Any
    transform: Affine
    shape: tuple[int, int]


@dataclass(frozen=True)
class GeoGrid:
    """Pixel grid, defined by CRS, affine transform and shape."""

    crs: Any
    """CRS: a `rasterio.crs.CRS`, or any object that pyproj reads as a CRS. None: the place on the Earth is unknown."""
    transform: Affine
    """Affine transform from (column, row) to coordinates in the CRS. `UNPLACED` for a raster without georeference.

    The transform may rotate, shear and mirror the grid."""
    shape_hw: tuple[int, int]
    """Number of rows, number of columns."""

    @classmethod
    def of(cls, raster: Raster) -> GeoGrid:
        """Return the grid of an open raster, from the metadata of the raster."""
        return cls(raster.crs, raster.transform, raster.shape)

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.shape_hw[0]

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.shape_hw[1]

    @property
    def whole(self) -> Window:
        """Window of all pixels."""
        return Window(0, 0, *self.shape_hw)

    @property
    def lacks_georeference(self) -> bool:
        """True if the grid has no CRS, and the transform is the identity or `UNPLACED`.

        Unlike `is_unplaced`, which is for the metadata of a file, this property is never True for a grid with a CRS.
        """
        return self.crs is None and (self.transform == UNPLACED or self.transform.is_identity)

    @property
    def is_on_earth(self) -> bool:
        """True if the CRS is geographic or projected."""
        return is_placed(self.crs)

    @cached_property
    def steps_m(self) -> tuple[float, float] | None:
        """Pixel spacing at the centre of the grid, in geodesic metres: between columns, and between rows.

        None without a CRS, or if the centre cannot be converted to longitude and latitude, as with a wrong CRS.
        """
        if self.crs is None:
            return None
        x, y = self.width / 2, self.height / 2
        corners = [self.transform @ point for point in ((x - 0.5, y), (x + 0.5, y), (x, y - 0.5), (x, y + 0.5))]
        try:
            to_lonlat = Transformer.from_crs(_as_wkt(self.crs), "EPSG:4326", always_xy=True)
            xs, ys = np.transpose(corners)
            lon, lat = to_lonlat.transform(xs, ys, errcheck=True)
            _, _, distance = Geod(ellps="WGS84").inv(lon[::2], lat[::2], lon[1::2], lat[1::2])
        except (ProjError, ProjCRSError, ValueError):
            return None
        sensible = np.all(np.abs(lat) <= 90) and np.all(np.isfinite(distance)) and np.all(distance > 0)
        return (float(distance[0]), float(distance[1])) if sensible else None

    @cached_property
    def gsd_m(self) -> float | None:
        """Ground sample distance at the centre, in metres: geometric mean of `steps_m`. None if `steps_m` is None."""
        return None if self.steps_m is None else float((self.steps_m[0] * self.steps_m[1]) ** 0.5)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Bounding box (west, south, east, north) of the four corners of the grid, in units of the CRS.

        The sides of the box are parallel to the axes of the CRS, also if the grid is rotated.
        """
        xs, ys = self.to_crs(np.array([[0, 0], [self.width, 0], [0, self.height], [self.width, self.height]], float)).T
        return float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max())

    @property
    def span_x(self) -> tuple[float, float]:
        """Smallest and largest x of the four corners of the grid, in units of the CRS."""
        xs = [(self.transform @ (col, row))[0] for col in (0, self.width) for row in (0, self.height)]
        return min(xs), max(xs)

    def to_crs(self, xy: Floats) -> Floats:
        """Convert pixel coordinates to coordinates in the CRS.

        Rounding is the same as in `affine.Affine`, so that the corners of the grid are equal to the corners that
        rasterio returns.

        Args:
            xy: float64 (n, 2), column and row of each point; (0, 0) is the upper left corner of the first pixel.

        Returns:
            float64 (n, 2), x and y of each point, in units of the CRS.
        """
        return _transformed(self.transform, xy)

    def to_pixels(self, xy: Floats) -> Floats:
        """Convert coordinates in the CRS to pixel coordinates.

        Args:
            xy: float64 (n, 2), x and y of each point, in units of the CRS.

        Returns:
            float64 (n, 2), column and row of each point; (0, 0) is the upper left corner of the first pixel.
        """
        return _transformed(~self.transform, xy)

    def cell_areas_m2(self, row_edges: Floats, col_edges: Floats) -> Floats:
        """Compute the areas, on the ellipsoid, of the cells between given row lines and column lines of this grid.

        Args:
            row_edges: float64 (m + 1,), ascending positions of the row lines, in pixels from the upper edge. For
                instance, 0, 10, 20 are the edges of two cells of 10 rows.
            col_edges: float64 (n + 1,), ascending positions of the column lines, in pixels from the left edge.

        Returns:
            float64 (m, n), areas of the cells in square metres, computed by `areas.cell_areas_m2`.
        """
        return cell_areas_m2(self.crs, self.transform, row_edges, col_edges)

    def blocks(self, side: int) -> Iterator[Window]:
        """Yield windows of at most `side` x `side` pixels that cover the grid without overlap.

        The order is from left to right, then from top to bottom.
        """
        for row in range(0, self.height, side):
            for col in range(0, self.width, side):
                yield Window(row, col, min(side, self.height - row), min(side, self.width - col))

    def padded(self, window: Window, rows: int, cols: int) -> Window:
        """Return a window with a margin of `rows` rows above and below and `cols` columns left and right.

        The enlarged window is clipped to the grid.
        """
        top, left = max(window.row_off - rows, 0), max(window.col_off - cols, 0)
        bottom, right = min(window.row_end + rows, self.height), min(window.col_end + cols, self.width)
        return Window(top, left, bottom - top, right - left)

    def resampled(self, resolution_m: float | None, path: object) -> GeoGrid:
        """Return a grid of exactly the same extent, with pixels of nearly `resolution_m` metres.

        Args:
            resolution_m: side of a pixel on the ground, in metres. None: return this grid.
            path: path of the raster, for messages.

        Raises:
            MissingCRSError: the grid has no CRS, so that a length in metres is not defined.
            SceneError: the new grid would have no pixels, or pixels more than 4 times finer than this grid.
        """
        if resolution_m is None:
            return self
        if self.steps_m is None:
            how = how_to_place(self.transform)
            raise MissingCRSError(f"{path} has no CRS, so --resolution {resolution_m:g} (metres) cannot be used; {how}")
        across, down = self.steps_m
        height, width = round(self.height * down / resolution_m), round(self.width * across / resolution_m)
        if min(height, width) < 1:
            raise SceneError(f"{path} is smaller than one pixel of {resolution_m:g} m; choose a finer --resolution")
        if max(self.steps_m) / resolution_m > _LARGEST_UPSAMPLING:
            coarse = max(self.steps_m)
            raise SceneError(
                f"{path} has pixels of {coarse:.3g} m; --resolution {resolution_m:g} adds no detail; "
                f"choose {coarse:.3g} or coarser"
            )
        scale = Affine.scale(self.width / width, self.height / height)
        return GeoGrid(self.crs, self.transform @ scale, (height, width))


def _as_wkt(crs: Any) -> Any:
    return crs.to_wkt() if hasattr(crs, "to_wkt") else crs


def _transformed(transform: Affine, xy: Floats) -> Floats:
    a, b, c, d, e, f = transform[:6]
    x, y = xy[:, 0], xy[:, 1]
    return np.stack([x * a + y * b + c, x * d + y * e + f], axis=1)


def pixel_m2_within(outline: NDArray[np.object_], grid: GeoGrid) -> float:
    """Return the area in square metres of the pixel at the centre of the bounding box of all outlines.

    The result is NaN if the grid has no geographic or projected CRS, or if the CRS is not valid at this pixel.

    Args:
        outline: shapely polygons with vertices (column, row), object (n,).
        grid: grid of the scene's pixels.
    """
    return pixel_m2_at(*shapely.total_bounds(outline), grid=grid)


def pixel_m2_at(west: float, north: float, east: float, south: float, *, grid: GeoGrid) -> float:
    """Return the area in square metres of the pixel at the centre of a rectangle of pixels; see `pixel_m2_within`."""
    if not grid.is_on_earth:
        return math.nan
    col, row = (west + east) / 2, (north + south) / 2
    if (plane := equal_area(known_crs(grid.crs), *(grid.transform * (col, row)))) is None:
        return math.nan
    ground = plane(np.array([grid.transform * point for point in ((col, row), (col + 1, row), (col, row + 1))]))
    pixel_m2 = abs(np.linalg.det(ground[1:] - ground[0]))
    return float(pixel_m2) if math.isfinite(pixel_m2) else math.nan
