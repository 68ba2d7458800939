"""STAC item of a scene's results: outline, date, CRS, and the files with their sizes and checksums.

Specification: STAC 1.1.0, with the extensions projection 2.0.0, file 2.1.0 and processing 1.2.0.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import shapely
import shapely.affinity

from floodmap.geo.crs import known_crs

VERSION = "1.1.0"
EXTENSIONS = tuple(
    f"https://stac-extensions.github.io/{name}/schema.json"
    for name in ("projection/v2.0.0", "file/v2.1.0", "processing/v1.2.0")
)
"""Addresses of the JSON schemas of the extensions. The addresses are names; nothing is fetched."""

_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_MEDIA_TYPES = {
    ".gpkg": "application/geopackage+sqlite3", ".parquet": "application/vnd.apache.parquet",
    ".geojson": "application/geo+json", ".fgb": "application/vnd.flatgeobuf", ".shp": "application/vnd.shp",
}  # fmt: skip
_CLASSES = "0 dry, 1 flood, 2 permanent water, 255 unobserved"
_SHA2_256 = "1220"
"""First two bytes of a multihash (https://multiformats.io/multihash): SHA2-256, 32 bytes long."""


def stac_item(
    report: Mapping[str, Any],
    outline: shapely.Geometry,
    *,
    mask: Path,
    probability: Path,
    layers: Sequence[Path],
    report_path: Path,
    folder: Path,
) -> dict[str, Any]:
    """Return the STAC item of the results of one scene.

    Args:
        report: content of the JSON report.
        outline: outline of the scene, longitudes and latitudes in degrees (WGS 84), continuous across the antimeridian.
        mask: file of the mask.
        probability: file of the probability raster.
        layers: vector files, as in `FloodMap.layer_paths`.
        report_path: file of the JSON report.
        folder: folder of the item. Paths in the item are relative to it.

    Returns:
        The item as JSON. The date (`datetime`) is the date of the picture. Results of floodmap have the prefix
        `floodmap:` in `properties`. An outline that crosses the antimeridian is cut there, and the first longitude of
        its `bbox` is larger than the second one (RFC 7946, section 5.2).

    Raises:
        OSError: a file cannot be read.
    """
    parts = _within_the_world(outline)
    assets = {
        "mask": {"href": mask, "type": _COG, "title": _CLASSES, "roles": ["data"]},
        "probability": {
            "href": probability, "type": _COG, "title": "Flood in per cent, 255 unobserved", "roles": ["data"],
        },
        **{
            key: {"href": path, "type": _MEDIA_TYPES[path.suffix], "roles": ["data"]}
            for key, path in _named(layers, report["name"])
        },
        "report": {"href": report_path, "type": "application/json", "roles": ["metadata"]},
    }  # fmt: skip
    return {
        "type": "Feature",
        "stac_version": VERSION,
        "stac_extensions": list(EXTENSIONS),
        "id": report["name"],
        "geometry": shapely.geometry.mapping(shapely.MultiPolygon(parts) if len(parts) > 1 else parts[0]),
        "bbox": [parts[0].bounds[0], *outline.bounds[1:2], parts[-1].bounds[2], outline.bounds[3]],
        "properties": _properties(report),
        "links": [],
        "assets": {key: _with_file(asset, folder) for key, asset in assets.items()},
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
    source, version = report["source"], report["versions"]["floodmap"]
    return {
        "datetime": source["date"],
        "created": report["run"]["finished"],
        "gsd": source["gsd_m"],
        **_projection(source),
        "processing:software": {"floodmap": version},
        "processing:lineage": f"Flood water in {source['name']}, segmented with the model {report['model']['name']}",
        "floodmap:flood_area_m2": report["flood_area_m2"],
        "floodmap:observed_share": report["observed_share"],
        "floodmap:failed_windows": len(report["windows"]["failed"]),
    }


def _projection(source: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of the projection extension: the code of the CRS, or its definition if it has no code."""
    crs = known_crs(source["crs"])
    authority = crs.to_authority()
    code = ":".join(authority) if authority else None
    return {
        "proj:code": code,
        **({} if code else {"proj:projjson": crs.to_json_dict()}),
        "proj:shape": [source["height"], source["width"]],
        "proj:transform": source["transform"],
    }


def _named(layers: Sequence[Path], name: str) -> Iterator[tuple[str, Path]]:
    """Yield key and path of each vector file: `gpkg`, or layer and format such as `flood_geojson`."""
    for path in layers:
        suffix, layer = path.suffix[1:], path.stem.removeprefix(f"{name}_")
        yield suffix if suffix == "gpkg" else f"{layer}_{suffix}", path


def _with_file(asset: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return an asset with the relative path, the size and the checksum of its file."""
    path: Path = asset["href"]
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    href = Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
    href = href if href.startswith("../") else f"./{href}"
    return {**asset, "href": href, "file:size": path.stat().st_size, "file:checksum": _SHA2_256 + digest}
