"""Swapped masks: pairs of pictures with each other's mask, found by comparing predictions with all masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from floodmap.masks.audit import Finding
from floodmap.masks.rules import Codes
from floodmap.strips.codes import FLOOD, UNOBSERVED

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
SWAPPED_IOU = 0.25
"""Masks are swapped if a prediction's IoU is below this with its own mask, and above twice this with the other."""
SIDE = 64
"""Rows and columns at which masks are compared: masks of different pictures differ by more than their outlines."""
MOST = 2000
"""Most pictures of one size that are compared, those of lowest IoU; a model wrong on more proves nothing."""


def shrunk(codes: Codes, shape_hw: tuple[int, int]) -> Codes:
    """Downsample codes by nearest neighbour: the code at the centre of each new pixel."""
    rows, cols = ((np.arange(n) * 2 + 1) * length // (2 * n) for n, length in zip(shape_hw, codes.shape, strict=True))
    return codes[np.ix_(rows, cols)]


def swapped_masks(
    names: Sequence[str], predicted: Sequence[Codes], masks: Sequence[Codes], shapes_hw: Sequence[tuple[int, int]]
) -> Iterator[Finding]:
    """Find pairs of pictures of one size whose masks fit each other's picture far better than their own.

    Only pictures whose own mask does not fit are compared, and only with pictures of the same size (others would not
    have passed the audit). All are compared at `SIDE` x `SIDE` pixels at once, by matrix products.

    Args:
        names: names of the pictures.
        predicted: a model's prediction for each, uint8 (h, w) of FLOOD, DRY and UNOBSERVED.
        masks: the mask of each, uint8 (h, w), of any size.
        shapes_hw: height and width of each picture.
    """
    if not names:
        return
    predicted_wet, labelled_wet, scored = (
        np.stack(parts) for parts in zip(*map(_as_rows, predicted, masks), strict=True)
    )
    own = _iou((predicted_wet & labelled_wet).sum(axis=1), ((predicted_wet & scored) | labelled_wet).sum(axis=1))
    suspects = np.flatnonzero(own < SWAPPED_IOU)
    for shape_hw in sorted({shapes_hw[i] for i in suspects.tolist()}):
        alike = np.array([i for i in suspects.tolist() if shapes_hw[i] == shape_hw])
        alike = np.sort(alike[np.argsort(own[alike], kind="stable")[:MOST]])
        for i, j in _mutual_best(predicted_wet[alike], labelled_wet[alike], scored[alike]):
            one, other = names[alike[i]], names[alike[j]]
            yield Finding(
                kind="swapped", name=one, text=f"its mask seems to be that of {other}, and the other way round"
            )


def _as_rows(predicted: Codes, mask: Codes) -> tuple[Bools, Bools, Bools]:
    """Predicted flood, labelled flood, and labelled pixels of one picture, bool (SIDE * SIDE,) each."""
    predicted_wet, labelled_wet = (shrunk(codes, (SIDE, SIDE)).ravel() for codes in (predicted, mask))
    return predicted_wet == FLOOD, labelled_wet == FLOOD, labelled_wet != UNOBSERVED


def _mutual_best(predicted_wet: Bools, labelled_wet: Bools, scored: Bools) -> list[tuple[int, int]]:
    """Pairs of rows that are each other's best match."""
    p, m, s = (rows.astype(np.float32) for rows in (predicted_wet, labelled_wet, scored))
    hit = p @ m.T
    fit = _iou(hit, p @ s.T + m.sum(axis=1) - hit)
    both = np.minimum(fit, fit.T)
    np.fill_diagonal(both, 0)
    best = both.argmax(axis=1)
    found = enumerate(best.tolist())
    return [(i, j) for i, j in found if i < j and best[j] == i and both[i, j] > 2 * SWAPPED_IOU]


def _iou(hit: NDArray[Any], union: NDArray[Any]) -> Floats:
    """Intersection over union, from pixel counts; 1 where there is no flood in either."""
    ones = np.ones(union.shape, np.float32)
    return np.asarray(np.divide(hit.astype(np.float32), union.astype(np.float32), out=ones, where=union > 0))
