"""Error that a review removes: `python benchmarks/review.py DATA [--scenes 10]`.

DATA is the folder described in docs/model-card.md. Scenes of 5,000 x 5,000 pixels are put together from tiles of val
pictures (flood-area, dubai-water tile 5, nadir). Each is segmented, and the places of `floodmap review` are compared
with the reference: a person who looks at a place is assumed to correct all of it. Printed is the share of the error
(false flood and missed flood, in pixels) in the first 10 places; and for 10 places at random.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import rasterio
from accuracy import Picture, dubai, flood_area, nadir
from affine import Affine
from numpy.typing import NDArray
from PIL import Image

from floodmap.analysis.review.ranking import cell_side, expected_errors, ranked
from floodmap.geo.geogrid import GeoGrid
from floodmap.models.loading import load_segmenter
from floodmap.models.registry import resolve
from floodmap.options import SegmentOptions
from floodmap.pipeline import segment_scene

SIDE, TILE = 5000, 500
GSD_M = 0.3
LOOKS = 10
"""Number of places that a person looks at."""


def tiles(pictures: list[Picture], rng: np.random.Generator) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Random squares of `TILE` pixels of the pictures, RGB and mask (255: not scored); small pictures are enlarged."""
    while True:
        one = pictures[int(rng.integers(len(pictures)))]
        rgb, mask = Image.open(one.path).convert("RGB"), Image.fromarray(one.mask)
        factor = max(1.0, TILE / min(rgb.size))
        size = tuple(max(TILE, round(length * factor)) for length in rgb.size)
        left, top = (int(rng.integers(length - TILE + 1)) for length in size)
        box = (left, top, left + TILE, top + TILE)
        yield (
            np.asarray(rgb.resize(size, Image.Resampling.BILINEAR).crop(box)).transpose(2, 0, 1),
            np.asarray(mask.resize(size, Image.Resampling.NEAREST).crop(box)),
        )


def write_scene(path: Path, pictures: list[Picture], seed: int) -> NDArray[np.uint8]:
    """Write a scene of tiles, and return its mask."""
    rng = np.random.default_rng(seed)
    source, mask = tiles(pictures, rng), np.zeros((SIDE, SIDE), np.uint8)
    profile = {"driver": "GTiff", "count": 3, "height": SIDE, "width": SIDE, "dtype": "uint8", "tiled": True}
    with rasterio.open(
        path, "w", crs="EPSG:32616", transform=Affine(GSD_M, 0, 500_000, 0, -GSD_M, 4_000_000), **profile
    ) as dataset:
        for row in range(0, SIDE, TILE):
            for col in range(0, SIDE, TILE):
                rgb, labels = next(source)
                dataset.write(rgb, window=rasterio.windows.Window(col, row, TILE, TILE))
                mask[row : row + TILE, col : col + TILE] = labels
    return mask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--scenes", type=int, default=10)
    parser.add_argument("--model", default="finetuned")
    options = parser.parse_args()
    model = load_segmenter(resolve(options.model), "cpu")
    pictures = [*flood_area(options.data), *dubai(options.data), *nadir(options.data, final=False)]
    removed, at_random = [], []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.scenes):
            scene = Path(folder) / f"s{seed}.tif"
            mask = write_scene(scene, pictures, seed)
            result = segment_scene(scene, Path(folder) / "out", model, SegmentOptions(min_area_m2=0, simplify_m=0))
            with rasterio.open(result.probability_path) as dataset:
                codes, grid = dataset.read(1), GeoGrid.of(dataset)
            wrong = ((codes >= 50) & (codes <= 100)) != (mask == 1)
            wrong &= (mask <= 1) & (codes <= 100)
            cells = expected_errors(iter([(0, codes)]), grid, threshold=50, side=cell_side(grid.shape_hw))
            places = ranked(cells, grid.shape_hw, count=LOOKS)
            found = sum(int(wrong[place.window.slices].sum()) for place in places)
            area = sum(place.window.height * place.window.width for place in places) / wrong.size
            removed.append(found / max(int(wrong.sum()), 1))
            at_random.append(area)
            print(f"scene {seed}: {wrong.mean():.2%} wrong, {LOOKS} places ({area:.1%}) remove {removed[-1]:.1%}")
    print(f"mean: {np.mean(removed):.1%} of the error; at random {np.mean(at_random):.1%} (their share of the area)")


if __name__ == "__main__":
    main()
