"""Vector files of polygons, with styles for QGIS: GeoPackage, Shapefile, GeoJSON, FlatGeobuf and GeoParquet."""

from __future__ import annotations

import sqlite3
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from floodmap._runtime.extras import require
from floodmap.errors import MissingCRSError, OutputError
from floodmap.geo.areas import densified
from floodmap.geo.names import writable
from floodmap.masks.pairing import unobserved_files
from floodmap.options import FORMATS

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

LAYERS = ("flood", "unobserved")
"""Layers of every run."""
SHAPEFILE_FIELDS = {"perimeter_m": "perim_m", "confidence_mean": "conf_mean", "confidence_min": "conf_min"}
"""Short field names for Shapefiles, by long field name. A field name in a Shapefile has at most 10 characters."""
PARTS = {"shp": (".shx", ".dbf", ".prj", ".cpg", ".qml"), "geojson": (".qml",), "fgb": (".qml",), "parquet": (".qml",)}
"""Suffixes of the sidecar files, by format of the vector file. A GeoPackage has no sidecar files.

A sidecar file is in the folder of its vector file and has the same stem, such as `x.dbf` beside `x.shp`."""
DRIVERS = {"shp": "ESRI Shapefile", "geojson": "GeoJSON", "fgb": "FlatGeobuf"}


def write_layers(
    layers: Mapping[str, GeoDataFrame],
    out_dir: Path,
    name: str,
    formats: Sequence[str],
    *,
    date: datetime,
    overwrite: bool = False,
    scratch: Path | None = None,
) -> list[Path]:
    """Write layers of polygons in each of the given formats.

    A GeoPackage `NAME.gpkg` holds all layers and their styles for QGIS. Other formats have one file for each layer,
    such as `NAME_flood.shp` and `NAME_unobserved.shp`, and a `.qml` style beside each file. The geometry type is
    MultiPolygon, even if a layer is empty. The bytes of the files depend only on the arguments.

    Args:
        layers: tables of polygons by name of the layer, in order; see `polygons.Polygons`.
        out_dir: folder of the files, created if it is missing.
        name: beginning of the file names.
        formats: vector formats, from `options.FORMATS`.
        date: timestamp of the last change, in formats that store such a timestamp; UTC if `date` has no time zone.
        overwrite: True: replace files that exist.
        scratch: folder for temporary files, on the same disk as `out_dir`; None: `out_dir`.

    Returns:
        Paths of the vector files, format by format; the files of a format are in the order of the layers. Sidecar files
        (`.shx`, `.dbf`, `.prj`, `.cpg`, `.qml`) are written, but are not in the list.

    Raises:
        OutputError: a file exists already, a format is unknown, or a file cannot be written.
        MissingCRSError: a format is GeoJSON, and the layers have no CRS.
    """
    files = [file for suffix in formats for file in _files(name, suffix, tuple(layers))]
    return _write_all(layers, files, out_dir, date, overwrite, scratch)


def write_file(
    flood: GeoDataFrame, unobserved: GeoDataFrame, path: Path, *, date: datetime, overwrite: bool = False
) -> list[Path]:
    """Write the layers `flood` and `unobserved` to one vector file or to two.

    A GeoPackage holds both layers. In other formats, the file `path` holds only the flood polygons. If there are
    polygons of unobserved ground, they are written to a second file in the same folder: for `x.shp`, the second file is
    `x_unobserved.shp`. The second file is also written, without polygons, if a file from which `floodmap evaluate`
    would take the unobserved ground exists already.

    Args:
        flood: flood polygons (`polygons.Polygons.flood`).
        unobserved: polygons of unobserved ground (`polygons.Polygons.unobserved`).
        path: the file, or the first of the two files. The suffix decides the format: `.gpkg`, `.shp`, `.geojson`,
            `.fgb` or `.parquet`.
        date: timestamp of the last change, in formats that store such a timestamp; UTC if `date` has no time zone.
        overwrite: True: replace files that exist.

    Returns:
        Paths of the vector files: `path`, then the file of the polygons of unobserved ground, if it was written.
        Sidecar files (`.shx`, `.dbf`, `.prj`, `.cpg`, `.qml`) are written, but are not in the list.

    Raises:
        OutputError: a file exists already, the format is unknown, or a file cannot be written.
        MissingCRSError: the format is GeoJSON, and the layers have no CRS.
    """
    suffix = path.suffix.lower().removeprefix(".")
    files = [_File(path.name, suffix, LAYERS if suffix == "gpkg" else LAYERS[:1])]
    beside = unobserved_files(path)
    if suffix != "gpkg" and (len(unobserved) or any(file.exists() for file in beside)):
        files.append(_File(beside[0].name, suffix, LAYERS[1:]))
    return _write_all({"flood": flood, "unobserved": unobserved}, files, path.parent, date, overwrite)


