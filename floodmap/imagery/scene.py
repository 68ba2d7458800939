"""One raster, opened for windowed reads as 8-bit RGB, with a reason for every pixel that is not observed."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from floodmap.errors import SceneError
from floodmap.geo.gdal import gdal_env
from floodmap.geo.geogrid import lay_grid
from floodmap.geo.names import local_or_gdal
from floodmap.geo.source_name import SourceName
from floodmap.geo.window import Window
from floodmap.imagery.borders import Collar, Colour, find_collar
from floodmap.imagery.overlay import Frame, Overlay, open_overlay
from floodmap.imagery.overviews import overviews_agree
from floodmap.imagery.raster.fingerprint import fingerprint
from floodmap.imagery.raster.source import open_source
from floodmap.imagery.reader import Pixels, Reader
from floodmap.imagery.stretch import Stretch
from floodmap.imagery.suitability import unsuited
from floodmap.imagery.tile import Tile
from floodmap.strips import codes

LOG = logging.getLogger(__name__)

_SAMPLES, _SAMPLE_SIDE, _GLANCE_SIDE = 8, 128, 32
_ENOUGH_SAMPLES = 1000
_SURVEY_SIDE = 2048
_NAMED = 3
"""Lost members of a mosaic that are named for each window."""
_DATE_TAGS = ("EXIF_DateTimeOriginal", "TIFFTAG_DATETIME", "EXIF_DateTime")

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneOptions:
    """How to look at a raster, where its own metadata is not to decide."""

    resolution_m: float | None = None
    """Ground sample distance to work at, in metres; None for the raster's own pixels."""
    bands: tuple[int, ...] | None = None
    """Bands to use, counted from 1: one (grey), three (RGB) or four (RGB and near infrared)."""
    nodata: float | Literal["none"] | None = None
    """Value of pixels that hold nothing, instead of the file's own; `none`: every value is ground."""
    mask: Path | str | None = None
    """Raster (nonzero) or polygons of ground to leave unobserved."""
    aoi: Path | str | None = None
    """Polygons or raster (nonzero) of the ground that is wanted."""
    crs: str | None = None
    """CRS of the raster's coordinates, where the file has none or a wrong one; it overrides the file's."""
    collar: Literal["auto", "off"] = "auto"
    """Whether to look for untagged black or white borders; only scenes with a CRS have them."""


