"""Division of corrections into parts, each of which is kept out once."""

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
"""Least area of each class that is corrected at all, in pixels of the scene, outside of each part."""
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


@dataclass(frozen=True, slots=True)
class Division:
    """Corrections in parts that share no block. In turn, each part is kept out of the tuning."""

    whole: Part
    """All corrections."""
    parts: tuple[Part, ...]
    """The parts; none if there are too few corrections to keep some out."""

    def numbered(self) -> Corrections:
        """Return the blocks of all parts; the label of a block is the number of its part."""
        blocks = [part.blocks for part in self.parts] or [self.whole.blocks]
        labels = [np.full(len(one), number, np.int64) for number, one in enumerate(blocks)]
        shapes = np.concatenate([one.shapes for one in blocks])
        return Corrections(shapes=shapes, labels=np.concatenate(labels))


def divide(corrections: Corrections, *, count: int, seed: int) -> Division:
    """Divide corrections by place.

    The scene is divided into square blocks. All corrections of a block go to the same part. The largest blocks come
    first, and each goes to the part that lacks its classes most. Blocks of the same size are drawn at random.

    Args:
        corrections: the corrections.
        count: number of parts, 2 or more.
        seed: seed of the random order of the blocks.

    Raises:
        LabelError: there are too few corrections: without one of the parts, too little of a class is left.
    """
    pieces, block, boxes = _pieces(without_ignored(corrections))
    areas = np.zeros((len(boxes), len(NAMES)))
    np.add.at(areas, (block, pieces.labels), shapely.area(pieces.shapes))
    part_of = _deal(areas, count, np.random.default_rng(seed))
    total = areas.sum(axis=0)
    for number in range(count):
        left = areas[part_of != number].sum(axis=0)
        for label in np.flatnonzero((total > 0) & (left < MIN_PIXELS)):
            raise LabelError(
                f"too few corrections: without one of {count} parts, {left[label]:.0f} pixels of {NAMES[label]} are "
                f"left to tune on, at least {MIN_PIXELS} are needed; draw more of it, in several places"
            )
    parts = (_part(pieces, block, boxes, part_of == number) for number in range(count))
    return Division(_part(pieces, block, boxes, part_of >= 0), tuple(part for part in parts if len(part.corrections)))


def undivided(corrections: Corrections) -> Division:
    """Return a division that keeps nothing out."""
    pieces, block, boxes = _pieces(without_ignored(corrections))
    return Division(_part(pieces, block, boxes, np.ones(len(boxes), bool)), ())


def _part(pieces: Corrections, block: NDArray[np.int64], boxes: NDArray[np.object_], chosen: NDArray[np.bool_]) -> Part:
    """Return the part of the chosen blocks, bool (blocks,), for the result of `_pieces`."""
    labels = np.zeros(int(chosen.sum()), np.int64)
    return Part(pieces.subset(chosen[block]), Corrections(shapes=boxes[chosen], labels=labels))


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


def _deal(areas: Floats, count: int, random: np.random.Generator) -> NDArray[np.int64]:
    """Return the part of each block, int64 (blocks,), for areas by block and label, float64 (blocks, labels)."""
    shares = areas / np.maximum(areas.sum(axis=0), 1e-9)
    held = np.zeros((count, areas.shape[1]))
    part_of = np.zeros(len(areas), np.int64)
    order = random.permutation(len(areas))
    # Large blocks first: small ones then even out what is left.
    for index in order[np.argsort(-shares.max(axis=1)[order], kind="stable")]:
        part_of[index] = (held @ shares[index]).argmin()
        held[part_of[index]] += shares[index]
    return part_of
