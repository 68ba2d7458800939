"""Outlines of all components of a scene in a folder, so that they need not be traced again after a change."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from floodmap.correction.outlines.cells import Nodes
from floodmap.geo.geogrid import GeoGrid, pixel_m2_at

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
FORMAT: Final = 1
_META: Final = "outlines.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How outlines were made from the codes; see `polygons.outlined`."""

    shape_hw: tuple[int, int]
    """Rows and columns of the scene."""
    kinds: tuple[int, ...]
    """Kind of each code, 256 values."""
    of_water: tuple[int, ...]
    """Kinds of which small polygons are dropped."""
    min_area_m2: float
    """Smaller polygons of water are dropped."""
    simplify_m: float
    """See `polygons.polygonize`."""
    twice_area: int
    """See `simplify.twice_area_of`. 0: outlines are not simplified."""
    centre_xy: tuple[float, float]
    """Pixel (column, row) that is the centre of the plane of areas and perimeters; see `areas.measure`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlines:
    """All n components of a scene, in ascending order of `first`; also those that are too small for a polygon.

    The vertices are those of `tracing.trace`, before they are simplified, in the same order.
    """

    rules: Rules
    """How the outlines were made."""
    x: NDArray[np.int32]
    """Column of each vertex, int32 (vertices,)."""
    y: NDArray[np.int32]
    """Row of each vertex, int32 (vertices,)."""
    fates: NDArray[np.uint8]
    """What became of each vertex, uint8 (vertices,); see `simplify.Fates`. `simplify.KEPT` in dropped components."""
    ring_ends: Ints
    """For each ring, the index of its last vertex plus 1, int64 (rings,). A ring does not repeat its first vertex."""
    ring_owner: NDArray[np.int32]
    """Component of each ring, int32 (rings,). The first ring of a component is the shell."""
    kind: NDArray[np.uint8]
    """See `tracing.Components`."""
    first: Ints
    """See `tracing.Components`."""
    n_pixels: Ints
    """See `tracing.Components`."""
    code_sum: Ints
    """See `tracing.Components`."""
    code_min: Ints
    """See `tracing.Components`."""
    kept: NDArray[np.bool_]
    """False for components that are dropped, because they are too small."""
    area_m2: Floats
    """Area of each polygon in square metres. NaN for dropped components, and without a CRS."""
    perimeter_m: Floats
    """Perimeter of each polygon in metres. NaN for dropped components, and without a CRS."""
    node_first: Ints
    """Nodes of the scene, see `cells.Nodes`, in ascending order of `first`, int64 (nodes,)."""
    node_kind: NDArray[np.uint8]
    """See `cells.Nodes`."""
    node_pixels: Ints
    """See `cells.Nodes`."""
    node_sum: Ints
    """See `cells.Nodes`."""
    node_min: NDArray[np.uint8]
    """See `cells.Nodes`."""
    contacts: Ints
    """Pairs of nodes that touch across borders of cells, int64 (contacts, 2)."""
    node_owner: Ints
    """Component of each node, int64 (nodes,)."""

    @property
    def nodes(self) -> Nodes:
        """The nodes of the scene."""
        return Nodes(
            first=self.node_first, kind=self.node_kind, n_pixels=self.node_pixels, code_sum=self.node_sum,
            code_min=self.node_min,
        )  # fmt: skip

    @property
    def ring_begins(self) -> Ints:
        """For each ring, the index of its first vertex, int64 (rings,)."""
        return np.append(0, self.ring_ends)[:-1]

    @classmethod
    def load(cls, folder: Path) -> Outlines | None:
        """Read outlines that `recording.Recording` wrote. None: there are none, or not of this format."""
        try:
            record = json.loads((folder / _META).read_text("utf-8"))
            if record.pop("format") != FORMAT:
                return None
            columns: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in record.items()
            }
            rules = Rules(**columns)
            return cls(rules=rules, **{name: np.load(folder / f"{name}.npy") for name in _ARRAYS})
        except (OSError, ValueError, KeyError, TypeError, EOFError):
            return None


_ARRAYS: Final = tuple(field.name for field in fields(Outlines) if field.name != "rules")


def write_rules(folder: Path, rules: Rules) -> None:
    """Write the rules of outlines into the folder of the outlines."""
    record: dict[str, Any] = {"format": FORMAT}
    record |= {field.name: getattr(rules, field.name) for field in fields(Rules)}
    (folder / _META).write_text(json.dumps(record), "utf-8")


def tolerance_px(simplify_m: float, bounds: NDArray[np.float64], grid: GeoGrid) -> float:
    """Return the tolerance of `simplify.simplified` in pixels. 0: outlines are not simplified.

    Args:
        simplify_m: see `polygons.polygonize`.
        bounds: west, north, east, south of all polygons in pixels, before they are simplified; NaN without polygons.
        grid: grid of the scene.
    """
    if not simplify_m or np.isnan(bounds).any():
        return 0.0
    return simplify_m / math.sqrt(pixel_m2_at(*bounds.tolist(), grid=grid))


def joined_bounds(one: Floats, other: Floats) -> Floats:
    """Return the smallest rectangle (west, north, east, south) around two rectangles. NaN stands for no rectangle."""
    return np.concatenate([np.fmin(one[:2], other[:2]), np.fmax(one[2:], other[2:])])


def ranges(begins: Ints, sizes: Ints) -> Ints:
    """Return the integers of several ranges, one range after the other, int64 (sum of sizes,)."""
    ends = np.cumsum(sizes)
    if not len(ends):
        return np.empty(0, np.int64)
    return np.repeat(begins - (ends - sizes), sizes) + np.arange(ends[-1])
