"""Files on web servers and in buckets: existence, version and first bytes, and clear messages for network errors."""

from __future__ import annotations

import http.client
import os
import socket
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit

from floodmap.errors import RemoteError, RemoteFileError
from floodmap.geo import buckets
from floodmap.geo.source_name import SourceName
from floodmap.geo.urls import IN_ARCHIVE, beside, request, web_address, without_queries

HEAD_BYTES = 16 * 2**10
"""Number of bytes read at the start of a remote file: a GeoTIFF's header, and part of the block index of a COG."""
_THREADS = 8
_PASSING = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP status codes after which a request is repeated."""
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """State of a file on a server at one moment."""

    name: SourceName = field(compare=False)
    """Name of the file, for messages."""
    etag: str
    """HTTP header ETag; empty if the server sends none."""
    modified: str
    """Time of the last change, as text from the server; empty if the server sends none."""
    length: int | None
    """Size in bytes; None if the server does not send it."""
    head: bytes
    """First bytes of the file, at most `HEAD_BYTES`."""

    @property
    def has_version(self) -> bool:
        """Whether the server sends a value that changes with the content.

        The first bytes alone may stay the same when the picture changes.
        """
        return bool(self.etag or self.modified)


def look(name: SourceName) -> RemoteFile | None:
    """Read the state and the first bytes of a remote file, in one request. Failed requests are repeated.

    Args:
        name: name of a remote file. Of a file inside an archive, the state of the archive is returned.

    Returns:
        The state; None for a file that only GDAL can read: another protocol, or a bucket without the package obstore.

    Raises:
        RemoteFileError: the server has no such file, refuses access, or does not support range requests.
        RemoteError: the server cannot be reached.
    """
    opened = str(name.opened)
    if address := web_address(opened):
        return _repeated(lambda: _ask(name, address), name, address)
    return buckets.look(name, opened, HEAD_BYTES)


def content_of(name: SourceName) -> bytes:
    """Download a whole file, which should be small. Failed requests are repeated.

    Raises:
        RemoteError: the server or the file cannot be reached.
    """
    opened = str(name.opened)
    if address := web_address(opened):
        return _repeated(lambda: _whole(address), name, address)
    return buckets.content_of(name, opened)


def start_of(name: SourceName) -> bytes:
    """Return the first bytes of a file on a web server, which need not support range requests.

    Raises:
        RemoteError: the server or the file cannot be reached.
    """
    address = web_address(str(name.opened)) or ""
    return _repeated(lambda: _first_bytes(address), name, address)


def look_at_all(names: Iterable[SourceName]) -> dict[str, RemoteFile]:
    """Return the state of each remote file among `names` by its `SourceName.opened`, see `look`.

    Files are requested at the same time. Local files, and files of which `look` returns None, are left out.
    """
    remote = {str(name.opened): name for name in names if name.is_remote}
    if not remote:
        return {}
    with ThreadPoolExecutor(_THREADS) as pool:
        found = zip(remote, pool.map(look, remote.values()), strict=True)
        return {opened: file for opened, file in found if file is not None}


def refuse_changed(before: dict[str, RemoteFile]) -> None:
    """Check that files are as they were. `before` is a result of `look_at_all`.

    Raises:
        RemoteFileError: a file has changed, or is no longer there.
        RemoteError: the server cannot be reached.
    """
    now = look_at_all(file.name for file in before.values())
    for opened, file in before.items():
        if now.get(opened) != file:
            raise RemoteFileError(f"{file.name} has changed while it was read; run again with --overwrite")


def exists(name: SourceName, ending: str) -> bool:
    """Return whether a server has a file `NAME + ending` beside a file. Failed requests are repeated.

    The result is False if the server refuses access. The reason: the signature in a signed URL is valid for one file
    only, so that files beside it are refused.

    Raises:
        RemoteError: the server cannot be reached, so that it is not known whether the file exists.
    """
    opened = str(name.opened)
    address = web_address(opened)
    if IN_ARCHIVE.match(opened):
        return False
    if address is None:
        return buckets.exists(name, opened + ending)
    return _repeated(lambda: _answers(beside(address, ending)), name, address)


def delays_s() -> Iterator[float]:
    """Yield the pauses before repeated requests, in seconds: as many as GDAL_HTTP_MAX_RETRY, each twice the last."""
    first = max(0.0, _number("GDAL_HTTP_RETRY_DELAY"))
    yield from (first * 2**number for number in range(int(_number("GDAL_HTTP_MAX_RETRY"))))


def _timeout_s() -> float | None:
    seconds = _number("GDAL_HTTP_LOW_SPEED_TIME")
    return seconds if seconds > 0 else None  # curl has no limit, too, if the value is 0


def _number(key: str) -> float:
    """Return the value of a setting as a number; the default if the variable of the environment is no number."""
    with suppress(ValueError):
        return float(setting(key))
    return float(SETTINGS[key])


SETTINGS = {
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_CONNECTTIMEOUT": "15",
    # A request ends if fewer than 1000 bytes a second arrive for 30 seconds.
    "GDAL_HTTP_LOW_SPEED_TIME": "30",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1000",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "CPL_VSIL_CURL_CHUNK_SIZE": str(128 * 2**10),
    "CPL_VSIL_CURL_CACHE_SIZE": str(32 * 2**20),
    # When a file is closed, GDAL discards what it has read of it. Otherwise a file that changes on the server would be
    # read from the memory of the process, and a part that was cut off would stay cut off.
    "CPL_VSIL_CURL_NON_CACHED": "/vsicurl/:/vsis3/:/vsigs/:/vsiaz/:/vsiadls/:/vsioss/:/vsiswift/",
    # By default, GDAL reads at most 10 MB of compressed blocks at a time.
    "GDAL_MAX_RAW_BLOCK_CACHE_SIZE": str(64 * 2**20),
}
"""GDAL's settings for remote files. A variable of the environment with the same name has precedence."""


