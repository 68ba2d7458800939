"""Files of a comparison of two dates: raster of classes, polygons and JSON report."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from floodmap._runtime.versions import version
from floodmap.analysis.change_classes import CHANGES, CLASSES, REASONS, change_kinds
from floodmap.errors import OutputError, writing
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.names import refuse_unreadable
from floodmap.geo.source_name import SourceName
from floodmap.masks.pairing import scene_name
from floodmap.options import FORMATS, Format
from floodmap.output.cog import write_classes
from floodmap.output.results import (
    check_disk,
    output_folder,
    read_layer,
    read_raster,
    refuse_existing,
    refuse_inputs,
    refuse_long_names,
    write_report,
)
from floodmap.output.vector_files import PARTS, write_layers
from floodmap.strips.stored import StoredStrips

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

log = logging.getLogger(__name__)

Strips = Iterable[tuple[int, NDArray[np.uint8]]]
_END = "change"
_LAYERS = ("change", "unobserved")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The changes between two dates, as files on disk."""

    name: str
    """Name with which the names of all files begin."""
    raster_path: Path
    """Classes, a uint8 GeoTIFF: 0 dry, 1 newly flooded, 2 receded, 3 unchanged water, 255 unobserved on either date."""
    layer_paths: tuple[Path, ...]
    """Vector files, in the order of the formats. A GeoPackage holds both layers. In any other format, the file of the
    layer `change` precedes that of the layer `unobserved`."""
    report_path: Path
    """JSON report."""
    report: dict[str, Any]
    """Content of the JSON report: pixels, areas, both sides, settings, versions."""

    @property
    def failed_windows(self) -> int:
        """Number of windows that failed when this run segmented scenes; their pixels are unobserved."""
        sides = (self.report[role] for role in ("before", "after"))
        return sum(side["failed_windows"] or 0 for side in sides if side["segmented"])

    def polygons(self) -> GeoDataFrame:
        """Read the layer `change` from the first vector file: one polygon a row, with the field `change`."""
        return read_layer(self.layer_paths[0], "change")

    def classes(self) -> NDArray[np.uint8]:
        """Read the classes, uint8 (height, width)."""
        return read_raster(self.raster_path)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeFiles:
    """The files that a comparison writes."""

    out: Path
    """Folder; created if it is missing."""
    name: str
    """First part of the names."""
    formats: tuple[Format, ...]
    """Vector formats."""
    overwrite: bool = False
    """True: replace files that exist."""

    @classmethod
    def of(
        cls, out: Path, name: str | None, after: object, formats: tuple[Format, ...], *, overwrite: bool
    ) -> ChangeFiles:
        """Return the files of a comparison.

        Args:
            out: folder.
            name: first part of the names; None: the name of the side `after`.
            after: that side, as the user gave it.
            formats: vector formats.
            overwrite: True: replace files that exist.

        Raises:
            OutputError: the name is no name for files.
        """
        if name is None:
            is_path = isinstance(after, str | os.PathLike)
            source = SourceName.of(after) if isinstance(after, str | os.PathLike) else None
            name = scene_name(Path(source.stem + ".tif")) if source and is_path else "after"
        if name in ("", ".", "..") or Path(name).name != name:
            raise OutputError(f"{name!r} is no name for files; give one without folders")
        return cls(out=out, name=name, formats=formats, overwrite=overwrite)

    @property
    def raster(self) -> Path:
        """The raster of classes."""
        return self.out / f"{self.name}_{_END}.tif"

    @property
    def report(self) -> Path:
        """The JSON report, which is written last."""
        return self.raster.with_suffix(".json")

    def vectors(self, formats: Iterable[str] | None = None) -> list[Path]:
        """Return the vector files of these formats; None: of the formats of the run."""
        paths = []
        for suffix in self.formats if formats is None else formats:
            layers = [""] if suffix == "gpkg" else [f"_{layer}" for layer in _LAYERS]
            paths += [self.out / f"{self.name}_{_END}{layer}.{suffix}" for layer in layers]
        return paths

    def refuse(self, inputs: Collection[Path] = ()) -> None:
        """Check that the files can be written.

        Args:
            inputs: files that the run reads.

        Raises:
            OutputError: a file exists already or is an input, or a name cannot be used.
        """
        refuse_unreadable(self.out)
        results = [self.raster, self.report, *self.vectors()]
        parts = [path.with_suffix(part) for path in self.vectors() for part in PARTS.get(path.suffix[1:], ())]
        every = [*results, self.raster.with_suffix(".qml"), *parts]
        refuse_long_names(every)
        refuse_inputs(every, inputs)
        if not self.overwrite:
            refuse_existing(every)

    def write(
        self,
        strips: Strips,
        grid: GeoGrid,
        report: Callable[[dict[str, Any]], dict[str, Any]],
        *,
        date: datetime,
        min_area_m2: float,
        simplify_m: float,
        labels: tuple[str, str],
    ) -> Change:
        """Write all files; they appear together, the JSON report last.

        Args:
            strips: first row and codes, uint8 (rows, width), of each strip; see `change_classes.change_of`.
            grid: grid of the pixels.
            report: function from the numbers of polygons to the content of the JSON report.
            date: time of the last change in vector files.
            min_area_m2: smaller polygons of the layer `change` are dropped.
            simplify_m: tolerance of the outlines.
            labels: names of both sides, for the tags of the raster.

        Raises:
            OutputError: a file cannot be written.
        """
        tags = {"TIFFTAG_SOFTWARE": f"floodmap {version('floodmap')}", "before": labels[0], "after": labels[1]}
        with output_folder(self.out), writing(self.out):
            check_disk(self.out, grid.width * grid.height)
            with tempfile.TemporaryDirectory(prefix=".change-", dir=self.out) as folder:
                stored, done = StoredStrips.of(strips, Path(folder) / "strips"), Path(folder) / "done"
                with ThreadPoolExecutor(1, thread_name_prefix="raster") as executor:
                    raster = executor.submit(
                        write_classes, stored.strips(), done, self.name, _END, classes=CLASSES, style="change_raster",
                        grid=grid, tags=tags,
                    )  # fmt: skip

                    def strips_and_raster() -> Strips:
                        """Yield the strips, then wait for the raster: polygons are simplified next, in much memory."""
                        yield from stored.strips()
                        raster.result()

                    layers = change_layers(
                        strips_and_raster, grid, min_area_m2=min_area_m2, simplify_m=simplify_m, source=self.name
                    )
                write_layers(layers, done, f"{self.name}_{_END}", self.formats, date=date)
                summary = report(_row_counts(layers))
                write_report(done / self.report.name, summary)
                self._move(done)
        for stale in self.vectors(FORMATS):
            if stale.exists() and stale not in self.vectors():
                log.warning("%s is left from an earlier run and does not match the new results; delete it", stale)
        return Change(
            name=self.name, raster_path=self.raster, layer_paths=tuple(self.vectors()), report_path=self.report,
            report=summary,
        )  # fmt: skip

    def _move(self, done: Path) -> None:
        """Move the finished files to the output folder."""
        self.report.unlink(missing_ok=True)  # it marks the other files as complete, and they are about to change
        for path in sorted(done.iterdir(), key=lambda path: (path.name == self.report.name, path.suffix == ".shp")):
            path.replace(self.out / path.name)


