"""File names for libraries that would interpret parts of a name as an address or as an option.

pyogrio splits a name at `!`, ignores all text after `;` or a line break, and opens names ending in .zip as archives.
GDAL has its own syntax of names (`/vsi...`, `GPKG:...`, `{...}`). SQLite does not accept paths of more than 512 bytes.
For this reason only plain paths are passed to the three libraries. A plain path is absolute, has no folder with the
suffix of an archive, and contains only letters, digits, spaces and the characters `_.,+=@~()-`. A file with another
path is opened through an alias: a link or a copy in a temporary folder, with a plain path.
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
"""Longest path, in bytes, of a folder into which SQLite writes, and of the target of a symbolic link.

It is below SQLite's limit of 512 bytes, because the name of the file and suffixes of SQLite, such as `-journal`, are
appended to the path. The limit applies to targets of links, because SQLite replaces a link by its target."""
_SIDECAR_ON_READ = (".gml",)
"""Suffixes of formats for which GDAL writes a sidecar (a second file with the same stem) while reading.

Files of these formats are always read through an alias, so that the sidecar is not written beside the file.
"""
_DOUBLE_SUFFIXES = (".gpkg.zip", ".shp.zip", ".gdb.zip")
"""File name endings that consist of two suffixes. An alias must keep both, because GDAL treats the two as one."""
_GDAL_NAME = re.compile(r"/vsi[a-z0-9_]+/|[A-Za-z][A-Za-z0-9_+.-]+:", re.IGNORECASE)
_ALIAS = "0"


def local_or_gdal(name: Path | str) -> Path | str:
    """Return a name as a `Path`, or unchanged if only GDAL can open the name.

    Examples of names that only GDAL can open are `/vsizip/...`, `https://...` and `NETCDF:"x.nc":y`. A `Path` would
    replace the two slashes of `https://` by a single slash.
    """
    return name if has_gdal_name(name) else Path(name)


def has_gdal_name(name: Path | str) -> bool:
    """Return whether only GDAL can open a name.

    The result is True if the name begins with `/vsi.../` or `word:`, and no local file or folder has this name.
    """
    return _GDAL_NAME.match(str(name)) is not None and not os.path.lexists(name)


def is_there(name: Path | str) -> bool:
    """Return whether a file or folder exists. A name that only GDAL can open is not tested: the result is True."""
    return has_gdal_name(name) or os.path.exists(name)


def refuse_unreadable(*names: Path | str) -> None:
    """Raise OutputError if a path is not valid UTF-8, because no output format can store such a path.

    Args:
        names: files and folders. The absolute paths are checked, with the names of all parent folders.
    """
    for name in names:
        try:
            os.fsencode(name if has_gdal_name(name) else Path(name).absolute()).decode("utf-8")
        except UnicodeDecodeError:
            shown = os.fsencode(name).decode("utf-8", "replace")
            raise OutputError(f"{shown}: the name, or that of a folder above, is not UTF-8; rename it first") from None


@contextmanager
def readable(name: Path | str) -> Iterator[str]:
    """Context manager: yield a name for pyogrio that opens exactly the given file or folder.

    The sidecars of the file (.dbf, .prj, ...) are available under the yielded name, too.

    Args:
        name: a file, a .gdb folder, or a name that only GDAL can open. A name that only GDAL can open is yielded
            unchanged.

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
    """Context manager: yield a folder with a plain path for files that are to be written into `folder`.

    At the end, all files that were written into the yielded folder are in `folder`.

    Args:
        folder: an existing folder of any name. No file in the folder may have the name of a file that is written.
        however_long: True: accept a path that is too long for SQLite. Use True only if SQLite writes no file in the
            folder.
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
    """Return whether an absolute path is plain, so that GDAL and pyogrio do not parse the path as an address."""
    *folders, _ = parts = path.parts[1:] or ("",)
    plain_root = _ROOT.fullmatch(path.anchor) is not None and not str(path).startswith("/vsi")
    archives = any(part.lower().endswith(_ARCHIVES) for part in folders)
    return plain_root and not archives and all(_PLAIN_PART.fullmatch(part) for part in parts)


def _is_long(path: Path) -> bool:
    return len(os.fsencode(path)) > _LONGEST_PATH


@contextmanager
def _plain_folder() -> Iterator[Path]:
    """Context manager: yield the path of a temporary folder, deleted at the end. `_is_plain` is true of it."""
    places = (Path(place).absolute() for place in (tempfile.gettempdir(), "/tmp", "/var/tmp", Path.home()))
    usable = (place for place in places if _is_plain(place) and not _is_long(place) and os.access(place, os.W_OK))
    if (place := next(usable, None)) is None:
        raise OutputError(
            f"{tempfile.gettempdir()}: no usable folder for temporary files; set TMPDIR to a writable folder with a "
            "short path of letters, digits, . _ -"
        )
    with tempfile.TemporaryDirectory(prefix="floodmap-", dir=place, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _aliased(path: Path, folder: Path) -> Path:
    """Link a file, and the sidecars (files with the same stem), into a folder under plain names.

    Args:
        path: the file.
        folder: the folder for the links.

    Returns:
        Path of the link to the file.
    """
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
