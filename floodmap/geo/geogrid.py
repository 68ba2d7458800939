"""Where a raster lies on the ground, and how large its pixels are there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from affine import Affine
from pyproj import Geod, Transformer
from pyproj.exceptions import CRSError as ProjCRSError
from pyproj.exceptions import ProjError
from rasterio.crs import CRS

from floodmap.errors import MissingCRSError, SceneError

_LARGEST_UPSAMPLING = 4

UNPLACED = Affine.scale(1, -1)
"""Pixel to map of a picture without georeference, as QGIS draws it: y runs up, so rows count down from nought. Results
in these coordinates lie on the picture there."""


def how_to_place(transform: Affine) -> str:
    """What the user can do about a raster without CRS: `--crs` alone places only one that has a transform."""
    return "give it a world file and --crs" if transform == UNPLACED else "assign one with --crs"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkingGrid:
    """The pixels a scene is worked on in: the file's own, or those of the resolution asked for."""

    height: int
    """Rows."""
    width: int
    """Columns."""
    transform: Affine
    """Pixel to CRS."""
    gsd_m: float | None
    """Mean ground sample distance at the centre, in geodesic metres; None without a CRS."""
    source_gsd_m: float | None
    """The same of the file."""


def lay_grid(
    crs: CRS | None, transform: Affine, *, shape_hw: tuple[int, int], resolution_m: float | None, path: object
) -> WorkingGrid:
    """Lay a grid of (nearly) `resolution_m` over a raster, exactly as large as the raster; None keeps its own.

    Raises:
        MissingCRSError: metres mean nothing on the raster.
        SceneError: the grid would have no pixels, or far more than the raster.
    """
    rows, cols = height, width = shape_hw
    gsd = None if crs is None else ground_sample_distance(crs, transform, width=cols, height=rows)
    if resolution_m is not None:
        if gsd is None:
            raise MissingCRSError(
                f"{path} has no CRS, so it has no {resolution_m:g} m pixels; {how_to_place(transform)}"
            )
        height, width = (round(n * step / resolution_m) for n, step in ((rows, gsd[1]), (cols, gsd[0])))
        if min(height, width) < 1:
            raise SceneError(f"{path} is smaller than one pixel of {resolution_m:g} m; choose a finer --resolution")
        if max(gsd) / resolution_m > _LARGEST_UPSAMPLING:
            raise SceneError(f"{path} has pixels of {max(gsd):.3g} m; --resolution {resolution_m:g} invents detail")
    across, down = cols / width, rows / height
    return WorkingGrid(
        height=height,
        width=width,
        transform=transform @ Affine.scale(across, down),
        gsd_m=None if gsd is None else float((gsd[0] * across * gsd[1] * down) ** 0.5),
        source_gsd_m=None if gsd is None else float((gsd[0] * gsd[1]) ** 0.5),
    )


def ground_sample_distance(crs: CRS, transform: Affine, *, width: int, height: int) -> tuple[float, float] | None:
    """Metres on the ground of one step along the columns and one along the rows, geodesic, at the raster's centre.

    None where the centre does not exist on the ground: the CRS is not that of the coordinates.
    """
    x, y = width / 2, height / 2
    corners = [transform @ point for point in ((x - 0.5, y), (x + 0.5, y), (x, y - 0.5), (x, y + 0.5))]
    try:
        to_lonlat = Transformer.from_crs(crs.to_wkt(), "EPSG:4326", always_xy=True)
        xs, ys = np.transpose(corners)
        lon, lat = to_lonlat.transform(xs, ys, errcheck=True)
        _, _, distance = Geod(ellps="WGS84").inv(lon[::2], lat[::2], lon[1::2], lat[1::2])
    except (ProjError, ProjCRSError, ValueError):
        return None
    sensible = np.all(np.abs(lat) <= 90) and np.all(np.isfinite(distance)) and np.all(distance > 0)
    return (float(distance[0]), float(distance[1])) if sensible else None
