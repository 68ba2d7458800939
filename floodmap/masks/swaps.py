"""Detection of swapped masks: pairs of pictures in which each picture has the mask of the other picture.

Predictions of a model are compared with the masks of all pictures of the same size.
"""

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
"""Limit of IoU for swapped masks.

If two masks are swapped, the IoU of each prediction with the mask of the same picture is below this limit. The IoU of
each prediction with the mask of the other picture is above twice this limit.
"""
SIDE = 64
"""Number of rows and of columns to which masks are downsampled for the comparison.

Small details of the outlines of flood are lost at this size. The comparison does not need these details, because masks
of different pictures differ in large areas.
"""
MOST = 2000
"""Largest number of pictures of one size that are compared with each other.

If more pictures of one size have an IoU below `SWAPPED_IOU`, only those with the lowest IoU are compared. So many low
values show that the model fails on these pictures, not that masks are swapped. The limit bounds the time and the
memory, because the comparison of n pictures computes arrays of n x n values.
"""


def shrunk(codes: Codes, shape_hw: tuple[int, int]) -> Codes:
    """Downsample a mask, or the codes of a scene, by nearest neighbour at the centre of each new pixel.

    Args:
        codes: uint8 (height, width): FLOOD, DRY and UNOBSERVED in a mask, or codes (see `strips.codes`).
        shape_hw: number of rows and number of columns of the result.

    Returns:
        uint8 array of the shape `shape_hw`.
    """
    rows, cols = ((np.arange(n) * 2 + 1) * length // (2 * n) for n, length in zip(shape_hw, codes.shape, strict=True))
    return codes[np.ix_(rows, cols)]


def swapped_masks(
    names: Sequence[str], predicted: Sequence[Codes], masks: Sequence[Codes], shapes_hw: Sequence[tuple[int, int]]
) -> Iterator[Finding]:
    """Find pairs of pictures of the same size with swapped masks, and yield one finding per pair.

    A picture is compared only if the IoU of the prediction with the mask of the same picture is below `SWAPPED_IOU`.
    Pictures of different sizes are not compared. If masks without a CRS are swapped between two such pictures, each
    mask differs in size from its picture, and `audit.audit` reports each of them with a finding of the kind "size". All
    pictures of one size are compared at the same time by matrix products, at `SIDE` x `SIDE` pixels.

    Args:
        names: names of the pictures.
        predicted: prediction of a model for each picture, uint8 (h, w) of FLOOD, DRY and UNOBSERVED, at any resolution.
        masks: mask of each picture, uint8 (h, w) of FLOOD, DRY and UNOBSERVED, at any resolution.
        shapes_hw: height and width in pixels of each picture at full resolution.

    Yields:
        A finding of the kind "swapped" under the name of the first picture; the text names the second picture.
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
                kind="swapped", name=one, text=f"its mask and the mask of {other} seem to be exchanged: check both"
            )


def _as_rows(predicted: Codes, mask: Codes) -> tuple[Bools, Bools, Bools]:
    """Downsample the prediction and the mask of one picture to `SIDE` x `SIDE` pixels, as three rows of booleans.

    Returns:
        Three arrays, each bool (SIDE * SIDE,): pixels of predicted flood, pixels with the label flood, and pixels with
        a label (flood or dry).
    """
    predicted_wet, labelled_wet = (shrunk(codes, (SIDE, SIDE)).ravel() for codes in (predicted, mask))
    return predicted_wet == FLOOD, labelled_wet == FLOOD, labelled_wet != UNOBSERVED


def _mutual_best(predicted_wet: Bools, labelled_wet: Bools, scored: Bools) -> list[tuple[int, int]]:
    """Find pairs of pictures in which each picture has its largest mutual IoU with the other picture.

    The mutual IoU of pictures i and j is the lower of two IoU: prediction i with mask j, and prediction j with mask i.

    Args:
        predicted_wet: bool (n, SIDE * SIDE), predicted flood of each picture.
        labelled_wet: bool (n, SIDE * SIDE), labelled flood of each picture.
        scored: bool (n, SIDE * SIDE), True for pixels with a label.

    Returns:
        Indices (i, j) of the two pictures of each pair, i < j. The mutual IoU of each pair is above `2 * SWAPPED_IOU`.
    """
    p, m, s = (rows.astype(np.float32) for rows in (predicted_wet, labelled_wet, scored))
    hit = p @ m.T
    fit = _iou(hit, p @ s.T + m.sum(axis=1) - hit)
    both = np.minimum(fit, fit.T)
    np.fill_diagonal(both, 0)
    best = both.argmax(axis=1)
    found = enumerate(best.tolist())
    return [(i, j) for i, j in found if i < j and best[j] == i and both[i, j] > 2 * SWAPPED_IOU]


def _iou(hit: NDArray[Any], union: NDArray[Any]) -> Floats:
    """Return `hit / union`, float32, for two arrays of pixel counts of the same shape; 1 where `union` is 0."""
    ones = np.ones(union.shape, np.float32)
    return np.asarray(np.divide(hit.astype(np.float32), union.astype(np.float32), out=ones, where=union > 0))
