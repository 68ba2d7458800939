"""Names of the files that the program writes, and what to load of them."""

from __future__ import annotations

import json
import os
import re
from typing import Any, Dict, List, NamedTuple, Optional, Sequence


class ResultLayer(NamedTuple):
    """A layer of a result."""

    key: str
    """Name of the output of the algorithm, such as "FLOOD"."""
    title: str
    """Name in the legend."""
    source: str
    """Data source, as QGIS takes it."""
    raster: bool
    shown: bool
    """False: in the legend, but not drawn at first."""


def scene_name(reports: str) -> str:
    """Return the name of the only scene in the output of `floodmap segment --json`.

    Raises:
        ValueError: the output has no scene.
    """
    found = json.loads(reports)
    if isinstance(found, list):
        if not found:
            raise ValueError("no scene")
        found = found[0]
    return str(found["name"])


def read_report(folder: str, name: str) -> Dict[str, Any]:
    """Return the JSON of a result."""
    with open(os.path.join(folder, f"{name}.json"), encoding="utf-8") as file:
        report: Dict[str, Any] = json.load(file)
    return report


def result_layers(folder: str, name: str, report: Dict[str, Any]) -> List[ResultLayer]:
    """Return the layers of a result of `segment` or `mosaic`, the uppermost first.

    Args:
        folder: folder of the result.
        name: name of the scene.
        report: the JSON of the result; it says which layers there are.
    """
    polygons = report.get("polygons", {})
    package = os.path.join(folder, f"{name}.gpkg")
    layers = [
        ResultLayer(key, title, f"{package}|layername={layer}", False, True)
        for key, title, layer in (
            ("FLOOD", "Flood", "flood"),
            ("PERMANENT_WATER_LAYER", "Permanent water", "permanent_water"),
            ("UNOBSERVED", "Unobserved", "unobserved"),
        )
        if layer in polygons
    ]
    rasters = [("PROBABILITY", "Flood probability", "probability"), ("MASK_RASTER", "Mask", "mask")]
    return layers + [
        ResultLayer(key, title, os.path.join(folder, f"{name}_{suffix}.tif"), True, False)
        for key, title, suffix in rasters
    ]


def change_layers(folder: str, name: str) -> List[ResultLayer]:
    """Return the layers of a result of `change`, the uppermost first."""
    package = os.path.join(folder, f"{name}_change.gpkg")
    return [
        ResultLayer("CHANGE", "Change", f"{package}|layername=change", False, True),
        ResultLayer("UNOBSERVED", "Unobserved", f"{package}|layername=unobserved", False, True),
        ResultLayer("CHANGE_RASTER", "Change, pixels", os.path.join(folder, f"{name}_change.tif"), True, False),
    ]


def review_layers(path: str) -> List[ResultLayer]:
    """Return the layers of the GeoPackage of a review."""
    return [
        ResultLayer("REVIEW", "Places to review", f"{path}|layername=review", False, True),
        ResultLayer("EDITS", "Edits", f"{path}|layername=edits", False, True),
    ]


def result_of(path: str) -> Optional[str]:
    """Return the path of the JSON of the result that a file belongs to; None if it belongs to none.

    Args:
        path: one of the files of a result: NAME.json, NAME.gpkg, NAME_mask.tif, NAME_probability.tif or
            NAME_review.gpkg.
    """
    folder, file = os.path.split(path)
    stem = os.path.splitext(file)[0]
    names = [stem, *(stem[: -len(end)] for end in ("_mask", "_probability", "_review") if stem.endswith(end))]
    for name in names:
        report = os.path.join(folder, f"{name}.json")
        if os.path.isfile(report):
            return report
    return None


def latest_run(folder: str) -> Optional[Dict[str, str]]:
    """Return the result of the last run of the panel in the folder of a scene; None if there is none.

    Returns:
        Folder, name and mask, by the names of the outputs of `floodmap:segment`.
    """
    runs = [name for name in (os.listdir(folder) if os.path.isdir(folder) else []) if re.fullmatch(r"run_\d+", name)]
    for run in sorted(runs, key=lambda name: int(name[4:]), reverse=True):
        place = os.path.join(folder, run)
        for file in sorted(os.listdir(place)):
            name, end = os.path.splitext(file)
            mask = os.path.join(place, f"{name}_mask.tif")
            if end == ".json" and os.path.isfile(mask):
                return {"OUTPUT_FOLDER": place, "NAME": name, "MASK_RASTER": mask}
    return None


def in_use(files: Sequence[str], sources: Sequence[str]) -> List[str]:
    """Return those files that sources of open layers use."""
    used = {os.path.normcase(os.path.abspath(source.split("|")[0])) for source in sources}
    return [file for file in files if os.path.normcase(os.path.abspath(file)) in used]


def change_summary(report: Dict[str, Any]) -> str:
    """Return one line on a comparison of two dates."""
    areas = report.get("area_ha")
    kinds = ("newly_flooded", "receded", "unchanged_water")
    sizes = [f"{areas[kind]:,.2f} ha" if areas else f"{report['pixels'][kind]:,} pixels" for kind in kinds]
    parts = ", ".join(f"{size} {kind.replace('_', ' ')}" for size, kind in zip(sizes, kinds))
    return f"{parts}; {report.get('observed_share', 0):.1%} observed on both dates"


def summary(report: Dict[str, Any]) -> str:
    """Return one line on a result: area of flood, and the observed share."""
    area = report.get("flood_area_ha")
    pixels = report.get("pixels", {}).get("flood", 0)
    text = f"{area:,.2f} ha of flood" if area is not None else f"{pixels:,} pixels of flood (no CRS, so no area)"
    permanent = report.get("permanent_water_area_ha")
    if permanent is not None:
        text += f", {permanent:,.2f} ha of permanent water"
    text += f", {report.get('observed_share', 0):.1%} observed"
    failed = len(report.get("windows", {}).get("failed", []))
    return text + (f"; {failed} windows failed and are unobserved" if failed else "")
