"""The file of a review: places with a status, and polygons that a person has drawn."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize

from floodmap.analysis.review.ranking import Place
from floodmap.errors import OutputError, VectorError
from floodmap.geo.crs import known_crs
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.names import readable, writable
from floodmap.geo.vectors import read_layer, reprojected
from floodmap.geo.window import Window
from floodmap.output.vector_files import embed_styles, quiet_gdal
from floodmap.strips.codes import DRY, FIRST_REASON, MASKED, PERMANENT_CODE

PLACES, EDITS = "review", "edits"
"""Layers of the file."""
STATUS = ("open", "accepted", "rejected", "redrawn")
"""Values of the field `status` of a place: not looked at; right; its flood is dry ground; the polygons of the layer
`edits` replace its result."""
CLASSES = {"flood": 100, "dry": DRY, "permanent water": PERMANENT_CODE + 100, "unobserved": MASKED}
"""Values of the field `class` of an edit, and the code of its pixels."""

Codes = NDArray[np.uint8]


def write_places(places: Sequence[Place], grid: GeoGrid, path: Path) -> None:
    """Write the places of a result, all with the status `open`, and an empty layer for edits, as a GeoPackage.

    Args:
        places: the places, the most worthwhile first.
        grid: grid of the result.
        path: the GeoPackage, which is replaced if it exists.

    Raises:
        OutputError: the file cannot be written.
    """
    import geopandas
    import pyogrio

    corners = [shapely.box(w.col_off, w.row_off, w.col_end, w.row_end) for w in (place.window for place in places)]
    outlines = shapely.transform(np.array(corners, object), grid.to_crs)
    unit = "m2" if grid.is_on_earth else "pixels"
    columns = {
        "rank": np.arange(1, len(places) + 1), "status": np.full(len(places), STATUS[0], object),
        f"error_{unit}": np.array([place.error for place in places], float).round(1),
        "error_share": np.array([place.share for place in places], float).round(4),
    }  # fmt: skip
    if any(place.buildings is not None for place in places):
        columns["buildings_uncertain"] = np.array([place.buildings or 0 for place in places], np.int64)
    columns["note"] = np.full(len(places), "", object)
    crs = None if grid.crs is None else known_crs(grid.crs)
    frames = {
        PLACES: geopandas.GeoDataFrame(columns, geometry=outlines, crs=crs),
        EDITS: geopandas.GeoDataFrame(
            {key: np.empty(0, object) for key in ("class", "note")}, geometry=np.empty(0, object), crs=crs
        ),
    }
    now = datetime.now(UTC)
    try:
        with (
            tempfile.TemporaryDirectory(prefix=".review-", dir=path.absolute().parent) as scratch,
            quiet_gdal(now),
            writable(Path(scratch)) as folder,
        ):
            file = folder / "0.gpkg"
            for layer, frame in frames.items():
                exists = file.exists()
                pyogrio.write_dataframe(
                    frame, file, driver="GPKG", layer=layer, append=exists, promote_to_multi=True,
                    geometry_type="MultiPolygon", **({} if exists else {"VERSION": "1.2"}),
                )  # fmt: skip
            embed_styles(file, list(frames), now)
            (Path(scratch) / file.name).replace(path)
    except Exception as error:  # pyogrio raises exceptions of many classes
        raise OutputError(f"{path} cannot be written: {' '.join(str(error).split())}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Edits:
    """What a person has decided, in pixels of the result, in the order in which it is applied."""

    shapes: NDArray[np.object_]
    """Shapely polygons (column, row), object (n,)."""
    codes: NDArray[np.int64]
    """Code of the pixels of each polygon, int64 (n,)."""
    observed_only: NDArray[np.bool_]
    """True: unobserved pixels stay unobserved, (n,)."""
    counts: dict[str, int]
    """Number of places by status, and number of edits under the key `edits`."""

    def applied(self, codes: Codes, window: Window) -> Codes:
        """Return the codes of a window, uint8 (height, width), with the edits."""
        box = shapely.box(window.col_off, window.row_off, window.col_end, window.row_end)
        result, where = codes, Affine.translation(window.col_off, window.row_off)
        for index in np.flatnonzero(shapely.intersects(self.shapes, box)):
            inside = rasterize([(self.shapes[index], 1)], codes.shape, transform=where, dtype=np.uint8) == 1
            if self.observed_only[index]:
                inside &= result < FIRST_REASON
            result = np.where(inside, np.uint8(self.codes[index]), result)
        return result


def read_edits(path: Path, grid: GeoGrid) -> Edits:
    """Read what a person has decided from the file of a review.

    Args:
        path: the GeoPackage that `write_places` wrote, edited.
        grid: grid of the result.

    Raises:
        VectorError: the file cannot be read, or a status or a class is unknown.
    """
    places, fields = _layer(path, PLACES, grid)
    status = _values(fields, "status", STATUS, path, empty=STATUS[0])
    drawn, of_drawn = _layer(path, EDITS, grid)
    classes = _values(of_drawn, "class", tuple(CLASSES), path, empty="flood")
    cleared = np.array([one in ("rejected", "redrawn") for one in status], bool)
    return Edits(
        shapes=np.concatenate([places[cleared], drawn]),
        codes=np.array([DRY] * int(cleared.sum()) + [CLASSES[one] for one in classes], np.int64),
        observed_only=np.array([True] * int(cleared.sum()) + [False] * len(drawn), bool),
        counts={**{one: status.count(one) for one in STATUS}, "edits": len(drawn)},
    )


def _layer(path: Path, layer: str, grid: GeoGrid) -> tuple[NDArray[np.object_], dict[str, NDArray[Any]]]:
    """Return the polygons of a layer in pixels (column, row), and its fields."""
    with readable(path) as name:
        geometries, columns, crs = read_layer(path, name, layer)
    if grid.crs is not None and crs is not None:
        geometries = reprojected(geometries, crs, grid.crs, path)
    return np.asarray(shapely.transform(shapely.make_valid(geometries), grid.to_pixels), object), columns


def _values(columns: dict[str, NDArray[Any]], field: str, known: Sequence[str], path: Path, *, empty: str) -> list[str]:
    """Return the values of a field in lower case; `empty` in place of nothing."""
    if field not in columns:
        raise VectorError(f"{path} has no field {field}; is it the file of a review?")
    values = [str(value).strip().lower() if isinstance(value, str) and value.strip() else empty
              for value in columns[field]]  # fmt: skip
    if unknown := [value for value in values if value not in known]:
        raise VectorError(f"{path}: {field} is {unknown[0]!r}; it can be {', '.join(known)}")
    return values
