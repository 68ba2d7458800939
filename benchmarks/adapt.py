"""Whether `floodmap adapt` helps on the other half of a scene: `python benchmarks/adapt.py DATA [--scenes NAME...]`.

DATA is the folder described in docs/model-card.md. A scene is made of the pictures of one place or flight of nadir val
on which the shipped model is worst, side by side in a GeoTIFF. One half of each picture is corrected, the other half is
scored, through the pipeline of `floodmap segment`. The corrections are simulated from the reference of the corrected
half: oracle corrections. They are a handful of polygons where the model is wrong, and a few where it is right, as a
person would draw them. The scored half is used for nothing else.

The settings of `adapt` were chosen on other pictures: `--set tuning`, the same with `--flip` (the halves change their
roles), and `--set photos` (single pictures of flood-area val, with the roughly drawn masks of that set).
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import geopandas
import numpy as np
import rasterio
import shapely
from accuracy import FINAL, read, segmented, table
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from rasterio.features import shapes
from scipy import ndimage

from floodmap.models.loading import load_segmenter
from floodmap.models.registry import resolve
from floodmap.options import AdaptOptions
from floodmap.training.adaptation.run import adapt_model
from floodmap.training.adaptation.tuning import Tuning

LEAST_WATER = 0.03
"""Least share of water in a picture. In pictures with less, some pixels decide about the IoU."""
LEAST_HALF = 0.25
"""Least share of a picture's water in each of its halves."""
PICTURES = 3
"""Pictures of a scene."""
GAP = 32
"""Pixels without data between pictures."""
WRONG, RIGHT = 5, 3
"""Largest number of polygons in each picture where the model is wrong, and where it is right, of each class."""
LEAST_AREA = 0.002
"""Least area of a polygon, as a share of the corrected half of a picture."""
PHOTOS, PHOTO_GSD_M = 14, 0.1
"""Number of scenes of flood-area, and the ground sample distance that is written to them: it is not known."""
OVERLAPPING = ("brighton_beach",)
"""Sources whose pictures show the same ground: the scene is one picture."""
Codes = NDArray[np.uint8]


@dataclass(frozen=True)
class Picture:
    """A picture of a scene: its files, and its IoU with the shipped model."""

    path: Path
    mask: Path
    gsd_m: float
    iou: float


@dataclass(frozen=True)
class Half:
    """A scene on disk with its reference, and the half that is corrected."""

    name: str
    path: Path
    reference: Codes
    """1 flood, 0 dry, 255 not known or no data."""
    corrected: NDArray[np.bool_]
    """True in the half that is corrected, (height, width)."""
    pieces: tuple[tuple[slice, slice], ...]
    """Rows and columns of the corrected half of each picture."""


