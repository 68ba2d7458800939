"""Labelled imagery: pictures with masks, in the folder layouts that `find_labels` describes."""

from __future__ import annotations

import csv
import logging
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import rasterio
from rasterio.errors import NotGeoreferencedWarning

from floodmap.errors import LabelError
from floodmap.geo.gdal import GDAL_ERRORS, gdal_env
from floodmap.geo.geogrid import GeoGrid
from floodmap.imagery.scene import Scene
from floodmap.masks.pairing import RASTERS, VECTORS, is_one_file, reference_name, reference_order
from floodmap.masks.raster import RasterMask
from floodmap.masks.rules import Codes, FloodRule
from floodmap.masks.vector import PolygonMask

Split = Literal["train", "val", "test"]

PICTURES = (".tif", ".tiff", ".vrt", ".jp2", ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".img")
"""Suffixes of picture files."""
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "rgb", "scenes", "pictures")
"""Names that a folder of pictures may have, in upper or lower case, in order of preference."""
MASK_FOLDERS = ("masks", "mask", "labels", "label", "references", "reference", "annotations", "gt", "groundtruth")
"""Names that a folder of masks may have, in upper or lower case, in order of preference."""
SPLIT_FOLDERS: dict[str, Split] = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip
SPLITS_FILE = "splits.csv"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Picture or scene in a folder of pictures, with the mask of the picture if there is one."""

    name: str
    """Name of the picture file. If the file is in a folder of a split, the name begins with this folder: `train/x`.

    The suffix of the file is left out, unless two pictures of the folder differ only in the suffix.
    """
    image: Path
    """Path of the picture, a raster of several bands."""
    label: Path | None
    """Path of the mask: a raster of one band, or a vector file of polygons. None: the picture has no mask."""
    split: Split | None = None
    """Split that the data set assigns to the picture; None: the data set assigns no split."""

    @property
    def has_polygons(self) -> bool:
        """True if the mask is a polygon file."""
        return self.label is not None and self.label.suffix.lower() in VECTORS


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Pictures and masks in a folder."""

    folder: Path
    labelled: tuple[Labelled, ...]
    """Pictures, with or without a mask, sorted by name."""
    strays: tuple[Path, ...] = ()
    """Paths of masks without a picture."""


def find_labels(folder: Path) -> Labels:
    """Find the pictures and masks of a folder, by the names of the files.

    No file except `splits.csv` is opened, unless a picture has several masks. Of these, the mask that `pair_files`
    prefers is used, but a mask that floodmap wrote only if it is the only one.

    A folder may have one of two layouts. In the first layout, `images/` and `masks/` (or `Image/`, `Mask/`, `labels/`
    ...) contain files of the same name. In the second layout, scenes and references are in the same folder: `x.tif`
    with `x_reference.tif`, `x_mask.png` or `x.gpkg`. The folder may also contain folders `train`, `val` and `test`,
    each with one of the two layouts. A file `splits.csv` with the columns `name` and `split` assigns pictures to
    splits.

    Raises:
        LabelError: the folder is missing, no layout with a picture is found, or `splits.csv` is invalid.
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
    """Read the mask of a picture: one class for each pixel of the picture.

    Args:
        one: a picture with a mask.
        scene: the picture, opened.
        rule: definition of flood. If the mask is a raster, the fields `attribute` and `matches` of the rule, which are
            for polygons, are ignored. If the mask is a polygon file, the field `values`, which is for rasters, is
            ignored.

    Returns:
        Classes, uint8 (height, width): 0 dry, 1 flood, 255 unobserved; and the grid of these pixels. It is the grid of
        the picture, or the grid of the mask if the mask is a raster without a CRS.

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
            grid = mask.grid  # a mask without a CRS has the same pixels as the picture
        codes = mask.on(grid, rule)(grid.whole)
    return codes, grid


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_one_file(path))


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    files = (path for path in folder.iterdir() if is_one_file(path) and not path.name.startswith("."))
    return sorted(path for path in files if path.suffix.lower() in suffixes)


def _folder_named(folder: Path, names: tuple[str, ...]) -> Path | None:
    """Return the subfolder with one of the names, in upper or lower case; None if there is no such subfolder.

    Of several subfolders, the subfolder with the name that comes first in `names` is returned.
    """
    fitting = [path for path in _folders(folder) if path.name.lower() in names]
    return min(fitting, key=lambda path: names.index(path.name.lower()), default=None)


