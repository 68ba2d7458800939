"""Districts: the areas by which figures are listed, without overlaps, in the pixel coordinates of the scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from floodmap.analysis.exposure.features import Features
from floodmap.analysis.exposure.geometry import (
    AREAL,
    LINEAR,
    is_of,
    polygons_in_pixels,
    repaired,
    ring_edges,
)
from floodmap.analysis.exposure.overlap import PolygonAreas
from floodmap.analysis.exposure.result import Warn
from floodmap.errors import VectorError
from floodmap.geo.areas import measure
from floodmap.geo.geogrid import GeoGrid

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Geometries = NDArray[np.object_]

NAME_FIELDS = ("name", "NAME", "Name", "district", "NAME_2", "ADM2_EN", "shapeName")
"""Fields that are looked for, in this order, for the name of a district."""
OVERLAP = 1e-6
"""Share of the area of all districts that may overlap, from rounding, before it is cut off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Districts:
    """Districts that touch the scene; without a file of districts there are none."""

    names: list[str] = field(default_factory=list)
    """Name of each district."""
    ids: list[int] = field(default_factory=list)
    """Number of each district in its file, from 1."""
    pixels: Geometries
    """Shapely polygons in pixel coordinates, object (n,); they do not overlap."""
    own: Geometries
    """Shapely polygons in the CRS of the file, object (n,), whole and as in the file except for repairs."""
    area_m2: Floats
    """Geodesic area of each whole district, float64 (n,)."""
    features: Features | None = None
    """The file."""
    repaired: int = 0
    """Number of polygons that were repaired."""
    elsewhere: int = 0
    """Number of districts that do not touch the scene."""
    name_field: str | None = None
    """Field of the names; None: they are numbered."""

    def __len__(self) -> int:
        return len(self.pixels)

    def areas(self, grid: GeoGrid) -> PolygonAreas:
        """Return the job that computes the areas of the classes in each district."""
        areas = PolygonAreas(grid)
        areas.append(ring_edges(self.pixels)[0], len(self))
        return areas

    def of_points(self, xy: Floats) -> Ints:
        """Return the district of each point: int64 (m,), from 0; the number of districts for a point in none.

        Args:
            xy: float64 (m, 2), column and row.
        """
        found = np.full(len(xy), len(self), np.int64)
        if len(self) and len(xy):
            district, point = shapely.STRtree(shapely.points(xy)).query(self.pixels, predicate="intersects")
            np.minimum.at(found, point, district)  # on a border, the first
        return found

    def cut(self, lines: Geometries) -> tuple[Geometries, Ints, Ints]:
        """Cut lines at the borders of districts. Every part of a line is in one district or in none.

        Args:
            lines: shapely LineStrings in pixel coordinates, object (m,).

        Returns:
            The parts, the index of the line of each part, and its district as in `of_points`.
        """
        outside = len(self)
        if not outside or not len(lines):
            return lines, np.arange(len(lines)), np.full(len(lines), outside, np.int64)
        tree = shapely.STRtree(lines)
        district = np.full(len(lines), outside, np.int64)
        covering, covered = tree.query(self.pixels, predicate="covers")
        np.minimum.at(district, covered, covering)
        meeting, met = tree.query(self.pixels, predicate="intersects")
        across = district[met] == outside
        meeting, met = meeting[across], met[across]
        rest = lines.copy()
        found = [(lines[district < outside], np.flatnonzero(district < outside), district[district < outside])]
        for one in np.unique(meeting):
            chosen = met[meeting == one]
            parts, owner = _lines_of(shapely.intersection(rest[chosen], self.pixels[one]))
            found.append((parts, chosen[owner], np.full(len(parts), one, np.int64)))
            rest[chosen] = shapely.difference(rest[chosen], self.pixels[one])
        chosen = np.flatnonzero(district == outside)
        parts, owner = _lines_of(rest[chosen])
        found.append((parts, chosen[owner], np.full(len(parts), outside, np.int64)))
        pieces, line, where = (np.concatenate(columns) for columns in zip(*found, strict=True))
        return pieces, line, where


def no_districts() -> Districts:
    """Return the districts without a file: none."""
    return Districts(pixels=np.empty(0, object), own=np.empty(0, object), area_m2=np.zeros(0))