def pictures(data: Path, baseline: Path) -> dict[str, list[Picture]]:
    """Pictures of nadir val by place or flight, the worst first.

    `baseline` is what `accuracy.py DATA --sets nadir --json FILE` wrote for the shipped model.
    """
    scored = {name: iou for group in json.loads(baseline.read_text())["pictures"].values()
              for name, (iou, _) in group.items()}  # fmt: skip
    groups: dict[str, list[Picture]] = {}
    with (data / "nadir" / "index.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "val" and row["source"] not in FINAL]
    for row in rows:
        if not row["mask"] or float(row["water"] or 0) < LEAST_WATER:
            continue
        path, mask = data / "nadir" / row["file"], read(data / "nadir" / row["mask"])
        if halved(mask)[1] < LEAST_HALF:
            continue
        flight = f" {path.stem[4:13]}" if row["source"] == "usgs_obx" else ""
        groups.setdefault(row["source"] + flight, []).append(
            Picture(path, data / "nadir" / row["mask"], float(row["gsd_m"] or 0), scored[path.stem])
        )
    return {name: sorted(group, key=lambda one: one.iou) for name, group in groups.items()}


def chosen(groups: dict[str, list[Picture]], which: str) -> dict[str, list[Picture]]:
    """The five scenes that are scored: the worst pictures of the groups with the lowest mean IoU of these.

    For the choice of settings (`tuning`): the next pictures of the groups, and the pictures of the other groups.
    """
    worst = {name: group[: 1 if name in OVERLAPPING else PICTURES] for name, group in groups.items()}
    order = sorted(worst, key=lambda name: float(np.mean([one.iou for one in worst[name]])))
    if which == "scored":
        return {name: worst[name] for name in order[:5]}
    rest = {name: groups[name][PICTURES : 2 * PICTURES] for name in order[:5] if name not in OVERLAPPING}
    return {
        **{name: worst[name] for name in order[5:]},
        **{f"{name} (next)": rest[name] for name in rest if rest[name]},
    }


def photos(data: Path, baseline: Path) -> dict[str, list[Picture]]:
    """The pictures of flood-area val on which the shipped model is worst, each as a scene of its own.

    `baseline` is what `accuracy.py DATA --sets flood-area --json FILE` wrote for the shipped model.
    """
    groups = json.loads(baseline.read_text())["pictures"]
    scored = {name: iou for group in groups.values() for name, (iou, _) in group.items()}
    with (data / "flood-area" / "splits.csv").open() as file:
        names = [row["name"] for row in csv.DictReader(file) if row["split"] == "val"]
    found = []
    for name in names:
        mask = data / "flood-area" / "masks" / f"{name}.png"
        if halved(read(mask))[1] >= LEAST_HALF:
            found.append(Picture(data / "flood-area" / "images" / f"{name}.jpg", mask, PHOTO_GSD_M, scored[name]))
    return {one.path.stem: [one] for one in sorted(found, key=lambda one: one.iou)[:PHOTOS]}


def halved(mask: Codes) -> tuple[tuple[slice, slice], float]:
    """The left or the upper half of a picture, whichever divides its water more evenly, and the smaller share of it."""
    rows, cols = mask.shape
    shares = {}
    for half in ((slice(0, rows), slice(0, cols // 2)), (slice(0, rows // 2), slice(0, cols))):
        share = float((mask[half] == 1).sum() / max((mask == 1).sum(), 1))
        shares[min(share, 1 - share)] = half
    best = max(shares)
    return shares[best], best


def assembled(name: str, parts: Sequence[Picture], folder: Path, *, flip: bool = False) -> Half:
    """Write a scene of pictures side by side; every picture is cut where both halves have the most water.

    The left or upper half is corrected; with `flip`, the other one.
    """
    rgbs = [np.asarray(Image.open(one.path).convert("RGB")) for one in parts]
    masks = [read(one.mask) for one in parts]
    height, width = max(len(one) for one in rgbs), sum(one.shape[1] for one in rgbs) + GAP * (len(rgbs) - 1)
    rgb, alpha = np.zeros((3, height, width), np.uint8), np.zeros((height, width), np.uint8)
    reference, corrected = np.full((height, width), 255, np.uint8), np.zeros((height, width), bool)
    left, pieces = 0, []
    for picture, mask in zip(rgbs, masks, strict=True):
        rows, cols = picture.shape[:2]
        where = np.s_[:rows, left : left + cols]
        rgb[:, *where], alpha[where], reference[where] = picture.transpose(2, 0, 1), 255, mask
        half = halved(mask)[0]
        if flip:
            half = _rest(half[0], rows), _rest(half[1], cols)
        pieces.append((half[0], slice(left + half[1].start, left + half[1].stop)))
        corrected[pieces[-1]] = True
        left += cols + GAP
    path, gsd_m = folder / f"{name.replace(' ', '_')}.tif", float(np.mean([one.gsd_m for one in parts]))
    with rasterio.open(
        path, "w", driver="GTiff", count=4, height=height, width=width, dtype="uint8", crs="EPSG:32616",
        transform=Affine(gsd_m, 0, 500_000, 0, -gsd_m, 4_000_000), photometric="RGB", alpha="YES",
    ) as dataset:  # fmt: skip
        dataset.write(rgb, [1, 2, 3])
        dataset.write(alpha, 4)
    return Half(name, path, reference, corrected, tuple(pieces))


def _rest(part: slice, length: int) -> slice:
    """What a half of rows or columns leaves; all, if it is all."""
    return part if part.stop == length else slice(part.stop, length)


def simulated(half: Half, codes: Codes, path: Path) -> int:
    """Draw corrections of the corrected half into a GeoPackage; returns their number. Oracle: from the reference."""
    with rasterio.open(half.path) as dataset:
        transform, crs = dataset.transform, dataset.crs
    rows = []
    for piece in half.pieces:
        reference, called = half.reference[piece], codes[piece]
        seen, flood = (reference <= 1) & (called <= 100), called >= 50
        least = LEAST_AREA * reference.size
        for label, count, where in (
            (1, WRONG, seen & (reference == 1) & ~flood), (0, WRONG, seen & (reference == 0) & flood),
            (1, RIGHT, seen & (reference == 1) & flood), (0, RIGHT, seen & (reference == 0) & ~flood),
        ):  # fmt: skip
            right = count == RIGHT
            for polygon in _discs(where, count, least) if right else _outlines(where, count, least):
                moved = shapely.affinity.translate(polygon, piece[1].start or 0, piece[0].start or 0)
                placed = shapely.affinity.affine_transform(moved, transform.to_shapely())
                rows.append({"label": label, "geometry": placed})
    geopandas.GeoDataFrame(rows, crs=crs).to_file(path, layer="corrections")
    return len(rows)


def _outlines(where: NDArray[np.bool_], count: int, least: float) -> Iterator[shapely.Polygon]:
    """Rough outlines of the largest regions, a little inside them, as a person draws."""
    inner = ndimage.binary_opening(ndimage.binary_erosion(where, iterations=2), iterations=2)
    labels, number = ndimage.label(inner)
    sizes = np.bincount(labels.ravel(), minlength=number + 1)[1:]
    for index in np.argsort(-sizes, kind="stable")[:count]:
        if sizes[index] >= least:
            part = (labels == index + 1).astype(np.uint8)
            outlines = [shapely.geometry.shape(one) for one, value in shapes(part, part == 1) if value]
            yield max(outlines, key=lambda one: one.area).simplify(3.0)


def _discs(where: NDArray[np.bool_], count: int, least: float) -> Iterator[shapely.Polygon]:
    """Discs at the places that lie deepest inside."""
    depth = ndimage.distance_transform_edt(np.pad(where, 1))[1:-1, 1:-1]
    rows, cols = np.ogrid[: where.shape[0], : where.shape[1]]
    for _ in range(count):
        row, col = np.unravel_index(int(depth.argmax()), depth.shape)
        radius = min(depth[row, col] - 1, (where.size * 0.01) ** 0.5)
        if np.pi * radius**2 < least:
            return
        yield shapely.Point(col + 0.5, row + 0.5).buffer(radius)
        depth[(rows - row) ** 2 + (cols - col) ** 2 < (4 * radius) ** 2] = 0


def iou(codes: Codes, reference: Codes, where: NDArray[np.bool_]) -> float:
    """IoU at 50 per cent on the pixels of `where`."""
    scored = where & (codes <= 100) & (reference <= 1)
    flood, water = (codes >= 50) & scored, (reference == 1) & scored
    return float((flood & water).sum() / max((flood | water).sum(), 1))


def brier(codes: Codes, reference: Codes, where: NDArray[np.bool_]) -> float:
    """Brier score: mean squared difference of probability and reference."""
    scored = where & (codes <= 100) & (reference <= 1)
    p = codes[scored] / 100
    return float(((p - (reference[scored] == 1)) ** 2).mean())


def run(half: Half, folder: Path, base: str, tuning: Tuning, options: AdaptOptions) -> dict[str, float | int | str]:
    """Adapt to one half of a scene, and score the other half before and after."""
    model = load_segmenter(resolve(base), "cpu")
    before = segmented(half.path, model)
    edits, out = folder / f"{half.path.stem}.gpkg", folder / f"{half.path.stem}.safetensors"
    count, began = simulated(half, before, edits), time.monotonic()
    result = adapt_model(half.path, edits, out, options, tuning=tuning, device="cpu")
    seconds = time.monotonic() - began
    print(f"{half.name}: {result.line()}", flush=True)
    after = segmented(half.path, load_segmenter(resolve(out), "cpu")) if out.exists() else before
    other = ~half.corrected
    return {
        "scene": half.name, "polygons": count,
        "corrected half": iou(before, half.reference, half.corrected),
        "after": iou(after, half.reference, half.corrected),
        "other half": iou(before, half.reference, other), "after ": iou(after, half.reference, other),
        "Brier": brier(before, half.reference, other), " after": brier(after, half.reference, other),
        "kept out": result.before.value if result.before else float("nan"),
        "after  ": result.after.value if result.after else float("nan"),
        "gain": result.gain if result.gain is not None else float("nan"),
        "changed": result.changed_elsewhere,
        "says": {True: "helped", False: "did not help", None: "unknown"}[result.helped], "seconds": round(seconds),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--baseline", type=Path, required=True, help="written by accuracy.py DATA --sets nadir --json")
    parser.add_argument("--base", default="finetuned")
    parser.add_argument("--set", choices=["scored", "tuning", "photos"], default="scored")
    parser.add_argument("--flip", action="store_true", help="correct the other half, and score the first")
    parser.add_argument("--setting", nargs="*", default=[], metavar="NAME=VALUE", help="other settings of Tuning")
    parser.add_argument("--scenes", nargs="*", help="names of the scenes; by default all of the set")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    settings = {name: json.loads(value) for name, value in (one.split("=") for one in given.setting)}
    settings = {name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()}
    options, rows = AdaptOptions(base=given.base, even_if_worse=True), []
    with tempfile.TemporaryDirectory() as folder:
        scenes = (
            photos(given.data, given.baseline) if given.set == "photos"
            else chosen(pictures(given.data, given.baseline), given.set)
        )  # fmt: skip
        for name, parts in scenes.items():
            if given.scenes and name not in given.scenes:
                continue
            half = assembled(name, parts, Path(folder), flip=given.flip)
            rows.append(run(half, Path(folder), given.base, Tuning(**settings), options))
    print(table(rows))
    better = sum(row["after "] > row["other half"] for row in rows)
    print(f"better on the other half: {better} of {len(rows)}")
    for says in ("helped", "did not help", "unknown"):
        gains = [row["after "] - row["other half"] for row in rows if row["says"] == says]
        print(f"it says: {says}: {len(gains)}; better on the other half: {sum(gain > 0 for gain in gains)} of them")
    if given.json:
        given.json.write_text(json.dumps({"tuning": asdict(Tuning(**settings)), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
