"""Masks that belong to each other's pictures, as predictions tell that are compared with every mask."""

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
"""A model that agrees less than this with a picture's mask, and twice as much with another's, says they are swapped."""
SIDE = 64
"""Rows and columns of what is compared: masks of other pictures differ by more than their outlines."""
MOST = 2000
"""Pictures of one size that are compared with each other, the worst ones; a model wrong on more is no witness."""


def shrunk(codes: Codes, shape_hw: tuple[int, int]) -> Codes:
    """Codes at a lower resolution: the one in the middle of each new pixel."""
    rows, cols = ((np.arange(n) * 2 + 1) * length // (2 * n) for n, length in zip(shape_hw, codes.shape, strict=True))
    return codes[np.ix_(rows, cols)]


def swapped_masks(
    names: Sequence[str], predicted: Sequence[Codes], masks: Sequence[Codes], shapes_hw: Sequence[tuple[int, int]]
) -> Iterator[Finding]:
    """Pairs of pictures of one size whose masks fit each other's picture far better than their own.

    Only pictures whose own mask does not fit are compared, with those of their own size alone (others would not have
    passed the audit), each at `SIDE` x `SIDE` pixels and all at once, as products of matrices.

    Args:
        names: of the pictures.
        predicted: what a model makes of each, uint8 (h, w) of FLOOD, DRY and UNOBSERVED.
        masks: of each picture, (h, w); any size.
        shapes_hw: the pictures' own sizes.
    """
    if not names:
        return
    said, there, seen = (np.stack(parts) for parts in zip(*map(_flat, predicted, masks), strict=True))
    own = _iou((said & there).sum(axis=1), ((said & seen) | there).sum(axis=1))
    suspects = np.flatnonzero(own < SWAPPED_IOU)
    for shape_hw in sorted({shapes_hw[i] for i in suspects.tolist()}):
        alike = np.array([i for i in suspects.tolist() if shapes_hw[i] == shape_hw])
        alike = np.sort(alike[np.argsort(own[alike], kind="stable")[:MOST]])
        for i, j in _exchanged(said[alike], there[alike], seen[alike]):
            one, other = names[alike[i]], names[alike[j]]
            yield Finding(
                kind="swapped", name=one, text=f"its mask seems to be that of {other}, and the other way round"
            )


def _flat(predicted: Codes, mask: Codes) -> tuple[Bools, Bools, Bools]:
    """Flood as predicted, flood as labelled, and what is labelled, a row each."""
    said, there = (shrunk(codes, (SIDE, SIDE)).ravel() for codes in (predicted, mask))
    return said == FLOOD, there == FLOOD, there != UNOBSERVED


def _exchanged(said: Bools, there: Bools, seen: Bools) -> list[tuple[int, int]]:
    """Pairs of rows of which each is the other's best."""
    p, m, s = (rows.astype(np.float32) for rows in (said, there, seen))
    hit = p @ m.T
    fit = _iou(hit, p @ s.T + m.sum(axis=1) - hit)
    both = np.minimum(fit, fit.T)
    np.fill_diagonal(both, 0)
    best = both.argmax(axis=1)
    found = enumerate(best.tolist())
    return [(i, j) for i, j in found if i < j and best[j] == i and both[i, j] > 2 * SWAPPED_IOU]


def _iou(hit: NDArray[Any], union: NDArray[Any]) -> Floats:
    """1 where there is flood in neither."""
    ones = np.ones(union.shape, np.float32)
    return np.asarray(np.divide(hit.astype(np.float32), union.astype(np.float32), out=ones, where=union > 0))
