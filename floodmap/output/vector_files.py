"""Vector files of polygons: GeoPackage (styled), Shapefile, GeoJSON, FlatGeobuf and GeoParquet; all layers or none."""

from __future__ import annotations

import sqlite3
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from floodmap._runtime.extras import require
from floodmap.errors import MissingCRSError, OutputError
from floodmap.geo.names import writable
from floodmap.options import FORMATS

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

LAYERS = ("flood", "unobserved")
SHAPEFILE_FIELDS = {"perimeter_m": "perim_m", "confidence_mean": "conf_mean", "confidence_min": "conf_min"}
"""Short names of fields whose names are longer than the 10 characters of a Shapefile."""
PARTS = {"shp": (".shx", ".dbf", ".prj", ".cpg", ".qml"), "geojson": (".qml",), "fgb": (".qml",), "parquet": (".qml",)}
"""Suffixes of the files beside the main file of a format."""
DRIVERS = {"shp": "ESRI Shapefile", "geojson": "GeoJSON", "fgb": "FlatGeobuf"}


def write_layers(
    flood: GeoDataFrame,
    unobserved: GeoDataFrame,
    out_dir: Path,
    name: str,
    formats: Sequence[str],
    *,
    date: datetime,
    overwrite: bool = False,
    scratch: Path | None = None,
) -> list[Path]:
    """Write both layers in each format: `NAME.gpkg`; `NAME_flood.shp` and `NAME_unobserved.shp`; other formats alike.

    A GeoPackage contains its styles for QGIS; the other formats have a `.qml` file beside each layer. Layers are of
    type MultiPolygon, even if they are empty. The bytes of the files depend only on the arguments.

    Args:
        flood: flood polygons, see `Polygons`.
        unobserved: unobserved polygons, see `Polygons`.
        out_dir: folder, created if it is missing.
        name: beginning of the file names.
        formats: some of `FORMATS`.
        date: timestamp in the files, for formats that have one; UTC if it has no time zone.
        overwrite: replace files that exist.
        scratch: folder on the same disk for temporary files; None: a hidden folder inside `out_dir`.

    Returns:
        The layers' files, flood first in each format.

    Raises:
        OutputError: a file exists already, a format is unknown, or a file cannot be written.
        MissingCRSError: the format is GeoJSON, and there is no CRS.
    """
    files = [file for suffix in formats for file in _files(name, suffix)]
    return _write_all({"flood": flood, "unobserved": unobserved}, files, out_dir, date, overwrite, scratch)


def write_file(
    flood: GeoDataFrame, unobserved: GeoDataFrame, path: Path, *, date: datetime, overwrite: bool = False
) -> list[Path]:
    """Write both layers to a file that the user named; its suffix is the format.

    In formats of a single layer the file holds only the flood polygons. Unobserved polygons, if there are any, are
    written to `STEM_unobserved` beside it. For arguments and errors see `write_layers`.
    """
    suffix = path.suffix.lower().removeprefix(".")
    files = [_File(path.name, suffix, LAYERS if suffix == "gpkg" else LAYERS[:1])]
    if suffix != "gpkg" and len(unobserved):
        files.append(_File(f"{path.stem}_unobserved{path.suffix}", suffix, LAYERS[1:]))
    return _write_all({"flood": flood, "unobserved": unobserved}, files, path.parent, date, overwrite)


class _File(NamedTuple):
    name: str
    suffix: str
    layers: tuple[str, ...]


def _files(name: str, suffix: str) -> list[_File]:
    if suffix == "gpkg":
        return [_File(f"{name}.gpkg", suffix, LAYERS)]
    return [_File(f"{name}_{layer}.{suffix}", suffix, (layer,)) for layer in LAYERS]


