"""Tables of the settings and of the origin of results, for the HTML report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def area_text(m2: float) -> str:
    """Format an area, given in square metres, as text: in m² below 1000 m², in ha below 10 km², else in km²."""
    if m2 < 1000:
        return f"{m2:,.1f} m²"
    return f"{m2 / 1e4:,.2f} ha" if m2 < 1e7 else f"{m2 / 1e6:,.2f} km²"


def settings_table(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and values of the settings of a run as texts; `summary`: content of the JSON report."""
    chosen, windows = summary["settings"], summary["windows"]
    scene = chosen["scene"]
    min_area, tolerance, resolution = chosen["min_area_m2"], chosen["simplify_m"], scene["resolution_m"]
    optional = {"Nodata": "nodata", "Mask": "mask", "Area of interest": "aoi", "CRS given": "crs"}
    water = chosen.get("permanent_water")
    ran = (
        f"{windows['run']:,} run, {windows['skipped_by_coarse']:,} decided by the coarse pass, "
        f"{windows['skipped']:,} fully unobserved, "
        f"{len(windows['failed']):,} failed"
    )
    return [
        ("Model", f"{summary['model']['name']}, {summary['model']['runs_on']}"),
        ("Prompts", str(chosen["prompts"])),
        ("Flood from a probability of", f"{chosen['threshold']:g}"),
        ("Smallest polygon", area_text(min_area) if min_area else "every one"),
        ("Outlines simplified by", f"{tolerance:.3g} m" if tolerance else "nothing"),
        ("Resolution", f"{resolution:g} m" if resolution else "the scene's own"),
        ("Bands", _bands(summary["source"])),
        ("Black and white borders", "looked for" if scene["collar"] == "auto" else "not looked for"),
        *([("Permanent water", str(water))] if water else []),
        *((label, str(scene[key])) for label, key in optional.items() if scene[key] is not None),
        ("Windows", f"up to {chosen['tile_size']:,} pixels, overlapping by {chosen['overlap']:,}; {ran}"),
    ]


def _bands(source: Mapping[str, Any]) -> str:
    infrared = source.get("near_infrared", {"band": None})
    used = "used" if infrared.get("used") else "not used"
    more = "" if infrared["band"] is None else f"; near infrared, {infrared['band']}, is {used}"
    return ", ".join(map(str, source["bands"])) + more


def _date(source: Mapping[str, Any]) -> str:
    known = {"picture": "of the picture", "file": "of the file; no date of acquisition is known"}
    return f"{source['date'][:10]} ({known.get(source.get('date_of', ''), 'of the picture if the file says so')})"


def origin_table(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return names and values of what the results were made from; `summary`: content of the JSON report."""
    source, run = summary["source"], summary["run"]
    return [
        ("Scene", source["name"]),
        ("Its date", _date(source)),
        ("Its fingerprint (SHA-256)", source["fingerprint"]),
        ("Weights (SHA-256)", summary["model"]["sha256"]),
        ("Versions", ", ".join(f"{name} {number}" for name, number in summary["versions"].items())),
        ("Finished", f"{run['finished'].replace('T', ' ')}, after {run['seconds']:,.0f} s"),
        *_by_a_person(summary),
    ]


def _by_a_person(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a person has changed in the result of the model: points, and a review."""
    rows = []
    if correction := summary.get("correction"):
        points = correction["points"]
        where = f"{points['flood']:,} on flood, {points['dry']:,} on dry ground"
        rows.append(("Corrected by points", f"{where}; {correction['pixels_changed']:,} pixels changed"))
    if review := summary.get("review"):
        places = ", ".join(f"{number:,} {status}" for status, number in review["places"].items())
        rows.append(("Reviewed", f"places: {places}; {review['edits']:,} polygons; {review['pixels_changed']:,} pixels "
                     f"changed ({review['method']})"))  # fmt: skip
    return rows
