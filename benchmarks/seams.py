"""Do window borders show? `python benchmarks/seams.py [--model FILE] [--side 4000] [--seeds 1 2 3]`.

Two figures: the mean step of the probability from one pixel to the next across window borders over that elsewhere, and
the 99th percentile of the difference between two cuts of one scene into windows. A border is a few lines of pixels,
and what lies there sways the first figure: beside it stands what the other cut, which has no border there, gives on
the same lines.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import rasterio

from floodmap.grid import Grid
from floodmap.models import resolve
from floodmap.pipeline import SegmentOptions, segment_scene
from floodmap.segmenter import FloodSegmenter, SamSegmenter, load_segmenter
from floodmap.synthetic import write_sample

CUTS = ((1024, 64), (768, 96))
"""Tile size and overlap of the two."""


def probability(
    scene: Path, out: Path, segmenter: FloodSegmenter | SamSegmenter, cut: tuple[int, int], prompts: str
) -> np.ndarray:
    """Probability float32 (height, width), 0 to 1, NaN where unobserved."""
    options = SegmentOptions(tile_size=cut[0], overlap=cut[1], prompts=prompts)
    result = segment_scene(scene, out / f"{cut[0]}", segmenter, options)
    with rasterio.open(result.probability) as dataset:
        percent = dataset.read(1).astype(np.float32)
    return np.where(percent == 255, np.nan, percent / 100)


def borders(shape_hw: tuple[int, int], cut: tuple[int, int]) -> tuple[set[int], set[int]]:
    """Rows and columns after which a window begins or ends, along either axis."""
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
    parser.add_argument("--prompts", default="auto", choices=["auto", "none"])
    options = parser.parse_args()
    segmenter = load_segmenter(resolve(options.model))
    print(f"{'seed':>5} {'border / elsewhere':>19} {'without borders':>16} {'p99 of difference':>18}")
    totals = np.zeros((2, 2, 2))
    differences = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            scene, _ = write_sample(work / "scene.tif", width=options.side, height=options.side, seed=seed)
            first, second = (probability(scene, work, segmenter, cut, options.prompts) for cut in CUTS)
        own, other = (borders(first.shape, cut) for cut in CUTS)
        lines = (apart(own[0], other[0]), apart(own[1], other[1]))
        counted = np.array([steps(first, lines), steps(second, lines)])
        totals += counted
        differences.append(float(np.nanpercentile(np.abs(first - second), 99)))
        print(f"{seed:>5} {row(counted)} {differences[-1]:>18.3f}")
    print(f"{'all':>5} {row(totals)} {np.mean(differences):>18.3f}")


def apart(lines: set[int], others: set[int]) -> set[int]:
    """Lines with none of the others within 8 pixels."""
    return {line for line in lines if all(abs(line - other) > 8 for other in others)}


def row(counted: np.ndarray) -> str:
    """Steps across borders over steps elsewhere: of the cut that has them, and of the other. From (2, 2, 2) counts."""
    means = counted[:, 0] / counted[:, 1]
    return f"{means[0, 0] / means[0, 1]:>19.3f} {means[1, 0] / means[1, 1]:>16.3f}"


if __name__ == "__main__":
    main()
