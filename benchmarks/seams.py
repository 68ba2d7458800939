"""Steps at window borders: `python benchmarks/seams.py [--model FILE] [--side 4000] [--seeds 1 2 3] [--scene FILE]`.

Two figures, for two tilings of a scene into windows. First, the ratio of the mean step of the probability between
neighbouring pixels across window borders to that elsewhere. Second, the 99th percentile of the difference between the
two tilings. Borders are a few lines of pixels, so the ground there affects the first figure. Beside it stands the same
ratio on the same lines in the other tiling, which has no border there. On a scene of 20,000 pixels a side there are
enough lines to average most of that effect out.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

from floodmap.inference.tiling import Grid
from floodmap.models.flood_segmenter import FloodSegmenter
from floodmap.models.loading import load_segmenter
from floodmap.models.registry import resolve
from floodmap.models.sam_segmenter import SamSegmenter
from floodmap.options import SegmentOptions
from floodmap.pipeline import segment_scene
from floodmap.synthetic.sample import write_sample

CUTS = ((1024, 24), (768, 96))
"""Tile size and overlap of the two tilings, in pixels."""
ROWS = 2000
"""Rows compared at a time."""


@dataclass(frozen=True)
class Counts:
    """Sums over two tilings of a scene."""

    steps: np.ndarray
    """float (2, 2, 2): tiling with the borders, the other; sums, counts of steps; across borders, elsewhere."""
    differences: np.ndarray
    """int (101,): number of pixels by difference in per cent."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.steps + other.steps, self.differences + other.differences)

    def __str__(self) -> str:
        means = self.steps[:, 0] / self.steps[:, 1]
        below = np.cumsum(self.differences) / self.differences.sum()
        p99 = np.searchsorted(below, 0.99) / 100
        return f"{means[0, 0] / means[0, 1]:>19.3f} {means[1, 0] / means[1, 1]:>16.3f} {p99:>18.2f}"


def probability(
    scene: Path, out: Path, segmenter: FloodSegmenter | SamSegmenter, cut: tuple[int, int], prompts: str
) -> Path:
    """Segment a scene with a tiling; returns the path of its probability raster."""
    options = SegmentOptions(tile_size=cut[0], overlap=cut[1], prompts=prompts)
    return segment_scene(scene, out / f"{cut[0]}", segmenter, options).probability_path


def counts(first: Path, second: Path) -> Counts:
    """Compare the probability rasters of two tilings, `ROWS` rows at a time."""
    with rasterio.open(first) as one, rasterio.open(second) as two:
        own, other = (borders(one.shape, cut) for cut in CUTS)
        lines = [[apart(a, b) for a, b in zip(*pair, strict=True)] for pair in ((own, other), (other, own))]
        total = Counts(np.zeros((2, 2, 2)), np.zeros(101, np.int64))
        for top in range(0, one.height - 1, ROWS):
            window = Window(0, top, one.width, min(ROWS + 1, one.height - top))
            percents = [dataset.read(1, window=window) for dataset in (one, two)]
            values = [np.where(percent == 255, np.nan, percent / np.float32(100)) for percent in percents]
            difference = np.abs(percents[0].astype(int) - percents[1])[(percents[0] < 255) & (percents[1] < 255)]
            histogram = np.bincount(difference, minlength=101)
            total += Counts(np.zeros((2, 2, 2)), histogram)
            for (rows, columns), cut in zip(lines, (values, values[::-1]), strict=True):
                here = ({row - top for row in rows if top <= row < top + ROWS}, columns)
                total += Counts(np.array([steps(part, here) for part in cut]), np.zeros(101, np.int64))
    return total


def borders(shape_hw: tuple[int, int], cut: tuple[int, int]) -> tuple[set[int], set[int]]:
    """Rows and columns after which a window begins or ends."""
    grid = Grid(height=shape_hw[0], width=shape_hw[1], tile_size=cut[0], overlap=cut[1])

    def lines(offsets: tuple[int, ...], side: int, length: int) -> set[int]:
        return {edge - 1 for offset in offsets for edge in (offset, offset + side) if 0 < edge < length}

    height, width = grid.shape_hw
    return lines(grid.row_offsets, height, shape_hw[0]), lines(grid.col_offsets, width, shape_hw[1])


def steps(values: np.ndarray, lines: tuple[set[int], set[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts of the steps of the probability across these lines, and across all others: (2,) each."""
    sums, counts = np.zeros(2), np.zeros(2)
    for axis in (0, 1):
        change = np.abs(np.diff(values, axis=axis))
        others = np.isin(np.arange(change.shape[axis]), list(lines[axis]), invert=True).astype(int)
        np.add.at(sums, others, np.nansum(change, axis=1 - axis))
        np.add.at(counts, others, np.isfinite(change).sum(axis=1 - axis))
    return sums, counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="finetuned")
    parser.add_argument("--side", type=int, default=4000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6])
    parser.add_argument("--scene", type=Path, help="a scene instead of synthetic ones")
    parser.add_argument("--prompts", default="auto", choices=["auto", "none"])
    options = parser.parse_args()
    segmenter = load_segmenter(resolve(options.model))
    print(f"{'seed':>5} {'border / elsewhere':>19} {'without borders':>16} {'p99 of difference':>18}")
    total = None
    for seed in [0] if options.scene else options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            scene = options.scene or Path(folder) / "scene.tif"
            if not options.scene:
                write_sample(scene, width=options.side, height=options.side, seed=seed)
            cuts = [probability(scene, Path(folder), segmenter, cut, options.prompts) for cut in CUTS]
            found = counts(*cuts)
        total = found if total is None else total + found
        print(f"{'' if options.scene else seed:>5} {found}", flush=True)
    print(f"{'all':>5} {total}")


def apart(lines: set[int], others: set[int]) -> set[int]:
    """Lines with none of the others within 8 pixels."""
    return {line for line in lines if all(abs(line - other) > 8 for other in others)}


if __name__ == "__main__":
    main()
