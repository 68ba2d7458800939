"""Files in the schema of Copernicus EMS Rapid Mapping: GeoPackage, Shapefile, GeoJSON, FlatGeobuf and GeoParquet."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from floodmap._runtime.extras import require
from floodmap.errors import OutputError
from floodmap.geo.names import writable
from floodmap.options import FORMATS
from floodmap.output.paths import CEMS_VERSION, TABLE_SUFFIXES, cems_paths
from floodmap.output.vector_files import DRIVERS, PARTS, embed_styles, quiet_gdal, style

if TYPE_CHECKING:
    from pandas import DataFrame

STYLES = {"observedEventA": "flood", "notAnalysedA": "unobserved", "hydrographyA": "permanent_water"}
"""Styles for QGIS (`vector_files.style`) of the layers that have one."""
LONGEST_TEXT = 254
"""Longest text of a dBASE file, in bytes of UTF-8."""


class _File(NamedTuple):
    path: Path
    form: str
    """Vector format, from `options.FORMATS`."""
    layers: tuple[str, ...]


def write_cems(
    layers: Mapping[str, DataFrame],
    out: Path,
    name: str,
    formats: Sequence[str],
    *,
    date: datetime,
    scratch: Path | None = None,
) -> list[Path]:
    """Write the layers of a run in each vector format. Files that exist are replaced.

    Args:
        layers: tables of `cems.cems_tables`.
        out: folder of the files.
        name: beginning of the file names.
        formats: vector formats, from `options.FORMATS`.
        date: timestamp of the last change, in formats that store one; UTC if `date` has no time zone.
        scratch: folder for temporary files, on the same disk as `out`; None: `out`.

    Returns:
        Paths of the files, as in `paths.cems_paths`, format by format. Sidecar files are not in the list.

    Raises:
        OutputError: a file cannot be written, or a text is too long for a Shapefile.
    """
    files = []
    for form in formats:
        paths = cems_paths(out, name, form, permanent="hydrographyA" in layers)
        files += _files(paths, form, tuple(layers))
    return _write_all(layers, files, out, date, scratch)


def write_cems_file(
    layers: Mapping[str, DataFrame], path: Path, *, date: datetime, overwrite: bool = False
) -> list[Path]:
    """Write the layers to a file of a chosen name, and in formats of one layer to files beside it.

    Args:
        layers: tables of `cems.cems_tables`.
        path: a GeoPackage for all layers, or the file of the layer `observedEventA`. The names of the other files
            follow from it: `x_notAnalysedA_v1.shp` is beside `x_observedEventA_v1.shp`, and also beside `x.shp`.
        date: timestamp of the last change, in formats that store one; UTC if `date` has no time zone.
        overwrite: True: replace files that exist.

    Returns:
        Paths of the files, the given one first. Sidecar files are not in the list.

    Raises:
        OutputError: a file exists already or cannot be written, the format is unknown, or a text is too long.
    """
    form = path.suffix.lower().removeprefix(".")
    if form not in FORMATS:
        raise OutputError(f"{path}: the format must be one of {', '.join(FORMATS)}")
    paths = [path] if form == "gpkg" else [path, *(_beside(path, layer, form) for layer in list(layers)[1:])]
    files = _files(paths, form, tuple(layers))
    for file in files:
        for part in _parts(file):
            if part.exists() and not overwrite:
                raise OutputError(f"{part} exists already; replace it with --overwrite, or choose another name")
    return _write_all(layers, files, path.parent, date, None)


def _beside(path: Path, layer: str, form: str) -> Path:
    suffix = TABLE_SUFFIXES[form] if layer == "source" else form
    if "observedEventA" in path.stem:
        return path.with_name(f"{path.stem.replace('observedEventA', layer)}.{suffix}")
    return path.with_name(f"{path.stem}_{layer}_{CEMS_VERSION}.{suffix}")


def _files(paths: Sequence[Path], form: str, layers: tuple[str, ...]) -> list[_File]:
    if form == "gpkg":
        return [_File(paths[0], form, layers)]
    return [_File(path, form, (layer,)) for path, layer in zip(paths, layers, strict=True)]


def _parts(file: _File) -> list[Path]:
    """Return the file and its sidecar files, whether they exist or not."""
    return [file.path, *(file.path.with_suffix(suffix) for suffix in PARTS.get(file.path.suffix[1:], ()))]


def _write_all(
    layers: Mapping[str, DataFrame], files: Sequence[_File], out: Path, date: datetime, scratch: Path | None
) -> list[Path]:
    """Write all files to a temporary folder, then move them. If a file cannot be written, none is moved."""
    date = date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC)
    if any(file.form == "parquet" for file in files):
        require("pyarrow", "the format parquet")
    if any(file.form == "shp" for file in files):
        _refuse_long_texts(layers, files[0].path)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".cems-", dir=scratch or out) as folder:
            with quiet_gdal(date), writable(Path(folder)) as plain:
                for number, file in enumerate(files):
                    _write(layers, file, plain / f"{number}{file.path.suffix}", date)
            # The main file of a Shapefile is moved last: without it, no program opens the other parts as a layer.
            for part in sorted(Path(folder).iterdir(), key=lambda part: part.suffix == ".shp"):
                part.replace(files[int(part.stem)].path.with_suffix(part.suffix))
    except Exception as error:  # pyogrio and pyarrow raise errors of many kinds
        raise OutputError(f"cannot write {files[0].path}: {error}") from error
    return list(dict.fromkeys(file.path for file in files))  # GeoJSON and FlatGeobuf share a table


def _refuse_long_texts(layers: Mapping[str, DataFrame], path: Path) -> None:
    """Raise OutputError if a text is longer than a Shapefile can hold: GDAL would cut it."""
    for layer, table in layers.items():
        for column in table.select_dtypes(object).columns:
            for value in table[column].dropna().unique():
                if len(value.encode()) > LONGEST_TEXT:
                    raise OutputError(
                        f"{path}: {column} of {layer} is longer than the {LONGEST_TEXT} bytes that a Shapefile holds; "
                        "choose another format"
                    )


def _write(layers: Mapping[str, DataFrame], file: _File, path: Path, date: datetime) -> None:
    """Write one file under a temporary name, with the styles for QGIS."""
    import pyogrio

    if file.form == "gpkg":
        for layer in file.layers:
            # QGIS 3.22 shows a warning for newer versions of GeoPackage.
            version = {} if path.exists() else {"VERSION": "1.2"}
            pyogrio.write_dataframe(
                layers[layer], path, driver="GPKG", layer=f"{layer}_{CEMS_VERSION}", append=path.exists(),
                **_geometry(layers[layer]), **version,
            )  # fmt: skip
        styles = {f"{layer}_{CEMS_VERSION}": name for layer, name in STYLES.items() if layer in file.layers}
        embed_styles(path, tuple(styles), date, styles)
        return
    (layer,) = file.layers
    table = layers[layer]
    if layer in STYLES:
        path.with_suffix(".qml").write_text(style(STYLES[layer]), "utf-8")
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    elif file.form == "parquet":
        with path.open("wb") as stream:
            table.to_parquet(stream, index=False)
    else:
        options: dict[str, Any] = {"layer": path.stem if file.form == "shp" else file.path.stem}
        if file.form == "shp":
            options |= {"ENCODING": "UTF-8", "DBF_DATE_LAST_UPDATE": f"{date:%Y-%m-%d}"}
        if file.form == "geojson":
            options |= {"RFC7946": "YES", "COORDINATE_PRECISION": "9"}  # 0.1 mm
        pyogrio.write_dataframe(table, path, driver=DRIVERS[file.form], **_geometry(table), **options)


def _geometry(table: DataFrame) -> dict[str, Any]:
    """Return the arguments for the geometries of a table; none for a table without geometries."""
    return {"geometry_type": "MultiPolygon", "promote_to_multi": True} if "geometry" in table else {}