def read_districts(features: Features, grid: GeoGrid, name_field: str | None, warn: Warn) -> Districts:
    """Read the districts that touch a scene.

    If districts overlap by more than rounding, the overlap belongs to the first of them, with a warning.

    Args:
        features: file of polygons.
        grid: pixel grid of the scene.
        name_field: field with the names; None: one of `NAME_FIELDS`, else the districts are numbered.
        warn: function that is called with each warning.

    Raises:
        VectorError: the file cannot be used, has no such field, or has other geometries than polygons.
    """
    named = _name_field(features, name_field)
    place = features.place(grid)
    columns = [named] if named else []
    batches = list(features.batches(None, columns))
    whole = np.concatenate([batch.geometries for batch in batches]) if batches else np.empty(0, object)
    names = np.concatenate([batch.attributes[named] for batch in batches]) if named and batches else None
    present = ~(shapely.is_missing(whole) | shapely.is_empty(whole))
    if not is_of(whole[present], AREAL).all():
        kinds = sorted({geometry.geom_type for geometry in whole[present]} - {"Polygon", "MultiPolygon"})
        raise VectorError(f"{features.label} holds {', '.join(kinds)}; districts are polygons")
    ids = np.flatnonzero(present) + 1
    polygons, fixed = repaired(whole[present])
    near = place.cut(polygons)
    kept = ~shapely.is_empty(near)
    pixels = polygons_in_pixels(_areal(near[kept]), place)
    touching = shapely.intersects(pixels, shapely.box(0, 0, grid.width, grid.height))
    touching &= shapely.area(shapely.intersection(pixels, shapely.box(0, 0, grid.width, grid.height))) > 0
    chosen = np.flatnonzero(kept)[touching]
    if not len(chosen):
        warn(f"no district of {features.label} overlaps the scene; check its CRS")
    own = polygons[chosen]
    return Districts(
        names=[_name(names, number) for number in ids[chosen]],
        ids=[int(number) for number in ids[chosen]],
        pixels=_disjoint(pixels[touching], features.label, warn),
        own=own,
        area_m2=_areas(own, features.crs),
        features=features,
        repaired=fixed,
        elsewhere=int(present.sum()) - len(chosen),
        name_field=named,
    )


def _name_field(features: Features, wanted: str | None) -> str | None:
    if wanted is not None and wanted not in features.fields:
        raise VectorError(f"{features.label} has no field {wanted!r}; it has {', '.join(features.fields) or 'none'}")
    return wanted or next((name for name in NAME_FIELDS if name in features.fields), None)


def _name(names: NDArray[Any] | None, number: int) -> str:
    """Return the name of the district with a number in the file, from 1."""
    name = None if names is None else names[number - 1]
    return f"district {number}" if name is None or name != name or name == "" else str(name)


def _areal(geometries: Geometries) -> Geometries:
    """Return the polygons of the results of an intersection, object (n,)."""
    if is_of(geometries, AREAL).all():
        return geometries
    parts, owner = shapely.get_parts(geometries, return_index=True)
    whole = np.full(len(geometries), shapely.MultiPolygon(), object)
    areal = is_of(parts, AREAL[:1])
    if areal.any():
        shapely.multipolygons(parts[areal], indices=owner[areal], out=whole)
    return whole


def _lines_of(geometries: Geometries) -> tuple[Geometries, Ints]:
    """Return the LineStrings of geometries, object (m,), and the index of the geometry of each."""
    parts, owner = shapely.get_parts(geometries, return_index=True)
    inner, index = shapely.get_parts(parts, return_index=True)  # lines of a collection may be multi-part
    linear = is_of(inner, LINEAR[:1]) & ~shapely.is_empty(inner)
    return inner[linear], owner[index[linear]]


def _areas(polygons: Geometries, crs: pyproj.CRS | None) -> Floats:
    parts, owner = shapely.get_parts(polygons, return_index=True)
    return np.bincount(owner, measure(parts, crs)[0], len(polygons)).astype(float)


def _disjoint(polygons: Geometries, label: str, warn: Warn) -> Geometries:
    """Return polygons without the parts that earlier polygons cover; warn if there are such parts."""
    area = float(shapely.area(polygons).sum())
    common = area - float(shapely.area(shapely.union_all(polygons))) if area else 0.0
    if common <= OVERLAP * area:
        return polygons
    warn(
        f"districts of {label} overlap by {100 * common / area:.3g} % of their area near the scene; such ground counts "
        "for the first of them, so give districts of one administrative level"
    )
    apart = polygons.copy()
    below, above = shapely.STRtree(polygons).query(polygons, predicate="intersects")
    for number in range(1, len(polygons)):
        earlier: Sequence[int] = above[(below == number) & (above < number)]
        if len(earlier):
            apart[number] = shapely.difference(apart[number], shapely.union_all(polygons[earlier]))
    return _areal(apart)
