"""GeoPackage of an exposure: the districts with their figures, and the buildings that are touched by water."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from numpy.typing import NDArray

from floodmap.analysis.exposure.buildings import Buildings, prepared
from floodmap.analysis.exposure.districts import Districts
from floodmap.analysis.exposure.figures import DISTRICT, TOTAL, Row
from floodmap.analysis.exposure.geometry import repaired
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.names import writable
from floodmap.output.vector_files import embed_styles, quiet_gdal

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

Geometries = NDArray[np.object_]
Floats = NDArray[np.float32]

DISTRICTS, BUILDINGS, POINTS = "districts", "buildings", "building_points"
_KINDS = {BUILDINGS: "MultiPolygon", POINTS: "Point"}


def write_layers(
    path: Path, rows: list[Row], districts: Districts, buildings: Buildings | None, grid: GeoGrid, date: datetime
) -> None:
    """Write the GeoPackage.

    Args:
        path: the file, in an existing folder.
        rows: rows of the districts, see `figures.Figures.rows`.
        districts: the districts.
        buildings: the buildings with their shares (`keep_shares`); None: there is no layer of them.
        grid: pixel grid of the scene, for the outline of the scene.
        date: time of the last change that is recorded, in UTC.
    """
    with quiet_gdal(date), writable(path.parent) as folder:
        file = folder / path.name
        _append(file, _district_table(rows, districts, grid), DISTRICTS, "MultiPolygon")
        layers = [DISTRICTS]
        if buildings is not None:
            for name, frame in _building_tables(buildings):
                _append(file, frame, name, _KINDS[name])
                layers += [name] if name not in layers else []
        embed_styles(file, layers, date)


def _append(path: Path, frame: GeoDataFrame, layer: str, kind: str) -> None:
    import pyogrio

    exists = path.exists()
    polygons = {"promote_to_multi": True} if kind == "MultiPolygon" else {}
    # QGIS 3.22 shows a warning for newer versions of GeoPackage.
    pyogrio.write_dataframe(
        frame, path, driver="GPKG", layer=layer, append=exists, geometry_type=kind, **polygons,
        **({} if exists else {"VERSION": "1.2"}),
    )  # fmt: skip


def _district_table(rows: list[Row], districts: Districts, grid: GeoGrid) -> GeoDataFrame:
    """Return a table of the figures in `rows`, with the polygons of the districts as geometry, in their own CRS.

    Without districts, the only polygon is the outline of the scene, in the CRS of `grid`.
    """
    import geopandas

    if not len(districts) or districts.features is None:
        corners = np.array([[0, 0], [grid.width, 0], [grid.width, grid.height], [0, grid.height]], float)
        chosen = [row for row in rows if row["kind"] == TOTAL]
        return geopandas.GeoDataFrame(_typed(chosen), geometry=[shapely.Polygon(grid.to_crs(corners))], crs=grid.crs)
    chosen = [row for row in rows if row["kind"] == DISTRICT]
    return geopandas.GeoDataFrame(_typed(chosen), geometry=districts.own, crs=districts.features.crs)


def _typed(rows: list[Row]) -> dict[str, Any]:
    """Return columns with the types that they have in every file, also where all values are missing."""
    import pandas as pd

    columns: dict[str, Any] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        with suppress(ValueError, TypeError):
            whole = name.startswith("building") or name == "district_id"
            columns[name] = pd.array(values, dtype="Int64" if whole else "Float64")
            continue
        columns[name] = pd.array(values, dtype="object")
    return columns


def _building_tables(buildings: Buildings) -> Iterator[tuple[str, GeoDataFrame]]:
    """Yield tables of the buildings touched by water, with the name of the layer of each, batch by batch.

    The first table has no rows, so that the layer exists.
    """
    shares = np.concatenate([np.zeros((0, 5), np.float32), *buildings.shares])
    names = np.array([*buildings.districts.names, ""], object)
    yield BUILDINGS, _table(buildings, names, np.empty(0, object), np.zeros(0, np.int64), shares[:0])
    first = 0
    for batch in buildings.features.batches(buildings.place.bounds):
        own = shares[first : first + len(batch.fids)]
        first += len(own)
        touched = own[:, 2] > 0
        if touched.any():
            geometries, is_point = prepared(batch.geometries[touched], buildings.features.label)
            fids, own = batch.fids[touched], own[touched]
            for layer, chosen in ((BUILDINGS, ~is_point), (POINTS, is_point)):
                if chosen.any():
                    whole = repaired(geometries[chosen])[0]
                    yield layer, _table(buildings, names, whole, fids[chosen], own[chosen])


def _table(
    buildings: Buildings, names: NDArray[np.object_], geometries: Geometries, fids: NDArray[np.int64], shares: Floats
) -> GeoDataFrame:
    import geopandas

    columns: dict[str, Any] = {"source_fid": fids}
    if len(buildings.districts):
        columns["district"] = names[shares[:, 4].astype(np.int64)]
    for number, name in enumerate(("share_lower", "share_best", "share_upper", "unobserved_share")):
        columns[name] = np.round(shares[:, number].astype(float), 4)
    return geopandas.GeoDataFrame(columns, geometry=geometries, crs=buildings.features.crs)
