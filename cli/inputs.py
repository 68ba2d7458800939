"""Which scenes the arguments of `floodmap segment` mean, and what each one's results are called."""

from __future__ import annotations

import glob
import logging
import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from floodmap.errors import FloodmapError, SceneError

log = logging.getLogger("floodmap")

RASTER_SUFFIXES = frozenset({".tif", ".tiff", ".jpg", ".jpeg", ".png", ".jp2", ".vrt", ".img", ".ecw", ".sid", ".webp"})
"""What is taken from a folder; a file that is named itself may have any suffix."""


def find_scenes(arguments: Sequence[str], out: Path) -> list[tuple[str, Path]]:
    """Names and files of the scenes, in order, each once.

    Args:
        arguments: files, folders (not searched further down) and patterns.
        out: the output folder; where it lies below a folder that a pattern searches, nothing inside it is a scene.

    Raises:
        SceneError: an argument matches nothing, or two scenes cannot be told apart by name.
    """
    paths: dict[Path, Path] = {}
    for argument in arguments:
        for path in _expand(argument, out):
            paths.setdefault(path.resolve(), path)
    if not paths:
        raise SceneError(f"no scene to segment in {', '.join(arguments)}: only floodmap's own results are there")
    return _named(list(paths.values()))


def _expand(argument: str, out: Path) -> list[Path]:
    if not argument:  # an unset variable in quotes; to Path it is the current folder
        raise SceneError("the name of a scene is empty")
    path = Path(argument)
    if path.is_dir():
        listed = sorted(p for p in path.iterdir() if p.is_file() and p.suffix.lower() in RASTER_SUFFIXES)
        if not listed:
            raise SceneError(f"{argument}: no raster in this folder (looked for {' '.join(sorted(RASTER_SUFFIXES))})")
    elif path.exists() or not glob.has_magic(argument):
        # What does not exist is left to the reader: GDAL opens more than files (/vsicurl/, /vsizip/, NETCDF:"x":y).
        return [] if _is_result(path, explicit=True) else [path]
    else:
        listed = sorted(p for p in map(Path, glob.glob(argument, recursive=True)) if p.is_file())
        if not listed:
            raise SceneError(f"{argument}: no file matches")
    root, inside = _root(argument), out.resolve()
    stems = {p.stem for p in listed}
    return [
        p for p in listed
        if root not in inside.parents or not p.resolve().is_relative_to(inside)
        if not (p.stem.endswith("_reference") and p.stem.removesuffix("_reference") in stems)
        if not _is_result(p, explicit=False)
    ]  # fmt: skip


def _root(argument: str) -> Path:
    """The folder that a folder or pattern begins in."""
    path = Path(argument)
    plain = next(parent for parent in (path, *path.parents) if not glob.has_magic(str(parent)))
    return plain.resolve()


def _is_result(path: Path, *, explicit: bool) -> bool:
    """Whether a file is a mask or probability raster that floodmap wrote."""
    if not path.stem.endswith(("_mask", "_probability")) or path.suffix.lower() != ".tif" or not path.is_file():
        return False
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    try:
        with rasterio.Env(GDAL_PAM_ENABLED="NO"), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as dataset:
                ours = dataset.tags().get("TIFFTAG_SOFTWARE", "").startswith("floodmap")
    except RasterioError:
        return False
    if ours and explicit:
        log.warning("%s is a result of floodmap, not a scene; left out", path)
    return bool(ours)


def _named(paths: Sequence[Path]) -> list[tuple[str, Path]]:
    """Results are named after the file; where two files share a name, after its folder or its suffix too."""
    for name_of in (
        lambda p: p.stem,
        lambda p: f"{p.resolve().parent.name}_{p.stem}",
        lambda p: p.name.replace(".", "_"),
    ):
        groups: dict[str, list[Path]] = defaultdict(list)
        for path in paths:
            groups[_base(path, paths, name_of).casefold()].append(path)  # some file systems ignore case
        if all(len(group) == 1 for group in groups.values()):
            return [(_base(path, paths, name_of), path) for path in paths]
    doubled = next(group for group in groups.values() if len(group) > 1)
    raise FloodmapError(f"{doubled[0]} and {doubled[1]} would write to the same files; give each its own output folder")


def _base(path: Path, paths: Sequence[Path], name_of: object) -> str:
    alone = sum(p.stem.casefold() == path.stem.casefold() for p in paths) == 1
    return path.stem if alone else name_of(path)  # type: ignore[operator]
