"""Report of one scene: flooded area, maps, certainty and unobserved ground, on one page that opens offline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.window import Window
from floodmap.imagery.tile import Tile
from floodmap.output.census import Census, take_census
from floodmap.output.pages.certainty import LAND, THRESHOLDS, WATER, curve, histogram
from floodmap.output.pages.html import write_page
from floodmap.output.pages.maps import RAMP, SIDE, draw_maps
from floodmap.output.pages.settings import area_text, origin_table, settings_table
from floodmap.output.results import FloodMap, open_result
from floodmap.strips.codes import PERMANENT, PERMANENT_CODE

__all__ = ["SIDE", "report_contents", "write_scene_report"]

LARGEST = 10
"""Largest number of polygons in the table and on the map."""
LISTED_FAILURES = 5
"""Largest number of failed windows that are listed."""
STRIP_ROWS = 512
"""Number of rows of a result raster that are read at a time: the height of an internal block of the GeoTIFF."""
REASONS = {
    "nodata": "no picture there: nodata or transparent", "collar": "black or white border of the picture",
    "mask": "under the mask that was given", "failed": "could not be read or segmented",
}  # fmt: skip


class Largest(NamedTuple):
    """The largest flood polygons, for the table and the map of the report."""

    rows: list[dict[str, str]]
    """Rows of the table: dictionaries of texts. Keys: `area`, `confidence` (mean flood probability of the polygon, such
    as "87.3 %"), `x` and `y` (longitude and latitude of a point inside, in degrees; without a CRS, column and row)."""
    places_xy: list[tuple[float, float]]
    """One point (x, y) inside each polygon, in the scene's CRS."""
    largest: str
    """Area of the largest polygon as text; empty if there is no polygon."""


def report_contents(flood_map: FloodMap, picture: Tile) -> dict[str, Any]:
    """Collect the contents of the reports of a scene, HTML and PDF: texts, rows of tables and maps.

    Rasters are read by groups of rows, or from overviews. Memory therefore grows only with the number of polygons.

    Args:
        flood_map: finished results of the scene.
        picture: the whole scene from `Scene.preview`, reduced to at most 1200 pixels a side (`maps.SIDE`).

    Returns:
        Variables of the template `scene_report.html` by name.
    """
    summary = flood_map.report
    census = _census(flood_map)
    largest = _largest(flood_map)
    return {
        "title": flood_map.name,
        "subtitle": _subtitle(summary),
        "headline": _headline(summary),
        "warnings": summary.get("warnings", []),
        "cards": _cards(summary, largest),
        "failed": _failed(summary),
        "maps": draw_maps(flood_map, picture, largest.places_xy),
        "certainty": _certainty(summary, census) if census.observed_pixels else None,
        "largest": largest.rows,
        "placed": summary["source"]["crs"] is not None,
        "permanent": summary["settings"].get("permanent_water") is not None,
        "left_out": _left_out(summary),
        "unobserved": _unobserved(summary),
        "settings": settings_table(summary),
        "origin": origin_table(summary),
        "footer": _footer(flood_map),
        "finished": summary["run"]["finished"],
        "version": summary["versions"]["floodmap"],
    }


def write_scene_report(contents: Mapping[str, Any], path: Path) -> Path:
    """Write the HTML report of a scene, and return its path.

    Args:
        contents: result of `report_contents`.
        path: the HTML file to write.

    Raises:
        OutputError: the file cannot be written.
    """
    write_page(
        path, "scene_report.html", ramp=", ".join(f"{colour} {percent}%" for percent, colour in RAMP), **contents
    )
    return path


def _census(flood_map: FloodMap) -> Census:
    with open_result(flood_map.probability_path) as dataset, open_result(flood_map.mask_path) as mask:

        def strips() -> Iterator[tuple[int, NDArray[np.uint8]]]:
            for row in range(0, dataset.height, STRIP_ROWS):
                window = Window(row, 0, min(STRIP_ROWS, dataset.height - row), dataset.width).to_rasterio()
                codes = dataset.read(1, window=window)
                if "permanent_water" in flood_map.report["pixels"]:
                    codes[mask.read(1, window=window) == PERMANENT] += PERMANENT_CODE
                yield row, codes

        threshold = _percent(flood_map.report)
        return take_census(strips(), GeoGrid.of(dataset), threshold=threshold)


def _percent(summary: dict[str, Any]) -> int:
    return max(1, round(float(summary["settings"]["threshold"]) * 100))


