"""Writing of a catalogue: all polygons of all scenes, scene by scene, and a row for each scene."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import filelock
import numpy as np
import shapely

from floodmap._runtime.extras import require
from floodmap.catalogue.features import Features, read_features
from floodmap.catalogue.rows import SceneRow, common_crs, latest_date
from floodmap.catalogue.schema import POLYGON_LAYERS, SCENES, Layer
from floodmap.catalogue.tables import TABLES, Tables, names_of, style_names_of
from floodmap.errors import FloodmapError, OutputError, VectorError, writing
from floodmap.geo.crs import known_crs
from floodmap.geo.vectors import reprojected

log = logging.getLogger(__name__)

_BATCH_VERTICES = 2**18
"""Number of vertices of polygons that are collected before they are written: about 20 MB. One write of the polygons of
many small scenes takes a fraction of the time of a write for each scene."""
_ROWS = 1000
"""Number of rows of scenes that are written together."""


def check_target(path: Path, *, overwrite: bool, resume: bool, others: Collection[Path]) -> None:
    """Check, before a run begins, that a catalogue can be written.

    Args:
        path: the catalogue, with the suffix .gpkg or .parquet.
        overwrite: True: existing files are replaced.
        resume: True: existing files are replaced if they are files of a catalogue.
        others: files that the run reads or writes.

    Raises:
        OutputError: the format is unknown, the folder is missing, a file exists and is not replaced, or it is one of
            `others`.
        MissingPackageError: the format is GeoParquet, and pyarrow is not installed.
    """
    if path.suffix not in TABLES:
        raise OutputError(f"{path}: a catalogue is a GeoPackage or GeoParquet; give a name ending in .gpkg or .parquet")
    if path.suffix == ".parquet":
        require("pyarrow", f"the catalogue {path}")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"{path} cannot be written: its folder does not exist; create it first")
    taken = {other.absolute() for other in others}
    for file in [*files_of(path), *_styles_of(path)]:
        if file.absolute() in taken:
            raise OutputError(f"{file} is a file of a scene or an input of this run; give the catalogue another name")
        if file.is_dir():
            raise OutputError(f"{file} is a folder; give the catalogue another name")
        if not file.exists() or overwrite:
            continue
        if not resume:
            raise OutputError(f"{file} exists already; replace it with --overwrite, continue the run with --resume, "
                              "or give the catalogue another name")  # fmt: skip
        if not TABLES[path.suffix].wrote(file, path.stem):
            raise OutputError(f"{file} exists already and is no catalogue of floodmap; replace it with --overwrite, or "
                              "give the catalogue another name")  # fmt: skip


def files_of(path: Path) -> list[Path]:
    """Return the files of a catalogue with layers; the file with the rows of the scenes is the last."""
    return list(dict.fromkeys(path.with_name(name) for name in names_of(path.stem, path.suffix).values()))


def _styles_of(path: Path) -> list[Path]:
    """Return the style files beside the files of a catalogue."""
    return [path.with_name(name) for name in style_names_of(path.stem, path.suffix).values()]


@contextmanager
def work_folder(path: Path) -> Iterator[Path]:
    """Context manager: lock a catalogue against other runs, and yield a folder for its unfinished files.

    The folder is beside the catalogue, and is deleted at the end. What a killed run left in it is deleted first.

    Raises:
        OutputError: another run writes this catalogue, or the folder cannot be created.
    """
    folder = path.with_name(f".{path.name}.catalogue")
    lock = filelock.FileLock(folder / "lock", timeout=0)
    with writing(path):
        folder.mkdir(exist_ok=True)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise OutputError(f"{path}: another floodmap run writes this catalogue; wait for it") from None
    try:
        with writing(path):
            for file in folder.iterdir():
                if file.name != "lock":
                    file.unlink()
        yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def write_catalogue(
    rows: Sequence[SceneRow], path: Path, folder: Path
) -> tuple[tuple[SceneRow, ...], tuple[Path, ...]]:
    """Write a catalogue. Its files appear when all of them are complete.

    The file with the rows of the scenes is the last. If a run is killed while it replaces several files, this file is
    missing, and `--resume` writes all files again.

    Polygons are read scene by scene from the files of the scenes. Of all scenes, only the rows are in memory.

    Args:
        rows: the row of each scene. Scenes that failed or have no CRS have a row, but no polygons in the catalogue.
        path: the catalogue; see `check_target`.
        folder: folder for unfinished files; see `work_folder`.

    Returns:
        The rows as they are in the catalogue: a scene whose polygons cannot be read is `failed`. And the paths of the
        files; the file with the rows of the scenes is the last.

    Raises:
        OutputError: a file cannot be written.
    """
    crs = common_crs(rows)
    try:
        with ExitStack() as stack:
            tables: Tables = TABLES[path.suffix](folder, path.stem, crs, latest_date(rows), stack)
            errors: dict[str, str] = {}
            for layer in POLYGON_LAYERS:
                errors = _append_polygons(tables, layer, rows, crs) | errors
            rows = tuple(row.without_polygons(errors[row.name]) if row.name in errors else row for row in rows)
            for first in range(0, len(rows), _ROWS):
                _append_rows(tables, rows[first : first + _ROWS], crs, path.parent)
            names = tables.close()
        if len(names) > 1:  # the file with the rows marks the others as complete, and they are about to change
            path.unlink(missing_ok=True)
        for temporary, name in names.items():
            (folder / temporary).replace(path.with_name(name))
    except FloodmapError:
        raise
    except Exception as error:  # pyogrio and pyarrow raise exceptions of many classes
        raise OutputError(f"{path} cannot be written: {' '.join(str(error).split())}") from error
    return tuple(rows), tuple(files_of(path))


def _append_polygons(tables: Tables, layer: Layer, rows: Iterable[SceneRow], crs: str) -> dict[str, str]:
    """Append the polygons of one layer of all scenes, some scenes at a time.

    Returns:
        Error message, one line, by name of each scene whose polygons cannot be read.
    """
    batch, vertices, errors = list[Features](), 0, dict[str, str]()
    for row in rows:
        if not row.has_place:
            continue
        try:
            features = read_features(row, layer, crs)
        except VectorError as error:
            errors[row.name] = f"the polygons ({layer.name}) are not in the catalogue: {error}"
            log.error("%s: %s", row.name, errors[row.name])
            continue
        batch.append(features)
        vertices += int(shapely.get_num_coordinates(features.geometries).sum())
        if vertices >= _BATCH_VERTICES:
            _append(tables, layer, batch)
            batch, vertices = [], 0
    _append(tables, layer, batch)
    return errors


def _append(tables: Tables, layer: Layer, batch: Sequence[Features]) -> None:
    filled = [one for one in batch if len(one.geometries)]
    if filled:
        columns = {key: np.concatenate([one.columns[key] for one in filled]) for key in layer.columns}
        tables.append(layer, np.concatenate([one.geometries for one in filled]), columns)


def _append_rows(tables: Tables, rows: Sequence[SceneRow], crs: str, folder: Path) -> None:
    values = [row.columns(folder) for row in rows]
    outlines = np.empty(len(rows), object)
    outlines[:] = [_outline(row, crs) for row in rows]
    tables.append(SCENES, outlines, {key: [one[key] for one in values] for key in SCENES.columns})


def _outline(row: SceneRow, crs: str) -> shapely.Geometry | None:
    """Return the outline of a scene in the CRS of the catalogue; None if it has no place there."""
    if row.outline is None:
        return None
    try:
        outline: shapely.Geometry = reprojected(np.array([row.outline], object), known_crs(row.crs), crs, row.name)[0]
    except VectorError as error:
        log.warning("%s has no outline in the catalogue: %s", row.name, error)
        return None
    return outline
