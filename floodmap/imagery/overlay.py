"""The user's mask and area of interest. Each is an overlay: a raster or polygons, in any CRS, laid over a scene."""

from __future__ import annotations

import logging
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.features import rasterize
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds

from floodmap.errors import MissingCRSError, SceneError
from floodmap.geo.gdal import GDAL_ERRORS, closed_by, gdal_env_of, gdal_reason
from floodmap.geo.geogrid import GeoGrid, how_to_place
from floodmap.geo.names import has_gdal_name, is_there
from floodmap.geo.source_name import SourceName
from floodmap.geo.turns import WARP_OPTIONS, overlaps, raster_shifts, turned
from floodmap.geo.vectors import is_vector, read_vectors
from floodmap.geo.window import Window
from floodmap.imagery.raster.anatomy import anatomy, lost_part_text
from floodmap.imagery.raster.voids import HUGE

LOG = logging.getLogger(__name__)

_FAR_M = 111_000
"""Distance in metres, about 1 degree of latitude. Polygons that are farther from a scene may have a wrong CRS."""


@dataclass(frozen=True, slots=True)
class BaseScene:
    """Properties of the scene over which a mask or an area of interest is laid."""

    path: object
    """Name of the scene, for messages."""
    grid: GeoGrid
    """Working grid of the scene."""
    source_shape_hw: tuple[int, int]
    """Rows and columns of the scene's file."""


