"""Small maps of a scene for HTML pages, with scale bar, north arrow, and numbers 1, 2, 3 at the largest flood polygons.

The maps are a photograph, a map of flood and unobserved ground, and a map of the flood probability.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyproj import Geod, Transformer
from rasterio.enums import Resampling
from rasterio.io import DatasetReader

from floodmap.geo.geogrid import GeoGrid
from floodmap.imagery.tile import Tile
from floodmap.output.pages.html import Image8, jpeg, png
from floodmap.output.results import FloodMap, open_result
from floodmap.strips.codes import FAILED, NODATA, OUTSIDE, PERMANENT, UNOBSERVED

SIDE = 1200
"""Longest side of the photograph and of the map of flood and unobserved ground, in pixels. With this side, all
pictures of an HTML report together have at most 2 MB, even if they compress badly."""
PROBABILITY_SIDE = 600
"""Longest side of the probability map, in pixels."""
PHOTOGRAPH_BYTES = 600_000
"""Largest size of the photograph, in bytes."""
LONG = 1000.0
"""Length of the longer side of a map in drawing units: units of the SVG, not of the CRS."""
NUMBER_SPACING = 36.0
"""Least distance between two numbers that mark places on the map, in drawing units. The least distance between a number
and the edge of the map is half of this value."""

FILL, SHORE, GREY, GREY_STRIPE, WARM, WARM_STRIPE, PALE, TEAL = range(1, 9)
"""Indices of colours in `OVERLAY`: flood; shore, the flood pixels next to dry pixels; background and stripes of
unobserved ground; background and stripes of failed windows; ground outside the area of interest; permanent water.
Index 0 is transparent, for dry ground."""
OVERLAY = (
    (0, 0, 0, 0), (30, 110, 235, 105), (8, 48, 140, 255), (222, 226, 230, 200), (128, 138, 148, 255),
    (250, 224, 208, 200), (180, 84, 31, 255), (255, 255, 255, 190), (64, 176, 166, 150),
)  # fmt: skip
"""Colours of the map of flood and unobserved ground: red, green, blue and opacity, 0 to 255. Flood and shore have the
colours of the QGIS styles."""
KINDS = ("", "flood", "flood", "unobserved", "unobserved", "failed", "failed", "outside", "permanent")
"""Kind of ground that each colour in `OVERLAY` shows, in the same order. Shore is flood. Stripes and their background
show the same kind. The kind of dry ground is the text "", because the legend of the map has no entry for it."""
RAMP = ((0, "#f6f6ee"), (10, "#ffffcc"), (30, "#a1dab4"), (50, "#41b6c4"), (75, "#2c7fb8"), (100, "#253494"))
"""Colour ramp of the probability map: pairs of flood probability in per cent and colour, as in the QGIS style."""
HATCH = 9
"""Distance from one diagonal stripe of a hatching to the next, along a row, in pixels."""

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleBar:
    """Scale bar of a map."""

    length: float
    """Length in drawing units."""
    text: str
    """Label, in metres or kilometres."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneMaps:
    """Maps of one scene for the HTML template. All maps show the whole scene, as pictures that are `data:` URLs."""

    width: float
    """Width of the maps in drawing units; the longer side is `LONG`."""
    height: float
    """Height of the maps in drawing units."""
    photograph: str
    """Photograph of the scene."""
    overlay: str
    """Map of flood and unobserved ground; dry ground is transparent."""
    probability: str
    """Map of flood probability and unobserved ground."""
    shown: frozenset[str]
    """Kinds of ground, from `KINDS`, that occur in `overlay`, for the legend."""
    scale_bar: ScaleBar | None
    """Scale bar; None without a CRS."""
    north_deg: float | None
    """Direction of north at the centre of the maps, in degrees clockwise from up; None without a CRS."""
    numbers: tuple[tuple[int, float, float], ...]
    """Numbers that mark places on the maps, each (number, x, y): x, y in drawing units from the top left corner."""


def draw_maps(flood_map: FloodMap, picture: Tile, places_xy: Sequence[tuple[float, float]] = ()) -> SceneMaps:
    """Draw the maps of a scene.

    Args:
        flood_map: the results of the scene. The rasters are read at reduced size, from overviews.
        picture: the scene at reduced size (`Scene.preview`), of at most `SIDE` pixels a side.
        places_xy: coordinates (x, y), in the scene's CRS, of points that are marked with the numbers 1, 2, 3 and so on.
            A number that would overlap an earlier number is left out.
    """
    shape_hw = picture.reason.shape
    with open_result(flood_map.mask_path) as dataset:
        frame = MapFrame(GeoGrid.of(dataset))
        mask = _shrunk(dataset, (shape_hw[0], shape_hw[1]))
    failed = _failed(flood_map.report, frame, mask)
    overlay = _overlay(mask, picture.reason, failed)
    with open_result(flood_map.probability_path) as dataset:
        scale = min(1.0, PROBABILITY_SIDE / max(shape_hw))
        probability = _shrunk(dataset, (max(1, round(shape_hw[0] * scale)), max(1, round(shape_hw[1] * scale))))
    photograph = np.where(np.isin(picture.reason, (NODATA, FAILED)), np.uint8(235), picture.rgb).transpose(1, 2, 0)
    width, height = frame.size
    return SceneMaps(
        width=width,
        height=height,
        photograph=jpeg(frame.upright(photograph), SIDE, PHOTOGRAPH_BYTES),
        overlay=png(frame.upright(overlay), OVERLAY),
        probability=png(frame.upright(_hatched_probability(probability)), _ramp()),
        shown=frozenset(KINDS[index] for index in np.unique(overlay)),
        scale_bar=frame.scale_bar,
        north_deg=frame.north_deg,
        numbers=tuple(
            _without_overlap((number, *frame.inside(*frame.place(x, y))) for number, (x, y) in enumerate(places_xy, 1))
        ),
    )


