"""Labelled pictures as arrays (`Sample`, `Source`), and batches of training views of pictures (`Views`, `Pairs`)."""

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
"""Mask value of pixels that do not count in the loss: outside the picture, or without a label."""
FAR_FACTORS = (3.0, 5.0)
"""Range of the ratio of pixel sizes, far view to near view; it includes `scales.COARSE_FACTOR`."""
PLAIN_FACTOR = 4
"""Ratio of pixel sizes, far view to near view, in pairs without resampling; equal to `scales.COARSE_FACTOR`.
It is a power of two, so that the far view has the pixels of a level of the image pyramid."""


@dataclass(frozen=True, slots=True)
class Views:
    """Batch of B square views of labelled pictures."""

    rgb: Tensor
    """float32 (B, 3, size, size), 0 to 255; 0 outside the picture."""
    target: Tensor
    """float32 (B, size, size), 0 to 1: flooded share of each pixel."""
    scored: Tensor
    """bool (B, size, size), True where a pixel has a label and counts in the loss."""
    gsd_m: Tensor
    """float32 (B,): ground sample distance as input of the network, in metres; 0 if it is withheld or unknown."""

    def to(self, device: torch.device) -> Views:
        """Return the views on a device."""
        return Views(*(x.to(device) for x in (self.rgb, self.target, self.scored, self.gsd_m)))

    def __getitem__(self, part: slice) -> Views:
        """Return a slice of the batch."""
        return Views(self.rgb[part], self.target[part], self.scored[part], self.gsd_m[part])


@dataclass(frozen=True, slots=True)
class Pairs:
    """Batch of B pairs of views of the same ground: a far view, and a near view of a part of the far view."""

    far: Views
    near: Views
    near_xy: Tensor
    """(B, 2): centre of the near view, x first, in pixels of the far view, relative to the far view's centre."""
    factor: Tensor
    """(B,): pixel size of the far view divided by the pixel size of the near view."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Labelled picture."""

    name: str
    rgb: NDArray[np.uint8]
    """RGB, uint8 (3, height, width), 0 to 255."""
    mask: NDArray[np.uint8]
    """uint8 (height, width): 1 flood, 0 dry, 255 (`IGNORED`) without a label."""
    place: str = ""
    """Name of the place; "": a place of its own. All places are drawn equally often, for any number of pictures."""
    gsd_m: float = 0.0
    """Ground sample distance in metres; 0: unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Set of samples, with the frequency and the transformations of the views that are drawn from it."""

    name: str
    samples: Sequence[Sample]
    share: float
    """Share of the pairs of views that are drawn from this source, relative to the shares of the other sources."""
    from_above: bool
    """Whether pictures are nadir, and rotated by any angle. Oblique pictures are rotated by a few degrees only."""
    zoom: tuple[float, float] = (0.6, 1.6)
    """Range of the zoom: pixels of the picture per pixel of the near view."""
    factor: tuple[float, float] = FAR_FACTORS
    """Range of the ratio of pixel sizes, far view to near view; it begins at 1 if pictures are too small to shrink."""
    rim: float = 1.6
    """Largest ratio of the far view's side to the picture's side, because mostly empty views are of little use."""
    plain: float = 0.0
    """Share of the pairs without resampling, as in `segment`; resampling blurs details that are one pixel wide.

    The near view has the picture's pixels. The far view is shrunk by `PLAIN_FACTOR`. Views are only flipped and, if
    nadir, rotated by right angles. Half of these pairs keep the exposure and the colours of the picture.
    """
    wet: float = 0.0
    """Share of the pairs that are drawn towards flood, for sources with little flood.

    Pictures with more flood are drawn more often, and the near view is centred on flood (in up to 16 trials).
    """
    augment: Augment = "full"
    """Augmentation that is applied; see `FineTuneOptions`. With any value but `full`, no pair is resampled."""
    repainted: float = 0.0
    """Share of the pairs whose flood water is repainted (`augment.Water`), for sources with few types of water."""


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Read a picture as uint8 RGB (3, height, width)."""
    with Image.open(path) as image:
        return np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1))


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Read a mask as uint8 (height, width), with the values as stored."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L") if image.mode not in ("L", "P", "1") else image).astype(np.uint8)
