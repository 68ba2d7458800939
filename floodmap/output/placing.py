"""Whether a file on disk says enough of its CRS to lie where it should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from pyproj import Geod, Transformer
from pyproj.exceptions import CRSError, ProjError

from floodmap.errors import OutputError
from floodmap.geo.crs import is_placed, known_crs
from floodmap.geo.gdal import gdal_env
from floodmap.geo.names import readable


def refuse_misplaced(path: Path, crs: Any, xy: tuple[float, float], next_xy: tuple[float, float]) -> None:
    """Raise OutputError if a file that was written says less of a CRS than it takes to find the ground again.

    A GeoTIFF leaves out a projection that it has no code for; a Shapefile leaves out shifts between datums, and some
    parameters. Neither is an error to the library that writes them. GeoJSON is in WGS 84: what cannot be brought there
    is one.

    Args:
        path: a raster, or a layer as `vector_files.write_layers` writes it.
        crs: what it should be in; one of no place on the Earth is not looked into.
        xy: a point in that CRS, on the ground.
        next_xy: a pixel from there; a file may be that much off.
    """
    if path.suffix == ".geojson" or not is_placed(crs):
        return
    xs, ys = np.transpose((xy, next_xy))
    wanted, found = _lonlat(crs, xs, ys), _lonlat(_crs_of(path), xs, ys)
    if found is None or wanted is None:
        raise OutputError(f"{path} cannot hold the scene's CRS")
    earth = Geod(ellps="WGS84")
    off, pixel = (earth.inv(*wanted[:, 0], *other)[2] for other in (found[:, 0], wanted[:, 1]))
    if not off <= pixel:
        raise OutputError(f"{path} cannot hold the scene's CRS: it would lie {off:,.0f} m beside the scene")


def _lonlat(crs: Any, xs: NDArray[np.float64], ys: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Longitudes and latitudes (2, n); None where there is no CRS, or none that leads there."""
    try:
        to_lonlat = Transformer.from_crs(known_crs(crs), "EPSG:4326", always_xy=True) if crs else None
        return None if to_lonlat is None else np.array(to_lonlat.transform(xs, ys, errcheck=True))
    except (ProjError, CRSError):
        return None


def _crs_of(path: Path) -> Any:
    if path.suffix == ".tif":
        with gdal_env(), rasterio.open(path.absolute()) as dataset:
            return dataset.crs
    if path.suffix == ".parquet":
        import geopandas

        with path.open("rb") as stream:
            return geopandas.read_parquet(stream).crs
    import pyogrio

    with readable(path) as name:
        return pyogrio.read_info(name, **({"layer": "flood"} if path.suffix == ".gpkg" else {}))["crs"]
