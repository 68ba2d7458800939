"""Buildings: the share of each footprint under water, and their counts by district."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import shapely
from numpy.typing import NDArray

from floodmap.analysis.exposure.features import Batch, Features
from floodmap.analysis.exposure.geometry import (
    AREAL,
    PUNCTUAL,
    Place,
    is_of,
    points_in_pixels,
    repaired,
    ring_edges,
)
from floodmap.analysis.exposure.overlap import Job, PointClasses, PolygonAreas, Strip
from floodmap.analysis.exposure.pieces import Edges
from floodmap.analysis.exposure.result import CLASSES, DRY, UNOBSERVED
from floodmap.errors import VectorError
from floodmap.geo.geogrid import GeoGrid

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Geometries = NDArray[np.object_]

CLASSES_OF_SHARE = (0.0, 0.1, 0.5)
"""Shares of a footprint under water from which a building is in each class; the first: any water at all."""
EDGES = 6_000_000
"""Number of edges from which on a pass over the raster begins; an edge takes about 50 bytes."""
_ROUNDING = 1e-9

COUNTED, PARTLY_UNOBSERVED, WHOLLY_UNOBSERVED = range(3)


@dataclass(slots=True, kw_only=True)
class BuildingSums:
    """Sums of buildings by district; the last row of each array is for those in no district."""

    counts: Ints
    """int64 (districts + 1, 3): all buildings in the scene, those with unobserved ground, those wholly unobserved."""
    wet: Ints
    """int64 (districts + 1, 3, 3): buildings by class of share (`CLASSES_OF_SHARE`) and figure (lower, best, upper)."""
    area_m2: Floats
    """float64 (districts + 1,): area of the footprints in the scene."""
    unobserved_m2: Floats
    """float64 (districts + 1,): unobserved area of the footprints in the scene."""
    wet_m2: Floats
    """float64 (districts + 1, 3): area of the footprints under water, by figure."""

    @classmethod
    def zeros(cls, rows: int) -> BuildingSums:
        """Return sums of nothing for a number of rows."""
        return cls(
            counts=np.zeros((rows, 3), np.int64), wet=np.zeros((rows, 3, 3), np.int64), area_m2=np.zeros(rows),
            unobserved_m2=np.zeros(rows), wet_m2=np.zeros((rows, 3)),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """Buildings of a job after the pass over the raster; the arrays are (n,) or (n, 3)."""

    inside: Bools
    """Whether the building is in the scene, in whole or in part."""
    shares: Floats
    """Share of the footprint under water: lower, best, upper; float64 (n, 3)."""
    unobserved: Floats
    """Share of the footprint that is unobserved or outside of the scene."""
    areas_m2: Floats
    """Areas of the classes in the scene, float64 (n, `CLASSES`)."""


class Areas(Protocol):
    """What buildings are counted by, such as `districts.Districts`."""

    @property
    def names(self) -> Sequence[str]:
        """Name of each area; only tables need them."""

    def __len__(self) -> int:
        """Return the number of areas."""

    def of_points(self, xy: Floats) -> Ints:
        """Return the area of each point, int64 (m,), from column and row; the number of areas for a point in none."""


@dataclass(kw_only=True)
class Buildings:
    """A file of buildings, its sums by district, and the share under water of each building."""

    features: Features
    districts: Areas
    grid: GeoGrid
    sums: BuildingSums = field(init=False)
    repaired: int = 0
    """Number of polygons that were repaired."""
    shares: list[NDArray[np.float32]] = field(default_factory=list)
    """For each batch, the columns lower, best, upper, unobserved and district, float32 (n, 5); NaN outside."""
    keep_shares: bool = False
    """True: fill `shares`, in the order of the features in the file."""
    place: Place = field(init=False)

    def __post_init__(self) -> None:
        self.place = self.features.place(self.grid)
        self.sums = BuildingSums.zeros(len(self.districts) + 1)

    @property
    def in_scene(self) -> int:
        """Number of buildings in the scene."""
        return int(self.sums.counts[:, COUNTED].sum())

    def jobs(self) -> Iterator[Job]:
        """Yield jobs for `overlap.overlay`, and add up their results.

        Raises:
            VectorError: the file cannot be used.
        """
        job = _BuildingJob(self.grid)
        for batch in self.features.batches(self.place.bounds):
            self._append(job, batch)
            if job.edges >= EDGES:
                yield job
                self._collect(job)
                job = _BuildingJob(self.grid)
        yield job
        self._collect(job)

    def _append(self, job: _BuildingJob, batch: Batch) -> None:
        geometries, is_point = prepared(batch.geometries, self.features.label)
        geometries[~is_point], fixed = repaired(geometries[~is_point])
        edges, px = ring_edges(np.where(is_point, _NOTHING, geometries), self.place)
        points = points_in_pixels(geometries[is_point], self.place)
        job.append(edges, px, points, is_point, self._district_of(geometries))
        self.repaired += fixed

    def _district_of(self, geometries: Geometries) -> Ints:
        """Return the district of the representative point of each building, int64 (n,)."""
        found = np.full(len(geometries), len(self.districts), np.int64)
        present = np.flatnonzero(~shapely.is_empty(geometries))
        if len(self.districts) and len(present):
            points = shapely.point_on_surface(geometries[present])
            found[present] = self.districts.of_points(points_in_pixels(points, self.place))
        return found

    def _collect(self, job: _BuildingJob) -> None:
        measured, district = job.measured(), np.concatenate([np.zeros(0, np.int64), *job.district])
        _sum(self.sums, measured, district)
        if self.keep_shares:
            rows = np.column_stack([measured.shares, measured.unobserved, district]).astype(np.float32)
            rows[~measured.inside] = np.nan
            self.shares.append(rows)


_NOTHING = shapely.Polygon()


def prepared(geometries: Geometries, label: str) -> tuple[Geometries, Bools]:
    """Return polygons and points (one of a MultiPoint), with empty polygons for none, and which are points."""
    whole = np.where(shapely.is_missing(geometries) | shapely.is_empty(geometries), _NOTHING, geometries)
    is_point = is_of(whole, PUNCTUAL)
    if not (is_point | is_of(whole, AREAL)).all():
        kinds = sorted({one.geom_type for one in whole[~(is_point | is_of(whole, AREAL))]})
        raise VectorError(f"{label} holds {', '.join(kinds)}; buildings are polygons or points")
    several = shapely.get_type_id(whole) == int(shapely.GeometryType.MULTIPOINT)
    if several.any():
        whole[several] = shapely.point_on_surface(whole[several])
    return whole, is_point


class _BuildingJob:
    """Footprints and points that are overlaid in one pass over the raster."""

    def __init__(self, grid: GeoGrid) -> None:
        self._grid, self._areas = grid, PolygonAreas(grid)
        self._px, self._is_point, self._points = list[Floats](), list[Bools](), list[PointClasses]()
        self.district: list[Ints] = []
        """Districts of the buildings, by batch."""

    @property
    def edges(self) -> int:
        """Number of edges."""
        return self._areas.edges

    def append(self, edges: Edges, px: Floats, points_xy: Floats, is_point: Bools, district: Ints) -> None:
        """Add a batch: edges and areas of the footprints, points, which of the buildings are points, and districts."""
        self._areas.append(edges, len(px))
        self._px.append(px)
        self._is_point.append(is_point)
        self._points.append(PointClasses(points_xy, self._grid))
        self.district.append(district)

    def add(self, strip: Strip) -> None:
        """Add a strip."""
        self._areas.add(strip)
        for points in self._points:
            points.add(strip)

    def measured(self) -> _Measured:
        """Return the results after the last strip."""
        areas, inside_px = self._areas.areas_m2, self._areas.inside_px
        px, is_point = np.concatenate([np.zeros(0), *self._px]), np.concatenate([np.zeros(0, bool), *self._is_point])
        # The footprint outside of the scene counts with the pixels at the building.
        within = np.divide(inside_px, px, out=np.zeros_like(inside_px), where=px > 0)
        total = areas.sum(axis=1)
        of_total = np.divide(areas, total[:, None], out=np.zeros_like(areas), where=total[:, None] > 0)
        of_total *= np.minimum(within, 1.0)[:, None]
        inside = inside_px > 0
        classes = np.concatenate([np.zeros(0, np.uint8), *(points.classes for points in self._points)])
        points = np.zeros((len(classes), CLASSES + 1))
        points[np.arange(len(classes)), classes] = 1.0
        of_total[is_point] = points[:, :CLASSES]
        inside[is_point] = classes < CLASSES
        shares = np.minimum(np.cumsum(of_total[:, :3], axis=1), 1.0)
        observed = of_total[:, :3].sum(axis=1) + of_total[:, UNOBSERVED + 1 : DRY + 1].sum(axis=1)
        unobserved = np.clip(1 - observed, 0, 1)
        unobserved[unobserved < _ROUNDING] = 0
        return _Measured(inside=inside, shares=shares, unobserved=unobserved, areas_m2=areas)


def _sum(sums: BuildingSums, measured: _Measured, district: Ints) -> None:
    """Add buildings to the sums of their districts."""
    inside, rows = measured.inside, len(sums.area_m2)
    where, shares, unobserved = district[inside], measured.shares[inside], measured.unobserved[inside]
    areas = measured.areas_m2[inside]

    def added(weights: NDArray[np.generic]) -> Floats:
        return np.bincount(where, weights, rows).astype(np.float64)

    counted = (np.ones(len(where)), unobserved > 0, unobserved >= 1 - _ROUNDING)
    for index, chosen in enumerate(counted):
        sums.counts[:, index] += added(chosen).astype(np.int64)
    for index, least in enumerate(CLASSES_OF_SHARE):
        for level in range(3):
            wet = shares[:, level] > 0 if least == 0 else shares[:, level] >= least - _ROUNDING
            sums.wet[:, index, level] += added(wet).astype(np.int64)
    sums.area_m2 += added(areas.sum(axis=1))
    sums.unobserved_m2 += added(areas[:, UNOBSERVED])
    wet_m2 = np.cumsum(areas[:, :3], axis=1)
    for level in range(3):
        sums.wet_m2[:, level] += added(wet_m2[:, level])
