"""What a raster is called: a file on this machine, or a name that GDAL alone understands."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from floodmap.errors import SceneError

_SCHEMES = {
    "http": "/vsicurl/http://", "https": "/vsicurl/https://", "ftp": "/vsicurl/ftp://", "s3": "/vsis3/",
    "gs": "/vsigs/", "gcs": "/vsigs/", "az": "/vsiaz/", "abfs": "/vsiadls/", "oss": "/vsioss/", "zip": "/vsizip/",
    "tar": "/vsitar/", "gzip": "/vsigzip/",
}  # fmt: skip
"""How GDAL's virtual file systems begin, by the scheme of a URL."""
_ARCHIVES = ("zip", "tar", "gzip")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_REMOTE = re.compile(r"^/vsi.*(curl|s3|gs|az|adls|oss|swift|hdfs)[/?]|^[A-Za-z0-9+]+://")
_PREFIX = re.compile(r"([A-Za-z][A-Za-z0-9_+.-]+):")
"""A URL's scheme, or the driver in names such as `NETCDF:"f.nc":red`; one letter is a drive of Windows."""
_VIRTUAL = re.compile(r"/vsi[a-z0-9]+(_streaming)?/")
_TOKEN = re.compile(r'"([^"]*)"|([^":]+)')


@dataclass(frozen=True, slots=True)
class SourceName:
    """The name of a raster, taken literally: `a!b.tif`, `/vsizip/x.zip/a.tif`, `NETCDF:"f.nc":red`, `https://...`."""

    given: str
    """As the user wrote it."""
    path: Path | None
    """The file or folder, which may be missing; None for what GDAL alone opens."""

    @classmethod
    def of(cls, source: str | os.PathLike[str] | SourceName) -> SourceName:
        """Tell files from names that GDAL alone understands; what exists as a file is one, whatever it is called.

        Raises:
            SceneError: the name is empty, or no name.
        """
        if isinstance(source, SourceName):
            return source
        text = os.fspath(source)
        if not text or "\0" in text:
            raise SceneError("the name of a scene is empty" if not text else f"{text!r} is no name: it holds a zero")
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
        """What `rasterio.open` takes literally: it parses text, but neither paths nor what begins with `/vsi`."""
        return self.path.absolute() if self.path is not None else self._virtual

    @property
    def _virtual(self) -> str:
        """The name with GDAL's `/vsi` in place of a URL's scheme."""
        url = _URL.match(self.given)
        scheme = url[1].casefold() if url else ""
        if url is None or scheme not in _SCHEMES:
            return self.given
        rest = self.given[url.end() :]
        return _SCHEMES[scheme] + (re.sub("!/*", "/", rest, count=1) if scheme in _ARCHIVES else rest)

    @property
    def is_remote(self) -> bool:
        """Whether it is read over a network."""
        return self.path is None and bool(_REMOTE.search(self._virtual))

    @property
    def stem(self) -> str:
        """What results are named after: of a file its name without suffix, of others what tells them apart."""
        if self.path is not None:
            return self.path.stem
        if self.given.startswith("<"):
            return "vrt"
        if self._virtual.startswith("/vsi"):
            return _clean(unquote(Path(self.label).stem))
        tokens = self._tokens()
        files = [token for token in tokens if "." in token or "/" in token] or tokens[:1]
        rest = [token for token in tokens if token not in files[:1]]
        return _clean("_".join([*(Path(file).stem for file in files[:1]), *rest]))

    @property
    def label(self) -> str:
        """The name without folders, for what is written into results."""
        if self.path is not None:
            return self.path.name
        if self._virtual.startswith("/vsi"):
            return re.split(r"[/!]", str(self))[-1]
        return str(self) if self.given.startswith("<") else re.sub(r'[^":]*/', "", self.given)

    @property
    def container(self) -> tuple[Path, str] | None:
        """The file on this machine that holds it, and what it is called inside; None where there is none."""
        if self.path is not None:
            return self.path, ""
        if not self._virtual.startswith("/vsi"):
            found = [Path(token) for token in self._tokens() if Path(token).is_file()]
            return (found[0], self.given.replace(str(found[0]), "")) if found else None
        inside = self._virtual
        while virtual := _VIRTUAL.match(inside):
            inside = inside[virtual.end() :]
        for file in _prefixes(inside):
            if Path(file).is_file():
                return Path(file), inside[len(file) :].lstrip("}/")
            if inside.startswith("{") and Path(file[1:]).is_file():
                return Path(file[1:]), inside[len(file) :].lstrip("}/")
        return None

    def _tokens(self) -> list[str]:
        """What stands between quotes and colons, behind the driver."""
        rest = _PREFIX.sub("", self.given, count=1)
        return [quoted or bare for quoted, bare in _TOKEN.findall(rest)]

    def __str__(self) -> str:
        """For messages: a URL without what follows `?`, which may be a password."""
        if self.path is not None:
            return str(self.path)
        if self.given.startswith("<"):
            return "the VRT given as text"
        return self.given.partition("?")[0] if self.is_remote else self.given


def _prefixes(path: str) -> Iterator[str]:
    """Beginnings of a path that end where one of its parts ends."""
    for end in [match.start() for match in re.finditer(r"[/}]", path)] + [len(path)]:
        if end:
            yield path[:end]


def _clean(text: str) -> str:
    """Text that can be a file's name anywhere."""
    return re.sub(r"[^\w.-]+", "_", text).strip("_.") or "scene"
