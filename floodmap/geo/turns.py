"""Whole turns about the Earth: the same ground lies at +180 and at -180 degrees, and both are looked at as one."""

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

_CYLINDERS = ("Mercator", "Popular Visualisation", "Equidistant Cylindrical", "Lambert Cylindrical", "Miller")
"""How the methods of projections begin in which longitude runs along x at one scale."""
_NEAR = (0, -1, 1)
"""Turns that are looked at; what is farther away than one is a mistake in its coordinates."""
WARPING = {"SAMPLE_STEPS": "ALL", "SOURCE_EXTRA": 2}
"""What GDAL has to be told where coordinates may leap within a frame. Of a source it reads what some points around a
window need, and just beside a leap that is less than what lies between these points."""


def turn_of(crs: Any) -> float | None:
    """How far along x a whole turn leads: 360 where it is in degrees; None where it does not lead back, as in UTM."""
    return None if crs is None else _turn(crs.to_wkt() if hasattr(crs, "to_wkt") else CRS.from_user_input(crs).to_wkt())


def raster_turns(
    crs: Any, own_x: tuple[float, float], frame_crs: Any, frame_x: tuple[float, float]
) -> tuple[float, ...]:
    """Where a raster has to be put to be found from every pixel of a frame: distances along x, the nearest first.

    Pixels of a frame in another CRS are looked for in the half turn east and west of the middle, where PROJ has all
    coordinates; but between geographic CRS, as within one CRS, they stay as far out as they are.

    Args:
        crs: the raster's.
        own_x: least and largest x of the raster.
        frame_crs: of what it is read on.
        frame_x: least and largest x of that.
    """
    turn, other = turn_of(crs), turn_of(frame_crs)
    if turn is None:
        return (0.0,)
    known = CRS.from_user_input(crs)
    is_same = known.equals(CRS.from_user_input(frame_crs), ignore_axis_order=True)
    reaches = [] if is_same else [_middle(known, turn)]
    if is_same or (other is not None and known.is_geographic and CRS.from_user_input(frame_crs).is_geographic):
        reaches.append((frame_x[0] * turn / (other or turn), frame_x[1] * turn / (other or turn)))
    least = 1e-9 * turn
    return tuple(
        times * turn
        for times in _NEAR
        if any(
            min(own_x[1] + times * turn, east) - max(own_x[0] + times * turn, west) > least for west, east in reaches
        )
    )


def overlaps(a: tuple[float, float, float, float], b: tuple[float, float, float, float], crs: Any) -> bool:
    """Whether two rectangles in a CRS (west, south, east, north) share ground.

    West may lie beyond east, as where GDAL says that a rectangle crosses the antimeridian.
    """
    turn = turn_of(crs)
    if a[3] <= b[1] or a[1] >= b[3]:
        return False
    spans = [(west, east + turn if turn is not None and east < west else east) for west, _, east, _ in (a, b)]
    shifts = [times * turn for times in _NEAR] if turn is not None else [0.0]
    return any(spans[0][0] + shift < spans[1][1] and spans[0][1] + shift > spans[1][0] for shift in shifts)


def turned(geometries: Geometries, crs: Any, span: tuple[float, float]) -> Geometries:
    """Geometries put where a frame lies, and each as often as it lies there; those beside it are left out.

    Args:
        geometries: (n,), in the CRS.
        crs: of both; where no turn leads back they stay as they are.
        span: least and largest x of the frame.
    """
    turn = turn_of(crs)
    if turn is None or not len(geometries):
        return geometries
    west, _, east, _ = shapely.bounds(geometries).T
    copies = []
    for shift in (times * turn for times in _NEAR):
        there = geometries[(west + shift <= span[1]) & (east + shift >= span[0])]
        copies.append(there if shift == 0 else _moved(there, shift))
    return np.concatenate(copies)