class Scene:
    """A raster and what was decided about it: the only reader of imagery.

    Everything is in pixels of the working grid, which is the raster's own unless a resolution is set; rotated and
    south-up rasters stay as they are. A raster placed by ground control points is resampled onto a north-up grid first.

    Reads take turns on a lock, so that another thread may read; the scene is closed where it was opened.
    """

    path: SourceName
    """What the raster is called."""
    options: SceneOptions
    """How it was opened."""
    collar: Collar | None
    """Borders found."""
    remarks: tuple[str, ...]
    """What was taken for granted or left out, a line each; they are logged, too."""
    stretch: Stretch
    """From stored values to 8 bits, for each of `bands` and then near infrared."""

    @classmethod
    def open(
        cls, path: str | os.PathLike[str] | SourceName, options: SceneOptions | None = None, *, threads: int = 1
    ) -> Self:
        """Open a raster.

        Args:
            path: a file, or any other name that GDAL opens (`/vsizip/...`, `NETCDF:"f.nc":red`, `https://...`).
            options: how to look at it.
            threads: that decompress it: more cores' work in all, but less time, where cores are idle.

        Raises:
            SceneError: it cannot be read as an image, or the options do not fit it.
            MissingCRSError: an option needs a place on the ground, and the file has none.
            VectorError: the mask or the area of interest cannot be read.
        """
        return cls(SourceName.of(path), options or SceneOptions(), threads)

    def __init__(self, path: SourceName, options: SceneOptions, threads: int = 1) -> None:
        self.path, self.options = path, options
        self._lock, self._stack = Lock(), ExitStack()
        try:
            self._source = open_source(
                path, self._stack, bands=options.bands, nodata=options.nodata, crs=options.crs, threads=threads
            )  # fmt: skip
            self._grid = lay_grid(
                self._source.crs,
                self._source.transform,
                shape_hw=self.source_shape_hw,
                resolution_m=options.resolution_m,
                path=path,
            )
            self._reader = Reader(
                path=path, source=self._source, height=self.height, width=self.width, lock=self._lock,
                overviews=not self._source.own_means,
            )  # fmt: skip
            remarks = [*self._source.remarks]
            if self._reader.overviews and not overviews_agree(self._reader):
                self._reader = replace(self._reader, overviews=False)
                remarks.append(
                    f"{path}: its overviews show another picture than its pixels and are not used; make them again "
                    "with: gdaladdo -r average FILE 2 4 8 16"
                )
            with gdal_env():
                # What a mask does not tell of stays unobserved; what is not known to be wanted is left out.
                self._mask = self._open_overlay(options.mask, voids_cover=True)
                self._aoi = self._open_overlay(options.aoi, voids_cover=False)
            if self._aoi is not None and not self._aoi.meets_scene():
                raise SceneError(f"the area of interest {options.aoi} does not overlap {path}")
            self._reader.check()
            # Borders come from warping and mosaicking; a photograph's white sky or black frame is part of the picture.
            # Of few values black and white are two like others.
            has_collar = options.collar == "auto" and self.crs and self._source.scale is None
            self.collar = self._find_collar() if has_collar else None
            self.stretch = self._choose_stretch()
            self.remarks = tuple(remarks)
            for line in self.remarks:
                LOG.warning("%s", line)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the scene can be read no more."""
        with self._lock, gdal_env():
            self._stack.close()

    @property
    def name(self) -> str:
        """Name of the file without its suffix, or what else tells the raster apart."""
        return self.path.stem

    @property
    def transform(self) -> Affine:
        """Working pixel to CRS; without a CRS, the file's transform all the same, or `geogrid.UNPLACED`."""
        return self._grid.transform

    @property
    def width(self) -> int:
        """Columns of the working grid."""
        return self._grid.width

    @property
    def height(self) -> int:
        """Rows of the working grid."""
        return self._grid.height

    @property
    def gsd_m(self) -> float | None:
        """Mean ground sample distance of the working grid at its centre, in geodesic metres; None without a CRS."""
        return self._grid.gsd_m

    @property
    def source_gsd_m(self) -> float | None:
        """The same of the file's own pixels."""
        return self._grid.source_gsd_m

    @property
    def crs(self) -> Any:
        """The `rasterio.crs.CRS`, or None where the scene has no place on the ground."""
        return self._source.crs

    @property
    def bands(self) -> tuple[int, ...]:
        """Bands shown as red, green and blue, or the one shown as grey or through its palette; counted from 1."""
        return self._source.bands.rgb

    @property
    def nir_band(self) -> int | None:
        """Band of near infrared, counted from 1."""
        return self._source.bands.nir

    @property
    def nodata(self) -> float | None:
        """Value of pixels that hold nothing."""
        return self._source.nodata

    @property
    def dtype(self) -> str:
        """Name of the type of the stored values."""
        return str(self._source.dtype)

    @property
    def source_shape_hw(self) -> tuple[int, int]:
        """Rows and columns of the file."""
        return self._source.dataset.height, self._source.dataset.width

    @property
    def cache_bytes(self) -> int:
        """Memory for decoded blocks of the file, at most."""
        return self._source.cache_bytes

    @cached_property
    def fingerprint(self) -> str | None:
        """SHA-256 that changes with the picture and its place, not with its name; None where none can be had.

        See `floodmap.imagery.raster.fingerprint`.
        """
        return fingerprint(self.path, self._source, with_overviews=self._reader.overviews)

    @cached_property
    def unsuited(self) -> tuple[str, ...]:
        """What the models were not made for in this scene, a line each: see `floodmap.imagery.suitability`."""
        samples = [np.empty((self._source.depth, 0), self._source.dtype)]
        for window in self._reader.spread(count=_SAMPLES, side=_GLANCE_SIDE):
            with suppress(SceneError):  # what is damaged is told when windows are read
                pixels = self._reader.read(window, (window.height, window.width))
                samples.append(self._observed(window, pixels))
        sample = np.concatenate(samples, axis=1)[: self._shown]
        return tuple(unsuited(self.path, self.source_gsd_m, self.gsd_m, sample))

    @cached_property
    def date(self) -> datetime:
        """When the picture was taken, as the file says, else when the file was last changed; in UTC."""
        with self._lock, gdal_env():
            tags = self._source.dataset.tags()
        for name in _DATE_TAGS:
            try:
                return datetime.strptime(tags.get(name, ""), "%Y:%m:%d %H:%M:%S").replace(tzinfo=UTC)
            except ValueError:
                continue
        file = self.path.container
        return datetime.fromtimestamp(file[0].stat().st_mtime if file and file[0].exists() else 0, UTC)

    def read(self, window: Window) -> Tile:
        """Read one window.

        Raises:
            SceneError: the window lies (partly) outside the scene, or the file is damaged there.
        """
        rows_fit = 0 <= window.row_off < window.row_end <= self.height
        if not rows_fit or not 0 <= window.col_off < window.col_end <= self.width:
            raise SceneError(f"{window} is not inside {self.path}, which has {self.height} rows, {self.width} columns")
        return self._tile(window, (window.height, window.width))

    def failed(self, window: Window) -> Tile:
        """What stands for a window that cannot be read: nothing observed inside the area of interest."""
        shape_hw = window.height, window.width
        try:
            return self._unread(window, shape_hw, codes.FAILED)
        except SceneError:  # it is the area of interest that cannot be read
            return Tile(window, np.zeros((3, *shape_hw), np.uint8), np.full(shape_hw, codes.FAILED, np.uint8))

    def preview(self, max_side: int) -> Tile:
        """The whole scene at once, averaged down (never up) to at most `max_side` pixels a side.

        One pass over the file where it has no overviews. What cannot be read is marked as failed.
        """
        return self._tile(self._reader.whole, self._reader.shape_within(max_side), tolerant=True)

    def preview_shape(self, max_side: int) -> tuple[int, int]:
        """Height and width of `preview`."""
        return self._reader.shape_within(max_side)

    def shrunk(self, window: Window, factor: int) -> Tile:
        """A window of the scene shrunk by a whole factor, which averages; what cannot be read is marked as failed.

        Args:
            window: in pixels of the shrunk scene, whose sides are the scene's divided by `factor` and rounded up.
            factor: scene pixels per pixel, along each side.
        """
        top, left = window.row_off * factor, window.col_off * factor
        height = min(window.row_end * factor, self.height) - top
        width = min(window.col_end * factor, self.width) - left
        tile = self._tile(Window(top, left, height, width), (window.height, window.width), tolerant=True)
        return replace(tile, window=window)

    def valid_share(self) -> float:
        """Observed share of the scene's pixels inside the area of interest, from 0 to 1.

        From all pixels of a small scene, from overviews where there are any, else from windows spread over the scene.
        """
        cheap = self.height * self.width <= _SURVEY_SIDE**2 or self._reader.has_overviews
        if cheap:
            tiles = [self.preview(_SURVEY_SIDE)]
        else:
            windows = self._reader.spread(count=2 * _SAMPLES, side=_SAMPLE_SIDE)
            tiles = [self._tile(window, (window.height, window.width), tolerant=True) for window in windows]
        reasons = np.concatenate([tile.reason.ravel() for tile in tiles])
        wanted = int((reasons != codes.OUTSIDE).sum())
        return float((reasons == 0).sum() / wanted) if wanted else 0.0

    def _open_overlay(self, path: Path | str | None, *, voids_cover: bool) -> Overlay | None:
        frame = Frame(
            path=self.path, crs=self.crs, transform=self.transform, height=self.height, width=self.width,
            source_shape_hw=self.source_shape_hw,
        )  # fmt: skip
        if path is None:
            return None
        return open_overlay(local_or_gdal(path), frame, self._stack, voids_cover=voids_cover)

    def _find_collar(self) -> Collar | None:
        nodata, lossy = self._source.nodata, self._source.lossy
        colours: list[Colour] = ["black", "white"]
        # The colour declared as nodata is dealt with, unless compression has frayed it.
        if nodata in (0, 255) and not lossy:
            colours.remove("black" if nodata == 0 else "white")

        def read(window: Window, shape_hw: tuple[int, int]) -> tuple[NDArray[Any], Bools]:
            pixels = self._reader.survey(window, shape_hw)
            return pixels.values[: self._shown], self._could_be_collar(pixels)

        return find_collar(read, height=self.height, width=self.width, colours=tuple(colours), lossy=lossy)

    def _could_be_collar(self, pixels: Pixels) -> Bools:
        possible = np.ones(pixels.values.shape[1:], bool)
        # Nodata pixels of a frayed border are the cloth that its loose threads hang on; those of a clean one are not.
        for flags in (pixels.hidden, pixels.failed, None if self._source.lossy else pixels.empty):
            if flags is not None:
                possible &= ~flags
        return possible

    @property
    def _shown(self) -> int:
        """How many of the values read are colours; near infrared follows them."""
        return 3 if self._source.palette is not None else len(self.bands)

    def _choose_stretch(self) -> Stretch:
        if self._source.dtype == np.uint8 or self._source.palette is not None:
            return Stretch.identity(self._source.depth)
        return Stretch.of(self._sampled())

    def _sampled(self) -> NDArray[Any]:
        """Observed values at some places, (bands, n), as stored."""
        reader, samples = self._reader, []
        for window in reader.spread(count=_SAMPLES, side=_SAMPLE_SIDE):
            samples.append(self._observed_values(window, (window.height, window.width)))
        if sum(sample.shape[1] for sample in samples) < min(_ENOUGH_SAMPLES, self.height * self.width):
            samples = [self._observed_values(reader.whole, reader.shape_within(_SURVEY_SIDE))]
        return np.concatenate(samples, axis=1)

    def _observed_values(self, window: Window, shape_hw: tuple[int, int]) -> NDArray[Any]:
        return self._observed(window, self._reader.survey(window, shape_hw))

    def _observed(self, window: Window, pixels: Pixels) -> NDArray[Any]:
        reason = self._reason(window, pixels)
        return pixels.values[:, (reason == 0) | (reason == codes.OUTSIDE)]

    def _tile(self, window: Window, shape_hw: tuple[int, int], *, tolerant: bool = False) -> Tile:
        inside = self._inside(window, shape_hw)
        if inside is not None and not inside.any():
            return self._unread(window, shape_hw, codes.OUTSIDE)
        pixels = (self._reader.survey if tolerant else self._reader.read)(window, shape_hw)
        shown = self.stretch.apply(pixels.values)
        rgb, nir = shown[: self._shown], shown[-1] if self.nir_band is not None else None
        reason = self._reason(window, pixels, inside)
        complete = self._complete(window, pixels, reason)
        rgb = rgb if len(rgb) == 3 else np.repeat(rgb, 3, axis=0)
        return Tile(window, rgb, reason, nir, complete, self._failure(pixels))

    def _failure(self, pixels: Pixels) -> str:
        lost = self._source.anatomy.lost
        if pixels.failed is None or not lost or not pixels.failed.any():
            return ""
        more = f", and {len(lost) - _NAMED} more" if len(lost) > _NAMED else ""
        return f"{self.path}: a part of it cannot be read: {', '.join(map(str, [*lost][:_NAMED]))}{more}"

    def _complete(self, window: Window, pixels: Pixels, reason: NDArray[np.uint8]) -> Bools | None:
        if pixels.complete is None or self._mask is not None or self._aoi is not None:
            return None
        complete: Bools = pixels.complete & (reason == 0)
        if self.collar is not None:
            complete &= ~self.collar.near(window, complete.shape)
        return complete

    def _unread(self, window: Window, shape_hw: tuple[int, int], code: int) -> Tile:
        reason = np.full(shape_hw, code, np.uint8)
        inside = self._inside(window, shape_hw)
        if inside is not None:
            reason[~inside] = codes.OUTSIDE
        nir = None if self.nir_band is None else np.zeros(shape_hw, np.uint8)
        return Tile(window, np.zeros((3, *shape_hw), np.uint8), reason, nir)

    def _inside(self, window: Window, shape_hw: tuple[int, int]) -> Bools | None:
        if self._aoi is None:
            return None
        with self._lock, gdal_env():
            return self._aoi.covers(window, shape_hw)

    def _reason(self, window: Window, pixels: Pixels, inside: Bools | None = None) -> NDArray[np.uint8]:
        """Why pixels are not observed: the later a reason is written here, the more it counts."""
        shape_hw = pixels.values.shape[1], pixels.values.shape[2]
        reason = np.zeros(shape_hw, np.uint8)
        if self._mask is not None:
            with self._lock, gdal_env():
                reason[self._mask.covers(window, shape_hw)] = codes.MASKED
        if self.collar is not None:
            found = self.collar.find(window, pixels.values[: self._shown], self._could_be_collar(pixels))
            reason[found] = codes.COLLAR
        flags = ((pixels.empty, codes.NODATA), (pixels.hidden, codes.NODATA), (pixels.failed, codes.FAILED))
        for flag, code in flags:
            if flag is not None:
                reason[flag] = code
        if inside is not None:
            reason[~inside] = codes.OUTSIDE
        return reason
