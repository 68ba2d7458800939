"""Labelled imagery: pictures and their masks, in the usual layouts of data sets."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from floodmap.errors import LabelError
from floodmap.geo.gdal import gdal_env
from floodmap.geo.geogrid import GeoGrid
from floodmap.imagery.scene import Scene
from floodmap.masks.pairing import RASTERS, VECTORS, is_one_file, reference_name
from floodmap.masks.raster import RasterMask
from floodmap.masks.rules import Codes, FloodRule
from floodmap.masks.vector import PolygonMask

Split = Literal["train", "val", "test"]

PICTURES = (".tif", ".tiff", ".vrt", ".jp2", ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".img")
"""Suffixes of pictures."""
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "rgb", "scenes", "pictures")
"""Names of a folder of pictures, in upper or lower case."""
MASK_FOLDERS = ("masks", "mask", "labels", "label", "references", "reference", "annotations", "gt", "groundtruth")
"""Names of a folder of masks, likewise."""
SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip
SPLITS_FILE = "splits.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A picture or scene and its mask."""

    name: str
    """The picture's name, without suffix unless it needs it; with its split's folder in front where there is one."""
    image: Path
    """A raster of several bands."""
    label: Path | None
    """A raster of one band, or polygons; None where there is none."""
    split: Split | None = None
    """Split that the data set assigns it to; None: it assigns none."""

    @property
    def has_polygons(self) -> bool:
        """Whether its mask is a polygon file."""
        return self.label is not None and self.label.suffix.lower() in VECTORS


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Pictures and masks of a folder."""

    folder: Path
    labelled: tuple[Labelled, ...]
    """Pictures, sorted by name, with or without a mask."""
    strays: tuple[Path, ...] = ()
    """Masks without a picture."""


def find_labels(folder: Path) -> Labels:
    """Find the pictures and masks of a folder.

    Layouts: `images/` beside `masks/` (or `Image/`, `Mask/`, `labels/` ...), with files of the same name; scenes beside
    references, `x.tif` with `x_reference.tif`, `x_mask.png` or `x.gpkg`; either of them in folders `train`, `val` and
    `test`. A `splits.csv` with the columns `name` and `split` assigns pictures to splits.

    Raises:
        LabelError: the folder is missing, or holds no picture in any of these layouts, or `splits.csv` is wrong.
    """
    if not folder.is_dir():
        raise LabelError(f"{folder} is not a folder; give one with images/ and masks/, or scenes and references")
    parts = {path: SPLIT_FOLDERS[path.name.lower()] for path in _folders(folder) if path.name.lower() in SPLIT_FOLDERS}
    found: list[Labelled] = []
    strays: list[Path] = []
    for part, split in [*parts.items(), *([] if parts else [(folder, None)])]:
        pairs, alone = _pairs(part)
        prefix = f"{part.name}/" if split else ""
        found += [replace(one, name=prefix + one.name, split=split) for one in pairs]
        strays += alone
    if not found:
        raise LabelError(
            f"{folder} holds no labelled pictures: expected images/ and masks/, or scenes beside references "
            "(x.tif and x_reference.tif), or these in train/ and val/"
        )
    if (folder / SPLITS_FILE).exists():
        found = list(_with_splits(found, folder / SPLITS_FILE))
    return Labels(folder=folder, labelled=tuple(sorted(found, key=lambda one: one.name)), strays=tuple(sorted(strays)))


def read_label(one: Labelled, scene: Scene, rule: FloodRule) -> tuple[Codes, GeoGrid]:
    """Read a picture's mask on its pixels: uint8 (height, width) of FLOOD, DRY and UNOBSERVED, and the grid.

    Args:
        one: a picture with its mask.
        scene: the picture, opened.
        rule: definition of flood: raster masks use its values, polygon masks its attribute.

    Raises:
        EvaluationError: the mask does not fit the picture.
        VectorError: polygons cannot be read.
    """
    if one.label is None:
        raise ValueError(f"{one.name} has no mask; audit the labels first")
    grid = scene.grid
    mask = PolygonMask(one.label) if one.has_polygons else RasterMask(one.label)
    rule = replace(rule, values=()) if one.has_polygons else replace(rule, attribute="", matches=())
    with closing(mask), gdal_env():
        if isinstance(mask, RasterMask) and mask.grid.crs is None:
            grid = mask.grid  # without a CRS, mask and picture have the same pixels
        codes = mask.on(grid, rule)(grid.whole)
    return codes, grid


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_one_file(path))


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    files = (path for path in folder.iterdir() if is_one_file(path) and not path.name.startswith("."))
    return sorted(path for path in files if path.suffix.lower() in suffixes)


def _folder_named(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The subfolder with the first of some names, in upper or lower case; None where there is none."""
    fitting = [path for path in _folders(folder) if path.name.lower() in names]
    return min(fitting, key=lambda path: names.index(path.name.lower()), default=None)


def _pairs(folder: Path) -> tuple[list[Labelled], list[Path]]:
    """Pictures with their masks, and masks without pictures."""
    images, masks = _folder_named(folder, IMAGE_FOLDERS), _folder_named(folder, MASK_FOLDERS)
    if images and masks:
        pictures, candidates = _files(images, PICTURES), _files(masks, RASTERS + VECTORS)
        labels = {reference_name(path) or path.stem: path for path in candidates}
        labels |= {path.stem: path for path in candidates}
    else:
        names = {path.stem for path in _files(folder, PICTURES)}
        found = [path for path in _files(folder, RASTERS + VECTORS) if reference_name(path) in names]
        labels = {
            name: path
            for path in found
            if (name := reference_name(path)) and (name != path.stem or path.suffix.lower() in VECTORS)
        }
        candidates = list(labels.values())
        pictures = [path for path in _files(folder, PICTURES) if path not in labels.values()]
    twins = Counter(path.stem for path in pictures)
    pairs = [
        Labelled(name=path.stem if twins[path.stem] == 1 else path.name, image=path, label=labels.get(path.stem))
        for path in pictures
    ]
    taken = {one.label for one in pairs}
    return pairs, [path for path in candidates if path not in taken]


def _with_splits(found: list[Labelled], path: Path) -> Iterator[Labelled]:
    """The pictures with the splits that `splits.csv` assigns."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = {row["name"].strip(): row["split"].strip().lower() for row in csv.DictReader(file)}
    except (KeyError, AttributeError, UnicodeDecodeError, OSError, csv.Error):
        raise LabelError(f"{path} needs the columns name and split, a row a picture") from None
    known = {Path(name).stem: split for name, split in rows.items()}
    wrong = sorted(set(known.values()) - set(SPLIT_FOLDERS))
    if wrong:
        raise LabelError(f"{path} names the split {wrong[0]!r}; choose from {', '.join(get_args(Split))}")
    missing = sorted(set(known) - {one.image.stem for one in found})
    if missing:
        raise LabelError(f"{path} names {missing[0]}, of which there is no picture ({len(missing)} such)")
    for one in found:
        split = known.get(one.image.stem)
        yield replace(one, split=SPLIT_FOLDERS[split] if split else None)
