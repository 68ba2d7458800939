"""Reading of vector files as arrays: geometries in a given CRS, and attribute columns.

GeoParquet is read with geopandas, all other formats with pyogrio.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError, ProjError

from floodmap._runtime.extras import require
from floodmap.errors import VectorError
from floodmap.geo.crs import horizontal
from floodmap.geo.downloads import local_file
from floodmap.geo.names import readable
from floodmap.geo.turns import unwrapped

SUFFIXES = frozenset({".gpkg", ".shp", ".geojson", ".json", ".geojsonl", ".fgb", ".kml", ".gml", ".gdb", ".tab"})
"""Suffixes of vector files, in lower case, without those of GeoParquet (see `PARQUET`).

The set contains `.gpkg`, although a GeoPackage may contain only rasters. `is_vector` opens a GeoPackage to find out."""

PARQUET = (".parquet", ".geoparquet")
LOG = logging.getLogger(__name__)

_AREAL = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)
_SEGMENTS = 256
"""Number by which the longer side of the extent of all geometries is divided, to get the longest edge allowed.

Before a reprojection, vertices are added to longer edges, because an edge that is straight in one CRS is curved in
another CRS. The sagitta of a curved edge (its largest distance from the straight line between its ends) is proportional
to the square of the length of the edge. An edge as long as the longer side of the extent is divided into 256 parts. The
sagitta of one part is 65 536 (256 x 256) times smaller than the sagitta of the whole edge: 0.15 mm instead of 10 m.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """Features of one layer: geometries and attribute columns."""

    geometries: NDArray[np.object_]
    """Shapely geometries, object (n,): 2-D, valid and not empty."""
    attributes: dict[str, NDArray[Any]]
    """Attribute columns, each (n,), by name of the field."""
    crs: CRS | None
    """CRS of the geometries, with coordinates in the order x, y; None if the file has no CRS."""

    def __len__(self) -> int:
        return len(self.geometries)


@contextmanager
def as_file(given: object, name: str) -> Iterator[Path]:
    """Context manager: yield the path `given`, or the path of a temporary GeoPackage with the GeoDataFrame `given`.

    A remote file is downloaded, see `local_file`. Temporary files are deleted at the end.

    Args:
        given: a path, a URL, or a `geopandas.GeoDataFrame`.
        name: name of the argument, for messages and for the name of the temporary file.

    Raises:
        TypeError: `given` is of another type.
        VectorError: the GeoDataFrame cannot be written.
    """
    if isinstance(given, str | os.PathLike):
        with local_file(given) as file:
            yield file
        return
    if not any(f"{one.__module__}.{one.__name__}".endswith("geodataframe.GeoDataFrame") for one in type(given).__mro__):
        raise TypeError(f"{name} is a {type(given).__name__}; give a path or a geopandas.GeoDataFrame")
    with tempfile.TemporaryDirectory(prefix="floodmap-") as folder:
        path = Path(folder) / f"{name}.gpkg"
        try:
            given.to_file(path, layer="flood")  # type: ignore[attr-defined]
        except Exception as error:  # GDAL's drivers and pandas raise exceptions of many classes
            reason = str(error).splitlines()[0]
            raise VectorError(f"the GeoDataFrame given as {name} cannot be written: {reason}") from error
        yield path


def is_vector(path: Path | str) -> bool:
    """Return whether a file contains vector data. Files with the suffix .gpkg or an unknown suffix are opened."""
    if Path(path).suffix.lower() in {*SUFFIXES, *PARQUET} - {".gpkg"}:
        return True
    import pyogrio
    from pyogrio.errors import DataLayerError, DataSourceError

    try:
        with readable(path) as name:
            return any(kind is not None for _, kind in pyogrio.list_layers(name))
    except (DataSourceError, DataLayerError, VectorError):
        return False


