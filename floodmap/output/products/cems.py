"""Tables in the schema of Copernicus EMS Rapid Mapping, from the layers of floodmap.

The file `cems_model.json` has the fields, types and domains, with the source of each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import numpy as np
import shapely
from numpy.typing import NDArray

from floodmap.errors import MissingCRSError
from floodmap.geo.crs import known_crs
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.vectors import reprojected
from floodmap.output.paths import cems_layers
from floodmap.strips.codes import OUTSIDE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from geopandas import GeoDataFrame
    from pandas import DataFrame

WORLD = "EPSG:4326"
"""CRS of the layers."""
FLOOD_TYPES = {
    "riverine": "Riverine flood", "flash": "Flash flood", "coastal": "Coastal flood", "ice-jam": "Ice jam flood",
}  # fmt: skip
"""Values of `obj_desc`, by the value of the option `flood_type`."""
NOT_ANALYSED = {"nodata": "Not Analysed - No data", "collar": "Not Analysed - No data"}
"""Values of `obj_type` in the layer `notAnalysedA`, by reason. Any other reason is `Not Analysed`."""
AUTOMATIC: Final = "Automatic extraction"
SEMI_AUTOMATIC: Final = "Semi-automatic extraction"
"""Values of `det_method`: the model alone, or with points and boxes that a person set."""

Method = Literal["Photo-interpretation", "Semi-automatic extraction", "Automatic extraction", "Modelling"]

_PRODUCT_NAME = re.compile(r"(EMSR[0-9]+)_AOI([0-9]+)_(REF|FEP|DEL|GRA)(?=_|$)")
_TOLERANCE = 1e-8
"""Tolerance of outlines in degrees, 1 mm: `reprojected` adds many vertices to straight edges."""
_AREA_DECIMALS = 6
"""Decimals of areas in hectares: 0.01 m²."""


class Strips(Protocol):
    """Finished strips of a scene; see `journal.Strips`."""

    def strips(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield first row and codes, uint8 (rows, width), of each strip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Imagery:
    """What the layers were made from, for the table `source` and the field `det_method`."""

    name: str
    """Name of the scene or of the product."""
    date: datetime | None
    """Time of acquisition; None: not known."""
    gsd_m: float | None
    """Ground sample distance in metres."""
    method: Method | None
    """How the flood was found; None: not known."""
    frames: Sequence[Mapping[str, Any]] = ()
    """Frames of which a product was made: `frames.segmented` of the JSON report."""
    permanent_water: str | None = None
    """Name of the reference of permanent water; None: there is none."""

    @classmethod
    def of(cls, settings: Mapping[str, Any], name: str, date: datetime, *, permanent: bool = True) -> Imagery:
        """Return the imagery of a run.

        Args:
            settings: settings of the run, as in the JSON report.
            name: name of the scene.
            date: date of the scene.
            permanent: False: the layers have no permanent water, even if the run had a reference.
        """
        source, chosen = settings.get("source", {}), settings.get("settings", {})
        dated = source.get("date_of", "picture") == "picture"
        return cls(
            name=name, date=date if dated else None, gsd_m=source.get("gsd_m"),
            method=AUTOMATIC if chosen.get("prompts", "auto") in ("auto", "none") else SEMI_AUTOMATIC,
            frames=settings.get("frames", {}).get("segmented", ()),
            permanent_water=_file_name(chosen.get("permanent_water")) if permanent else None,
        )  # fmt: skip


def cems_tables(
    tables: Mapping[str, GeoDataFrame],
    grid: GeoGrid,
    imagery: Imagery,
    *,
    area: NDArray[np.object_] | None = None,
    flood_type: str = "unknown",
    name: str = "",
) -> dict[str, DataFrame]:
    """Convert the layers of a result to the schema of Copernicus EMS Rapid Mapping.

    Args:
        tables: layers of floodmap by name: `flood`, `unobserved`, and `permanent_water` if there is a reference. See
            `polygons.Polygons`.
        grid: grid of the scene.
        imagery: what the layers were made from.
        area: polygons of the area of interest in the CRS of the scene, object (n,); None: the whole scene.
        flood_type: kind of flood, a key of `FLOOD_TYPES`, or `unknown`.
        name: name of the product. If it has the form EMSRnnn_AOInn_DEL, the fields of the area of interest follow.

    Returns:
        Tables by name of the layer, in the order of `paths.cems_layers`. Polygons are in EPSG:4326. The table `source`
        has no geometry.

    Raises:
        MissingCRSError: the scene has no geographic or projected CRS.
        VectorError: polygons do not exist in EPSG:4326.
    """
    if not grid.is_on_earth:
        raise MissingCRSError(f"{imagery.name} has no CRS, so --schema cems cannot be used; assign one with --crs")
    flood, unobserved, permanent = tables["flood"], tables["unobserved"], tables.get("permanent_water")
    footprint = shapely.polygons([_corners(grid)])
    rows: dict[str, tuple[NDArray[np.object_], dict[str, Any]]] = {
        "observedEventA": (
            flood.geometry.to_numpy(),
            {
                "event_type": "5-Flood", "obj_desc": FLOOD_TYPES.get(flood_type), "det_method": imagery.method,
                "notation": "Flooded area", "dmg_src_id": 1,
                "area": (flood["area_m2"].to_numpy() / 1e4).round(_AREA_DECIMALS),
            },
        ),
        "notAnalysedA": (
            unobserved.geometry.to_numpy(),
            {
                "obj_type": [NOT_ANALYSED.get(reason, "Not Analysed") for reason in unobserved["reason"]],
                "or_src_id": 1, "notation": unobserved["reason"].to_numpy(),
            },
        ),
        "imageFootprintA": (footprint, {"obj_type": "Image Footprint", "or_src_id": 1}),
        "areaOfInterestA": (footprint if area is None else area, _activation(name)),
    }  # fmt: skip
    sources = _sources(imagery)
    if permanent is not None:
        columns = {"obj_type": "BA040-Open Water", "name": None, "or_src_id": sources[-1]["src_id"]}
        rows["hydrographyA"] = (permanent.geometry.to_numpy(), columns)
    layers = {layer: _frame(layer, *part, grid, imagery.name) for layer, part in rows.items()}
    layers["source"] = _table("source", {key: [one[key] for one in sources] for key in sources[0]}, len(sources))
    return {layer: layers[layer] for layer in cems_layers(permanent=permanent is not None)}


def area_polygons(strips: Strips, grid: GeoGrid, simplify_m: float) -> NDArray[np.object_]:
    """Trace the area of interest of a scene: all pixels that are not outside.

    Args:
        strips: strips of codes of the whole scene.
        grid: grid of the scene.
        simplify_m: as in `polygonize`.

    Returns:
        shapely MultiPolygons and Polygons in the CRS of the scene, object (n,).
    """
    from floodmap.output.polygons import polygonize  # the import takes long

    inside = ((row, np.where(codes == OUTSIDE, codes, np.uint8(100))) for row, codes in strips.strips())
    traced = polygonize(inside, grid=grid, threshold=100, simplify_m=simplify_m, model=None, source=None)
    return np.asarray(traced.flood.geometry.to_numpy(), object)


@cache
def model() -> dict[str, Any]:
    """Return the data model: content of `cems_model.json`."""
    text = resources.files("floodmap.output.products").joinpath("cems_model.json").read_text("utf-8")
    read: dict[str, Any] = json.loads(text)
    return read


def _corners(grid: GeoGrid) -> list[tuple[float, float]]:
    corners = ((0, 0), (grid.width, 0), (grid.width, grid.height), (0, grid.height))
    return [grid.transform @ corner for corner in corners]


def _file_name(path: str | None) -> str | None:
    """Return the last part of a path or URL, so that no folder of the machine is handed over."""
    return None if path is None else re.split(r"[/\\]", path)[-1] or path


def _activation(name: str) -> dict[str, Any]:
    """Return the fields of the area of interest that follow from the name of a product, such as EMSR773_AOI01_DEL."""
    found = _PRODUCT_NAME.match(name)
    emsr_id, area_id, map_type = found.groups() if found else (None, None, None)
    return {"emsr_id": emsr_id, "glide_no": None, "area_id": area_id, "locality": None, "map_type": map_type}


def _sources(imagery: Imagery) -> list[dict[str, Any]]:
    """Return the rows of the table `source`: the imagery, frames of the imagery, and permanent water."""
    rows = [_image(imagery.name, imagery.date, imagery.gsd_m)]
    for frame in imagery.frames:
        dated = frame.get("date_of", "picture") == "picture"
        rows.append(_image(frame["name"], datetime.fromisoformat(frame["date"]) if dated else None, frame["gsd_m"]))
    if imagery.permanent_water is not None:
        rows.append({**_image(imagery.permanent_water, None, None), "eventphase": "Not applicable"})
    return [{**row, "src_id": number} for number, row in enumerate(rows, 1)]


def _image(name: str, date: datetime | None, gsd_m: float | None) -> dict[str, Any]:
    date = None if date is None else (date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC))
    return {
        "source_nam": name, "src_date": date and f"{date:%d/%m/%Y}", "source_tm": date and f"{date:T%H:%M:%SZ}",
        "sensor_gsd": None if gsd_m is None else f"{gsd_m:.3g} m",
        "eventphase": "Post-event",
    }  # fmt: skip


def _frame(
    layer: str, geometries: NDArray[np.object_], columns: Mapping[str, Any], grid: GeoGrid, name: str
) -> GeoDataFrame:
    import geopandas

    placed = reprojected(np.asarray(geometries, object), known_crs(grid.crs), WORLD, name)
    placed = shapely.simplify(placed, _TOLERANCE)
    return geopandas.GeoDataFrame(_table(layer, columns, len(placed)), geometry=placed, crs=WORLD)


def _table(layer: str, columns: Mapping[str, Any], n_rows: int) -> DataFrame:
    """Return a table with the fields and types of the data model. A single value is that of every row."""
    import pandas as pd

    dtypes = {"text": object, "integer": np.int32, "real": np.float64}
    data = {}
    for field in model()["layers"][layer]["fields"]:
        value = columns[field["name"]]
        values = [value] * n_rows if value is None or isinstance(value, str | int) else list(value)
        data[field["name"]] = pd.array(values, dtype=dtypes[field["type"]])
    return pd.DataFrame(data)
