"""Store features of training pictures in a model's file: `python scripts/familiar_ground.py DATA MODEL.safetensors`.

The features are the reference of the out-of-distribution score (`floodmap.models.familiarity`): those of one view of
every training picture. The limit of the score is the `LIMIT`th percentile of the distances of val pictures, without the
sources in `FINAL`. The weights are not changed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from training_data import dry_files, dubai, flood_area, flood_area_to_train, read_index, synthetic, ucmerced_wet

from floodmap._runtime.files import atomic_path
from floodmap.geo.window import Window
from floodmap.imagery.tile import Tile
from floodmap.models.digest import DIGEST, with_digest
from floodmap.models.familiarity import KEY, PREFIX, Familiarity
from floodmap.models.flood_segmenter import FloodSegmenter
from floodmap.models.loading import load_segmenter
from floodmap.models.registry import resolve
from floodmap.training.samples import read_rgb

SIDE, LEAST = 512, 64
"""Side of the views, and smallest side of a picture, in pixels."""
LIMIT = 97
"""Percentile of the distances of the val pictures, which is stored as the limit."""
FINAL = ("leeman_decatur", "coasttrain_naip", "fair_dhaka", "nrcan_newbrunswick")
"""Sources whose val pictures had no part in any choice of weights, threshold or calibration."""


def training_pictures(data: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield source and uint8 RGB (3, height, width) of the training pictures."""
    for folder in (data / "nadir", data / "labelled"):
        for row in read_index(folder, "train"):
            yield f"{folder.name} {row['source']}", read_rgb(folder / row["file"])
    yield from (("flood-area", one.rgb) for one in flood_area_to_train(data / "flood-area"))
    yield from (("dubai-water", one.rgb) for one in dubai(data))
    yield from (("ucmerced", read_rgb(path)) for path in dry_files(data / "ucmerced")[0][::3])
    yield from (("ucmerced wet", one.rgb) for one in ucmerced_wet(data / "ucmerced"))
    yield from (("synthetic", one.rgb) for one in synthetic()[::4])


def val_pictures(data: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield source and uint8 RGB (3, height, width) of the val pictures that set the limit."""
    for folder in (data / "nadir", data / "labelled"):
        for row in read_index(folder, "val"):
            if row["source"] not in FINAL:
                yield f"{folder.name} {row['source']}", read_rgb(folder / row["file"])
    yield from (("flood-area", one.rgb) for one in flood_area(data / "flood-area", "val"))
    for path in sorted((data / "dubai-water" / "images").glob("tile5_*.jpg")):
        yield "dubai-water", read_rgb(path)
    yield from (("ucmerced", read_rgb(path)) for path in dry_files(data / "ucmerced")[1][::6])


def features_of(pictures: Iterator[tuple[str, np.ndarray]], model: FloodSegmenter) -> tuple[list[str], np.ndarray]:
    """Return the names of the sources, and features float32 (N, C) of one random view of each picture."""
    rng, names, features = np.random.default_rng(0), [], []
    for name, rgb in pictures:
        height, width = rgb.shape[1:]
        if min(height, width) < LEAST:
            continue
        top, left = (int(rng.integers(max(length - SIDE, 0) + 1)) for length in (height, width))
        view = np.ascontiguousarray(rgb[:, top : top + SIDE, left : left + SIDE])
        tile = Tile(Window(0, 0, *view.shape[1:]), view, np.zeros(view.shape[1:], np.uint8))
        names.append(name)
        features.append(model.described([tile])[0])
    return names, np.stack(features)


def store(path: Path, familiarity: Familiarity) -> None:
    """Write features and limit into a model's file, in place of earlier features and of an earlier limit."""
    with safe_open(path, framework="pt") as file:
        header = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys() if not name.startswith(PREFIX)}  # noqa: SIM118
    del header[DIGEST]
    header[KEY] = json.dumps({"limit": round(familiarity.limit, 4)})
    tensors |= {name: torch.from_numpy(array) for name, array in familiarity.arrays().items()}
    with atomic_path(path) as partial:
        save_file(tensors, partial, metadata=with_digest(tensors, header))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    options = parser.parse_args()
    model = load_segmenter(resolve(str(options.model)), "cpu")
    names, views = features_of(training_pictures(options.data), model)
    count = {name: names.count(name) for name in set(names)}
    familiarity = Familiarity.of(views, np.array([count[name] ** -0.5 for name in names], np.float32))
    names, views = features_of(val_pictures(options.data), model)
    distances = familiarity.distances(views)
    limit = float(np.percentile(distances, LIMIT))
    store(options.model, Familiarity(familiarity.centre, familiarity.basis, familiarity.bank, limit))
    print(f"{len(familiarity.bank)} views stored; limit {limit:.3f}; beyond it:")
    for name in sorted(set(names)):
        beyond = [distance > limit for distance, own in zip(distances, names, strict=True) if own == name]
        print(f"  {name}: {sum(beyond)} of {len(beyond)}")


if __name__ == "__main__":
    main()
