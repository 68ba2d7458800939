"""Conversion of scene arguments (paths, open datasets of rasterio, arrays of xarray) to names that GDAL opens."""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from rasterio.io import DatasetReader, DatasetWriter
from rasterio.vrt import WarpedVRT

from floodmap._runtime.extras import require
from floodmap.errors import SceneError

if TYPE_CHECKING:
    from xarray import DataArray

Source: TypeAlias = "str | os.PathLike[str] | DatasetReader | DataArray"
"""Type of a scene argument: a path, a name that GDAL opens, an open dataset of rasterio, or an array of xarray.

The coordinates and the CRS of an array are read with rioxarray."""

_DTYPE_KEYS = ("dtype", "rasterio_dtype", "_Unsigned", "_FillValue", "missing_value")
"""Keys of `DataArray.encoding` that define the dtype and the nodata value with which an array is written."""
ACCEPTED = "a path, a name that GDAL opens, a dataset that rasterio has open for reading, or an xarray.DataArray"


@contextmanager
def named(source: Source) -> Iterator[str | os.PathLike[str]]:
    """Context manager: yield the path or the name with which GDAL opens a scene.

    Args:
        source: the scene, of one of the types in `Source`. An array of xarray is written to a temporary GeoTIFF, which
            is deleted when the context ends. The array may be lazy (dask).

    Raises:
        TypeError: the source has another type, or rioxarray is not installed.
        SceneError: the dataset is closed, or the array cannot be written as a raster.
    """
    if isinstance(source, str | os.PathLike):
        yield source
    elif _is_array(source):
        with tempfile.TemporaryDirectory(prefix="floodmap-") as folder:
            yield _as_geotiff(source, Path(folder))
    elif isinstance(source, DatasetReader) and not isinstance(source, DatasetWriter | WarpedVRT):
        if source.closed:
            raise SceneError(f"the dataset {source.name} is closed; pass an open dataset or its file name")
        yield source.name
    else:
        raise TypeError(f"source is a {type(source).__name__}; give {ACCEPTED}")


def _is_array(source: object) -> bool:
    # The class is compared by name, because xarray need not be installed.
    return any(f"{one.__module__}.{one.__name__}" == "xarray.core.dataarray.DataArray" for one in type(source).__mro__)


def _as_geotiff(array: Any, folder: Path) -> Path:
    """Write an array of xarray into a folder as a GeoTIFF with CRS, transform and nodata value; return the path."""
    require("rioxarray", "an xarray.DataArray as a scene")
    import rioxarray  # noqa: F401 (adds the accessor `rio` to arrays)
    from rioxarray.exceptions import RioXarrayError

    path = folder / f"{re.sub(r'[^0-9A-Za-z._-]+', '_', str(array.name or 'array'))}.tif"
    how = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "lzw", "BIGTIFF": "IF_SAFER"}
    try:
        uneven = [dim for dim in (array.rio.y_dim, array.rio.x_dim) if not _is_even(array, dim)]
        if not uneven:
            with warnings.catch_warnings():  # of NaN that may be lost, as it would be without `_without_lossy_dtype`
                warnings.filterwarnings("ignore", message="saving variable .* with floating point data as an integer")
                _without_lossy_dtype(array).rio.to_raster(path, **how)
    except (RioXarrayError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise SceneError(
            f"the array {array.name or ''} with dimensions {array.dims} is no raster: {reason}; give (band, y, x)"
        ) from error
    if uneven:
        raise SceneError(
            f"the {uneven[0]} coordinates of the array{f' {array.name}' if array.name else ''} are not evenly spaced; "
            "put it on a regular grid first, for instance with array.interp or array.reindex"
        )
    return path


def _is_even(array: Any, dim: str) -> bool:
    """Return whether the coordinates of a dimension are evenly spaced, within half a pixel or the rounding.

    A pixel is the mean distance between neighbouring coordinates. Each distance may differ by up to half a pixel from
    the median distance. Each coordinate may differ by up to half a pixel from its place on an even grid from the first
    coordinate to the last. A missing row doubles one distance, and the result is False. The result is True if the
    dimension has no coordinates, or fewer than three.

    Coordinates of a float dtype are rounded: northings in float32, for example, to 0.5 m. Distances and coordinates may
    therefore also differ from the mean distance and from the even grid by 1.5 times the distance between neighbouring
    numbers of the dtype. If a pixel is not larger than this distance, a single missing row may go unnoticed.
    """
    if dim not in array.coords or array.sizes[dim] < 3:
        return True
    places = np.asarray(array.coords[dim].values)
    rounding = 1.5 * float(np.spacing(np.abs(places).max())) if places.dtype.kind == "f" else 0.0
    steps = np.diff(places.astype(np.float64))
    mean = float(steps.mean())
    half, drift = abs(mean) / 2, np.abs(np.cumsum(steps - mean))
    is_even = (np.abs(steps - np.median(steps)) <= half) | (np.abs(steps - mean) <= rounding)
    return bool(is_even.all() and (drift <= max(half, rounding)).all())


def _without_lossy_dtype(array: Any) -> Any:
    """Return an array that rioxarray writes without losing NaN and infinite values; usually the array itself.

    rioxarray writes an array with the dtype of the file that the array was read from. If that is an integer dtype,
    infinite values are lost. NaN becomes the nodata value; without a nodata value, NaN is lost too. If values would be
    lost, the result is a copy of the array, which rioxarray writes with the array's own float dtype.
    """
    stored = array.encoding.get("dtype")
    if array.dtype.kind != "f" or stored is None or np.dtype(stored).kind not in "iu":
        return array
    is_lost = ~np.isfinite(array) if array.rio.encoded_nodata is None else np.isinf(array)
    if not bool(is_lost.any()):
        return array
    kept = array.copy(deep=False)
    kept.encoding = {key: value for key, value in array.encoding.items() if key not in _DTYPE_KEYS}
    return kept
