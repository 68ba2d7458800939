"""Properties of a scene as floodmap reads it, and estimates of memory, disk space and time of segmenting the scene."""

from __future__ import annotations

import logging
import os
from functools import cache
from typing import Any

from floodmap.imagery.scene import Scene
from floodmap.inference.strangeness import ood_warnings
from floodmap.inference.tiling import Grid
from floodmap.models.protocol import Segmenter
from floodmap.options import MODEL, OVERLAP, TILE_SIZE, SceneOptions
from floodmap.output.results import BYTES_PER_PIXEL

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
    with Scene.open(source, options) as scene:
        warnings = [*scene.unsuited, *ood_warnings(scene, shipped_model())]
        for line in warnings:
            log.warning("%s", line)
        grid = Grid(height=scene.height, width=scene.width, tile_size=tile_size, overlap=overlap)
        pixels = scene.height * scene.width
        windows = len(grid) * grid.shape_hw[0] * grid.shape_hw[1]
        return {
            "path": str(scene.path),
            "size": {"width": scene.width, "height": scene.height},
            "source_size": {"width": scene.source_shape_hw[1], "height": scene.source_shape_hw[0]},
            "crs": scene.crs.to_string() if scene.crs else None,
            "transform": list(scene.transform)[:6],
            "gsd_m": scene.gsd_m,
            "source_gsd_m": scene.source_gsd_m,
            "dtype": scene.dtype,
            "bands": list(scene.bands),
            "nir_band": scene.nir_band,
            "stretch": {"low": list(scene.stretch.low), "high": list(scene.stretch.high)},
            # JSON has no NaN.
            "nodata": scene.nodata if scene.nodata is None or scene.nodata == scene.nodata else "nan",
            "collar": list(scene.collar.colours) if scene.collar else [],
            "valid_share": scene.valid_share(),
            "date": scene.date.isoformat(),
            "warnings": [*scene.remarks, *warnings],
            "fingerprint": scene.fingerprint if with_fingerprint else None,
            "windows": {"count": len(grid), "height": grid.shape_hw[0], "width": grid.shape_hw[1]},
            "estimate": {
                "memory_bytes": int(PROCESS_BYTES + scene.cache_bytes + PIXEL_BYTES * pixels),
                "disk_bytes": int(BYTES_PER_PIXEL * pixels),
                "seconds": round(STARTUP_SECONDS + windows / PIXELS_PER_SECOND, 1),
            },
        }


@cache
def shipped_model() -> Segmenter:
    """Load the shipped model on the CPU, for the out-of-distribution score of scenes; cached."""
    from floodmap.models.loading import load_segmenter
    from floodmap.models.registry import resolve

    return load_segmenter(resolve(MODEL), "cpu")