def unrolled(geometries: Geometries, crs: Any) -> Geometries:
    """Polygons that a change of CRS has torn at the antimeridian, in one piece again, which reaches beyond it.

    Args:
        geometries: (n,), in the CRS, edges so short that none leads half about the Earth.
        crs: where no turn leads back there is nothing to mend.
    """
    turn = turn_of(crs)
    if turn is None or not len(geometries):
        return geometries
    xy, owner = shapely.get_coordinates(geometries, return_index=True)
    far = (np.abs(np.diff(xy[:, 0])) > turn / 2) & (np.diff(owner) == 0)
    mended = geometries.copy()
    for index in np.unique(owner[1:][far]):
        mended[index] = _unrolled(geometries[index], turn)
    return mended


def bounds_of(geometries: Geometries, crs: Any) -> tuple[float, float, float, float]:
    """West, south, east and north of what geometries cover, over the antimeridian where that is the shorter way.

    Args:
        geometries: (n,), at least one.
        crs: theirs.
    """
    parts = shapely.get_parts(geometries)
    west, south, east, north = (float(edge) for edge in shapely.total_bounds(parts))
    turn = turn_of(crs)
    if turn is None or east - west <= turn / 2:
        return west, south, east, north
    left, _, right, _ = shapely.bounds(parts).T
    order = np.argsort((left + turn / 2) % turn)
    start, length = ((left + turn / 2) % turn - turn / 2)[order], (right - left)[order]
    gaps = np.append(start[1:], start[0] + turn) - np.maximum.accumulate(start + length)
    first = float(start[(int(gaps.argmax()) + 1) % len(start)])
    reach = float(((start - first) % turn + length).max())
    return (first, south, first + reach, north) if reach < east - west else (west, south, east, north)


def _moved(geometries: Geometries, shift: float) -> Geometries:
    return np.asarray(shapely.transform(geometries, lambda xy: xy + np.array([shift, 0.0])), object)


def _unrolled(geometry: shapely.Geometry, turn: float) -> shapely.Geometry:
    if geometry.geom_type == "MultiPolygon":
        return shapely.MultiPolygon([_unrolled(part, turn) for part in geometry.geoms])
    if geometry.geom_type != "Polygon":
        return geometry
    shell, *holes = (_ring(shapely.get_coordinates(ring), turn) for ring in (geometry.exterior, *geometry.interiors))
    middle = shell[:, 0].min() + np.ptp(shell[:, 0]) / 2
    for hole in holes:
        hole[:, 0] += turn * np.round((middle - hole[:, 0].mean()) / turn)
    return shapely.Polygon(shell, holes)


def _ring(xy: Floats, turn: float) -> Floats:
    """A closed ring without its leaps of a whole turn; one about a pole has to leap, and stays as it is."""
    leaps = np.cumsum(np.round(np.diff(xy[:, 0]) / turn))
    if leaps[-1] == 0:
        xy[1:, 0] -= leaps * turn
    return xy


def _middle(crs: CRS, turn: float) -> tuple[float, float]:
    """Least and largest x that PROJ gives."""
    centre = 0.0
    if not crs.is_geographic and crs.coordinate_operation is not None:
        eastings = (value.value for value in crs.coordinate_operation.params if "asting" in value.name)
        centre = float(next(eastings, 0.0))
    return centre - turn / 2, centre + turn / 2


@lru_cache(maxsize=16)
def _turn(wkt: str) -> float | None:
    crs = CRS.from_wkt(wkt)
    if crs.is_geographic:
        return round(math.tau / crs.axis_info[0].unit_conversion_factor, 9)
    method = crs.coordinate_operation.method_name if crs.is_projected and crs.coordinate_operation else ""
    if not method.startswith(_CYLINDERS) or crs.geodetic_crs is None:
        return None
    forward = Transformer.from_crs(crs.geodetic_crs, crs, always_xy=True)
    # One of the two degrees is not the one at which this projection's coordinates leap.
    x, _ = forward.transform([0.0, 1.0, 120.0, 121.0], [0.0] * 4)
    return 360.0 * float(max(x[1] - x[0], x[3] - x[2]))
