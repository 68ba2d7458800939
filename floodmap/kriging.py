"""Points that correct a result: what is known of them spreads to ground that looks alike and lies near.

A result is off at a point by some residual, and around it by a share of that which a kernel of place and looks tells:
regression kriging (Hengl et al. 2007, doi:10.1016/j.cageo.2007.05.001), with the features of a network as further
coordinates, as in Zhou et al. 2023 (arXiv:2302.14578). It needs no training, and a point that only says what is known
already changes nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CELL = 4
"""Pixels to a side of the cells that the kernel is worked out on."""
SURE = 5.0
"""Logit that a point vouches for."""
LOOKS = (0.5, 0.9)
"""How far apart directions of the embedding, and of the decoder's features, are before ground no longer looks alike."""
FAR, NEAR = (120.0, 0.7), (24.0, 0.3)
"""Reach in pixels and share of two parts of the kernel: among what looks alike, and whatever it looks like."""
EVERYWHERE = 0.05
"""Share of the third part: what is wrong at points is, a little, wrong of the whole picture."""
NOISE = 0.1
"""Variance of what points say, as a share of the kernel's: points that contradict each other meet in the middle."""


class Kriging:
    """What points say of the ground of one tile.

    Args:
        looks: of its cells, (D, H/4, W/4); see `looks_of`.
        xy: points, (N, 2) in pixels from the centre of the first, x first.
        labels: of the points, (N,): 1 flood, 0 dry.
    """

    MAPS = 6
    """Planes that `maps` returns."""

    def __init__(self, looks: Tensor, xy: Tensor, labels: Tensor) -> None:
        height, width = looks.shape[1:]
        self.labels = labels
        self.col, self.row = (
            (x / CELL).long().clamp(0, n - 1) for x, n in zip(xy.float().unbind(1), (width, height), strict=True)
        )
        own = looks[:, self.row, self.col]
        unlike = looks.square().sum(dim=0) + own.square().sum(dim=0)[:, None, None]
        self.unlike = (unlike - 2 * torch.einsum("dn,dhw->nhw", own, looks)).clamp_(min=0)
        """How unlike every cell is to each point's, (N, H/4, W/4)."""
        down = torch.arange(height, device=looks.device) - self.row[:, None]
        right = torch.arange(width, device=looks.device) - self.col[:, None]
        self.away = (down[:, :, None].square() + right[:, None].square()) * float(CELL**2)
        """Squared distance in pixels, (N, H/4, W/4)."""
        (far, share_far), (near, share_near) = FAR, NEAR
        self.kernel = share_far * torch.exp(-self.unlike / 2 - self.away / (2 * far**2))
        self.kernel += share_near * torch.exp(-self.unlike / 20 - self.away / (2 * near**2))
        self.kernel += EVERYWHERE
        """How much every cell shares with each point's, 0 to 1.05, (N, H/4, W/4)."""

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits of cells, (H/4, W/4), as corrected by the points; no gradient flows through the correction."""
        sign = self.labels.float() * 2 - 1
        residual = sign * F.relu(SURE - sign * logits.detach()[self.row, self.col])
        variance = self.kernel[:, self.row, self.col] + NOISE * torch.eye(len(self.row), device=logits.device)
        return logits + torch.einsum("n,nhw->hw", torch.linalg.solve(variance, residual), self.kernel)

    def maps(self) -> Tensor:
        """What flood points, and dry ones, say by looks alone, by place alone, and by both: (6, H/4, W/4), 0 to 1."""
        (far, _), (near, _) = FAR, NEAR
        told = (
            torch.exp(-self.unlike / 2),
            torch.exp(-self.away / (2 * near**2)),
            torch.exp(-self.unlike / 4 - self.away / (2 * far**2)),
        )
        nothing = self.kernel.new_zeros(1, *self.kernel.shape[1:])
        return torch.stack(
            [torch.cat([one[self.labels == label], nothing]).amax(dim=0) for label in (1, 0) for one in told]
        )


def looks_of(embedding: Tensor, features: Tensor) -> Tensor:
    """What cells look like, (B, D, H/4, W/4): their distances are those of the kernel.

    Args:
        embedding: of the image encoder, (B, E, H/16, W/16).
        features: of the mask decoder, of cells, (B, C, H/4, W/4).
    """
    coarse = F.normalize(embedding.float(), dim=1) / LOOKS[0]
    coarse = F.interpolate(coarse, features.shape[2:], mode="bilinear", align_corners=False)
    return torch.cat([coarse, F.normalize(features.float(), dim=1) / LOOKS[1]], dim=1)
