"""Files of a catalogue while they are written: layers of a GeoPackage, or one GeoParquet file for each layer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from floodmap.catalogue.schema import LAYERS, POLYGON_LAYERS, SCENES, Kind, Layer
from floodmap.geo.names import readable, writable
from floodmap.output.vector_files import embed_styles, quiet_gdal, style

Geometries = NDArray[np.object_]
Columns = Mapping[str, Sequence[Any] | NDArray[Any]]

_PANDAS: dict[Kind, str] = {"text": "object", "integer": "Int64", "real": "float64"}
_GEOPARQUET = "1.1.0"


class Tables(Protocol):
    """Layers to which rows are appended."""

    @staticmethod
    def wrote(file: Path, stem: str) -> bool:
        """Return whether a file has the layers and columns of a file of this format.

        Args:
            file: an existing file with the name of a file of a catalogue.
            stem: name of the catalogue without suffix.
        """
        ...

    def append(self, layer: Layer, geometries: Geometries, columns: Columns) -> None:
        """Append rows to a layer.

        Args:
            layer: one of `schema.LAYERS`.
            geometries: shapely polygons or None, object (n,).
            columns: values (n,) by name, for all columns of the layer.
        """
        ...

    def close(self) -> dict[str, str]:
        """Complete the files.

        Returns:
            Final name of each file by its name in the folder; the file with the layer `scenes` is the last. With some
            formats the files are there only when the stack given to the constructor is closed.
        """
        ...


class GeoPackage:
    """A GeoPackage with all layers, and styles for QGIS.

    Args:
        folder: folder of the file.
        stem: name of the catalogue without suffix.
        crs: CRS of all layers.
        date: time that is written into the file as the time of its last change.
        stack: stack of contexts that is closed after the last call, also after an error.
    """

    def __init__(self, folder: Path, stem: str, crs: str, date: datetime, stack: ExitStack) -> None:
        self._stem, self._crs, self._date = stem, crs, date
        stack.enter_context(quiet_gdal(date))
        self._path = stack.enter_context(writable(folder)) / "0.gpkg"
        for layer in LAYERS:
            self.append(layer, np.empty(0, object), {key: [] for key in layer.columns})

    @staticmethod
    def wrote(file: Path, stem: str) -> bool:
        """Return whether a GeoPackage has the layer `scenes` of a catalogue; see `Tables.wrote`."""
        import pyogrio
        from pyogrio.errors import DataLayerError, DataSourceError

        with suppress(DataSourceError, DataLayerError), readable(file) as name:
            return set(SCENES.columns) <= set(pyogrio.read_info(name, layer=SCENES.name)["fields"])
        return False

    def append(self, layer: Layer, geometries: Geometries, columns: Columns) -> None:
        """Append rows to a layer; see `Tables.append`."""
        import geopandas
        import pandas as pd
        import pyogrio

        typed = {key: pd.array(list(columns[key]), dtype=_PANDAS[kind]) for key, kind in layer.columns.items()}
        frame = geopandas.GeoDataFrame(typed, geometry=geometries, crs=self._crs)
        exists = self._path.exists()
        pyogrio.write_dataframe(
            frame, self._path, driver="GPKG", layer=layer.name, append=exists, geometry_type="MultiPolygon",
            promote_to_multi=True, **({} if exists else {"VERSION": "1.2"}),
        )  # fmt: skip

    def close(self) -> dict[str, str]:
        """Add the styles and complete the file; see `Tables.close`."""
        embed_styles(self._path, [layer.name for layer in POLYGON_LAYERS], self._date)
        return {self._path.name: f"{self._stem}.gpkg"}


class GeoParquet:
    """GeoParquet files: STEM.parquet with a row for each scene, and STEM_LAYER.parquet with the polygons of a layer.

    Args:
        folder: folder of the files.
        stem: name of the catalogue without suffix.
        crs: CRS of all layers.
        date: not used: GeoParquet records no time.
        stack: stack of contexts that is closed after the last call, also after an error.
    """

    def __init__(self, folder: Path, stem: str, crs: str, date: datetime, stack: ExitStack) -> None:
        from pyarrow import parquet

        self._folder, self._stem, self._names = folder, stem, names_of(stem, ".parquet")
        self._schemas = {layer.name: _arrow_schema(layer, crs) for layer in LAYERS}
        self._writers: dict[str, Any] = {}
        for name in self._names:
            stream = stack.enter_context((folder / f"{name}.parquet").open("wb"))
            self._writers[name] = stack.enter_context(parquet.ParquetWriter(stream, self._schemas[name]))

    @staticmethod
    def wrote(file: Path, stem: str) -> bool:
        """Return whether a GeoParquet file has the columns of its layer; see `Tables.wrote`."""
        import pyarrow as pa
        from pyarrow import parquet

        layer = next(one for one in LAYERS if Path(names_of(stem, ".parquet")[one.name]).stem == file.stem)
        if file.suffix == ".qml":  # a style is replaced with its layer
            return file.with_suffix(".parquet").exists() or file.read_bytes() == style(layer.name).encode()
        with suppress(pa.ArrowException, OSError), file.open("rb") as stream:
            return {*layer.columns, "geometry"} <= set(parquet.read_schema(stream).names)
        return False

    def append(self, layer: Layer, geometries: Geometries, columns: Columns) -> None:
        """Append rows to a file, as a row group; see `Tables.append`."""
        import pyarrow as pa

        schema = self._schemas[layer.name]
        arrays = [pa.array(list(columns[key]), schema.field(key).type, from_pandas=True) for key in layer.columns]
        wkb = pa.array(list(shapely.to_wkb(geometries)), pa.binary())
        self._writers[layer.name].write_table(pa.Table.from_arrays([*arrays, wkb], schema=schema))

    def close(self) -> dict[str, str]:
        """Write the styles beside the files; see `Tables.close`. The stack completes the files."""
        files = {}
        for layer, name in style_names_of(self._stem, ".parquet").items():
            (self._folder / f"{layer}.qml").write_text(style(layer), "utf-8")
            files[f"{layer}.qml"] = name
        return {**files, **{f"{layer}.parquet": name for layer, name in self._names.items()}}


TABLES: dict[str, type[GeoPackage] | type[GeoParquet]] = {".gpkg": GeoPackage, ".parquet": GeoParquet}
"""Format of a catalogue by the suffix of its name."""


def names_of(stem: str, suffix: str) -> dict[str, str]:
    """Return the name of the file of each layer, by name of the layer; the file of the layer `scenes` is the last."""
    if suffix == ".gpkg":
        return {layer.name: f"{stem}.gpkg" for layer in LAYERS}
    return {**{layer.name: f"{stem}_{layer.name}{suffix}" for layer in POLYGON_LAYERS}, "scenes": f"{stem}{suffix}"}


def style_names_of(stem: str, suffix: str) -> dict[str, str]:
    """Return the name of the style file of each layer with one, by name of the layer; a GeoPackage contains styles."""
    names = names_of(stem, suffix)
    return {} if suffix == ".gpkg" else {one.name: f"{Path(names[one.name]).stem}.qml" for one in POLYGON_LAYERS}


def _arrow_schema(layer: Layer, crs: str) -> Any:
    """Return the schema of a GeoParquet file, with the metadata of the geometry column."""
    import pyarrow as pa

    types = {"text": pa.string(), "integer": pa.int64(), "real": pa.float64()}
    kinds = ["Polygon", "MultiPolygon"]
    geometry = {"encoding": "WKB", "geometry_types": kinds, "crs": pyproj.CRS.from_user_input(crs).to_json_dict()}
    metadata = {"version": _GEOPARQUET, "primary_column": "geometry", "columns": {"geometry": geometry}}
    fields = [(key, types[kind]) for key, kind in layer.columns.items()]
    return pa.schema([*fields, ("geometry", pa.binary())], metadata={"geo": json.dumps(metadata)})
