"""Layers of a catalogue, and the columns of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["text", "integer", "real"]


@dataclass(frozen=True, slots=True)
class Layer:
    """Layer of polygons: its columns in order, besides the geometry."""

    name: str
    columns: Mapping[str, Kind]


_MEASURES: dict[str, Kind] = {"area_m2": "real", "perimeter_m": "real"}

FLOOD = Layer(
    "flood",
    {
        "scene": "text", "id": "integer", **_MEASURES, "confidence_mean": "real", "confidence_min": "real",
        "model": "text", "source": "text",
    },
)  # fmt: skip
"""Flood polygons of all scenes. Columns as in the files of the scenes, after the name of the scene."""

UNOBSERVED = Layer("unobserved", {"scene": "text", "id": "integer", "reason": "text", **_MEASURES})
"""Polygons of unobserved ground of all scenes."""

SCENES = Layer(
    "scenes",
    {
        "name": "text", "source": "text", "status": "text", "error": "text", "date": "text", "crs": "text",
        "flood_area_m2": "real", "observed_share": "real", "failed_windows": "integer", "mask": "text",
        "probability": "text", "polygons": "text", "report": "text",
    },
)  # fmt: skip
"""A row for each scene; see `rows.SceneRow`. The geometry is the outline of the scene."""

POLYGON_LAYERS = (FLOOD, UNOBSERVED)
"""Layers with polygons of each scene."""
LAYERS = (*POLYGON_LAYERS, SCENES)
"""Layers of a catalogue, in order."""
