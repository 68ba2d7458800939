"""Description of a run in JSON types: source, model, settings and versions on which the results depend."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from floodmap._runtime.versions import version
from floodmap.geo.source_name import shown_name
from floodmap.imagery.raster.fingerprint import of_input
from floodmap.imagery.scene import Scene
from floodmap.models.infrared import WithInfrared
from floodmap.models.protocol import Segmenter
from floodmap.models.training_record import Role
from floodmap.options import SegmentOptions


def describe(
    scene: Scene, segmenter: Segmenter, options: SegmentOptions, fingerprints: Mapping[str, str | None] | None = None
) -> dict[str, Any]:
    """Describe a run in a dictionary of JSON types: source, model, settings and versions.

    The results of the run depend on these values.

    Args:
        scene: the open scene.
        segmenter: the loaded model.
        options: settings of the run.
        fingerprints: see `described_options`.
    """
    about = {
        "source": {
            "name": scene.path.label,
            "fingerprint": scene.fingerprint,
            "width": scene.width,
            "height": scene.height,
            "crs": scene.crs.to_string() if scene.crs else None,
            "transform": list(scene.transform)[:6],
            "gsd_m": scene.gsd_m,
            "bands": list(scene.bands),
            "near_infrared": {"band": scene.nir_band, "used": isinstance(segmenter, WithInfrared)},
            "nodata": scene.nodata,
            "date": scene.date.isoformat(),
            "date_of": "picture" if scene.is_dated else "file",
        },
        "model": {
            "name": segmenter.name,
            "sha256": segmenter.sha256,
            "runs_on": segmenter.runs_on,
            "seen_in_training": _role_in_training(scene, segmenter),
        },
        "settings": described_options(options, fingerprints),
        "versions": versions(),
    }
    described: dict[str, Any] = jsonable(about)
    return described


def described_options(options: SegmentOptions, fingerprints: Mapping[str, str | None] | None = None) -> dict[str, Any]:
    """Return the options on which results depend, by name, and the fingerprints of the files in the options.

    Options that decide which files are written, and `overwrite` and `resume`, are left out, because the content of the
    results does not depend on them. Of a URL the query is left out, because it may contain a signature.

    Args:
        options: settings of a run.
        fingerprints: fingerprint of each file by name of the option; None: the fingerprints are computed here. See
            `imagery.raster.fingerprint.of_input`.
    """
    chosen = asdict(options)
    for name in ("overwrite", "resume", "keep_features", "formats", "report", "pdf", "stac", "schema", "flood_type"):
        del chosen[name]
    shown = {name: shown_name(path) for name, path in options.files.items()}
    chosen["scene"] |= {name: shown[name] for name in ("mask", "aoi") if name in shown}
    chosen |= {name: shown[name] for name in ("prompts", "permanent_water") if name in shown}
    found = {key: of_input(path) if fingerprints is None else fingerprints[key] for key, path in options.files.items()}
    return {**chosen, "fingerprints": found}


def versions() -> dict[str, str]:
    """Return the versions of floodmap and of the packages on which results depend, by name of the package."""
    return {name: version(name) for name in ("floodmap", "rasterio", "torch", "numpy", "shapely")}


def _role_in_training(scene: Scene, segmenter: Segmenter) -> Role | None:
    """Return the role of the scene in the training of the model: "train", or "val"; None: not used, or not known.

    The scores on a scene that was used in training are not representative of other scenes."""
    file = scene.path.path
    return segmenter.training.role_of(file) if segmenter.training is not None and file is not None else None


def jsonable(value: Any) -> Any:
    """Convert a value to JSON types, so that the value can be compared with values from a JSON file.

    Paths, NaN and infinity become text, and tuples become lists. Dictionaries and lists are converted with all items.
    """
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no NaN
    return str(value) if isinstance(value, Path) else value
