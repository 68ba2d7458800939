"""STAC item of a model: what goes in, what comes out, its weights with size and checksum.

Specification: STAC 1.1.0, with the extensions machine learning model (MLM) 1.4.0, file 2.1.0 and eo 1.1.0. MLM wants a
description of the bands. STAC 1.1.0 forbids `bands` in the properties of an item, so they are `eo:bands` of the asset.
"""

from __future__ import annotations

import json
import math
import re
import struct
from pathlib import Path
from typing import Any

from floodmap._runtime.files import write_whole
from floodmap.errors import ModelError, OutputError
from floodmap.models import registry
from floodmap.output.products.stac_item import CLASSES, SHA2_256, VERSION

EXTENSIONS = tuple(
    f"https://stac-extensions.github.io/{name}/schema.json" for name in ("mlm/v1.4.0", "file/v2.1.0", "eo/v1.1.0")
)  # fmt: skip
"""Addresses of the JSON schemas of the extensions. The addresses are names; nothing is fetched."""

_WORLD = [-180.0, -90.0, 180.0, 90.0]
_BANDS = ("red", "green", "blue")
_MEAN, _STDDEV = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Means and standard deviations of red, green and blue, as in SAM and in `models.sam.common`, which imports torch."""
_ARCHITECTURES = {
    "flood_sam": "Segment Anything (SAM) with an EfficientNet-Lite0 encoder", "vit_b": "Segment Anything (SAM), ViT-B",
    "vit_l": "Segment Anything (SAM), ViT-L", "vit_h": "Segment Anything (SAM), ViT-H",
}  # fmt: skip
_ARTIFACTS = {".safetensors": "safetensors", ".pth": "torch.save"}


def model_item(model: str | Path) -> dict[str, Any]:
    """Return the STAC item of a model, as `floodmap models stac` writes it. Nothing is fetched.

    Args:
        model: a name (`floodmap models list`), or a .safetensors or .pth file.

    Returns:
        The item as JSON. The asset `model` names the weights by their file name: keep them beside the item. For a model
        that is not part of floodmap it is the download address. Geometry and period are the whole world and all times,
        as the extension recommends for a model that is bound to no place.

    Raises:
        ModelError: there is no model of this name, or the file is damaged.
    """
    known = None if _is_file(model) else registry.find(str(model))
    resolved = None if known else registry.resolve(Path(model))
    path = known.path if known else Path(model)
    header = registry.read_metadata(path) if path.suffix == ".safetensors" and path.is_file() else {}
    architecture = (known.architecture if known else resolved and resolved.architecture) or "unknown"
    card = registry.model_card() if known and known.shipped else {}
    begun_from = card.get("begun_from") or _read(header, "training").get("base")
    parameters = _parameters(path) if path.suffix == ".safetensors" and path.is_file() else None
    facts = {
        "datetime": None,
        "start_datetime": "1900-01-01T00:00:00Z",
        "end_datetime": "9999-12-31T23:59:59Z",
        "description": known.description if known else f"Flood segmentation, weights {path.name}",
        "license": known.licence if known else None,
        "mlm:name": _plain(known.name if known else path.stem),
        "mlm:architecture": _ARCHITECTURES.get(architecture, architecture),
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:framework": "PyTorch",
        "mlm:total_parameters": parameters,
        "mlm:pretrained": True,
        "mlm:pretrained_source": begun_from,
        "mlm:accelerator_constrained": False,
        "mlm:input": [_input()],
        "mlm:output": [_output(architecture)],
        "floodmap:trained_on": card.get("trained_on"),
        "floodmap:scores": _read(header, "scores") or None,
    }
    west, south, east, north = _WORLD
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    weights = {
        "href": known.url if known and known.url else f"./{path.name}",
        "type": "application/octet-stream",
        "title": "Weights",
        "roles": ["mlm:model", "mlm:weights", "data"],
        "eo:bands": [{"name": band, "common_name": band} for band in _BANDS],
        "mlm:artifact_type": _ARTIFACTS.get(path.suffix, "torch.save"),
        "file:size": path.stat().st_size if path.is_file() else None,
        "file:checksum": SHA2_256 + (known.sha256 if known else resolved.sha256 if resolved else ""),
    }
    return {
        "type": "Feature",
        "stac_version": VERSION,
        "stac_extensions": list(EXTENSIONS),
        "id": known.name if known else path.stem,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": _WORLD,
        "properties": {key: value for key, value in facts.items() if value is not None or key == "datetime"},
        "links": [],
        "assets": {"model": {key: value for key, value in weights.items() if value is not None}},
    }


def write_model_item(model: str | Path, path: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Write the STAC item of a model, completely or not at all, and return it; see `model_item`.

    Args:
        model: name or file of the model.
        path: the JSON file.
        overwrite: True: replace a file that exists.

    Raises:
        OutputError: the file exists already, or cannot be written.
        ModelError: there is no such model.
    """
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists already; choose another name or add --overwrite")
    item = model_item(model)
    write_whole(path, json.dumps(item, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return item


def _is_file(model: str | Path) -> bool:
    """Return whether a model is given as a file. A name has precedence, as in `registry.resolve`."""
    name = str(model)
    return registry.ALIASES.get(name, name) not in registry.registry() and Path(model).is_file()


def _plain(name: str) -> str:
    """Return a name in the letters that the extension allows: it begins with a letter, and ends with one or a digit."""
    plain = re.sub(r"[^a-zA-Z0-9_.-]", "-", name)
    return plain if re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.-]+[a-zA-Z0-9]", plain) else f"model-{plain}-floodmap"


def _read(header: dict[str, str], key: str) -> dict[str, Any]:
    """Return an entry of the header of a file of weights; {} if there is none, or none that can be read."""
    try:
        read = json.loads(header.get(key, "{}"))
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}


def _parameters(path: Path) -> int:
    """Return the number of parameters in a safetensors file, from its header."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        return sum(math.prod(one["shape"]) for name, one in header.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise ModelError(f"{path} is no safetensors file, or a damaged one: {error}") from error


def _input() -> dict[str, Any]:
    """Return the description of the input: colours of a window, 0 to 255."""
    return {
        "name": "Window of an orthophoto, in colour",
        "bands": list(_BANDS),
        "input": {
            "shape": [-1, 3, -1, -1], "dim_order": ["batch", "channel", "height", "width"], "data_type": "uint8",
        },
        "value_scaling": [
            {"type": "z-score", "mean": mean, "stddev": stddev} for mean, stddev in zip(_MEAN, _STDDEV, strict=True)
        ],
        "resize_type": None,
        "description": "One stretch to 8 bits for the whole scene; sides of a window are multiples of 32 pixels",
    }  # fmt: skip


def _output(architecture: str) -> dict[str, Any]:
    """Return the description of the output: a probability for each pixel, or for Meta's models a mask logit."""
    classes = [one for one in CLASSES if one["value"] in (0, 1)]
    what = "Flood probability, 0 to 1" if architecture == "flood_sam" else "Logit of the prompted object"
    return {
        "name": "flood",
        "tasks": ["semantic-segmentation"],
        "result": {
            "shape": [-1, -1, -1], "dim_order": ["batch", "height", "width"], "data_type": "float32",
        },
        "description": f"{what}; flood from 0.5 on, if no other threshold is chosen",
        "classification:classes": classes,
    }  # fmt: skip
