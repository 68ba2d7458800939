"""STAC item of a scene's results: outline, date, CRS, and the files with their sizes and checksums.

Specification: STAC 1.1.0, with the extensions projection 2.0.0, file 2.1.0, processing 1.1.0 and classification 2.0.0.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import shapely.affinity
from affine import Affine

from floodmap._runtime.files import write_whole
from floodmap.errors import VectorError, writing
from floodmap.geo.crs import is_placed, known_crs
from floodmap.geo.vectors import reprojected
from floodmap.output.results import FloodMap
from floodmap.output.vector_files import PARTS

log = logging.getLogger(__name__)

VERSION = "1.1.0"
EXTENSIONS = tuple(
    f"https://stac-extensions.github.io/{name}/schema.json"
    for name in ("projection/v2.0.0", "file/v2.1.0", "processing/v1.1.0", "classification/v2.0.0")
)
"""Addresses of the JSON schemas of the extensions. The addresses are names; nothing is fetched."""
MEDIA_TYPES = {
    ".gpkg": "application/geopackage+sqlite3", ".parquet": "application/vnd.apache.parquet",
    ".geojson": "application/geo+json", ".fgb": "application/vnd.flatgeobuf", ".shp": "application/vnd.shp",
    ".shx": "application/vnd.shx", ".dbf": "application/vnd.dbf", ".prj": "text/plain", ".cpg": "text/plain",
    ".csv": "text/csv",
}  # fmt: skip
CLASSES = (
    {"value": 0, "name": "dry", "description": "Observed ground without flood", "color_hint": "F6F6EE"},
    {"value": 1, "name": "flood", "description": "Flood", "color_hint": "1E6EEB"},
    {"value": 2, "name": "permanent_water", "description": "Permanent water", "color_hint": "40B0A6"},
    {"value": 255, "name": "unobserved", "description": "Not observed: wet or dry", "color_hint": "808A94",
     "nodata": True},
)  # fmt: skip
"""Classes of the mask. Permanent water is left out if there is no reference of permanent water."""
SHA2_256 = "1220"
"""First two bytes of a multihash (https://multiformats.io/multihash): SHA2-256, 32 bytes long."""

_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_WORLD = "EPSG:4326"
_TOLERANCE = 1e-6
"""Tolerance of outlines in degrees, 0.1 m: `reprojected` adds many vertices to straight edges."""


def write_stac_item(flood_map: FloodMap, path: Path, *, pages: Mapping[str, Path]) -> None:
    """Write the STAC item of the results of a scene. It is written completely or not at all.

    Args:
        flood_map: finished results.
        path: the JSON file. Paths in the item are relative to its folder.
        pages: reports, as in `stac_item`.

    Raises:
        OutputError: a file cannot be read or written.
    """
    try:
        outline = outline_of(flood_map.report)
    except VectorError as error:
        log.warning("%s has no geometry: %s", path, error)
        outline = None
    with writing(path):
        item = stac_item(
            flood_map.report, outline, mask=flood_map.mask_path, probability=flood_map.probability_path,
            layers=(*flood_map.layer_paths, *flood_map.cems_paths), report_path=flood_map.report_path,
            folder=path.parent, pages=pages,
        )  # fmt: skip
    write_whole(path, json.dumps(item, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def outline_of(report: Mapping[str, Any]) -> shapely.Geometry | None:
    """Return the outline of a scene in longitudes and latitudes (WGS 84), continuous across the antimeridian.

    The result is None without a geographic or projected CRS.

    Args:
        report: content of the JSON report.

    Raises:
        VectorError: the corners of the scene do not exist in WGS 84.
    """
    source = report["source"]
    if not is_placed(source["crs"]):
        return None
    transform, width, height = Affine(*source["transform"]), source["width"], source["height"]
    corners = [transform @ corner for corner in ((0, 0), (width, 0), (width, height), (0, height))]
    outline = np.array([shapely.Polygon(corners)], object)
    return shapely.simplify(reprojected(outline, known_crs(source["crs"]), _WORLD, source["name"])[0], _TOLERANCE)


def stac_item(
    report: Mapping[str, Any],
    outline: shapely.Geometry | None,
    *,
    mask: Path,
    probability: Path,
    layers: Sequence[Path],
    report_path: Path,
    folder: Path,
    pages: Mapping[str, Path] | None = None,
) -> dict[str, Any]:
    """Return the STAC item of the results of one scene.

    Args:
        report: content of the JSON report.
        outline: outline of the scene, longitudes and latitudes in degrees (WGS 84), continuous across the antimeridian;
            None: the scene has no CRS.
        mask: file of the mask.
        probability: file of the probability raster.
        layers: vector files, as in `FloodMap.layer_paths`.
        report_path: file of the JSON report.
        folder: folder of the item. Paths in the item are relative to it.
        pages: HTML report and PDF report, by key of the asset (`page`, `pdf`).

    Returns:
        The item as JSON. The date (`datetime`) is the date of the picture; `floodmap:date_of` is "file" if the picture
        has no date of acquisition, and the date is that of its file. Results of floodmap have the prefix `floodmap:` in
        `properties`. An outline that crosses the antimeridian is cut there, and the first longitude of its `bbox` is
        larger than the second one (RFC 7946, section 5.2). Without a CRS, `geometry` is null, and there is no `bbox`.

    Raises:
        OSError: a file cannot be read.
    """
    permanent = "permanent_water" in report.get("pixels", {})
    classes = [dict(one) for one in CLASSES if permanent or one["value"] != 2]
    assets = {
        "mask": {
            "href": mask, "type": _COG, "title": "Mask", "roles": ["data"], "bands": [_band("mask")],
            "classification:classes": classes,
        },
        "probability": {
            "href": probability, "type": _COG, "title": "Flood probability in per cent, 255 unobserved",
            "roles": ["data"], "bands": [{**_band("probability"), "unit": "%"}],
        },
        **{
            key: {"href": path, "type": MEDIA_TYPES[path.suffix], "roles": ["data"]}
            for key, path in _named(layers, report["name"])
        },
        "report": {
            "href": report_path, "type": "application/json", "title": "Areas, settings, versions",
            "roles": ["metadata"],
        },
        **{key: _page(key, path) for key, path in (pages or {}).items()},
    }  # fmt: skip
    return {
        "type": "Feature",
        "stac_version": VERSION,
        "stac_extensions": list(EXTENSIONS),
        "id": report["name"],
        **_place(outline),
        "properties": _properties(report),
        "links": [],
        "assets": {key: _with_file(asset, folder) for key, asset in assets.items()},
    }


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file as a multihash in hexadecimal digits."""
    with path.open("rb") as stream:
        return SHA2_256 + hashlib.file_digest(stream, "sha256").hexdigest()


def _band(name: str) -> dict[str, Any]:
    return {"name": name, "data_type": "uint8", "nodata": 255}


def _page(key: str, path: Path) -> dict[str, Any]:
    kind = {"page": "text/html", "pdf": "application/pdf"}[key]
    return {"href": path, "type": kind, "title": "The results on one page", "roles": ["overview", "metadata"]}


def _place(outline: shapely.Geometry | None) -> dict[str, Any]:
    """Return `geometry` and `bbox`; without an outline only `geometry`, which is null."""
    if outline is None:
        return {"geometry": None}
    parts = _within_the_world(outline)
    return {
        "geometry": shapely.geometry.mapping(shapely.MultiPolygon(parts) if len(parts) > 1 else parts[0]),
        "bbox": [parts[0].bounds[0], *outline.bounds[1:2], parts[-1].bounds[2], outline.bounds[3]],
    }


def _within_the_world(outline: shapely.Geometry) -> list[shapely.Geometry]:
    """Cut an outline at the antimeridian: parts from west to east, all longitudes from -180 to 180."""
    worlds = (shapely.box(west, -90, west + 360, 90) for west in (-540, -180, 180))
    parts = [shapely.intersection(outline, world) for world in worlds]
    return [
        shapely.affinity.translate(part, xoff=360 * turn)
        for turn, part in zip((1, 0, -1), parts, strict=True)
        if part.area > 0
    ]


def _properties(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the properties of an item, without those that are not known."""
    source, version = report["source"], report["versions"]["floodmap"]
    known = {
        "datetime": source["date"],
        "created": report["run"]["finished"],
        "gsd": source["gsd_m"],
        "processing:software": {"floodmap": version},
        "processing:level": "L4",  # output of a model
        "processing:lineage": f"Flood water in {source['name']}, segmented with the model {report['model']['name']}",
        "floodmap:date_of": source.get("date_of"),
        "floodmap:flood_area_m2": report["flood_area_m2"],
        "floodmap:permanent_water_area_m2": report.get("permanent_water_area_m2"),
        "floodmap:observed_share": report["observed_share"],
        "floodmap:failed_windows": len(report["windows"]["failed"]),
        "floodmap:model_sha256": report["model"].get("sha256"),
        "floodmap:source_sha256": source.get("fingerprint"),
    }
    return {**{key: value for key, value in known.items() if _is_known(value)}, **_projection(source)}


def _is_known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def _projection(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the projection extension: the code of the CRS, or its definition if it has no code.

    Without a CRS, the code is null, and only the numbers of rows and columns are known.
    """
    shape = {"proj:shape": [source["height"], source["width"]]}
    if not is_placed(source["crs"]):
        return {"proj:code": None, **shape}
    crs = known_crs(source["crs"])
    authority = crs.to_authority()
    code = ":".join(authority) if authority else None
    transform = Affine(*source["transform"])
    xs, ys = zip(*(transform @ (x, y) for x in (0, source["width"]) for y in (0, source["height"])), strict=True)
    return {
        "proj:code": code,
        **({} if code else {"proj:projjson": crs.to_json_dict()}),
        **shape,
        "proj:transform": source["transform"],
        "proj:bbox": [min(xs), min(ys), max(xs), max(ys)],
    }


def _named(layers: Sequence[Path], name: str) -> Iterator[tuple[str, Path]]:
    """Yield key and path of each vector file and of the other parts of a Shapefile.

    The key is the format for a GeoPackage of floodmap (`gpkg`), else layer and format, such as `flood_geojson`.
    """
    for path in layers:
        for part in (path, *(path.with_suffix(suffix) for suffix in PARTS["shp"] if path.suffix == ".shp")):
            suffix, layer = part.suffix[1:], part.stem.removeprefix(f"{name}_")
            if part == path or (suffix != "qml" and part.exists()):
                yield suffix if layer == name else f"{layer}_{suffix}", part


def _with_file(asset: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return an asset with the relative path, the size and the checksum of its file."""
    path: Path = asset["href"]
    href = Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
    href = href if href.startswith("../") else f"./{href}"
    return {**asset, "href": href, "file:size": path.stat().st_size, "file:checksum": checksum(path)}
