"""Polygons of one scene, read from its vector files for a catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from floodmap.catalogue.rows import SceneRow
from floodmap.catalogue.schema import Layer
from floodmap.errors import VectorError
from floodmap.geo.names import readable
from floodmap.geo.vectors import read_layer, read_parquet, reprojected
from floodmap.output.vector_files import LAYERS, SHAPEFILE_FIELDS

_PREFERRED = (".gpkg", ".parquet", ".fgb", ".shp", ".geojson")
"""Suffixes of vector files in the order in which one is chosen: the last ones round numbers or shorten names."""


@dataclass(frozen=True, slots=True)
class Features:
    """Polygons of a layer with their columns."""

    geometries: NDArray[np.object_]
    """Shapely geometries, object (n,)."""
    columns: dict[str, NDArray[Any]]
    """Arrays (n,) by name of the column, for all columns of the layer. Empty if the layer has no polygons."""


def read_features(row: SceneRow, layer: Layer, crs: str) -> Features:
    """Read the polygons of one layer of a scene, in a given CRS.

    Args:
        row: a scene with results and a CRS.
        layer: `schema.FLOOD` or `schema.UNOBSERVED`.
        crs: CRS of the result. Areas and lengths in the columns are not computed again.

    Raises:
        VectorError: the file is missing or damaged, or its coordinates do not exist in the CRS.
        MissingPackageError: the file is GeoParquet, and pyarrow is not installed.
    """
    path = _file_of(row.layer_paths, layer.name)
    if path.suffix == ".parquet":
        geometries, columns, own = read_parquet(path)
    else:
        with readable(path) as name:
            geometries, columns, own = read_layer(path, name, layer.name if path.suffix == ".gpkg" else None)
    columns = {_LONG_NAMES.get(key, key): values for key, values in columns.items()}
    columns["scene"] = np.full(len(geometries), row.name, object)
    columns.setdefault("id", np.arange(1, len(geometries) + 1))  # GDAL reads the column `id` of GeoJSON as a row number
    if not len(geometries):  # an empty GeoJSON has no columns
        return Features(geometries, {})
    if missing := [key for key in layer.columns if key not in columns]:
        raise VectorError(f"{path} has no column {missing[0]}; was it written by another program?")
    return Features(reprojected(geometries, own, crs, path), {key: columns[key] for key in layer.columns})


_LONG_NAMES = {short: long for long, short in SHAPEFILE_FIELDS.items()}


def _file_of(paths: Sequence[Path], layer: str) -> Path:
    """Return the vector file that contains a layer, of the most exact format."""
    suffix = next(one for one in _PREFERRED if any(path.suffix == one for path in paths))
    files = [path for path in paths if path.suffix == suffix]
    return files[0] if suffix == ".gpkg" else files[LAYERS.index(layer)]
