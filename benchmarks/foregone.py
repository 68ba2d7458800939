"""What it costs not to run windows the coarse pass is sure of: `python benchmarks/foregone.py DATA [--model FILE]`.

Labelled pictures are smaller than a window, so smaller windows are tried on them, which fall under the rule far more
often: every window of so many pixels in which the coarse pass is sure everywhere takes what that said, the others keep
what the model made of the whole picture.
"""

from __future__ import annotations

import argparse
import csv
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rasterio.errors import NotGeoreferencedWarning

from floodmap.dataset import read_mask
from floodmap.grid import Grid, Window
from floodmap.models import resolve
from floodmap.prompter import far_view
from floodmap.scene import Scene
from floodmap.segmenter import load_segmenter
from floodmap.synthetic import SyntheticScene, write_sample
from floodmap.windows import segment_whole


def pictures(data: Path, folder: Path) -> Iterator[tuple[str, Path, np.ndarray]]:
    """Set, file and mask of everything labelled that was kept out and is large enough for a coarse pass."""
    with (data / "flood-area" / "splits.csv").open() as file:
        names = [row["name"] for row in csv.DictReader(file) if row["split"] == "val"]
    for name in names:
        yield "flood-area val", data / f"flood-area/images/{name}.jpg", read_mask(data / f"flood-area/masks/{name}.png")
    for path in sorted((data / "dubai-water/images").glob("tile5_*.jpg")):
        yield "dubai tile 5", path, read_mask(data / f"dubai-water/masks/{path.stem}.png")
    for seed in range(1, 6):
        path, _ = write_sample(folder / f"{seed}.tif", width=1536, height=1536, seed=seed)
        yield "synthetic", path, SyntheticScene(width=1536, height=1536, seed=seed).window(0, 0, 1536, 1536)[1]


def iou(flood: np.ndarray, mask: np.ndarray) -> float:
    """1 where both are empty."""
    said, real = flood & (mask != 255), mask == 1
    union = (said | real).sum()
    return float((said & real).sum() / union) if union else 1.0


def main() -> None:
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="finetuned")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--dry", type=float, nargs="+", default=[0.01, 0.02, 0.03, 0.05])
    parser.add_argument("--flood", type=float, nargs="+", default=[0.98, 0.95])
    options = parser.parse_args()
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    segmenter = load_segmenter(resolve(options.model))
    rules = [(dry, 2.0) for dry in options.dry] + [(-1.0, flood) for flood in options.flood]
    results: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, path, mask in pictures(options.data, Path(folder)):
            with Scene.open(path) as scene:
                prompter = far_view(scene, segmenter)
                grid = Grid(height=scene.height, width=scene.width, tile_size=1024, overlap=24, multiple=32)
                codes = segment_whole(scene, grid, segmenter, prompter)
                coarse = prompter(scene.read(Window(0, 0, scene.height, scene.width)))
            if coarse.mask is None:
                continue
            rows, cols = (np.arange(n) * m // n for n, m in zip(mask.shape, coarse.mask.shape, strict=True))
            full = coarse.mask[np.ix_(rows, cols)]
            row = [iou((codes >= 50) & (codes <= 100), mask)]
            for dry, flood in rules:
                changed, ruled, side = codes.copy(), 0, options.side
                for top, left in np.ndindex(mask.shape[0] // side, mask.shape[1] // side):
                    part = np.s_[top * side : (top + 1) * side, left * side : (left + 1) * side]
                    if full[part].max() < dry or full[part].min() > flood:
                        changed[part] = np.round(full[part] * 100)
                        ruled += side**2
                row += [iou((changed >= 50) & (changed <= 100), mask) - row[0], ruled / mask.size]
            results.setdefault(kind, []).append(row)
    for kind, rows in results.items():
        mean = np.mean(rows, axis=0)
        print(f"{kind}: {len(rows)} pictures, IoU {mean[0]:.4f}, windows of {options.side}")
        for i, (dry, flood) in enumerate(rules):
            rule = f"dry below {dry}" if dry > 0 else f"flood above {flood}"
            print(f"  {rule:18} {mean[1 + 2 * i]:+.4f}, {mean[2 + 2 * i]:.1%} of the ground not run")


if __name__ == "__main__":
    main()
