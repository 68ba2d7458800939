"""Reader of a raster: stored values of any window at any size, with flags of unobserved pixels; used by `Scene`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.windows import Window as GdalWindow
from scipy import ndimage

from floodmap.errors import SceneError
from floodmap.geo.gdal import gdal_env, gdal_reason
from floodmap.geo.source_name import SourceName
from floodmap.geo.vrt import Rect
from floodmap.geo.window import Window
from floodmap.imagery.means import AxisWeights, area_means, known_block_means
from floodmap.imagery.pixels import Pixels, Values, find_empty, nir_is_missing, union
from floodmap.imagery.raster.network import patiently
from floodmap.imagery.raster.source import Source
from floodmap.imagery.raster.voids import may_be_colour
from floodmap.imagery.rectangles import outer_of, pieces, pieces_of
from floodmap.strips import codes

_PIECE_BYTES = 2**21
"""Size of the piece of a window that is averaged at a time, in bytes. The piece fits into the cache of a CPU."""
_PIECES = 16
"""Number of pieces along each side of a window, if the window cannot be read as a whole and is read in pieces."""
_EIGHT_NEIGHBOURS = np.ones((3, 3), bool)

Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Reader of a raster. Windows are in pixels of the working grid. Any thread may read: a lock serializes reads."""

    path: SourceName
    """Path of the raster, or another name that GDAL opens; for messages."""
    source: Source
    """The open raster, with its bands and nodata values."""
    height: int
    """Rows of the working grid."""
    width: int
    """Columns of the working grid."""
    lock: Lock
    """Lock that is held while GDAL reads, because only one thread at a time may use a dataset."""
    overviews: bool = True
    """Whether overviews, in the file or beside the file, may be used."""

    @property
    def has_overviews(self) -> bool:
        """Whether the raster has overviews that may be used, so that downsampled reads are fast."""
        return self.overviews and bool(self.source.dataset.overviews(self.source.bands.rgb[0]))

    @property
    def whole(self) -> Window:
        """Window of the whole scene."""
        return Window(0, 0, self.height, self.width)

    def shape_within(self, max_side: int) -> tuple[int, int]:
        """Return the scene's height and width, shrunk to a longer side of at most `max_side` pixels; never enlarged."""
        scale = max(1.0, max(self.height, self.width) / max_side)
        return max(1, round(self.height / scale)), max(1, round(self.width / scale))

    def spread(self, *, count: int, side: int) -> list[Window]:
        """Return at most `count` x `count` windows of `side` x `side` pixels or less, evenly spaced over the scene."""
        height, width = min(side, self.height), min(side, self.width)
        rows = np.unique(np.linspace(0, self.height - height, count).astype(int))
        cols = np.unique(np.linspace(0, self.width - width, count).astype(int))
        return [Window(int(row), int(col), height, width) for row in rows for col in cols]

    def read(self, window: Window, shape_hw: tuple[int, int]) -> Pixels:
        """Read a window, resampled to `shape_hw`: the stored values, and the flags of unobserved pixels.

        Values are averaged if the result is coarser than the raster, else interpolated (bilinear). Palette indices,
        alpha and the file's mask are neither averaged nor interpolated: the nearest pixel of the raster counts.

        Args:
            window: the window, in pixels of the working grid.
            shape_hw: height and width of the result, in pixels.

        Returns:
            A `Pixels`: the values, (bands, *shape_hw), and for each kind of flag a bool array of the shape `shape_hw`.

        Raises:
            SceneError: the file is damaged inside the window.
        """
        # GDAL averages band by band. A window larger than GDAL's cache would be decoded once for each band.
        across, down = (self.source.dataset.width / self.width, self.source.dataset.height / self.height)
        source_bytes = window.height * down * window.width * across * self.source.depth * self.source.dtype.itemsize
        count = min(shape_hw[0], math.ceil(2 * source_bytes / self.source.cache_bytes))
        if count <= 1 or (shape_hw == (window.height, window.width) and across == down == 1):
            return self._read(window.row_off, window.col_off, window.height, window.width, shape_hw)
        return self._assemble(window, shape_hw, pieces(shape_hw, count, 1), tolerant=False)

    def read_tolerant(self, window: Window, shape_hw: tuple[int, int]) -> Pixels:
        """Read a window as `read` does, but raise no error if the file is damaged inside the window.

        If the window cannot be read whole, it is read in up to 16 x 16 pieces. Unreadable pieces are marked as failed.
        """
        with suppress(SceneError):
            return self.read(window, shape_hw)
        return self._assemble(window, shape_hw, pieces(shape_hw, _PIECES, _PIECES), tolerant=True)

    def _assemble(
        self, window: Window, shape_hw: tuple[int, int], pieces: Iterator[tuple[slice, slice]], *, tolerant: bool
    ) -> Pixels:
        down, across = window.height / shape_hw[0], window.width / shape_hw[1]
        flags = {name: np.zeros(shape_hw, bool) for name in ("hidden", "empty", "failed", "complete")}
        values = np.zeros((self.source.depth, *shape_hw), self.source.dtype)
        for rows, cols in pieces:
            place = (window.row_off + rows.start * down, window.col_off + cols.start * across)
            piece_hw = (rows.stop - rows.start, cols.stop - cols.start)
            try:
                piece = self._read(*place, piece_hw[0] * down, piece_hw[1] * across, piece_hw)
            except SceneError:
                if not tolerant:
                    raise
                flags["failed"][rows, cols] = True
                continue
            values[:, rows, cols] = piece.values
            for name, array in flags.items():
                found = getattr(piece, name)
                array[rows, cols] = False if found is None else found
        pixels = Pixels(values=values, **flags)
        return pixels if flags["failed"].any() else replace(pixels, failed=None)

    def check(self) -> None:
        """Check that at least one of nine small windows (4 x 4 pixels), spread over the scene, can be read.

        Raises:
            SceneError: none of the nine windows can be read.
        """
        error: SceneError | None = None
        for window in self.spread(count=3, side=4):
            try:
                self.read(window, (window.height, window.width))
                return
            except SceneError as caught:
                error = error or caught
        if error is not None:
            raise error

    def _read(self, row: float, col: float, height: float, width: float, shape_hw: tuple[int, int]) -> Pixels:
        """Read a rectangle as `read` does. Place and size, in pixels of the working grid, may have fractions."""
        source = self.source
        down, across = source.dataset.height / self.height, source.dataset.width / self.width
        part = GdalWindow(col * across, row * down, width * across, height * down)
        native = shape_hw == (part.height, part.width)

        def read_part() -> tuple[Values, Bools | None]:
            with self.lock, gdal_env(cache_bytes=source.cache_bytes):
                values = self._block_averaged(part, shape_hw) or self._stored(part, shape_hw, native)
                return values, self._hidden(part, shape_hw)

        place = f"rows {row:.0f} to {row + height:.0f}, columns {col:.0f} to {col + width:.0f}"
        try:
            read, hidden = patiently(read_part, source, f"{self.path} in {place}")
        except RasterioError as error:
            raise SceneError(f"{self.path} cannot be read in {place}: {gdal_reason(error)}") from error
        empty = union(
            find_empty(read.values, read.nearest, source.nodata_values),
            source.voids.find(read.values, native=native, name=self.path),
        )
        values, complete = read.values, read.complete
        if source.scale is not None:
            values = source.scale[values]
        if source.palette is not None:
            colours = np.take(source.palette.T, values[0], axis=1, mode="clip")
            values, hidden = colours[:3], union(hidden, colours[3] == 0)
        return self._with_gaps(Pixels(values=values, hidden=hidden, empty=empty, complete=complete), part)

    def _with_gaps(self, pixels: Pixels, part: GdalWindow) -> Pixels:
        """Return the pixels with added flags for gaps: areas of the raster without pixels, see `imagery.raster.gaps`.

        `part` is the rectangle that `pixels` covers, in pixels of the raster.
        """
        if self.source.gaps is None:
            return pixels
        rect = Rect(part.col_off, part.row_off, part.width, part.height)
        found = self.source.gaps.within(rect, (pixels.values.shape[1], pixels.values.shape[2]))
        if found is None:
            return pixels
        # Some of the source pixels that are averaged into a pixel beside a gap may be missing.
        near = ndimage.binary_dilation(found > 0, _EIGHT_NEIGHBOURS)
        complete = None if pixels.complete is None else pixels.complete & ~near
        failed = found == codes.FAILED
        return replace(
            pixels, empty=union(pixels.empty, found == codes.NODATA), complete=complete,
            failed=union(pixels.failed, failed) if failed.any() else pixels.failed,
        )  # fmt: skip

    def _stored(self, part: GdalWindow, shape_hw: tuple[int, int], native: bool) -> Values:
        """Read a rectangle of the raster, resampled to `shape_hw`: averaged if `shape_hw` is coarser than the raster.
        `native`: `shape_hw` is the shape of the rectangle."""
        bands, source = self.source.bands, self.source
        coarser = shape_hw[0] <= part.height and shape_hw[1] <= part.width
        if coarser and not native and (not self.overviews or self._gdal_drops_colours):
            return self._downsampled(part, shape_hw)
        smooth = Resampling.average if coarser else Resampling.bilinear
        values = self._bands(bands.used, part, shape_hw, smooth if source.palette is None else Resampling.nearest)
        # Masks and nodata are not averaged: the nearest source pixel decides.
        nearest = values[: len(bands.rgb)]
        if source.nodata is not None and not native:
            nearest = self._bands(bands.rgb, part, shape_hw, Resampling.nearest)
        return Values(values, nearest)

    def _bands(
        self, bands: tuple[int, ...], part: GdalWindow, shape_hw: tuple[int, int], resampling: Resampling
    ) -> NDArray[Any]:
        how = {"out_shape": (len(bands), *shape_hw), "out_dtype": self.source.dtype, "resampling": resampling}
        return np.asarray(self.source.dataset.read(list(bands), window=part, **how))

    @property
    def _gdal_drops_colours(self) -> bool:
        """Whether GDAL's means may leave out values of observed pixels, because GDAL searches nodata band by band."""
        source = self.source
        fits = source.nodata is not None and may_be_colour(source.nodata)
        return fits and source.palette is None and not source.has_mask and not self.has_overviews

    def _downsampled(self, part: GdalWindow, shape_hw: tuple[int, int]) -> Values:
        """Read a rectangle of the raster at full resolution, and average the pixels to `shape_hw` without GDAL.

        GDAL's means are wrong in three cases: alpha is marked wrongly (see `Source.average_without_gdal`), the
        overviews do not match the pixels, or an observed pixel has the nodata value in one band, as pure red has 0.
        """
        source, bands = self.source, self.source.bands
        means = np.empty((len(bands.used), *shape_hw), source.dtype)
        nearest = np.empty((len(bands.rgb), *shape_hw), source.dtype)
        count = math.ceil(part.height * part.width * len(means) * source.dtype.itemsize / _PIECE_BYTES)
        for rows, cols, piece in pieces_of(part, shape_hw, count):
            at = (slice(None), rows, cols)
            means[at], nearest[at] = self._averaged(piece, means[at].shape[1:])
        return Values(means, nearest)

    def _averaged(self, part: GdalWindow, shape_hw: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the means of a piece of a rectangle, and the colours in the middle of each, see `_downsampled`."""
        source, bands = self.source, self.source.bands
        outer = outer_of(part, source.dataset)
        values = self._bands(bands.used, outer, (outer.height, outer.width), Resampling.nearest)
        rows = AxisWeights.of(part.row_off - outer.row_off, part.height, outer.height, shape_hw[0])
        cols = AxisWeights.of(part.col_off - outer.col_off, part.width, outer.width, shape_hw[1])
        nearest = values[: len(bands.rgb), rows.middles][:, :, cols.middles]
        if source.palette is not None:
            return values[:, rows.middles][:, :, cols.middles], nearest
        empty = union(
            find_empty(values, values[: len(bands.rgb)], source.nodata_values), source.voids.find(values, native=True)
        )
        empty = union(empty, self._hidden(outer, (outer.height, outer.width)))
        means = area_means(values, empty, rows, cols)
        missing = nir_is_missing(values, source.nir_nodata)
        if missing is not None:
            means[-1] = area_means(values[-1:], union(missing, empty), rows, cols, fill=source.nir_nodata)[0]
        return means, nearest

    def _block_averaged(self, part: GdalWindow, shape_hw: tuple[int, int]) -> Values | None:
        """Read a rectangle of an 8-bit raster, and average blocks of 2 x 2 or 4 x 4 pixels to `shape_hw`.

        GDAL would take three times as long, and might leave out values of observed pixels, see `_gdal_drops_colours`.
        Return None for blocks of another size, or blocks that begin inside a pixel of the raster. Return None also for
        a raster that is not 8-bit, or that has a palette, a mask, an alpha band or overviews.
        """
        source, bands = self.source, self.source.bands
        factor = round(part.height / shape_hw[0])
        fits = (part.height, part.width) == (shape_hw[0] * factor, shape_hw[1] * factor)
        if factor not in (2, 4) or not fits or part.row_off % 1 or part.col_off % 1 or self.has_overviews:
            return None
        if source.dtype != np.uint8 or source.palette is not None or source.has_mask or bands.alpha is not None:
            return None
        means = np.empty((len(bands.used), *shape_hw), np.uint8)
        middle = np.empty((len(bands.rgb), *shape_hw), np.uint8)
        complete = np.ones(shape_hw, bool)
        step = max(1, _PIECE_BYTES // (len(means) * factor * int(part.width)))
        for top in range(0, shape_hw[0], step):
            rows = min(step, shape_hw[0] - top)
            piece = GdalWindow(part.col_off, part.row_off + top * factor, part.width, rows * factor)
            values = source.dataset.read(list(bands.used), window=piece)
            at = slice(factor // 2, None, factor)
            middle[:, top : top + rows] = values[: len(bands.rgb), at, at]
            empty = find_empty(values[:0], values[: len(bands.rgb)], source.nodata_values)
            means[:, top : top + rows], whole = known_block_means(values, factor, empty, source.nodata or 0)
            missing, fill = nir_is_missing(values, source.nir_nodata), source.nir_nodata or 0
            if missing is not None:
                means[-1:, top : top + rows] = known_block_means(values[-1:], factor, missing, fill, fill=fill)[0]
            complete[top : top + rows] = whole
        return Values(means, middle, complete)

    def _hidden(self, part: GdalWindow, shape_hw: tuple[int, int]) -> Bools | None:
        """Return bool (height, width): True at pixels that alpha or the mask hides; None without alpha and mask."""
        dataset, bands, hidden = self.source.dataset, self.source.bands, None
        if bands.alpha is not None:
            alpha = self._read_flags(part, shape_hw, partial(dataset.read, bands.alpha))
            hidden = np.asarray(~(alpha >= self.source.min_alpha))  # NaN is hidden
        for band in self.source.masked:
            masked = self._read_flags(part, shape_hw, partial(dataset.read_masks, band)) == 0
            hidden = union(hidden, np.asarray(masked))
        return hidden

    def _read_flags(self, part: GdalWindow, shape_hw: tuple[int, int], read: Callable[..., Any]) -> NDArray[Any]:
        """Read alpha or a mask of the file in a rectangle, resampled to `shape_hw` by nearest neighbour; 0 is hidden.

        `read` is `dataset.read` for the alpha band (in its own dtype), or `dataset.read_masks` for one band (uint8).
        """
        if self.overviews or shape_hw == (part.height, part.width):
            return np.asarray(read(window=part, out_shape=shape_hw))
        outer = outer_of(part, self.source.dataset)
        flags = read(window=outer)
        rows = AxisWeights.of(part.row_off - outer.row_off, part.height, outer.height, shape_hw[0])
        cols = AxisWeights.of(part.col_off - outer.col_off, part.width, outer.width, shape_hw[1])
        return np.asarray(flags[rows.middles][:, cols.middles])
