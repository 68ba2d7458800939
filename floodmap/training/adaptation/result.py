"""Result of an adaptation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from floodmap.training.adaptation.scoring import Score

MIN_GAIN = 0.04
"""Least gain of the IoU on corrections that were kept out for which an adaptation counts as a help: see
docs/lab/adaptation.md for how it was chosen. The gain is the mean of the parts, so that a large part, in which nothing
can be learned, does not hide the others."""
MIN_GAIN_RIGHT = 0.005
"""Least gain of `Score.right` that takes its place where no flood was corrected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation:
    """Weights adapted to a scene, and what they do on corrections that were kept out."""

    path: Path | None
    """File of the new weights, which `segment` takes as model; None: nothing was written, because it did not help."""
    base: str
    """Name or file of the old weights."""
    before: Score | None
    """Score of the old weights on all corrections; None: there were too few to keep a part out."""
    after: Score | None
    """Score on all corrections, each by weights that were tuned without the part in which it lies."""
    gain: float | None
    """Mean gain of the IoU of the parts in which flood was corrected; None: no flood was corrected or kept out."""
    corrected: dict[str, int]
    """Corrected area in pixels, by class: `flood`, `dry` and `accepted`."""
    parts: int
    """Number of parts of the corrections, each of which was kept out once; 0: none."""
    changed_elsewhere: float
    """Share of the ground without a correction, near corrections, that changed between flood and dry, 0 to 1."""
    seconds: float
    """Time of the adaptation, in seconds."""

    @property
    def helped(self) -> bool | None:
        """Whether tuned weights are better on corrections that were kept out; None if none were."""
        if self.before is None or self.after is None:
            return None
        if self.gain is None:
            return self.after.right >= self.before.right + MIN_GAIN_RIGHT
        return self.gain >= MIN_GAIN

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON types."""
        path = None if self.path is None else str(self.path)
        return {**asdict(self), "path": path, "helped": self.helped}

    def line(self) -> str:
        """Return one line that says whether the adaptation helped."""
        if self.before is None or self.after is None:
            return "too few corrections to keep a part out: whether it helped is not known"
        said = {True: "it helped", False: "it did not help"}[bool(self.helped)]
        what = "share right" if self.before.iou is None else "IoU"
        return (
            f"{said}: on corrections kept out {what} {self.after.value:.3f}, before {self.before.value:.3f} "
            f"({_shares(self.before, self.after)})"
        )


def _shares(before: Score, after: Score) -> str:
    """Return the shares of corrected ground that are wrong, before and after."""
    pairs = {
        "missed flood": (before.missed, after.missed), "false flood": (before.false_flood, after.false_flood),
    }  # fmt: skip
    return "; ".join(f"{name} {old:.1%} -> {new:.1%}" for name, (old, new) in pairs.items()
                     if old is not None and new is not None)  # fmt: skip
