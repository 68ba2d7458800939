"""IoU lost where the coarse pass is certain and windows are skipped: `python benchmarks/skipped_by_coarse.py DATA`.

Labelled pictures kept out of training are segmented in full and by the rule that large scenes are segmented by.
"""

from __future__ import annotations

import argparse
import csv
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rasterio.errors import NotGeoreferencedWarning

from floodmap.imagery.scene import Scene
from floodmap.inference import parts
from floodmap.inference.loop import segment_whole
from floodmap.inference.prompting import far_view
from floodmap.inference.proof import Proof
from floodmap.inference.selection import Selection
from floodmap.inference.tiling import Grid
from floodmap.models.loading import load_segmenter
from floodmap.models.registry import resolve
from floodmap.synthetic.sample import write_sample
from floodmap.synthetic.scene import SyntheticScene
from floodmap.training.samples import read_mask


def pictures(data: Path, folder: Path) -> Iterator[tuple[str, Path, np.ndarray]]:
    """Yield set, file and mask of the labelled pictures that were kept out of training."""
    with (data / "flood-area" / "splits.csv").open() as file:
        names = [row["name"] for row in csv.DictReader(file) if row["split"] == "val"]
    for name in names:
        yield "flood-area val", data / f"flood-area/images/{name}.jpg", read_mask(data / f"flood-area/masks/{name}.png")
    for path in sorted((data / "dubai-water/images").glob("tile5_*.jpg")):
        yield "dubai tile 5", path, read_mask(data / f"dubai-water/masks/{path.stem}.png")
    for seed in range(1, 11):
        path, _ = write_sample(folder / f"{seed}.tif", width=1536, height=1536, seed=seed)
        yield "synthetic", path, SyntheticScene(width=1536, height=1536, seed=seed).window(0, 0, 1536, 1536)[1]


def iou(codes: np.ndarray, mask: np.ndarray) -> float:
    """IoU over scored pixels; 1 where both are empty."""
    predicted, reference = (codes >= 50) & (codes <= 100) & (mask != 255), mask == 1
    union = (predicted | reference).sum()
    return float((predicted & reference).sum() / union) if union else 1.0


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="finetuned")
    parser.add_argument("--dry", type=float, nargs="+", default=[parts.DRY_LIMIT])
    parser.add_argument("--flood", type=float, nargs="+", default=[parts.FLOOD_LIMIT])
    options = parser.parse_args()
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    segmenter = load_segmenter(resolve(options.model))
    rules = [(dry, flood) for dry in options.dry for flood in options.flood]
    results: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, path, mask in pictures(options.data, Path(folder)):
            with Scene.open(path) as scene:
                if max(mask.shape) < 512:
                    continue
                prompter = far_view(scene, segmenter)
                grid = Grid(height=scene.height, width=scene.width)
                row = [iou(segment_whole(scene, grid, segmenter, prompter, proof=Proof()), mask)]
                for parts.DRY_LIMIT, parts.FLOOD_LIMIT in rules:
                    prompter = far_view(scene, segmenter, exhaustive=False)
                    ruled = segment_whole(scene, grid, segmenter, prompter, exhaustive=False, proof=Proof())
                    plan = Selection(scene, prompter, exhaustive=False).plan
                    seen = sum(plan(window).pixels for window in grid)
                    windows = len(grid) * grid.shape_hw[0] * grid.shape_hw[1]
                    row += [iou(ruled, mask) - row[0], seen / windows]
            results.setdefault(kind, []).append(row)
    for kind, rows in results.items():
        mean, worst = np.mean(rows, axis=0), np.min(rows, axis=0)
        print(f"{kind}: {len(rows)} pictures, IoU {mean[0]:.4f} as a whole")
        for i, (dry, flood) in enumerate(rules):
            loss, seen = 1 + 2 * i, 2 + 2 * i
            print(f"  sure below {dry} and above {flood}: {mean[loss]:+.4f}, one picture {worst[loss]:+.4f}, "
                  f"{mean[seen]:.1%} of the ground seen")  # fmt: skip


if __name__ == "__main__":
    main()
