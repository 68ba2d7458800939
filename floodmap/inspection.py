"""Properties of a scene as floodmap reads it, and estimates of memory, disk space and time of segmenting the scene."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.source_name import SourceName
from floodmap.imagery.raster.stac import scene_of
from floodmap.imagery.raster.thumbnail import Thumbnail, thumbnail
from floodmap.imagery.scene import Scene
from floodmap.imagery.survey import SAMPLE_SIDE, SAMPLES, SURVEY_SIDE
from floodmap.inference.strangeness import ood_warnings
from floodmap.inference.tiling import Grid
from floodmap.models.protocol import Segmenter
from floodmap.options import MODEL, OVERLAP, TILE_SIZE, SceneOptions
from floodmap.output.results import BYTES_PER_PIXEL
from floodmap.strips import codes

log = logging.getLogger(__name__)

PROCESS_BYTES = 1.2e9
"""Memory in bytes of Python, torch, and the shipped model with the windows of one batch."""
PIXEL_BYTES = 0.3
"""Memory of the polygons, in bytes per scene pixel, if the scene has as many shorelines as the synthetic scenes."""
PIXELS_PER_SECOND = 5e6
"""Speed of the shipped model on two CPU cores, in pixels per second.

The pixels of each window are counted, so that a pixel in the overlap of two windows counts twice.
"""
STARTUP_SECONDS = 4
"""Time in seconds for imports, reading the header and writing results, for a scene of any size."""


def inspect_scene(
    source: str | os.PathLike[str],
    options: SceneOptions,
    *,
    tile_size: int = TILE_SIZE,
    overlap: int = OVERLAP,
    with_fingerprint: bool = True,
) -> dict[str, Any]:
    """Collect the properties of a scene that `floodmap info` prints. Memory, disk space and time are estimates.

    A remote scene is read in little detail: of a raster with more than 2048 pixels a side, only an overview is read.
    If it has no overviews, `stretch`, `collar` and `valid_share` are None. Sidecars are not read, and there is no
    fingerprint and no warning about colours and textures.

    Args:
        source: a file, or a name that GDAL opens.
        options: options for reading the raster.
        tile_size: longest side of a window, in pixels.
        overlap: least number of pixels that neighbouring windows share.
        with_fingerprint: whether the fingerprint of the content is computed, which may read the whole file.

    Returns:
        Names and values of the properties. The values have types that JSON can store.

    Raises:
        SceneError: the source is no raster that can be segmented.
    """
    name = scene_of(SourceName.of(source))
    with _opened(name, options) as (scene, copy):
        full = Properties.of(scene, copy, options)
        is_copy = copy is not None and copy.factor != 1
        warnings = [*scene.unsuited, *(() if is_copy else ood_warnings(scene, shipped_model()))]
        for line in warnings:
            log.warning("%s", line)
        grid = Grid(height=full.grid.height, width=full.grid.width, tile_size=tile_size, overlap=overlap)
        pixels = full.grid.height * full.grid.width
        windows = len(grid) * grid.shape_hw[0] * grid.shape_hw[1]
        stretch = {"low": list(scene.stretch.low), "high": list(scene.stretch.high)}
        return {
            "path": str(name),
            "size": {"width": full.grid.width, "height": full.grid.height},
            "source_size": {"width": full.source.width, "height": full.source.height},
            "crs": full.grid.crs.to_string() if full.grid.crs else None,
            "transform": list(full.grid.transform)[:6],
            "gsd_m": full.grid.gsd_m,
            "source_gsd_m": full.source.gsd_m,
            "dtype": scene.dtype,
            "bands": list(scene.bands),
            "nir_band": scene.nir_band,
            "stretch": stretch if full.is_whole or scene.dtype == "uint8" else None,
            # JSON has no NaN.
            "nodata": scene.nodata if scene.nodata is None or scene.nodata == scene.nodata else "nan",
            "collar": (list(scene.collar.colours) if scene.collar else []) if full.is_whole else None,
            "valid_share": valid_share(scene) if full.is_whole else None,
            "date": scene.date.isoformat(),
            "warnings": [*scene.remarks, *warnings],
            "fingerprint": scene.fingerprint if with_fingerprint and copy is None else None,
            "windows": {"count": len(grid), "height": grid.shape_hw[0], "width": grid.shape_hw[1]},
            "estimate": {
                "memory_bytes": int(PROCESS_BYTES + scene.source.cache_bytes + PIXEL_BYTES * pixels),
                "disk_bytes": int(BYTES_PER_PIXEL * pixels),
                "seconds": round(STARTUP_SECONDS + windows / PIXELS_PER_SECOND, 1),
            },
        }


@dataclass(frozen=True, slots=True)
class Properties:
    """Pixel grids of a scene, also if a small copy of the scene is open instead of the scene."""

    grid: GeoGrid
    """Working grid."""
    source: GeoGrid
    """Pixel grid of the file."""
    is_whole: bool
    """Whether the open raster shows the whole scene."""

    @classmethod
    def of(cls, scene: Scene, copy: Thumbnail | None, options: SceneOptions) -> Properties:
        """Return the properties of a scene. `copy` is the small copy that is open; None: the scene itself is open."""
        if copy is None:
            return cls(scene.grid, scene.source.grid, True)
        return cls(copy.grid.resampled(options.resolution_m, scene.path), copy.grid, copy.is_whole)


@contextmanager
def _opened(name: SourceName, options: SceneOptions) -> Iterator[tuple[Scene, Thumbnail | None]]:
    """Context manager: open a scene, or a small copy of a remote scene, which takes at most six requests.

    A remote scene itself is opened if the options have a mask or an area of interest, or if it cannot be copied.
    """
    with ExitStack() as stack:
        wants_all = options.mask is not None or options.aoi is not None
        copy = None
        if name.is_remote and not wants_all:
            copy = stack.enter_context(thumbnail(name, options.crs))
        if copy is None:
            yield stack.enter_context(Scene.open(name, options)), None
            return
        yield stack.enter_context(Scene.open(copy.name, replace(options, resolution_m=None))), copy


def valid_share(scene: Scene) -> float:
    """Return the share of observed pixels, 0 to 1, among a scene's pixels inside the area of interest.

    A scene with overviews, or of at most 2048 x 2048 pixels, is counted whole, downsampled to at most 2048 pixels a
    side. Of any other scene, 16 x 16 windows of 128 x 128 pixels are counted, evenly spaced over the scene.
    """
    is_cheap = scene.height * scene.width <= SURVEY_SIDE**2 or scene.has_overviews
    tiles = [scene.preview(SURVEY_SIDE)] if is_cheap else scene.samples(2 * SAMPLES, SAMPLE_SIDE)
    reasons = np.concatenate([tile.reason.ravel() for tile in tiles])
    wanted = int((reasons != codes.OUTSIDE).sum())
    return float((reasons == 0).sum() / wanted) if wanted else 0.0


@cache
def shipped_model() -> Segmenter:
    """Load the shipped model on the CPU, for the out-of-distribution score of scenes; cached."""
    from floodmap.models.loading import load_segmenter
    from floodmap.models.registry import resolve

    return load_segmenter(resolve(MODEL), "cpu")
