"""Areas and lengths on the WGS 84 ellipsoid: areas of rectangles of pixels, areas and perimeters of polygons."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pyproj
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj import Geod
from pyproj.exceptions import ProjError

from floodmap.errors import EvaluationError
from floodmap.geo.crs import is_placed, known_crs

Floats = NDArray[np.float64]
Geometries = NDArray[np.object_]
Ints = NDArray[np.int64]
_GEOD = Geod(ellps="WGS84")
EDGE_M = 1000.0
"""Length in metres above which extra vertices are added to an edge of a polygon before the projection."""
EARTH_RADIUS_M = 6_371_000.0
CHUNK = 2**17
"""Largest number of edges that are projected together; edges are counted before extra vertices are added."""


def cell_areas_m2(crs: object, transform: Affine, row_edges: Floats, col_edges: Floats) -> Floats:
    """Compute the areas, on the ellipsoid, of the cells between given row lines and column lines of a pixel grid.

    A cell lies between two neighbouring row lines and two neighbouring column lines, and may contain many pixels.
    By Green's theorem the area of a ring on the ellipsoid is the integral of the authalic function q over longitude
    (Snyder 1987, equation 3-12). The result is exact for edges along meridians and parallels. For other edges, the
    relative error is about s squared; s is the side of the cell, as an angle at the centre of the Earth in radians.
    Example: a cell with sides of 100 km has s = 0.016, and an error of about 0.02 %. The callers use cells of at most
    256 x 256 pixels, with sides of 7.7 km for pixels of 30 m.

    Args:
        crs: a geographic or projected CRS.
        transform: affine transform from (column, row) to the CRS, any rotation.
        row_edges: float64 (m + 1,), ascending positions of the row lines, in pixels from the upper edge of the grid.
        col_edges: float64 (n + 1,), ascending positions of the column lines, in pixels from the left edge of the grid.

    Returns:
        float64 (m, n), areas of the cells in square metres.

    Raises:
        EvaluationError: the coordinates of a cell do not exist on the Earth.
    """
    cols, rows = np.meshgrid(col_edges, row_edges)
    x = transform.a * cols + transform.b * rows + transform.c
    y = transform.d * cols + transform.e * rows + transform.f
    lon, lat = _lonlat(crs, x, y)
    q = _authalic(np.radians(lat))
    area = np.zeros((len(row_edges) - 1, len(col_edges) - 1))
    corners = [np.s_[:-1, :-1], np.s_[:-1, 1:], np.s_[1:, 1:], np.s_[1:, :-1]]
    for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
        turn = (lon[end] - lon[start] + 180) % 360 - 180  # shorter direction, also across the antimeridian
        area += np.radians(turn) * ((q[start] + q[end]) / 2 - q[corners[0]])
    return np.abs(area) * _GEOD.a**2 / 2


def _authalic(lat: Floats) -> Floats:
    """Return the authalic function q (Snyder 1987, equation 3-12) of latitudes in radians, float64 of any shape."""
    e = float(np.sqrt(_GEOD.es))
    sin: Floats = np.sin(lat)
    q: Floats = (1 - e**2) * (sin / (1 - (e * sin) ** 2) + np.arctanh(e * sin) / e)
    return q


def _lonlat(crs: object, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Convert x and y in a CRS, float64 of any shape, to longitudes and latitudes in degrees (WGS 84)."""
    try:
        lon, lat = _to_lonlat(known_crs(crs)).transform(x, y)
    except ProjError as error:
        raise EvaluationError(
            f"coordinates cannot be converted to longitude and latitude: {error}; assign the right CRS"
        ) from error
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        raise EvaluationError(
            f"coordinates near {float(np.ravel(x)[0]):g}, {float(np.ravel(y)[0]):g} do not exist in their CRS "
            f"({known_crs(crs).name}); assign the right CRS"
        )
    return lon, lat


