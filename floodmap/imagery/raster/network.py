"""Reads of rasters over a network: failed reads are repeated."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from rasterio.io import DatasetReader

from floodmap.errors import RemoteError
from floodmap.geo.gdal import GDAL_ERRORS, forget_remote, gdal_reason
from floodmap.geo.remote import delays_s, refuse_changed
from floodmap.imagery.raster.source import Source

_Result = TypeVar("_Result")


def patiently(read: Callable[[], _Result], source: Source, what: str) -> _Result:
    """Return the result of a read. If the raster is remote, a failed read is repeated after a pause.

    GDAL itself repeats requests that a server refuses, but not requests whose connection was closed too early. GDAL
    then raises an error as for a damaged file. Reads of a VRT are not repeated: GDAL may keep the failed part as zeros.

    Args:
        read: function that reads with GDAL.
        source: the raster.
        what: what is read, for the message: name of the raster and rows and columns.

    Raises:
        RasterioError: the raster is local, and the read failed.
        RemoteError: the raster is remote, and all reads failed; or its file has changed.
    """
    if not source.is_remote:
        return read()
    delays = delays_s() if isinstance(source.dataset, DatasetReader) and source.dataset.driver != "VRT" else ()
    for delay in [*delays, None]:
        try:
            return read()
        except GDAL_ERRORS as error:
            refuse_changed(source.remote_files)
            if delay is None:
                raise RemoteError(
                    f"{what} cannot be read over the network: {gdal_reason(error)}; run again with --resume to go on. "
                    "If the file itself is damaged, download it: the damaged part is then unobserved"
                ) from None
            time.sleep(delay)
            forget_remote(source.anatomy.files)
    raise AssertionError  # the last delay is None
