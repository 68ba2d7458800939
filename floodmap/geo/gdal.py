"""GDAL for reading scenes: settings, error messages, and closing of datasets."""

from __future__ import annotations

import os
import tarfile
import time
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import rasterio
from rasterio.errors import RasterioError

from floodmap._runtime import forks
from floodmap.errors import RemoteError
from floodmap.geo import remote
from floodmap.geo.source_name import SourceName
from floodmap.geo.urls import without_queries

try:  # base class of GDAL errors that rasterio does not convert; the class is not public
    from rasterio._err import CPLE_BaseError
except ImportError:
    CPLE_BaseError = RasterioError
try:  # Python may be built without xz
    from lzma import LZMAError
except ImportError:
    LZMAError = zlib.error  # type: ignore[misc, assignment]

GDAL_ERRORS = (RasterioError, CPLE_BaseError)
"""Exceptions that rasterio raises if GDAL fails."""
ARCHIVE_ERRORS = (OSError, EOFError, zlib.error, LZMAError, zipfile.BadZipFile, tarfile.TarError)
"""Exceptions that Python raises for an archive that is damaged or truncated."""
CACHE_BYTES = 64 * 2**20
"""Default size of GDAL's block cache, in bytes."""


@contextmanager
def gdal_env(
    *, cache_bytes: int = CACHE_BYTES, pam: bool = False, threads: int = 1, siblings: bool = True
) -> Iterator[None]:
    """Context manager: apply GDAL's settings for reading scenes in the calling thread, within the `with` block.

    Args:
        cache_bytes: size of GDAL's block cache, in bytes.
        pam: True: GDAL reads `.aux.xml` sidecars (PAM, persistent auxiliary metadata). With PAM, GDAL may also create a
            sidecar beside a raster that has none, although the raster is only read. Therefore use True only for a
            raster that has a sidecar, or beside which GDAL cannot create one; see `has_sidecar`.
        threads: number of threads that decompress a file opened in the block.
        siblings: False: GDAL does not search for files beside a raster that is opened in the block. On a web server,
            GDAL would request about forty names.
    """
    # The fast PNG reader of GDAL (at least in 3.10) returns uninitialised memory for a truncated PNG, without an error.
    settings = {"GDAL_PAM_ENABLED": "YES" if pam else "NO", "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO"}
    if forks.threads(threads) > 1:
        settings["GDAL_NUM_THREADS"] = str(threads)
    if not siblings:
        settings["GDAL_DISABLE_READDIR_ON_OPEN"] = "EMPTY_DIR"
    # GDAL would print errors that rasterio does not convert, with the signatures of URLs, to standard error.
    settings["CPL_LOG"] = os.devnull
    settings |= {key: remote.setting(key) for key in remote.SETTINGS}
    with forks.at_work(), rasterio.Env(GDAL_CACHEMAX=cache_bytes, **settings):
        yield


@contextmanager
def gdal_env_of(name: SourceName, *, threads: int = 1) -> Iterator[None]:
    """Context manager: apply `gdal_env` for opening one raster, with the files beside it that matter.

    Of a file on a server, GDAL searches for files beside it only if the server has a sidecar or a mask.
    """
    siblings = not name.is_remote or any(remote.exists(name, ending) for ending in (".aux.xml", ".msk"))
    with gdal_env(pam=siblings and has_sidecar(name), threads=threads, siblings=siblings):
        yield


def open_remote(name: SourceName) -> Any:
    """Open a remote raster. GDAL reads parts of the header late and, if that fails, as if they did not exist.

    The raster is therefore opened until two consecutive datasets agree in everything that GDAL reads late: masks,
    overviews and metadata. Otherwise a failed request might drop the mask, and unobserved ground would become dry.

    Raises:
        RasterioError: the last attempt failed.
        RemoteError: no two datasets agree.
    """
    before: object = None
    for delay in [*remote.delays_s(), None]:
        try:
            with rasterio.open(name.opened) as first:
                before = _structure(first)
            dataset = rasterio.open(name.opened)
            if _structure(dataset) == before:
                return dataset
            dataset.close()
        except GDAL_ERRORS:
            remote.look(name)  # raises an error if the server refuses the file
            if delay is None:
                raise
        if delay is not None:
            time.sleep(delay)
    raise RemoteError(f"{name} cannot be read: parts of its header are missing now and then; try again later")


