"""Overviews are used where they agree with the pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import SceneFactory
from rasterio.enums import ColorInterp, Resampling
from scipy import ndimage

from floodmap.geo.window import Window
from floodmap.imagery.scene import Scene
from floodmap.options import SceneOptions

HW = (512, 640)


def ground(seed: int, dtype: str = "uint8") -> np.ndarray:
    """Fields, texture and hard edges, (3, height, width)."""
    rng = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(rng.normal(size=(3, *HW)), (0, 30, 30))
    fields = fields / fields.std() * 35 + 110
    houses = ndimage.gaussian_filter(rng.normal(size=HW), 3) > 0.15
    values = fields + rng.normal(0, 12, (3, *HW)) + 60 * houses
    return (np.clip(values, 5, 250) * (1 if dtype == "uint8" else 40)).astype(dtype)


def with_overviews(path: Path, how: Resampling = Resampling.average, factors: tuple[int, ...] = (2, 4, 8)) -> Path:
    """Write external overviews, as gdaladdo -ro does."""
    with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(path, "r+") as dataset:
        dataset.build_overviews(list(factors), how)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", [Resampling.average, Resampling.nearest, Resampling.cubic, Resampling.bilinear, Resampling.lanczos,
            Resampling.gauss, Resampling.mode, Resampling.rms],
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_overviews_of_the_picture_are_used_however_they_were_made(
    how: Resampling, dtype: str, make_scene: SceneFactory
) -> None:
    path = with_overviews(make_scene(pixels=ground(0, dtype), tiled=True, blockxsize=256, blockysize=256), how)
    with Scene.open(path) as scene:
        assert not scene.remarks and scene._reader.has_overviews


@pytest.mark.slow
def test_overviews_with_nodata_alpha_a_mask_or_loss_are_used(make_scene: SceneFactory) -> None:
    hole = np.zeros(HW, bool)
    hole[100:300, 200:450] = True
    pixels = ground(1)
    black = np.where(hole, np.uint8(0), pixels)
    jpeg = {"compress": "jpeg", "photometric": "ycbcr", "tiled": True, "blockxsize": 256, "blockysize": 256}
    kinds = (
        {"pixels": black, "nodata": 0}, {"pixels": black, "alpha": np.where(hole, 0, 255)},
        {"pixels": black, "mask": ~hole}, {"pixels": pixels, **jpeg},
    )  # fmt: skip
    for number, keywords in enumerate(kinds):
        path = with_overviews(make_scene(name=f"{number}.tif", **keywords), Resampling.average)
        with Scene.open(path) as scene:
            assert not scene.remarks, keywords.keys()


def stale(make_scene: SceneFactory, kind: str, tmp_path: Path) -> Path:
    """A scene beside which lie overviews of an earlier picture."""
    keywords = {"tiled": True, "blockxsize": 256, "blockysize": 256}
    dtype = "uint16" if kind == "uint16" else "uint8"
    before, after = ground(2, dtype), ground(3, dtype)
    if kind == "part":  # new pixels in a part of the old picture
        after = before.copy()
        after[:, 150:350, 250:450] = ground(4)[:, 150:350, 250:450]
    if kind == "brighter":
        after = np.clip(before * 1.25, 0, 255).astype("uint8")
    if kind == "flooded":
        after = np.where(ground(5)[:1] > 130, before, np.array([70, 90, 110], "uint8")[:, None, None])
    path = make_scene(pixels=before, name="s.tif", **keywords)
    if kind == "internal":
        with_internal(path, after)
        return path
    with_overviews(path)
    overviews = path.with_name("s.tif.ovr").read_bytes()
    make_scene(pixels=after, name="s.tif", **keywords)
    path.with_name("s.tif.ovr").write_bytes(overviews)
    if kind == "vrt":
        mosaic = tmp_path / "s.vrt"
        rasterio.shutil.copy(path, mosaic, driver="VRT")
        return mosaic
    return path


def with_internal(path: Path, after: np.ndarray) -> None:
    """Overviews inside the file, and then new pixels under them."""
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4, 8], Resampling.average)
    with rasterio.open(path, "r+") as dataset:
        dataset.write(after)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["uint8", "uint16", "internal", "vrt", "part", "brighter", "flooded"])
def test_overviews_of_another_picture_are_not_used_and_a_line_says_so(
    kind: str, make_scene: SceneFactory, tmp_path: Path
) -> None:
    path = stale(make_scene, kind, tmp_path)
    with Scene.open(path) as scene:
        assert len(scene.remarks) == 1 and "overviews" in scene.remarks[0] and "gdaladdo" in scene.remarks[0]
        for factor in (2, 4, 8):
            small = scene.shrunk(Window(0, 0, HW[0] // factor, HW[1] // factor), factor)
            full = scene.read(Window(0, 0, *HW)).rgb.astype(float)
            means = full.reshape(3, HW[0] // factor, factor, HW[1] // factor, factor).mean(axis=(2, 4))
            far = np.abs(small.rgb - means)  # beyond 8 bits values are stretched, and cut, after they are averaged
            assert (far.mean() < 2) if kind == "uint16" else (far.max() <= 1)
        assert np.abs(scene.preview(100).rgb.mean(axis=(1, 2)) - full.mean(axis=(1, 2))).max() < 2


@pytest.mark.slow
def test_what_is_no_alpha_is_left_out_of_means(make_scene: SceneFactory) -> None:
    pixels = ground(6)
    infrared = ground(7)[0]
    infrared[100:300] = 0  # deep water; GDAL's means would leave it out, for it takes the band for alpha
    path = make_scene(pixels=pixels, alpha=infrared, name="s.tif")
    with rasterio.open(path) as dataset:
        assert dataset.colorinterp[3] == ColorInterp.alpha
    with Scene.open(path, SceneOptions(collar="off")) as scene:
        small = scene.preview(80).rgb
    assert np.abs(small - pixels.reshape(3, 64, 8, 80, 8).mean(axis=(2, 4))).max() <= 1
