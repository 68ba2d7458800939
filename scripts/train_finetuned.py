"""Train the model that ships: `python scripts/train_finetuned.py DATA --out runs/finetuned`.

DATA holds flood-area/, dubai-water/ and ucmerced/ as docs/model-card.md describes them. Kept out: the val split of
flood-area, tile 5 of dubai-water, and every third file of the dry ucmerced classes.
"""

from __future__ import annotations

import argparse
import csv
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from floodmap.dataset import Sample, Source, read_mask, read_rgb
from floodmap.synthetic import SyntheticScene
from floodmap.train import TrainConfig, train

WET_CLASSES = ("river", "harbor", "beach", "golfcourse")
SYNTHETIC_SEEDS = range(1000, 1080)


def flood_area(folder: Path, split: str) -> list[Sample]:
    with (folder / "splits.csv").open() as file:
        names = [row["name"] for row in csv.DictReader(file) if row["split"] == split]
    return [
        Sample(name, read_rgb(folder / "images" / f"{name}.jpg"), read_mask(folder / "masks" / f"{name}.png"))
        for name in names
    ]


def dubai_water(folder: Path) -> list[Sample]:
    paths = sorted(path for path in (folder / "images").glob("*.jpg") if not path.name.startswith("tile5_"))
    return [Sample(p.stem, read_rgb(p), read_mask(folder / "masks" / f"{p.stem}.png")) for p in paths]


def dry_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Pictures of the seventeen dry classes: those to train on, and every third by name, kept out."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and path.name not in WET_CLASSES)
    files = sorted((path for one in classes for path in one.glob("*.jpg")), key=lambda path: path.name)
    return [path for i, path in enumerate(files) if i % 3], files[::3]


def ucmerced_dry(folder: Path, per_side: int = 3) -> list[Sample]:
    """Dry tiles put together to larger pictures: alone they fill a large crop only when they are blown up."""
    pictures = [_squared(read_rgb(path)) for path in dry_files(folder)[0]]
    order = np.random.default_rng(0).permutation(np.tile(np.arange(len(pictures)), 2))
    samples = []
    for first in range(0, len(order) - per_side**2 + 1, per_side**2):
        tiles = [pictures[i] for i in order[first : first + per_side**2]]
        rows = [np.concatenate(tiles[i : i + per_side], axis=2) for i in range(0, per_side**2, per_side)]
        rgb = np.concatenate(rows, axis=1)
        samples.append(Sample(f"ucmerced-{first}", rgb, np.zeros(rgb.shape[1:], np.uint8)))
    return samples


def _squared(rgb: np.ndarray, side: int = 256) -> np.ndarray:
    """A few tiles lack some rows or columns; their last ones are repeated."""
    missing = [(0, side - length) for length in rgb.shape[1:]]
    return np.pad(rgb, [(0, 0), *missing], mode="edge")


def synthetic(side: int = 1536) -> list[Sample]:
    samples = []
    for seed in SYNTHETIC_SEEDS:
        scene = SyntheticScene(width=side, height=side, seed=seed)
        samples.append(Sample(f"synthetic-{seed}", *scene.window(0, 0, side, side)))
    return samples


def sources(data: Path, shares: tuple[float, float, float, float]) -> list[Source]:
    return [
        Source(name="flood-area", samples=flood_area(data / "flood-area", "train"), share=shares[0], from_above=False),
        Source(
            name="dubai-water",
            samples=dubai_water(data / "dubai-water"),
            share=shares[1],
            from_above=True,
            repainted=0.6,
        ),
        Source(name="ucmerced", samples=ucmerced_dry(data / "ucmerced"), share=shares[2], from_above=True),
        Source(name="synthetic", samples=synthetic(), share=shares[3], from_above=True, repainted=0.25),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the log and checkpoints; goes on from there"
    )
    parser.add_argument("--minutes", type=float, default=TrainConfig().minutes)
    parser.add_argument("--shares", type=float, nargs=4, default=(0.38, 0.18, 0.20, 0.24))
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--init", type=Path, help="weights to begin with, where they fit")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.threads:
        torch.set_num_threads(options.threads)
    config = replace(TrainConfig(), minutes=options.minutes, device=options.device)
    train(
        config,
        sources(options.data, tuple(options.shares)),
        flood_area(options.data / "flood-area", "val"),
        options.out,
        options.init,
    )


if __name__ == "__main__":
    main()
