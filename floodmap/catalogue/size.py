"""Size of a scene, read from the header of its file."""

from __future__ import annotations

import warnings

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from floodmap.geo.gdal import gdal_env
from floodmap.geo.source_name import SourceName

LARGE_PIXELS = 2**26
"""Number of pixels from which a scene is large: 64 windows, or about 10 seconds of two cores. If each worker segmented
a scene of this size by itself, the last ones would leave the other workers without work for longer than that."""


def is_large(source: SourceName) -> bool:
    """Return whether the file of a scene has at least `LARGE_PIXELS` pixels. False if the file cannot be opened."""
    try:
        with gdal_env(), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(source.opened) as dataset:
                return bool(dataset.width * dataset.height >= LARGE_PIXELS)
    except (RasterioError, OSError):
        return False
