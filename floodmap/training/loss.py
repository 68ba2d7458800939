"""What training holds against a model: flood missed or imagined, and places that look otherwise in another window."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from floodmap.models.sam.common import Encoded
from floodmap.models.sam.flood_sam import FloodSam


def flood_loss(logits: Tensor, iou: Tensor, target: Tensor, scored: Tensor, dry_weight: float = 1.0) -> Tensor:
    """Cross-entropy plus Dice over scored pixels (see `mask_loss`), and the error of the predicted IoU (B,)."""
    stride = target.shape[-1] // logits.shape[-1]
    weight, share = _shrunk(target, scored, stride)
    with torch.no_grad():
        sure, real = (logits > 0) & (weight > 0), (share > 0.5) & (weight > 0)
        union = (sure | real).sum(dim=(1, 2))
        true_iou = torch.where(union > 0, (sure & real).sum(dim=(1, 2)) / union.clamp(min=1), 1.0)
    return mask_loss(logits, target, scored, dry_weight) + 0.05 * F.mse_loss(iou, true_iou)


def mask_loss(logits: Tensor, target: Tensor, scored: Tensor, dry_weight: float = 1.0) -> Tensor:
    """Cross-entropy plus Dice over scored pixels.

    Args:
        logits: (B, h, w) at a whole fraction of the target's resolution.
        target: flood share (B, H, W).
        scored: bool (B, H, W).
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
    # Dice says little of a crop without flood but how small its largest mistake is: cross-entropy alone teaches those.
    dice = ((1 - (2 * hit + 1.0) / (total + 1.0)) * flooded).sum() / flooded.sum().clamp(min=1)
    return cross + dice


def _shrunk(target: Tensor, scored: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """The scored share of cells of `stride` pixels, and the flooded share of what is scored in them."""
    weight = F.avg_pool2d(scored[:, None].float(), stride)[:, 0]
    share = F.avg_pool2d((target * scored)[:, None], stride)[:, 0] / weight.clamp(min=1e-3)
    return weight, share.clamp(0, 1)


def unsteadiness(
    model: FloodSam,
    encoded: Encoded,
    logits: Tensor,
    masks: Tensor | None,
    scored: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """How differently a part of a view is seen by itself and as part of the whole: a mean square of probabilities.

    The decoder's tokens look at all of a window. What they make of one place must not hang on where the window ends,
    or two cuts of one scene differ.
    """
    rows, cols = (draw_stretch(side, generator) for side in scored.shape[1:])

    def part(x: Tensor, stride: int) -> Tensor:
        return x[..., rows.start // stride : rows.stop // stride, cols.start // stride : cols.stop // stride]

    alone, _ = model.decode(encoded.crop(rows, cols), masks=None if masks is None else part(masks, 4))
    difference = alone.float().sigmoid() - part(logits, 2).float().sigmoid()
    weight = part(F.avg_pool2d(scored[:, None].float(), 2)[:, 0], 2)
    return (difference.square() * weight).sum() / weight.sum().clamp(min=1)


def draw_stretch(side: int, generator: torch.Generator) -> slice:
    """Some stretch of a side, at least half of it, in units of the encoder's coarsest stride."""
    n_units = side // 32
    length = int(torch.randint(-(-n_units // 2), n_units + 1, (), generator=generator))
    first = int(torch.randint(0, n_units - length + 1, (), generator=generator))
    return slice(32 * first, 32 * (first + length))
