"""Function `exposure`: who and what is under water, by district, from a finished flood map."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from floodmap._runtime.versions import version
from floodmap.analysis.exposure.buildings import Buildings
from floodmap.analysis.exposure.districts import Districts, no_districts, read_districts
from floodmap.analysis.exposure.features import Features, open_features
from floodmap.analysis.exposure.figures import Figures, Row
from floodmap.analysis.exposure.overlap import Job, PolygonAreas, SceneAreas, overlay
from floodmap.analysis.exposure.population import Per, Population
from floodmap.analysis.exposure.result import LEVELS, Result, Warn, find_result
from floodmap.analysis.exposure.roads import Roads
from floodmap.analysis.exposure.tables import LICENCES, summary_table
from floodmap.analysis.exposure.writing import check_targets, targets_of, write_all
from floodmap.errors import VectorError
from floodmap.geo.downloads import local_copy
from floodmap.geo.names import local_or_gdal
from floodmap.geo.source_name import shown_name
from floodmap.imagery.raster.fingerprint import of_input
from floodmap.output.results import FloodMap

__all__ = ["Exposure", "exposure"]

log = logging.getLogger(__name__)

File = str | os.PathLike[str]

VERSIONS = ("floodmap", "rasterio", "numpy", "shapely", "pyogrio", "exactextract")
"""Packages on which figures depend; the last one with people alone."""
_ROUNDING = 1e-9
"""Part of the scene below which an area in no district is rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """Buildings, roads and people under water, by district."""

    report: dict[str, Any]
    """Content of the JSON table: `districts`, `roads_by_class`, `buildings_by_share`, and how they were made."""
    paths: tuple[Path, ...]
    """Tables that were written, in the order in which they were asked for."""
    page_path: Path | None
    """HTML report; None if it was not asked for."""

    @property
    def districts(self) -> list[Row]:
        """A row for each district, one for the ground in no district, and one for the whole scene.

        The unit is at the end of the name of a column; `docs/reference/files.md` lists the columns.
        """
        rows: list[Row] = self.report["districts"]
        return rows

    @property
    def total(self) -> Row:
        """The row of the whole scene."""
        return self.districts[-1]

    def table(self) -> str:
        """Return the main figures as text with aligned columns."""
        return summary_table(self.report)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Inputs:
    """Files to overlay, and how they are read."""

    files: dict[str, Path | str]
    """Files that were given, by name of the argument: `buildings`, `roads`, `admin`, `population`."""
    layers: dict[str, str | None]
    """Layer of each vector file; None: the first with geometries."""
    road_class: str | None
    district_name: str | None
    population_per: Per

    def open(self, name: str) -> Features:
        """Look up the layer of one of the vector files."""
        return open_features(self.files[name], self.layers[name], f"--{name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Overlaid:
    """The sources after all passes over the raster."""

    districts: Districts
    figures: Figures
    buildings: Buildings | None
    roads: Roads | None
    population: Population | None


def exposure(
    result: File | FloodMap,
    *,
    buildings: File | None = None,
    roads: File | None = None,
    admin: File | None = None,
    population: File | None = None,
    out: File | Sequence[File] = (),
    road_class: str | None = None,
    district_name: str | None = None,
    population_per: Per = "pixel",
    buildings_layer: str | None = None,
    roads_layer: str | None = None,
    admin_layer: str | None = None,
    report: bool = False,
    overwrite: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Exposure:
    """Compute buildings, roads and people under water, by district, as `floodmap exposure` does.

    Each figure of flood has three values: lower (threshold 0.7), best (threshold of the result) and upper (0.3).
    Permanent water in the mask of the result is no flood. Each figure has the unobserved amount beside it.

    Args:
        result: a result of floodmap: `NAME.json`, `NAME_probability.tif`, the folder with NAME, or a `FloodMap`.
        buildings: file of polygons or points. A building belongs to the district of its representative point.
        roads: file of lines. A road is cut at the borders of districts.
        admin: file of polygons, the districts. None: there is one row, the whole scene.
        population: raster of people. People are spread evenly over their pixel.
        out: tables to write, each `.xlsx`, `.csv`, `.gpkg` or `.json`.
        road_class: field with the class of a road; None: `highway`, `fclass` or `class`, else all roads are one class.
        district_name: field with the name of a district; None: `name` or a common other one, else they are numbered.
        population_per: unit of the raster: people per `pixel`, or per `km2`.
        buildings_layer: layer of the file of buildings; None: the first one with geometries.
        roads_layer: layer of the file of roads; None: the first one with geometries.
        admin_layer: layer of the file of districts; None: the first one with geometries.
        report: True: also write an HTML page, `NAME_exposure.html`, beside the first table, else beside the result.
        overwrite: True: replace files that exist.
        progress: function that is called with the share of a pass over the raster that is done, 0 to 1.

    Returns:
        The figures, and the files that were written.

    Raises:
        SceneError: the result or the population raster cannot be used.
        MissingCRSError: the result has no CRS.
        VectorError: a vector file cannot be used, or none of the four inputs is given.
        OutputError: a table exists already, has another suffix, or cannot be written.
        MissingPackageError: a package for an input or a table is not installed.
    """
    began, warnings = time.monotonic(), list[str]()

    def warn(text: str) -> None:
        warnings.append(text)
        log.warning("%s", text)

    given = {"buildings": buildings, "roads": roads, "admin": admin, "population": population}
    inputs = _Inputs(
        files={name: local_or_gdal(os.fspath(file)) for name, file in given.items() if file is not None},
        layers={"buildings": buildings_layer, "roads": roads_layer, "admin": admin_layer},
        road_class=road_class, district_name=district_name, population_per=population_per,
    )  # fmt: skip
    if not inputs.files:
        raise VectorError("there is nothing to overlay: give buildings, roads, admin or population")
    found = find_result(result if isinstance(result, FloodMap) else Path(result), warn)
    targets = targets_of(out, found, report=report)
    check_targets(targets, [found.probability, *inputs.files.values()], overwrite=overwrite)
    with ExitStack() as stack:
        local = {name: local_copy(file, stack) for name, file in inputs.files.items()}
        gpkg = any(path.suffix.lower() == ".gpkg" for path in targets.tables)
        overlaid = _overlay(found, replace(inputs, files=local), gpkg, warn, progress or (lambda _: None))
        about = _report(found, inputs, local, overlaid, warnings)
        about["run"] = {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - began, 1),
        }
        write_all(targets, about, overlaid.districts, overlaid.buildings, found)
    return Exposure(report=about, paths=targets.tables, page_path=targets.page)


def _overlay(
    result: Result, inputs: _Inputs, keep_shares: bool, warn: Warn, progress: Callable[[float], None]
) -> _Overlaid:
    """Overlay all inputs on the flood map."""
    grid = result.grid
    districts = no_districts()
    if "admin" in inputs.files:
        districts = read_districts(inputs.open("admin"), grid, inputs.district_name, warn)
    scene, areas = SceneAreas(), districts.areas(grid)
    sources: list[Iterator[Job]] = [iter([scene]), iter([areas])]
    buildings = roads = population = None
    if "buildings" in inputs.files:
        features = inputs.open("buildings")
        buildings = Buildings(features=features, districts=districts, grid=grid, keep_shares=keep_shares)
        sources.append(buildings.jobs())
    if "roads" in inputs.files:
        roads = Roads(features=inputs.open("roads"), districts=districts, grid=grid, wanted_field=inputs.road_class)
        sources.append(roads.jobs())
    if "population" in inputs.files:
        file, per = inputs.files["population"], inputs.population_per
        population = Population(path=file, districts=districts, grid=grid, warn=warn, per=per)
        sources.append(population.jobs())
    overlay(result, sources, progress)
    if buildings is not None and not buildings.in_scene:
        warn(f"no building of {buildings.features.label} is in the scene; check its CRS")
    if roads is not None and not roads.lengths_m:
        warn(f"no road of {roads.features.label} is in the scene; check its CRS")
    return _Overlaid(
        districts=districts,
        figures=_figures(result, districts, scene, areas, buildings, roads, population),
        buildings=buildings,
        roads=roads,
        population=population,
    )


def _figures(
    result: Result,
    districts: Districts,
    scene: SceneAreas,
    areas: PolygonAreas,
    buildings: Buildings | None,
    roads: Roads | None,
    population: Population | None,
) -> Figures:
    inside = areas.areas_m2
    outside = np.maximum(scene.areas_m2 - inside.sum(axis=0), 0.0)
    outside[outside < _ROUNDING * scene.areas_m2.sum()] = 0.0
    return Figures(
        districts=districts,
        areas_m2=np.vstack([inside, outside]),
        has_permanent=result.mask is not None,
        buildings=None if buildings is None else buildings.sums,
        roads=None if roads is None else roads.lengths_m,
        people=None if population is None else population.people,
    )


def _report(
    result: Result, inputs: _Inputs, local: dict[str, Path | str], overlaid: _Overlaid, warnings: list[str]
) -> dict[str, Any]:
    """Return the content of the JSON table, without the time of the run."""
    figures, summary = overlaid.figures, result.summary
    source = summary.get("source", {})
    return {
        "name": result.name,
        "districts": figures.rows(),
        "roads_by_class": figures.road_rows(),
        "buildings_by_share": figures.building_rows(),
        "thresholds": {level: percent / 100 for level, percent in zip(LEVELS, result.percents, strict=True)},
        "source": {
            "scene": source.get("name"),
            "fingerprint": source.get("fingerprint"),
            "date": source.get("date"),
            "crs": result.grid.crs.to_string(),
            "probability": result.probability.name,
            "sha256": of_input(result.probability),
            "permanent_water": summary.get("settings", {}).get("permanent_water") or result.mask is not None,
        },
        "inputs": {
            name: {"file": shown_name(file), "sha256": of_input(local[name]), **_facts(name, overlaid)}
            for name, file in inputs.files.items()
        },
        "warnings": warnings,
        "licences": LICENCES,
        "versions": {name: version(name) for name in VERSIONS[: None if "population" in inputs.files else -1]},
    }


def _facts(name: str, overlaid: _Overlaid) -> dict[str, Any]:
    """Return what was found in one of the inputs."""
    districts, buildings, roads, population = (
        overlaid.districts, overlaid.buildings, overlaid.roads, overlaid.population,
    )  # fmt: skip
    if name == "buildings" and buildings is not None:
        found = {"in_scene": buildings.in_scene, "repaired": buildings.repaired}
        return {**_layer(buildings.features), **found}
    if name == "roads" and roads is not None:
        return {**_layer(roads.features), "class_field": roads.class_field}
    if name == "population" and population is not None:
        return {"per": population.per, "pixels_without_value": population.unknown}
    return {
        **_layer(districts.features), "in_scene": len(districts), "elsewhere": districts.elsewhere,
        "repaired": districts.repaired, "name_field": districts.name_field,
    }  # fmt: skip


def _layer(features: Features | None) -> dict[str, Any]:
    if features is None:
        return {}
    return {"layer": features.layer, "crs": features.crs.to_string() if features.crs else None,
            "features": features.count}  # fmt: skip