def _largest(flood_map: FloodMap) -> Largest:
    """Return the flood polygons of greatest area, at most `LARGEST`.

    Areas are compared in square metres, or in pixels without a CRS. In the result, areas are texts with a unit.
    """
    from floodmap.output.vector_files import SHAPEFILE_FIELDS

    with open_result(flood_map.mask_path) as dataset:
        crs, transform = dataset.crs, dataset.transform
    flood = flood_map.polygons().rename(columns={short: full for full, short in SHAPEFILE_FIELDS.items()})
    areas = flood["area_m2"] if crs else flood.area / abs(transform.determinant)
    flood = flood.assign(size=areas).nlargest(LARGEST, "size")
    inside = flood.geometry.representative_point()
    if crs:
        lonlat, inside = inside.to_crs(4326), inside.to_crs(crs)
        positions = [(f"{point.x:.5f}", f"{point.y:.5f}") for point in lonlat]
    else:
        pixels = (~transform @ (point.x, point.y) for point in inside)
        positions = [(f"{col:,.0f}", f"{row:,.0f}") for col, row in pixels]
    sizes = [area_text(size) if crs else _pixels(size) for size in flood["size"]]
    rows = [
        {"area": area, "confidence": _share(mean), "x": x, "y": y}
        for area, mean, (x, y) in zip(sizes, flood["confidence_mean"], positions, strict=True)
    ]
    return Largest(rows, [(point.x, point.y) for point in inside], sizes[0] if sizes else "")


def _pixels(count: float) -> str:
    return f"{count:,.0f} px"


def _share(value: float) -> str:
    """Format a share, 0 to 1, as text: "12.3 %", "< 0.1 %" between 0 and 0.001, "> 99.9 %" between 0.999 and 1."""
    if 0 < value < 0.001:
        return "< 0.1 %"
    return "> 99.9 %" if 0.999 < value < 1 else f"{value:.1%}".replace("%", " %")


def _flooded(summary: dict[str, Any]) -> str:
    m2 = summary["flood_area_m2"]
    return _pixels(summary["pixels"]["flood"]) if m2 is None else area_text(m2)


def _observed(summary: dict[str, Any]) -> int:
    pixels = summary["pixels"]
    return int(pixels["flood"] + pixels.get("permanent_water", 0) + pixels["dry"])


def _subtitle(summary: dict[str, Any]) -> str:
    source = summary["source"]
    parts = [f"Flood map of {source['name']}", f"{source['width']:,} x {source['height']:,} pixels"]
    if source["gsd_m"] is not None:
        parts[-1] += f" of {source['gsd_m']:.3g} m"
    return ", ".join([*parts, source["crs"] or "no CRS, so figures are in pixels"])


def _headline(summary: dict[str, Any]) -> dict[str, str]:
    """Return the main result of the report, as a dictionary of three texts.

    The texts `figure` and `rest` together are one sentence, such as "3.20 ha" and " of flood water: 5.0 % of the ground
    that was observed." The text `open` is a sentence about the unobserved ground. `open` is empty if the whole scene
    was observed, or if no pixel was observed.
    """
    if not _observed(summary):
        return {"figure": "Nothing was observed", "rest": ": there is no result for this scene.", "open": ""}
    share = _share(summary["flood_share_of_observed"])
    parts = {
        "figure": _flooded(summary),
        "rest": f" of flood water: {share} of the ground that was observed.",
        "open": "",
    }
    if not summary["pixels"]["flood"]:
        parts |= {"figure": "No flood water", "rest": " was found on the ground that was observed."}
    if summary["observed_share"] < 1:
        parts["open"] = f"{_share(1 - summary['observed_share'])} of the scene was not observed and may be wet or dry."
    return parts


def _cards(summary: dict[str, Any], largest: Largest) -> list[dict[str, str]]:
    m2, count = summary["flood_area_m2"], summary["polygons"]["flood"]
    observed_m2, observed = summary["observed_area_m2"], _observed(summary)
    observed_area = _pixels(observed) if observed_m2 is None else area_text(observed_m2)
    share = _share(summary["flood_share_of_observed"]) if observed else "n/a"
    first = "number 1 on the map" if count else "there is no polygon"
    rows = [
        ("Flooded area", _flooded(summary), "no CRS, so no area" if m2 is None else f"{m2:,.0f} m²", WATER),
        ("Share flooded", share, "of the observed ground", WATER),
        ("Observed", _share(summary["observed_share"]), f"of the scene: {observed_area}", LAND),
        ("Flooded places", f"{count:,}", "polygons", LAND),
        ("The largest", largest.largest or "n/a", first, LAND),
    ]
    if "permanent_water" in summary["pixels"]:
        rows.insert(1, ("Permanent water", _permanent(summary), "not counted as flood", LAND))
    return [dict(zip(("name", "figure", "note", "colour"), row, strict=True)) for row in rows]


