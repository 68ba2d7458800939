"""Small pictures for the report of a comparison, with the reference, the prediction, the errors or the prompts.

The functions take reduced arrays: `Picture.rgb`, `Picture.reference` and `Trial.preview` (the codes of the prediction)
were shrunk to at most `study.PREVIEW_SIDE` (480) pixels a side.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from floodmap.comparison.study import Picture, Trial
from floodmap.models.prompts import Prompts
from floodmap.output.pages.html import Image8
from floodmap.strips.codes import FIRST_REASON, FLOOD, THRESHOLD, UNOBSERVED

HIT, FALSE, MISSED = (154, 164, 173), (210, 60, 47), (47, 158, 87)
REFERENCE, PREDICTION = (22, 104, 168), (214, 40, 40)
"""RGB colours, 0 to 255: true positive (HIT), false positive (FALSE), false negative (MISSED), flood in the reference
(REFERENCE), and flood in the prediction (PREDICTION)."""


def rgb_of(picture: Picture) -> Image8:
    """Return the RGB of a reduced picture with the bands last: uint8 (height, width, 3), at most 480 pixels a side."""
    return np.ascontiguousarray(picture.rgb.transpose(1, 2, 0))


def _predicted(trial: Trial) -> NDArray[np.bool_]:
    return (trial.preview >= THRESHOLD) & (trial.preview < FIRST_REASON)


def _tinted(rgb: Image8, where: NDArray[np.bool_], colour: tuple[int, int, int], strength: float = 0.55) -> Image8:
    """Return a picture in which a colour is blended into some of the pixels, uint8 (height, width, 3).

    Args:
        rgb: the picture, uint8 (height, width, 3).
        where: bool (height, width), True for pixels that are changed.
        colour: red, green and blue, 0 to 255.
        strength: opacity of the colour, 0 to 1.
    """
    tinted = rgb.astype(np.float32)
    tinted[where] = tinted[where] * (1 - strength) + np.array(colour, np.float32) * strength
    return tinted.astype(np.uint8)


def with_reference(picture: Picture) -> Image8:
    """Return a reduced picture with a tint on the flood of the reference, uint8 (height, width, 3)."""
    return _tinted(rgb_of(picture), picture.reference == FLOOD, REFERENCE, 0.5)


def with_prediction(picture: Picture, trial: Trial) -> Image8:
    """Return a reduced picture with a tint on the predicted flood, uint8 (height, width, 3)."""
    return _tinted(rgb_of(picture), _predicted(trial), PREDICTION, 0.45)


def with_difference(picture: Picture, trial: Trial) -> Image8:
    """Return a reduced picture with true positives, false positives and false negatives tinted, uint8 (h, w, 3).

    Pixels that are unobserved in the reference or in the prediction are not tinted.
    """
    predicted, flood = _predicted(trial), picture.reference == FLOOD
    scored = (picture.reference != UNOBSERVED) & (trial.preview < FIRST_REASON)
    image = _tinted(rgb_of(picture), predicted & flood & scored, HIT)
    image = _tinted(image, predicted & ~flood & scored, FALSE, 0.7)
    return _tinted(image, ~predicted & flood & scored, MISSED, 0.7)


def with_prompts(rgb: Image8, prompts: Prompts, scale: float) -> Image8:
    """Draw prompts on a picture: points as discs (blue: flood, orange: dry), and boxes as yellow outlines.

    Args:
        rgb: the reduced picture, uint8 (height, width, 3).
        prompts: prompts in pixels of the picture in full size.
        scale: width of the reduced picture, divided by the width of the picture in full size.

    Returns:
        A copy of the picture with the prompts, uint8 (height, width, 3).
    """
    image = Image.fromarray(rgb)
    draw = ImageDraw.Draw(image)
    for box in prompts.boxes_xyxy * scale:
        draw.rectangle([float(v) for v in box], outline=(255, 221, 51), width=3)
    for (x, y), label in zip((prompts.points_xy * scale).tolist(), prompts.labels, strict=True):
        draw.ellipse(
            (x - 6, y - 6, x + 6, y + 6), fill=(22, 104, 168) if label else (230, 120, 30), outline="white", width=2
        )
    return np.asarray(image)
