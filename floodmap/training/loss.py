"""Training losses: cross-entropy plus Dice, error of the predicted IoU, consistency between windows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from floodmap.models.sam.common import Encoded
from floodmap.models.sam.flood_sam import FloodSam


def flood_loss(logits: Tensor, iou: Tensor, target: Tensor, scored: Tensor, dry_weight: float = 1.0) -> Tensor:
    """Cross-entropy plus Dice (see `mask_loss`) plus 0.05 times the mean squared error of the predicted IoU (B,)."""
    stride = target.shape[-1] // logits.shape[-1]
    weight, share = _shrunk(target, scored, stride)
    with torch.no_grad():
        predicted, flooded = (logits > 0) & (weight > 0), (share > 0.5) & (weight > 0)
        union = (predicted | flooded).sum(dim=(1, 2))
        true_iou = torch.where(union > 0, (predicted & flooded).sum(dim=(1, 2)) / union.clamp(min=1), 1.0)
    return mask_loss(logits, target, scored, dry_weight) + 0.05 * F.mse_loss(iou, true_iou)


def mask_loss(logits: Tensor, target: Tensor, scored: Tensor, dry_weight: float = 1.0) -> Tensor:
    """Cross-entropy plus Dice over scored pixels.

    Args:
        logits: (B, h, w), h and w whole fractions of H and W.
        target: flooded share of each pixel, (B, H, W), 0 to 1.
        scored: bool (B, H, W); other pixels do not count.
        dry_weight: factor of the cross-entropy of pictures without flood.
    """
    stride = target.shape[-1] // logits.shape[-1]
    weight, target = _shrunk(target, scored, stride)
    flooded = (target * weight).sum(dim=(1, 2)) * stride**2 > 320.0
    emphasis = weight * torch.where(flooded, 1.0, dry_weight)[:, None, None]
    cross = F.binary_cross_entropy_with_logits(logits, target, emphasis, reduction="sum") / weight.sum().clamp(min=1)
    flood = logits.sigmoid()
    hit = (flood * target * weight).sum(dim=(1, 2))
    total = ((flood + target) * weight).sum(dim=(1, 2))
    # Without flood in a view Dice measures little but whether there is any error: it has cross-entropy alone.
    dice = ((1 - (2 * hit + 1.0) / (total + 1.0)) * flooded).sum() / flooded.sum().clamp(min=1)
    return cross + dice


def _shrunk(target: Tensor, scored: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Average-pool by `stride`: scored share of each cell, and flooded share of its scored pixels, both (B, h, w)."""
    weight = F.avg_pool2d(scored[:, None].float(), stride)[:, 0]
    share = F.avg_pool2d((target * scored)[:, None], stride)[:, 0] / weight.clamp(min=1e-3)
    return weight, share.clamp(0, 1)


def consistency_loss(
    model: FloodSam,
    encoded: Encoded,
    logits: Tensor,
    masks: Tensor | None,
    scored: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Consistency loss: mean squared difference of probabilities between a view and a random part of it decoded alone.

    The decoder's tokens attend to all of a window. Without this loss the result at a place depends on where the window
    ends, and two tilings of one scene differ.

    Args:
        model: the network.
        encoded: the encoded views.
        logits: of the whole views, (B, H/2, W/2).
        masks: mask prompts of the whole views, (B, 1, H/4, W/4), if any.
        scored: bool (B, H, W).
        generator: draws the part.
    """
    rows, cols = (draw_interval(side, generator) for side in scored.shape[1:])

    def part(x: Tensor, stride: int) -> Tensor:
        return x[..., rows.start // stride : rows.stop // stride, cols.start // stride : cols.stop // stride]

    cropped, _ = model.decode(encoded.crop(rows, cols), masks=None if masks is None else part(masks, 4))
    difference = cropped.float().sigmoid() - part(logits, 2).float().sigmoid()
    weight = part(F.avg_pool2d(scored[:, None].float(), 2)[:, 0], 2)
    return (difference.square() * weight).sum() / weight.sum().clamp(min=1)


def draw_interval(side: int, generator: torch.Generator) -> slice:
    """Random interval of at least half a side, in pixels; multiples of 32, the encoder's coarsest stride."""
    n_units = side // 32
    length = int(torch.randint(-(-n_units // 2), n_units + 1, (), generator=generator))
    first = int(torch.randint(0, n_units - length + 1, (), generator=generator))
    return slice(32 * first, 32 * (first + length))
