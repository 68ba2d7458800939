"""Thumbnail: a small copy of a remote raster in memory, for showing its properties with few requests."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import DatasetReader, MemoryFile
from rasterio.windows import Window

from floodmap.errors import SceneError
from floodmap.geo.crs import parse_crs
from floodmap.geo.gdal import GDAL_ERRORS, forget_remote, gdal_env, gdal_reason
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.remote import look
from floodmap.geo.source_name import SourceName
from floodmap.imagery.raster.place import find_grid

SIDE = 2048
"""Longest side of a thumbnail, in pixels."""
_PART = 512
"""Side of the part that is read if the raster is larger and has no overviews, in pixels."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small copy of a raster in memory, with the metadata of the raster."""

    name: SourceName
    """GDAL's name of the copy, with the name of the raster as its title."""
    grid: GeoGrid
    """Pixel grid of the raster itself."""
    is_whole: bool
    """Whether the copy shows the whole raster; else it shows a part in the middle, at full resolution."""
    factor: float
    """Number of columns of the raster for one column of the copy."""


@contextmanager
def thumbnail(name: SourceName, crs: str | None) -> Iterator[Thumbnail | None]:
    """Context manager: copy a remote raster to memory, downsampled to at most `SIDE` pixels a side.

    The copy is an overview of the raster, or the raster itself if it is small. Of a larger raster without overviews,
    only a part in the middle is copied. All pixels are read with one call, so that GDAL can merge its requests.

    Args:
        name: name of the raster.
        crs: CRS instead of the file's own; None: the file's own CRS.

    Yields:
        The thumbnail; None for a raster that has no transform, or whose bands have different dtypes.

    Raises:
        RemoteError: the server or the file cannot be reached.
        SceneError: the file is no raster.
    """
    look(name)
    # GDAL opens a file more than once. It may keep what it has read between these times, which saves a request.
    with warnings.catch_warnings(), gdal_env(siblings=False), rasterio.Env(CPL_VSIL_CURL_NON_CACHED=""):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with rasterio.open(name.opened) as dataset:
                if dataset.transform.is_identity or len(set(dataset.dtypes)) > 1 or dataset.count == 0:
                    yield None
                    return
                grid = find_grid(dataset, None if crs is None else parse_crs(crs), name)
                window, shape_hw = _window(dataset)
                copy = _copy(dataset, name, window, shape_hw)
        except GDAL_ERRORS as error:
            raise SceneError(f"{name} cannot be read as a raster: {gdal_reason(error)}") from None
        finally:
            forget_remote([name])
        with copy:
            whole = (window.height, window.width) == dataset.shape
            yield Thumbnail(
                SourceName(copy.name, None, title=str(name), acquired=name.acquired),
                grid,
                whole,
                window.width / shape_hw[1],
            )


def _window(dataset: DatasetReader) -> tuple[Window, tuple[int, int]]:
    """Return the window that is copied, in pixels of the raster, and the height and width of the copy."""
    height, width = dataset.shape
    for factor in [1, *sorted(dataset.overviews(1))]:
        if max(height, width) <= SIDE * factor:
            return Window(0, 0, width, height), (-(-height // factor), -(-width // factor))
    rows, cols = min(_PART, height), min(_PART, width)
    block_rows, block_cols = dataset.block_shapes[0]
    top = min(height // 2 // block_rows * block_rows, height - rows)
    left = min(width // 2 // block_cols * block_cols, width - cols)
    return Window(left, top, cols, rows), (rows, cols)


def _copy(dataset: DatasetReader, name: SourceName, window: Window, shape_hw: tuple[int, int]) -> MemoryFile:
    """Copy a window of a raster to memory, resampled to `shape_hw`, with all metadata that floodmap uses."""
    how = {"window": window, "out_shape": (dataset.count, *shape_hw), "resampling": Resampling.nearest}
    values = dataset.read(**how)
    scale = Affine.scale(window.width / shape_hw[1], window.height / shape_hw[0])
    profile = {
        "driver": "GTiff", "count": dataset.count, "height": shape_hw[0], "width": shape_hw[1],
        "dtype": dataset.dtypes[0], "crs": dataset.crs, "nodata": dataset.nodata,
        "transform": dataset.window_transform(window) * scale,
    }  # fmt: skip
    kinds = dataset.colorinterp
    if ColorInterp.palette in kinds:
        profile["photometric"] = "palette"
    if bits := dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS"):
        profile["nbits"] = bits
    file = MemoryFile(ext=".tif")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), file.open(**profile) as copy:
        copy.write(values)
        copy.colorinterp = kinds
        copy.update_tags(**dataset.tags())
        for band, text in enumerate(dataset.descriptions, 1):
            if text:
                copy.set_band_description(band, text)
        if ColorInterp.palette in kinds:
            copy.write_colormap(1, dataset.colormap(1))
        if MaskFlags.per_dataset in dataset.mask_flag_enums[0] and ColorInterp.alpha not in kinds:
            masked = dataset.read_masks(1, window=window, out_shape=shape_hw)
            copy.write_mask(np.asarray(masked))
    return file
