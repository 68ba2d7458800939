"""Literal file names for libraries that parse a name as an address.

pyogrio splits a name at `!`, drops everything after `;` and line breaks, and opens names ending in .zip as archives.
GDAL has its own syntax of names (`/vsi...`, `GPKG:...`, `{...}`). SQLite does not accept paths of more than 512 bytes.
For this reason these libraries get only plain paths. A plain path is absolute, has no folder named like an archive, and
contains only letters, digits, spaces and the characters `_.,+=@~()-`. A file with another path is opened through an
alias, a plain path in a temporary folder.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from floodmap.errors import OutputError, VectorError

__all__ = ["has_gdal_name", "is_there", "local_or_gdal", "readable", "refuse_unreadable", "writable"]

_PLAIN_PART = re.compile(r"[\w .,+=@~()-]+")
_ROOT = re.compile(r"[A-Za-z]:[\\/]|/(?!/|vsi)")
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar")
_LONGEST_PATH = 400
"""Longest path for SQLite, in bytes. The limit of SQLite is 512; the difference is room for names of journals."""
_SIDECAR_ON_READ = (".gml",)
"""Suffixes of formats for which GDAL writes a sidecar while reading.

Files of these formats are always read through an alias, so that the sidecar is not written beside the file.
"""
_DOUBLE_SUFFIXES = (".gpkg.zip", ".shp.zip", ".gdb.zip")
"""Pairs of suffixes that GDAL takes as one suffix."""
_GDAL_NAME = re.compile(r"/vsi[a-z0-9_]+/|[A-Za-z][A-Za-z0-9_+.-]+:", re.IGNORECASE)
_ALIAS = "0"


def local_or_gdal(name: Path | str) -> Path | str:
    """Return a name as a `Path`, or unchanged if only GDAL can open the name.

    Such names are, for example, `/vsizip/...`, `https://...` and `NETCDF:"x.nc":y`. `Path` would turn two slashes into
    one.
    """
    return name if has_gdal_name(name) else Path(name)


def has_gdal_name(name: Path | str) -> bool:
    """Return whether a name is not a local file or folder, but has the form of a name that GDAL opens."""
    return _GDAL_NAME.match(str(name)) is not None and not os.path.lexists(name)


def is_there(name: Path | str) -> bool:
    """Return whether a file or folder exists; always True for a name that only GDAL opens, which is not tested."""
    return has_gdal_name(name) or os.path.exists(name)


def refuse_unreadable(*names: Path | str) -> None:
    """Raise OutputError if a path is not valid UTF-8, because no output format could store the path.

    Args:
        names: files and folders. The parent folders of a relative path are checked, too.
    """
    for name in names:
        try:
            os.fsencode(name if has_gdal_name(name) else Path(name).absolute()).decode("utf-8")
        except UnicodeDecodeError:
            shown = os.fsencode(name).decode("utf-8", "replace")
            raise OutputError(f"{shown}: the name, or that of a folder above, is not UTF-8; rename it first") from None


@contextmanager
def readable(name: Path | str) -> Iterator[str]:
    """Yield a name by which pyogrio opens exactly this file or folder, with the sidecars (.dbf, .prj, ...).

    Args:
        name: a file, a .gdb folder, or a name that only GDAL opens, which is yielded unchanged.

    Raises:
        VectorError: the file does not exist.
    """
    if has_gdal_name(name):
        yield str(name)
        return
    path = Path(name).absolute()
    if not path.exists():
        raise VectorError(f"{name}: no such file")
    if _is_plain(path) and path.suffix.lower() not in _SIDECAR_ON_READ:
        yield str(path)
        return
    with _plain_folder() as folder:
        yield str(_aliased(path, folder))


@contextmanager
def writable(folder: Path, *, however_long: bool = False) -> Iterator[Path]:
    """Yield a plain path to an existing folder. Files written to the plain path are in `folder` at the end.

    Args:
        folder: a folder of any name. No file in the folder may have the name of a file that is written.
        however_long: accept a path that is too long for SQLite; only for files that SQLite does not write.
    """
    whole = folder.absolute()
    short = however_long or not _is_long(whole)
    if short and _is_plain(whole):
        yield whole
        return
    with _plain_folder() as place:
        alias = place / _ALIAS
        if short:
            with suppress(OSError, NotImplementedError):  # no symbolic links, or no permission to create a link
                alias.symlink_to(whole, target_is_directory=True)
        if alias.is_symlink():
            yield alias
            return
        yield place
        for part in place.iterdir():
            shutil.copyfile(part, whole / part.name)


def _is_plain(path: Path) -> bool:
    """Return whether an absolute path is plain: GDAL and pyogrio then take the path literally."""
    *folders, _ = parts = path.parts[1:] or ("",)
    plain_root = _ROOT.fullmatch(path.anchor) is not None and not str(path).startswith("/vsi")
    archives = any(part.lower().endswith(_ARCHIVES) for part in folders)
    return plain_root and not archives and all(_PLAIN_PART.fullmatch(part) for part in parts)


def _is_long(path: Path) -> bool:
    return len(os.fsencode(path)) > _LONGEST_PATH


@contextmanager
def _plain_folder() -> Iterator[Path]:
    """Yield a temporary folder with a plain path; the folder is deleted at the end."""
    places = (Path(place).absolute() for place in (tempfile.gettempdir(), "/tmp", "/var/tmp", Path.home()))
    usable = (place for place in places if _is_plain(place) and not _is_long(place) and os.access(place, os.W_OK))
    if (place := next(usable, None)) is None:
        raise OutputError(f"{tempfile.gettempdir()}: no folder of a plain name for temporary files; set TMPDIR to one")
    with tempfile.TemporaryDirectory(prefix="floodmap-", dir=place, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _aliased(path: Path, folder: Path) -> Path:
    """Link a file and the sidecars (files of the same stem) into a folder, under plain names; return the new path."""
    ending = next((double for double in _DOUBLE_SUFFIXES if path.name.lower().endswith(double)), path.suffix)
    ending = ending if _PLAIN_PART.fullmatch(ending) else ""
    stem = path.name[: len(path.name) - len(ending)]
    target = folder / f"{_ALIAS}{ending}"
    _link(path, target)
    with suppress(OSError):  # a file may be readable although the folder cannot be listed
        for beside in path.parent.iterdir():
            rest = beside.name.removeprefix(stem)
            if beside.name.startswith(f"{stem}.") and beside.is_file() and _PLAIN_PART.fullmatch(rest):
                _link(beside, folder / f"{_ALIAS}{rest}")
    return target


def _link(source: Path, target: Path) -> None:
    """Make a file or folder available under another path: by a symbolic link, a hard link or a copy."""
    if os.path.lexists(target):
        return
    if not _is_long(source):
        with suppress(OSError, NotImplementedError):
            target.symlink_to(source, target_is_directory=source.is_dir())
            return
    if source.is_dir():
        shutil.copytree(source, target)
        return
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)