def change_layers(
    strips: Callable[[], Strips], grid: GeoGrid, *, min_area_m2: float, simplify_m: float, source: str
) -> dict[str, GeoDataFrame]:
    """Return the layers `change` and `unobserved` as tables of polygons, from the top of the grid down.

    All polygons keep their common borders. Polygons of unobserved ground are never dropped.

    Args:
        strips: function that returns first row and codes of each strip; see `change_classes.change_of`.
        grid: grid of the pixels.
        min_area_m2: smaller polygons of the layer `change` are dropped.
        simplify_m: tolerance of the outlines.
        source: name of the comparison, for messages.
    """
    from floodmap.output.polygons import outlined, table

    components, measures = outlined(
        strips, kinds=change_kinds(), of_water=tuple(CHANGES), grid=grid, min_area_m2=min_area_m2,
        simplify_m=simplify_m, source=source,
    )  # fmt: skip
    names = {**CHANGES, **REASONS}
    texts = np.array([names.get(code, "") for code in range(256)], object)[components.kind]
    water = np.isin(components.kind, tuple(CHANGES))
    return {
        "change": table({"change": texts, **measures}, components, water, grid.crs),
        "unobserved": table({"reason": texts, **measures}, components, ~water, grid.crs),
    }


def _row_counts(layers: Mapping[str, GeoDataFrame]) -> dict[str, Any]:
    """Return the numbers of polygons by class, and of unobserved ground, for the JSON report."""
    rows = layers["change"]["change"].value_counts()
    changes = {name.replace(" ", "_"): int(rows.get(name, 0)) for name in CHANGES.values()}
    return {**changes, "unobserved": len(layers["unobserved"])}