def draw_results(flood_map: FloodMap, side: int) -> tuple[str, str]:
    """Draw two maps of a scene: flood and unobserved ground, and flood probability.

    Args:
        flood_map: the results of the scene. The rasters are read at reduced size, from overviews.
        side: longest side of each map, in pixels.

    Returns:
        The two maps, each as a `data:` URL of a PNG.
    """
    drawn = []
    for path in (flood_map.mask_path, flood_map.probability_path):
        with open_result(path) as dataset:
            frame = MapFrame(GeoGrid.of(dataset))
            width, height = (max(1, round(length * side / LONG)) for length in frame.size)
            drawn.append(frame.upright(_shrunk(dataset, (height, width))))
    mask, probability = drawn
    no_reason = np.zeros(mask.shape, np.uint8)
    overlay = _overlay(mask, no_reason, _failed(flood_map.report, frame, mask))
    return png(overlay, OVERLAY), png(_hatched_probability(probability), _ramp())


@dataclass(frozen=True)
class MapFrame:
    """Conversion between a raster and a map of the raster.

    On the map, the scale is equal along both axes. A raster with the first row in the south is flipped vertically, so
    that the map is not mirrored.
    """

    grid: GeoGrid
    """Grid of the raster's pixels."""

    @cached_property
    def _steps(self) -> tuple[float, float]:
        """Width and height of a pixel in metres; without a CRS, in units of the transform."""
        a, b, _, d, e, _ = self.grid.transform[:6]
        return self.grid.steps_m or (math.hypot(a, d), math.hypot(b, e))

    @cached_property
    def _unit(self) -> float:
        """Number of drawing units per metre; without a CRS, per unit of the transform."""
        return LONG / max(self.grid.width * self._steps[0], self.grid.height * self._steps[1])

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the map in drawing units. Both are at least 2, so that a thin map is drawn as a line."""
        width, height = self.grid.width * self._steps[0], self.grid.height * self._steps[1]
        return max(2.0, width * self._unit), max(2.0, height * self._unit)

    @property
    def _mirrored(self) -> bool:
        return bool(self.grid.transform.determinant > 0)

    def upright(self, pixels: Image8) -> Image8:
        """Return `pixels`, an image (height, width, ...) of the whole raster, flipped if the map is flipped."""
        return np.ascontiguousarray(pixels[::-1] if self._mirrored else pixels)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Convert coordinates (x, y) in the raster's CRS to a position (x, y) in drawing units from the top left."""
        col, row = ~self.grid.transform @ (x, y)
        down = self.grid.height - row if self._mirrored else row
        return col * self._steps[0] * self._unit, down * self._steps[1] * self._unit

    def inside(self, x: float, y: float) -> tuple[float, float]:
        """Move a position (x, y) in drawing units away from the edges of the map, so that a number there fits."""
        width, height = self.size
        margin_x, margin_y = (min(NUMBER_SPACING / 2, side / 2) for side in (width, height))
        return min(max(x, margin_x), width - margin_x), min(max(y, margin_y), height - margin_y)

    @cached_property
    def scale_bar(self) -> ScaleBar | None:
        """Scale bar; None without a CRS.

        On the ground, the bar is 1, 2 or 5 times a power of ten metres long: the largest such distance that is at most
        0.3 times the longer side of the scene.
        """
        if self.grid.crs is None:
            return None
        longest = 0.3 * LONG / self._unit
        power = 10.0 ** math.floor(math.log10(longest))
        length = next(step * power for step in (5, 2, 1) if step * power <= longest)
        text = f"{length / 1000:,g} km" if length >= 1000 else f"{length:g} m"
        return ScaleBar(length=length * self._unit, text=text)

    @cached_property
    def north_deg(self) -> float | None:
        """Direction of north at the centre of the map, in degrees clockwise from up; None without a CRS."""
        if self.grid.crs is None:
            return None
        to_lonlat = Transformer.from_crs(self.grid.crs.to_wkt(), "EPSG:4326", always_xy=True)
        lon, lat = to_lonlat.transform(*(self.grid.transform @ (self.grid.width / 2, self.grid.height / 2)))
        step_m = 0.01 * LONG / self._unit
        points = [to_lonlat.transform(*Geod(ellps="WGS84").fwd(lon, lat, bearing, step_m)[:2], direction="INVERSE")
                  for bearing in (180.0, 0.0)]  # fmt: skip
        (left, top), (right, bottom) = (self.place(*point) for point in points)
        return round(math.degrees(math.atan2(right - left, top - bottom)), 1)


