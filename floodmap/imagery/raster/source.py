"""Opening of a raster with GDAL: file, bands, nodata, georeference. Nothing is written into the folder of the file."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT

from floodmap.errors import SceneError
from floodmap.geo.crs import parse_crs
from floodmap.geo.gdal import CACHE_BYTES, GDAL_ERRORS, closed_by, gdal_env, gdal_env_of, gdal_reason, open_remote
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.remote import RemoteFile, look_at_all
from floodmap.geo.source_name import SourceName
from floodmap.imagery.raster.anatomy import Anatomy, anatomy, is_lossy
from floodmap.imagery.raster.bands import BandChoice, choose_bands
from floodmap.imagery.raster.gaps import Gaps
from floodmap.imagery.raster.metadata import corrected, masked_bands
from floodmap.imagery.raster.place import find_grid, warped_by_gcps
from floodmap.imagery.raster.values import (
    alpha_is_infrared,
    nodata_of,
    opacity_text,
    opacity_values,
    palette_of,
    sample_of,
    scale_of,
    smallest_opaque,
)
from floodmap.imagery.raster.voids import Voids, find_voids, may_be_colour, voids_text

LOG = logging.getLogger(__name__)

_CACHE_ROWS = 1100
"""Number of pixel rows that the block cache should hold: the rows of a window, and a margin."""
_TILES_LIMIT, _STRIPS_LIMIT = 128 * 2**20, 512 * 2**20
_LEAST_BYTES = 16 * 2**20
_DEFAULT_ALPHA = ("GTiff", "VRT", "HFA", "COG")
"""GDAL drivers that may mark a fourth band as alpha by default, although the file does not say so.
With these drivers, `values.alpha_is_infrared` checks the band's values. With other drivers, the mark is trusted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A raster that is open for reading, with its bands, grid, nodata value and other properties of the values."""

    dataset: DatasetReader | WarpedVRT
    """Dataset to read from: the file, or a virtual dataset over the file."""
    bands: BandChoice
    """Numbers of the bands in use, from 1: of the colours, of near infrared, and of alpha; see `BandChoice`."""
    grid: GeoGrid
    """Pixel grid of the dataset: CRS, transform, rows and columns."""
    nodata_values: tuple[float | None, ...]
    """Nodata value of each colour band, usually one for all; see `values.nodata_of`. None: the band has none.
    If the user gives no nodata value, and the file has no finite one, all colour bands get the first of `voids`."""
    dtype: np.dtype[Any]
    """Common dtype of the bands that are read."""
    palette: NDArray[np.uint8] | None
    """Colour table, uint8 (entries, 4), RGBA, indexed by the stored value; None: the raster has no palette."""
    masked: tuple[int, ...]
    """Numbers, from 1, of the bands whose masks must be read; empty: no mask. See `metadata.masked_bands`."""
    voids: Voids
    """Undeclared nodata values, such as -9999."""
    anatomy: Anatomy
    """Structure of the raster: files, members of a VRT mosaic, and gaps."""
    average_without_gdal: bool = False
    """Whether downsampled windows are averaged by floodmap itself, from the raster's pixels at full resolution.

    Neither GDAL's average resampling nor the raster's overviews are then used. GDAL leaves out of an average the pixels
    that are 0 in the band marked as alpha. Averages and overviews made by GDAL may therefore be wrong in two cases: the
    band of near infrared is marked as alpha (see `values.alpha_is_infrared`), or the true alpha band contains 0 and is
    not marked as alpha (see `values.opacity_values`)."""
    remote_files: dict[str, RemoteFile] = field(default_factory=dict)
    """State, when the raster was opened, of its files on servers, by `SourceName.opened`; see `geo.remote.look`."""
    remarks: tuple[str, ...] = ()
    """Messages, one line each: assumptions about the raster, and members that cannot be read."""

    min_alpha: float = 1
    """Limit of alpha: pixels with an alpha below the limit are transparent, see `values.smallest_opaque`."""
    scale: NDArray[np.uint8] | None = None
    """Lookup table, uint8 (256,), that maps stored values of fewer than 8 bits to the range from 0 to 255.
    None: values are not scaled."""

    @property
    def nodata(self) -> float | None:
        """First nodata value in `nodata_values`; None: no colour band has a nodata value that `dtype` can hold."""
        return next((value for value in self.nodata_values if value is not None), None)

    @property
    def has_mask(self) -> bool:
        """Whether the raster has a mask of its own; masks that GDAL derives from alpha or nodata do not count."""
        return bool(self.masked)

    @property
    def is_remote(self) -> bool:
        """Whether the raster, or a member of a VRT mosaic, is read over a network."""
        return any(file.is_remote for file in self.anatomy.files)

    @property
    def lossy(self) -> bool:
        """Whether the raster has lossy compression, so that black borders are only nearly black."""
        return self.anatomy.lossy

    @property
    def gaps(self) -> Gaps | None:
        """Areas of the raster without pixels; None if the raster has no gaps."""
        return self.anatomy.gaps

    @property
    def depth(self) -> int:
        """Number of values per pixel: one or three colours (three with a palette), and near infrared if it is used."""
        return 3 if self.palette is not None else len(self.bands.used)

    @property
    def nir_nodata(self) -> float | None:
        """Nodata value of near infrared in pixels whose colours are observed; None: no near infrared is missing there.

        If `nodata` may also be a colour (0, 255, 65535, see `voids.may_be_colour`), a pixel is unobserved only if all
        colours are nodata. In other pixels, near infrared may still be missing: the result is `nodata`. It is None for
        0 in 8-bit rasters (near infrared is 0 on deep water), and for any value in rasters of fewer than 8 bits. It is
        None also for other nodata values, such as -9999: one colour with such a value makes the pixel unobserved.
        """
        value = self.nodata
        if self.bands.nir is None or value is None or not may_be_colour(value) or self.scale is not None:
            return None
        return None if value == 0 and self.dtype == np.uint8 else value

    @property
    def cache_bytes(self) -> int:
        """Size of GDAL's block cache for the raster, in bytes: for a row of windows, or for one window of a wide scene.

        GDAL drops the least recently used block, and windows are read row by row. If the cache holds a row of windows,
        each block is decoded once. If the row takes more than 128 MiB, the cache holds only the blocks of one window.
        Blocks are then decoded up to twice, which costs less than memory that grows with the width of the scene.

        Blocks as wide as the scene are an exception. With a cache for one window, they would be decoded again for every
        window of a row. For such blocks, the limit is therefore 512 MiB instead of 128 MiB. If the row takes more than
        512 MiB, the cache has 512 MiB, and the blocks are decoded again for every window.
        """
        rows, cols = self.dataset.block_shapes[0]
        pixel_bytes = int(self.dataset.count * self.dtype.itemsize)
        wanted = int(self.dataset.width * pixel_bytes * (_CACHE_ROWS + rows))
        if cols == self.dataset.width:
            return min(max(CACHE_BYTES, wanted), _STRIPS_LIMIT)
        if wanted <= _TILES_LIMIT:
            return max(CACHE_BYTES, wanted)
        near, far = (_CACHE_ROWS // rows + 2) * (_CACHE_ROWS // cols + 2), 2 * (4 * _CACHE_ROWS // cols + 2)
        return min(max(_LEAST_BYTES, int(max(near, far) * rows * cols) * pixel_bytes), CACHE_BYTES)


def open_source(
    name: SourceName,
    stack: ExitStack,
    *,
    bands: tuple[int, ...] | None,
    nir: bool = True,
    nodata: float | Literal["none"] | None,
    crs: str | None,
    threads: int = 1,
) -> Source:
    """Open a raster for reading.

    Args:
        name: name of any raster that GDAL reads.
        stack: exit stack that closes the raster.
        bands: numbers of the bands to use, from 1; None: bands are chosen by the file's metadata.
        nir: whether near infrared is read, if the raster has near infrared.
        nodata: nodata value to use instead of the file's own value and of voids; the text "none": every value is valid;
            None: the file's own value, and voids that are found.
        crs: CRS instead of the file's own; the coordinates are not changed. None: the file's own CRS.
        threads: number of threads that decompress the raster.

    Raises:
        SceneError: the file is missing, is no raster, has a complex dtype, or does not fit the arguments.
    """
    remote_files = look_at_all([name])
    with warnings.catch_warnings(), gdal_env():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        given = None if crs is None else parse_crs(crs)
        raw = _open(name, stack, threads)
        kinds = list(raw.colorinterp)
        infrared = bands is None and raw.driver in _DEFAULT_ALPHA and alpha_is_infrared(raw)
        if infrared:
            kinds[3] = ColorInterp.undefined
        choice = choose_bands(kinds, raw.descriptions, wanted=bands, name=name, colours_are_default=infrared)
        opacity: tuple[float, ...] = ()
        if choice.nir is not None and choice.nir_assumed and not infrared:
            opacity = opacity_values(raw, choice.nir, lossy=is_lossy(raw), nodata=nodata)
        if choice.nir is not None and opacity:
            kinds[choice.nir - 1] = ColorInterp.alpha
            choice = choose_bands(kinds, raw.descriptions, name=name)
        choice = choice if nir else replace(choice, nir=None)
        structure = anatomy(raw, name, choice.used, stack)
        remote_files |= look_at_all(file for file in structure.files if str(file.opened) not in remote_files)
        if structure.repaired is not None:
            raw = closed_by(stack, rasterio.open(structure.repaired))
        dtype = np.result_type(*(np.dtype(raw.dtypes[band - 1]) for band in choice.used))
        palette = palette_of(raw, choice)
        no_values = nodata_of(raw, choice, nodata, dtype, name)
        value = next((value for value in no_values if value is not None), None)
        seeks_voids = nodata is None and dtype != np.uint8
        voids = find_voids(sample_of(raw, choice.used), value) if seeks_voids else Voids()
        if voids.values and (value is None or not math.isfinite(value)):
            no_values = (voids.values[0],) * len(no_values)
        scale = scale_of(raw, choice, dtype)
        min_alpha = smallest_opaque(raw, choice.alpha, lossy=structure.lossy)
        dataset = corrected(raw, name, stack, choice, no_values)
        dataset = warped_by_gcps(dataset, stack, given, palette is not None, name)
        if isinstance(dataset, WarpedVRT):
            _refuse_gaps(structure, name)
            choice = choice if choice.alpha is not None else replace(choice, alpha=dataset.count)
        grid = find_grid(dataset, given, name)
    return Source(
        dataset=dataset, bands=choice, grid=grid, nodata_values=no_values, dtype=dtype, palette=palette,
        masked=masked_bands(dataset, choice), voids=voids, anatomy=structure,
        average_without_gdal=infrared or 0 in opacity, min_alpha=min_alpha, scale=scale,
        remote_files=remote_files,
        remarks=tuple(_remarks(name, choice, opacity, voids, structure, scale)),
    )  # fmt: skip


def _remarks(
    name: SourceName,
    choice: BandChoice,
    opacity: tuple[float, ...],
    voids: Voids,
    structure: Anatomy,
    scale: NDArray[np.uint8] | None,
) -> Iterator[str]:
    """Yield messages about a raster, one line each: assumptions, and members that cannot be read."""
    if choice.guess:
        yield choice.guess
    if opacity:
        yield opacity_text(name, choice, opacity)
    if scale is not None:
        count = len(np.unique(scale))
        yield f"{name}: its bands hold {count} values each; the models were trained on pictures of 256"
    if voids.values:
        yield voids_text(name, voids.values, voids.share)
    for lost, why in structure.lost.items():
        yield f"{name}: its part {lost} cannot be read ({why}); the ground it covers is unobserved"


def _open(name: SourceName, stack: ExitStack, threads: int) -> DatasetReader:
    """Open a raster. `threads` is the number of threads that decompress it; `stack` closes it.

    Raises:
        SceneError: the file is missing, is empty, is no raster, has no bands, has a complex dtype, or is a truncated
            JPEG.
    """
    path = name.path
    if path is not None:
        if not path.exists():
            raise SceneError(f"{name}: no such file")
        if path.is_file() and path.stat().st_size == 0:
            raise SceneError(f"{name} is empty (0 bytes)")
    try:
        # QGIS and ArcGIS put the CRS of a PNG or JPG into a sidecar, which GDAL reads only with PAM enabled.
        with gdal_env_of(name, threads=threads):
            dataset = closed_by(stack, open_remote(name) if name.is_remote else rasterio.open(name.opened))
    except GDAL_ERRORS as error:
        is_folder = path is not None and path.is_dir()
        what = "is a folder, not a raster" if is_folder else f"cannot be read as a raster: {gdal_reason(error)}"
        raise SceneError(f"{name} {what}") from (None if name.is_remote else error)
    if dataset.count == 0:
        inside = ", ".join(dataset.subdatasets[:5])
        raise SceneError(f"{name} has no bands{f'; it is a container: give one of {inside}' if inside else ''}")
    complex_bands = [kind for kind in dataset.dtypes if "complex" in kind]
    if complex_bands:
        raise SceneError(f"{name} holds {complex_bands[0]} numbers; floodmap needs an image of real numbers")
    if dataset.driver == "JPEG" and path is not None:
        _refuse_truncated_jpeg(path)
    return dataset


def _refuse_truncated_jpeg(path: Path) -> None:
    # GDAL reads the missing part of a truncated JPEG as grey, without an error, and grey ground looks dry.
    # GDAL_ERROR_ON_LIBJPEG_WARNING makes it an error, but only once per open file. So the file is decoded here, at a
    # lower resolution, only for this check.
    try:
        with rasterio.Env(GDAL_PAM_ENABLED="NO", GDAL_ERROR_ON_LIBJPEG_WARNING="YES"):
            dataset = rasterio.open(path.absolute())
            try:
                dataset.read(1, out_shape=(max(1, dataset.height // 8), max(1, dataset.width // 8)))
            finally:
                dataset.close()
    except RasterioError as error:
        if "Premature end" in gdal_reason(error):
            raise SceneError(f"{path} is damaged: the file is incomplete; copy or download it again") from error
        LOG.warning("%s may be damaged: %s", path, gdal_reason(error))


def _refuse_gaps(structure: Anatomy, name: SourceName) -> None:
    # The place of gaps on the warped grid is not known.
    if structure.gaps is not None:
        raise SceneError(
            f"{name} is placed by control points and has blocks that were never written, or parts without "
            f"data; declare its nodata and warp it first: gdalwarp -srcnodata 0 {name} warped.tif"
        )
