"""Scenes from files, folders, patterns and STAC collections, and a unique name for the results of each scene."""

from __future__ import annotations

import glob
import hashlib
import logging
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import unquote

from floodmap.catalogue.collection import item_addresses
from floodmap.errors import RemoteFileError, SceneError
from floodmap.geo.source_name import SourceName
from floodmap.imagery.raster.stac import scene_of

log = logging.getLogger(__name__)

RASTER_SUFFIXES = frozenset({".tif", ".tiff", ".jpg", ".jpeg", ".png", ".jp2", ".vrt", ".img", ".ecw", ".sid", ".webp"})
"""Suffixes of the files that are used from a folder; a file given by name or by a pattern may have any suffix."""


def find_scenes(arguments: Sequence[str], out: Path) -> list[tuple[str, SourceName]]:
    """Find the scenes of the arguments, and choose a unique name for the results of each scene.

    Args:
        arguments: see `find_sources`.
        out: see `find_sources`.

    Returns:
        A pair for each scene, in the order of the arguments: a unique name, with which the names of the results begin,
        and the path or GDAL name of the scene. A scene that is given twice is returned once.

    Raises:
        SceneError: an argument matches no file, or all matching files are results of floodmap.
    """
    return _named(find_sources(arguments, out))


def find_sources(arguments: Sequence[str], out: Path) -> list[SourceName]:
    """Find the rasters of the arguments.

    Args:
        arguments: files, folders, glob patterns, names that only GDAL can open, and STAC collections or catalogues. Of
            a folder, the rasters directly in the folder are used, not those in subfolders. A pattern with `**` also
            searches subfolders. Of a STAC collection, all linked items are used.
        out: the output folder. If a pattern searches a folder in which the output folder lies, files in the output
            folder are left out. Example: files in `a/out`, if the pattern is `a/**/*.tif`.

    Returns:
        The paths or GDAL names, in the order of the arguments. A raster that is given twice is returned once. Of the
        items of a STAC collection, and of an item that cannot be read, the address is returned; `stac.scene_of` reads
        it. An item that cannot be read is thereby an error of one scene.

    Raises:
        SceneError: there is no argument, an argument matches no file, or all matching files are results of floodmap.
    """
    scenes: dict[Path | str, SourceName] = {}
    for argument in arguments:
        for scene in _expand(argument, out):
            scenes.setdefault(scene.path.resolve() if scene.path else scene.given, scene)
    if not scenes:
        where = f" in {', '.join(arguments)}: only floodmap's own results are there"
        raise SceneError(f"no scene to segment{where if arguments else ': none is given'}")
    return list(scenes.values())


def _expand(argument: str, out: Path) -> list[SourceName]:
    """Return the scenes of one argument, without results of floodmap.

    From folders and patterns, references are left out, too: `x_reference.tif` beside `x.tif`.
    """
    name = SourceName.of(argument)  # refuses empty text (an unset variable), which is the current folder for Path
    path = name.path
    if (addresses := item_addresses(name)) is not None:
        return [SourceName.of(address) for address in addresses]
    if path is None or path.suffix.lower() in (".json", ".geojson"):
        return [_raster_of(name)]
    if path.is_dir():
        listed = sorted(p for p in path.iterdir() if p.is_file() and p.suffix.lower() in RASTER_SUFFIXES)
        if not listed:
            raise SceneError(f"{argument}: no raster in this folder (looked for {' '.join(sorted(RASTER_SUFFIXES))})")
    elif path.exists() or not glob.has_magic(argument):
        return [] if _is_result(path, explicit=True) else [name]
    else:
        listed = sorted(p for p in map(Path, glob.glob(argument, recursive=True)) if p.is_file())
        if not listed:
            raise SceneError(f"{argument}: no file matches")
    root, inside = _root(argument), out.resolve()
    stems = {p.stem for p in listed}
    return [
        SourceName.of(p) for p in listed
        if root not in inside.parents or not p.resolve().is_relative_to(inside)
        if not (p.stem.endswith("_reference") and p.stem.removesuffix("_reference") in stems)
        if not _is_result(p, explicit=False)
    ]  # fmt: skip


