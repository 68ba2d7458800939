"""Files of an exposure: which are written, checks before the work, and writing all of them or none."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from floodmap._runtime.extras import require
from floodmap.analysis.exposure.buildings import Buildings
from floodmap.analysis.exposure.districts import Districts
from floodmap.analysis.exposure.layers import write_layers
from floodmap.analysis.exposure.page import write_exposure_page
from floodmap.analysis.exposure.result import Result
from floodmap.analysis.exposure.tables import WRITERS
from floodmap.errors import FloodmapError, OutputError
from floodmap.output.results import refuse_inputs

SUFFIXES = (".xlsx", ".csv", ".gpkg", ".json")
"""Suffixes of tables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Files to write."""

    tables: tuple[Path, ...]
    """Tables, each with one of `SUFFIXES`."""
    page: Path | None
    """HTML report; None: there is none."""

    @property
    def all(self) -> tuple[Path, ...]:
        """All files."""
        return (*self.tables, *([] if self.page is None else [self.page]))


def targets_of(
    out: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], result: Result, *, report: bool
) -> Targets:
    """Return the files to write; the HTML report is beside the first table, else beside the result."""
    tables = tuple(map(Path, [out] if isinstance(out, str | os.PathLike) else out))
    folder = (tables[0] if tables else result.probability).parent
    return Targets(tables=tables, page=folder / f"{result.name}_exposure.html" if report else None)


def check_targets(targets: Targets, inputs: Collection[Path | str], *, overwrite: bool) -> None:
    """Check, before the work, that the files can be written.

    Args:
        targets: the files.
        inputs: files that are read, and must not be replaced.
        overwrite: True: files may exist.

    Raises:
        OutputError: a file exists already, is an input, or its suffix is unknown.
        MissingPackageError: a package for a table is not installed.
    """
    for path in targets.tables:
        if path.suffix.lower() not in SUFFIXES:
            raise OutputError(f"{path}: the suffix must be one of {', '.join(SUFFIXES)}")
        if path.suffix.lower() == ".xlsx":
            require("xlsxwriter", f"a workbook ({path})")
    if len(set(targets.all)) < len(targets.all):
        raise OutputError(f"two tables have one name: {', '.join(map(str, targets.all))}")
    refuse_inputs(targets.all, inputs)
    for path in targets.all:
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists already; replace it with --overwrite, or choose another name")


def write_all(
    targets: Targets, report: dict[str, Any], districts: Districts, buildings: Buildings | None, result: Result
) -> None:
    """Write all files to temporary folders, then move them. If one cannot be written, none is moved.

    Raises:
        OutputError: a file cannot be written.
    """

    def write(path: Path) -> None:
        if path.suffix == ".gpkg":
            write_layers(path, report["districts"], districts, buildings, result.grid, _date(result))
        elif path.suffix == ".html":
            write_exposure_page(path, report, districts, result.grid)
        else:
            WRITERS[path.suffix](path, report)

    with ExitStack() as stack:
        ready: list[tuple[Path, Path]] = []
        for number, path in enumerate(targets.all):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=".exposure-", dir=path.parent))
                part = Path(folder) / f"{number}{path.suffix.lower()}"
                write(part)
            except FloodmapError:
                raise
            except Exception as error:  # pyogrio, pandas and xlsxwriter raise exceptions of many classes
                raise OutputError(f"{path} cannot be written: {' '.join(str(error).split())}") from error
            ready.append((part, path))
        for part, path in ready:
            part.replace(path)


def _date(result: Result) -> datetime:
    """Return the date of the scene, in UTC; that of the probability raster if it is unknown."""
    known = result.summary.get("source", {}).get("date")
    if known:
        date = datetime.fromisoformat(known)
        return date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
    return datetime.fromtimestamp(result.probability.stat().st_mtime, UTC)
