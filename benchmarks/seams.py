"""Do window borders show? `python benchmarks/seams.py [--model FILE] [--side 4000] [--seeds 1 2 3]`.

Two figures: the mean step of the probability from one pixel to the next across window borders over that elsewhere, and
the 99th percentile of the difference between two cuts of one scene into windows.
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


def border_ratio(values: np.ndarray, cut: tuple[int, int]) -> float:
    """Mean step across window borders over the mean step elsewhere, both directions together."""
    height, width = values.shape
    grid = Grid(height=height, width=width, tile_size=cut[0], overlap=cut[1])
    on: list[np.ndarray] = []
    off: list[np.ndarray] = []
    for axis, offsets, side in ((0, grid.row_offsets, grid.shape_hw[0]), (1, grid.col_offsets, grid.shape_hw[1])):
        steps = np.nanmean(np.abs(np.diff(values, axis=axis)), axis=1 - axis)
        borders = {edge - 1 for offset in offsets for edge in (offset, offset + side) if 0 < edge < values.shape[axis]}
        chosen = np.isin(np.arange(len(steps)), list(borders))
        on.append(steps[chosen])
        off.append(steps[~chosen])
    return float(np.nanmean(np.concatenate(on)) / np.nanmean(np.concatenate(off)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="finetuned")
    parser.add_argument("--side", type=int, default=4000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--prompts", default="auto", choices=["auto", "none"])
    options = parser.parse_args()
    segmenter = load_segmenter(resolve(options.model))
    print(f"{'seed':>5} {'border / elsewhere':>19} {'p99 of difference':>18}")
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            scene, _ = write_sample(work / "scene.tif", width=options.side, height=options.side, seed=seed)
            first, second = (probability(scene, work, segmenter, cut, options.prompts) for cut in CUTS)
        ratio = border_ratio(first, CUTS[0])
        difference = np.nanpercentile(np.abs(first - second), 99)
        print(f"{seed:>5} {ratio:>19.3f} {difference:>18.3f}")


if __name__ == "__main__":
    main()
