"""A finished flood map as the source of an exposure: its probability raster, thresholds and permanent water."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader

from floodmap.errors import MissingCRSError, SceneError
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.window import Window
from floodmap.options import THRESHOLD, in_percent
from floodmap.output.results import FloodMap, open_result
from floodmap.strips.codes import PERMANENT

Warn = Callable[[str], None]
"""Function that is called with the text of each warning."""

LEVELS = ("lower", "best", "upper")
"""Names of the three figures, from the least flood to the most."""
LOWER_PERCENT, UPPER_PERCENT = 70, 30
"""Probabilities in per cent from which a pixel is flood for the lower and for the upper figure."""
ENDINGS = ("_probability.tif", "_mask.tif", "_report.html", ".json", ".gpkg")
"""Ends of the names of the files of a result, by which a result may be named."""

ONLY_LOWER, UP_TO_BEST, UP_TO_UPPER, UNOBSERVED, PERMANENT_WATER, DRY = range(6)
"""Classes of pixels. The first three are flood: for all figures, for the best and the upper, for the upper alone."""
CLASSES = 6

Classes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A finished flood map on disk."""

    name: str
    """Name of the scene."""
    probability: Path
    """Probability raster: uint8, 0 to 100 per cent, 255 unobserved."""
    mask: Path | None
    """Mask raster, if it may contain permanent water (class 2); else None."""
    grid: GeoGrid
    """Pixel grid, with a geographic or projected CRS."""
    percents: tuple[int, int, int]
    """Thresholds in per cent of the lower, the best and the upper figure, in descending order."""
    summary: dict[str, Any]
    """Content of the JSON report; empty if there is none."""

    def table(self) -> Classes:
        """Return the class of each value of the probability raster, uint8 (256,)."""
        lower, best, upper = self.percents
        classes = np.full(256, UNOBSERVED, np.uint8)
        for least, name in ((0, DRY), (upper, UP_TO_UPPER), (best, UP_TO_BEST), (lower, ONLY_LOWER)):
            classes[least:101] = name
        return classes


def find_result(given: str | Path | FloodMap, warn: Warn) -> Result:
    """Find the files of a flood map, and check that areas can be computed from them.

    Args:
        given: `NAME.json`, `NAME_probability.tif` or another file of the result; the path of its files without their
            endings (`results/scene`); a folder with one result; or a `FloodMap`.
        warn: function that is called with each warning.

    Raises:
        SceneError: there is no such result, or it cannot be used.
        MissingCRSError: the scene has no CRS, or a local one.
    """
    probability = given.probability_path if isinstance(given, FloodMap) else _probability_of(Path(given))
    name = probability.name.removesuffix(ENDINGS[0])
    summary = _summary(probability.with_name(f"{name}.json"), warn)
    grid = _grid(probability)
    if not grid.is_on_earth:
        raise MissingCRSError(
            f"{probability} has no CRS, so hectares, kilometres and people cannot be computed; segment the scene again "
            "with --crs EPSG:CODE"
        )
    best = in_percent(float(summary.get("settings", {}).get("threshold", THRESHOLD)))
    return Result(
        name=name,
        probability=probability,
        mask=_mask(probability.with_name(f"{name}_mask.tif"), grid, summary),
        grid=grid,
        percents=(max(LOWER_PERCENT, best), best, min(UPPER_PERCENT, best)),
        summary=summary,
    )


def _probability_of(given: Path) -> Path:
    if given.is_dir():
        found = sorted(given.glob(f"*{ENDINGS[0]}"))
        if len(found) == 1:
            return found[0]
        names = ", ".join(path.name.removesuffix(ENDINGS[0]) for path in found[:5])
        wrong = f"{len(found)} results ({names}{', ...' if len(found) > 5 else ''}); name one of them" if found else ""
        raise SceneError(f"{given} holds {wrong or f'no result of floodmap: no file NAME{ENDINGS[0]}'}")
    stem = next((given.name.removesuffix(end) for end in ENDINGS if given.name.endswith(end)), given.name)
    path = given.with_name(f"{stem}{ENDINGS[0]}")
    if not path.is_file():
        raise SceneError(
            f"{given} is no result of floodmap: {path} is missing; give NAME.json, NAME{ENDINGS[0]} or the folder with "
            "the NAME"
        )
    return path


def _summary(path: Path, warn: Warn) -> dict[str, Any]:
    if not path.is_file():
        warn(f"{path} is missing: the best figure is that of the threshold {THRESHOLD:g}")
        return {}
    try:
        summary = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SceneError(f"{path} cannot be read as the JSON report of a result: {error}") from error
    if not isinstance(summary, dict) or "settings" not in summary:
        raise SceneError(f"{path} is not the JSON report of floodmap segment or mosaic")
    return summary


def _grid(path: Path) -> GeoGrid:
    try:
        with open_result(path) as dataset:
            if dataset.count != 1 or dataset.dtypes[0] != "uint8":
                raise SceneError(f"{path} is no probability raster of floodmap: one band of uint8, in per cent")
            return GeoGrid.of(dataset)
    except RasterioError as error:
        raise SceneError(f"{path} cannot be read as a raster") from error


def _mask(path: Path, grid: GeoGrid, summary: dict[str, Any]) -> Path | None:
    """Return the path of the mask if it may contain permanent water; None if it does not.

    Raises:
        SceneError: the mask is missing although it contains permanent water, or it is not on the pixels of the grid.
    """
    if summary and summary["settings"].get("permanent_water") is None:
        return None
    if not path.is_file():
        if summary:
            raise SceneError(f"{path} is missing, and with it the permanent water, which would count as flood")
        return None
    mask = _grid(path)
    if (mask.transform, mask.shape_hw) != (grid.transform, grid.shape_hw):
        raise SceneError(f"{path} has other pixels than the probability raster beside it; segment the scene again")
    return path


@contextmanager
def open_classes(result: Result) -> Iterator[ClassReader]:
    """Context manager: open the rasters of a result for reading the class of each pixel."""
    with ExitStack() as stack:
        probability = stack.enter_context(open_result(result.probability))
        mask = stack.enter_context(open_result(result.mask)) if result.mask else None
        yield ClassReader(probability, mask, result.table())


@dataclass(frozen=True, slots=True)
class ClassReader:
    """Open rasters of a result."""

    probability: DatasetReader
    mask: DatasetReader | None
    table: Classes

    def read(self, window: Window) -> Classes:
        """Return the class of each pixel of a window, uint8 (height, width): `ONLY_LOWER` to `DRY`.

        Raises:
            SceneError: the file is damaged.
        """
        try:
            classes = self.table[self.probability.read(1, window=window.to_rasterio())]
            if self.mask is not None:
                water = self.mask.read(1, window=window.to_rasterio()) == PERMANENT
                classes[water & (classes != UNOBSERVED)] = PERMANENT_WATER
        except RasterioError as error:
            raise SceneError(f"{self.probability.name} cannot be read; segment the scene again") from error
        return np.asarray(classes)
