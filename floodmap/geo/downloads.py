"""Downloads of remote files to temporary local files, for masks and polygons."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import unquote

from floodmap.errors import RemoteError
from floodmap.geo.remote import content_of, look
from floodmap.geo.source_name import SourceName


@contextmanager
def local_file(file: str | os.PathLike[str]) -> Iterator[Path]:
    """Context manager: yield the path of a local file or folder, or of a downloaded copy of a remote file.

    Masks and polygons are small, and are read more than once. They are therefore downloaded whole. The copy has the
    name of the remote file and the time of its last change, and is deleted when the context ends.

    Args:
        file: a path, a URL such as `https://...` or `s3://...`, or GDAL's name of such a file.

    Raises:
        RemoteError: the server or the file cannot be reached.
    """
    name = SourceName.of(file)
    if not name.is_remote:
        yield Path(file)
        return
    with tempfile.TemporaryDirectory(prefix="floodmap-") as folder:
        label = re.sub(r"[^\w .-]", "_", unquote(name.label.partition("?")[0]))[-200:]
        if label.lower().endswith(".shp"):
            raise RemoteError(f"{name}: a Shapefile is several files; download them, or give a GeoPackage")
        copy = Path(folder) / (label.strip(".") or "file")
        copy.write_bytes(content_of(name))
        if (found := look(name)) is not None and found.modified:
            changed = _seconds(found.modified)
            os.utime(copy, (changed, changed))
        yield copy


def local_copy(file: Path | str, stack: ExitStack) -> Path | str:
    """Return a path or GDAL's name of a file; in place of a remote file, that of a copy which `stack` deletes.

    Raises:
        RemoteError: the server or the file cannot be reached.
    """
    return stack.enter_context(local_file(file)) if SourceName.of(file).is_remote else file


def _seconds(modified: str) -> float:
    """Return the time of a last change in seconds since 1970, from a date of HTTP or ISO 8601; 0 for other texts."""
    for parse in (parsedate_to_datetime, datetime.fromisoformat):
        with suppress(TypeError, ValueError):
            return parse(modified).timestamp()
    return 0.0
