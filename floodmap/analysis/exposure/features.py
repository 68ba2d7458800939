"""Reading of vector files of any size as a stream of batches, with Arrow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from floodmap._runtime.extras import require
from floodmap.analysis.exposure.geometry import Place
from floodmap.errors import VectorError
from floodmap.geo.crs import horizontal
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.names import readable
from floodmap.geo.source_name import shown_name
from floodmap.geo.vectors import PARQUET, pick_layer, read_parquet

Geometries = NDArray[np.object_]
Bounds = tuple[float, float, float, float]

BATCH = 65_536
"""Number of features that are read together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Features of a file, in the order of the file."""

    geometries: Geometries
    """Shapely geometries, object (n,), 2-D, in the CRS of the file; None or empty where a feature has none."""
    fids: NDArray[np.int64]
    """Identifier of each feature, int64 (n,): GDAL's FID; in GeoParquet the number of the row, from 0."""
    attributes: dict[str, NDArray[Any]]
    """Columns that were asked for, each (n,), by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """A layer of a vector file, to be read in batches, more than once if needed."""

    path: Path | str
    layer: str | None
    """Name of the layer; None in GeoParquet."""
    fields: tuple[str, ...]
    """Names of the attribute columns."""
    crs: pyproj.CRS | None
    """CRS, with coordinates in the order x, y; None if the file has none."""
    count: int
    """Number of features in the file."""

    @property
    def label(self) -> str:
        """Name for messages and results."""
        return shown_name(self.path)

    def place(self, grid: GeoGrid) -> Place:
        """Return the way from the coordinates of the file to the pixels of a grid; see `Place` for errors."""
        return Place(self.crs, grid, self.label)

    def batches(self, bounds: Bounds | None, columns: Sequence[str] = ()) -> Iterator[Batch]:
        """Read the features in batches. The same arguments give the same batches in the same order.

        Args:
            bounds: west, south, east, north in the CRS of the file: features outside are left out. None: all features.
            columns: names of the attribute columns to read.

        Raises:
            VectorError: the file cannot be read.
        """
        rows = 0
        with _arrow(self, bounds, columns) as (tables, geometry, fid):
            for table in tables:
                wkb = table[geometry].to_numpy(zero_copy_only=False)
                try:
                    geometries = np.asarray(shapely.force_2d(shapely.from_wkb(wkb)), object)
                except (shapely.GEOSException, TypeError) as error:
                    raise VectorError(f"{self.label} has geometries that cannot be read: {_line(error)}") from error
                chosen = {name: table[name].to_numpy(zero_copy_only=False) for name in columns}
                fids = np.arange(rows, rows + len(wkb)) if fid is None else table[fid].to_numpy()
                rows += len(wkb)
                batch = Batch(geometries=geometries, fids=fids, attributes=chosen)
                yield batch if bounds is None or self.layer is not None else _within(batch, bounds)


def open_features(path: Path | str, layer: str | None, what: str) -> Features:
    """Look up the layer, the fields and the CRS of a vector file.

    Args:
        path: the file, a .gdb folder, or a name that only GDAL opens.
        layer: name of the layer; None: the first with geometries.
        what: what the file holds, for the message if a package is missing, such as "buildings".

    Raises:
        VectorError: the file or the layer is missing or cannot be read.
        MissingPackageError: pyarrow is not installed.
    """
    require("pyarrow", f"reading {what}")
    if Path(path).suffix.lower() in PARQUET:
        if layer is not None:
            raise VectorError(f"{path} has no layer {layer!r}: GeoParquet has no layers")
        return _open_parquet(Path(path))
    import pyogrio

    with readable(path) as name:
        chosen = pick_layer(path, name, layer)
        info = pyogrio.read_info(name, layer=chosen, force_feature_count=True)
    crs = horizontal(pyproj.CRS.from_user_input(info["crs"])) if info["crs"] else None
    fields = tuple(map(str, info["fields"]))
    return Features(path=path, layer=chosen, fields=fields, crs=crs, count=int(info["features"]))


def _open_parquet(path: Path) -> Features:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with path.open("rb") as stream:
            file = parquet.ParquetFile(stream)
            schema, count = file.schema_arrow, int(file.metadata.num_rows)
        column = _geo_column(schema, path)
    except (OSError, pa.ArrowInvalid) as error:
        raise VectorError(f"{path} cannot be read as GeoParquet: {_line(error)}") from error
    # A missing CRS means longitude and latitude, null means that it is unknown (GeoParquet 1.1).
    known = column[1].get("crs", "OGC:CRS84")
    crs = None if known is None else horizontal(pyproj.CRS.from_user_input(known))
    fields = tuple(name for name in schema.names if name != column[0])
    return Features(path=path, layer=None, fields=fields, crs=crs, count=count)


def _geo_column(schema: Any, path: Path) -> tuple[str, dict[str, Any]]:
    """Return the name and the metadata of the geometry column of a GeoParquet file."""
    found = (schema.metadata or {}).get(b"geo")
    if found is None:
        raise VectorError(f"{path} is a Parquet file without geometries")
    meta = json.loads(found)
    name = str(meta["primary_column"])
    return name, meta["columns"][name]


@contextmanager
def _arrow(
    features: Features, bounds: Bounds | None, columns: Sequence[str]
) -> Iterator[tuple[Iterator[Any], str, str | None]]:
    """Context manager: yield Arrow record batches, and the names of their columns of WKB geometries and of FIDs."""
    import pyarrow as pa
    import pyogrio
    from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, FieldError, GeometryError

    wrong = (DataLayerError, DataSourceError, FeatureError, FieldError, GeometryError, pa.ArrowException, OSError)
    with ExitStack() as stack:
        try:
            if features.layer is None:
                yield *_parquet_batches(Path(features.path), columns, stack), None
                return
            name = stack.enter_context(readable(features.path))
            meta, reader = stack.enter_context(
                pyogrio.raw.open_arrow(
                    name, layer=features.layer, columns=list(columns), bbox=bounds, batch_size=BATCH, use_pyarrow=True,
                    return_fids=True,
                )
            )  # fmt: skip
            yield iter(reader), meta["geometry_name"] or "wkb_geometry", meta["fid_column"] or "OGC_FID"
        except wrong as error:
            raise VectorError(f"{features.label} cannot be read as vector data: {_line(error)}") from error


def _parquet_batches(path: Path, columns: Sequence[str], stack: ExitStack) -> tuple[Iterator[Any], str]:
    import pyarrow as pa
    from pyarrow import parquet

    file = parquet.ParquetFile(stack.enter_context(path.open("rb")))
    name, meta = _geo_column(file.schema_arrow, path)
    if meta["encoding"] == "WKB":
        return file.iter_batches(batch_size=BATCH, columns=[name, *columns]), name
    # Coordinates in Arrow's own types: geopandas reads them, but only the whole file.
    geometries, attributes, _ = read_parquet(path)
    arrays = {name: shapely.to_wkb(geometries), **{column: attributes[column] for column in columns}}
    return iter(pa.table({key: pa.array(values) for key, values in arrays.items()}).to_batches(BATCH)), name


def _within(batch: Batch, bounds: Bounds) -> Batch:
    """Return the features whose bounds overlap the given bounds."""
    west, south, east, north = shapely.bounds(batch.geometries).T
    near = (west <= bounds[2]) & (east >= bounds[0]) & (south <= bounds[3]) & (north >= bounds[1])
    chosen = {name: column[near] for name, column in batch.attributes.items()}
    return Batch(geometries=batch.geometries[near], fids=batch.fids[near], attributes=chosen)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
