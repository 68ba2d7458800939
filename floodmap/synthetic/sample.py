"""Writing of synthetic scenes and of the reference masks as files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import rasterio

from floodmap._runtime.files import atomic_path
from floodmap.errors import FloodmapError
from floodmap.geo.window import Window
from floodmap.synthetic.landscape import BLOCK
from floodmap.synthetic.scene import EPSG, SyntheticScene

_CACHE_BYTES = 64 * 2**20


def write_sample(
    path: str | Path,
    *,
    width: int,
    height: int,
    seed: int,
    gsd_m: float = 0.3,
    jpeg_quality: int | None = None,
    overwrite: bool = False,
    progress: Callable[[float], None] | None = None,
) -> tuple[Path, Path]:
    """Write a synthetic scene and its reference mask as tiled GeoTIFFs, block by block.

    Args:
        path: RGB file to write; `<stem>_reference.tif` is written beside it.
        width: columns of the scene, in pixels.
        height: rows of the scene, in pixels.
        seed: seed of the landscape.
        gsd_m: ground sample distance, in metres.
        jpeg_quality: quality of JPEG compression, 1 to 100. The file has a tenth of the size of the lossless file. An
            internal mask marks the border without picture (the collar), because JPEG changes nodata values. None:
            lossless (deflate), with nodata value 0 in the collar.
        overwrite: True: replace existing files.
        progress: function called with the finished share, in (0, 1].

    Returns:
        Paths of the scene and of its reference.

    Raises:
        FloodmapError: a target exists and `overwrite` is False.
    """
    scene = SyntheticScene(width=width, height=height, seed=seed, gsd_m=gsd_m)
    image = Path(path)
    targets = (image, image.with_name(f"{image.stem}_reference.tif"))
    for target in targets:
        if target.exists() and not overwrite:
            raise FloodmapError(f"{target} exists already; replace it with --overwrite (in Python overwrite=True)")
    with atomic_path(image) as picture, atomic_path(targets[1]) as reference:
        _write_blocks(scene, (picture, reference), jpeg_quality, progress)
    return targets


def _write_blocks(
    scene: SyntheticScene, paths: tuple[Path, ...], jpeg_quality: int | None, progress: Callable[[float], None] | None
) -> None:
    profile = {
        "driver": "GTiff", "width": scene.width, "height": scene.height, "dtype": "uint8", "crs": f"EPSG:{EPSG}",
        "transform": scene.transform, "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK,
        "compress": "deflate", "bigtiff": "if_safer",
    }  # fmt: skip
    rgb_only = {"count": 3, "nodata": 0, "photometric": "rgb", "predictor": 2}
    if jpeg_quality is not None:
        rgb_only = {"count": 3, "compress": "jpeg", "photometric": "ycbcr", "jpeg_quality": jpeg_quality}
    with (
        rasterio.Env(GDAL_CACHEMAX=_CACHE_BYTES, GDAL_TIFF_INTERNAL_MASK="YES"),
        rasterio.open(paths[0], "w", **{**profile, **rgb_only}) as image,
        rasterio.open(paths[1], "w", **profile, count=1, nodata=255) as reference,
    ):
        for row in range(0, scene.height, BLOCK):
            rows = min(BLOCK, scene.height - row)
            for col in range(0, scene.width, BLOCK):
                cols = min(BLOCK, scene.width - col)
                rgb, mask = scene.window(row, col, rows, cols)
                window = Window(row, col, rows, cols).to_rasterio()
                image.write(rgb, window=window)
                if jpeg_quality is not None:
                    image.write_mask(mask != 255, window=window)
                reference.write(mask, 1, window=window)
            if progress is not None:
                progress((row + rows) / scene.height)
