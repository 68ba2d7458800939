"""Names of rasters: local files, and names that only GDAL opens."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from floodmap.errors import SceneError
from floodmap.geo.urls import without_queries

_SCHEMES = {
    "http": "/vsicurl/http://", "https": "/vsicurl/https://", "ftp": "/vsicurl/ftp://", "s3": "/vsis3/",
    "gs": "/vsigs/", "gcs": "/vsigs/", "az": "/vsiaz/", "abfs": "/vsiadls/", "oss": "/vsioss/", "zip": "/vsizip/",
    "tar": "/vsitar/", "gzip": "/vsigzip/",
}  # fmt: skip
"""Prefix in GDAL's virtual file system for each scheme of a URL."""
_ARCHIVES = ("zip", "tar", "gzip")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_REMOTE = re.compile(r"/vsi(curl|s3|gs|az|adls|oss|swift|hdfs|webhdfs)(_streaming)?[/?]|^(?!vrt:)[A-Za-z0-9+]+://")
_PREFIX = re.compile(r"([A-Za-z][A-Za-z0-9_+.-]+):")
"""Pattern of the scheme of a URL, or of the driver in a name such as `NETCDF:"f.nc":red`.

The pattern needs two characters before the colon, because a single letter is a drive of Windows.
"""
_VIRTUAL = re.compile(r"/vsi[a-z0-9]+(_streaming)?/")
_TOKEN = re.compile(r'"([^"]*)"|([^":]+)')


