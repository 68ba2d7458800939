"""Size of a scene, read from the header of its file."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from floodmap.geo.gdal import gdal_env
from floodmap.geo.source_name import SourceName

LARGE_PIXELS = 2**26
"""Number of pixels from which a scene is large: 64 windows, or about 10 seconds of two cores. If each worker segmented
a scene of this size by itself, the last ones would leave the other workers without work for longer than that."""


_THREADS = 8
"""Number of files that are opened at the same time: the header of a remote file takes several requests."""


def are_large(sources: Sequence[SourceName]) -> list[bool]:
    """Return whether each scene is large; see `is_large`."""
    with warnings.catch_warnings(), ThreadPoolExecutor(_THREADS) as pool:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return list(pool.map(is_large, sources))


def is_large(source: SourceName) -> bool:
    """Return whether the file of a scene has at least `LARGE_PIXELS` pixels.

    False if the file cannot be opened, as for a STAC item that has not been read.
    """
    try:
        with gdal_env(siblings=not source.is_remote), rasterio.open(source.opened) as dataset:
            return bool(dataset.width * dataset.height >= LARGE_PIXELS)
    except (RasterioError, OSError):
        return False
