"""Rasters made for the tests: one factory, with a keyword for every property in which a scene can be unusual."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning

UTM = "EPSG:32633"
NORTH_UP = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
ROTATED = Affine.translation(500_000, 5_000_000) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5)
SOUTH_UP = Affine(0.5, 0, 500_000, 0, 0.5, 5_000_000)
GEOGRAPHIC = Affine(1e-5, 0, 11.0, 0, -1e-5, 47.0)

SceneFactory = Callable[..., Path]

HANGS = 900
"""Seconds after which a process is taken to hang, however busy the machine is."""


def picture(bands: int, shape_hw: tuple[int, int], dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    """A smooth, colourful picture (bands, height, width): values 40 to 200, times 100 for types beyond 8 bits."""
    rng = np.random.default_rng(seed)
    rows, cols = np.indices(shape_hw)
    phase = rng.uniform(0, 6, bands)[:, None, None]
    wave = np.sin(rows / 9 + phase) * np.cos(cols / 11 + 2 * phase)
    values = np.clip(120 + 60 * wave + rng.normal(0, 5, (bands, *shape_hw)), 40, 200)
    return (values if dtype == "uint8" else values * 100).astype(dtype)


@pytest.fixture
def make_scene(tmp_path: Path) -> SceneFactory:
    """Write a raster into the folder of the test, and return its path; see `scene_factory`."""
    return scene_factory(tmp_path)


def scene_factory(base: Path) -> SceneFactory:
    """Return a function that writes a raster into a folder, and returns its path.

    Keywords: `shape_hw`, `bands`, `dtype`; `pixels` (bands, height, width) in place of the fabricated picture; `crs`
    and `transform` (None for none); `nodata`; `alpha`: an array (height, width) put after the bands; `mask`: an
    internal mask, True where valid; `colormap`; `colorinterp`; `descriptions`; `gcps`: ground control points, as (row,
    col, x, y); `tags`; `overviews`: factors; `name`; `driver`; `folder`; anything else is a creation option.
    """

    def make(
        *,
        shape_hw: tuple[int, int] = (48, 64),
        bands: int = 3,
        dtype: str = "uint8",
        pixels: np.ndarray | None = None,
        crs: Any = UTM,
        transform: Affine | None = NORTH_UP,
        nodata: float | None = None,
        alpha: np.ndarray | None = None,
        mask: np.ndarray | None = None,
        colormap: dict[int, tuple[int, ...]] | None = None,
        colorinterp: Sequence[ColorInterp] | None = None,
        descriptions: Sequence[str] | None = None,
        gcps: Sequence[tuple[float, float, float, float]] | None = None,
        tags: dict[str, str] | None = None,
        overviews: Sequence[int] = (),
        name: str = "scene.tif",
        driver: str | None = None,
        folder: Path | None = None,
        **creation: Any,
    ) -> Path:
        pixels = picture(bands, shape_hw, dtype) if pixels is None else pixels
        if alpha is not None:
            pixels = np.concatenate([pixels, alpha[None].astype(pixels.dtype)])
        bands, height, width = pixels.shape
        if bands == 4 and alpha is None and pixels.dtype == np.uint8 and name.endswith(".tif"):
            # GDAL would mark the fourth 8-bit band as alpha.
            creation = {"photometric": "RGB", "alpha": "NO", **creation}
        place: dict[str, Any] = {"crs": crs} if gcps is None else {}
        if gcps is None and transform is not None:
            place["transform"] = transform
        path = (folder or base) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES", GDAL_PAM_ENABLED="NO"), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(
                path, "w", driver=driver, width=width, height=height, count=bands, dtype=pixels.dtype, nodata=nodata,
                **place, **creation,
            ) as dataset:  # fmt: skip
                if colormap is not None:
                    dataset.write_colormap(1, colormap)
                if gcps is not None:
                    dataset.gcps = [GroundControlPoint(row=r, col=c, x=x, y=y) for r, c, x, y in gcps], crs
                if colorinterp is not None:
                    dataset.colorinterp = colorinterp
                elif alpha is not None:
                    dataset.colorinterp = [*dataset.colorinterp[:-1], ColorInterp.alpha]
                for band, text in enumerate(descriptions or (), 1):
                    dataset.set_band_description(band, text)
                dataset.update_tags(**(tags or {}))
                dataset.write(pixels)
                if mask is not None:
                    dataset.write_mask(mask)
            if overviews:
                with rasterio.open(path, "r+") as dataset:
                    dataset.build_overviews(list(overviews), Resampling.average)
        return path

    return make
