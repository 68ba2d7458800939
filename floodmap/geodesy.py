"""Areas and lengths of polygons on the ellipsoid, in bulk."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from pyproj.exceptions import ProjError

from floodmap.ground import is_placed

EDGE_M = 1000.0
"""Longest edge that is measured in one piece, in metres."""
EARTH_RADIUS_M = 6_371_000.0

Geometries = NDArray[np.object_]
Floats = NDArray[np.float64]


def measure(geometries: Geometries, crs: object) -> tuple[Floats, Floats]:
    """Area and perimeter on the WGS 84 ellipsoid of polygons whose edges are straight in their CRS.

    Edges are cut at 1 km and all vertices projected to a Lambert azimuthal equal-area plane about the polygons
    (Snyder 1987, chapter 24), where area is exact and length right to 0.1 % within 500 km of the centre. Vertex by
    vertex this is many times faster than `pyproj.Geod`.

    Returns:
        Square metres and metres, float64 (n,); NaN without a CRS on Earth and where the CRS does not reach.
    """
    nowhere = np.full(len(geometries), np.nan)
    if not len(geometries) or not is_placed(crs):
        return nowhere, nowhere.copy()
    known = known_crs(crs)
    west, south, east, north = shapely.total_bounds(geometries)
    plane = equal_area(known, (west + east) / 2, (south + north) / 2)
    if plane is None:
        return nowhere, nowhere.copy()
    unit = known.axis_info[0].unit_conversion_factor * (EARTH_RADIUS_M if known.is_geographic else 1.0)
    flat = shapely.transform(shapely.segmentize(geometries, EDGE_M / unit), plane)
    with np.errstate(invalid="ignore"):
        area, perimeter = shapely.area(flat), shapely.length(flat)
    for values in (area, perimeter):
        values[~np.isfinite(values)] = np.nan
    return area, perimeter


@lru_cache(maxsize=16)
def _crs_from_wkt(wkt: str) -> pyproj.CRS:
    return pyproj.CRS.from_wkt(wkt)


def known_crs(crs: Any) -> pyproj.CRS:
    """Any kind of CRS as pyproj's; remembered, since looking one up takes milliseconds."""
    return _crs_from_wkt(crs.to_wkt() if hasattr(crs, "to_wkt") else pyproj.CRS.from_user_input(crs).to_wkt())


@lru_cache(maxsize=16)
def _to_lonlat(crs: pyproj.CRS) -> pyproj.Transformer:
    return pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)


@lru_cache(maxsize=16)
def _plane_at(crs: pyproj.CRS, lon: int, lat: int) -> pyproj.Transformer:
    plane = f"+proj=laea +lat_0={lat} +lon_0={lon} +datum=WGS84 +units=m +type=crs"
    return pyproj.Transformer.from_crs(crs, plane, always_xy=True)


def equal_area(crs: pyproj.CRS, x: float, y: float) -> Callable[[Floats], Floats] | None:
    """Projection of (n, 2) points to an equal-area plane about a point, to the whole degree; None: it is nowhere."""
    try:
        lon, lat = _to_lonlat(crs).transform(x, y)
        if not math.isfinite(lon) or not math.isfinite(lat):
            return None
        transformer = _plane_at(crs, round(lon), round(lat))
    except ProjError:
        return None
    return lambda xy: np.stack(transformer.transform(xy[:, 0], xy[:, 1]), axis=1)
