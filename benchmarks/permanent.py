"""Bank of a lake that is left as flood: `python benchmarks/permanent.py [SCENE]`, by default the sample scene.

The largest water of the scene is taken as a lake. A reference of 30 m is made of it as a raster of the occurrence of
water, with pixels that do not line up with the lake (`SHIFT_M`). The scene is segmented without a reference, with the
reference by object (the default), and with it by pixel (`--permanent-rim 0`). Printed are the sums of the classes, and
the share of the lake's bank, its outer 30 m, that is still flood.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import geopandas
import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.features import rasterize
from rasterio.warp import reproject
from scipy.ndimage import distance_transform_edt

from floodmap.models.loading import load_segmenter
from floodmap.models.registry import resolve
from floodmap.options import SegmentOptions
from floodmap.output.results import FloodMap
from floodmap.pipeline import segment_scene

SAMPLE = Path(__file__).parent.parent / "sample_tiles" / "village.tif"
PIXEL_M, SHIFT_M = 30.0, 11.0


def lake_of(result: FloodMap) -> NDArray[np.bool_]:
    """The largest flood polygon of a result, bool (height, width)."""
    flood = geopandas.read_file(result.layer_paths[0], layer="flood")
    shape = flood.geometry[flood["area_m2"].idxmax()]
    with rasterio.open(result.mask_path) as dataset:
        return rasterize([(shape, 1)], dataset.shape, transform=dataset.transform, dtype="uint8").astype(bool)


def write_occurrence(lake: NDArray[np.bool_], scene: Path, path: Path) -> None:
    """Write the share of the lake in pixels of 30 m, in per cent."""
    with rasterio.open(scene) as dataset:
        crs, transform, bounds = dataset.crs, dataset.transform, dataset.bounds
    columns, rows = (int(side // PIXEL_M) + 2 for side in (bounds.right - bounds.left, bounds.top - bounds.bottom))
    coarse = Affine(PIXEL_M, 0, bounds.left - SHIFT_M, 0, -PIXEL_M, bounds.top + SHIFT_M)
    share = np.zeros((rows, columns), np.float32)
    reproject(
        lake.astype(np.float32) * 100, share, src_transform=transform, src_crs=crs, dst_transform=coarse, dst_crs=crs,
        resampling=Resampling.average,
    )  # fmt: skip
    with rasterio.open(
        path, "w", driver="GTiff", width=columns, height=rows, count=1, dtype="uint8", crs=crs, transform=coarse
    ) as dataset:
        dataset.write(share.round().astype(np.uint8), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scene", type=Path, nargs="?", default=SAMPLE)
    scene = parser.parse_args().scene
    model = load_segmenter(resolve("finetuned"), "cpu")
    with tempfile.TemporaryDirectory() as folder:
        plain = segment_scene(scene, Path(folder) / "plain", model, SegmentOptions(batch_size=4))
        lake, reference = lake_of(plain), Path(folder) / "occurrence.tif"
        write_occurrence(lake, scene, reference)
        with rasterio.open(scene) as dataset:
            depth_m = distance_transform_edt(np.pad(lake, 1))[1:-1, 1:-1] * abs(dataset.transform.a)
        bank = lake & (depth_m <= PIXEL_M)
        for name, rim in (("by object", None), ("by pixel", 0.0)):
            options = SegmentOptions(batch_size=4, permanent_water=str(reference), permanent_rim_m=rim)
            result = segment_scene(scene, Path(folder) / name, model, options)
            pixels = result.report["pixels"]
            unobserved = pixels["unobserved"]
            total = sum(pixels[key] for key in ("flood", "permanent_water", "dry", "outside"))
            total += sum(unobserved.values()) if isinstance(unobserved, dict) else unobserved
            left = float((result.mask()[bank] == 1).mean())
            print(f"{name}: {left:.2%} of the bank is flood; classes add up to the scene: {total == lake.size}")


if __name__ == "__main__":
    main()
