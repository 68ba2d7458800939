"""Measures of how difficult flood is to find in a picture: area, shape, texture and contrast of the flood."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from floodmap.evaluation.counting import boundary
from floodmap.masks.rules import Codes
from floodmap.strips.codes import FLOOD, UNOBSERVED


@dataclass(frozen=True, slots=True, kw_only=True)
class Difficulty:
    """Measures of how difficult flood is to find in one picture.

    If the picture has no flood, all measures but `flood_share` are NaN. Without dry ground, `contrast` is NaN.
    """

    flood_share: float
    """Share of flood pixels among the pixels with a label, 0 to 1."""
    largest_share: float
    """Share of the flood pixels that lie in the largest connected component, 0 to 1."""
    irregularity: float
    """Perimeter of the flood, divided by the perimeter of a disc of equal area: 1 divided by the square root of the
    Polsby-Popper score (1991)."""
    texture: float
    """Standard deviation of the grey values (0 to 255) of the 9 x 9 pixels around a pixel, averaged over all flood
    pixels."""
    contrast: float
    """Distance between the mean colours of flood and of dry ground, in units of the standard deviation within the two
    classes.

    For each band, Fisher's criterion (1936) is the squared difference of the two means, divided by the variance
    within the classes. This variance is the mean of the variances of flood and of dry ground, weighted by the numbers
    of pixels of the two classes. If this mean is less than 1, the variance is set to 1. The contrast is the square root
    of the mean of the criterion over red, green and blue."""


def measure_difficulty(rgb: NDArray[np.uint8], reference: Codes) -> Difficulty:
    """Compute the measures of difficulty of one picture.

    Args:
        rgb: red, green and blue of the picture, uint8 (3, h, w).
        reference: classes of the pixels, uint8 (h, w) of FLOOD, DRY and UNOBSERVED.
    """
    scored = reference != UNOBSERVED
    flood, dry = reference == FLOOD, scored & (reference != FLOOD)
    n_flood, n_scored = int(flood.sum()), int(scored.sum())
    if not n_flood:
        nan = float("nan")
        return Difficulty(flood_share=0.0, largest_share=nan, irregularity=nan, texture=nan, contrast=nan)
    parts = ndimage.label(flood)[0]
    grey = rgb.mean(axis=0, dtype=np.float64)
    spread = np.sqrt(np.maximum(ndimage.uniform_filter(grey**2, 9) - ndimage.uniform_filter(grey, 9) ** 2, 0))
    return Difficulty(
        flood_share=n_flood / n_scored,
        largest_share=float(np.bincount(parts[flood]).max() / n_flood),
        irregularity=float(boundary(flood, scored).sum() / (2 * np.sqrt(np.pi * n_flood))),
        texture=float(spread[flood].mean()),
        contrast=_contrast(rgb[:, flood].astype(np.float64), rgb[:, dry].astype(np.float64)),
    )


def _contrast(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the contrast of two classes; for the formula see `Difficulty.contrast`.

    Args:
        one: colours of the pixels of one class, float64 (3, n), 0 to 255.
        other: colours of the pixels of the other class, float64 (3, m), 0 to 255.

    Returns:
        The contrast, 0 or more; NaN if one of the classes has no pixel.
    """
    if not one.size or not other.size:
        return float("nan")
    within = (one.var(axis=1) * one.shape[1] + other.var(axis=1) * other.shape[1]) / (one.shape[1] + other.shape[1])
    apart = (one.mean(axis=1) - other.mean(axis=1)) ** 2
    return float(np.sqrt((apart / np.maximum(within, 1.0)).mean()))
