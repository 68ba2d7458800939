"""Coordinates across the antimeridian, where the same place has the longitudes +180 and -180 degrees.

In geographic CRS and in cylindrical projections x is periodic, and coordinates are compared modulo one period. The
period is the change of x in one turn around the Earth: 360 degrees, or the corresponding length in a projection.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer

Geometries = NDArray[np.object_]
Floats = NDArray[np.float64]

_CYLINDRICAL = ("Mercator", "Popular Visualisation", "Equidistant Cylindrical", "Lambert Cylindrical", "Miller")
"""Beginnings of the names of cylindrical projections in PROJ; x is proportional to longitude in these projections."""
_TURNS = (0, -1, 1)
"""Numbers of periods by which x is shifted in a comparison. Coordinates that would need more periods are invalid."""
WARP_OPTIONS = {"SAMPLE_STEPS": "ALL", "SOURCE_EXTRA": 2}
"""Options of GDAL's warper for grids that the antimeridian may cross.

GDAL warps a target raster in rectangular pieces. To find the source pixels to read for a piece, GDAL transforms points
on its edges. By default these are 21 points an edge, and close to the antimeridian GDAL then reads too few pixels. With
`SAMPLE_STEPS`, all pixels of the edges are transformed. With `SOURCE_EXTRA`, 2 more source pixels are read on each
side.
"""


def x_period(crs: Any) -> float | None:
    """Return the period of x in units of a CRS, 360 if the unit is the degree.

    None is returned without a CRS, or if x is not periodic, as in UTM.
    """
    if crs is None:
        return None
    return _x_period(crs.to_wkt() if hasattr(crs, "to_wkt") else CRS.from_user_input(crs).to_wkt())


def raster_shifts(
    crs: Any, own_x: tuple[float, float], frame_crs: Any, frame_x: tuple[float, float]
) -> tuple[float, ...]:
    """Return the shifts of a raster along x, by whole periods, with which the raster may overlap a target grid.

    Only x is compared, never y. A shift is returned if the shifted raster overlaps the range of x in which the target
    grid may lie, in the unit of `crs`:

    - If both CRS are the same, the range is `frame_x`.
    - If the CRS differ, the range reaches half a period to both sides of the central meridian of `crs`. PROJ transforms
      every point of the target grid to an x in this range.
    - If the CRS differ and both are geographic, there is a second range: `frame_x`, converted to the unit of `crs`. It
      is needed because PROJ may leave longitudes such as 190 degrees unchanged. Overlap with one of the two ranges is
      enough.

    Args:
        crs: CRS of the raster.
        own_x: smallest and largest x of the raster, in units of `crs`.
        frame_crs: CRS of the target grid.
        frame_x: smallest and largest x of the target grid, in units of `frame_crs`.

    Returns:
        The shifts in units of `crs`. The possible shifts are 0, minus one period and plus one period, in this order;
        shifts without overlap are left out. For example (-360.0,) for a raster from 170 to 190 degrees and a grid from
        -180 to -170 degrees in the same CRS. (0.0,) if x is not periodic in `crs`.
    """
    period, other = x_period(crs), x_period(frame_crs)
    if period is None:
        return (0.0,)
    known = CRS.from_user_input(crs)
    is_same = known.equals(CRS.from_user_input(frame_crs), ignore_axis_order=True)
    reaches = [] if is_same else [_x_range(known, period)]
    if is_same or (other is not None and known.is_geographic and CRS.from_user_input(frame_crs).is_geographic):
        reaches.append((frame_x[0] * period / (other or period), frame_x[1] * period / (other or period)))
    least = 1e-9 * period
    return tuple(
        shift
        for shift in (times * period for times in _TURNS)
        if any(min(own_x[1] + shift, east) - max(own_x[0] + shift, west) > least for west, east in reaches)
    )


def overlaps(a: tuple[float, float, float, float], b: tuple[float, float, float, float], crs: Any) -> bool:
    """Return whether two rectangles in the same CRS overlap.

    A rectangle that crosses the antimeridian may be given in two forms. Either west is larger than east, as in GDAL:
    170 and -170 degrees. Or one of the two is beyond the antimeridian, as in the result of `bounds_of`: 170 and 190
    degrees.

    Args:
        a: west, south, east, north of the first rectangle, in units of the CRS.
        b: west, south, east, north of the second rectangle, in units of the CRS.
        crs: CRS of both rectangles.
    """
    period = x_period(crs)
    if a[3] <= b[1] or a[1] >= b[3]:
        return False
    spans = [(west, east + period if period is not None and east < west else east) for west, _, east, _ in (a, b)]
    shifts = [times * period for times in _TURNS] if period is not None else [0.0]
    return any(spans[0][0] + shift < spans[1][1] and spans[0][1] + shift > spans[1][0] for shift in shifts)


def turned(geometries: Geometries, crs: Any, span: tuple[float, float]) -> Geometries:
    """Return copies of geometries, shifted by whole periods of x so that the copies lie in the range of x of a grid.

    Args:
        geometries: shapely geometries, object (n,), in the CRS.
        crs: CRS of the geometries and the grid. If x is not periodic, the geometries are returned unchanged.
        span: smallest and largest x of the grid.

    Returns:
        Shapely geometries, object (m,): one copy of a geometry for each shift (0, -1 or 1 period) after which the
        geometry overlaps or touches the range. Geometries without such a shift are left out.
    """
    period = x_period(crs)
    if period is None or not len(geometries):
        return geometries
    west, _, east, _ = shapely.bounds(geometries).T
    copies = []
    for shift in (times * period for times in _TURNS):
        there = geometries[(west + shift <= span[1]) & (east + shift >= span[0])]
        copies.append(there if shift == 0 else _moved(there, shift))
    return np.concatenate(copies)


def unwrapped(geometries: Geometries, crs: Any) -> Geometries:
    """Remove jumps of x by one period from polygons that cross the antimeridian.

    PROJ causes jumps, such as from 179 to -179 degrees, if a polygon that crosses the antimeridian is transformed.

    Args:
        geometries: shapely geometries, object (n,), in the CRS. Every edge must in reality span less than half a
            period of x: an edge from 179 to -179 degrees spans 2 degrees.
        crs: CRS of the geometries. If x is not periodic, the geometries are returned unchanged.

    Returns:
        Shapely geometries, object (n,). Polygons that had jumps now extend beyond the antimeridian.
    """
    period = x_period(crs)
    if period is None or not len(geometries):
        return geometries
    xy, owner = shapely.get_coordinates(geometries, return_index=True)
    far = (np.abs(np.diff(xy[:, 0])) > period / 2) & (np.diff(owner) == 0)
    mended = geometries.copy()
    for index in np.unique(owner[1:][far]):
        mended[index] = _unwrapped(geometries[index], period)
    return mended


def bounds_of(geometries: Geometries, crs: Any) -> tuple[float, float, float, float]:
    """Return the narrower of two bounding boxes of geometries: the usual box, or the box across the antimeridian.

    If x is not periodic in `crs`, the result is the usual box.

    Args:
        geometries: shapely geometries, object (n,), at least one.
        crs: CRS of the geometries.

    Returns:
        West, south, east, north, in units of the CRS. If the box crosses the antimeridian, east is one period larger
        than the usual x, for example 190 degrees in place of -170 degrees.
    """
    parts = shapely.get_parts(geometries)
    west, south, east, north = (float(edge) for edge in shapely.total_bounds(parts))
    period = x_period(crs)
    if period is None or east - west <= period / 2:
        return west, south, east, north
    left, _, right, _ = shapely.bounds(parts).T
    order = np.argsort((left + period / 2) % period)
    start, length = ((left + period / 2) % period - period / 2)[order], (right - left)[order]
    gaps = np.append(start[1:], start[0] + period) - np.maximum.accumulate(start + length)
    first = float(start[(int(gaps.argmax()) + 1) % len(start)])
    reach = float(((start - first) % period + length).max())
    return (first, south, first + reach, north) if reach < east - west else (west, south, east, north)


def _moved(geometries: Geometries, shift: float) -> Geometries:
    return np.asarray(shapely.transform(geometries, lambda xy: xy + np.array([shift, 0.0])), object)


def _unwrapped(geometry: shapely.Geometry, period: float) -> shapely.Geometry:
    if geometry.geom_type == "MultiPolygon":
        return shapely.MultiPolygon([_unwrapped(part, period) for part in geometry.geoms])
    if geometry.geom_type != "Polygon":
        return geometry
    shell, *holes = (_ring(shapely.get_coordinates(ring), period) for ring in (geometry.exterior, *geometry.interiors))
    middle = shell[:, 0].min() + np.ptp(shell[:, 0]) / 2
    for hole in holes:
        hole[:, 0] += period * np.round((middle - hole[:, 0].mean()) / period)
    return shapely.Polygon(shell, holes)


def _ring(xy: Floats, period: float) -> Floats:
    """Remove jumps of x by one period from a closed ring, float64 (n, 2), in place, and return the ring.

    A ring around a pole stays unchanged. Such a ring makes one turn around the Earth: the sum of the jumps is not 0.
    """
    leaps = np.cumsum(np.round(np.diff(xy[:, 0]) / period))
    if leaps[-1] == 0:
        xy[1:, 0] -= leaps * period
    return xy


def _x_range(crs: CRS, period: float) -> tuple[float, float]:
    """Return the smallest and the largest x that PROJ can return for a point that is transformed to a CRS.

    The range has a width of one period. The middle of the range is the false easting, or 0 in a geographic CRS.

    Args:
        crs: the CRS.
        period: period of x, in units of the CRS.
    """
    centre = 0.0
    if not crs.is_geographic and crs.coordinate_operation is not None:
        eastings = (value.value for value in crs.coordinate_operation.params if "asting" in value.name)
        centre = float(next(eastings, 0.0))
    return centre - period / 2, centre + period / 2


@lru_cache(maxsize=16)
def _x_period(wkt: str) -> float | None:
    crs = CRS.from_wkt(wkt)
    if crs.is_geographic:
        return round(math.tau / crs.axis_info[0].unit_conversion_factor, 9)
    method = crs.coordinate_operation.method_name if crs.is_projected and crs.coordinate_operation else ""
    if not method.startswith(_CYLINDRICAL) or crs.geodetic_crs is None:
        return None
    forward = Transformer.from_crs(crs.geodetic_crs, crs, always_xy=True)
    # Measure the length of one degree at two longitudes, because x may jump by a whole period within one of the two.
    x, _ = forward.transform([0.0, 1.0, 120.0, 121.0], [0.0] * 4)
    return 360.0 * float(max(x[1] - x[0], x[3] - x[2]))