def _raster_of(name: SourceName) -> SourceName:
    """Return the raster of a STAC item; the name itself if it is another name, or an item that cannot be read."""
    try:
        return scene_of(name)
    except (SceneError, RemoteFileError):
        return name


def _root(argument: str) -> Path:
    """Return the folder that an argument searches, as an absolute path with symbolic links resolved.

    For a pattern, it is the path before the first name with a glob character. Example: `/home/me/a/b` for the pattern
    `a/b/*/x?.tif`, if the current folder is `/home/me`. A path without glob characters is returned as a whole.
    """
    path = Path(argument)
    plain = next(parent for parent in (path, *path.parents) if not glob.has_magic(str(parent)))
    return plain.resolve()


def _is_result(path: Path, *, explicit: bool) -> bool:
    """Return whether a file is a mask, a probability raster or a raster of changes that floodmap wrote.

    If the user gave this file by its name (`explicit` is True), and it is such a raster, a warning is logged: the file
    is left out. No warning is logged for files that were found in a folder or by a glob pattern (`explicit` is False).
    """
    ends = ("_mask", "_probability", "_change")
    if not path.stem.endswith(ends) or path.suffix.lower() != ".tif" or not path.is_file():
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


def _named(scenes: Sequence[SourceName]) -> list[tuple[str, SourceName]]:
    """Return a pair (unique name of the results, scene) for each scene, in the given order.

    The name is the file name without suffix. Scenes that share this name with another scene get a longer name: the
    first of `_namings` with which all names differ.
    """
    counts = Counter(scene.stem.casefold() for scene in scenes)  # some file systems ignore case
    for name_of in _namings(scenes):
        names = [scene.stem if counts[scene.stem.casefold()] == 1 else name_of(scene) for scene in scenes]
        if len({name.casefold() for name in names}) == len(scenes):
            break
    return list(zip(names, scenes, strict=True))


def _namings(scenes: Sequence[SourceName]) -> Iterator[Callable[[SourceName], str]]:
    """Yield functions that name a scene, in the order in which they are tried.

    - The file name without suffix.
    - With the name of the folder in front, as in `folder_x` for `folder/x.tif`; files only.
    - With the suffix at the end, as in `x_tif`; files only.
    - With the names of one, two and more folders in front, also those of a URL.
    - With a digest of the whole path or URL at the end. The digests of any two scenes differ.
    """
    yield lambda scene: scene.stem
    yield lambda scene: f"{scene.path.resolve().parent.name}_{scene.stem}" if scene.path else scene.stem
    yield lambda scene: scene.label.replace(".", "_") if scene.path else scene.stem
    for count in range(1, max(len(_folders(scene)) for scene in scenes) + 1):
        yield partial(_with_folders, count=count)
    yield lambda scene: f"{scene.stem}_{_digest(scene)}"


def _with_folders(scene: SourceName, count: int) -> str:
    """Return the name of a scene with the names of at most `count` folders in front."""
    return "_".join([*_folders(scene)[-count:], scene.stem])


def _folders(scene: SourceName) -> list[str]:
    """Return the names of the folders that contain a scene, also in a URL; empty for other names of GDAL."""
    if scene.path is not None:
        return [*scene.path.resolve().parent.parts[1:]]
    if scene.given.startswith("<") or not (scene.given.startswith("/vsi") or "://" in scene.given):
        return []
    parts = [unquote(part) for part in re.split(r"[/!]+", str(SourceName(scene.given, None)))[1:-1]]
    return [name for part in parts if (name := re.sub(r"[^\w.-]+", "_", part).strip("_."))]


def _digest(scene: SourceName) -> str:
    name = str(scene.path.resolve()) if scene.path else scene.given
    return hashlib.sha256(name.encode()).hexdigest()[:16]