@dataclass(frozen=True, slots=True)
class SourceName:
    """Name of a raster, such as `a!b.tif`, `/vsizip/x.zip/a.tif`, `NETCDF:"f.nc":red` or `https://...`.

    The name of a local file is literal: no character in the name has a special meaning.
    """

    given: str
    """Name as the user wrote it."""
    path: Path | None
    """Local file or folder, which may be missing; None for a name that only GDAL opens."""
    title: str = ""
    """Name for messages and for results, such as the id of a STAC item; empty: the name follows from `given`."""
    acquired: datetime | None = None
    """Time of acquisition, such as the date of a STAC item; None: the raster's own."""
    display: str = field(default="", compare=False)
    """Text for messages in place of `path`; empty: `path`."""

    @classmethod
    def of(cls, source: str | os.PathLike[str] | SourceName) -> SourceName:
        """Parse a name. The first matching rule of this list decides whether the name is local or only for GDAL.

        1. A name that begins with `/vsi` is for GDAL.
        2. The name of an existing file or folder is local. A `Path` is local even if no file exists.
        3. Text that begins with `file://` is local.
        4. Text that begins with `<VRT`, or with a scheme or a driver followed by a colon, is for GDAL.
        5. All other text is local.

        Raises:
            SceneError: the name is empty, contains a zero byte, or is not valid UTF-8.
        """
        if isinstance(source, SourceName):
            return source
        text = os.fspath(source)
        if not text or "\0" in text:
            wrong = f"{text!r} is not a file name: it contains a NUL character"
            raise SceneError(wrong if text else "the name of a scene is empty")
        try:
            text.encode()
        except UnicodeEncodeError:
            shown = os.fsencode(text).decode("utf-8", "replace")
            raise SceneError(f"{shown}: the name of a file or folder is not UTF-8; rename it first") from None
        is_local = not isinstance(source, str) or os.path.lexists(text)
        if text.startswith("/vsi") or (not is_local and (text.startswith("<VRT") or _PREFIX.match(text))):
            if text.casefold().startswith("file://"):
                return cls(text, Path(url2pathname(unquote(urlsplit(text).path))))
            return cls(text, None)
        return cls(text, Path(text))

    @property
    def opened(self) -> Path | str:
        """Argument for `rasterio.open`: an absolute `Path` for a local file, or a str for a name that only GDAL opens.

        A URL such as `s3://b/a.tif` becomes GDAL's name `/vsis3/b/a.tif`, because `rasterio.open` passes names that
        begin with `/vsi`, and each `Path`, to GDAL unchanged. Any other str is the name as the user wrote it.
        `rasterio.open` parses it.
        """
        return self.path.absolute() if self.path is not None else self._vsi_name

    @property
    def _vsi_name(self) -> str:
        """Name for GDAL: `/vsis3/b/a.tif` for the URL `s3://b/a.tif`; a name without such a scheme is unchanged."""
        url = _URL.match(self.given)
        scheme = url[1].casefold() if url else ""
        if url is None or scheme not in _SCHEMES:
            return self.given
        rest = self.given[url.end() :]
        return _SCHEMES[scheme] + (re.sub("!/*", "/", rest, count=1) if scheme in _ARCHIVES else rest)

    def absolute(self) -> SourceName:
        """Return the name for a process in another folder: with an absolute path, and the same text in messages."""
        return self if self.path is None else replace(self, path=self.path.absolute(), display=str(self.path))

    @property
    def is_remote(self) -> bool:
        """True if the raster is read over a network."""
        is_name = self.path is None and not self.given.startswith("<")
        return is_name and bool(_REMOTE.search(self._vsi_name))

    @property
    def _shown(self) -> str:
        """The given name; of a remote raster without user names and queries, which may contain a password."""
        if not self.is_remote:
            return self.given
        shown = without_queries(self.given)
        is_plain = self.given.startswith("/vsi") or _URL.match(self.given)
        return shown.partition("?")[0] if is_plain else shown

    @property
    def stem(self) -> str:
        """Beginning of the names of result files.

        For a local file: the name without folders and suffix. For a URL or a `/vsi` name: the text after the last `/`,
        without suffix. For a VRT given as XML: `vrt`. For other names: the parts after the driver, such as `f_red` for
        `NETCDF:"f.nc":red`.
        """
        if self.title:
            return self.title
        if self.path is not None:
            return self.path.stem
        if self.given.startswith("<"):
            return "vrt"
        if self._vsi_name.startswith("/vsi"):
            return _safe_name(unquote(Path(self.label).stem))
        tokens = self._tokens()
        files = [token for token in tokens if "." in token or "/" in token] or tokens[:1]
        rest = [token for token in tokens if token not in files[:1]]
        return _safe_name("_".join([*(Path(file).stem for file in files[:1]), *rest]))

    @property
    def label(self) -> str:
        """Name of the raster without folders, as written into the result files."""
        if self.title:
            return self.title
        if self.path is not None:
            return self.path.name
        if self._vsi_name.startswith("/vsi"):
            return re.split(r"[/!]", str(self))[-1]
        return str(self) if self.given.startswith("<") else re.sub(r'[^":]*/', "", self._shown)

    @property
    def container(self) -> tuple[Path, str] | None:
        """Path of the local file that contains the raster, and name of the raster inside this file.

        For `/vsizip/x.zip/a.tif`, the path is `x.zip` and the name is `a.tif`. The name is empty if the local file is
        the raster itself. None if no local file contains the raster.
        """
        if self.path is not None:
            return self.path, ""
        if not self._vsi_name.startswith("/vsi"):
            found = [Path(token) for token in self._tokens() if Path(token).is_file()]
            return (found[0], self.given.replace(str(found[0]), "")) if found else None
        inside = self._vsi_name
        while virtual := _VIRTUAL.match(inside):
            inside = inside[virtual.end() :]
        for file in _prefixes(inside):
            if Path(file).is_file():
                return Path(file), inside[len(file) :].lstrip("}/")
            if inside.startswith("{") and Path(file[1:]).is_file():
                return Path(file[1:]), inside[len(file) :].lstrip("}/")
        return None

    def _tokens(self) -> list[str]:
        """Return the parts after the driver, split at colons outside quotes: `f.nc`, `red` for `NETCDF:"f.nc":red`."""
        rest = _PREFIX.sub("", self._shown, count=1)
        return [quoted or bare for quoted, bare in _TOKEN.findall(rest)]

    def __str__(self) -> str:
        """Return the name for messages. The query of a URL is left out, because the query may contain a password."""
        if self.title:
            return self.title
        if self.path is not None:
            return self.display or str(self.path)
        if self.given.startswith("<"):
            return "the VRT given as text"
        return self._shown


def shown_name(name: str | os.PathLike[str] | None) -> str:
    """Return the name of an input file for messages, see `SourceName.__str__`; an empty text for None."""
    return "" if name is None else str(SourceName.of(name))


def _prefixes(path: str) -> Iterator[str]:
    """Yield every beginning of a path that ends before a `/` or a `}`, and at last the whole path.

    For `a/b.zip/c.tif`, the results are `a`, `a/b.zip` and `a/b.zip/c.tif`. A path may have braces, because GDAL allows
    the path of an archive in braces: `/vsizip/{x.zip}/a.tif`.
    """
    for end in [match.start() for match in re.finditer(r"[/}]", path)] + [len(path)]:
        if end:
            yield path[:end]


def _safe_name(text: str) -> str:
    """Return a text in which `_` replaces characters that some file systems do not allow in a name."""
    return re.sub(r"[^\w.-]+", "_", text).strip("_.") or "scene"
