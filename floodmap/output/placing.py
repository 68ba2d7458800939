"""Check of written files: the CRS in a file must give the same position on the ground as the CRS of the scene."""

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
    """Check that a written file has the same position on the ground as the scene, to within one pixel.

    A GeoTIFF loses a projection for which the format has no code. A Shapefile loses datum shifts and some parameters.
    The libraries that write these files raise no error. GeoJSON is always in WGS 84 and is not checked, because a
    failed transformation to WGS 84 raises an error.

    Args:
        path: a raster, or a vector file that `vector_files.write_layers` wrote.
        crs: CRS of the scene. If the CRS is neither geographic nor projected, nothing is checked.
        xy: coordinates (x, y) of a point of the scene in `crs`.
        next_xy: coordinates of a point one pixel from `xy`. The distance between the two points is the tolerance.

    Raises:
        OutputError: the point with the coordinates `xy` in the CRS of the file is farther than the tolerance from the
            point with the coordinates `xy` in the CRS of the scene. Or the coordinates cannot be converted to longitude
            and latitude in one of the two CRS.
    """
    if path.suffix == ".geojson" or not is_placed(crs):
        return
    xs, ys = np.transpose((xy, next_xy))
    expected, written = _lonlat(crs, xs, ys), _lonlat(_crs_of(path), xs, ys)
    if written is None or expected is None:
        raise OutputError(f"{path} cannot hold the scene's CRS")
    earth = Geod(ellps="WGS84")
    shift_m, pixel_m = (earth.inv(*expected[:, 0], *other)[2] for other in (written[:, 0], expected[:, 1]))
    if not shift_m <= pixel_m:
        raise OutputError(f"{path} cannot hold the scene's CRS: it would lie {shift_m:,.0f} m beside the scene")


def _lonlat(crs: Any, xs: NDArray[np.float64], ys: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Convert the coordinates of n points from a CRS to longitudes and latitudes in degrees, float64 (2, n).

    The coordinates `xs` and `ys` are float64 (n,). The result is None if `crs` is None, or if the coordinates cannot be
    transformed to WGS 84.
    """
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
