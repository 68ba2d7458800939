"""Labelled pictures in memory (`Sample`, `Source`), and batches of views of these pictures (`Views`, `Pairs`)."""

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
"""Range of the factor of a pair: pixel size of the far view divided by pixel size of the near view.
The range includes `scales.COARSE_FACTOR`."""
PLAIN_FACTOR = 4
"""Factor of the pairs that are drawn without interpolation (see `Source.plain`), equal to `scales.COARSE_FACTOR`.

The factor is the pixel size of the far view divided by the pixel size of the near view. It is a power of two, because
far views are drawn from copies of the picture at 1/2, 1/4 and 1/8 of the size. With the factor 4, the pixels of the far
view are the pixels of the copy at 1/4 of the size. Sources whose `factor` begins at 1 use 1 instead."""


@dataclass(frozen=True, slots=True)
class Views:
    """Batch of B square views of labelled pictures, with sides of `size` pixels."""

    rgb: Tensor
    """RGB, float32 (B, 3, size, size), 0 to 255; 0 on pixels that are not scored."""
    target: Tensor
    """Flooded share of each pixel, float32 (B, size, size), 0 to 1."""
    scored: Tensor
    """bool (B, size, size), True where a pixel has a label and counts in the loss."""
    gsd_m: Tensor
    """Ground sample distance in metres, as input of the network, float32 (B,); 0: no ground sample distance.

    It is 0 if the distance is unknown, and at random in some pairs (`sampling.GSD_WITHHELD`), so that the network
    learns to work without it."""

    def to(self, device: torch.device) -> Views:
        """Copy the views to a device."""
        return Views(*(x.to(device) for x in (self.rgb, self.target, self.scored, self.gsd_m)))

    def __getitem__(self, part: slice) -> Views:
        """Return the views of a slice of the batch."""
        return Views(self.rgb[part], self.target[part], self.scored[part], self.gsd_m[part])


@dataclass(frozen=True, slots=True)
class Pairs:
    """Batch of B pairs of views of the same ground: a far view, and a near view of a part of the far view."""

    far: Views
    """The far views, with the larger pixels."""
    near: Views
    """The near views, with the smaller pixels."""
    near_xy: Tensor
    """Offset from the far view's centre to the near view's centre, in pixels of the far view, (B, 2), x first."""
    factor: Tensor
    """Pixel size of the far view divided by pixel size of the near view, (B,)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Labelled picture, or piece of a labelled picture, in memory."""

    name: str
    rgb: NDArray[np.uint8]
    """RGB, uint8 (3, height, width), 0 to 255."""
    mask: NDArray[np.uint8]
    """uint8 (height, width): 1 flood, 0 dry, 255 (`IGNORED`) without a label."""
    place: str = ""
    """Name of the place that the picture shows; "": no other picture shows the place.
    All places of a source are drawn equally often, however many pictures a place has."""
    gsd_m: float = 0.0
    """Ground sample distance in metres; 0: unknown."""
    picture: str = ""
    """Name of the picture of which the sample is a piece; "": the sample is a whole picture."""
    valid: NDArray[np.bool_] | None = None
    """bool (height, width), True on pixels with a valid picture; None: all pixels are valid."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Set of samples, and how pairs of views are drawn from these samples: how often, and with which random changes."""

    name: str
    samples: Sequence[Sample]
    share: float
    """Share of the pairs of views that are drawn from this source, relative to the shares of the other sources."""
    from_above: bool
    """Whether the pictures are nadir. Views of nadir pictures are rotated by any angle.
    Views of oblique pictures are rotated by a few degrees only."""
    zoom: tuple[float, float] = (0.6, 1.6)
    """Range of the zoom: pixels of the picture per pixel of the near view."""
    factor: tuple[float, float] = FAR_FACTORS
    """Range of the factor: pixel size of the far view divided by pixel size of the near view.
    The range begins at 1 for sources of pictures that are too small to be shrunk."""
    rim: float = 1.6
    """Largest ratio of the side of a far view to the square root of the picture's area.

    Side and area are measured in pixels of the picture. 1.6: in a picture of 1000 x 1000 pixels, the side of a far view
    is at most 1600 pixels. The limit exists because views that lie mostly outside the picture are of little use. The
    limit does not apply to pairs that are drawn without interpolation (see `plain`)."""
    plain: float = 0.0
    """Share of the pairs that are drawn without interpolation. Interpolation would blur details of one pixel's width.

    The near view consists of the picture's own pixels. What the far view consists of depends on `factor`:

    - If `factor` begins above 1, each pixel of the far view is the mean of a block of 4 x 4 pixels (`PLAIN_FACTOR`).
    - If `factor` begins at 1, the far view consists of the picture's own pixels, too. Both views then have the same
      pixel size.

    The fields `zoom` and `rim` do not apply. Views are only flipped and, if nadir, rotated by right angles. Half of
    these pairs keep the exposure and colours of the picture.
    """
    wet: float = 0.0
    """Share of the pairs that are drawn with a preference for flood, for sources with little flood.

    For these pairs, pictures with more flood are drawn more often. Up to 16 random positions inside the far view are
    tried as centre of the near view, until the pixel at the position is flooded. If none of the 16 is flooded, the last
    position is used.
    """
    augment: Augment = "full"
    """Degree of augmentation; see `FineTuneOptions`. Unless it is `full`, all pairs are drawn as `plain` describes."""
    repainted: float = 0.0
    """Share of the pairs in which flood water is repainted (`augment.Water`), for sources with few types of water."""


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """Read a picture file, and return RGB, uint8 (3, height, width), 0 to 255."""
    with Image.open(path) as image:
        return np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1))


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Read a mask file, and return uint8 (height, width).

    Values are those of the file: grey levels, or indices of a palette. RGB masks are converted to grey.
    """
    with Image.open(path) as image:
        return np.asarray(image.convert("L") if image.mode not in ("L", "P", "1") else image).astype(np.uint8)
