"""Coordinate reference systems (CRS): parsing with a cache, reduction to 2-D, and a test whether a CRS is local."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pyproj
from pyproj.exceptions import CRSError as ProjCRSError
from rasterio.crs import CRS
from rasterio.errors import CRSError

from floodmap.errors import SceneError


def is_placed(crs: object) -> bool:
    """Return whether a CRS is geographic or projected. The result is False for None and for a local CRS.

    Args:
        crs: None, or a CRS in one of the types that `known_crs` converts.
    """
    if crs is None:
        return False
    known = known_crs(crs)
    return bool(known.is_geographic or known.is_projected)


def flat(crs: CRS | None) -> CRS | None:
    """Return the horizontal (2-D) part of a rasterio CRS.

    The result is created from an EPSG code if pyproj finds a code that matches exactly, else from WKT. None, a 2-D CRS,
    and a CRS that pyproj cannot parse are returned unchanged.
    """
    try:
        known = known_crs(crs) if crs else None
    except ProjCRSError:
        # GDAL reads some CRS that pyproj cannot parse. Either the CRS is not on the Earth, or a later operation with
        # the CRS raises an error.
        return crs
    if known is None or len(known.axis_info) < 3:
        return crs
    plane = horizontal(known)
    code = plane.to_epsg(min_confidence=100)
    return CRS.from_wkt(plane.to_wkt()) if code is None else CRS.from_epsg(code)


def parse_crs(text: str) -> CRS:
    """Parse text, such as "EPSG:32643", as a geographic or projected CRS.

    Raises:
        SceneError: the text does not define a CRS, or the CRS is neither geographic nor projected.
    """
    try:
        crs = CRS.from_user_input(text)
    except CRSError as error:
        raise SceneError(f"{text!r} is not a CRS; give one such as EPSG:32643") from error
    if not (crs.is_projected or crs.is_geographic):
        raise SceneError(f"{text!r} is neither a projected nor a geographic CRS; give one such as EPSG:32643")
    return crs


@lru_cache(maxsize=16)
def _crs_from_wkt(wkt: str) -> pyproj.CRS:
    return pyproj.CRS.from_wkt(wkt)


def known_crs(crs: Any) -> pyproj.CRS:
    """Convert a CRS to a `pyproj.CRS`. Results are cached, because parsing takes milliseconds.

    Args:
        crs: a `rasterio.crs.CRS`, a `pyproj.CRS`, or another input of `pyproj.CRS.from_user_input`, such as text.
    """
    return _crs_from_wkt(crs.to_wkt() if hasattr(crs, "to_wkt") else pyproj.CRS.from_user_input(crs).to_wkt())


def horizontal(crs: pyproj.CRS) -> pyproj.CRS:
    """Return the horizontal (2-D) part of a pyproj CRS.

    Flood maps have no heights, and GeoPackage, Shapefile and GeoJSON cannot store a CRS with heights.
    """
    return crs.to_2d() if len(crs.axis_info) > 2 else crs
