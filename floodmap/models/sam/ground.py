"""What the size of a pixel on the ground tells a network."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

FINEST, COARSEST = 0.01, 20.48
"""Sizes of a pixel, in metres, beyond which all are alike."""
OCTAVES = round(math.log2(COARSEST / FINEST)) + 1
RATE = 4.0
"""How fast it is learned, beside all else."""


class GroundScale(nn.Module):
    """Vectors for the ground sample distance: one learned at each octave, mixed between, and one where it is unknown.

    A puddle is twenty pixels wide from a drone and half a pixel from a satellite; and a picture without a ground sample
    distance was mostly taken obliquely.

    Args:
        dim: length of a vector.
        count: how many there are, for as many places in the network.
    """

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.weight = nn.Parameter(torch.zeros(OCTAVES + 1, count * dim))  # so that weights mean the same with it

    def forward(self, gsd_m: Tensor) -> tuple[Tensor, ...]:
        """Metres a pixel (B,), 0 where unknown, to vectors (B, dim)."""
        place = (gsd_m.float().clamp(FINEST, COARSEST) / FINEST).log2()
        octaves = torch.arange(OCTAVES, device=gsd_m.device)
        known = (gsd_m > 0).float()[:, None]
        near = (1 - (place[:, None] - octaves).abs()).clamp(min=0)
        mixed = RATE * torch.cat([near * known, 1 - known], dim=1) @ self.weight.float()
        return mixed.chunk(self.count, dim=1)
