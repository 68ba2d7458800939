"""Opening of pictures in memory (numpy arrays) as scenes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.io import MemoryFile

from floodmap.errors import SceneError
from floodmap.imagery.scene import Scene
from floodmap.options import SceneOptions

_METRES = "+proj=tmerc +lat_0=0 +lon_0=0 +k=1 +x_0=0 +y_0=0 +datum=WGS84 +units=m"
"""Local CRS in metres, for pictures with a known ground sample distance and an unknown place on the Earth."""


@contextmanager
def open_array(
    rgb: NDArray[Any],
    *,
    nir: NDArray[Any] | None = None,
    valid: NDArray[np.bool_] | None = None,
    gsd_m: float | None = None,
) -> Iterator[Scene]:
    """Context manager: open a picture in memory as a scene, and close the scene at the end.

    Args:
        rgb: uint8 (3, height, width) or (height, width, 3): red, green and blue.
        nir: uint8 (height, width): near infrared; None: the picture has no near infrared.
        valid: bool (height, width): True at observed pixels; None: all pixels are observed.
        gsd_m: ground sample distance in metres; None: not known.

    Yields:
        The open scene. The scene has a local CRS in metres if `gsd_m` is given, else no CRS.

    Raises:
        SceneError: an array has another dtype or shape, or the ground sample distance is not a positive number.
    """
    bands = _bands(rgb, nir)
    count, height, width = bands.shape
    if valid is not None and (valid.dtype != bool or valid.shape != (height, width)):
        raise SceneError(f"valid is {valid.dtype} {valid.shape}; give bool {(height, width)}")
    if gsd_m is not None and not 0 < gsd_m < float("inf"):
        raise SceneError(f"gsd_m {gsd_m} is no size of a pixel; give metres, above 0, or None where it is not known")
    side, crs = gsd_m or 1.0, CRS.from_string(_METRES) if gsd_m else None
    place = {"crs": crs, "transform": Affine(side, 0, 0, 0, -side, side * height)}
    options = SceneOptions(
        bands=(1, 2, 3) if nir is None else (1, 2, 3, 4), collar="off", nodata="none" if valid is None else None
    )  # fmt: skip
    with MemoryFile() as file:
        profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": "uint8", **place}
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"), file.open(photometric="rgb", **profile) as dataset:
            dataset.write(bands)
            if valid is not None:
                dataset.write_mask(valid)
        with Scene.open(file.name, options) as scene:
            yield scene


def _bands(rgb: NDArray[Any], nir: NDArray[Any] | None) -> NDArray[np.uint8]:
    """Stack the colour bands, and near infrared if it is given, into one array: uint8 (3 or 4, height, width)."""
    rgb = np.asarray(rgb)
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or 3 not in (rgb.shape[0], rgb.shape[2]) or not rgb.size:
        raise SceneError(f"rgb is {rgb.dtype} {rgb.shape}; give uint8 (3, height, width) or (height, width, 3)")
    bands = rgb if rgb.shape[0] == 3 else rgb.transpose(2, 0, 1)
    if nir is None:
        return bands
    nir = np.asarray(nir)
    if nir.dtype != np.uint8 or nir.shape != bands.shape[1:]:
        raise SceneError(f"nir is {nir.dtype} {nir.shape}; give uint8 {bands.shape[1:]}, as rgb has them")
    return np.concatenate([bands, nir[None]])
