"""Names of files, for libraries that read more into a name: whatever a file is called, that one is opened or written.

pyogrio takes a name for an address: it splits at `!`, drops what follows `;` and line breaks, and opens what ends in
.zip as an archive. GDAL has names of its own (`/vsi...`, `GPKG:...`, `{...}`), and SQLite takes no path of more than
512 bytes. So each gets a plain name that leads to the file: its own if that is plain, else one in a temporary folder.
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

_PART = re.compile(r"[\w .,+=@~()-]+")
_ROOT = re.compile(r"[A-Za-z]:[\\/]|/(?!/|vsi)")
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar")
_LONGEST = 400
"""Bytes of a path that SQLite surely takes, with the names of its journals: its limit is 512."""
_WRITTEN_BESIDE = (".gml",)
"""GDAL puts a file beside these when it reads them: they are always read under another name, elsewhere."""
_DOUBLE = (".gpkg.zip", ".shp.zip", ".gdb.zip")
"""Endings that mean something together."""
_GDAL_NAME = re.compile(r"/vsi[a-z0-9_]+/|[A-Za-z][A-Za-z0-9_+.-]+:", re.IGNORECASE)
_STAND_IN = "0"


def local_or_gdal(name: Path | str) -> Path | str:
    """A given name as a path, unless only GDAL can know it: `/vsizip/...`, `https://...`, `NETCDF:"x.nc":y`.

    A `Path` would change those (two slashes become one), so they stay text.
    """
    return name if has_gdal_name(name) else Path(name)


def has_gdal_name(name: Path | str) -> bool:
    """Whether a name is no file or folder here, but may be something that GDAL opens."""
    return _GDAL_NAME.match(str(name)) is not None and not os.path.lexists(name)


def is_there(name: Path | str) -> bool:
    """Whether something lies under a name; of what only GDAL can know that shows when it is opened."""
    return has_gdal_name(name) or os.path.exists(name)


def refuse_unreadable(*names: Path | str) -> None:
    """Raise OutputError for a path that is not text (bytes that are no UTF-8): no format could hold it.

    Args:
        names: files and folders; those above them count too.
    """
    for name in names:
        try:
            os.fsencode(name if has_gdal_name(name) else Path(name).absolute()).decode("utf-8")
        except UnicodeDecodeError:
            shown = os.fsencode(name).decode("utf-8", "replace")
            raise OutputError(f"{shown}: the name, or that of a folder above, is not UTF-8; rename it first") from None


@contextmanager
def readable(name: Path | str) -> Iterator[str]:
    """A name under which pyogrio opens this file or folder and no other, with what belongs to it (.dbf, .prj, ...).

    Args:
        name: a file, a .gdb folder, or a name that only GDAL knows, which stays as it is.

    Raises:
        VectorError: there is no such file.
    """
    if has_gdal_name(name):
        yield str(name)
        return
    path = Path(name).absolute()
    if not path.exists():
        raise VectorError(f"{name}: no such file")
    if _is_plain(path) and path.suffix.lower() not in _WRITTEN_BESIDE:
        yield str(path)
        return
    with _plain_folder() as folder:
        yield str(_stand_in(path, folder))


@contextmanager
def writable(folder: Path, *, however_long: bool = False) -> Iterator[Path]:
    """A plain path to an existing folder: what is written under it lies in the folder when the context is left.

    Args:
        folder: whatever it is called; nothing in it may be called as what is written.
        however_long: its path may be too long for SQLite, which does not write there.
    """
    whole = folder.absolute()
    short = however_long or not _is_long(whole)
    if short and _is_plain(whole):
        yield whole
        return
    with _plain_folder() as place:
        door = place / _STAND_IN
        if short:
            with suppress(OSError, NotImplementedError):  # not every system, and not every user, makes links
                door.symlink_to(whole, target_is_directory=True)
        if door.is_symlink():
            yield door
            return
        yield place
        for part in place.iterdir():
            shutil.copyfile(part, whole / part.name)


def _is_plain(path: Path) -> bool:
    """Whether nobody reads more into an absolute path than where a file is."""
    *folders, _ = parts = path.parts[1:] or ("",)
    plain_root = _ROOT.fullmatch(path.anchor) is not None and not str(path).startswith("/vsi")
    archives = any(part.lower().endswith(_ARCHIVES) for part in folders)
    return plain_root and not archives and all(_PART.fullmatch(part) for part in parts)


def _is_long(path: Path) -> bool:
    return len(os.fsencode(path)) > _LONGEST


@contextmanager
def _plain_folder() -> Iterator[Path]:
    """A temporary folder with a plain path."""
    places = (Path(place).absolute() for place in (tempfile.gettempdir(), "/tmp", "/var/tmp", Path.home()))
    usable = (place for place in places if _is_plain(place) and not _is_long(place) and os.access(place, os.W_OK))
    if (place := next(usable, None)) is None:
        raise OutputError(f"{tempfile.gettempdir()}: no folder of a plain name for temporary files; set TMPDIR to one")
    with tempfile.TemporaryDirectory(prefix="floodmap-", dir=place, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _stand_in(path: Path, folder: Path) -> Path:
    """Make a file, and what shares its stem, appear in a folder under a plain name."""
    ending = next((double for double in _DOUBLE if path.name.lower().endswith(double)), path.suffix)
    ending = ending if _PART.fullmatch(ending) else ""
    stem = path.name[: len(path.name) - len(ending)]
    target = folder / f"{_STAND_IN}{ending}"
    _link(path, target)
    with suppress(OSError):  # a folder may be closed to those who may read a file in it
        for beside in path.parent.iterdir():
            rest = beside.name.removeprefix(stem)
            if beside.name.startswith(f"{stem}.") and beside.is_file() and _PART.fullmatch(rest):
                _link(beside, folder / f"{_STAND_IN}{rest}")
    return target


def _link(source: Path, target: Path) -> None:
    """Make a file or folder appear under another name, as cheaply as the system allows."""
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
