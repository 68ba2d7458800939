"""File with a STAC item of each scene of a run, in the format stac-geoparquet."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from floodmap._runtime.extras import require
from floodmap._runtime.files import atomic_path
from floodmap.catalogue.rows import SceneRow
from floodmap.errors import OutputError, VectorError, writing
from floodmap.output.products.stac_item import outline_of, stac_item

log = logging.getLogger(__name__)

_METADATA = b"stac-geoparquet"
"""Key in the metadata of a Parquet file that marks the file as stac-geoparquet."""


def check_items_file(path: Path, *, overwrite: bool, resume: bool, others: Collection[Path]) -> None:
    """Check, before a run begins, that a file of STAC items can be written.

    Args:
        path: the file, with the suffix .parquet.
        overwrite: True: an existing file is replaced.
        resume: True: an existing file is replaced if it is a file of STAC items.
        others: files that the run reads or writes.

    Raises:
        OutputError: the suffix is another one, the folder is missing, the file exists and is not replaced, or it is one
            of `others`.
        MissingPackageError: stac-geoparquet is not installed.
    """
    if path.suffix != ".parquet":
        raise OutputError(f"{path}: STAC items are written as stac-geoparquet; give a name ending in .parquet")
    require("stac_geoparquet", f"the file of STAC items {path}")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"{path} cannot be written: its folder does not exist; create it first")
    if path.absolute() in {other.absolute() for other in others}:
        raise OutputError(f"{path} is another file of this run; give the file of STAC items another name")
    if path.is_dir():
        raise OutputError(f"{path} is a folder; give the file of STAC items another name")
    if not path.exists() or overwrite:
        return
    if not resume:
        raise OutputError(f"{path} exists already; replace it with --overwrite, continue the run with --resume, or "
                          "give the file of STAC items another name")  # fmt: skip
    if not _has_items(path):
        raise OutputError(f"{path} exists already and has no STAC items; replace it with --overwrite, or give the file "
                          "of STAC items another name")  # fmt: skip


def write_items(rows: Sequence[SceneRow], path: Path) -> int:
    """Write a STAC item of each scene that is done and has a CRS; other scenes are left out.

    If there is no such scene, nothing is written.

    Args:
        rows: the row of each scene of a run.
        path: the file; see `check_items_file`. Paths in the items are relative to its folder.

    Returns:
        The number of items.

    Raises:
        OutputError: the file cannot be written.
    """
    from stac_geoparquet.arrow import parse_stac_items_to_arrow, to_parquet

    items = list(_items(rows, path.parent))
    if not items:
        log.warning("%s is not written: no scene with a CRS is done", path)
        return 0
    with writing(path), atomic_path(path) as partial:
        to_parquet(parse_stac_items_to_arrow(items), partial)
    return len(items)


def _items(rows: Sequence[SceneRow], folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the items of the scenes that are done and have a place; the reason for each other scene is logged."""
    for row in rows:
        if row.outline is None or not (row.mask_path and row.probability_path and row.report_path):
            log.info("%s has no STAC item: it failed or has no CRS", row.name)
            continue
        try:
            report = json.loads(row.report_path.read_text("utf-8"))
            yield stac_item(
                report, outline_of(report), mask=row.mask_path, probability=row.probability_path,
                layers=row.layer_paths, report_path=row.report_path, folder=folder,
            )  # fmt: skip
        except (VectorError, OSError, ValueError) as error:
            log.error("%s has no STAC item: %s", row.name, " ".join(str(error).split()))


def _has_items(path: Path) -> bool:
    """Return whether a file is stac-geoparquet."""
    import pyarrow as pa
    from pyarrow import parquet

    with suppress(pa.ArrowException, OSError), path.open("rb") as stream:
        return _METADATA in (parquet.read_schema(stream).metadata or {})
    return False
