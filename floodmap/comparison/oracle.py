"""Oracle prompts: points and boxes that are computed from the reference. A user has no reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from floodmap.errors import PromptError
from floodmap.masks.rules import Codes
from floodmap.models.prompts import Prompts
from floodmap.strips.codes import FLOOD, UNOBSERVED

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class PromptKind:
    """A kind of prompt in a comparison."""

    source: Literal["auto", "none", "points", "box"]
    """Source of the prompts. `auto`: the coarse pass or the unsupervised likelihood, as in `floodmap segment`. `none`:
    no prompts. `points` and `box` are computed from the reference."""
    count: int = 0
    """Number of points; 0 unless the source is `points`. After each point the model predicts again, and the next point
    is placed in an error of this prediction (see `add_point`)."""

    @classmethod
    def parse(cls, text: str) -> PromptKind:
        """Parse a kind of prompt: `auto`, `none`, `point`, `box` or `points:N`, such as `points:8`.

        Raises:
            PromptError: the text is no kind of prompt, or N is not within 1 to `MOST_POINTS`.
        """
        kind, _, number = text.strip().lower().partition(":")
        if kind in ("auto", "none", "box") and not number:
            return cls(kind)  # type: ignore[arg-type]
        if kind == "point" and not number:
            return cls("points", 1)
        if kind == "points" and number.isdigit() and 1 <= int(number) <= MOST_POINTS:
            return cls("points", int(number))
        raise PromptError(
            f"{text!r} is no kind of prompt; choose from auto, none, point, box, points:N (N up to {MOST_POINTS})"
        )

    @property
    def is_oracle(self) -> bool:
        """True if the prompts come from the reference. A user, who has no reference, does not reach the same score."""
        return self.source in ("points", "box")

    def __str__(self) -> str:
        if self.source != "points":
            return self.source
        return "point" if self.count == 1 else f"points:{self.count}"


MOST_POINTS = 64
"""Largest number of points in `points:N`."""


def reference_box(reference: Codes) -> Prompts:
    """Return one box prompt: the bounding box of all flood pixels of a reference.

    Args:
        reference: uint8 (height, width) of FLOOD, DRY and UNOBSERVED.

    Returns:
        Prompts with the box, in pixels of the reference; empty prompts if the reference has no flood.
    """
    rows, cols = (np.flatnonzero((reference == FLOOD).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return Prompts.none()
    return Prompts(boxes_xyxy=np.array([[cols[0], rows[0], cols[-1] + 1, rows[-1] + 1]], np.float32))


def add_point(prompts: Prompts, predicted: Bools | None, reference: Codes) -> Prompts:
    """Add one point prompt in the largest connected area that the model predicted wrongly.

    The point lies at the pixel that is farthest from the edge of the area. The label of the point is the class of this
    pixel in the reference: 1 flood, 0 dry. SAM is trained with the same rule (arXiv:2304.02643, appendix A).

    Args:
        prompts: the prompts so far, in pixels of the picture.
        predicted: predicted flood, bool (height, width). None: nothing was predicted yet; the point then lies in the
            largest connected area of flood.
        reference: uint8 (height, width) of FLOOD, DRY and UNOBSERVED.

    Returns:
        The prompts with one more point, and without the mask prompt. If the prediction has no error, the prompts are
        returned unchanged.
    """
    flood, scored = reference == FLOOD, reference != UNOBSERVED
    found = np.zeros_like(flood) if predicted is None else predicted
    missed, false = _largest(flood & ~found), _largest((scored & ~flood) & found)
    wrong, label = (missed, 1) if missed.sum() >= false.sum() else (false, 0)
    if not wrong.any():
        return prompts
    depth = ndimage.distance_transform_edt(np.pad(wrong, 1))[1:-1, 1:-1]
    row, col = np.unravel_index(int(depth.argmax()), depth.shape)
    return Prompts(
        points_xy=np.append(prompts.points_xy, [[col + 0.5, row + 0.5]], axis=0).astype(np.float32),
        labels=np.append(prompts.labels, label),
        boxes_xyxy=prompts.boxes_xyxy,
    )


def _largest(region: Bools) -> Bools:
    """Return the largest connected component of a region; region and result are bool (height, width)."""
    parts, count = ndimage.label(region)
    if count <= 1:
        return region
    return np.asarray(parts == 1 + int(np.bincount(parts.ravel())[1:].argmax()))
