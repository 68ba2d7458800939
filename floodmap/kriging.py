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
"""Reach in pixels and share of the two parts of the kernel: among what looks alike, and whatever it looks like."""
NOISE = 0.1
"""Variance of what points say, as a share of the kernel's: points that contradict each other meet in the middle."""


def krige(logits: Tensor, embedding: Tensor, features: Tensor, points: tuple[Tensor, Tensor]) -> Tensor:
    """Logits as corrected by points.

    Args:
        logits: (B, H/2, W/2), of tiles of H x W pixels.
        embedding: of the image encoder, (B, E, H/16, W/16).
        features: of the mask decoder, (B, C, H/2, W/2).
        points: coordinates (B, N, 2) in pixels from the centre of the first, x first, and labels (B, N): 1 flood, 0
            dry, -1 padding.

    Returns:
        (B, H/2, W/2); no gradient flows through the correction.
    """
    xy, labels = points
    with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
        residuals = torch.zeros_like(logits, dtype=torch.float32)
        for i in (labels >= 0).any(dim=1).nonzero()[:, 0]:
            given = labels[i] >= 0
            looks = _looks(embedding[i].float(), features[i].float())
            base = F.avg_pool2d(logits[i, None].float(), CELL // 2)[0]
            spread = _spread(base, looks, xy[i, given].float(), labels[i, given])
            residuals[i] = F.interpolate(
                spread[None, None], logits.shape[1:], mode="bilinear", align_corners=False
            )[0, 0]  # fmt: skip
    return logits + residuals


def _looks(embedding: Tensor, features: Tensor) -> Tensor:
    """What cells look like, (D, H/4, W/4): their distances are those of the kernel."""
    coarse = F.normalize(embedding, dim=0) / LOOKS[0]
    fine = F.avg_pool2d(features[None], CELL // 2)[0]
    coarse = F.interpolate(coarse[None], fine.shape[1:], mode="bilinear", align_corners=False)[0]
    return torch.cat([coarse, F.normalize(fine, dim=0) / LOOKS[1]])


def _spread(base: Tensor, looks: Tensor, xy: Tensor, labels: Tensor) -> Tensor:
    """What is to be added to logits (h, w) of cells, by kriging of the residuals at the points."""
    height, width = base.shape
    col, row = ((x / CELL).long().clamp(0, n - 1) for x, n in zip(xy.unbind(1), (width, height), strict=True))
    kernel = _kernel(looks, row, col)
    sign = labels.float() * 2 - 1
    residual = sign * F.relu(SURE - sign * base[row, col])
    variance = kernel[:, row, col] + NOISE * torch.eye(len(row), device=base.device)
    return torch.einsum("n,nhw->hw", torch.linalg.solve(variance, residual), kernel)


def _kernel(looks: Tensor, row: Tensor, col: Tensor) -> Tensor:
    """How much every cell shares with each of the points' cells, (N, h, w), 0 to 1."""
    own = looks[:, row, col]
    height, width = looks.shape[1:]
    alike = looks.square().sum(dim=0) + own.square().sum(dim=0)[:, None, None]
    alike = (alike - 2 * torch.einsum("dn,dhw->nhw", own, looks)).clamp_(min=0)
    down = torch.arange(height, device=looks.device) - row[:, None]
    right = torch.arange(width, device=looks.device) - col[:, None]
    away = (down[:, :, None].square() + right[:, None].square()) * float(CELL**2)
    (far, share_far), (near, share_near) = FAR, NEAR
    return share_far * torch.exp(-alike / 2 - away / (2 * far**2)) + share_near * torch.exp(
        -alike / 20 - away / (2 * near**2)
    )