class _File(NamedTuple):
    name: str
    suffix: str
    layers: tuple[str, ...]


def _files(name: str, suffix: str, layers: tuple[str, ...]) -> list[_File]:
    if suffix == "gpkg":
        return [_File(f"{name}.gpkg", suffix, layers)]
    return [_File(f"{name}_{layer}.{suffix}", suffix, (layer,)) for layer in layers]


def _write_all(
    frames: Mapping[str, GeoDataFrame], files: Sequence[_File], out_dir: Path, date: datetime, overwrite: bool,
    scratch: Path | None = None,
) -> list[Path]:  # fmt: skip
    """Write files to a temporary folder, then move the files to `out_dir`. If a file cannot be written, none is moved.

    `frames` contains the tables of the layers, by name of the layer. `scratch` is the parent of the temporary folder;
    None: `out_dir`. The result is the paths of the vector files, without the sidecar files (see `PARTS`).
    """
    for file in files:
        path = out_dir / file.name
        if file.suffix not in FORMATS:
            raise OutputError(f"{path}: the format must be one of {', '.join(FORMATS)}")
        if file.suffix == "parquet":
            require("pyarrow", "the format parquet")
        if file.suffix == "geojson" and frames[file.layers[0]].crs is None:
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
    """Return the final name, without folders, of a file that was written under a temporary name such as `1.dbf`.

    Example: if `file` has the name `NAME_unobserved.shp`, `1.shp` becomes `NAME_unobserved.shp`, and the sidecar file
    `1.dbf` becomes `NAME_unobserved.dbf`.

    Args:
        part: path of the file under its temporary name. The file is a vector file, or a sidecar file (see `PARTS`).
        file: final name and format of the vector file, also if `part` is one of its sidecar files.
    """
    return file.name if part.suffix == f".{file.suffix}" else f"{Path(file.name).stem}{part.suffix}"


def _write_file(frames: Mapping[str, GeoDataFrame], file: _File, path: Path, date: datetime) -> None:
    """Write one vector file, with the QGIS style inside a GeoPackage, or in a `.qml` file beside any other format.

    The name of `path` is temporary and has only digits, because pyogrio interprets some characters of names (`!`, `;`).
    """
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
        frame = frame.set_geometry(densified(frame.geometry.to_numpy(), frame.crs), crs=frame.crs)
        # The default, 7 decimals, shifts corners by up to half a centimetre.
        options |= {"RFC7946": "YES", "COORDINATE_PRECISION": "9"}
    pyogrio.write_dataframe(frame, path, driver=DRIVERS[file.suffix], layer=layer, **options)


def style(name: str) -> str:
    """Return the QGIS style (QML) of a layer or raster, by the name of its file in `styles`, such as flood or mask."""
    return resources.files("floodmap.output").joinpath("styles", f"{name}.qml").read_text("utf-8")


def embed_styles(path: Path, layers: Sequence[str], date: datetime, styles: Mapping[str, str] | None = None) -> None:
    """Add the table `layer_styles`, from which QGIS reads styles, to a GeoPackage.

    Args:
        path: the GeoPackage.
        layers: names of the layers for which a style is added.
        date: timestamp of the styles, in UTC.
        styles: name of the style by layer; None: the name of the layer.
    """
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
            [(layer, geometry[layer], layer, style((styles or {}).get(layer, layer)), stamp) for layer in layers],
        )


@contextmanager
def quiet_gdal(date: datetime) -> Iterator[None]:
    """Context manager: GDAL writes `date`, in UTC, as the time of last change, so that files are reproducible.

    Warnings of a missing CRS are suppressed, because scenes without a CRS are supported.
    """
    import pyogrio

    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": f"{date:%Y-%m-%dT%H:%M:%S}.000Z"})
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="'crs' was not provided")
            yield
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})