def read_vectors(path: Path | str, *, crs: Any = None, layer: str | None = None, polygons: bool = False) -> Vectors:
    """Read one layer of a vector file (GeoPackage, Shapefile, GeoJSON, FlatGeobuf, or any other format of OGR).

    Features without a geometry are left out. Invalid polygons are repaired. A repair may yield polygons, lines and
    points; only the polygons are kept. Before a reprojection, vertices are added to long edges, so that every edge
    stays in the same place on the ground.

    Args:
        path: the file, a .gdb folder, or a name that only GDAL opens (`/vsizip/...`, `https://...`).
        crs: target CRS: any object that pyproj reads, or a rasterio CRS. None: the coordinates and the CRS of the file
            are kept.
        layer: name of the layer; by default the first layer with geometries.
        polygons: True: points and lines are an error.

    Returns:
        Geometries and attribute columns of the features, at least one feature.

    Raises:
        VectorError: the file is missing, unreadable or empty, or lacks the layer. `polygons` is True, and the layer
            contains points or lines. `crs` is given, but the file has no CRS, or has coordinates that do not exist in
            `crs`.
    """
    if Path(path).suffix.lower() in PARQUET:
        geometries, attributes, source_crs = read_parquet(Path(path))
    else:
        with readable(path) as name:
            geometries, attributes, source_crs = read_layer(path, name, pick_layer(path, name, layer))
    present = ~(shapely.is_missing(geometries) | shapely.is_empty(geometries))
    geometries, attributes = geometries[present], {name: column[present] for name, column in attributes.items()}
    if polygons and not np.isin(shapely.get_type_id(geometries), [int(kind) for kind in _AREAL]).all():
        found = sorted({geometry.geom_type for geometry in geometries} - {"Polygon", "MultiPolygon"})
        raise VectorError(f"{path} holds {', '.join(found)}; polygons are needed")
    geometries = reprojected(_repair(geometries), source_crs, crs, path)
    areal = ~shapely.is_empty(geometries)
    geometries, attributes = geometries[areal], {name: column[areal] for name, column in attributes.items()}
    if not len(geometries):
        raise VectorError(f"{path} has no features with a geometry{f' in layer {layer}' if layer else ''}")
    return Vectors(geometries=geometries, attributes=attributes, crs=source_crs if crs is None else _as_crs(crs))


def pick_layer(path: Path | str, name: str, wanted: str | None) -> str:
    """Return the name of the layer to read: `wanted`, or else the first layer with geometries.

    Args:
        path: the file, for messages.
        name: name by which pyogrio opens the file.
        wanted: name of the layer, or None.
    """
    import pyogrio
    from pyogrio.errors import DataSourceError

    try:
        layers = {str(layer): kind for layer, kind in pyogrio.list_layers(name)}
    except DataSourceError as error:
        raise VectorError(f"{path} cannot be read as vector data: {_one_line(error)}") from error
    # Attribute tables, such as the table layer_styles of QGIS, are layers without a geometry type.
    names = [name for name, kind in layers.items() if kind is not None]
    if not names:
        raise VectorError(f"{path} has no layer with geometries")
    if wanted is not None and wanted not in names:
        raise VectorError(f"{path} has no layer {wanted!r}; it has {', '.join(names)}")
    if wanted is None and len(names) > 1:
        LOG.warning("%s has the layers %s; only the layer %s is used", path, ", ".join(names), names[0])
    return names[0] if wanted is None else wanted


def read_parquet(path: Path) -> tuple[NDArray[np.object_], dict[str, NDArray[Any]], CRS | None]:
    """Read a GeoParquet file with geopandas, because GDAL in wheels cannot read GeoParquet.

    Returns:
        Three values: 2-D shapely geometries, object (n,); a dict of attribute columns, each (n,), by name; the CRS, or
        None if the file has no CRS.

    Raises:
        VectorError: the file is missing, or is no GeoParquet file.
    """
    require("pyarrow", f"GeoParquet ({path})")
    import geopandas
    from pyarrow import ArrowInvalid

    try:
        with path.open("rb") as stream:
            frame = geopandas.read_parquet(stream)
    except (ValueError, ArrowInvalid, OSError) as error:
        raise VectorError(f"{path} cannot be read as GeoParquet: {_one_line(error)}") from error
    columns = {str(name): frame[name].to_numpy() for name in frame.columns if name != frame.geometry.name}
    own = None if frame.crs is None else horizontal(frame.crs)
    return np.asarray(frame.geometry.force_2d(), dtype=object), columns, own


