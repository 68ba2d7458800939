"""Mask and probability rasters, floodmap's own or another tool's, read back as strips of codes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window as RasterWindow

from floodmap.codes import NODATA
from floodmap.errors import SceneError
from floodmap.frames import FLOOD, UNOBSERVED, FloodRule
from floodmap.gdal import gdal_env, has_sidecar
from floodmap.grid import Window
from floodmap.masks import RasterMask, flood_values

STRIP_PIXELS = 2**22
"""Pixels read at once."""

Codes = NDArray[np.uint8]
Strips = Iterator[tuple[int, Codes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodedRaster:
    """A raster as codes, while it is open."""

    strips: Callable[[], Strips]
    """Reads it from top to bottom: (first row, codes uint8 (rows, width))."""
    threshold: int
    """Flood from this code up."""
    is_probability: bool
    """Whether codes below 100 are more than a yes or no."""
    crs: CRS | None
    """CRS of the transform."""
    transform: Affine
    """Pixel to CRS, any rotation."""
    model: str | None
    """Model that made it, where floodmap wrote it."""
    source: str
    """The file's name."""


@contextmanager
def open_codes(
    path: Path, *, flood_value: float | str | None = None, threshold: float | None = None
) -> Iterator[CodedRaster]:
    """Open a mask or probability raster; what the arguments mean and what is raised, `vectorize` says."""
    with gdal_env(pam=has_sidecar(path)), warnings.catch_warnings():
        # RasterMask decides what a raster without georeference means.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        raster = RasterMask(path)
        try:
            with rasterio.open(path) as source:
                yield _coded(raster, source, flood_value, threshold)
        finally:
            raster.close()


def _coded(
    raster: RasterMask, source: DatasetReader, flood_value: float | str | None, threshold: float | None
) -> CodedRaster:
    path = raster.path
    if source.crs is None and source.gcps[0]:
        raise SceneError(f"{path} is placed by control points alone; warp it first: gdalwarp {path.name} warped.tif")
    if threshold is None and flood_value is None and source.descriptions[0] == "flood probability":
        threshold = 50.0
    rule = FloodRule.parse(flood_value, threshold)
    if threshold is None and flood_value is None:
        rule = FloodRule(values=flood_values([path], "--flood-value (or --threshold, if these are probabilities)"))
    scale = 100 if threshold is not None and threshold <= 1 and np.dtype(source.dtypes[0]).kind == "f" else 1
    limit = 100 if threshold is None else round(threshold * scale)
    if not 1 <= limit <= 100:
        raise SceneError(f"threshold {threshold:g} is no probability: it must lie between 0.01 and 1, or 1 and 100")
    read = raster.on(raster.frame, rule)

    def strips() -> Strips:
        for window in _windows(raster.frame.height, raster.frame.width):
            classes = read(window)
            if threshold is None:
                yield window.row_off, np.where(classes == FLOOD, np.uint8(100), classes)
            else:
                yield window.row_off, _codes(classes, _percent(source, window, classes != UNOBSERVED, scale), limit)

    return CodedRaster(
        strips=strips,
        threshold=limit,
        is_probability=threshold is not None,
        crs=raster.frame.crs,
        transform=raster.frame.transform,
        model=source.tags().get("MODEL"),
        source=path.name,
    )


def _windows(height: int, width: int) -> Iterator[Window]:
    """Full rows, a multiple of a tile's."""
    rows = max(1, STRIP_PIXELS // width // 512) * 512
    for row in range(0, height, rows):
        yield Window(row, 0, min(rows, height - row), width)


def _percent(source: DatasetReader, window: Window, observed: NDArray[np.bool_], scale: int) -> NDArray[np.float32]:
    part = RasterWindow(window.col_off, window.row_off, window.width, window.height)
    try:
        values: NDArray[np.float32] = source.read(1, window=part).astype(np.float32)
    except RasterioError as error:
        raise SceneError(f"{source.name} cannot be read: {error}; is the file complete?") from error
    values[~observed] = 0
    low, high = float(values.min()), float(values.max())
    if low < 0 or high * scale > 100:
        strange = low if low < 0 else high
        raise SceneError(
            f"{source.name} holds {strange:g}, which is no probability beside a threshold in "
            f"{'0 to 1' if scale == 100 else 'per cent'}; for a mask, give --flood-value instead"
        )
    values *= scale
    return values


def _codes(classes: Codes, percent: NDArray[np.float32], limit: int) -> Codes:
    """Codes that say flood exactly where the classes do, however the percentage is rounded."""
    rounded = percent.round()
    codes = np.where(classes == FLOOD, np.maximum(rounded, limit), np.minimum(rounded, limit - 1))
    return np.where(classes == UNOBSERVED, NODATA, codes).astype(np.uint8)
