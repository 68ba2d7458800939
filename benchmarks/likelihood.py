"""Scores of the unsupervised flood likelihood and its points: `python benchmarks/likelihood.py DATA_FOLDER`.

The folder holds `images/NAME.jpg`, `masks/NAME.png` (above 0 is flood) and `splits.csv` (name, split). Masks are
compared at full size; the reference is used for the scores only.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import numpy as np
from PIL import Image

from floodmap.inference.likelihood import likelihood
from floodmap.models.prompts import pick_prompts

SIDE = 512


def measure(folder: Path, name: str, max_points: int) -> np.ndarray:
    """Measure one image: tp, fp, fn; positive points correct and in all; negative points alike; CPU seconds; (8,)."""
    image = Image.open(folder / "images" / f"{name}.jpg").convert("RGB")
    flood = np.asarray(Image.open(folder / "masks" / f"{name}.png").convert("L")) > 0
    scale = min(1.0, SIDE / max(image.size))
    preview = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BOX
    )
    begin = time.process_time()
    coarse = likelihood(np.asarray(preview).transpose(2, 0, 1), np.ones(preview.size[::-1], bool))
    seconds = time.process_time() - begin
    height, width = flood.shape
    full = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))
    predicted = full >= 0.5
    prompts = pick_prompts(coarse, np.ones(flood.shape, bool), max_points=max_points)
    cols, rows = prompts.points_xy.astype(int).T
    on_flood, positive = flood[rows, cols], prompts.labels == 1
    points = [(on_flood & positive).sum(), positive.sum(), (~on_flood & ~positive).sum(), (~positive).sum()]
    return np.array(
        [(predicted & flood).sum(), (predicted & ~flood).sum(), (~predicted & flood).sum(), *points, seconds], float
    )


def otsu(values: np.ndarray) -> float:
    """Threshold of the largest variance between two classes (Otsu 1979)."""
    counts, edges = np.histogram(values, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    below, mean = counts.cumsum(), (counts * centres).cumsum()
    total = below[-1]
    apart = (mean[-1] * below / total - mean) ** 2 / np.maximum(below * (total - below), 1)
    return float(centres[apart.argmax()])


def main() -> None:
    """Score every image of a split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DATA_FOLDER")
    parser.add_argument("--split", default="val")
    parser.add_argument("--max-points", type=int, default=5, help="of either label, per image")
    options = parser.parse_args()
    with (options.folder / "splits.csv").open(encoding="utf-8") as file:
        names = [row["name"] for row in csv.DictReader(file) if row["split"] == options.split]
    if not names:
        parser.error(f"{options.folder / 'splits.csv'} has no image in split {options.split!r}")
    table = np.stack([measure(options.folder, name, options.max_points) for name in names])
    tp, fp, fn, *_ = table.T
    whole = table.sum(axis=0)
    f1, iou = 2 * tp / np.maximum(2 * tp + fp + fn, 1), tp / np.maximum(tp + fp + fn, 1)
    pooled = whole[0] / whole[:3].sum()
    print(f"{options.split}: {len(names)} images, {table[:, 7].mean():.2f} s of CPU each at most {SIDE} pixels a side")
    print(f"F1   mean {f1.mean():.3f}, pooled {2 * pooled / (1 + pooled):.3f}")
    print(f"IoU  mean {iou.mean():.3f}, pooled {pooled:.3f}")
    print(f"positive points on flood  {whole[3] / max(whole[4], 1):.1%}, {whole[4] / len(names):.1f} an image")
    print(f"negative points off flood {whole[5] / max(whole[6], 1):.1%}, {whole[6] / len(names):.1f} an image")
    print(f"images without any point  {int((table[:, 4] + table[:, 6] == 0).sum())}")


if __name__ == "__main__":
    main()
