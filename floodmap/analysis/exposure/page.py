"""HTML page of an exposure: main figures, a map of the districts, and tables. It opens without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import shapely

from floodmap.analysis.exposure.districts import Districts
from floodmap.analysis.exposure.figures import DISTRICT, TOTAL, Row
from floodmap.analysis.exposure.tables import notes, spread
from floodmap.geo.geogrid import GeoGrid
from floodmap.output.pages.html import write_page

SIDE = 900
"""Longest side of the map, in SVG user units."""
RAMP = ((0.0, "#f4f6f8"), (1e-9, "#d6e6f4"), (0.05, "#abd0e6"), (0.2, "#6aaed6"), (0.5, "#2171b5"))
"""Colour of a district by the least share of its observed ground that is flooded; as in the style of QGIS."""
RAMP_TEXTS = ("none", "to 5 %", "5 to 20 %", "20 to 50 %", "50 % or more")
UNKNOWN = "#c9ccd0"
"""Colour of a district without observed ground."""


def write_exposure_page(path: Path, report: dict[str, Any], districts: Districts, grid: GeoGrid) -> None:
    """Write the page.

    Args:
        path: the HTML file to write.
        report: see `run.Exposure.report`.
        districts: the districts, for the map.
        grid: pixel grid of the scene.

    Raises:
        OutputError: the file cannot be written.
    """
    rows, total = report["districts"], report["districts"][-1]
    write_page(
        path, "exposure_report.html", title=f"Exposure: {report['name']}", subtitle=_subtitle(report),
        headline=_headline(total), cards=_cards(total), warnings=report["warnings"], map=_map(rows, districts, grid),
        ramp=list(zip((colour for _, colour in RAMP), RAMP_TEXTS, strict=True)), unknown=UNKNOWN,
        tables=_tables(report), notes=notes(report), footer=f"Made by floodmap {report['versions']['floodmap']}.",
    )  # fmt: skip


def _subtitle(report: dict[str, Any]) -> str:
    limits = ", ".join(f"{level} {limit:g}" for level, limit in report["thresholds"].items())
    scene = report["source"]["scene"] or report["name"]
    return f"{scene}. Best figure (lower to upper); flood from a probability of: {limits}"


def _headline(total: Row) -> str:
    text = f"{spread(total, 'flood_{}_ha', 1)} ha of flood"
    if "buildings" in total:
        text += f", {spread(total, 'buildings_touched_{}')} buildings touched"
    if "people" in total:
        text += f", {spread(total, 'people_exposed_{}')} people on flooded ground"
    return f"{text}."


def _cards(total: Row) -> list[dict[str, str]]:
    rows = [
        ("Flood", spread(total, "flood_{}_ha", 1), "ha, without permanent water if the map separates it"),
        ("Not observed", f"{total['unobserved_ha']:,.1f}", "ha of the scene may be wet or dry"),
    ]
    if "buildings" in total:
        unobserved = f"{total['buildings_with_unobserved_ground']:,} have unobserved ground"
        rows.append(("Buildings touched", spread(total, "buildings_touched_{}"),
                     f"of {total['buildings']:,} in the scene; {unobserved}"))  # fmt: skip
    if "road_km" in total:
        unobserved = f"{total['road_unobserved_km']:,.1f} km not observed"
        rows.append(("Roads under water", spread(total, "road_flood_{}_km", 1),
                     f"km of {total['road_km']:,.1f}; {unobserved}"))  # fmt: skip
    if "people" in total:
        unobserved = f"{total['people_on_unobserved_ground']:,.0f} on unobserved ground"
        rows.append(("People on flooded ground", spread(total, "people_exposed_{}"),
                     f"of {total['people']:,.0f}; {unobserved}"))  # fmt: skip
    return [dict(zip(("name", "figure", "note"), row, strict=True)) for row in rows]


def _tables(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the tables of the page: title, note, head, and rows of cells."""
    rows = report["districts"]
    tables = [_table("Ground by district", rows, _GROUND, "Best figure (lower to upper), in hectares.")]
    if "buildings" in rows[0]:
        tables.append(_table("Buildings by district", rows, _BUILDINGS, "By share of the footprint under water."))
    if "road_km" in rows[0]:
        tables.append(_table("Roads by district", rows, _ROADS, "In kilometres."))
        classes = [{**row, "district": row["road_class"]} for row in report["roads_by_class"] if row["kind"] == TOTAL]
        tables.append(_table("Roads by class", classes, _ROADS, "In kilometres, in the whole scene."))
    if "people" in rows[0]:
        tables.append(_table("People by district", rows, _PEOPLE, "Spread evenly over the pixels of the raster."))
    return tables


