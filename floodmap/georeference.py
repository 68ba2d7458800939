"""Where a raster lies on the ground, and how large its pixels are there."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from affine import Affine
from pyproj import Geod, Transformer
from pyproj.exceptions import CRSError as ProjCRSError
from pyproj.exceptions import ProjError
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import CRSError, RasterioError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT

from floodmap.errors import MissingCRSError, SceneError
from floodmap.gdal import closed_by, gdal_reason
from floodmap.geodesy import horizontal, known_crs

LOG = logging.getLogger(__name__)

_LARGEST_UPSAMPLING = 4

UNPLACED = Affine.scale(1, -1)
"""Pixel to map of a picture without georeference, as QGIS draws it: y runs up, so rows count down from nought. Results
in these coordinates lie on the picture there."""


def how_to_place(transform: Affine) -> str:
    """What the user can do about a raster without CRS: `--crs` alone places only one that has a transform."""
    return "give it a world file and --crs" if transform == UNPLACED else "assign one with --crs"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkingGrid:
    """The pixels a scene is worked on in: the file's own, or those of the resolution asked for."""

    height: int
    """Rows."""
    width: int
    """Columns."""
    transform: Affine
    """Pixel to CRS."""
    gsd_m: float | None
    """Mean ground sample distance at the centre, in geodesic metres; None without a CRS."""
    source_gsd_m: float | None
    """The same of the file."""


def lay_grid(
    crs: CRS | None, transform: Affine, *, shape_hw: tuple[int, int], resolution_m: float | None, path: object
) -> WorkingGrid:
    """Lay a grid of (nearly) `resolution_m` over a raster, exactly as large as the raster; None keeps its own.

    Raises:
        MissingCRSError: metres mean nothing on the raster.
        SceneError: the grid would have no pixels, or far more than the raster.
    """
    rows, cols = height, width = shape_hw
    gsd = None if crs is None else ground_sample_distance(crs, transform, width=cols, height=rows)
    if resolution_m is not None:
        if gsd is None:
            raise MissingCRSError(
                f"{path} has no CRS, so it has no {resolution_m:g} m pixels; {how_to_place(transform)}"
            )
        height, width = (round(n * step / resolution_m) for n, step in ((rows, gsd[1]), (cols, gsd[0])))
        if min(height, width) < 1:
            raise SceneError(f"{path} is smaller than one pixel of {resolution_m:g} m; choose a finer --resolution")
        if max(gsd) / resolution_m > _LARGEST_UPSAMPLING:
            raise SceneError(f"{path} has pixels of {max(gsd):.3g} m; --resolution {resolution_m:g} invents detail")
    across, down = cols / width, rows / height
    return WorkingGrid(
        height=height,
        width=width,
        transform=transform @ Affine.scale(across, down),
        gsd_m=None if gsd is None else float((gsd[0] * across * gsd[1] * down) ** 0.5),
        source_gsd_m=None if gsd is None else float((gsd[0] * gsd[1]) ** 0.5),
    )


def ground_sample_distance(crs: CRS, transform: Affine, *, width: int, height: int) -> tuple[float, float] | None:
    """Metres on the ground of one step along the columns and one along the rows, geodesic, at the raster's centre.

    None where the centre does not exist on the ground: the CRS is not that of the coordinates.
    """
    x, y = width / 2, height / 2
    corners = [transform @ point for point in ((x - 0.5, y), (x + 0.5, y), (x, y - 0.5), (x, y + 0.5))]
    try:
        to_lonlat = Transformer.from_crs(crs.to_wkt(), "EPSG:4326", always_xy=True)
        xs, ys = np.transpose(corners)
        lon, lat = to_lonlat.transform(xs, ys, errcheck=True)
        _, _, distance = Geod(ellps="WGS84").inv(lon[::2], lat[::2], lon[1::2], lat[1::2])
    except (ProjError, ProjCRSError, ValueError):
        return None
    sensible = np.all(np.abs(lat) <= 90) and np.all(np.isfinite(distance)) and np.all(distance > 0)
    return (float(distance[0]), float(distance[1])) if sensible else None


def warped_by_gcps(
    dataset: DatasetReader, stack: ExitStack, crs: CRS | None, palette: bool, path: object
) -> DatasetReader | WarpedVRT:
    """A dataset placed by ground control points alone, resampled onto a north-up grid in the points' CRS."""
    points, points_crs = dataset.gcps
    crs = crs or points_crs
    if not points or not dataset.transform.is_identity or not crs:
        return dataset
    how = Resampling.nearest if palette else Resampling.bilinear
    bare = ColorInterp.alpha not in dataset.colorinterp
    try:
        return closed_by(stack, WarpedVRT(dataset, src_crs=crs, crs=crs, resampling=how, add_alpha=bare))
    except (RasterioError, CPLE_BaseError, ValueError) as error:
        raise SceneError(
            f"{path} cannot be placed by its {len(points)} control points: {gdal_reason(error)}"
        ) from error


def find_georeference(dataset: DatasetReader | WarpedVRT, given: CRS | None, path: object) -> tuple[CRS | None, Affine]:
    """CRS (without heights) and transform of a raster; (None, `UNPLACED`) where it has no place on the ground.

    Raises:
        SceneError: the CRS given, or the file's own, cannot be that of its coordinates.
    """
    crs, transform = flat(given or dataset.crs), dataset.transform
    if transform.is_identity or transform == UNPLACED:
        if given is not None:
            raise SceneError(
                f"{path} has no geotransform: --crs alone cannot place it; add a world file or leave it out"
            )
        if dataset.rpcs is not None:
            LOG.warning("%s is placed by RPCs only; orthorectify it first to get coordinates on the ground", path)
        return None, UNPLACED
    if not crs:
        return None, transform
    if not (crs.is_projected or crs.is_geographic):
        LOG.warning(
            "%s has a CRS that is not on the Earth (%s); assign one with --crs",
            path,
            " ".join(crs.to_wkt().split())[:60],
        )
        return None, transform
    gsd = ground_sample_distance(crs, transform, width=dataset.width, height=dataset.height)
    if transform.is_degenerate or gsd is None:
        x, y = transform @ (dataset.width / 2, dataset.height / 2)
        raise SceneError(f"{path} lies at {x:g}, {y:g}, which does not exist in {crs}; give the right one with --crs")
    return crs, transform


def flat(crs: CRS | None) -> CRS | None:
    """A CRS without its heights, with the EPSG code of its horizontal part where that has one."""
    try:
        known = known_crs(crs) if crs else None
    except ProjCRSError:  # GDAL knows some that pyproj does not; they are not on the Earth, or the grid will tell
        return crs
    if known is None or len(known.axis_info) < 3:
        return crs
    plane = horizontal(known)
    code = plane.to_epsg(min_confidence=100)
    return CRS.from_wkt(plane.to_wkt()) if code is None else CRS.from_epsg(code)


def parse_crs(text: str) -> CRS:
    """A CRS in which places on the ground can be given.

    Raises:
        SceneError: the text is no CRS, or one of another kind.
    """
    try:
        crs = CRS.from_user_input(text)
    except CRSError as error:
        raise SceneError(f"{text!r} is not a CRS; give one such as EPSG:32643") from error
    if not (crs.is_projected or crs.is_geographic):
        raise SceneError(f"{text!r} is neither a projected nor a geographic CRS; give one such as EPSG:32643")
    return crs
