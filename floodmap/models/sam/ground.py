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
"""Factor by which the learned vectors are multiplied in the forward pass: embedding = `RATE` * vectors.
A step of the optimizer AdamW changes the vectors by about the learning rate, whatever the factor is. Each step
therefore changes the embedding `RATE` times as much as without the factor, as if the learning rate were higher."""


class GroundScale(nn.Module):
    """Embedding of the ground sample distance: `count` learned vectors for the smallest distance and for each doubling.

    The smallest distance is `MIN_GSD_M`, the last doubling is `MAX_GSD_M`: 0.01 m, 0.02 m, 0.04 m, ..., 20.48 m.
    Vectors of distances in between are interpolated, linearly in the logarithm of the distance. The network needs the
    distance because a puddle is twenty pixels wide in a drone picture and half a pixel wide in a satellite picture.

    `count` more vectors stand for an unknown distance. Most pictures of unknown distance are oblique. These vectors
    therefore also tell the network that a picture is probably oblique.

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
