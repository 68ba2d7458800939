"""Roads: kilometres under water by class and district. Roads are cut at the borders of districts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import shapely
from numpy.typing import NDArray

from floodmap.analysis.exposure.districts import Districts
from floodmap.analysis.exposure.features import Batch, Features
from floodmap.analysis.exposure.geometry import LINEAR, Place, is_of, line_edges, lines_in_pixels
from floodmap.analysis.exposure.overlap import Job, LineLengths, Strip
from floodmap.analysis.exposure.result import CLASSES
from floodmap.errors import VectorError
from floodmap.geo.geogrid import GeoGrid

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CLASS_FIELDS = ("highway", "fclass", "class")
"""Fields that are looked for, in this order, for the class of a road."""
ALL_ROADS = "roads"
"""Class of all roads of a file without a field of classes."""
NO_CLASS = "unknown"
"""Class of a road without a value in the field."""
EDGES = 4_000_000
"""Number of edges from which on a pass over the raster begins; an edge takes about 70 bytes."""


@dataclass(kw_only=True)
class Roads:
    """A file of roads, and the lengths of its roads on the classes of pixels."""

    features: Features
    districts: Districts
    grid: GeoGrid
    wanted_field: str | None = None
    """Field of the class that the user named; None: one of `CLASS_FIELDS`."""
    place: Place = field(init=False)
    class_field: str | None = field(init=False)
    """Field of the class; None: all roads are one class."""
    lengths_m: dict[str, Floats] = field(default_factory=dict)
    """Lengths by class of road: float64 (districts + 1, `CLASSES`), in metres; the last row: in no district."""

    def __post_init__(self) -> None:
        fields, label = self.features.fields, self.features.label
        if self.wanted_field is not None and self.wanted_field not in fields:
            raise VectorError(f"{label} has no field {self.wanted_field!r}; it has {', '.join(fields) or 'none'}")
        self.class_field = self.wanted_field or next((name for name in CLASS_FIELDS if name in fields), None)
        self.place = self.features.place(self.grid)

    def jobs(self) -> Iterator[Job]:
        """Yield jobs for `overlap.overlay`, and add up their results.

        Raises:
            VectorError: the file cannot be used.
        """
        columns = [] if self.class_field is None else [self.class_field]
        job = _RoadJob(self.grid)
        for batch in self.features.batches(self.place.bounds, columns):
            self._append(job, batch)
            if job.edges >= EDGES:
                yield job
                self._collect(job)
                job = _RoadJob(self.grid)
        yield job
        self._collect(job)

    def _append(self, job: _RoadJob, batch: Batch) -> None:
        present = ~(shapely.is_missing(batch.geometries) | shapely.is_empty(batch.geometries))
        roads = batch.geometries[present]
        if not is_of(roads, LINEAR).all():
            kinds = sorted({one.geom_type for one in roads[~is_of(roads, LINEAR)]})
            raise VectorError(f"{self.features.label} holds {', '.join(kinds)}; roads are lines")
        names = batch.attributes[self.class_field][present] if self.class_field else np.full(len(roads), ALL_ROADS)
        lines, road = lines_in_pixels(self.place.cut(roads), self.place)
        parts, line, district = self.districts.cut(lines)
        job.append(parts, names[road[line]], district)

    def _collect(self, job: _RoadJob) -> None:
        for name, sums in job.sums(len(self.districts) + 1).items():
            self.lengths_m[name] = self.lengths_m.get(name, 0.0) + sums


class _RoadJob:
    """Parts of roads that are overlaid in one pass over the raster."""

    def __init__(self, grid: GeoGrid) -> None:
        self._grid, self._lengths = grid, LineLengths(grid)
        self._names, self._district = list[NDArray[np.object_]](), list[Ints]()

    @property
    def edges(self) -> int:
        """Number of edges."""
        return self._lengths.edges

    def append(self, parts: NDArray[np.object_], names: NDArray[np.object_], district: Ints) -> None:
        """Add LineStrings in pixel coordinates, with the class and the district of each."""
        self._lengths.append(line_edges(parts, self._grid), len(parts))
        self._names.append(names)
        self._district.append(district)

    def add(self, strip: Strip) -> None:
        """Add a strip."""
        self._lengths.add(strip)

    def sums(self, rows: int) -> dict[str, Floats]:
        """Return the lengths by class of road, after the last strip: float64 (rows, `CLASSES`), in metres."""
        if not self._names:
            return {}
        names = [NO_CLASS if name is None or name != name or name == "" else str(name)
                 for name in np.concatenate(self._names)]  # fmt: skip
        classes, of_class = np.unique(np.array(names, str), return_inverse=True)
        sums = np.zeros((len(classes), rows, CLASSES))
        np.add.at(sums, (of_class, np.concatenate(self._district)), self._lengths.lengths_m)
        return {str(name): sums[number] for number, name in enumerate(classes) if sums[number].any()}
