"""Vectorization: polygons with geodesic areas from strips of codes, or from mask and probability rasters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS

from floodmap.errors import MissingCRSError
from floodmap.geo.areas import measure
from floodmap.geo.crs import known_crs
from floodmap.geo.downloads import local_file
from floodmap.geo.geogrid import GeoGrid, pixel_m2_within
from floodmap.masks.as_codes import open_codes
from floodmap.masks.rules import Ignore
from floodmap.output.simplify import Fates, simplified
from floodmap.output.tracing import Components, trace
from floodmap.strips.codes import FLOOD, PERMANENT, PERMANENT_CODE, REASONS, flood_kinds

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

Strips = Iterable[tuple[int, NDArray[np.uint8]]]
Geometries = NDArray[np.object_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Polygons:
    """The vector layers of one scene, in the CRS of the scene."""

    flood: GeoDataFrame
    """Table with one flood polygon per row, from the top of the scene down. Columns: id, area_m2, perimeter_m,
    confidence_mean, confidence_min (flood probability, 0 to 1), model, source. Perimeters include the perimeters of
    holes, as in QGIS and shapely."""
    unobserved: GeoDataFrame
    """Table with one polygon of unobserved ground per row. Columns: id, reason, area_m2, perimeter_m."""
    permanent: GeoDataFrame
    """Table with one polygon of permanent water per row, as in `flood`; no rows without a reference."""


class Recorder(Protocol):
    """What `outlined` reports to an object that stores outlines, see `correction.recording`."""

    def watched(self, strips: Strips, kinds: NDArray[np.uint8]) -> Strips:
        """Yield the same strips. `kinds` is the kind of each code, uint8 (256,)."""

    def add(self, components: Components, kept: NDArray[np.bool_]) -> None:
        """Take a table of `trace`, and for each component True if it becomes a polygon, bool (n,)."""

    def finish(self, outlines: Geometries, area_m2: Floats, perimeter_m: Floats, fates: list[Fates]) -> None:
        """Take the polygons (column, row) from the top down, their measures, and the fates of `simplified`, if any."""


def polygonize(
    strips: Strips | Callable[[], Strips],
    *,
    grid: GeoGrid,
    threshold: int,
    min_area_m2: float = 0.0,
    simplify_m: float = 0.0,
    model: str | None,
    source: str | None,
    confidence: bool = True,
    keep: Recorder | None = None,
) -> Polygons:
    """Trace flood, permanent water and unobserved ground as polygons. Polygons are not cut at the borders of strips.

    Each polygon is a 4-connected component of pixels that are all flooded, all permanent water, or all unobserved for
    the same reason. Pixels outside the area of interest belong to no polygon. If no polygon is dropped or simplified,
    rasterizing the tables gives the same pixels again. Polygons of flood and of permanent water below the minimum area
    are dropped before the other polygons are simplified. Polygons of unobserved ground are never dropped, because the
    ground would then look dry.

    Args:
        strips: for each strip, from the top of the scene to the bottom, a pair: number of the first row, and codes,
            uint8 (rows, width). Or a function that returns the pairs.
        grid: grid of the scene's pixels. Without a geographic or projected CRS, areas and perimeters are null.
        threshold: in per cent; codes from the threshold to 100 are flood.
        min_area_m2: geodesic area in square metres; smaller polygons of water are dropped. 0: no polygon is dropped.
        simplify_m: approximate size in metres of the details that are removed from outlines. 0: outlines are not
            simplified. The square of this size is the largest effective area (Visvalingam and Whyatt) of a removed
            corner. Flood polygons and polygons of unobserved ground keep their common border.
        model: name of the model, for the column `model`.
        source: name of the scene, for the column `source`.
        confidence: True if the codes are probabilities. False: the columns `confidence_mean` and `confidence_min` are
            null.
        keep: recorder that stores the outlines, so that later changes need no new trace. It does not change the result.

    Raises:
        MissingCRSError: `min_area_m2` or `simplify_m` is above 0, and the grid has no geographic or projected CRS, or
            coordinates that do not exist in its CRS.
    """
    components, measures = outlined(
        strips, kinds=flood_kinds(threshold), of_water=(FLOOD, PERMANENT), grid=grid, min_area_m2=min_area_m2,
        simplify_m=simplify_m, source=source, keep=keep,
    )  # fmt: skip
    return layers(components, measures, crs=grid.crs, model=model, source=source, confidence=confidence)


def layers(
    components: Components, measures: dict[str, Floats], *, crs: Any, model: str | None, source: str | None,
    confidence: bool = True,
) -> Polygons:  # fmt: skip
    """Return the tables of components and measures from `outlined`. For other arguments see `polygonize`."""
    flood, permanent = components.kind == FLOOD, components.kind == PERMANENT
    base = PERMANENT_CODE * permanent
    mean = (components.code_sum / np.maximum(components.n_pixels, 1) - base) / 100
    confidences = {"confidence_mean": mean.round(4), "confidence_min": (components.code_min - base) / 100}
    if not confidence:
        confidences = {key: np.full(len(mean), np.nan) for key in confidences}
    reasons = np.array([REASONS.get(code, "") for code in range(256)], object)[components.kind]
    columns, texts = {**measures, **confidences}, {"model": model, "source": source}
    return Polygons(
        flood=table(columns, components, flood, crs, texts),
        unobserved=table({"reason": reasons, **measures}, components, ~(flood | permanent), crs),
        permanent=table(columns, components, permanent, crs, texts),
    )


def outlined(
    strips: Strips | Callable[[], Strips],
    *,
    kinds: NDArray[np.uint8],
    of_water: Sequence[int],
    grid: GeoGrid,
    min_area_m2: float,
    simplify_m: float,
    source: str | None,
    keep: Recorder | None = None,
) -> tuple[Components, dict[str, Floats]]:
    """Trace pixels of several kinds at once, drop small polygons, simplify the others, and measure them.

    Polygons of all kinds keep their common borders. For `strips`, `grid`, `min_area_m2`, `simplify_m`, `keep` and
    errors see `polygonize`.

    Args:
        kinds: kind of each code, uint8 (256,); see `tracing.trace`.
        of_water: kinds of which polygons below the minimum area are dropped.
        source: name of the raster, for messages.

    Returns:
        The components from the top of the raster down, with outlines in the CRS of the grid; and the columns `area_m2`
        and `perimeter_m`, float64 (n,).
    """
    if not grid.is_on_earth and (min_area_m2 or simplify_m):
        raise MissingCRSError(
            f"{source or 'the raster'} has no CRS, so --min-area and --simplify cannot be used; assign a CRS "
            "(rio edit-info --crs EPSG:CODE FILE) or leave both out"
        )
    collected = _Collected(grid, of_water, min_area_m2, measured=not simplify_m)
    strips = strips() if callable(strips) else strips
    fates: list[Fates] | None = [] if keep else None
    for components in trace(keep.watched(strips, kinds) if keep else strips, kinds=kinds, noded=simplify_m > 0):
        kept = collected.add(components)
        if keep:
            keep.add(components, kept)
    components, area, perimeter = collected.joined()
    del collected
    if simplify_m and len(components.outline):
        pixel_m2 = pixel_m2_within(components.outline, grid)
        if math.isnan(pixel_m2):
            raise _elsewhere(source, "--simplify")
        tolerance = simplify_m / math.sqrt(pixel_m2)
        outlines, components = [components.outline], replace(components, outline=_NOTHING)
        components = replace(components, outline=simplified(outlines.pop(), tolerance, fates))  # `pop`: no reference
        area, perimeter = measure(components.outline, grid.crs, grid.to_crs)
    water = np.isin(components.kind, of_water)
    if min_area_m2 and water.any() and np.isnan(area[water]).all():
        raise _elsewhere(source, "--min-area")
    if keep:
        keep.finish(components.outline, area, perimeter, fates or [])
    placed = np.asarray(shapely.transform(components.outline, grid.to_crs), object)
    return replace(components, outline=placed), {"area_m2": area, "perimeter_m": perimeter}


def _elsewhere(source: str | None, flag: str) -> MissingCRSError:
    return MissingCRSError(
        f"{source or 'the raster'}: its coordinates do not exist in its CRS, so {flag} cannot be used; "
        "assign the right CRS"
    )


def vectorize(
    path: str | Path,
    *,
    flood_value: float | str | None = None,
    threshold: float | None = None,
    ignore_values: Ignore = None,
    min_area_m2: float = 0.0,
    simplify_m: float = 0.0,
) -> GeoDataFrame:
    """Trace the flood of a mask or probability raster, written by floodmap or another program, as polygons.

    Args:
        path: a raster of one band, in a format that GDAL reads; or the URL of one.
        flood_value: value of the flooded pixels in a mask, or several values ("1,2"). None: 1 in masks of 0 and 1, 255
            in masks of 0 and 255, and 1 in masks of 0, 1 and 255.
        threshold: for a probability raster: probability from which a pixel is flood, 0.01 to 1. A raster is taken as
            per cent (0 to 100) in three cases: the metadata name this unit ("%"), the dtype is an integer type, or a
            float raster has values above 1. In each of these cases, the threshold 0.5 is compared as 50, and a warning
            is logged. None: the raster is a mask, unless its metadata name the unit per cent, as in the probability
            rasters that floodmap writes; then 0.5 is used.
        ignore_values: values of unobserved pixels (9, "0,9", (0, 9)), besides nodata. Common fill values (values below
            0, 255 in uint8, 1e20 and others) are unobserved, too, unless they are flood values. "none": only nodata is
            unobserved.
        min_area_m2: geodesic area in square metres; smaller polygons are dropped. 0: no polygon is dropped.
        simplify_m: approximate size in metres of the details that are removed from outlines; 0: none are removed.

    Returns:
        Table with one polygon per row, in the CRS of the raster; for the columns see `Polygons.flood`. Without flood,
        the table has no rows.

    Raises:
        SceneError: the raster holds no probabilities, or has control points in place of a transform.
        EvaluationError: the raster cannot be read, the value of flood is unknown, or the threshold is not within 0.01
            to 1.
        MissingCRSError: `min_area_m2` or `simplify_m` is above 0, and the raster has no geographic or projected CRS, or
            coordinates that do not exist in its CRS.
    """
    return vectorize_layers(
        path, flood_value=flood_value, threshold=threshold, ignore_values=ignore_values, min_area_m2=min_area_m2,
        simplify_m=simplify_m,
    ).flood  # fmt: skip


def vectorize_layers(
    path: str | Path,
    *,
    flood_value: float | str | None = None,
    threshold: float | None = None,
    ignore_values: Ignore = None,
    min_area_m2: float = 0.0,
    simplify_m: float = 0.0,
) -> Polygons:
    """Trace flood and unobserved ground of a mask or probability raster as polygons.

    A pixel is unobserved if it is nodata or transparent, or if its value is unobserved by `ignore_values`. The tables
    are in the CRS of the raster. For arguments and errors see `vectorize`.
    """
    with (
        local_file(path) as file,
        open_codes(file, flood_value=flood_value, threshold=threshold, ignore_values=ignore_values) as raster,
    ):
        return polygonize(
            raster.strips, grid=raster.grid, threshold=raster.threshold, min_area_m2=min_area_m2, simplify_m=simplify_m,
            model=raster.model, source=raster.source, confidence=raster.is_probability,
        )  # fmt: skip


class _Collected:
    """Collection of components (see `tracing.Components`) with areas and perimeters, without small components of water.

    Args:
        grid: grid of the scene's pixels.
        of_water: kinds of water.
        min_area_m2: geodesic area in square metres; smaller components of water are dropped.
        measured: True: compute area and perimeter of all components. False: compute area and perimeter only of
            components that may lie below the minimum area; the values of other components are NaN.
    """

    def __init__(self, grid: GeoGrid, of_water: Sequence[int], min_area_m2: float, *, measured: bool) -> None:
        self._grid, self._of_water, self._min_area_m2, self._measured = grid, of_water, min_area_m2, measured
        self._parts: list[tuple[Components, Floats, Floats]] = []

    def add(self, components: Components) -> NDArray[np.bool_]:
        """Add components, and return True for each that is not dropped, bool (n,)."""
        outline = components.outline
        area, perimeter = np.full((2, len(outline)), np.nan)
        small = np.ones(len(outline), bool)
        if not self._measured and len(outline):
            # Within a band of rows, no pixel is four times as large as another pixel.
            pixel_m2 = pixel_m2_within(outline, self._grid)
            small = ~(components.n_pixels * pixel_m2 > 4 * self._min_area_m2)
        area[small], perimeter[small] = measure(outline[small], self._grid.crs, self._grid.to_crs)
        # The comparison keeps components whose area is unknown (NaN).
        kept = ~(np.isin(components.kind, self._of_water) & (area < self._min_area_m2))
        self._parts.append((_subset(components, kept), area[kept], perimeter[kept]))
        return kept

    def joined(self) -> tuple[Components, Floats, Floats]:
        """Return the n components from the top of the scene down, and areas (m²) and perimeters (m), float64 (n,)."""
        parts = self._parts or [(_NO_COMPONENTS, np.empty(0), np.empty(0))]
        names = Components.__slots__
        joined = Components(**{name: np.concatenate([getattr(part[0], name) for part in parts]) for name in names})
        order = np.argsort(joined.first)
        area, perimeter = (np.concatenate([part[index] for part in parts])[order] for index in (1, 2))
        return _subset(joined, order), area, perimeter


_NOTHING = np.empty(0, object)
_NO_COMPONENTS = Components(
    kind=np.empty(0, np.uint8), outline=_NOTHING,
    **{name: np.empty(0, np.int64) for name in ("first", "n_pixels", "code_sum", "code_min")},
)  # fmt: skip


def _subset(components: Components, index: NDArray[Any]) -> Components:
    return Components(**{name: getattr(components, name)[index] for name in Components.__slots__})


def table(
    columns: Mapping[str, NDArray[Any]],
    components: Components,
    chosen: NDArray[np.bool_],
    crs: CRS | None,
    constants: Mapping[str, str | None] | None = None,
) -> GeoDataFrame:
    """Return the table of some of the components that `outlined` returned, with the column `id`: 1, 2, ...

    Args:
        columns: further columns, by name, each with a value for every component.
        components: the n components.
        chosen: bool (n,), True for the components that become rows.
        crs: CRS of the outlines.
        constants: columns with the same text in all rows, by name.
    """
    import geopandas
    import pandas as pd

    n_rows = int(chosen.sum())
    texts = {key: pd.array([value] * n_rows, dtype=object) for key, value in (constants or {}).items()}
    data = {"id": np.arange(1, n_rows + 1), **{key: values[chosen] for key, values in columns.items()}, **texts}
    known = None if crs is None else known_crs(crs)
    return geopandas.GeoDataFrame(data, geometry=components.outline[chosen], crs=known)
