"""Polygons of false positives and false negatives, as a styled GeoPackage layer."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from floodmap.errors import EvaluationError, OutputError
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.names import writable
from floodmap.geo.window import Window
from floodmap.masks.rules import Reader
from floodmap.output import vector_files
from floodmap.strips.codes import DRY, FLOOD

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

LAYER = "errors"
"""Name of the layer of error polygons."""

_PARTIAL = "0.gpkg"
_STRIP = 512
"""Number of rows that are read together."""
_KINDS = {"false_positive": (FLOOD, DRY), "false_negative": (DRY, FLOOD)}
"""For each kind of error: class of the pixel in the prediction, and class of the pixel in the reference."""


def disagreement(prediction: Reader, reference: Reader, grid: GeoGrid, *, scene: str) -> GeoDataFrame:
    """Compute polygons around false positives and false negatives, strip by strip.

    Args:
        prediction: function from a window of the grid to the classes of the prediction (see `rules.Reader`).
        reference: function from a window of the grid to the classes of the reference.
        grid: grid of the pixels to compare.
        scene: name of the scene, for the column `scene`.

    Returns:
        One row per polygon, in the CRS of the grid. If the grid has no CRS, the polygons have the coordinates of the
        grid's transform: for a picture without georeference, x is the column and y is minus the row. The columns are
        `kind` (false_positive or false_negative), `scene` and `area_m2` (area on the ellipsoid in square metres; null
        without a CRS).
    """
    import geopandas
    import pandas as pd

    from floodmap.output.polygons import polygonize

    parts = []
    for kind in _KINDS:
        strips = _strips(prediction, reference, grid, kind)
        polygons = polygonize(strips, grid=grid, threshold=50, model=None, source=scene, confidence=False).flood
        columns = {"kind": kind, "scene": scene, "area_m2": polygons["area_m2"]}
        parts.append(geopandas.GeoDataFrame(columns, geometry=polygons.geometry, crs=polygons.crs))
    return geopandas.GeoDataFrame(pd.concat(parts, ignore_index=True), crs=parts[0].crs)


def write_disagreement(layers: Sequence[GeoDataFrame], path: Path, *, date: datetime, overwrite: bool) -> None:
    """Write the error polygons of all scenes as one GeoPackage layer with style: false positives red, negatives green.

    The layer has the CRS of the scenes if it is the same for all scenes, EPSG:4326 if the scenes have different CRSs,
    and no CRS if no scene has one.

    Args:
        layers: results of `disagreement`, one per scene.
        path: the file, with the suffix `.gpkg`.
        date: date and time, in UTC, that the GeoPackage records as the time of its last change. The clock is not used,
            so that the same arguments always give the same bytes.
        overwrite: replace the file if the file exists.

    Raises:
        EvaluationError: some scenes have a CRS and other scenes have none.
        OutputError: the name of the file does not end in .gpkg, or the file exists or cannot be written.
    """
    import geopandas
    import pandas as pd
    import pyogrio

    check_target(path, overwrite=overwrite)
    systems = [layer.crs for layer in layers]
    if None in systems and any(system is not None for system in systems):
        raise EvaluationError(f"{path} cannot hold scenes with a CRS and scenes without; evaluate them separately")
    if any(system != systems[0] for system in systems):
        layers = [layer.to_crs("EPSG:4326") for layer in layers]
    # Concatenating an empty table would change the types of the columns.
    filled = [layer for layer in layers if len(layer)] or list(layers[:1])
    every = geopandas.GeoDataFrame(pd.concat(filled, ignore_index=True), crs=layers[0].crs)
    try:
        with tempfile.TemporaryDirectory(prefix=".errors-", dir=path.parent) as folder:
            with vector_files.quiet_gdal(date), writable(Path(folder)) as plain:
                # QGIS 3.22 warns of newer versions of GeoPackage.
                pyogrio.write_dataframe(
                    every, plain / _PARTIAL, driver="GPKG", layer=LAYER, geometry_type="Polygon",
                    dataset_options={"VERSION": "1.2"},
                )  # fmt: skip
                vector_files.embed_styles(plain / _PARTIAL, (LAYER,), date)
            Path(folder, _PARTIAL).replace(path)
    # pyogrio raises exceptions of many classes.
    except Exception as error:
        raise OutputError(f"{path} cannot be written: {' '.join(str(error).split())}") from error


def check_target(path: Path, *, overwrite: bool) -> None:
    """Check, before the evaluation begins, that the GeoPackage of error polygons can be written.

    Raises:
        OutputError: the name of the file does not end in .gpkg, the folder is missing, or the file exists and
            `overwrite` is not set.
    """
    if path.suffix.lower() != ".gpkg":
        raise OutputError(f"{path}: the errors are written as a GeoPackage; give a name that ends in .gpkg")
    if not path.parent.is_dir():
        raise OutputError(f"{path} cannot be written: its folder does not exist")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists already; choose another name or overwrite it")


def _strips(prediction: Reader, reference: Reader, grid: GeoGrid, kind: str) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Find the pixels with one kind of error, in strips of full rows from top to bottom.

    Args:
        prediction: function from a window of the grid to the classes of the prediction.
        reference: function from a window of the grid to the classes of the reference.
        grid: grid of the pixels to compare.
        kind: kind of error, a key of `_KINDS`.

    Yields:
        Two values for each strip: the first row of the strip, counted from 0, and an array, uint8 (rows, width), with
        100 at pixels with an error of this kind, else 0.
    """
    predicted, referenced = _KINDS[kind]
    for row in range(0, grid.height, _STRIP):
        strip = Window(row, 0, min(_STRIP, grid.height - row), grid.width)
        wrong = (prediction(strip) == predicted) & (reference(strip) == referenced)
        yield row, np.where(wrong, 100, 0).astype(np.uint8)
