"""Corrections of a result: polygons and points with a class, read from a vector file or from the file of a review."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize

from floodmap.analysis.review.edits import EDITS, PLACES, STATUS
from floodmap.errors import LabelError
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.vectors import read_vectors
from floodmap.geo.window import Window
from floodmap.inference.prompt_files import filled_layers
from floodmap.training.samples import IGNORED

FLOOD, DRY, KEPT = 1, 0, 2
"""Labels of corrections. `KEPT`: the result is right, whatever it is. Ground without a correction is `IGNORED`."""
POINT_RADIUS = 2.5
"""Radius in pixels of the ground that a point corrects."""
LABELS = {
    "1": FLOOD, "flood": FLOOD, "flooded": FLOOD, "true": FLOOD, "water": FLOOD, "permanent water": FLOOD,
    "0": DRY, "dry": DRY, "false": DRY, "unobserved": IGNORED,
}  # fmt: skip
"""Values of the field `label` or `class`, and their labels. Permanent water is water to a model."""
FIELDS = ("label", "class")
"""Fields that hold the class of a correction; the first that a layer has is used."""
OF_STATUS = {"open": (), "accepted": (KEPT,), "rejected": (DRY,), "redrawn": (DRY,)}
"""Labels of a place of a review, by its status; see `floodmap.analysis.review.edits.STATUS`."""

Codes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrections:
    """Polygons with a label, in pixels of the scene. Later ones are laid over earlier ones."""

    shapes: NDArray[np.object_]
    """Shapely polygons (column, row), object (n,)."""
    labels: NDArray[np.int64]
    """Label of each polygon, int64 (n,): `FLOOD`, `DRY`, `KEPT` or `IGNORED`."""

    def __len__(self) -> int:
        return len(self.shapes)

    def touches(self, window: Window, factor: int = 1) -> bool:
        """Return whether a polygon meets a window.

        Args:
            window: the window, in pixels of the scene divided by `factor`.
            factor: scene pixels for each pixel of the window, along each side.
        """
        return bool(shapely.intersects(self.shapes, _box(window, factor)).any())

    def drawn(self, window: Window, factor: int = 1) -> Codes:
        """Return the label of every pixel of a window, uint8 (height, width), `IGNORED` without a correction.

        Args:
            window: the window, in pixels of the scene divided by `factor`.
            factor: scene pixels for each pixel of the window. A pixel has the label at its centre.
        """
        near = np.flatnonzero(shapely.intersects(self.shapes, _box(window, factor)))
        shape_hw = window.height, window.width
        where = Affine(factor, 0, window.col_off * factor, 0, factor, window.row_off * factor)
        drawn = [(self.shapes[index], int(self.labels[index])) for index in near]
        if not drawn:
            return np.full(shape_hw, IGNORED, np.uint8)
        return np.asarray(rasterize(drawn, shape_hw, fill=IGNORED, transform=where, dtype=np.uint8))

    def subset(self, chosen: NDArray[np.bool_]) -> Corrections:
        """Return the corrections at the places where `chosen`, bool (n,), is True."""
        return Corrections(shapes=self.shapes[chosen], labels=self.labels[chosen])


def read_corrections(path: Path, grid: GeoGrid) -> Corrections:
    """Read corrections from a vector file.

    A file of `floodmap review` has the layers `edits` and `review`. Polygons of `edits` count with their `class`. A
    place of `review` is dry if its status is rejected or redrawn, and right as it is if its status is accepted. In
    every other file, each layer has a field `label` or `class`: 1, flood or water; 0 or dry; or unobserved.

    Args:
        path: the file, in any CRS.
        grid: grid of the scene.

    Returns:
        Corrections inside the scene, clipped to it. Points have become small discs.

    Raises:
        VectorError: the file cannot be read, or has no CRS while the scene has one.
        LabelError: a class is unknown or missing, or no correction lies in the scene.
    """
    layers = filled_layers(path)
    is_review = EDITS in layers or PLACES in layers
    names: list[str | None] = [name for name in (PLACES, EDITS) if name in layers] if is_review else layers
    found = [_layer(path, grid, name, is_place=is_review and name == PLACES) for name in names]
    shapes = np.concatenate([shapes for shapes, _ in found])
    labels = np.concatenate([labels for _, labels in found])
    if not len(shapes):
        raise LabelError(f"{path} has no corrections: no polygon of edits, and no place that is not open")
    clipped = shapely.intersection(shapely.make_valid(shapes), shapely.box(0, 0, grid.width, grid.height))
    inside = shapely.area(clipped) > 0
    if not inside.any():
        raise LabelError(f"{path}: none of its {len(shapes)} corrections lies inside the scene; is its CRS right?")
    return Corrections(shapes=clipped, labels=labels).subset(inside)


def without_ignored(corrections: Corrections) -> Corrections:
    """Cut the polygons so that they do not overlap, and leave out what is `IGNORED`; the last drawn one stays whole."""
    shapes = corrections.shapes.copy()
    for index in range(len(shapes)):
        later = shapes[index + 1 :][shapely.intersects(shapes[index + 1 :], shapes[index])]
        if len(later):
            shapes[index] = shapely.difference(shapes[index], shapely.union_all(later))
    whole = replace(corrections, shapes=shapes)
    return whole.subset((shapely.area(shapes) > 0) & (corrections.labels != IGNORED))


def _layer(
    path: Path, grid: GeoGrid, layer: str | None, *, is_place: bool
) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """Return the polygons of a layer in pixels of the scene, object (n,), and their labels, int64 (n,)."""
    vectors = read_vectors(path, crs=grid.crs, layer=layer)
    in_pixels = shapely.transform(vectors.geometries, grid.to_pixels)
    values = _column(path, vectors.attributes, ("status",) if is_place else FIELDS)
    shapes: list[shapely.Geometry] = []
    labels: list[int] = []
    for index, (geometry, value) in enumerate(zip(in_pixels, values, strict=True)):
        if "Line" in geometry.geom_type or geometry.geom_type == "GeometryCollection":
            raise LabelError(f"{path} holds a {geometry.geom_type}; corrections are polygons and points")
        is_point = "Point" in geometry.geom_type
        of_value = _of_status(path, value) if is_place else (_label(path, value, index),)
        shapes += [geometry.buffer(POINT_RADIUS) if is_point else geometry] * len(of_value)
        labels += of_value
    return np.array(shapes, object).reshape(-1), np.array(labels, np.int64)


def _column(path: Path, columns: dict[str, NDArray[Any]], fields: tuple[str, ...]) -> NDArray[Any]:
    by_name = {name.lower(): values for name, values in columns.items()}
    for field in fields:
        if field in by_name:
            return by_name[field]
    raise LabelError(f"{path} has no field {' or '.join(fields)}; give every correction one: flood or dry")


def _label(path: Path, value: Any, index: int) -> int:
    if isinstance(value, (float, np.floating)) and math.isfinite(value) and value == int(value):
        value = int(value)
    word = str(value).strip().lower()
    if word not in LABELS:
        raise LabelError(f"{path}: class {value} of feature {index} is not understood; give flood (1) or dry (0)")
    return LABELS[word]


def _of_status(path: Path, value: Any) -> tuple[int, ...]:
    word = str(value).strip().lower() if isinstance(value, str) and value.strip() else STATUS[0]
    if word not in OF_STATUS:
        raise LabelError(f"{path}: status is {value!r}; it can be {', '.join(STATUS)}")
    return OF_STATUS[word]


def _box(window: Window, factor: int) -> shapely.Geometry:
    bounds = (window.col_off, window.row_off, window.col_end, window.row_end)
    return shapely.box(*(bound * factor for bound in bounds))
