"""How large pixels are on the ground: geodesic square metres, in any CRS."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Geod, Transformer
from pyproj.exceptions import ProjError

from floodmap.errors import EvaluationError

Floats = NDArray[np.float64]

_GEOD = Geod(ellps="WGS84")


def is_placed(crs: object) -> bool:
    """Whether coordinates in a CRS lie on the Earth: no CRS at all, or one of a building site, does not tell."""
    if crs is None:
        return False
    known = _known(crs.to_wkt() if hasattr(crs, "to_wkt") else crs)
    return bool(known.is_geographic or known.is_projected)


def cell_areas_m2(crs: object, transform: Affine, row_edges: Floats, col_edges: Floats) -> Floats:
    """Area on the ellipsoid of each cell of a lattice of pixel rows and columns.

    By Green's theorem the area of a ring on the ellipsoid is the integral of the authalic function q over longitude
    (Snyder 1987, equation 3-12): exact for edges along meridians and parallels, and for others off by the square of
    the cell's size in radians, so lattices of some ten pixels are right to far better than 0.1 %.

    Args:
        crs: a geographic or projected CRS.
        transform: pixel to CRS, any rotation.
        row_edges: float64 (m + 1,), pixel rows of the lattice lines.
        col_edges: float64 (n + 1,), pixel columns of the lattice lines.

    Returns:
        float64 (m, n), square metres.

    Raises:
        EvaluationError: a cell does not exist on the Earth.
    """
    cols, rows = np.meshgrid(col_edges, row_edges)
    x = transform.a * cols + transform.b * rows + transform.c
    y = transform.d * cols + transform.e * rows + transform.f
    lon, lat = _lonlat(crs, x, y)
    q = _authalic(np.radians(lat))
    area = np.zeros((len(row_edges) - 1, len(col_edges) - 1))
    corners = [np.s_[:-1, :-1], np.s_[:-1, 1:], np.s_[1:, 1:], np.s_[1:, :-1]]
    for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
        turn = (lon[end] - lon[start] + 180) % 360 - 180  # the short way over the antimeridian
        area += np.radians(turn) * ((q[start] + q[end]) / 2 - q[corners[0]])
    return np.abs(area) * _GEOD.a**2 / 2


def _authalic(lat: Floats) -> Floats:
    e = float(np.sqrt(_GEOD.es))
    sin: Floats = np.sin(lat)
    q: Floats = (1 - e**2) * (sin / (1 - (e * sin) ** 2) + np.arctanh(e * sin) / e)
    return q


def _lonlat(crs: object, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    try:
        lon, lat = _to_wgs84(crs.to_wkt() if hasattr(crs, "to_wkt") else crs).transform(x, y)
    except ProjError as error:
        raise EvaluationError(f"coordinates cannot be placed on the Earth: {error}") from error
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        raise EvaluationError(
            f"coordinates near {float(np.ravel(x)[0]):g}, {float(np.ravel(y)[0]):g} do not exist in their CRS; "
            "is it the right one?"
        )
    return lon, lat


@lru_cache(maxsize=8)
def _known(crs: object) -> CRS:
    return CRS.from_user_input(crs)


@lru_cache(maxsize=8)
def _to_wgs84(crs: object) -> Transformer:
    return Transformer.from_crs(_known(crs), CRS.from_epsg(4326), always_xy=True)
