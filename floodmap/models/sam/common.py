"""Constants, normalization and data types shared by all SAM networks.

Source: Kirillov et al. 2023, arXiv:2304.02643."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from floodmap.models.sam.efficientnet import Skips

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
"""Standard deviations of red, green and blue (0 to 255) over ImageNet, as in SAM; `PIXEL_MEAN` holds the means."""
FRAME = 1024
"""Side in pixels of SAM's input frame, the square image that SAM's encoder expects.
Prompt coordinates are encoded relative to the frame, not to the tile."""
STRIDE = 16
"""Stride of the image embedding: one position of the embedding covers 16 x 16 pixels of the encoder's input."""
SUREST = 9.2
"""Largest absolute logit of a mask prompt; larger logits are clamped to this value."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Output of an image encoder for a batch of tiles."""

    embedding: Tensor
    """Image embedding, (B, E, h, w), with E channels at h x w positions; see `STRIDE`."""
    skips: Skips | None
    """Skip features for the decoder; see `PyramidEncoder.forward`. None if the decoder has no skip connections."""
    shape_hw: tuple[int, int]
    """Height and width of the tiles, in pixels."""
    ground: tuple[Tensor, Tensor] | None = None
    """Two embeddings of the ground sample distance, (B, E) each. The first is added to the decoder's output tokens, the
    second to the embedding of mask prompts. None if the ground sample distance is no input of the network."""

    def __getitem__(self, part: slice) -> Encoded:
        """Return the output of the encoder for the tiles in a slice of the batch."""
        skips = None if self.skips is None else (self.skips[0][part], self.skips[1][part], self.skips[2][part])
        ground = None if self.ground is None else (self.ground[0][part], self.ground[1][part])
        return Encoded(self.embedding[part], skips, self.shape_hw, ground)

    def crop(self, rows: slice, cols: slice) -> Encoded:
        """Return the output of the encoder, with the features of every tile cropped to the same rectangle.

        Args:
            rows: rows of the rectangle in pixels of the tile; start and stop are multiples of 32.
            cols: columns of the rectangle in pixels of the tile; start and stop are multiples of 32.

        Raises:
            ValueError: there are no skip features, because the encoder resizes tiles to SAM's frame.
        """

        def cut(x: Tensor, stride: int) -> Tensor:
            return x[..., rows.start // stride : rows.stop // stride, cols.start // stride : cols.stop // stride]

        if self.skips is None:
            raise ValueError("an embedding of SAM's frame cannot be cropped")
        skips = (cut(self.skips[0], 8), cut(self.skips[1], 4), cut(self.skips[2], 2))
        shape_hw = rows.stop - rows.start, cols.stop - cols.start
        return Encoded(cut(self.embedding, STRIDE), skips, shape_hw, self.ground)


@dataclass(frozen=True, slots=True)
class Decoded:
    """Output of the mask decoder of `FloodSam` for a batch of tiles."""

    logits: Tensor
    """Flood logits, (B, H/2, W/2), for tiles of H x W pixels."""
    iou: Tensor
    """IoU that the decoder predicts for each tile's mask, (B,), about 0 to 1."""
    features: Tensor | None
    """Features of the decoder's last layer, (B, C, H/2, W/2); None if the features were not kept."""


def normalized(rgb: Tensor, valid: Tensor, dtype: torch.dtype) -> Tensor:
    """Normalize RGB for an image encoder: subtract `PIXEL_MEAN` from the bands, and divide by `PIXEL_STD`.

    The bands are normalized one after the other. Intermediate results then fit into a CPU's cache. This is six times
    as fast as normalizing all bands at once.

    Args:
        rgb: RGB (B, 3, H, W), 0 to 255.
        valid: bool (B, H, W), True on pixels with a valid picture.
        dtype: type of the result.

    Returns:
        Normalized RGB (B, 3, H, W) in channels-last memory format; 0 on pixels that are not valid.
    """
    image = torch.empty(rgb.shape, dtype=dtype, device=rgb.device, memory_format=torch.channels_last)
    blank = None if valid.device.type == "cpu" and valid.all() else ~valid  # on a GPU valid.all() would synchronize
    for band, (mean, std) in enumerate(zip(PIXEL_MEAN, PIXEL_STD, strict=True)):
        plane = (rgb[:, band] - mean) / std
        image[:, band] = plane if blank is None else plane.masked_fill_(blank, 0.0)
    return image


def smoothed(logits: Tensor) -> Tensor:
    """Smooth the logits of `FloodSam` with the weights 1, 2, 1 along both axes, against checkerboard artefacts.

    Transposed convolutions cause these artefacts (Odena et al. 2016, doi:10.23915/distill.00003). The output of the
    decoder's last transposed convolution has a quarter of the tile's resolution: each of its pixels is a cell of 4 x 4
    pixels of the tile. The logits are computed from this output after interpolation to half the tile's resolution.

    In a measurement without smoothing, the predictions for two neighbouring pixels of the tile differed more if the
    border of a cell was between the two pixels. The mean difference was larger by a sixth there than inside cells.
    Borders of windows always lie on borders of cells. Without smoothing, the borders of windows are therefore easier to
    see in the result.

    Args:
        logits: logits of tiles of H x W pixels, (B, C, H/2, W/2).

    Returns:
        Smoothed logits, (B, C, H/2, W/2).
    """
    padded = F.pad(logits, (1, 1, 1, 1), mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(padded, 2, stride=1), 2, stride=1)
