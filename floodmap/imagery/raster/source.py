"""Opening a raster with GDAL: which file, which bands, where it lies. Leaves the folder of the file as it found it."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader, MemoryFile
from rasterio.vrt import WarpedVRT

from floodmap.errors import SceneError
from floodmap.geo.crs import parse_crs
from floodmap.geo.gdal import CACHE_BYTES, closed_by, gdal_env, gdal_reason, has_sidecar
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.source_name import SourceName
from floodmap.imagery.raster.anatomy import Anatomy, anatomy
from floodmap.imagery.raster.bands import BandChoice, choose_bands
from floodmap.imagery.raster.gaps import Gaps
from floodmap.imagery.raster.place import find_grid, warped_by_gcps
from floodmap.imagery.raster.values import alpha_is_infrared, least_opaque, nodata_of, palette_of, sample_of, scale_of
from floodmap.imagery.raster.voids import Voids, find_voids, text_of

LOG = logging.getLogger(__name__)

_CACHE_ROWS = 1100
_TILES_LIMIT, _STRIPS_LIMIT = 128 * 2**20, 512 * 2**20
_LEAST_BYTES = 16 * 2**20
_DATE_TAGS = ("EXIF_DateTimeOriginal", "TIFFTAG_DATETIME", "EXIF_DateTime")
_CARELESS = ("GTiff", "VRT", "HFA", "COG")
"""Formats whose fourth band may be called alpha by default; of others it is alpha."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An open raster and what was decided about it."""

    dataset: DatasetReader | WarpedVRT
    """What is read from: the file, or a virtual dataset over it."""
    bands: BandChoice
    """Which bands are read."""
    grid: GeoGrid
    """Its pixels, and where they lie by its own account."""
    nodata: float | None
    """Value of pixels that hold nothing, where the dtype can hold it."""
    dtype: np.dtype[Any]
    """One dtype that holds the values of every chosen band."""
    palette: NDArray[np.uint8] | None
    """Colour table (entries, 4), RGBA."""
    has_mask: bool
    """The raster has a mask of its own beside any alpha band and nodata value."""
    voids: Voids
    """Values that stand for nothing though nobody declared them."""
    anatomy: Anatomy
    """Which files it is made of, and what they lack."""
    own_means: bool = False
    """GDAL's means are wrong for it: beneath, a band that is none is taken for alpha."""
    remarks: tuple[str, ...] = ()
    """What was taken for granted, a line each."""

    opaque_from: float = 1
    """The least alpha of a pixel that counts as seen: loss frays the rim of what is transparent."""
    scale: NDArray[np.uint8] | None = None
    """What stored values of fewer than 8 bits are of 255; None where they have 8 bits, or more."""

    @property
    def lossy(self) -> bool:
        """Whether it is compressed with loss, so that black borders are only nearly black."""
        return self.anatomy.lossy

    @property
    def gaps(self) -> Gaps | None:
        """What it has no pixels for."""
        return self.anatomy.gaps

    @property
    def depth(self) -> int:
        """How many values a pixel has: its colours, and near infrared."""
        return 3 if self.palette is not None else len(self.bands.shown)

    @property
    def cache_bytes(self) -> int:
        """Bytes GDAL may cache of it: enough for a row of windows, where that is worth it.

        GDAL forgets the block used longest ago. A cache that holds less of its blocks than a row of windows, taken from
        left to right, finds none of them for the next row. Blocks are decoded up to twice then, which is cheaper than
        memory that grows with a scene's width; but strips once for every window. Then it is enough for those of one
        window: more would never be found again.
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
    """Open a raster for reading; `stack` closes it.

    Args:
        name: any raster GDAL reads.
        stack: what is opened is closed with it.
        bands: bands to use instead of those the file's metadata suggests.
        nir: whether near infrared is read.
        nodata: nodata value instead of the file's own and of voids; `none`: every value is ground.
        crs: CRS instead of the file's own; the coordinates are not changed.
        threads: that decompress it.

    Raises:
        SceneError: the file is missing, no raster, of a complex dtype, or does not fit the arguments.
    """
    with warnings.catch_warnings(), gdal_env():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        given = None if crs is None else parse_crs(crs)
        raw = _open(name, stack, threads)
        if raw.driver == "JPEG" and name.path is not None:
            _refuse_truncated_jpeg(name.path)
        kinds = list(raw.colorinterp)
        infrared = bands is None and raw.driver in _CARELESS and alpha_is_infrared(raw)
        if infrared:
            kinds[3] = ColorInterp.undefined
        choice = choose_bands(kinds, raw.descriptions, wanted=bands, name=name, colours_are_default=infrared)
        choice = choice if nir else replace(choice, nir=None)
        made_of = anatomy(raw, name, choice.shown, stack)
        if made_of.mended is not None:
            raw = closed_by(stack, rasterio.open(made_of.mended))
        dtype = np.result_type(*(np.dtype(raw.dtypes[band - 1]) for band in choice.shown))
        palette = palette_of(raw, choice)
        value = nodata_of(raw, choice, nodata, dtype, name)
        looked_for = nodata is None and dtype != np.uint8
        voids = find_voids(sample_of(raw, choice.shown), value) if looked_for else Voids()
        if voids.values and (value is None or not math.isfinite(value)):
            value = voids.values[0]
        scale = scale_of(raw, choice, dtype)
        opaque_from = least_opaque(raw, choice.alpha, lossy=made_of.lossy)
        dataset = _amended(raw, stack, choice, value)
        dataset = warped_by_gcps(dataset, stack, given, palette is not None, name)
        if isinstance(dataset, WarpedVRT):
            if made_of.gaps is not None:
                raise SceneError(
                    f"{name} is placed by control points and has ground that no pixel was ever written for; declare "
                    f"its nodata and warp it first: gdalwarp -srcnodata 0 {name} warped.tif"
                )
            choice = choice if choice.alpha is not None else replace(choice, alpha=dataset.count)
        grid = find_grid(dataset, given, name)
        flags = dataset.mask_flag_enums[choice.rgb[0] - 1]
    return Source(
        dataset=dataset, bands=choice, grid=grid, nodata=value, dtype=dtype, palette=palette,
        has_mask=MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags, voids=voids, anatomy=made_of,
        own_means=infrared, opaque_from=opaque_from, scale=scale,
        remarks=tuple(_remarks(name, choice, voids, made_of, scale)),
    )  # fmt: skip


def _remarks(
    name: SourceName, choice: BandChoice, voids: Voids, made_of: Anatomy, scale: NDArray[np.uint8] | None
) -> Iterator[str]:
    if choice.guess:
        yield choice.guess
    if scale is not None:
        count = len(np.unique(scale))
        yield f"{name}: its bands hold {count} values each; the models were trained on pictures of 256"
    if voids.values:
        yield text_of(name, voids.values, voids.share)
    for lost, why in made_of.lost.items():
        yield f"{name}: its part {lost} cannot be read ({why}); the ground it covers is unobserved"


def _open(name: SourceName, stack: ExitStack, threads: int) -> DatasetReader:
    path = name.path
    if path is not None:
        if not path.exists():
            raise SceneError(f"{name}: no such file")
        if path.is_file() and path.stat().st_size == 0:
            raise SceneError(f"{name} is empty (0 bytes)")
    try:
        # QGIS and ArcGIS put the CRS of a PNG or JPG into a sidecar, which GDAL reads only with PAM enabled.
        with gdal_env(pam=path is not None and has_sidecar(path), threads=threads):
            dataset = closed_by(stack, rasterio.open(name.opened))
    except RasterioError as error:
        is_folder = path is not None and path.is_dir()
        what = "is a folder, not a raster" if is_folder else f"cannot be read as a raster: {gdal_reason(error)}"
        download = "; download the file first" if name.is_remote and "ange" in what else ""
        raise SceneError(f"{name} {what}{download}") from error
    if dataset.count == 0:
        inside = ", ".join(dataset.subdatasets[:5])
        raise SceneError(f"{name} has no bands{f'; it is a container: give one of {inside}' if inside else ''}")
    complex_bands = [kind for kind in dataset.dtypes if "complex" in kind]
    if complex_bands:
        raise SceneError(f"{name} holds {complex_bands[0]} numbers; floodmap needs an image of real numbers")
    return dataset


def date_of(dataset: DatasetReader | WarpedVRT, name: SourceName) -> datetime:
    """When a picture was taken, as the file says, else when the file was last changed; in UTC."""
    tags = dataset.tags()
    for tag in _DATE_TAGS:
        try:
            return datetime.strptime(tags.get(tag, ""), "%Y:%m:%d %H:%M:%S").replace(tzinfo=UTC)
        except ValueError:
            continue
    file = name.container
    return datetime.fromtimestamp(file[0].stat().st_mtime if file and file[0].exists() else 0, UTC)


def _refuse_truncated_jpeg(path: Path) -> None:
    # What a truncated JPEG lacks reads as grey, without an error: ground that looks dry. GDAL_ERROR_ON_LIBJPEG_WARNING
    # makes it an error, but only once per open file, so the file is decoded here, coarsely, for nothing else.
    try:
        with rasterio.Env(GDAL_PAM_ENABLED="NO", GDAL_ERROR_ON_LIBJPEG_WARNING="YES"):
            dataset = rasterio.open(path.absolute())
            try:
                dataset.read(1, out_shape=(max(1, dataset.height // 8), max(1, dataset.width // 8)))
            finally:
                dataset.close()
    except RasterioError as error:
        if "Premature end" in gdal_reason(error):
            raise SceneError(f"{path} is damaged: the file ends before its picture does") from error
        LOG.warning("%s may be damaged: %s", path, gdal_reason(error))


def _amended(dataset: DatasetReader, stack: ExitStack, choice: BandChoice, nodata: float | None) -> DatasetReader:
    """A virtual copy of the dataset with our nodata value and without an alpha band that is none.

    GDAL leaves nodata and transparent pixels out of its averages when it reads at a lower resolution: it has to know.
    """
    bogus_alpha = choice.alpha is None and ColorInterp.alpha in dataset.colorinterp
    own = dataset.nodatavals[choice.rgb[0] - 1]
    known = own == nodata or (own is not None and nodata is not None and np.array_equal(own, nodata, equal_nan=True))
    if known and not bogus_alpha:
        return dataset
    memory = closed_by(stack, MemoryFile(ext=".vrt"))
    rasterio.shutil.copy(dataset, memory.name, driver="VRT")
    with rasterio.open(memory.name, "r+") as virtual:
        if not known:
            virtual.nodata = nodata
        if bogus_alpha:
            kinds = virtual.colorinterp
            virtual.colorinterp = [ColorInterp.undefined if kind == ColorInterp.alpha else kind for kind in kinds]
    return closed_by(stack, rasterio.open(memory.name))
