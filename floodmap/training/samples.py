"""Labelled pictures (`Sample`, `Source`) as arrays, and batches of training views of them (`Views`, `Pairs`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from floodmap.options import Augment

IGNORED = 255
"""Mask value of pixels that are not scored: outside the picture, or unlabelled."""
FAR_FACTORS = (3.0, 5.0)
"""Range of the ratio of pixel sizes, far view to near view; `scales.COARSE_FACTOR` lies in it."""
PLAIN_FACTOR = 4
"""That ratio in plain pairs, as `scales.COARSE_FACTOR`: a power of two, so that a pyramid level is the far view."""


@dataclass(frozen=True, slots=True)
class Views:
    """A batch of B square views of labelled pictures."""

    rgb: Tensor
    """float32 (B, 3, size, size), 0 to 255; 0 outside the picture."""
    target: Tensor
    """float32 (B, size, size), 0 to 1: flooded share of each pixel."""
    scored: Tensor
    """bool (B, size, size): pixels that the loss counts."""
    gsd_m: Tensor
    """float32 (B,): ground sample distance given to the network, in metres; 0 where it is withheld or not known."""

    def to(self, device: torch.device) -> Views:
        """The same on a device."""
        return Views(*(x.to(device) for x in (self.rgb, self.target, self.scored, self.gsd_m)))

    def __getitem__(self, part: slice) -> Views:
        """A slice of the batch."""
        return Views(self.rgb[part], self.target[part], self.scored[part], self.gsd_m[part])


@dataclass(frozen=True, slots=True)
class Pairs:
    """A batch of view pairs of the same ground: a far view with its surroundings, and a near view of a part of it."""

    far: Views
    near: Views
    near_xy: Tensor
    """(B, 2): centre of the near view, x first, in pixels of the far view from the far view's centre."""
    factor: Tensor
    """(B,): pixel size of the far view over that of the near view."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled picture."""

    name: str
    rgb: NDArray[np.uint8]
    """uint8 (3, height, width)."""
    mask: NDArray[np.uint8]
    """uint8 (height, width): 1 flood, 0 dry, 255 (`IGNORED`) not scored."""
    place: str = ""
    """Where it was taken; "": a place of its own. Places are drawn equally often, however many pictures each has."""
    gsd_m: float = 0.0
    """Ground sample distance in metres; 0: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A set of samples, how often views are drawn from it, and how these are transformed."""

    name: str
    samples: Sequence[Sample]
    share: float
    """Share of the pairs of views that come from this source; relative to those of the other sources."""
    from_above: bool
    """Nadir pictures, which are rotated by any angle. Others are oblique, and are rotated by a few degrees."""
    zoom: tuple[float, float] = (0.6, 1.6)
    """Range of the zoom: pixels of the picture per pixel of the near view."""
    factor: tuple[float, float] = FAR_FACTORS
    """Range of the ratio of pixel sizes, far view to near view; from 1 up where pictures are too small to shrink."""
    rim: float = 1.6
    """Largest ratio of the far view's side to the picture's: a view that is mostly empty teaches little."""
    plain: float = 0.0
    """Share of the pairs without resampling, as when a scene is segmented; resampling blurs what is a pixel wide.

    The near view has the picture's pixels, the far view is shrunk by `PLAIN_FACTOR`. Rotations are by right angles
    at most; half of these pairs keep their light.
    """
    wet: float = 0.0
    """Share of the pairs drawn towards flood, for sources with little of it.

    Pictures with more flood are drawn more often, and the near view is centred on flood (in up to 16 trials).
    """
    augment: Augment = "full"
    """Which augmentation is applied; with any value but `full` all pairs are plain."""
    repainted: float = 0.0
    """Share of the pairs whose flood water is repainted (`augment.Water`): for pictures of few kinds of water."""


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Read a picture as uint8 RGB (3, height, width)."""
    with Image.open(path) as image:
        return np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1))


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Read a mask as uint8 (height, width); values as stored."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L") if image.mode not in ("L", "P", "1") else image).astype(np.uint8)