def _shrunk(dataset: DatasetReader, shape_hw: tuple[int, int]) -> Image8:
    """Read a whole raster at the size (height, width) in pixels, by nearest neighbour, from overviews if possible."""
    return np.asarray(dataset.read(1, out_shape=shape_hw, resampling=Resampling.nearest))


def _failed(summary: Mapping[str, Any], frame: MapFrame, mask: Image8) -> Bools:
    """Return True for each pixel of a map that is unobserved and lies in a failed window, bool (height, width).

    Args:
        summary: content of the JSON report.
        frame: conversion from the raster in full size to the map.
        mask: mask of the scene at the size of the map, uint8 (height, width): 255 unobserved.
    """
    failed = np.zeros(mask.shape, bool)
    down, across = mask.shape[0] / frame.grid.height, mask.shape[1] / frame.grid.width
    for window in (one["window"] for one in summary["windows"]["failed"]):
        top, left = math.floor(window["row_off"] * down), math.floor(window["col_off"] * across)
        bottom = math.ceil((window["row_off"] + window["height"]) * down)
        right = math.ceil((window["col_off"] + window["width"]) * across)
        failed[top:bottom, left:right] = True
    return np.asarray(failed & (mask == UNOBSERVED))


def _overlay(mask: Image8, reason: NDArray[np.uint8], failed: Bools) -> Image8:
    """Return the colour of each pixel of the map of flood and unobserved ground.

    Args:
        mask: uint8 (height, width): 0 dry, 1 flood, 2 permanent water, 255 unobserved.
        reason: uint8 (height, width): code of the reason why a pixel is unobserved. 0 for observed pixels, and for
            pixels of unknown reason.
        failed: bool (height, width), True for unobserved pixels in failed windows.

    Returns:
        Indices of colours in `OVERLAY`, uint8 (height, width).
    """
    flood, unobserved = mask == 1, mask == UNOBSERVED
    outside = unobserved & (reason == OUTSIDE)
    failed = np.asarray(failed & np.isin(reason, (0, FAILED)))
    stripe = _stripes(mask.shape)
    overlay = np.where(flood, FILL, 0).astype(np.uint8)
    overlay[flood & _next_to(~flood & ~unobserved)] = SHORE
    overlay[mask == PERMANENT] = TEAL
    overlay[unobserved] = np.where(stripe, GREY_STRIPE, GREY)[unobserved]
    overlay[failed] = np.where(stripe, WARM_STRIPE, WARM)[failed]
    overlay[outside] = PALE
    return overlay


def _stripes(shape: tuple[int, ...]) -> Bools:
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    return np.asarray((rows + cols) % HATCH < 2)


def _next_to(region: Bools) -> Bools:
    """Return True for each pixel that has a 4-neighbour in `region`. Region and result are bool (height, width)."""
    near = np.zeros_like(region)
    near[1:] |= region[:-1]
    near[:-1] |= region[1:]
    near[:, 1:] |= region[:, :-1]
    near[:, :-1] |= region[:, 1:]
    return near


def _hatched_probability(probability: Image8) -> Image8:
    """Return the colour of each pixel of the probability map, as an index into `_ramp()`, uint8 (height, width).

    Observed pixels keep the probability in per cent. Unobserved pixels are 101, or 102 in stripes.
    """
    stripe = np.where(_stripes(probability.shape), np.uint8(102), np.uint8(101))
    return np.where(probability > 100, stripe, probability)


def _ramp() -> list[tuple[int, int, int, int]]:
    """Return the RGBA colours of the probability map, 0 to 255.

    There is one colour for each flood probability from 0 to 100 per cent, then one colour for unobserved ground, and
    one colour for the stripes drawn over unobserved ground.
    """
    at = [percent for percent, _ in RAMP]
    parts = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for _, colour in RAMP])
    mixed = np.stack([np.interp(np.arange(101), at, parts[:, i]) for i in range(3)], axis=1).round().astype(int)
    return [*((int(r), int(g), int(b), 255) for r, g, b in mixed), OVERLAY[GREY], OVERLAY[GREY_STRIPE]]


def _without_overlap(numbers: Iterable[tuple[int, float, float]]) -> Iterator[tuple[int, float, float]]:
    """Yield each number whose position is at least `NUMBER_SPACING` away from all numbers that were yielded before.

    Each number is a tuple (number, x, y) in `numbers` and in the result. The position x, y is in drawing units.
    """
    kept: list[tuple[float, float]] = []
    for number, x, y in numbers:
        if all(math.hypot(x - a, y - b) >= NUMBER_SPACING for a, b in kept):
            kept.append((x, y))
            yield number, round(x, 1), round(y, 1)