_Columns = tuple[tuple[str, str, int], ...]
"""Heading, name of the column (with `{}` for a range) and number of decimals of each column of a table."""
_GROUND: _Columns = (
    ("in the scene", "scene_ha", 2), ("flood", "flood_{}_ha", 2), ("observed", "observed_ha", 2),
    ("unobserved", "unobserved_ha", 2), ("share of the district in the scene", "scene_share", -1),
)  # fmt: skip
_BUILDINGS: _Columns = (
    ("in the scene", "buildings", 0), ("touched", "buildings_touched_{}", 0),
    ("10 % or more", "buildings_10_percent_{}", 0), ("half or more", "buildings_50_percent_{}", 0),
    ("with unobserved ground", "buildings_with_unobserved_ground", 0),
)  # fmt: skip
_ROADS: _Columns = (
    ("in the scene", "road_km", 2), ("under water", "road_flood_{}_km", 2), ("unobserved", "road_unobserved_km", 2),
)  # fmt: skip
_PEOPLE: _Columns = (
    ("in the scene", "people", 0), ("on flooded ground", "people_exposed_{}", 0),
    ("on unobserved ground", "people_on_unobserved_ground", 0),
)  # fmt: skip


def _table(title: str, rows: list[Row], columns: _Columns, note: str) -> dict[str, Any]:
    lines = []
    for number, row in enumerate(rows, 1):
        name = f"{number} {row['district']}" if row["kind"] == DISTRICT else row["district"]
        cells = [name, *(_cell(row, column, digits) for _, column, digits in columns)]
        lines.append({"cells": cells, "total": row["kind"] == TOTAL})
    return {"title": title, "note": note, "head": ["", *(heading for heading, _, _ in columns)], "rows": lines}


def _cell(row: Row, column: str, digits: int) -> str:
    """Return a figure as text; -1 decimals: a share as per cent."""
    if "{}" in column:
        return spread(row, column, digits)
    value = row[column]
    if value is None:
        return ""
    return f"{value * 100:.1f} %" if digits < 0 else f"{value:,.{digits}f}"


def _map(rows: list[Row], districts: Districts, grid: GeoGrid) -> dict[str, Any] | None:
    """Return the paths of the districts in the scene, with colours and the places of their numbers; None without."""
    if not len(districts):
        return None
    scale = SIDE / max(grid.shape_hw)
    frame = shapely.box(0, 0, grid.width, grid.height)
    shapes = []
    for number, (polygon, row) in enumerate(zip(districts.pixels, rows, strict=False), 1):
        inside = shapely.simplify(shapely.intersection(polygon, frame), 0.5 / scale)
        if inside.is_empty:
            continue
        at = shapely.point_on_surface(inside)
        shapes.append({"path": _path(inside, scale), "colour": _colour(row), "number": number, "x": round(at.x * scale),
                       "y": round(at.y * scale), "title": row["district"]})  # fmt: skip
    return {"width": round(grid.width * scale), "height": round(grid.height * scale), "shapes": shapes}


def _colour(row: Row) -> str:
    share = row["flood_share_of_observed"]
    return UNKNOWN if share is None else [colour for least, colour in RAMP if share >= least][-1]


def _path(geometry: Any, scale: float) -> str:
    """Return the rings of a geometry as the `d` of an SVG path."""
    rings = shapely.get_rings(shapely.get_parts(geometry))
    texts = []
    for ring in rings:
        xy = np.round(shapely.get_coordinates(ring) * scale, 1)
        texts.append("M" + "L".join(f"{x:g} {y:g}" for x, y in xy[:-1]) + "Z")
    return "".join(texts)
