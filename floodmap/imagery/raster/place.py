"""Georeference of a raster, from its own metadata: CRS and transform, or ground control points."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import replace

from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT

from floodmap.errors import SceneError
from floodmap.geo.crs import flat
from floodmap.geo.gdal import GDAL_ERRORS, closed_by, gdal_reason
from floodmap.geo.geogrid import UNPLACED, GeoGrid, is_unplaced

LOG = logging.getLogger(__name__)


def warped_by_gcps(
    dataset: DatasetReader, stack: ExitStack, crs: CRS | None, palette: bool, path: object
) -> DatasetReader | WarpedVRT:
    """Resample a dataset that has only ground control points onto a north-up grid in the CRS of the points.

    Other datasets are returned unchanged.

    Args:
        dataset: the open raster.
        stack: exit stack that closes the resampled dataset.
        crs: CRS that replaces the CRS of the points; None: the CRS of the points.
        palette: whether the values are palette indices, which are resampled by nearest neighbour and not bilinear.
        path: name of the raster, for messages.

    Raises:
        SceneError: the control points cannot be used.
    """
    points, points_crs = dataset.gcps
    crs = crs or points_crs
    if not points or not dataset.transform.is_identity or not crs:
        return dataset
    how = Resampling.nearest if palette else Resampling.bilinear
    no_alpha = ColorInterp.alpha not in dataset.colorinterp
    try:
        return closed_by(stack, WarpedVRT(dataset, src_crs=crs, crs=crs, resampling=how, add_alpha=no_alpha))
    except (*GDAL_ERRORS, ValueError) as error:
        raise SceneError(
            f"{path} cannot be placed by its {len(points)} control points: {gdal_reason(error)}"
        ) from error


def find_grid(dataset: DatasetReader | WarpedVRT, given: CRS | None, path: object) -> GeoGrid:
    """Return the pixel grid of a raster: horizontal CRS, transform, rows and columns.

    A raster without georeference has the transform `UNPLACED` and no CRS. A local CRS, whose position on the Earth is
    not known, is left out with a warning.

    Args:
        dataset: the open raster.
        given: CRS that replaces the file's own; None: the file's own.
        path: name of the raster, for messages.

    Raises:
        SceneError: a CRS is given, but the raster has no transform; or the transform maps the raster to a line or a
            point; or the centre of the raster cannot be converted from the CRS (`given`, else the file's own) to
            longitude and latitude. The last error is raised for instance if the coordinates are in metres, but the CRS
            is EPSG:4326, whose unit is the degree: a y of 5,000,000 would be a latitude above 90.
    """
    grid = GeoGrid(flat(given or dataset.crs), dataset.transform, dataset.shape)
    if is_unplaced(grid.transform, flat(dataset.crs)):
        if given is not None:
            raise SceneError(
                f"{path} has no geotransform, so --crs alone cannot georeference it; add a world file, or leave "
                "--crs out"
            )
        if dataset.rpcs is not None:
            LOG.warning("%s is placed by RPCs only; orthorectify it first to get coordinates on the ground", path)
        return replace(grid, crs=None, transform=UNPLACED)
    if not grid.crs:
        return replace(grid, crs=None)
    if not (grid.crs.is_projected or grid.crs.is_geographic):
        LOG.warning(
            "%s has a local CRS (%s) without a position on the Earth and is mapped in pixels; give the right CRS with "
            "--crs",
            path,
            " ".join(grid.crs.to_wkt().split())[:60],
        )
        return replace(grid, crs=None)
    if grid.transform.is_degenerate or grid.steps_m is None:
        x, y = grid.transform @ (grid.width / 2, grid.height / 2)
        raise SceneError(
            f"{path} lies at {x:g}, {y:g}, which does not exist in {grid.crs}; give the right one with --crs"
        )
    return grid