def read_layer(
    path: Path | str, name: str, layer: str | None
) -> tuple[NDArray[np.object_], dict[str, NDArray[Any]], CRS | None]:
    """Read all features of a layer with pyogrio, also of an empty layer.

    Args:
        path: the file, for messages.
        name: name by which pyogrio opens the file; see `names.readable`.
        layer: name of the layer; None: the first layer.

    Returns:
        Three values: 2-D shapely geometries, object (n,); a dict of attribute columns, each (n,), by name; the CRS, or
        None if the file has no CRS.

    Raises:
        VectorError: the file or the layer cannot be read.
    """
    from pyogrio import raw
    from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, FieldError, GeometryError

    try:
        meta, _, wkb, columns = raw.read(name, layer=layer, force_2d=True)
        geometries = np.asarray(shapely.from_wkb(wkb), dtype=object)
    except (DataLayerError, DataSourceError, FeatureError, FieldError, GeometryError, shapely.GEOSException) as error:
        raise VectorError(f"{path} cannot be read as vector data: {_one_line(error)}") from error
    attributes = dict(zip((str(field) for field in meta["fields"]), columns, strict=True))
    return geometries, attributes, horizontal(_as_crs(meta["crs"])) if meta["crs"] else None


def _repair(geometries: NDArray[np.object_]) -> NDArray[np.object_]:
    """Return geometries, object (n,), in which the invalid polygons are repaired.

    A repair may yield polygons, lines and points; only the polygons are kept. A polygon that has collapsed to a line
    becomes an empty geometry.
    """
    areal = np.isin(shapely.get_type_id(geometries), [int(kind) for kind in _AREAL])
    broken = areal & ~shapely.is_valid(geometries)
    if not broken.any():
        return geometries
    repaired = geometries.copy()
    repaired[broken] = [areal_part(geometry) for geometry in shapely.make_valid(geometries[broken])]
    return repaired


def areal_part(geometry: shapely.Geometry) -> shapely.Geometry:
    """Return the polygons of a geometry of any type, as one geometry; empty if there are none."""
    parts = shapely.get_parts(geometry)
    while (shapely.get_type_id(parts) > int(shapely.GeometryType.POLYGON)).any():
        parts = shapely.get_parts(parts)
    return shapely.union_all(parts[shapely.get_type_id(parts) == int(shapely.GeometryType.POLYGON)])


def reprojected(
    geometries: NDArray[np.object_], source: CRS | None, wanted: Any, path: Path | str
) -> NDArray[np.object_]:
    """Reproject geometries from the CRS `source` to the CRS `wanted`.

    Vertices are added to long edges first, so that every edge stays in the same place on the ground.

    Args:
        geometries: shapely geometries, object (n,).
        source: CRS of the geometries; None if the file has no CRS.
        wanted: target CRS: any object that pyproj reads. None: the geometries are returned unchanged.
        path: the file, for messages.

    Returns:
        Shapely geometries, object (n,), in the target CRS, continuous across the antimeridian (see `turns.unwrapped`).

    Raises:
        VectorError: `source` is None but a target CRS is given, or coordinates do not exist in the target CRS.
    """
    if wanted is None or not len(geometries):
        return geometries
    target = _as_crs(wanted)
    if source is None:
        raise VectorError(f"{path} has no CRS; assign one with: ogr2ogr -a_srs EPSG:CODE OUT {Path(path).name}")
    if source.equals(target, ignore_axis_order=True):
        return geometries
    west, south, east, north = shapely.total_bounds(geometries)
    step = max(east - west, north - south) / _SEGMENTS
    dense = shapely.segmentize(geometries, step) if step > 0 else geometries
    try:
        transformer = Transformer.from_crs(source, target, always_xy=True)
        moved = shapely.transform(dense, transformer.transform, interleaved=False)
    except ProjError as error:
        raise VectorError(f"{path} cannot be reprojected to {target.name}: {_one_line(error)}") from error
    if not np.isfinite(shapely.get_coordinates(moved)).all():
        raise VectorError(
            f"{path} has coordinates that do not exist in {target.name}; is its CRS, {source.name}, right?"
        )
    # Rounding can make a valid ring invalid if two edges of the ring nearly touch.
    return _repair(unwrapped(moved, target))


def _as_crs(value: Any) -> CRS:
    try:
        return CRS.from_user_input(value)
    except CRSError as error:
        raise VectorError(f"{value!r} is not a CRS: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