def measure(
    geometries: Geometries, crs: object, place: Callable[[Floats], Floats] | None = None
) -> tuple[Floats, Floats]:
    """Compute the areas and perimeters of polygons on the WGS 84 ellipsoid.

    Edges are straight lines in the CRS, and are cut into pieces of at most 1 km. All vertices are projected to a
    Lambert azimuthal equal-area plane centred on the polygons (Snyder 1987, chapter 24). In this plane areas are exact,
    and lengths are right to 0.1 % within 500 km of the centre. Per vertex, this method is many times faster than
    `pyproj.Geod`.

    Args:
        geometries: shapely Polygons, object (n,).
        crs: a geographic or projected CRS.
        place: function that converts vertices of the polygons, float64 (m, 2), to coordinates (x, y) in the CRS, by an
            affine map. None: the vertices are in the CRS already.

    Returns:
        Areas in square metres and perimeters in metres, each float64 (n,). NaN without a geographic or projected CRS,
        and for polygons with coordinates that do not exist in the CRS.
    """
    unknown = np.full(len(geometries), np.nan)
    if not len(geometries) or not is_placed(crs):
        return unknown, unknown.copy()
    known, place = known_crs(crs), place or (lambda xy: xy)
    west, south, east, north = shapely.total_bounds(geometries)
    plane = equal_area(known, *place(np.array([[(west + east) / 2, (south + north) / 2]]))[0])
    if plane is None:
        return unknown, unknown.copy()
    unit = known.axis_info[0].unit_conversion_factor * (EARTH_RADIUS_M if known.is_geographic else 1.0)
    _, vertices, (ring_ends, polygon_ends) = shapely.to_ragged_array(geometries, include_z=False)
    rings = _Rings(plane(place(vertices[ring_ends[:-1]])))
    ring = np.repeat(np.arange(len(ring_ends) - 1), np.diff(ring_ends))
    with np.errstate(invalid="ignore"):
        # In chunks of vertices, because the computation needs many arrays. Each chunk begins with the last vertex of
        # the previous chunk.
        for first in range(0, len(vertices) - 1, CHUNK):
            chunk = slice(first, first + CHUNK + 1)
            xy, ring_of_xy = densified_vertices(place(vertices[chunk]), ring[chunk], EDGE_M / unit)
            rings.add(plane(xy), ring_of_xy)
    ring_area = -np.abs(rings.area)
    # The first ring of a polygon is the outer ring, and all other rings are holes.
    ring_area[polygon_ends[:-1][np.diff(polygon_ends) > 0]] *= -1
    owner = np.repeat(np.arange(len(geometries)), np.diff(polygon_ends))
    area = np.bincount(owner, ring_area, len(geometries)).astype(np.float64)
    perimeter = np.bincount(owner, rings.length, len(geometries)).astype(np.float64)
    for values in (area, perimeter):
        values[~np.isfinite(values)] = np.nan
    return area, perimeter


def edge_sums(
    start: Floats, end: Floats, crs: object, place: Callable[[Floats], Floats], centre: Floats
) -> tuple[Floats, Floats]:
    """Compute for edges what they add to the areas and perimeters that `measure` returns.

    The signed areas of the edges of a ring add up to its area, which is positive if the ring is counter-clockwise.

    Args:
        start: begins of n edges, float64 (n, 2), to be converted by `place`.
        end: ends of the edges, float64 (n, 2).
        crs: a geographic or projected CRS.
        place: see `measure`.
        centre: centre of the plane, which should be that of the polygons, float64 (2,), to be converted by `place`.

    Returns:
        Signed areas of the triangles of the edges and the centre in square metres, and lengths in metres, float64 (n,).
        NaN for coordinates that do not exist in the CRS.
    """
    known = known_crs(crs)
    centre_xy = place(centre[None])
    plane = equal_area(known, *centre_xy[0])
    if plane is None:
        return np.full(len(start), np.nan), np.full(len(start), np.nan)
    unit = known.axis_info[0].unit_conversion_factor * (EARTH_RADIUS_M if known.is_geographic else 1.0)
    # Each edge is a ring of two vertices, which is not closed.
    edges = _Rings(np.repeat(plane(centre_xy), len(start), axis=0))
    vertices = place(np.stack([start, end], axis=1).reshape(-1, 2))
    with np.errstate(invalid="ignore"):
        for first in range(0, len(vertices), CHUNK):
            number = np.arange(first, min(first + CHUNK, len(vertices))) // 2
            edges.add(*_projected(vertices[first : first + CHUNK], number, plane, EDGE_M / unit))
    return edges.area, edges.length


def _projected(
    vertices: Floats, ring: Ints, plane: Callable[[Floats], Floats], longest: float
) -> tuple[Floats, Ints]:  # fmt: skip
    xy, ring = densified_vertices(vertices, ring, longest)
    return plane(xy), ring


def lengths_m(start_xy: Floats, end_xy: Floats, crs: object) -> Floats:
    """Compute the lengths of short straight edges on the WGS 84 ellipsoid.

    An edge is taken for the geodesic between its ends. For an edge of 1 km the two lengths differ by less than 1 mm.

    Args:
        start_xy: float64 (n, 2), coordinates of the starts in the CRS.
        end_xy: float64 (n, 2), coordinates of the ends in the CRS.
        crs: a geographic or projected CRS.

    Returns:
        float64 (n,), in metres.

    Raises:
        EvaluationError: coordinates do not exist on the Earth.
    """
    starts, ends = (_lonlat(crs, xy[:, 0], xy[:, 1]) for xy in (start_xy, end_xy))
    length: Floats = np.asarray(_GEOD.inv(*starts, *ends)[2])
    return length


