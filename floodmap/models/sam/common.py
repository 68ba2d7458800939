"""What all kinds of SAM share: the frame, the pictures' scale, what encoders and decoders hand on.

Source: Kirillov et al. 2023, arXiv:2304.02643."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from floodmap.models.sam.efficientnet import Skips

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
FRAME = 1024
"""Side of SAM's input frame, in pixels: prompt coordinates are relative to it, whatever the size of the tile."""
STRIDE = 16
"""Pixels per cell of the image embedding."""
SUREST = 9.2
"""Largest logit of a mask prompt."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """What an image encoder made of a batch of tiles."""

    embedding: Tensor
    """(B, E, h, w)."""
    skips: Skips | None
    """Detail for the decoder, where it takes any."""
    shape_hw: tuple[int, int]
    """Of the tiles, in pixels."""
    ground: tuple[Tensor, Tensor] | None = None
    """What their ground sample distances tell the decoder, (B, E) for its tokens and for the embedding."""

    def __getitem__(self, part: slice) -> Encoded:
        """Some tiles of the batch."""
        skips = None if self.skips is None else (self.skips[0][part], self.skips[1][part], self.skips[2][part])
        ground = None if self.ground is None else (self.ground[0][part], self.ground[1][part])
        return Encoded(self.embedding[part], skips, self.shape_hw, ground)

    def crop(self, rows: slice, cols: slice) -> Encoded:
        """The same part of every tile, in pixels, multiples of 32; of encoders that keep a tile's own size."""

        def cut(x: Tensor, stride: int) -> Tensor:
            return x[..., rows.start // stride : rows.stop // stride, cols.start // stride : cols.stop // stride]

        if self.skips is None:
            raise ValueError("an embedding of SAM's frame cannot be cropped")
        skips = (cut(self.skips[0], 8), cut(self.skips[1], 4), cut(self.skips[2], 2))
        shape_hw = rows.stop - rows.start, cols.stop - cols.start
        return Encoded(cut(self.embedding, STRIDE), skips, shape_hw, self.ground)


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a mask decoder made of a batch of tiles."""

    logits: Tensor
    """(B, H/2, W/2)."""
    iou: Tensor
    """The IoU it expects, (B,)."""
    features: Tensor | None
    """That the logits were read off, (B, C, H/2, W/2); None where they were not to be kept."""


def normalized(rgb: Tensor, valid: Tensor, dtype: torch.dtype) -> Tensor:
    """Pictures as image encoders know them, (B, 3, H, W), blank where they are not valid; arguments as in `FloodSam`.

    Band by band: what lies between then fits into a CPU's cache, which is six times as fast.
    """
    image = torch.empty(rgb.shape, dtype=dtype, device=rgb.device, memory_format=torch.channels_last)
    blank = None if valid.device.type == "cpu" and valid.all() else ~valid  # a GPU would have to be waited for
    for band, (mean, std) in enumerate(zip(PIXEL_MEAN, PIXEL_STD, strict=True)):
        plane = (rgb[:, band] - mean) / std
        image[:, band] = plane if blank is None else plane.masked_fill_(blank, 0.0)
    return image


def smoothed(logits: Tensor) -> Tensor:
    """Logits (B, C, H, W) weighted 1, 2, 1 along both axes, which wipes out the decoder's checkerboard.

    Transposed convolutions leave one (Odena et al. 2016, doi:10.23915/distill.00003): every fourth step from pixel to
    pixel was larger than the others by a sixth, on window borders and everywhere else.
    """
    padded = F.pad(logits, (1, 1, 1, 1), mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(padded, 2, stride=1), 2, stride=1)
