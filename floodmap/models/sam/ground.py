"""Embedding of the ground sample distance (GSD) as an input of the network."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

MIN_GSD_M, MAX_GSD_M = 0.01, 20.48
"""Range in metres to which ground sample distances are clamped."""
OCTAVES = round(math.log2(MAX_GSD_M / MIN_GSD_M)) + 1
"""Number of distances for which there are learned vectors: `MIN_GSD_M` and each doubling up to `MAX_GSD_M`."""
RATE = 4.0
"""Factor by which the learned vectors are multiplied in the forward pass.
A step of the optimizer (AdamW) changes the vectors about as much as with a factor of 1. It therefore changes the
embedding 4 times as much, as if the learning rate of the vectors were 4 times as high."""


class GroundScale(nn.Module):
    """Embedding of the ground sample distance: `count` learned vectors for each doubling of the distance.

    Vectors of distances between two doublings are interpolated. `count` more vectors stand for an unknown distance. The
    network needs the distance because a puddle is twenty pixels wide in a drone picture and half a pixel wide in a
    satellite picture. Pictures without a ground sample distance are mostly oblique.

    Args:
        dim: length of a vector.
        count: number of vectors for one ground sample distance. Each of these vectors is added at a different place of
            the network, for instance one in the encoder and one in the decoder.
    """

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.weight = nn.Parameter(torch.zeros(OCTAVES + 1, count * dim))  # zero: weights trained without it still fit

    def forward(self, gsd_m: Tensor) -> tuple[Tensor, ...]:
        """Return the embedding of ground sample distances as `count` tensors, (B, dim) each.

        Args:
            gsd_m: ground sample distances in metres, (B,), 0 if unknown.
        """
        octave = (gsd_m.float().clamp(MIN_GSD_M, MAX_GSD_M) / MIN_GSD_M).log2()
        octaves = torch.arange(OCTAVES, device=gsd_m.device)
        known = (gsd_m > 0).float()[:, None]
        weights = (1 - (octave[:, None] - octaves).abs()).clamp(min=0)
        vectors = RATE * torch.cat([weights * known, 1 - known], dim=1) @ self.weight.float()
        return vectors.chunk(self.count, dim=1)