def _pairs(folder: Path) -> tuple[list[Labelled], list[Path]]:
    """Find the pictures and masks of a folder with one of the two layouts of `find_labels`.

    Returns:
        The pictures, with or without a mask, and the files of masks without a picture.
    """
    images, masks = _folder_named(folder, IMAGE_FOLDERS), _folder_named(folder, MASK_FOLDERS)
    if images and masks:
        pictures, candidates = _files(images, PICTURES), _files(masks, RASTERS + VECTORS)
        names = {path.stem for path in pictures}
        labels = _chosen((reference_name(path) or path.stem, path) for path in candidates if path.stem not in names)
        labels |= _chosen((path.stem, path) for path in candidates if path.stem in names)
    else:
        pictures = _files(folder, PICTURES)
        names = {path.stem for path in pictures}
        found = [
            path
            for path in _files(folder, RASTERS + VECTORS)
            if (name := reference_name(path)) in names and (name != path.stem or path.suffix.lower() in VECTORS)
        ]
        labels = _chosen((reference_name(path) or path.stem, path) for path in found)
        candidates = list(labels.values())
        unused = [path for path in found if path not in candidates and path.stem not in labels]
        pictures = [path for path in pictures if path not in candidates and path not in unused]
    twins = Counter(path.stem for path in pictures)
    pairs = [
        Labelled(name=path.stem if twins[path.stem] == 1 else path.name, image=path, label=labels.get(path.stem))
        for path in pictures
    ]
    taken = {one.label for one in pairs}
    return pairs, [path for path in candidates if path not in taken]


def _chosen(files: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """Choose one mask for each picture, and return a dictionary: name of the picture -> file.

    The argument is pairs of the name of a picture and a mask of this picture.

    A mask that floodmap wrote comes after all others: it is what a model predicted. The suffix .json comes last,
    because x.json is also the name of floodmap's report. One warning tells of pictures with several masks.
    """
    masks: defaultdict[str, list[Path]] = defaultdict(list)
    for name, path in files:
        masks[name].append(path)

    def order(path: Path) -> tuple[bool, bool, tuple[int, int, str]]:
        return path.suffix.lower() == ".json", _is_by_floodmap(path), reference_order(path)

    ordered = {name: sorted(own, key=order) if len(own) > 1 else own for name, own in masks.items()}
    without_reports = ([path for path in own if path.suffix.lower() != ".json"] for own in ordered.values())
    several = [own for own in without_reports if len(own) > 1]
    if several:
        used, *others = several[0]
        _log.warning(
            "%s has several masks of one picture (such pictures: %d); %s is used, not %s; remove what is no label",
            used.parent, len(several), used.name, ", ".join(path.name for path in others),
        )  # fmt: skip
    return {name: own[0] for name, own in ordered.items()}


def _is_by_floodmap(path: Path) -> bool:
    """Return whether a file is a raster that floodmap wrote, by its tag; False if the file cannot be read."""
    if path.suffix.lower() not in RASTERS:
        return False
    try:
        with gdal_env(), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                return str(file.tags().get("TIFFTAG_SOFTWARE", "")).startswith("floodmap ")
    except GDAL_ERRORS:
        return False


def no_usable_picture(data: Path, findings: Sequence[object], part: str = "") -> LabelError:
    """Return the error for data without a usable picture (a picture with a mask, both without problems).

    Args:
        data: folder of the labelled pictures.
        findings: problems found in pictures and masks; `str` of a problem is its message.
        part: the split without a usable picture, such as `val`; "": all data.
    """
    first = f"; the first finding: {findings[0]}" if findings else ""
    return LabelError(f"{data} has no usable picture{f' in {part}' if part else ''}{first}")


def _with_splits(found: list[Labelled], path: Path) -> Iterator[Labelled]:
    """Yield copies of the pictures, each with the split from `splits.csv`; `path` is the path of `splits.csv`.

    Pictures that are not in `splits.csv` get the split None.
    """
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
        raise LabelError(f"{path} lists {missing[0]}, but no picture has this name (such names: {len(missing)})")
    unnamed = [one for one in found if one.image.stem not in known]
    if unnamed:
        _log.warning(
            "%s does not name %d of %d pictures, such as %s; none of train, val and test has them; add their rows",
            path, len(unnamed), len(found), unnamed[0].name,
        )  # fmt: skip
    for one in found:
        split = known.get(one.image.stem)
        yield replace(one, split=SPLIT_FOLDERS[split] if split else None)