def densified(geometries: Geometries, crs: object) -> Geometries:
    """Add vertices to polygons, so that no edge is longer than 1 km, for a conversion to longitude and latitude.

    Without these vertices, the middle of an edge of 20 km would be moved by about 10 m.

    Args:
        geometries: shapely Polygons, object (n,).
        crs: CRS of the polygons. If it is not projected, the polygons are returned unchanged.
    """
    if not len(geometries) or crs is None or not (known := known_crs(crs)).is_projected:
        return geometries
    kind, xy, (ring_ends, polygon_ends) = shapely.to_ragged_array(geometries, include_z=False)
    ring = np.repeat(np.arange(len(ring_ends) - 1), np.diff(ring_ends))
    dense, ring = densified_vertices(xy, ring, EDGE_M / known.axis_info[0].unit_conversion_factor)
    if len(dense) == len(xy):
        return geometries
    ring_ends = np.append(0, np.cumsum(np.bincount(ring, minlength=len(ring_ends) - 1)))
    moved: Geometries = shapely.from_ragged_array(kind, dense, (ring_ends, polygon_ends))
    return moved


def densified_vertices(xy: Floats, ring: Ints, longest: float) -> tuple[Floats, Ints]:
    """Add vertices to rings, so that no edge is longer than `longest`.

    `shapely.segmentize` is not used, because `shapely.segmentize` also repairs polygons. The repair takes half a minute
    for a polygon of a million vertices.

    Args:
        xy: float64 (n, 2), vertices of one or more rings.
        ring: int64 (n,), index of the ring of each vertex.
        longest: largest length of an edge, in the unit of `xy`.

    Returns:
        Two arrays: float64 (m, 2), old and new vertices in order; int64 (m,), index of the ring of each vertex.
    """
    step = np.diff(xy, axis=0)
    pieces = np.ceil(np.hypot(step[:, 0], step[:, 1]) / longest)
    same = (ring[1:] == ring[:-1]) & np.isfinite(pieces)
    pieces = np.where(same, np.maximum(pieces, 1.0), 1.0).astype(np.int64)
    if pieces.max(initial=1) == 1:
        return xy, ring
    edge = np.repeat(np.arange(len(pieces)), pieces)
    along = np.arange(len(edge)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    between = xy[edge] + (along / pieces[edge])[:, None] * step[edge]
    return np.concatenate([between, xy[-1:]]), np.append(ring[edge], ring[-1])


class _Rings:
    """Areas and lengths of several closed rings in a plane, as sums over the edges that `add` has added.

    The area of a ring is positive if the vertices are in counter-clockwise order, and negative if they are in clockwise
    order (x to the right, y up). `add` subtracts the first vertex of the ring from all coordinates before it multiplies
    coordinates for the area, because products of large coordinates lose precision.

    Args:
        first_xy: float64 (number of rings, 2), first vertex of each ring, in the plane.
    """

    def __init__(self, first_xy: Floats) -> None:
        self._first_xy = first_xy
        self.area, self.length = np.zeros((2, len(first_xy)))

    def add(self, xy: Floats, ring: Ints) -> None:
        """Add the edges between consecutive vertices of the same ring to the sums.

        Args:
            xy: float64 (m, 2), vertices in the plane.
            ring: int64 (m,), index of the ring of each vertex, in ascending order.
        """
        low, n_rings = ring[0], ring[-1] - ring[0] + 1
        inside = ring[1:] == ring[:-1]
        step, near = np.diff(xy, axis=0), xy - self._first_xy[ring]
        cross = near[:-1, 0] * near[1:, 1] - near[1:, 0] * near[:-1, 1]
        for total, edges in ((self.length, np.hypot(step[:, 0], step[:, 1])), (self.area, cross / 2)):
            total[low : low + n_rings] += np.bincount(ring[1:] - low, np.where(inside, edges, 0.0), n_rings)


@lru_cache(maxsize=16)
def _to_lonlat(crs: pyproj.CRS) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)


@lru_cache(maxsize=16)
def _plane_at(crs: pyproj.CRS, lon: int, lat: int) -> pyproj.Transformer:
    plane = f"+proj=laea +lat_0={lat} +lon_0={lon} +datum=WGS84 +units=m +type=crs"
    return pyproj.Transformer.from_crs(crs, plane, always_xy=True)


def equal_area(crs: pyproj.CRS, x: float, y: float) -> Callable[[Floats], Floats] | None:
    """Return a function that projects points from a CRS to an equal-area plane.

    Args:
        crs: CRS of the points.
        x: x of the centre of the plane, in units of the CRS. The centre is rounded to whole degrees.
        y: y of the centre of the plane, in units of the CRS.

    Returns:
        Function from points in the CRS, float64 (n, 2), to points in the plane in metres, float64 (n, 2). None if the
        centre does not exist on the Earth.
    """
    try:
        lon, lat = _to_lonlat(crs).transform(x, y)
        if not math.isfinite(lon) or not math.isfinite(lat):
            return None
        transformer = _plane_at(crs, round(lon), round(lat))
    except ProjError:
        return None
    return lambda xy: np.stack(transformer.transform(xy[:, 0], xy[:, 1]), axis=1)
