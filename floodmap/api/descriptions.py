"""Public functions info and sample."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from floodmap.imagery.opened import Source, named
from floodmap.options import OVERLAP, TILE_SIZE, SceneOptions


def info(source: Source, *, tile_size: int = TILE_SIZE, overlap: int = OVERLAP, **options: Any) -> dict[str, Any]:
    """Return properties of a scene and the estimated cost of segmenting it, as `floodmap info --json` prints them.

    Args:
        source: the scene: a file, another name that GDAL opens, an open dataset of rasterio, or an xarray.DataArray.
        tile_size: longest side of a window, in pixels.
        overlap: least number of pixels that neighbouring windows share.
        options: fields of `SceneOptions`, for instance `bands=(4, 3, 2)`.

    Returns:
        Dictionary of JSON types with size, CRS, ground sample distance, bands, stretch, nodata, estimates and other
        properties of the scene.

    Raises:
        FloodmapError: the source is no raster that can be segmented.
    """
    from floodmap.inspection import inspect_scene

    with named(source) as given:
        return inspect_scene(given, SceneOptions(**options), tile_size=tile_size, overlap=overlap)


def sample(
    path: str | os.PathLike[str],
    *,
    width: int = 2048,
    height: int = 2048,
    seed: int = 0,
    gsd_m: float = 0.3,
    overwrite: bool = False,
) -> tuple[Path, Path]:
    """Write a synthetic flooded scene and its reference, as `floodmap sample` does.

    Args:
        path: the scene, a GeoTIFF; the reference is written beside it, with `_reference` before the suffix.
        width: columns of the scene, in pixels.
        height: rows of the scene, in pixels.
        seed: seed of the landscape. The same seed, size and ground sample distance give the same pixels on every
            machine.
        gsd_m: ground sample distance, in metres.
        overwrite: True: replace existing files.

    Returns:
        Paths of the scene and of its reference.

    Raises:
        FloodmapError: a file exists already, or cannot be written.
    """
    from floodmap.synthetic.sample import write_sample

    return write_sample(Path(path), width=width, height=height, seed=seed, gsd_m=gsd_m, overwrite=overwrite)
