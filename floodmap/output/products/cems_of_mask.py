"""Layers in the schema of Copernicus EMS from a mask or probability raster."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from floodmap.errors import OutputError
from floodmap.geo.downloads import local_file
from floodmap.geo.geogrid import GeoGrid
from floodmap.masks.rules import Ignore
from floodmap.options import FloodType
from floodmap.output.polygons import Polygons, vectorize_layers
from floodmap.output.products.cems import AUTOMATIC, Imagery, cems_tables
from floodmap.output.products.cems_files import write_cems_file
from floodmap.output.results import open_result

_ENDS = ("_mask", "_probability")
"""Endings of the names of the rasters of a run, without the suffix."""


def vectorize_cems(
    path: str | Path,
    out: str | Path,
    *,
    flood_value: float | str | None = None,
    threshold: float | None = None,
    ignore_values: Ignore = None,
    min_area_m2: float = 0.0,
    simplify_m: float = 0.0,
    flood_type: FloodType = "unknown",
    overwrite: bool = False,
) -> list[Path]:
    """Trace a mask or probability raster, and write its layers in the schema of Copernicus EMS Rapid Mapping.

    Ground that is not observed is in the layer `notAnalysedA`. Date and method come from the JSON report of floodmap.
    If it is not beside the raster, they are unknown.

    Args:
        path: a raster of one band, in a format that GDAL reads; or the URL of one.
        out: a GeoPackage for all layers, or the file of the layer `observedEventA`, with other files beside it.
        flood_value: see `vectorize`, also for the next four.
        threshold: probability from which a pixel is flood.
        ignore_values: values of unobserved pixels.
        min_area_m2: geodesic area in square metres; smaller polygons are dropped.
        simplify_m: approximate size in metres of the details that are removed from outlines.
        flood_type: kind of flood: riverine, flash, coastal or ice-jam.
        overwrite: True: replace files that exist.

    Returns:
        Paths of the files, the given one first.

    Raises:
        FloodmapError: the raster cannot be traced, has no CRS, or a file cannot be written.
    """
    if Path(out).exists() and not overwrite:
        raise OutputError(f"{out} exists already; choose another name or replace it with overwrite")
    with local_file(path) as file:
        layers = vectorize_layers(
            file, flood_value=flood_value, threshold=threshold, ignore_values=ignore_values, min_area_m2=min_area_m2,
            simplify_m=simplify_m,
        )  # fmt: skip
        return write_cems_of_mask(file, layers, Path(out), flood_type=flood_type, overwrite=overwrite)


def write_cems_of_mask(
    mask: Path, layers: Polygons, out: Path, *, flood_type: FloodType = "unknown", overwrite: bool = False
) -> list[Path]:
    """Write the traced layers of a raster in the schema of Copernicus EMS Rapid Mapping; see `vectorize_cems`.

    Args:
        mask: the raster.
        layers: result of `vectorize_layers` for it.
        out: the file, see `vectorize_cems`.
        flood_type: kind of flood.
        overwrite: True: replace files that exist.
    """
    with open_result(mask) as dataset:
        grid, tags = GeoGrid.of(dataset), dataset.tags()
    name = tags.get("source") or mask.name
    report = _report_beside(mask)
    if report is None:
        imagery = Imagery(name=name, date=None, gsd_m=grid.gsd_m, method=AUTOMATIC if tags.get("model") else None)
    else:
        imagery = Imagery.of(report, name, datetime.fromisoformat(report["source"]["date"]), permanent=False)
    tables = {"flood": layers.flood, "unobserved": layers.unobserved}
    found = cems_tables(tables, grid, imagery, flood_type=flood_type, name=out.stem)
    date = datetime.fromtimestamp(mask.stat().st_mtime, UTC)
    return write_cems_file(found, out, date=date, overwrite=overwrite)


def _report_beside(mask: Path) -> dict[str, Any] | None:
    """Return the content of the JSON report of the run that wrote a raster; None if there is none beside it."""
    ends = [end for end in _ENDS if mask.stem.endswith(end)]
    if not ends:
        return None
    try:
        text = mask.with_name(f"{mask.stem.removesuffix(ends[0])}.json").read_text("utf-8")
        report: dict[str, Any] = json.loads(text)
        return report if {"source", "settings"} <= report.keys() and "date" in report["source"] else None
    except (OSError, ValueError, AttributeError, TypeError):
        return None