def _write_all(
    frames: dict[str, GeoDataFrame], files: Sequence[_File], out_dir: Path, date: datetime, overwrite: bool,
    scratch: Path | None = None,
) -> list[Path]:  # fmt: skip
    """Write all files into a hidden folder, then move them to the output folder."""
    for file in files:
        path = out_dir / file.name
        if file.suffix not in FORMATS:
            raise OutputError(f"{path}: the format must be one of {', '.join(FORMATS)}")
        if file.suffix == "parquet":
            require("pyarrow", "the format parquet")
        if file.suffix == "geojson" and frames["flood"].crs is None:
            raise MissingCRSError(f"{path}: GeoJSON is in WGS 84, and the raster has no CRS; write .gpkg instead")
        for part in (path.with_name(f"{path.stem}{suffix}") for suffix in (path.suffix, *PARTS.get(file.suffix, ()))):
            if part.exists() and not overwrite:
                raise OutputError(f"{part} exists already; replace it with --overwrite, or choose another name")
    date = date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".layers-", dir=scratch or out_dir) as folder:
            with quiet_gdal(date), writable(Path(folder)) as plain:
                for number, file in enumerate(files):
                    _write_file(frames, file, plain / f"{number}.{file.suffix}", date)
            # The main file of a Shapefile is moved last: without it, no program opens the other parts as a layer.
            for part in sorted(Path(folder).iterdir(), key=lambda part: part.suffix == ".shp"):
                part.replace(out_dir / _final_name(part, files[int(part.stem)]))
    # pyogrio and pyarrow raise errors of many kinds.
    except Exception as error:
        raise OutputError(f"cannot write {out_dir / files[0].name}: {error}") from error
    return [out_dir / file.name for file in files]


def _final_name(part: Path, file: _File) -> str:
    """Return the final name of a file with a temporary name (`0.gpkg`, `1.dbf`)."""
    return file.name if part.suffix == f".{file.suffix}" else f"{Path(file.name).stem}{part.suffix}"


def _write_file(frames: dict[str, GeoDataFrame], file: _File, path: Path, date: datetime) -> None:
    """Write a file under a temporary name of digits, because pyogrio interprets some characters of names (`!`, `;`)."""
    import pyogrio

    if file.suffix == "gpkg":
        for layer in file.layers:
            # QGIS 3.22 shows a warning for newer versions of GeoPackage.
            pyogrio.write_dataframe(
                frames[layer], path, driver="GPKG", layer=layer, append=path.exists(), geometry_type="MultiPolygon",
                promote_to_multi=True, **({} if path.exists() else {"VERSION": "1.2"}),
            )  # fmt: skip
        embed_styles(path, file.layers, date)
        return
    frame = frames[file.layers[0]]
    path.with_suffix(".qml").write_text(style(file.layers[0]), "utf-8")
    if file.suffix == "parquet":
        with path.open("wb") as stream:
            frame.to_parquet(stream, index=False)
        return
    options: dict[str, Any] = {"geometry_type": "MultiPolygon", "promote_to_multi": True}
    layer = Path(file.name).stem
    if file.suffix == "shp":
        layer = path.stem  # a Shapefile's layer has the file's name
        frame = frame.rename(columns=SHAPEFILE_FIELDS)
        options |= {"ENCODING": "UTF-8", "DBF_DATE_LAST_UPDATE": f"{date:%Y-%m-%d}"}
    if file.suffix == "geojson":
        # The default, 7 decimals, shifts corners by up to half a centimetre.
        options |= {"RFC7946": "YES", "COORDINATE_PRECISION": "9"}
    pyogrio.write_dataframe(frame, path, driver=DRIVERS[file.suffix], layer=layer, **options)


def style(name: str) -> str:
    """Return the text of a QGIS style of this package: flood, unobserved, mask or probability."""
    return resources.files("floodmap.output").joinpath("styles", f"{name}.qml").read_text("utf-8")


def embed_styles(path: Path, layers: Sequence[str], date: datetime) -> None:
    """Add the table `layer_styles`, from which QGIS reads styles, in the form in which QGIS itself writes it."""
    stamp = f"{date:%Y-%m-%dT%H:%M:%S}.000Z"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "CREATE TABLE layer_styles (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, f_table_catalog TEXT(256), "
            "f_table_schema TEXT(256), f_table_name TEXT(256), f_geometry_column TEXT(256), styleName TEXT(30), "
            "styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30), "
            "update_time DATETIME)"
        )
        database.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier, description, last_change) "
            "VALUES ('layer_styles', 'attributes', 'layer_styles', '', ?)",
            (stamp,),
        )
        geometry = dict(database.execute("SELECT table_name, column_name FROM gpkg_geometry_columns"))
        database.executemany(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName, "
            "styleQML, styleSLD, useAsDefault, description, owner, ui, update_time) "
            "VALUES ('', '', ?, ?, ?, ?, '', 1, 'floodmap', '', NULL, ?)",
            [(layer, geometry[layer], layer, style(layer), stamp) for layer in layers],
        )


@contextmanager
def quiet_gdal(date: datetime) -> Iterator[None]:
    """Set GDAL's time of writing to the date, and suppress warnings of a missing CRS, which is a supported input."""
    import pyogrio

    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": f"{date:%Y-%m-%dT%H:%M:%S}.000Z"})
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="'crs' was not provided")
            yield
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})
