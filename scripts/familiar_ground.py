"""Teach a model's file which ground it knows: `python scripts/familiar_ground.py DATA MODEL.safetensors`.

The features of one view of every training picture are stored, and as the limit the distance that few val pictures
reach (`LIMIT`); those kept out of every choice have no say. The weights stay as they are.
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
LIMIT = 97
"""Per cent of the val pictures that lie within the limit."""
FINAL = ("leeman_decatur", "coasttrain_naip", "fair_dhaka", "nrcan_newbrunswick")
"""Sources whose val pictures are kept out of every choice."""


def trained_on(data: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Source and picture (3, height, width) of what the model was trained on."""
    for folder in (data / "nadir", data / "labelled"):
        for row in read_index(folder, "train"):
            yield f"{folder.name} {row['source']}", read_rgb(folder / row["file"])
    yield from (("flood-area", one.rgb) for one in flood_area_to_train(data / "flood-area"))
    yield from (("dubai-water", one.rgb) for one in dubai(data))
    yield from (("ucmerced", read_rgb(path)) for path in dry_files(data / "ucmerced")[0][::3])
    yield from (("ucmerced wet", one.rgb) for one in ucmerced_wet(data / "ucmerced"))
    yield from (("synthetic", one.rgb) for one in synthetic()[::4])


def chosen_by(data: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The same of what the limit is set by."""
    for folder in (data / "nadir", data / "labelled"):
        for row in read_index(folder, "val"):
            if row["source"] not in FINAL:
                yield f"{folder.name} {row['source']}", read_rgb(folder / row["file"])
    yield from (("flood-area", one.rgb) for one in flood_area(data / "flood-area", "val"))
    for path in sorted((data / "dubai-water" / "images").glob("tile5_*.jpg")):
        yield "dubai-water", read_rgb(path)
    yield from (("ucmerced", read_rgb(path)) for path in dry_files(data / "ucmerced")[1][::6])


def described(pictures: Iterator[tuple[str, np.ndarray]], model: FloodSegmenter) -> tuple[list[str], np.ndarray]:
    """Sources, and features of one view of each picture."""
    rng, names, found = np.random.default_rng(0), [], []
    for name, rgb in pictures:
        height, width = rgb.shape[1:]
        if min(height, width) < LEAST:
            continue
        top, left = (int(rng.integers(max(length - SIDE, 0) + 1)) for length in (height, width))
        view = np.ascontiguousarray(rgb[:, top : top + SIDE, left : left + SIDE])
        tile = Tile(Window(0, 0, *view.shape[1:]), view, np.zeros(view.shape[1:], np.uint8))
        names.append(name)
        found.append(model.described([tile])[0])
    return names, np.stack(found)


def store(path: Path, known: Familiarity) -> None:
    """Write what a model knows into its file, in place of what stood there."""
    with safe_open(path, framework="pt") as file:
        header = dict(file.metadata() or {})
        tensors = {name: file.get_tensor(name) for name in file.keys() if not name.startswith(PREFIX)}  # noqa: SIM118
    del header[DIGEST]
    header[KEY] = json.dumps({"limit": round(known.limit, 4)})
    tensors |= {name: torch.from_numpy(array) for name, array in known.arrays().items()}
    with atomic_path(path) as partial:
        save_file(tensors, partial, metadata=with_digest(tensors, header))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    options = parser.parse_args()
    model = load_segmenter(resolve(str(options.model)), "cpu")
    names, views = described(trained_on(options.data), model)
    count = {name: names.count(name) for name in set(names)}
    known = Familiarity.of(views, np.array([count[name] ** -0.5 for name in names], np.float32))
    names, views = described(chosen_by(options.data), model)
    distances = known.distances(views)
    limit = float(np.percentile(distances, LIMIT))
    store(options.model, Familiarity(known.centre, known.basis, known.bank, limit))
    print(f"{len(known.bank)} views known; limit {limit:.3f}; beyond it:")
    for name in sorted(set(names)):
        beyond = [far > limit for far, own in zip(distances, names, strict=True) if own == name]
        print(f"  {name}: {sum(beyond)} of {len(beyond)}")


if __name__ == "__main__":
    main()
