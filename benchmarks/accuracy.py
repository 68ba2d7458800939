"""Scores of a model on all that was kept out of its training: `python benchmarks/accuracy.py DATA [--model FILE]`.

DATA is the folder of docs/model-card.md. All of it goes through `floodmap segment` and `floodmap evaluate` as a user's
scenes would, with automatic prompts; nothing of a reference reaches the model.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio

import floodmap
from floodmap.models.flood_segmenter import FloodSegmenter
from floodmap.models.loading import load_segmenter
from floodmap.models.registry import resolve
from floodmap.models.sam_segmenter import SamSegmenter
from floodmap.options import SegmentOptions
from floodmap.pipeline import segment_scene
from floodmap.synthetic.scene import write_sample

WET_CLASSES = ("river", "harbor", "beach", "golfcourse")
SYNTHETIC_SEEDS = range(1, 11)


def segment_all(paths: Sequence[Path], out: Path, segmenter: FloodSegmenter | SamSegmenter, prompts: str) -> float:
    """Segment pictures into a folder; returns the lowest observed share."""
    options = SegmentOptions(prompts=prompts)
    return min(segment_scene(path, out, segmenter, options).summary["observed_share"] for path in paths)


def evaluated(
    name: str, paths: Sequence[Path], masks: Path, work: Path, model: object, prompts: str
) -> dict[str, object]:
    """Scores of labelled pictures."""
    out = work / name
    observed = segment_all(paths, out, model, prompts)
    references = work / f"{name}_references"
    references.mkdir()
    for path in paths:
        shutil.copy(masks / f"{path.stem}.png", references / f"{path.stem}.png")
    result = floodmap.evaluate(out, references)
    ious = [scene.iou for scene in result.scenes]
    return {
        "images": len(ious), "mean IoU": result.mean("iou"), "pooled IoU": result.pooled.iou,
        "mean Dice": result.mean("dice"),
        "under 0.40": sum(iou < 0.4 for iou in ious), "lowest IoU": min(ious), "observed": observed,
    }  # fmt: skip


def false_flood(paths: Sequence[Path], out: Path, model: object, prompts: str) -> dict[str, object]:
    """Share of the pixels of dry pictures that are called flooded."""
    observed = segment_all(paths, out, model, prompts)
    flooded = total = 0
    for path in sorted(out.glob("*_mask.tif")):
        with rasterio.open(path) as dataset:
            mask = dataset.read(1)
        flooded += int((mask == 1).sum())
        total += int((mask != 255).sum())
    return {"images": len(paths), "false flood %": 100 * flooded / total, "observed": observed}


def dry_kept_out(folder: Path) -> list[Path]:
    """Every third file, sorted by name, of the dry classes."""
    classes = [path for path in folder.iterdir() if path.is_dir() and path.name not in WET_CLASSES]
    return sorted((path for one in classes for path in one.glob("*.jpg")), key=lambda path: path.name)[::3]


def synthetic_scores(work: Path, model: object, prompts: str, side: int = 1536) -> dict[str, object]:
    """Scores of synthetic scenes of seeds that training never saw."""
    folder = work / "synthetic_scenes"
    folder.mkdir()
    paths = [write_sample(folder / f"s{seed}.tif", width=side, height=side, seed=seed)[0] for seed in SYNTHETIC_SEEDS]
    segment_all(paths, work / "synthetic", model, prompts)
    result = floodmap.evaluate(work / "synthetic", folder)
    ious = [scene.iou for scene in result.scenes]
    return {
        "images": len(ious),
        "mean IoU": float(np.mean(ious)),
        "pooled IoU": result.pooled.iou,
        "lowest IoU": min(ious),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="finetuned")
    parser.add_argument("--prompts", default="auto", choices=["auto", "none"])
    parser.add_argument("--sets", nargs="+", default=["floods", "dubai", "dry", "synthetic"])
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    model = load_segmenter(resolve(options.model), options.device)
    scores: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        work, data = Path(folder), options.data
        if "floods" in options.sets:
            with (data / "flood-area" / "splits.csv").open() as file:
                names = [row["name"] for row in csv.DictReader(file) if row["split"] == "val"]
            paths = [data / "flood-area" / "images" / f"{name}.jpg" for name in names]
            scores["flood-area val"] = evaluated(
                "floods", paths, data / "flood-area" / "masks", work, model, options.prompts
            )
        if "dubai" in options.sets:
            paths = sorted((data / "dubai-water" / "images").glob("tile5_*.jpg"))
            scores["dubai-water tile 5"] = evaluated(
                "dubai", paths, data / "dubai-water" / "masks", work, model, options.prompts
            )
        if "dry" in options.sets:
            scores["ucmerced dry, kept out"] = false_flood(
                dry_kept_out(data / "ucmerced"), work / "dry", model, options.prompts
            )
        if "synthetic" in options.sets:
            scores["synthetic, ten seeds"] = synthetic_scores(work, model, options.prompts)
    print(json.dumps(scores, indent=1))


if __name__ == "__main__":
    main()
