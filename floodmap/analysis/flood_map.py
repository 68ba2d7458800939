"""A finished result, found again by the name of one of its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from floodmap.errors import SceneError
from floodmap.output.paths import page_path_of, result_paths
from floodmap.output.results import FloodMap
from floodmap.output.vector_files import PARTS

_ENDINGS = ("_probability.tif", "_mask.tif", "_report.html", ".json", ".gpkg")
"""Ends of the names of files by which a result can be named."""


def open_flood_map(given: str | Path | FloodMap) -> FloodMap:
    """Find the files of a result of `segment` or `mosaic`.

    Args:
        given: one of its files (`NAME.json`, `NAME_mask.tif`, `NAME.gpkg` ...), the folder and the name
            (`results/scene`), a folder with one result, or a `FloodMap`.

    Raises:
        SceneError: there is no such result, or files of it are missing.
    """
    if isinstance(given, FloodMap):
        return given
    path = Path(given)
    if path.is_dir():
        names = sorted(one.name.removesuffix("_mask.tif") for one in path.glob("*_mask.tif"))
        if len(names) != 1:
            shown = f"{len(names)} results ({', '.join(names[:5])}); name one of them" if names else "no result"
            raise SceneError(f"{path} has {shown}")
        return _read(path, names[0])
    name = next((path.name.removesuffix(end) for end in _ENDINGS if path.name.endswith(end)), path.name)
    return _read(path.parent, name)


def _read(folder: Path, name: str) -> FloodMap:
    report_path = folder / f"{name}.json"
    try:
        report: dict[str, Any] = json.loads(report_path.read_text("utf-8"))
        formats, permanent = report["run"]["formats"], "permanent_water" in report["pixels"]
        float(report["settings"]["threshold"])
    except FileNotFoundError:
        raise SceneError(f"{report_path} is missing: give a finished result of floodmap segment") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise SceneError(f"{report_path} is not the JSON of a result of floodmap segment") from None
    mask, probability, _, *layers = paths = result_paths(folder, name, formats, permanent=permanent)
    of_cems = result_paths(folder, name, formats, permanent=permanent, cems=report["run"].get("schema") == "cems")
    if missing := [path for path in paths if not path.exists()]:
        raise SceneError(f"{missing[0]} is missing; segment the scene again, or bring the file back")
    page = page_path_of(folder, name)
    return FloodMap(
        name=name, mask_path=mask, probability_path=probability, layer_paths=tuple(layers), report_path=report_path,
        report=report, page_path=page if page.exists() else None,
        cems_paths=tuple(path for path in of_cems if path not in paths and path.exists()),
    )  # fmt: skip


def files_of(flood_map: FloodMap) -> list[Path]:
    """Return all files of a result, with styles and the parts of Shapefiles, without the HTML report."""
    vectors = [*flood_map.layer_paths, *flood_map.cems_paths]
    files = [flood_map.mask_path, flood_map.probability_path, *vectors, flood_map.report_path]
    beside = [path.with_suffix(".qml") for path in files[:2]]
    beside += [path.with_suffix(part) for path in vectors for part in PARTS.get(path.suffix[1:], ())]
    return [path for path in dict.fromkeys([*files, *beside]) if path.exists()]
