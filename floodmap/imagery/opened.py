"""Conversion of scene arguments (paths, open datasets of rasterio, arrays of xarray) to names that GDAL opens."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from rasterio.io import DatasetReader, DatasetWriter
from rasterio.vrt import WarpedVRT

from floodmap._runtime.extras import require
from floodmap.errors import SceneError

if TYPE_CHECKING:
    from xarray import DataArray

Source: TypeAlias = "str | os.PathLike[str] | DatasetReader | DataArray"
"""Type of a scene argument: a path, a name that GDAL opens, an open dataset of rasterio, or an array of xarray.

The coordinates and the CRS of an array are read with rioxarray."""

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
    try:
        array.rio.to_raster(path, tiled=True, blockxsize=512, blockysize=512, compress="lzw", BIGTIFF="IF_SAFER")
    except (RioXarrayError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise SceneError(
            f"the array {array.name or ''} with dimensions {array.dims} is no raster: {reason}; give (band, y, x)"
        ) from error
    return path
