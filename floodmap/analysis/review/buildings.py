"""Uncertain buildings: those that are under water by the upper figure of `floodmap exposure` but not by the lower."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from floodmap.analysis.exposure.buildings import Buildings
from floodmap.analysis.exposure.features import open_features
from floodmap.analysis.exposure.overlap import overlay
from floodmap.analysis.exposure.result import LEVELS, find_result
from floodmap.geo.downloads import local_copy
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.names import local_or_gdal
from floodmap.output.results import FloodMap

log = logging.getLogger(__name__)

Ints = NDArray[np.int64]


def uncertain_buildings(
    flood_map: FloodMap, buildings: str | os.PathLike[str], layer: str | None, *, side: int
) -> Ints:
    """Count the uncertain buildings of a result in cells.

    A building is uncertain if flood touches it from a probability of 0.3 on, but not from 0.7 on. The sum over the
    cells is `buildings_touched_upper` minus `buildings_touched_lower` of `floodmap exposure`. A building belongs to
    the cell of its representative point, a point inside of its polygon.

    Args:
        flood_map: the result.
        buildings: file of polygons or points, in any CRS.
        layer: layer of the file; None: the first one with geometries.
        side: side of the cells in pixels, as in `ranking.expected_errors`.

    Returns:
        Number of buildings, int64 (rows, columns).

    Raises:
        SceneError, MissingCRSError: the result cannot be used; without a CRS, its place is not known.
        VectorError: the file cannot be used.
        MissingPackageError: pyarrow is not installed.
    """
    result = find_result(flood_map, log.warning)
    cells = _Cells(result.grid, side)
    with ExitStack() as stack:
        file: Path | str = local_copy(local_or_gdal(os.fspath(buildings)), stack)
        counted = Buildings(features=open_features(file, layer, "--buildings"), districts=cells, grid=result.grid)
        overlay(result, [counted.jobs()], lambda _: None)
        if not counted.in_scene:
            log.warning("no building of %s is in the scene; check its CRS", counted.features.label)
    touched = counted.sums.wet[:-1, 0]
    found: Ints = touched[:, LEVELS.index("upper")] - touched[:, LEVELS.index("lower")]
    return found.reshape(cells.shape)


class _Cells:
    """Square cells in the place of districts, without names."""

    names: Sequence[str] = ()

    def __init__(self, grid: GeoGrid, side: int) -> None:
        self._side = side
        self.shape = (-(-grid.height // side), -(-grid.width // side))

    def __len__(self) -> int:
        return self.shape[0] * self.shape[1]

    def of_points(self, xy: NDArray[Any]) -> Ints:
        """Return the cell of each point; a point outside of the scene has the nearest cell."""
        col, row = np.floor(xy / self._side).astype(np.int64).T
        found: Ints = np.clip(row, 0, self.shape[0] - 1) * self.shape[1] + np.clip(col, 0, self.shape[1] - 1)
        return found