def setting(key: str) -> str:
    """Return the value of a setting of `SETTINGS`, or of the variable of the environment with the same name."""
    return os.environ.get(key, SETTINGS[key])


def _ask(name: SourceName, address: str) -> RemoteFile:
    with urllib.request.urlopen(request(address, HEAD_BYTES), timeout=_timeout_s()) as response:
        headers = response.headers
        length = (headers.get("Content-Range") or "").rpartition("/")[2] or headers.get("Content-Length", "")
        if response.status == 200 and not (length.isdigit() and int(length) <= HEAD_BYTES):
            raise RemoteFileError(
                f"{name}: the server sends whole files only (no range requests); download the file first: "
                f"curl -O {without_queries(address)}"
            )
        head: bytes = response.read(HEAD_BYTES)
    if length.isdigit() and len(head) < min(int(length), HEAD_BYTES):
        raise http.client.IncompleteRead(head)
    return RemoteFile(
        name=name, etag=headers.get("ETag", ""), modified=headers.get("Last-Modified", ""),
        length=int(length) if length.isdigit() else None, head=head,
    )  # fmt: skip


def _whole(address: str) -> bytes:
    with urllib.request.urlopen(request(address), timeout=_timeout_s()) as response:
        content: bytes = response.read()
    return content


def _first_bytes(address: str) -> bytes:
    with urllib.request.urlopen(request(address), timeout=_timeout_s()) as response:
        start: bytes = response.read(100)
    return start


def _answers(address: str) -> bool:
    """Return whether the server sends the first byte of a file; False if it refuses the request for good."""
    try:
        with urllib.request.urlopen(request(address, 1), timeout=_timeout_s()):
            return True
    except HTTPError as error:
        if error.code in _PASSING:
            raise
        error.close()
        return False


def _repeated(call: Callable[[], _Result], name: SourceName, address: str) -> _Result:
    """Return the result of a call that makes a request; repeat it after a pause if it fails and that may help.

    Raises:
        RemoteFileError: the server refuses the request, and repetition cannot help.
        RemoteError: the last request failed, or the host does not exist.
    """
    message = partial(_message, name, urlsplit(address).hostname)
    for delay in [*delays_s(), None]:
        try:
            return call()
        except HTTPError as error:
            with error:
                if error.code not in _PASSING:
                    raise RemoteFileError(message(error)) from None
                if delay is None:
                    raise RemoteError(message(error)) from None
        except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
            is_final = isinstance(getattr(error, "reason", None), socket.gaierror)
            if delay is None or is_final:
                raise RemoteError(message(error)) from None
        time.sleep(delay)
    raise AssertionError  # the last delay is None


def _message(name: SourceName, host: str | None, error: Exception) -> str:
    """Return the message for the user about a failed request."""
    if isinstance(error, HTTPError) and error.code in (401, 403):
        return (
            f"{name} may not be read: the server answered {error.code} ({error.reason}); if the URL is signed, the "
            "signature may have expired: make a new URL; else set the credentials in the environment"
        )
    if isinstance(error, HTTPError) and error.code in (404, 410):
        return f"{name}: the server has no such file (it answered {error.code}); check the address"
    if isinstance(error, HTTPError):
        return f"{name} cannot be read: the server answered {error.code} ({error.reason}); try again later"
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, socket.gaierror):
        return f"{name}: the host {host} was not found; check the address and the network"
    if isinstance(error, http.client.IncompleteRead | http.client.RemoteDisconnected | ConnectionResetError):
        return f"{name} cannot be read: the server {host} closes the connection too early; try again later"
    return f"{name} cannot be read: no answer from {host} ({without_queries(str(reason))}); check the network"
