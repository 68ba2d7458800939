"""People: how many of a population raster live on flooded, dry and unobserved ground, by district.

People are spread evenly over their pixel. A pixel of 100 people that is half in the scene, with a quarter of its area
flooded, has 50 people in the scene and 25 under water. Values are never resampled, so that sums are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from floodmap._runtime.extras import require
from floodmap.analysis.exposure.districts import Districts
from floodmap.analysis.exposure.geometry import Place, polygons_in_pixels, ring_edges
from floodmap.analysis.exposure.overlap import Job, PolygonAreas, Strip
from floodmap.analysis.exposure.result import UNOBSERVED, Warn
from floodmap.errors import SceneError
from floodmap.geo.crs import known_crs
from floodmap.geo.gdal import gdal_env_of
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.names import has_gdal_name
from floodmap.geo.source_name import SourceName
from floodmap.geo.window import Window

Floats = NDArray[np.float64]

Per = Literal["pixel", "km2"]
"""Unit of a population raster: people per pixel, or per square kilometre."""
CELLS = 300_000
"""Number of pixels of the population raster that are computed together, at least one row."""
IN_SCENE, ON_UNOBSERVED, EXPOSED = 0, 1, 2
"""Columns of people: all in the scene, those on unobserved ground, and from `EXPOSED` on lower, best, upper."""


@dataclass(kw_only=True)
class Population:
    """A population raster, and the people in each district."""

    path: Path | str
    districts: Districts
    grid: GeoGrid
    warn: Warn
    """Function that is called with each warning."""
    per: Per = "pixel"
    people: Floats = field(init=False)
    """float64 (districts + 1, 5): people in the scene, on unobserved ground, and exposed (lower, best, upper)."""
    unknown: int = 0
    """Number of pixels at the scene without a value: nodata, or below 0. They count as without people."""

    def __post_init__(self) -> None:
        require("exactextract", "--population")
        self.people = np.zeros((len(self.districts) + 1, EXPOSED + 3))
        self._name = SourceName.of(self.path if has_gdal_name(self.path) else Path(self.path))
        with ExitStack() as stack:
            dataset = self._open(stack)
            self._own = GeoGrid.of(dataset)
            if not self._own.is_on_earth:
                raise SceneError(
                    f"{self._name} has no CRS; assign one with: rio edit-info --crs EPSG:CODE {self._name}"
                )
            if dataset.count > 1:
                self.warn(f"{self._name} has {dataset.count} bands; only the first is used")
        self._to_scene = Place(known_crs(self._own.crs), self.grid, str(self._name))
        self._from_scene = Place(known_crs(self.grid.crs), self._own, str(self._name))

    def _open(self, stack: ExitStack) -> Any:
        try:
            stack.enter_context(gdal_env_of(self._name))
            return stack.enter_context(rasterio.open(self._name.opened))
        except RasterioError as error:
            raise SceneError(f"{self._name} cannot be read as a population raster: {error}") from error

    def jobs(self) -> Iterator[Job]:
        """Yield jobs for `overlap.overlay`, and add up their results.

        Raises:
            SceneError: the raster is damaged.
        """
        window = self._window()
        if window is None:
            self.warn(f"{self._name} does not overlap the scene; check its CRS")
            return
        rows = max(1, CELLS // window.width)
        borders = self._borders()
        for row in range(window.row_off, window.row_end, rows):
            part = Window(row, window.col_off, min(rows, window.row_end - row), window.width)
            job = _PeopleJob(part, self._read(part), self)
            yield job
            self._collect(job, borders)

    def cells(self, window: Window, chosen: NDArray[np.bool_]) -> tuple[PolygonAreas, Floats]:
        """Return a job with the chosen pixels, bool (height, width), of a window, and their areas in scene pixels."""
        row, col = np.nonzero(chosen)
        row, col = row + window.row_off, col + window.col_off
        corners = np.stack([[col, row], [col + 1, row], [col + 1, row + 1], [col, row + 1], [col, row]], axis=0)
        xy = self._own.to_crs(corners.transpose(2, 0, 1).reshape(-1, 2).astype(float))
        rings = shapely.linearrings(xy, indices=np.repeat(np.arange(len(row)), 5)) if len(row) else np.empty(0, object)
        areas = PolygonAreas(self.grid)
        edges, px = ring_edges(shapely.polygons(rings), self._to_scene)
        areas.append(edges, len(row))
        return areas, px

    def _window(self) -> Window | None:
        """Return the pixels of the raster around the scene; None if there are none."""
        corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]], float) * [self.grid.width, self.grid.height]
        outline = polygons_in_pixels(np.array([shapely.Polygon(self.grid.to_crs(corners))], object), self._from_scene)
        west, north, east, south = shapely.total_bounds(outline)
        first_col, first_row = max(0, int(np.floor(west)) - 1), max(0, int(np.floor(north)) - 1)
        last_col, last_row = (
            min(self._own.width, int(np.ceil(east)) + 1),
            min(self._own.height, int(np.ceil(south)) + 1),
        )
        if last_col <= first_col or last_row <= first_row:
            return None
        return Window(first_row, first_col, last_row - first_row, last_col - first_col)

    def _read(self, window: Window) -> Floats:
        """Return the people of each pixel of a window, float64 (height, width); 0 where they are unknown."""
        with ExitStack() as stack:
            dataset = self._open(stack)
            try:
                values = dataset.read(1, window=window.to_rasterio(), masked=True).astype(float).filled(np.nan)
            except RasterioError as error:
                raise SceneError(f"{self._name} cannot be read: {error}") from error
        known = np.isfinite(values) & (values >= 0)
        self.unknown += int((~known).sum())
        people = np.where(known, values, 0.0)
        if self.per == "km2":
            rows = np.arange(window.row_off, window.row_end + 1, dtype=float)
            people *= self._own.cell_areas_m2(rows, np.arange(window.col_off, window.col_end + 1, dtype=float)) / 1e6
        return people

    def _borders(self) -> list[dict[str, Any]]:
        """Return the districts as GeoJSON, in pixel coordinates of the raster with y upwards."""
        own = [shapely.transform(one, self.grid.to_crs) for one in self.districts.pixels]
        if not own:
            return []
        moved = polygons_in_pixels(np.array(own, object), self._from_scene)
        flipped = [shapely.transform(one, lambda xy: xy * [1.0, -1.0]) for one in moved]
        return [
            {"type": "Feature", "id": number, "geometry": one.__geo_interface__, "properties": {}}
            for number, one in enumerate(flipped)
            if not one.is_empty
        ]

    def _collect(self, job: _PeopleJob, borders: list[dict[str, Any]]) -> None:
        values = job.values()
        total = values.sum(axis=(1, 2))
        inside = np.zeros(len(total))
        for number, sums in _zonal(values, job.window, borders).items():
            self.people[number] += sums
            inside += sums
        self.people[-1] += np.maximum(total - inside, 0.0)


class _PeopleJob:
    """Pixels of a population raster that are overlaid in one pass."""

    def __init__(self, window: Window, people: Floats, of: Population) -> None:
        self.window, self._people, self._chosen = window, people, people > 0
        self._areas, self._px = of.cells(window, self._chosen)

    def add(self, strip: Strip) -> None:
        """Add a strip."""
        self._areas.add(strip)

    def values(self) -> Floats:
        """Return the people of each pixel by column (`IN_SCENE`, ...), after the last strip: (5, height, width)."""
        areas, inside_px = self._areas.areas_m2, self._areas.inside_px
        people = self._people[self._chosen]
        total = areas.sum(axis=1)
        within = np.minimum(np.divide(inside_px, self._px, out=np.zeros_like(total), where=self._px > 0), 1.0)
        shares = np.divide(areas, total[:, None], out=np.zeros_like(areas), where=total[:, None] > 0)
        columns = np.column_stack([np.ones(len(people)), shares[:, UNOBSERVED], np.cumsum(shares[:, :3], axis=1)])
        values = np.zeros((columns.shape[1], *self._people.shape))
        values[:, self._chosen] = (columns * (people * within)[:, None]).T
        return values


def _zonal(values: Floats, window: Window, borders: list[dict[str, Any]]) -> dict[int, Floats]:
    """Sum values over districts, each pixel by the share of it that is in the district.

    Args:
        values: float64 (columns, height, width).
        window: the pixels of the values in the raster.
        borders: districts, see `Population._borders`.

    Returns:
        float64 (columns,) by number of the district.
    """
    from exactextract import exact_extract
    from exactextract.feature import JSONFeatureSource
    from exactextract.raster import NumPyRasterSource

    if not borders:
        return {}
    extent = window.col_off, -window.row_end, window.col_end, -window.row_off
    rasters = [NumPyRasterSource(plane, *extent, name=f"v{number}") for number, plane in enumerate(values)]
    rows = exact_extract(rasters, JSONFeatureSource(borders), ["sum"], include_cols=["id"])
    return {
        int(row["id"]): np.array([row["properties"][f"v{number}_sum"] or 0.0 for number in range(len(values))])
        for row in rows
    }