def _permanent(summary: dict[str, Any]) -> str:
    m2 = summary["permanent_water_area_m2"]
    return _pixels(summary["pixels"]["permanent_water"]) if m2 is None else area_text(m2)


def _failed(summary: dict[str, Any]) -> dict[str, Any] | None:
    failed = summary["windows"]["failed"]
    if not failed:
        return None
    lines = [
        "column {col_off:,}, row {row_off:,}, {width:,} x {height:,} pixels".format(**one["window"]) + f": {one['why']}"
        for one in failed[:LISTED_FAILURES]
    ]
    return {"count": len(failed), "lines": lines, "more": max(0, len(failed) - LISTED_FAILURES)}


def _certainty(summary: dict[str, Any], census: Census) -> dict[str, Any]:
    low, high = THRESHOLDS[0], THRESHOLDS[-1]
    largest, smallest = _at(summary, census, low)["area"], _at(summary, census, high)["area"]
    between = int(census.pixels[low:high].sum()) / census.observed_pixels
    rows = [
        {"threshold": f"{percent / 100:.2f}", "own": percent == census.threshold, **_at(summary, census, percent)}
        for percent in sorted({*THRESHOLDS, census.threshold})
    ]
    return {
        "text": f"With a threshold of {low / 100:g} the flooded area would be {largest}, with {high / 100:g} "
        f"{smallest}; {_share(between)} of the observed ground lies between them, where the model is uncertain.",
        "rows": rows, "histogram": histogram(census), "curve": curve(census),
    }  # fmt: skip


def _at(summary: dict[str, Any], census: Census, percent: int) -> dict[str, str]:
    """Return the result that a threshold of `percent` per cent would give, as a dictionary of three texts.

    The text `area` is the flooded area. `share` is the flooded share of the observed ground in per cent. `change` is
    the change of the flooded area in per cent from the threshold of the run to this threshold. `change` is "n/a" if
    there is no flood at the threshold of the run, and empty if both thresholds are equal.
    """
    pixels = int(census.pixels[percent:101].sum())
    change = f"{pixels / census.flood_pixels - 1:+.1%}".replace("%", " %") if census.flood_pixels else "n/a"
    if percent == census.threshold:
        return {"area": _flooded(summary), "share": _share(summary["flood_share_of_observed"]), "change": ""}
    area = _pixels(pixels) if census.ground_m2 is None else area_text(float(census.ground_m2[percent:101].sum()))
    return {"area": area, "share": _share(pixels / census.observed_pixels), "change": change}


def _left_out(summary: dict[str, Any]) -> str:
    min_area = summary["settings"]["min_area_m2"]
    if not min_area:
        return ""
    return f"Polygons of less than {area_text(min_area)} are left out; their ground counts in the flooded area."


def _unobserved(summary: dict[str, Any]) -> list[dict[str, str]]:
    """Return the rows of the table of unobserved ground: for each reason, a dictionary of four texts.

    The texts are `reason`, `pixels` (number), `share` (per cent of the scene's pixels inside the area of interest, or
    "not counted" for pixels outside), and `area` (approximate; empty if the pixel size is unknown).
    """
    pixels, gsd_m = summary["pixels"], summary["source"]["gsd_m"]
    inside = _observed(summary) + sum(pixels["unobserved"].values())
    rows = [(REASONS[reason], count, _share(count / inside)) for reason, count in pixels["unobserved"].items()]
    if pixels["outside"]:
        rows.append(("outside the area of interest", pixels["outside"], "not counted"))
    return [
        {"reason": reason, "pixels": f"{count:,}", "share": share,
         "area": "" if gsd_m is None else f"about {area_text(count * gsd_m**2)}"}
        for reason, count, share in rows
    ]  # fmt: skip


def _footer(flood_map: FloodMap) -> str:
    files = (*flood_map.layer_paths, flood_map.mask_path, flood_map.probability_path, flood_map.report_path)
    return (
        f"Made by floodmap {flood_map.report['versions']['floodmap']}, from the files beside it: "
        f"{', '.join(path.name for path in files)}."
    )
