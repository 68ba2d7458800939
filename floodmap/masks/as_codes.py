"""Reading of mask and probability rasters of any software as strips of codes (one uint8 per pixel)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import DatasetReader

from floodmap.errors import SceneError
from floodmap.geo.gdal import gdal_env_of
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.source_name import SourceName
from floodmap.geo.window import Window
from floodmap.masks.meanings import settle
from floodmap.masks.raster import RasterMask
from floodmap.masks.rules import FloodRule, Ignore
from floodmap.options import in_percent
from floodmap.strips.codes import FLOOD, NODATA, UNOBSERVED

STRIP_PIXELS = 2**22
"""Largest number of pixels in a strip, unless 512 rows have more pixels."""

Codes = NDArray[np.uint8]
Strips = Iterator[tuple[int, Codes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedRaster:
    """A mask or probability raster, opened for reading as codes (one uint8 per pixel)."""

    strips: Callable[[], Strips]
    """Function that reads the raster in strips from top to bottom.

    The function yields the number of the first row, and codes, uint8 (rows, width), of each strip.
    """
    threshold: int
    """Smallest code that is flood, in per cent; codes above 100 are not flood."""
    is_probability: bool
    """True if the codes are probabilities in per cent; observed pixels of a mask have only 0 (dry) and 100 (flood)."""
    grid: GeoGrid
    """Pixel grid of the raster."""
    model: str | None
    """Name of the model, if floodmap wrote the raster; else None."""
    source: str
    """Name of the file, without folders."""


@contextmanager
def open_codes(
    path: Path, *, flood_value: float | str | None = None, threshold: float | None = None, ignore_values: Ignore = None
) -> Iterator[CodedRaster]:
    """Context manager: open a mask or probability raster for reading as codes, and close the raster at the end.

    Args:
        path: raster of one band.
        flood_value: values of flooded pixels in a mask, in the format of `FloodRule.parse`. None: the flood value is
            inferred by `meanings.settle`.
        threshold: smallest probability of flooded pixels, 0.01 to 1. None: the raster is a mask. There is one
            exception: if the metadata of the raster declare per cent, and `flood_value` is None, the raster is read as
            probabilities with the threshold 0.5.
        ignore_values: values of unobserved pixels, in the format of `FloodRule.parse`.

    Raises:
        EvaluationError: `flood_value` or `ignore_values` does not have the format of `FloodRule.parse`; `threshold` is
            not 0.01 to 1; `flood_value` and `threshold` are both given; the file cannot be read as a raster of one
            band; or the values do not show which value is flood.
        SceneError: the raster is placed by control points alone; or the raster should be read as probabilities (see
            `threshold`), and has values that are not probabilities.
    """
    rule = FloodRule.parse(flood_value, threshold, ignore_values)
    with gdal_env_of(SourceName.of(path)), warnings.catch_warnings():
        # RasterMask handles rasters without georeference.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        raster = RasterMask(path)
        try:
            with rasterio.open(path) as source:
                yield _coded(raster, source, rule)
        finally:
            raster.close()


def _coded(raster: RasterMask, source: DatasetReader, rule: FloodRule) -> CodedRaster:
    path = raster.path
    if source.crs is None and source.gcps[0]:
        raise SceneError(f"{path} is placed by control points alone; warp it first: gdalwarp {path.name} warped.tif")
    if rule.threshold is not None:
        raster.tell_scale(rule)
    rule = settle(rule, [path], "--flood-value (or --threshold, if these are probabilities)")
    limit = 100 if rule.threshold is None else in_percent(rule.threshold)
    read = raster.on(raster.grid, rule)

    def strips() -> Strips:
        for window in _windows(raster.grid.height, raster.grid.width):
            classes = read(window)
            if rule.threshold is None:
                yield window.row_off, np.where(classes == FLOOD, np.uint8(100), classes)
            else:
                yield window.row_off, _codes(classes, raster.percent(window, rule), limit)

    return CodedRaster(
        strips=strips,
        threshold=limit,
        is_probability=rule.threshold is not None,
        grid=raster.grid,
        model=source.tags().get("MODEL"),
        source=path.name,
    )


def _windows(height: int, width: int) -> Iterator[Window]:
    """Yield windows of full rows from the top.

    The number of rows is a multiple of 512, the block size of a COG, except in the last window.
    """
    rows = max(1, STRIP_PIXELS // width // 512) * 512
    for row in range(0, height, rows):
        yield Window(row, 0, min(rows, height - row), width)


def _codes(classes: Codes, percent: NDArray[np.float32], limit: int) -> Codes:
    """Round probabilities to codes, so that exactly the flooded pixels have a code from `limit` to 100.

    Rounding to whole per cent alone could move a pixel across the threshold.

    Args:
        classes: uint8 (height, width) of FLOOD, DRY and UNOBSERVED.
        percent: float32 (height, width), probability in per cent; NaN if unobserved.
        limit: threshold in per cent.

    Returns:
        Codes, uint8 (height, width).
    """
    rounded = np.nan_to_num(percent).round()
    codes = np.where(classes == FLOOD, np.maximum(rounded, limit), np.minimum(rounded, limit - 1))
    return np.where(classes == UNOBSERVED, NODATA, codes).astype(np.uint8)
