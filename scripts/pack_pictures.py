"""Compress the training pictures for a copy on a GPU machine: `python scripts/pack_pictures.py DATA OUT --quality 45`.

OUT receives the folders, names, masks and tables of DATA, and its pictures as WebP. The pictures keep their suffixes,
because readers detect the format from the content. Of the pictures kept out of training, only those of flood-area val
are packed, for validation.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from training_data import WET_CLASSES, dry_files

TABLES = ("flood-area/splits.csv", "nadir/index.csv", "labelled/index.csv")
"""Tables that are copied unchanged."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--quality", type=int, default=45, help="of WebP, 0 to 100")
    options = parser.parse_args()
    pictures, masks = map(set, zip(*pairs(options.data), strict=True))
    for path in sorted(pictures):
        with Image.open(path) as image:
            image.convert("RGB").save(_target(path, options), "WEBP", quality=options.quality)
    for path in sorted(masks - {None}):
        shutil.copyfile(path, _target(path, options))
    for name in TABLES:
        shutil.copyfile(options.data / name, _target(options.data / name, options))
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{len(pictures)} pictures, {size / 2**20:.1f} MiB")


def _target(path: Path, options: argparse.Namespace) -> Path:
    """Return the path in OUT of a file of DATA, and create its folder."""
    target: Path = options.out / path.relative_to(options.data)
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def pairs(data: Path) -> Iterator[tuple[Path, Path | None]]:
    """Yield each picture with its mask, or with None; a picture with two masks is yielded twice."""
    for path in sorted((data / "flood-area" / "images").glob("*.jpg")):
        yield path, data / "flood-area" / "masks" / f"{path.stem}.png"
    for path in sorted((data / "dubai-water" / "images").glob("*.jpg")):
        if not path.name.startswith("tile5_"):
            yield path, data / "dubai-water" / "masks" / f"{path.stem}.png"
    for path in dry_files(data / "ucmerced")[0]:
        yield path, None
    for name in WET_CLASSES:
        yield from ((path, None) for path in sorted((data / "ucmerced" / name).glob("*.jpg")))
    for folder in (data / "nadir", data / "labelled"):
        with (folder / "index.csv").open() as file:
            for row in csv.DictReader(file):
                if row["split"] == "train":
                    for mask in (row["mask"], row.get("mask_auto")):
                        yield folder / row["file"], folder / mask if mask else None


if __name__ == "__main__":
    main()
