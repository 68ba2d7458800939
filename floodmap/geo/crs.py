"""Coordinate reference systems: parsed, cached, reduced to 2-D, and tested for lying on the Earth."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pyproj
from pyproj.exceptions import CRSError as ProjCRSError
from rasterio.crs import CRS
from rasterio.errors import CRSError

from floodmap.errors import SceneError


def is_placed(crs: object) -> bool:
    """Whether a CRS is geographic or projected; False for no CRS and for local (engineering) ones."""
    if crs is None:
        return False
    known = known_crs(crs)
    return bool(known.is_geographic or known.is_projected)


def flat(crs: CRS | None) -> CRS | None:
    """The horizontal (2-D) part of a CRS, by its EPSG code where it has one."""
    try:
        known = known_crs(crs) if crs else None
    except ProjCRSError:  # GDAL reads some CRS that pyproj does not: not on the Earth, or refused later with the grid
        return crs
    if known is None or len(known.axis_info) < 3:
        return crs
    plane = horizontal(known)
    code = plane.to_epsg(min_confidence=100)
    return CRS.from_wkt(plane.to_wkt()) if code is None else CRS.from_epsg(code)


def parse_crs(text: str) -> CRS:
    """Parse a geographic or projected CRS.

    Raises:
        SceneError: the text is no CRS, or a CRS of another kind.
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
    """A CRS of any library as a `pyproj.CRS`; cached, since parsing takes milliseconds."""
    return _crs_from_wkt(crs.to_wkt() if hasattr(crs, "to_wkt") else pyproj.CRS.from_user_input(crs).to_wkt())


def horizontal(crs: pyproj.CRS) -> pyproj.CRS:
    """The 2-D part of a CRS: maps have no heights, and GeoPackage, Shapefile and GeoJSON cannot hold them."""
    return crs.to_2d() if len(crs.axis_info) > 2 else crs
