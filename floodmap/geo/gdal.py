"""GDAL as scenes use it: its settings, what it says when it fails, and when its datasets are closed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import RasterioError

from floodmap._runtime import forks

try:  # what GDAL said, where rasterio does not make an error of its own of it; it has no public name
    from rasterio._err import CPLE_BaseError
except ImportError:
    CPLE_BaseError = RasterioError

GDAL_ERRORS = (RasterioError, CPLE_BaseError)
"""What rasterio raises where GDAL fails."""
CACHE_BYTES = 64 * 2**20
"""Bytes of decoded blocks GDAL keeps, where nothing asks for more."""


@contextmanager
def gdal_env(*, cache_bytes: int = CACHE_BYTES, pam: bool = False, threads: int = 1) -> Iterator[None]:
    """GDAL's settings for reading scenes, in the thread that reads.

    Args:
        cache_bytes: bytes of decoded blocks GDAL may keep.
        pam: read `.aux.xml` sidecars. GDAL writes them too, so only for a file that has one.
        threads: that decompress a file which is opened here.
    """
    # GDAL's short cut for whole PNGs (3.10, at least) reads uninitialised memory from one cut short, without an error.
    settings = {"GDAL_PAM_ENABLED": "YES" if pam else "NO", "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO"}
    if forks.threads(threads) > 1:
        settings["GDAL_NUM_THREADS"] = str(threads)
    with forks.at_work(), rasterio.Env(GDAL_CACHEMAX=cache_bytes, **settings):
        yield


def has_sidecar(path: Path) -> bool:
    """Whether a raster's CRS or nodata may be in a file beside it that GDAL reads only with PAM enabled."""
    return os.path.exists(f"{path}.aux.xml")  # unlike Path's, it takes a name that is too long for none


def closed_by(stack: ExitStack, resource: Any) -> Any:
    """Have `stack` close a dataset when it ends."""
    # Not entered: rasterio keeps a GDAL environment open in a dataset that is, and scenes end in any order and thread.
    stack.callback(resource.close)
    return resource


def forget_error(dataset: Any) -> None:
    """Have rasterio forget an error that was dealt with.

    It takes what GDAL said last for the fault of the next call whose result is not 0, such as a band's colour.
    """
    with suppress(Exception):
        _ = dataset.colorinterp


def gdal_reason(error: BaseException) -> str:
    """What GDAL said, in one line: rasterio raises "see previous exception" from the error that tells."""
    while error.__cause__ is not None and "previous exception" in str(error):
        error = error.__cause__
    return " ".join(str(error).split())
