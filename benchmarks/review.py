"""Error that a review removes: `python benchmarks/review.py DATA [--scenes 10] [--tiles whole]`.

DATA is the folder described in docs/model-card.md. Scenes of 5,000 x 5,000 pixels are put together from tiles of val
pictures (flood-area, dubai-water tile 5, nadir without the sources that are kept for the end). Each scene is segmented,
`floodmap.review` lists its places, and the first 10 are compared with the reference. Looking at a place is taken to
correct all of it. Error is false flood and missed flood, in pixels. A place is at most 1 % of the scene, which is
checked. Printed, as shares of the error of the scene:

- what the first 10 places of the list hold; and the same if the ground that has no reference (255, such as wet sand)
  were unobserved. Otherwise places are spent there that cannot remove any error;
- 10 places in random order: of the same size, on the same grid, without overlap, mean of `DRAWS` draws;
- the 10 best places if the errors were known (an oracle, chosen as the list is): no list can do much better.

Tiles (`--tiles`): `whole`, the default, lays whole pictures side by side, at their own size, in rows of equal height.
The ground of a real scene hangs together over hundreds of metres, and so do errors. `500` cuts squares of 500 pixels
out of the pictures, and enlarges small ones. A scene then is a hundred unrelated, often blurred grounds, each as large
as a place: harder than real scenes. The layout and the ranking were chosen on seeds from 100 on, of the same pictures.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import rasterio
from accuracy import Picture, dubai, flood_area, nadir
from affine import Affine
from numpy.typing import NDArray
from PIL import Image

from floodmap.analysis.review.ranking import PLACE_SHARE, STEPS, ErrorCells, cell_side, expected_errors, ranked
from floodmap.analysis.review.run import review
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.window import Window
from floodmap.models.loading import load_segmenter
from floodmap.models.protocol import Segmenter
from floodmap.models.registry import resolve
from floodmap.options import SegmentOptions
from floodmap.pipeline import segment_scene

SIDE, TILE = 5000, 500
GSD_M = 0.3
LOOKS = 10
"""Number of places that a person looks at."""
DRAWS = 100
"""Number of random orders."""

Codes = NDArray[np.uint8]
Bools = NDArray[np.bool_]
Tile = tuple[Window, Codes, Codes]
"""Where the tile lies in the scene, its RGB (3, height, width) and its mask (255: not scored)."""


def squares(pictures: Sequence[Picture], rng: np.random.Generator) -> Iterator[Tile]:
    """Random squares of `TILE` pixels of random pictures; small pictures are enlarged."""
    for row in range(0, SIDE, TILE):
        for col in range(0, SIDE, TILE):
            one = pictures[int(rng.integers(len(pictures)))]
            rgb, mask = Image.open(one.path).convert("RGB"), Image.fromarray(one.mask)
            factor = max(1.0, TILE / min(rgb.size))
            size = tuple(max(TILE, round(length * factor)) for length in rgb.size)
            left, top = (int(rng.integers(length - TILE + 1)) for length in size)
            box = (left, top, left + TILE, top + TILE)
            pixels = np.asarray(rgb.resize(size, Image.Resampling.BILINEAR).crop(box)).transpose(2, 0, 1)
            labels = np.asarray(mask.resize(size, Image.Resampling.NEAREST).crop(box))
            yield Window(row, col, TILE, TILE), pixels, labels


def whole_pictures(pictures: Sequence[Picture], rng: np.random.Generator) -> Iterator[Tile]:
    """Pictures at their own size in rows: the first one gives the height, and others are at least as high and are cut.

    The last picture of a row is cut at the right, and those of the last row at the bottom.
    """
    row = 0
    while row < SIDE:
        one, col = pictures[int(rng.integers(len(pictures)))], 0
        height = min(one.mask.shape[0], SIDE - row)
        high = [picture for picture in pictures if picture.mask.shape[0] >= height]
        while col < SIDE:
            width = min(one.mask.shape[1], SIDE - col)
            top, left = (int(rng.integers(more + 1)) for more in np.subtract(one.mask.shape, (height, width)))
            part = np.s_[top : top + height, left : left + width]
            rgb = np.asarray(Image.open(one.path).convert("RGB"))[part].transpose(2, 0, 1)
            yield Window(row, col, height, width), rgb, one.mask[part]
            one, col = high[int(rng.integers(len(high)))], col + width
        row += height


LAYOUTS = {"whole": whole_pictures, "500": squares}


def write_scene(path: Path, tiles: Iterator[Tile]) -> Codes:
    """Write a scene of tiles, and return its mask."""
    mask = np.full((SIDE, SIDE), 255, np.uint8)
    profile = {"driver": "GTiff", "count": 3, "height": SIDE, "width": SIDE, "dtype": "uint8", "tiled": True}
    with rasterio.open(
        path, "w", crs="EPSG:32616", transform=Affine(GSD_M, 0, 500_000, 0, -GSD_M, 4_000_000), **profile
    ) as dataset:
        for window, rgb, labels in tiles:
            dataset.write(rgb, window=window.to_rasterio())
            mask[window.slices] = labels
    return mask


def removed(wrong: Bools, places: Sequence[Window]) -> float:
    """Share of the error that lies in places."""
    return sum(int(wrong[place.slices].sum()) for place in places) / max(int(wrong.sum()), 1)


def random_places(rng: np.random.Generator) -> list[Window]:
    """Places of the size and on the grid of those of a review, which do not overlap."""
    side, free, places = cell_side((SIDE, SIDE)), np.ones((SIDE, SIDE), bool), list[Window]()
    length = side * STEPS
    while len(places) < LOOKS:
        row, col = (int(rng.integers((SIDE - length) // side + 1)) * side for _ in range(2))
        place = Window(row, col, length, length)
        if free[place.slices].all():
            free[place.slices] = False
            places.append(place)
    return places


def best_places(errors: NDArray[np.float64] | Bools) -> list[Window]:
    """The places that are chosen by the sums of `errors`, (SIDE, SIDE)."""
    side = cell_side((SIDE, SIDE))
    starts = np.arange(0, SIDE, side)
    sums = np.add.reduceat(np.add.reduceat(errors.astype(float), starts, axis=0), starts, axis=1)
    return [place.window for place in ranked(ErrorCells(sums, side), (SIDE, SIDE), count=LOOKS)]


def score(scene: Path, mask: Codes, model: Segmenter, draws: Sequence[Sequence[Window]]) -> list[float]:
    """Shares: wrong pixels of the scored ones; error removed by the list, with unscored ground out, at random, best."""
    options = SegmentOptions(min_area_m2=0, simplify_m=0, overwrite=True)
    result = segment_scene(scene, scene.parent / "out", model, options)
    listed = [place.window for place in review(result, overwrite=True).places[:LOOKS]]
    if any(place.height * place.width > PLACE_SHARE * SIDE * SIDE for place in listed):
        raise ValueError("a place is larger than 1 % of the scene")
    with rasterio.open(result.probability_path) as dataset:
        codes, grid = dataset.read(1), GeoGrid.of(dataset)
    scored = (mask <= 1) & (codes <= 100)
    wrong = ((codes >= 50) != (mask == 1)) & scored
    hidden = iter([(0, np.where(scored, codes, np.uint8(255)))])
    cells = expected_errors(hidden, grid, threshold=50, side=cell_side(grid.shape_hw))
    of_scored = [place.window for place in ranked(cells, grid.shape_hw, count=LOOKS)]
    at_random = float(np.mean([removed(wrong, places) for places in draws]))
    chosen = (listed, of_scored, best_places(wrong))
    one, other, best = (removed(wrong, places) for places in chosen)
    return [float(wrong.sum() / scored.sum()), one, other, at_random, best]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--scenes", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="seed of the first scene")
    parser.add_argument("--tiles", choices=list(LAYOUTS), default="whole")
    parser.add_argument("--model", default="finetuned")
    options = parser.parse_args()
    model = load_segmenter(resolve(options.model), "cpu")
    pictures = [*flood_area(options.data), *dubai(options.data), *nadir(options.data, final=False)]
    draws = [random_places(np.random.default_rng(seed)) for seed in range(DRAWS)]
    rows = []
    print(f"{'scene':>5} {'wrong':>6} {'list':>6} {'scored':>6} {'random':>6} {'best':>6}")
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.first, options.first + options.scenes):
            scene = Path(folder) / "scene.tif"
            mask = write_scene(scene, LAYOUTS[options.tiles](pictures, np.random.default_rng(seed)))
            rows.append(score(scene, mask, model, draws))
            print(f"{seed:>5} " + " ".join(f"{share:>6.1%}" for share in rows[-1]), flush=True)
    print(f"{'mean':>5} " + " ".join(f"{share:>6.1%}" for share in np.mean(rows, axis=0)))


if __name__ == "__main__":
    main()
