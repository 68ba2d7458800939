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
        rows=[_shown(row, number) for number, row in enumerate(rows, 1)], total=total,
        roads=[row for row in report["roads_by_class"] if row["kind"] == TOTAL],
        buildings=[row for row in report["buildings_by_share"] if row["kind"] == TOTAL], notes=notes(report),
        range=spread, footer=f"Made by floodmap {report['versions']['floodmap']}.",
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


def _shown(row: Row, number: int) -> Row:
    return {**row, "number": number if row["kind"] == DISTRICT else ""}


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
