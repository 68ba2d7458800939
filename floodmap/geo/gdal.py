"""GDAL for reading scenes: its settings, its error messages, and the closing of datasets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import RasterioError

from floodmap._runtime import forks

try:  # GDAL's own errors, where rasterio does not convert them; the class is not public
    from rasterio._err import CPLE_BaseError
except ImportError:
    CPLE_BaseError = RasterioError

GDAL_ERRORS = (RasterioError, CPLE_BaseError)
"""Exceptions that rasterio raises where GDAL fails."""
CACHE_BYTES = 64 * 2**20
"""Default size of GDAL's block cache, in bytes."""


@contextmanager
def gdal_env(*, cache_bytes: int = CACHE_BYTES, pam: bool = False, threads: int = 1) -> Iterator[None]:
    """Context manager: GDAL's settings for reading scenes, in the calling thread.

    Args:
        cache_bytes: size of GDAL's block cache, in bytes.
        pam: read `.aux.xml` sidecars. GDAL then writes them, too, so only for a file that has one.
        threads: number of threads that decompress a file opened in this context.
    """
    # GDAL (3.10 at least) reads a truncated PNG by its fast path as uninitialised memory, without an error.
    settings = {"GDAL_PAM_ENABLED": "YES" if pam else "NO", "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO"}
    if forks.threads(threads) > 1:
        settings["GDAL_NUM_THREADS"] = str(threads)
    with forks.at_work(), rasterio.Env(GDAL_CACHEMAX=cache_bytes, **settings):
        yield


def has_sidecar(path: Path) -> bool:
    """Whether a raster has an `.aux.xml` sidecar, which may hold its CRS or nodata; GDAL reads it only with PAM."""
    return os.path.exists(f"{path}.aux.xml")  # unlike Path.exists, it returns False for a name that is too long


def closed_by(stack: ExitStack, resource: Any) -> Any:
    """Let `stack` close a dataset; returns the dataset."""
    # Not by enter_context: an entered dataset keeps a GDAL environment of the thread open, and scenes are closed in any
    # order and by any thread.
    stack.callback(resource.close)
    return resource


def forget_error(dataset: Any) -> None:
    """Clear GDAL's last error after it was handled.

    Otherwise rasterio raises it at the next call whose result is not 0, such as the colour interpretation of a band.
    """
    with suppress(Exception):
        _ = dataset.colorinterp


def gdal_reason(error: BaseException) -> str:
    """GDAL's error message in one line, also where rasterio wraps it in an error "see previous exception"."""
    while error.__cause__ is not None and "previous exception" in str(error):
        error = error.__cause__
    return " ".join(str(error).split())
