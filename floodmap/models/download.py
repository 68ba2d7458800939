"""Downloads of large files over unreliable networks, with resuming and a check of the SHA-256.

The target file appears only after it is complete and checked.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from floodmap._runtime.sizes import in_bytes
from floodmap.errors import DownloadError, ModelError

logger = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]
"""Callback. Arguments: number of bytes received so far; size of the file in bytes, or None if the server sends none."""

_CHUNK = 1 << 18
"""Largest number of bytes in one read."""


class _CutError(Exception):
    """Error of an interrupted connection; another attempt may resume the download."""


class _UnreachableError(_CutError):
    """Error of a connection that could not be opened."""


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in lower-case hexadecimal.

    Raises:
        ModelError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error


def download(
    url: str,
    target: Path,
    *,
    sha256: str,
    progress: Progress | None = None,
    retries: int = 4,
    backoff_s: float = 1.0,
    timeout_s: float = 30.0,
) -> None:
    """Download a file with a known SHA-256, and resume an interrupted download.

    The bytes are written to `<target>.part`. An interrupted download leaves this file, and the next attempt requests
    only the missing bytes. Several processes may call this function for one target: one downloads, the others wait.

    Args:
        url: address with the scheme http, https or file.
        target: path of the complete and checked file; the folder of this path must exist.
        sha256: SHA-256 of the whole file, in lower-case hexadecimal.
        progress: callback, see `Progress`.
        retries: largest number of attempts in a row that may fail without any new byte of the file. After one more such
            attempt, an error is raised. New bytes set the count back to 0.
        backoff_s: pause before a retry, in seconds. After the second attempt in a row without a new byte, the pause is
            twice as long; after the third, four times as long; and so on.
        timeout_s: longest wait for data of the server, in seconds.

    Raises:
        DownloadError: the file cannot be fetched, or the SHA-256 of the received file is wrong. A file with a wrong
            SHA-256 is deleted. There is no retry if the first attempt cannot open a connection, if the URL is not
            valid, or if the server refuses the file (HTTP status below 500 other than 429, for instance 404).
        ModelError: the file cannot be written.
    """
    part = target.with_name(f"{target.name}.part")
    with _lock(target):
        if target.is_file() and sha256_of(target) == sha256:
            return
        resumed = part.exists()
        _transfer(url, part, progress, retries, backoff_s, timeout_s)
        received = sha256_of(part)
        if received != sha256 and resumed:
            # The part file of an earlier run was not the beginning of this file: download the whole file again.
            part.unlink()
            _transfer(url, part, progress, retries, backoff_s, timeout_s)
            received = sha256_of(part)
        if received != sha256:
            part.unlink()
            raise DownloadError(f"{url} sent a file with the wrong SHA-256 ({received}); it was deleted")
        part.replace(target)


@contextmanager
def _lock(target: Path) -> Iterator[None]:
    lock = filelock.FileLock(f"{target}.lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        logger.warning("another process is fetching %s; waiting for it", target.name)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        # filelock raises NotImplementedError on a network file system without locks.
        reason = getattr(error, "strerror", None) or error
        raise ModelError(
            f"{target.parent} cannot be written: {reason}; set FLOODMAP_CACHE to another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _transfer(
    url: str, part: Path, progress: Progress | None, retries: int, backoff_s: float, timeout_s: float
) -> None:
    """Download a whole file to the path `part`, and open a new connection after every interruption."""
    furthest, failures, reached = _size(part), 0, False
    while True:
        try:
            return _receive(url, part, progress, timeout_s)
        except _CutError as error:
            # A server that ignores range requests sends the file from the beginning in every attempt. An attempt
            # therefore only makes progress if `part` becomes longer than after all earlier attempts.
            failures = 0 if _size(part) > furthest else failures + 1
            furthest = max(furthest, _size(part))
            # Without a network the error is raised at once, without retries.
            reached = reached or not isinstance(error, _UnreachableError)
            if failures > retries or not reached:
                raise DownloadError(f"{url} cannot be fetched: {error}") from error
            logger.info("%s: %s; trying again", url, error)
            time.sleep(backoff_s * 2 ** max(failures - 1, 0))


def _receive(url: str, part: Path, progress: Progress | None, timeout_s: float) -> None:
    """Request the missing bytes once, and append the received bytes to `part`."""
    start = _size(part)
    headers = {"User-Agent": "floodmap"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        request = urllib.request.Request(url, headers=headers)
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            start, total = _extent(response, part, start)
            _append(response, part, start, total, progress)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            # Range not satisfiable: `part` is complete, or longer than the file. The SHA-256 is checked next.
            return
        if error.code == 429 or error.code >= 500:
            raise _CutError(f"the server answered {error.code} {error.reason}") from error
        raise DownloadError(f"{url} cannot be fetched: the server answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise _UnreachableError(str(error.reason)) from error
    except ValueError as error:
        raise DownloadError(f"{url} is not a valid address: {error}; check FLOODMAP_MODEL_URL") from error
    except (http.client.HTTPException, OSError) as error:
        raise _CutError(str(error) or type(error).__name__) from error


def _extent(response: http.client.HTTPResponse, part: Path, start: int) -> tuple[int, int | None]:
    """Return the position of the response's first byte in the file, and the length of the whole file in bytes.

    The length is None if the server does not send the length.
    """
    length = response.headers.get("Content-Length")
    if response.status != 206:
        return 0, int(length) if length else None
    matched = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if not matched or int(matched[1]) != start:
        part.unlink(missing_ok=True)
        raise _CutError("the server sent another range than it was asked for")
    return start, None if matched[2] == "*" else int(matched[2])


def _append(
    response: http.client.HTTPResponse, part: Path, start: int, total: int | None, progress: Progress | None
) -> None:
    done = start
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - start > free:
        raise _full(part, total - start, free)
    with _opened(part, "ab" if start else "wb") as write:
        # read1 returns the bytes that have arrived; read would lose up to a chunk when the connection breaks.
        while chunk := response.read1(_CHUNK):
            write(chunk)
            done += len(chunk)
            if progress:
                progress(done, total)
    if total is not None and done < total:
        # Unless the whole body is read at once, http.client raises no error when the connection closes early.
        raise _CutError(f"the connection broke off after {done} of {total} bytes")


@contextmanager
def _opened(part: Path, mode: str) -> Iterator[Callable[[bytes], None]]:
    """Context manager: open `part` and yield a function that writes bytes; file system errors become ModelError."""

    def refused(error: OSError) -> ModelError:
        return ModelError(
            f"{part} cannot be written: {error.strerror or error}; free disk space or set FLOODMAP_CACHE to another "
            "folder"
        )

    try:
        file = part.open(mode, buffering=0)
    except OSError as error:
        raise refused(error) from error

    def write(chunk: bytes) -> None:
        view = memoryview(chunk)
        try:
            while view:
                view = view[file.write(view) :]
        except OSError as error:
            raise refused(error) from error

    with file:
        yield write


def _full(part: Path, needed: int, free: int) -> ModelError:
    return ModelError(
        f"{part.name} needs {in_bytes(needed)} more and {part.parent} has {in_bytes(free)} left; "
        "free disk space or set FLOODMAP_CACHE to a folder on another disk"
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
