"""Reads of rasters over a network: failed reads are repeated."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import rasterio
from rasterio.errors import RasterioError

from floodmap.errors import RemoteError
from floodmap.geo.gdal import gdal_env, gdal_reason
from floodmap.geo.remote import delays_s, refuse_changed
from floodmap.imagery.raster.source import Source

_Result = TypeVar("_Result")


def patiently(read: Callable[[], _Result], source: Source, what: str) -> _Result:
    """Return the result of a read. If the raster is remote, a failed read is repeated after a pause.

    GDAL itself repeats requests that a server refuses, but not requests whose connection was closed too early. GDAL
    then raises an error as for a damaged file.

    Args:
        read: function that reads with GDAL.
        source: the raster.
        what: what is read, for the message: name of the raster and rows and columns.

    Raises:
        RasterioError: the raster is local, and the read failed.
        RemoteError: the raster is remote, and all reads failed; or its file has changed.
    """
    for delay in [*delays_s(), None] if source.is_remote else []:
        try:
            return read()
        except RasterioError as error:
            refuse_changed(source.remote_files)
            if delay is None:
                raise RemoteError(
                    f"{what} cannot be read over the network: {gdal_reason(error)}; run again with --resume to go on. "
                    "If the file itself is damaged, download it: the damaged part is then unobserved"
                ) from error
            time.sleep(delay)
            _forget(source)
    return read()


def _forget(source: Source) -> None:
    """Discard what GDAL has read of the remote files: of an answer that was cut off, GDAL keeps the first part.

    GDAL discards it when any dataset of the file is closed, see CPL_VSIL_CURL_NON_CACHED in `geo.remote.SETTINGS`.
    """
    for file in source.anatomy.files:
        if file.is_remote:
            with suppress(RasterioError), gdal_env(siblings=False):
                rasterio.open(file.opened).close()
