"""Division of corrections into a part to tune on and a part that is kept out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from floodmap.errors import LabelError
from floodmap.training.adaptation.corrections import KEPT, Corrections, without_ignored

CELLS = 8
"""Number of blocks along the longer side of the extent of all corrections. Polygons are cut at the sides of blocks."""
MIN_BLOCK = 96
"""Shortest side of a block, in pixels of the scene."""
MIN_PIXELS = 400
"""Least area of each class that is corrected at all, in pixels of the scene, in each of the two parts."""
NAMES = ("dry ground", "flood", "accepted ground")
"""Names of the labels 0, 1 and 2, for messages."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """Corrections in two parts that share no pixel."""

    tuning: Corrections
    """Corrections on which the model is tuned."""
    kept_out: Corrections
    """Corrections on which it is scored, and nothing else."""


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
    pieces, block = _pieces(without_ignored(corrections))
    areas = np.zeros((block.max(initial=-1) + 1, len(NAMES)))
    np.add.at(areas, (block, pieces.labels), shapely.area(pieces.shapes))
    kept = _deal(areas, share, np.random.default_rng(seed))
    parts = Division(tuning=pieces.subset(~kept[block]), kept_out=pieces.subset(kept[block]))
    total = areas.sum(axis=0)
    for side, name in ((areas[~kept].sum(axis=0), "tune on"), (areas[kept].sum(axis=0), "keep out")):
        for label in np.flatnonzero((total > 0) & (side < MIN_PIXELS)):
            raise LabelError(
                f"too few corrections: {side[label]:.0f} pixels of {NAMES[label]} to {name}, at least {MIN_PIXELS} are "
                f"needed; draw more of it, in several places"
            )
    return parts


def areas_of(corrections: Corrections) -> dict[str, int]:
    """Return the area of each class in pixels, by name: flood, dry and accepted."""
    area = shapely.area(corrections.shapes)
    names = {"dry": 0, "flood": 1, "accepted": KEPT}
    return {name: round(float(area[corrections.labels == label].sum())) for name, label in names.items()}


def _pieces(corrections: Corrections) -> tuple[Corrections, NDArray[np.int64]]:
    """Cut corrections at the sides of blocks; return the pieces, and the index of the block of each, int64 (n,)."""
    west, north, east, south = shapely.total_bounds(corrections.shapes)
    side = max(MIN_BLOCK, max(east - west, south - north) / CELLS)
    shapes, labels, blocks = [], [], []
    columns = int((east - west) // side) + 1
    for row in range(int((south - north) // side) + 1):
        for column in range(columns):
            left, top = west + column * side, north + row * side
            cut = shapely.intersection(corrections.shapes, shapely.box(left, top, left + side, top + side))
            for index in np.flatnonzero(shapely.area(cut) > 0):
                shapes.append(cut[index])
                labels.append(corrections.labels[index])
                blocks.append(row * columns + column)
    pieces = Corrections(shapes=np.array(shapes, object), labels=np.array(labels, np.int64))
    return pieces, np.unique(np.array(blocks, np.int64), return_inverse=True)[1]


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
    return kept