class Overlay(Protocol):
    """Mask or area of interest of a scene: polygons or a raster from another file, which cover pixels of the scene."""

    @property
    def bounds(self) -> tuple[float, ...]:
        """West, south, east and north end in the CRS of the scene; empty if they cannot be transformed."""

    def covers(self, window: Window, shape_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """Return which pixels of a window the mask or the area of interest covers.

        Args:
            window: window of the scene, in pixels of the working grid.
            shape_hw: rows and columns of the result. The window is divided into this number of equal pixels.

        Returns:
            bool `shape_hw`: True if the centre of a pixel is covered.
        """

    def meets_scene(self) -> bool:
        """Return whether the mask or the area of interest overlaps the scene."""

    def is_far(self) -> bool:
        """Return whether the distance to the scene is so large that the CRS may be wrong.

        Polygons are far if the rectangle around all of them is more than 1 degree (111 km) away: one file of clouds may
        be meant for many scenes. A raster is far if it does not overlap the scene.
        """


def open_overlay(
    path: Path | str,
    scene: BaseScene,
    stack: ExitStack,
    *,
    voids_cover: bool = False,
    between: tuple[float, float] | None = None,
) -> Overlay:
    """Open the polygons or the raster of a mask or an area of interest, to find the pixels of a scene that are covered.

    A raster must have one band, besides alpha. A pixel that the raster's mask or alpha band hides never covers the
    scene. For all other pixels of the raster, the value decides whether the pixel covers the scene:

    - 0: never.
    - NaN, or the declared nodata value (also if it is negative, such as -9999): only with `voids_cover`, and only if
      the raster has a 0 anywhere. In a raster without any 0, nodata is taken to mean ground that is not covered.
    - A value below 0, or of at least `HUGE` (1e10), that is not declared as nodata: only with `voids_cover`. Such a
      value, for example -9999 or 1e20, is a void: it stands for nodata although the file does not declare it. Every
      value below 0 is taken for a void, because no class has a negative number.
    - Every other value: always.

    A raster without a CRS is laid over the scene pixel by pixel if the raster has as many rows and columns as the
    scene's file.

    Args:
        path: path of the polygons or the raster, or a name that GDAL opens.
        scene: the scene under the mask or the area of interest.
        stack: exit stack that closes the file.
        voids_cover: whether pixels of unknown content (nodata and voids) cover the scene, as listed above: True for a
            mask, False for an area of interest.
        between: least and greatest value of a raster that cover the scene, in place of every value except 0.

    Raises:
        MissingCRSError: the scene or the file has no CRS. A raster of the size of the scene's file needs no CRS.
        SceneError, VectorError: the file cannot be read.
    """
    if is_vector(path):
        if scene.grid.crs is None:
            raise MissingCRSError(
                f"{scene.path} has no CRS, so {path} cannot be aligned with it; {how_to_place(scene.grid.transform)}"
            )
        return _Polygons(path, scene)
    if not is_there(path):
        raise SceneError(f"{path}: no such file")
    return _Raster(path, scene, stack, voids_cover=voids_cover, between=between)


class _Polygons:
    """Mask or area of interest of polygons, stored in pixel coordinates of the working grid."""

    def __init__(self, path: Path | str, scene: BaseScene) -> None:
        polygons = read_vectors(path, crs=scene.grid.crs, polygons=True).geometries
        self._grid, self._bounds = scene.grid, shapely.total_bounds(polygons)
        polygons = turned(polygons, scene.grid.crs, scene.grid.span_x)
        inverse = ~scene.grid.transform

        def to_pixels(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
            return inverse.a * x + inverse.b * y + inverse.c, inverse.d * x + inverse.e * y + inverse.f

        self._parts = shapely.get_parts(shapely.transform(polygons, to_pixels, interleaved=False))
        self._tree = shapely.STRtree(self._parts)
        self._scene = shapely.box(0, 0, scene.grid.width, scene.grid.height)

    @property
    def bounds(self) -> tuple[float, ...]:
        """Ends of the polygons; see `Overlay.bounds`."""
        return tuple(self._bounds.tolist())

    def covers(self, window: Window, shape_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """Return which pixels of a window lie in a polygon; arguments and result are as in `Overlay.covers`."""
        bounds = (window.col_off, window.row_off, window.col_end, window.row_end)
        near = self._parts[self._tree.query(shapely.box(*bounds), predicate="intersects")]
        # Polygons are clipped first, because rasterizing takes time for every vertex, and a river may cross the whole
        # scene. The margin of one pixel keeps clipped edges away from the pixel centres of the window.
        margin = (-1, -1, 1, 1)
        clipped = shapely.clip_by_rect(near, *(edge + gap for edge, gap in zip(bounds, margin, strict=True)))
        clipped = clipped[~shapely.is_empty(clipped)]
        if not len(clipped):
            return np.zeros(shape_hw, bool)
        step = Affine.scale(window.width / shape_hw[1], window.height / shape_hw[0])
        place = Affine.translation(window.col_off, window.row_off) @ step
        return np.asarray(rasterize(clipped, out_shape=shape_hw, transform=place, dtype=np.uint8) > 0)

    def meets_scene(self) -> bool:
        """Return whether a polygon intersects the scene's rectangle."""
        return len(self._tree.query(self._scene, predicate="intersects")) > 0

    def is_far(self) -> bool:
        """Return whether the rectangle around all polygons is far from the scene; see `Overlay.is_far`."""
        grid, gsd_m = self._grid, self._grid.gsd_m
        if gsd_m is None or not np.isfinite(self._bounds).all():
            return False
        reach = _FAR_M / gsd_m * abs(grid.transform.determinant) ** 0.5
        west, south, east, north = self._bounds
        return not overlaps((west - reach, south - reach, east + reach, north + reach), grid.bounds, grid.crs)


class _Raster:
    """Mask or area of interest from a raster of one band. `open_overlay` describes which values of the raster count."""

    def __init__(
        self, path: Path | str, scene: BaseScene, stack: ExitStack, *, voids_cover: bool,
        between: tuple[float, float] | None,
    ) -> None:  # fmt: skip
        self._path, self._grid, self._voids_cover, self._between = path, scene.grid, voids_cover, between
        # rasterio and GDAL parse text and relative paths as URLs; `SourceName` prevents this for files.
        name = SourceName.of(path if has_gdal_name(path) else Path(path))
        try:
            with warnings.catch_warnings(), gdal_env_of(name):
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                self._source = closed_by(stack, rasterio.open(name.opened))
                structure = anatomy(self._source, name, (1,), stack)
        except RasterioError as error:
            raise SceneError(f"{path} can be read neither as a raster nor as polygons") from error
        for lost, why in structure.lost.items():
            raise SceneError(lost_part_text(path, lost, why))
        if (bands := sum(kind != ColorInterp.alpha for kind in self._source.colorinterp)) != 1:
            raise SceneError(
                f"{path} has {bands} bands: it is imagery, not a mask or an area of interest; give a raster of one "
                "band, or polygons"
            )
        self._nodata_covers = voids_cover and self._has_zeros()
        flags = self._source.mask_flag_enums[0]
        self._has_mask = MaskFlags.per_dataset in flags or MaskFlags.alpha in flags
        self._least_opaque = 128 if structure.lossy else 1
        self._scale = (1.0, 1.0)
        self._datasets: list[DatasetReader | WarpedVRT] = [self._source]
        if scene.grid.crs is not None and self._source.crs is not None:
            self._datasets = [closed_by(stack, warped) for warped in self._warped()]
        elif self._source.crs is None and self._source.shape == scene.source_shape_hw:
            self._scale = (self._source.height / scene.grid.height, self._source.width / scene.grid.width)
        elif scene.grid.crs is None:
            raise MissingCRSError(f"{scene.path} has no CRS, so {path} must also have no CRS and the same size")
        else:
            raise MissingCRSError(
                f"{path} has no CRS and another size than {scene.path}, so its position is unknown; assign a CRS with: "
                f"rio edit-info --crs EPSG:CODE {path}"
            )

    @property
    def bounds(self) -> tuple[float, ...]:
        """Ends of the raster; see `Overlay.bounds`."""
        own = GeoGrid.of(self._source)
        if own.crs is None or self._grid.crs is None:
            return own.bounds
        try:
            return tuple(transform_bounds(own.crs, self._grid.crs, *own.bounds))
        except GDAL_ERRORS:
            return ()

    def covers(self, window: Window, shape_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """Return which pixels of a window the raster covers, resampled by nearest neighbour.

        Arguments and result are as in `Overlay.covers`.
        """
        down, across = self._scale
        part = window.to_rasterio(down, across)
        covered = np.zeros(shape_hw, bool)
        for dataset in self._datasets:
            try:
                how = {"window": part, "out_shape": shape_hw, "resampling": Resampling.nearest}
                values = dataset.read(1, **how)
                seen = dataset.read_masks(1, **how) >= self._least_opaque if self._has_mask else True
            except RasterioError as error:
                raise SceneError(f"{self._path} cannot be read: {gdal_reason(error)}") from error
            # Warping fills ground outside of the raster with 0, and keeps nodata as a value (see `_warped`).
            known = np.full(shape_hw, True) if self._nodata_covers else ~self._is_nodata(values)
            if not self._voids_cover:
                known &= (values >= 0) & (values < HUGE)
            covered |= self._counts(values) & known & seen
        return covered

    def _counts(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        if self._between is None:
            return np.asarray(values != 0)
        least, most = self._between
        return np.asarray((values >= least) & (values <= most))

    def _is_nodata(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        nodata = self._source.nodata
        return np.asarray(np.isnan(values) | (False if nodata is None else values == nodata))

    def _has_zeros(self) -> bool:
        """Return True if nodata is possible in the raster, and the raster has the value 0 anywhere.

        Nodata is possible if the file declares a nodata value, or if the dtype is float, so that NaN is possible. In a
        raster with a 0, the 0 means ground that is not covered, so nodata must mean unknown ground. In a raster with
        nodata but without a 0, nodata is taken to mean ground that is not covered, and a warning is logged.
        """
        if self._source.nodata is None and np.dtype(self._source.dtypes[0]).kind != "f":
            return False
        has_nodata = False
        for block in GeoGrid.of(self._source).blocks(2048):
            try:
                values = self._source.read(1, window=block.to_rasterio())
            except RasterioError as error:
                raise SceneError(f"{self._path} cannot be read: {gdal_reason(error)}") from error
            if (values == 0).any():
                return True
            has_nodata |= bool(self._is_nodata(values).any())
        if has_nodata:
            LOG.warning("%s holds no 0, so its nodata counts as ground that it does not mask", self._path)
        return False

    def meets_scene(self) -> bool:
        """Return whether the rectangles of the raster and of the scene overlap.

        The result is True if this is not known: the raster has no CRS, or a rectangle cannot be transformed.
        """
        if self._datasets == [self._source]:
            return True
        # The smaller rectangle is transformed, because a projection may be undefined far away from its own area.
        grids = GeoGrid.of(self._source), self._grid
        small, large = sorted(grids, key=lambda grid: (grid.gsd_m or 0.0) * sum(grid.shape_hw))
        try:
            bounds = transform_bounds(small.crs, large.crs, *small.bounds)
        except GDAL_ERRORS:
            return True
        return not np.isfinite(bounds).all() or overlaps(bounds, large.bounds, large.crs)

    def is_far(self) -> bool:
        """Return whether the raster does not overlap the scene."""
        return not self.meets_scene()

    def _warped(self) -> list[WarpedVRT]:
        """Return virtual copies of the raster that are warped to the scene's working grid by nearest neighbour.

        Usually the result is one copy that is not shifted along x. This is also the result if the raster does not
        overlap the working grid. In a geographic CRS, x is periodic (360 degrees, see `floodmap.geo.turns`). Near the
        antimeridian, the raster may therefore overlap the working grid after a shift of x by one period:

        - The raster overlaps the working grid only after a shift: the result is one copy, which is shifted.
        - The raster overlaps the working grid in its own place and also after a shift: the result is two copies, one
          that is not shifted and one that is shifted. Example: a raster from -180 to 180 degrees, and a working grid
          from 170 to 190 degrees in the same CRS. The second copy is shifted by 360 degrees.
        """
        grid, own = self._grid, self._source
        how = {"crs": grid.crs, "transform": grid.transform, "width": grid.width, "height": grid.height}
        how |= {"resampling": Resampling.nearest, **WARP_OPTIONS}
        alpha = ColorInterp.alpha in own.colorinterp
        how |= {"add_alpha": self._has_mask and not alpha}  # otherwise warping drops the raster's own mask
        how |= {"src_nodata": None, "nodata": None}  # so that nodata is told from ground outside of the raster
        shifts = raster_shifts(own.crs, GeoGrid.of(own).span_x, grid.crs, grid.span_x) or (0.0,)
        return [WarpedVRT(own, src_transform=Affine.translation(shift, 0) @ own.transform, **how) for shift in shifts]