def _structure(dataset: Any) -> object:
    """Return everything of a dataset that GDAL may read late."""
    bands = dataset.indexes
    return repr(
        (
            dataset.shape, dataset.dtypes, dataset.crs, dataset.transform, dataset.gcps, dataset.nodatavals,
            dataset.mask_flag_enums, dataset.colorinterp, dataset.descriptions, dataset.tags(), dataset.files,
            [dataset.overviews(band) for band in bands], [dataset.tags(band, ns="IMAGE_STRUCTURE") for band in bands],
        )
    )  # fmt: skip


def forget_remote(files: Iterable[SourceName]) -> None:
    """Discard what GDAL has read of remote files: of an answer that was cut off, GDAL keeps the first part.

    GDAL discards it when any dataset of the file is closed, see CPL_VSIL_CURL_NON_CACHED in `remote.SETTINGS`.
    """
    for file in files:
        if file.is_remote:
            with suppress(*GDAL_ERRORS), gdal_env(siblings=False):
                rasterio.open(file.opened).close()


def has_sidecar(name: SourceName) -> bool:
    """Return whether GDAL's PAM may be enabled for a raster, see `gdal_env`.

    PAM may be enabled if the raster has an `.aux.xml` sidecar, beside it or in its zip or tar archive. A sidecar may
    contain the CRS or the nodata value of the raster, and GDAL reads it only if PAM is enabled. If there is no sidecar,
    PAM must stay disabled, because GDAL may create one otherwise. If the raster is read over a network, this function
    does not look for a sidecar:

    - On a web server (`https://`), GDAL cannot create a file. The result is therefore True.
    - In a bucket (`s3://`), GDAL can create a file. The result is therefore False, even if there is a sidecar.
    """
    if name.path is not None:
        return os.path.exists(f"{name.path}.aux.xml")  # Path.exists may raise an error for a name that is too long
    if name.is_remote:
        return "/vsicurl/" in str(name.opened)
    file, inside = name.container or (None, "")
    if file is None or not inside:
        return False
    try:
        return f"{inside}.aux.xml" in _names_in(file)
    except ARCHIVE_ERRORS:
        return False


def _names_in(archive: Path) -> Collection[str]:
    """Return the names of the files in a zip or tar archive; an empty tuple for any other file."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            return file.namelist()
    if tarfile.is_tarfile(archive):
        with tarfile.open(archive) as tar:
            return [member.removeprefix("./") for member in tar.getnames()]
    return ()


def closed_by(stack: ExitStack, resource: Any) -> Any:
    """Make `stack` close the dataset `resource` when the stack itself is closed, and return the dataset."""
    # Not with enter_context: an entered dataset keeps a GDAL environment of the thread open, but scenes are closed in
    # any order and by any thread.
    stack.callback(resource.close)
    return resource


def forget_error(dataset: Any) -> None:
    """Clear GDAL's last error after a failed read of a damaged raster, if the read is not needed.

    If the error is not cleared, rasterio raises it again at the next GDAL call that returns a value other than 0, also
    if that call succeeds. This function provokes such an exception and suppresses it. To do so, it reads the colour
    interpretation of the bands, for which GDAL returns a value other than 0.

    Args:
        dataset: the open dataset.

    Raises:
        RemoteError: the dataset, or a member of a VRT mosaic, is read over a network. The raster may not be damaged.
    """
    for file in map(SourceName.of, dataset.files):
        if file.is_remote:
            raise RemoteError(f"{file} cannot be read over the network; run again with --resume to go on")
    with suppress(Exception):
        _ = dataset.colorinterp


def gdal_reason(error: BaseException) -> str:
    """Return the message of a GDAL error in one line.

    If the message of rasterio only refers to a previous exception, the message of the previous exception is returned.
    """
    while error.__cause__ is not None and "previous exception" in str(error):
        error = error.__cause__
    return without_queries(" ".join(str(error).split()))
