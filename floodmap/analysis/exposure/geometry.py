"""Geometries of any CRS in the pixel coordinates of a scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from pyproj.exceptions import ProjError

from floodmap.analysis.exposure.pieces import Edges
from floodmap.errors import VectorError
from floodmap.geo.areas import EARTH_RADIUS_M, EDGE_M, densified_vertices, lengths_m
from floodmap.geo.crs import known_crs
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.turns import x_period
from floodmap.geo.vectors import areal_part

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Geometries = NDArray[np.object_]

AREAL = (int(shapely.GeometryType.POLYGON), int(shapely.GeometryType.MULTIPOLYGON))
LINEAR = (int(shapely.GeometryType.LINESTRING), int(shapely.GeometryType.MULTILINESTRING))
PUNCTUAL = (int(shapely.GeometryType.POINT), int(shapely.GeometryType.MULTIPOINT))
_MARGIN = 0.1
"""Margin of the scene's bounds in another CRS, as a share of their sides."""


def is_of(geometries: Geometries, kinds: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return whether each geometry has one of the types of a group, such as `AREAL`; bool (n,)."""
    return np.isin(shapely.get_type_id(geometries), kinds)


def repaired(geometries: Geometries) -> tuple[Geometries, int]:
    """Repair invalid polygons; only the polygons of a repair are kept, and a collapsed polygon becomes empty.

    Args:
        geometries: shapely polygons, object (n,).

    Returns:
        The polygons, and the number of those that were repaired.
    """
    broken = ~shapely.is_valid(geometries)
    if not broken.any():
        return geometries, 0
    mended = geometries.copy()
    mended[broken] = [areal_part(geometry) for geometry in shapely.make_valid(geometries[broken])]
    return mended, int(broken.sum())


class Place:
    """The way from the coordinates of a file to the pixel coordinates of a scene.

    Args:
        crs: CRS of the file.
        grid: pixel grid of the scene, with a geographic or projected CRS.
        file: name of the file, for messages.

    Raises:
        VectorError: the file has no CRS, or it cannot be converted to that of the scene.
    """

    def __init__(self, crs: pyproj.CRS | None, grid: GeoGrid, file: Path | str) -> None:
        if crs is None:
            raise VectorError(f"{file} has no CRS; assign one with: ogr2ogr -a_srs EPSG:CODE OUT {Path(file).name}")
        scene = known_crs(grid.crs)
        self.crs, self._grid, self._file = crs, grid, file
        try:
            self._transform = pyproj.Transformer.from_crs(crs, scene, always_xy=True)
        except ProjError as error:
            raise VectorError(f"{file} cannot be converted from {crs.name} to {scene.name}") from error
        self._is_same = crs.equals(scene, ignore_axis_order=True)
        self._period, self._own_period = x_period(grid.crs), x_period(crs)
        unit = crs.axis_info[0].unit_conversion_factor * (EARTH_RADIUS_M if crs.is_geographic else 1.0)
        self._longest = EDGE_M / unit
        self.bounds = self._bounds()

    def _bounds(self) -> tuple[float, float, float, float] | None:
        """Return the bounds of the scene in the CRS of the file, with a margin. None: they are not known."""
        try:
            bounds = self._transform.transform_bounds(*self._grid.bounds, direction="INVERSE")
        except ProjError:
            return None
        west, south, east, north = bounds
        if not np.isfinite(bounds).all() or east <= west or north <= south:  # across the antimeridian, west is larger
            return None
        if self._own_period is not None and max(-west, east) > self._own_period / 2:
            return None  # the file may have the same ground at another x
        x, y = _MARGIN * (east - west), _MARGIN * (north - south)
        return west - x, south - y, east + x, north + y

    def cut(self, geometries: Geometries) -> Geometries:
        """Cut off what is far outside of the scene, so that a coast line of a continent does not slow down the rest."""
        if self.bounds is None or not len(geometries):
            return geometries
        west, south, east, north = shapely.bounds(geometries).T
        beyond = (west < self.bounds[0]) | (south < self.bounds[1]) | (east > self.bounds[2]) | (north > self.bounds[3])
        if not beyond.any():
            return geometries
        near = geometries.copy()
        near[beyond] = shapely.intersection(geometries[beyond], shapely.box(*self.bounds))
        return near

    def pixels(self, xy: Floats, part: Ints) -> Floats:
        """Convert coordinates of rings, lines or points to pixel coordinates.

        Args:
            xy: float64 (n, 2), x and y in the CRS of the file.
            part: int64 (n,), ascending number of the ring, line or point of each vertex.

        Returns:
            float64 (n, 2), column and row. Parts that cross the antimeridian are continuous, and near the scene.

        Raises:
            VectorError: coordinates do not exist in the CRS of the scene.
        """
        if not self._is_same and len(xy):
            try:
                xy = np.stack(self._transform.transform(xy[:, 0], xy[:, 1]), axis=1)
            except ProjError as error:
                raise VectorError(f"{self._file} cannot be converted to the CRS of the scene: {error}") from error
        if not np.isfinite(xy).all():
            raise VectorError(
                f"{self._file} has coordinates that do not exist in the CRS of the scene; is its CRS, {self.crs.name}, "
                "right?"
            )
        return self._grid.to_pixels(xy if self._period is None else self._near_scene(xy, part, self._period))

    def _near_scene(self, xy: Floats, part: Ints, period: float) -> Floats:
        """Remove jumps of x by one period within parts, and move parts by periods to the scene."""
        if not len(xy):
            return xy
        xy = _continuous(xy, part, period)
        is_first = np.diff(part, prepend=-1) != 0
        starts = np.flatnonzero(is_first)
        middle = np.add.reduceat(xy[:, 0], starts) / np.diff(np.append(starts, len(xy)))
        west, east = self._grid.span_x
        turns = np.round(((west + east) / 2 - middle) / period)[np.cumsum(is_first) - 1]
        moved: Floats = xy + np.stack([turns * period, np.zeros(len(xy))], axis=1)
        return moved

    def dense_pixels(self, xy: Floats, part: Ints) -> tuple[Floats, Ints]:
        """Add vertices to edges of more than 1 km, and convert; arguments and results as for `pixels`, with `part`."""
        if len(xy):
            xy = xy if self._own_period is None else _continuous(xy, part, self._own_period)
            xy, part = densified_vertices(xy, part, self._longest)
        return self.pixels(xy, part), part


def _continuous(xy: Floats, part: Ints, period: float) -> Floats:
    """Remove jumps of x by one period within parts, as between 179 and -179 degrees; `part` as in `Place.pixels`."""
    is_first = np.diff(part, prepend=-1) != 0
    leaps = np.where(is_first, 0.0, np.round(np.diff(xy[:, 0], prepend=xy[0, 0]) / period))
    if not leaps.any():
        return xy
    turns = np.cumsum(leaps)
    turns -= turns[is_first][np.cumsum(is_first) - 1]
    return np.stack([xy[:, 0] - turns * period, xy[:, 1]], axis=1)


def points_in_pixels(points: Geometries, place: Place) -> Floats:
    """Return column and row of shapely points, float64 (n, 2)."""
    xy = shapely.get_coordinates(points)
    return place.pixels(xy, np.arange(len(xy)))


def polygons_in_pixels(polygons: Geometries, place: Place) -> Geometries:
    """Return polygons in pixel coordinates, object (n,): valid, with vertices on edges of more than 1 km."""
    parts, owner = shapely.get_parts(polygons, return_index=True)
    rings, part = shapely.get_rings(parts, return_index=True)
    xy, ring = place.dense_pixels(*shapely.get_coordinates(rings, return_index=True))
    moved = shapely.polygons(shapely.linearrings(xy, indices=ring), indices=part) if len(xy) else parts
    whole = np.full(len(polygons), shapely.MultiPolygon(), object)
    if len(moved):
        shapely.multipolygons(moved, indices=owner, out=whole)
    return repaired(whole)[0]


def lines_in_pixels(lines: Geometries, place: Place) -> tuple[Geometries, Ints]:
    """Return shapely LineStrings in pixel coordinates, object (m,), and the index of the given line of each."""
    parts, owner = shapely.get_parts(lines, return_index=True)
    xy, part = place.dense_pixels(*shapely.get_coordinates(parts, return_index=True))
    return (shapely.linestrings(xy, indices=part) if len(xy) else parts), owner


def line_edges(lines: Geometries, grid: GeoGrid) -> Edges:
    """Return the edges of lines in pixel coordinates, with geodesic lengths; the owner is the index of the line."""
    xy, line = shapely.get_coordinates(lines, return_index=True)
    inner = np.diff(line) == 0
    start, end = xy[:-1][inner], xy[1:][inner]
    length = lengths_m(grid.to_crs(start), grid.to_crs(end), grid.crs) if len(start) else np.zeros(0)
    return Edges(x0=start[:, 0], y0=start[:, 1], x1=end[:, 0], y1=end[:, 1], owner=line[:-1][inner], length_m=length)


def ring_edges(polygons: Geometries, place: Place | None = None) -> tuple[Edges, Floats]:
    """Return the edges of polygons in pixel coordinates. Outer rings run in one direction, holes in the other.

    Args:
        polygons: valid shapely polygons, object (n,).
        place: the way from their coordinates to pixel coordinates; None: they are in pixel coordinates.

    Returns:
        The edges, whose owner is the index of the polygon; and float64 (n,), the area of each polygon in pixels.
    """
    parts, of_part = shapely.get_parts(polygons, return_index=True)
    rings, part_of_ring = shapely.get_rings(parts, return_index=True)
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    if place is not None:
        xy, ring = place.dense_pixels(xy, ring)
    first = xy[np.diff(ring, prepend=-1) != 0]
    inner = np.diff(ring) == 0
    start, end, ring = xy[:-1][inner], xy[1:][inner], ring[:-1][inner]
    # Relative to the first vertex of the ring: products of large coordinates lose precision.
    a, b = start - first[ring], end - first[ring]
    area = np.bincount(ring, (a[:, 0] * b[:, 1] - b[:, 0] * a[:, 1]) / 2, len(rings))
    is_hole = np.diff(part_of_ring, prepend=-1) == 0
    owner_of_ring = of_part[part_of_ring]
    px: Floats = np.bincount(owner_of_ring, np.where(is_hole, -1, 1) * np.abs(area), len(polygons)).astype(np.float64)
    back = ((area < 0) != is_hole)[ring][:, None]
    start, end = np.where(back, end, start), np.where(back, start, end)
    return Edges(x0=start[:, 0], y0=start[:, 1], x1=end[:, 0], y1=end[:, 1], owner=owner_of_ring[ring]), px
