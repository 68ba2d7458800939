"""Division of corrections into a part to tune on and a part that is kept out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from floodmap.errors import LabelError
from floodmap.training.adaptation.corrections import DRY, FLOOD, KEPT, Corrections, without_ignored

CELLS = 8
"""Number of blocks along the longer side of the extent of all corrections. Polygons are cut at the sides of blocks."""
MIN_BLOCK = 96
"""Shortest side of a block, in pixels of the scene."""
MIN_PIXELS = 400
"""Least area of each class that is corrected at all, in pixels of the scene, in each of the two parts."""
NAMES = ("dry ground", "flood", "accepted ground")
"""Names of the labels 0, 1 and 2, for messages."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the corrections, and the blocks of the scene in which they lie."""

    corrections: Corrections
    blocks: Corrections
    """Squares; their labels have no meaning."""

    def areas(self) -> dict[str, int]:
        """Return the corrected area of each class in pixels, by name: flood, dry and accepted."""
        area, labels = shapely.area(self.corrections.shapes), self.corrections.labels
        names = {"dry": DRY, "flood": FLOOD, "accepted": KEPT}
        return {name: round(float(area[labels == label].sum())) for name, label in names.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """Corrections in two parts that share no block."""

    tuning: Part
    """Corrections on which the model is tuned."""
    kept_out: Part
    """Corrections on which it is scored, and nothing else; empty if there are too few to keep some out."""


def divide(corrections: Corrections, *, share: float, seed: int) -> Division:
    """Divide corrections by place.

    The scene is divided into square blocks. All corrections of a block go to the same part. Blocks are drawn at random,
    and each goes to the part that lacks it more, so that the kept-out part has about its share of each class.

    Args:
        corrections: the corrections.
        share: share of the area of each class that is kept out, 0 to 1.
        seed: seed of the random order of the blocks.

    Raises:
        LabelError: there are too few corrections to keep a part of them out.
    """
    pieces, block, boxes = _pieces(without_ignored(corrections))
    areas = np.zeros((len(boxes), len(NAMES)))
    np.add.at(areas, (block, pieces.labels), shapely.area(pieces.shapes))
    kept = _deal(areas, share, np.random.default_rng(seed))
    sides = [
        Part(pieces.subset(side[block]), Corrections(shapes=boxes[side], labels=np.zeros(int(side.sum()), np.int64)))
        for side in (~kept, kept)
    ]
    total = areas.sum(axis=0)
    for side, name in ((areas[~kept].sum(axis=0), "tune on"), (areas[kept].sum(axis=0), "keep out")):
        for label in np.flatnonzero((total > 0) & (side < MIN_PIXELS)):
            raise LabelError(
                f"too few corrections: {side[label]:.0f} pixels of {NAMES[label]} to {name}, at least {MIN_PIXELS} are "
                f"needed; draw more of it, in several places"
            )
    return Division(tuning=sides[0], kept_out=sides[1])


def undivided(corrections: Corrections) -> Division:
    """Return a division that keeps nothing out."""
    pieces, _, boxes = _pieces(without_ignored(corrections))
    blocks = Corrections(shapes=boxes, labels=np.zeros(len(boxes), np.int64))
    none = Part(pieces.subset(np.zeros(len(pieces), bool)), blocks.subset(np.zeros(len(blocks), bool)))
    return Division(tuning=Part(pieces, blocks), kept_out=none)


def _pieces(corrections: Corrections) -> tuple[Corrections, NDArray[np.int64], NDArray[np.object_]]:
    """Cut corrections at the sides of blocks.

    Returns:
        The pieces, the index of the block of each, int64 (n,), and the blocks that hold pieces, object (blocks,).
    """
    west, north, east, south = shapely.total_bounds(corrections.shapes)
    side = max(MIN_BLOCK, max(east - west, south - north) / CELLS)
    shapes: list[shapely.Geometry] = []
    labels: list[int] = []
    blocks: list[int] = []
    boxes: list[shapely.Geometry] = []
    for top in np.arange(north, south, side):
        for left in np.arange(west, east, side):
            box = shapely.box(left, top, left + side, top + side)
            cut = shapely.intersection(corrections.shapes, box)
            inside = np.flatnonzero(shapely.area(cut) > 0)
            shapes += list(cut[inside])
            labels += list(corrections.labels[inside])
            blocks += [len(boxes)] * len(inside)
            boxes += [box] if len(inside) else []
    pieces = Corrections(shapes=np.array(shapes, object), labels=np.array(labels, np.int64))
    return pieces, np.array(blocks, np.int64), np.array(boxes, object)


def _deal(areas: Floats, share: float, random: np.random.Generator) -> NDArray[np.bool_]:
    """Return which blocks are kept out, bool (blocks,), for areas by block and label, float64 (blocks, labels)."""
    total = np.maximum(areas.sum(axis=0), 1e-9)
    kept = np.zeros(len(areas), bool)
    order = random.permutation(len(areas))
    # Large blocks first: small ones then even out what is left.
    for index in order[np.argsort(-(areas / total).max(axis=1)[order], kind="stable")]:
        now = areas[kept].sum(axis=0) / total
        after = now + areas[index] / total
        kept[index] = np.abs(after - share).sum() < np.abs(now - share).sum()
    for label in np.flatnonzero(areas.any(axis=0)):
        enough = np.flatnonzero(areas[:, label] >= MIN_PIXELS)
        # Few blocks hold this class: at least the smallest that is large enough is kept out.
        if areas[kept, label].sum() < MIN_PIXELS and len(enough) > 1:
            kept[enough[areas[enough, label].argmin()]] = True
    return kept
