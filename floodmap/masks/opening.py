"""Opening of a mask of any kind: a raster, or polygons."""

from __future__ import annotations

from pathlib import Path

from floodmap.geo.vectors import PARQUET, is_vector
from floodmap.masks.pairing import RASTERS
from floodmap.masks.raster import RasterMask
from floodmap.masks.vector import PolygonMask


def holds_polygons(path: Path) -> bool:
    """Return whether a file contains polygons, and no raster."""
    suffix = path.suffix.lower()
    return suffix in PARQUET or (suffix not in RASTERS and is_vector(path))


def open_mask(path: Path) -> RasterMask | PolygonMask:
    """Open a file as a mask.

    Raises:
        EvaluationError: a raster cannot be read, or is imagery (`raster.ImageryError`).
        VectorError: polygons cannot be read.
    """
    return PolygonMask(path) if holds_polygons(path) else RasterMask(path)
