"""Labelled pictures, and views of them, as arrays."""

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
"""How many times coarser the far view of a pair is than the near one; `scales.COARSE_FACTOR` lies between."""
PLAIN_FACTOR = 4
"""As `scales.COARSE_FACTOR`: a power of two, so that a level of the picture's pyramid is the far view."""


@dataclass(frozen=True, slots=True)
class Views:
    """A batch of views."""

    rgb: Tensor
    """float32 (B, 3, size, size), 0 to 255; 0 outside the picture."""
    target: Tensor
    """float32 (B, size, size): the flood share of each pixel."""
    scored: Tensor
    """bool (B, size, size)."""
    gsd_m: Tensor
    """float32 (B,): metres a pixel, 0 where the network is not told."""

    def to(self, device: torch.device) -> Views:
        return Views(*(x.to(device) for x in (self.rgb, self.target, self.scored, self.gsd_m)))

    def __getitem__(self, part: slice) -> Views:
        """Some views of the batch."""
        return Views(self.rgb[part], self.target[part], self.scored[part], self.gsd_m[part])


@dataclass(frozen=True, slots=True)
class Pairs:
    """The same ground twice: from far, with its surroundings, and a part of it from near."""

    far: Views
    near: Views
    near_xy: Tensor
    """(B, 2): centre of the near view in pixels of the far one, counted from the far one's centre."""
    factor: Tensor
    """(B,): near pixels per far pixel."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled picture."""

    name: str
    rgb: NDArray[np.uint8]
    """(3, height, width)."""
    mask: NDArray[np.uint8]
    """(height, width): 1 flood, 0 dry, 255 not scored."""
    place: str = ""
    """Where it was taken. Places are drawn alike, however many pictures there are of each; "": one by itself."""
    gsd_m: float = 0.0
    """Metres a pixel; 0: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Pictures of one kind, and how they may be drawn."""

    name: str
    samples: Sequence[Sample]
    share: float
    """Share of the views that come from this source."""
    from_above: bool
    """Straight-down pictures have no up: they are turned by any angle. Oblique ones are tilted by a few degrees."""
    zoom: tuple[float, float] = (0.6, 1.6)
    """Range of source pixels per pixel of a near view."""
    factor: tuple[float, float] = FAR_FACTORS
    """Range of near pixels per far pixel. Pictures too small to be shrunk so much are seen twice from near."""
    rim: float = 1.6
    """Most that a far view may be wider than its picture: what is mostly empty teaches little."""
    plain: float = 0.0
    """Share of the pairs seen as a scene is when it is segmented: pixel for pixel, from far by `PLAIN_FACTOR`, turned
    by right angles at most, half of them in the light they came in. Resampling blurs what is a pixel wide."""
    wet: float = 0.0
    """Share of the pairs that seek flood, for sources with little of it: pictures with more are drawn more often, and
    of sixteen places in the far view the first that is flooded."""
    augment: Augment = "full"
    """How views are changed; but for `full`, all of them are plain."""
    repainted: float = 0.0
    """Share of the pairs whose flood is painted in other colours of water: for pictures of few kinds of water."""


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """A picture as uint8 (3, height, width)."""
    with Image.open(path) as image:
        return np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1))


def read_mask(path: Path) -> NDArray[np.uint8]:
    """A mask as uint8 (height, width), values as stored."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L") if image.mode not in ("L", "P", "1") else image).astype(np.uint8)
