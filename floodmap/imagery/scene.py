"""Scene: a raster opened for reading windows as 8-bit RGB, with a reason for every unobserved pixel."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Self

import numpy as np
from affine import Affine

from floodmap._runtime.identity import FileIdentity, identities_of
from floodmap.errors import SceneError
from floodmap.geo.downloads import local_copy
from floodmap.geo.gdal import gdal_env
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.names import local_or_gdal
from floodmap.geo.remote import refuse_changed
from floodmap.geo.source_name import SourceName, shown_name
from floodmap.geo.window import Window
from floodmap.imagery.borders import Collar
from floodmap.imagery.overlay import BaseScene, Overlay, open_overlay
from floodmap.imagery.overviews import overviews_agree
from floodmap.imagery.pixels import Pixels, nir_is_missing
from floodmap.imagery.raster.acquisition import acquired_at, date_of
from floodmap.imagery.raster.fingerprint import fingerprint
from floodmap.imagery.raster.source import Source, open_source
from floodmap.imagery.reader import Reader
from floodmap.imagery.reasons import Reasons
from floodmap.imagery.stretch import Stretch
from floodmap.imagery.suitability import unsuited
from floodmap.imagery.survey import collar_of, sample_observed, stretch_of
from floodmap.imagery.tile import Tile
from floodmap.options import SceneOptions
from floodmap.strips import codes

LOG = logging.getLogger(__name__)


class Scene:
    """Raster opened for reading, with bands, grid, stretch and collar. All imagery is read through this class.

    Windows are in pixels of the working grid, which is the raster's own grid unless a resolution is set. Rotated and
    south-up rasters keep their orientation. A raster placed by ground control points is first resampled to north-up.

    Any thread may read, because a lock serializes reads. Only the thread that opened the scene may close the scene.
    """

    path: SourceName
    """Path of the raster, or another name that GDAL opens, as given to `open`."""
    options: SceneOptions
    """Options that the scene was opened with."""
    grid: GeoGrid
    """Working grid: CRS, transform, rows and columns."""
    source_gsd_m: float | None
    """Ground sample distance of the file's own pixels at the centre, in metres; None without a CRS."""
    collar: Collar | None
    """Untagged black or white borders; None if no border was found."""
    remarks: tuple[str, ...]
    """Messages, one line each: assumptions about the raster, and parts of the raster that are left out."""
    stretch: Stretch
    """Stretch of stored values to 0 to 255, for each band: first the colour bands, then near infrared."""
    source: Source
    """The open raster: files, bands, grid of the file's own pixels, nodata values."""
    reasons: Reasons
    """Mask, area of interest and borders."""
    identities: dict[Path, FileIdentity]
    """Identities of the local files in the arguments of `open`, before the files were read."""

    @classmethod
    def open(
        cls, path: str | os.PathLike[str] | SourceName, options: SceneOptions | None = None, *, threads: int = 1
    ) -> Self:
        """Open a raster.

        Args:
            path: a file, or any other name that GDAL opens (`/vsizip/...`, `NETCDF:"f.nc":red`, `https://...`).
            options: options for reading the raster; None: default values.
            threads: number of threads that decompress the raster. More threads save time only if cores are idle.

        Raises:
            SceneError: the raster, or a raster given as `options.mask` or `options.aoi`, cannot be read; or the options
                do not fit the raster.
            MissingCRSError: the scene has no CRS, and a resolution, polygons or a raster with a CRS is given; or a
                raster given as mask or area of interest has no CRS, and its size is not that of the scene's file.
            VectorError: a file of polygons given as `options.mask` or `options.aoi` cannot be read, or has no CRS.
        """
        return cls(SourceName.of(path), options or SceneOptions(), threads)

    def __init__(self, path: SourceName, options: SceneOptions, threads: int = 1) -> None:
        self.path, self.options = path, options
        self._lock, self._stack = Lock(), ExitStack()
        self.identities = identities_of(path.path, options.mask, options.aoi)
        try:
            self.source = open_source(
                path, self._stack, bands=options.bands, nir=options.nir == "auto", nodata=options.nodata,
                crs=options.crs, threads=threads,
            )  # fmt: skip
            own = self.source.grid
            self.grid, self.source_gsd_m = own.resampled(options.resolution_m, path), own.gsd_m
            self._reader = Reader(
                path=path, source=self.source, height=self.height, width=self.width, lock=self._lock,
                overviews=not self.source.average_without_gdal,
            )  # fmt: skip
            remarks = [*self.source.remarks]
            if self._reader.overviews and not overviews_agree(self._reader):
                self._reader = replace(self._reader, overviews=False)
                remarks.append(
                    f"{path}: its overviews do not match its pixels and are not used; rebuild them with: "
                    f"gdaladdo -r average {path} 2 4 8 16"
                )
            with gdal_env():
                # Void pixels of a mask are unobserved; void pixels of an area of interest are outside.
                mask = self._open_overlay(options.mask, voids_cover=True)
                aoi = self._open_overlay(options.aoi, voids_cover=False)
            if aoi is not None and not aoi.meets_scene():
                area = shown_name(options.aoi)
                raise SceneError(f"the area of interest {area} does not overlap {path}; check the CRS of both")
            if mask is not None and mask.is_far():
                remarks.append(f"the mask {shown_name(options.mask)} does not overlap {path}; check its CRS")
            self._reader.check()
            # Borders come from warping and mosaicking, so only rasters with a CRS are searched: the white sky or black
            # frame of a photograph is part of the picture. Below 8 bits a value, black and white are ordinary.
            has_collar = options.collar == "auto" and self.crs and self.source.scale is None
            self.collar = collar_of(self._reader, n_colours=self._n_colours) if has_collar else None
            self.reasons = Reasons(
                mask=mask, aoi=aoi, collar=self.collar, lossy=self.source.lossy, n_colours=self._n_colours,
                lock=self._lock,
            )  # fmt: skip
            self.stretch = stretch_of(self._reader, self.reasons)
            self.remarks = tuple(remarks)
            for line in self.remarks:
                LOG.warning("%s", line)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. The scene cannot be read afterwards."""
        with self._lock, gdal_env():
            self._stack.close()

    @property
    def name(self) -> str:
        """Name for the results: the file's name without suffix (see `SourceName.stem`)."""
        return self.path.stem

    @property
    def transform(self) -> Affine:
        """Transform from (column, row) to the scene's coordinates; `geogrid.UNPLACED` if the file has no transform."""
        return self.grid.transform

    @property
    def width(self) -> int:
        """Columns of the working grid."""
        return self.grid.width

    @property
    def height(self) -> int:
        """Rows of the working grid."""
        return self.grid.height

    @property
    def gsd_m(self) -> float | None:
        """Ground sample distance of the working grid at the centre, in metres on the ground; None without a CRS."""
        return self.grid.gsd_m

    @property
    def crs(self) -> Any:
        """CRS of the scene, a `rasterio.crs.CRS`; None if the place on the Earth is not known."""
        return self.source.grid.crs

    @property
    def bands(self) -> tuple[int, ...]:
        """Numbers, from 1, of the bands for red, green and blue; or of one band with grey values or palette indices."""
        return self.source.bands.rgb

    @property
    def nir_band(self) -> int | None:
        """Number, from 1, of the band of near infrared; None: near infrared is not used."""
        return self.source.bands.nir

    @property
    def nodata(self) -> float | None:
        """Nodata value; None: there is no nodata value."""
        return self.source.nodata

    @property
    def dtype(self) -> str:
        """Name of the dtype of the stored values."""
        return str(self.source.dtype)

    @cached_property
    def fingerprint(self) -> str | None:
        """SHA-256 of pixels, bands and georeference, see `imagery.raster.fingerprint`; None if it is not computable."""
        return fingerprint(self.path, self.source, with_overviews=self._reader.overviews)

    def refuse_changed(self) -> None:
        """Raise RemoteError if a file on a server has changed since the scene was opened, or cannot be reached."""
        refuse_changed(self.source.remote_files)

    @cached_property
    def unsuited(self) -> tuple[str, ...]:
        """Warnings that results may be poor: pixels are coarser than in training, or half or more of them are white."""
        sample = sample_observed(self._reader, self.reasons)[: self._n_colours]
        return tuple(unsuited(self.path, self.source_gsd_m, self.gsd_m, sample))

    @cached_property
    def date(self) -> datetime:
        """Time in UTC: acquisition from the file's tags, else last modification of the file, else 1970-01-01."""
        with self._lock, gdal_env():
            return date_of(self.source.dataset, self.path)

    @property
    def is_dated(self) -> bool:
        """True if `date` is the time of acquisition, and not only that of the file."""
        with self._lock, gdal_env():
            return acquired_at(self.source.dataset, self.path) is not None

    def read(self, window: Window) -> Tile:
        """Read one window, which is given in pixels of the working grid, at the resolution of the working grid.

        Raises:
            SceneError: the window reaches outside the scene, or the file is damaged inside the window.
        """
        rows_fit = 0 <= window.row_off < window.row_end <= self.height
        if not rows_fit or not 0 <= window.col_off < window.col_end <= self.width:
            raise SceneError(f"{window} is not inside {self.path}, which has {self.height} rows, {self.width} columns")
        return replace(self._tile(window, (window.height, window.width)), gsd_m=self.gsd_m or 0.0)

    def failed(self, window: Window) -> Tile:
        """Return the tile of a window that cannot be read: pixels inside the area of interest are marked as failed."""
        shape_hw = window.height, window.width
        try:
            return self._unread(window, shape_hw, codes.FAILED)
        except SceneError:  # the area of interest itself cannot be read
            return Tile(window, np.zeros((3, *shape_hw), np.uint8), np.full(shape_hw, codes.FAILED, np.uint8))

    def preview(self, max_side: int) -> Tile:
        """Read the whole scene, downsampled by the mean (never upsampled) to at most `max_side` pixels a side.

        Without overviews the whole file is read once. Pixels that cannot be read are marked as failed.
        """
        return self._tile(self._reader.whole, self._reader.shape_within(max_side), tolerant=True)

    def preview_shape(self, max_side: int) -> tuple[int, int]:
        """Return height and width, in pixels, of the tile that `preview(max_side)` reads."""
        return self._reader.shape_within(max_side)

    def shrunk(self, window: Window, factor: int) -> Tile:
        """Read a window downsampled by an integer factor (mean of pixels). Unreadable pixels are marked as failed.

        Args:
            window: in pixels of the downsampled scene, which has the scene's sides divided by `factor`, rounded up.
            factor: number of scene pixels per downsampled pixel, along each side.
        """
        top, left = window.row_off * factor, window.col_off * factor
        height = min(window.row_end * factor, self.height) - top
        width = min(window.col_end * factor, self.width) - left
        tile = self._tile(Window(top, left, height, width), (window.height, window.width), tolerant=True)
        return replace(tile, window=window, gsd_m=(self.gsd_m or 0.0) * factor)

    @property
    def has_overviews(self) -> bool:
        """See `Reader.has_overviews`."""
        return self._reader.has_overviews

    def samples(self, count: int, side: int) -> list[Tile]:
        """Read at most `count` x `count` windows of at most `side` x `side` pixels, evenly spaced over the scene.

        Return the windows' tiles, row by row. They are not samples of training. Unreadable pixels are marked as failed.
        """
        return [self._tile(w, (w.height, w.width), tolerant=True) for w in self._reader.spread(count=count, side=side)]

    def _open_overlay(self, path: Path | str | None, *, voids_cover: bool) -> Overlay | None:
        if path is None:
            return None
        base = BaseScene(self.path, self.grid, self.source.grid.shape_hw)
        return open_overlay(local_or_gdal(local_copy(path, self._stack)), base, self._stack, voids_cover=voids_cover)

    @property
    def _n_colours(self) -> int:
        """Number of colour bands in the values read; near infrared follows the colour bands."""
        return 3 if self.source.palette is not None else len(self.bands)

    def _tile(self, window: Window, shape_hw: tuple[int, int], *, tolerant: bool = False) -> Tile:
        inside = self.reasons.inside(window, shape_hw)
        if inside is not None and not inside.any():
            return self._unread(window, shape_hw, codes.OUTSIDE)
        pixels = (self._reader.read_tolerant if tolerant else self._reader.read)(window, shape_hw)
        shown = self.stretch.apply(pixels.values)
        rgb, nir = shown[: self._n_colours], shown[-1] if self.nir_band is not None else None
        reason = self.reasons.of(window, pixels, inside)
        complete = self.reasons.complete(window, pixels, reason)
        rgb = rgb if len(rgb) == 3 else np.repeat(rgb, 3, axis=0)
        missing = nir_is_missing(pixels.values, self.source.nir_nodata)
        return Tile(window, rgb, reason, nir, complete, self._failure(pixels), nir_missing=missing)

    def _failure(self, pixels: Pixels) -> str:
        """Return the message about members of a VRT mosaic that cannot be read in a window; empty if all were read."""
        if pixels.failed is None or not self.source.anatomy.lost or not pixels.failed.any():
            return ""
        return f"{self.path}: a part of it cannot be read: {self.source.anatomy.lost_names}"

    def _unread(self, window: Window, shape_hw: tuple[int, int], code: int) -> Tile:
        nir = None if self.nir_band is None else np.zeros(shape_hw, np.uint8)
        return Tile(window, np.zeros((3, *shape_hw), np.uint8), self.reasons.unread(window, shape_hw, code), nir)
