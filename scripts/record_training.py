"""Store the training pictures in a model's file: `python scripts/record_training.py DATA MODEL.safetensors`.

The record holds a key of each picture (`models.training_record.picture_key`). From the keys, `compare`, `evaluate` and
`segment` identify pictures of the training set, and pictures whose scores selected the weights. Pictures kept out of
every choice have no key. The weights are not changed.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np
from familiar_ground import FINAL
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from training_data import WET_MASKS, WRONG_MASKS, dry_files, read_index

from floodmap._runtime.files import atomic_path
from floodmap.models.digest import DIGEST, with_digest
from floodmap.models.training_record import keys_as_json

BASE = "EfficientNet-Lite0, trained on ImageNet"


def pictures(data: Path) -> tuple[list[Path], list[Path]]:
    """Return the files of the training pictures, and of the pictures whose scores selected the weights."""
    with (data / "flood-area" / "splits.csv").open() as file:
        splits = {row["name"]: row["split"] for row in csv.DictReader(file) if row["name"] not in WRONG_MASKS}
    train, val = (
        [data / "flood-area" / "images" / f"{name}.jpg" for name, split in splits.items() if split == wanted]
        for wanted in ("train", "val")
    )
    for path in (data / "dubai-water" / "images").glob("*.jpg"):
        (val if path.name.startswith("tile5_") else train).append(path)
    dry, kept_out = dry_files(data / "ucmerced")
    with np.load(WET_MASKS) as masks:
        wet = [data / "ucmerced" / name.rstrip("0123456789") / f"{name}.jpg" for name in masks.files]
    train, val = [*train, *dry, *wet], [*val, *kept_out]
    for folder in (data / "nadir", data / "labelled"):
        train += [folder / row["file"] for row in read_index(folder, "train")]
        val += [folder / row["file"] for row in read_index(folder, "val") if row["source"] not in FINAL]
    return train, val


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    options = parser.parse_args()
    train, val = pictures(options.data)
    with safe_open(options.model, framework="pt") as file:
        header = {key: value for key, value in file.metadata().items() if key != DIGEST}
    header["training"] = json.dumps({"base": BASE, "keys": keys_as_json(train, val)}, separators=(",", ":"))
    state = load_file(options.model)
    with atomic_path(options.model) as partial:
        save_file(state, partial, metadata=with_digest(state, header))
    print(f"{len(train)} pictures trained on, {len(val)} that chose among weights")


if __name__ == "__main__":
    main()
