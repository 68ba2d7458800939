"""Training losses: cross-entropy plus Dice, error of the predicted IoU, and consistency between windows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from floodmap.models.sam.common import Encoded
from floodmap.models.sam.flood_sam import FloodSam


def flood_loss(logits: Tensor, iou: Tensor, target: Tensor, scored: Tensor, dry_weight: float = 1.0) -> Tensor:
    """Compute `mask_loss` plus 0.05 times the mean squared error of the predicted IoU.

    Args:
        logits: flood logits (B, h, w) of views of H x W pixels; H is a multiple of h, and W is the same multiple of w.
        iou: IoU of each view as predicted by the decoder, (B,), about 0 to 1.
        target: flooded share of each pixel, (B, H, W), 0 to 1.
        scored: bool (B, H, W), True where a pixel has a label and counts in the loss.
        dry_weight: factor on the cross-entropy of views with little or no flood; see `mask_loss`.

    Returns:
        The loss of the batch, a scalar.
    """
    stride = target.shape[-1] // logits.shape[-1]
    weight, share = _shrunk(target, scored, stride)
    with torch.no_grad():
        predicted, flooded = (logits > 0) & (weight > 0), (share > 0.5) & (weight > 0)
        union = (predicted | flooded).sum(dim=(1, 2))
        true_iou = torch.where(union > 0, (predicted & flooded).sum(dim=(1, 2)) / union.clamp(min=1), 1.0)
    return mask_loss(logits, target, scored, dry_weight) + 0.05 * F.mse_loss(iou, true_iou)


def mask_loss(logits: Tensor, target: Tensor, scored: Tensor, dry_weight: float = 1.0) -> Tensor:
    """Compute cross-entropy plus Dice over the pixels that have a label.

    A view counts as dry if at most 320 of its H x W pixels are labelled as flooded. The Dice term is the mean over the
    other views.

    Args:
        logits: flood logits (B, h, w) of views of H x W pixels; H is a multiple of h, and W is the same multiple of w.
        target: flooded share of each pixel, (B, H, W), 0 to 1.
        scored: bool (B, H, W), True where a pixel has a label and counts in the loss.
        dry_weight: factor on the cross-entropy of dry views.

    Returns:
        The loss of the batch, a scalar.
    """
    stride = target.shape[-1] // logits.shape[-1]
    weight, target = _shrunk(target, scored, stride)
    flooded = (target * weight).sum(dim=(1, 2)) * stride**2 > 320.0
    emphasis = weight * torch.where(flooded, 1.0, dry_weight)[:, None, None]
    cross = F.binary_cross_entropy_with_logits(logits, target, emphasis, reduction="sum") / weight.sum().clamp(min=1)
    flood = logits.sigmoid()
    hit = (flood * target * weight).sum(dim=(1, 2))
    total = ((flood + target) * weight).sum(dim=(1, 2))
    # In a dry view, Dice only measures whether there is any error. Such a view has cross-entropy alone.
    dice = ((1 - (2 * hit + 1.0) / (total + 1.0)) * flooded).sum() / flooded.sum().clamp(min=1)
    return cross + dice


def _shrunk(target: Tensor, scored: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Average the label arrays of `mask_loss` (`target` and `scored`) over squares of `stride` x `stride` pixels.

    Returns:
        Two values for each square, both (B, h, w), 0 to 1: the share of the square's pixels that have a label, and the
        flooded share of these labelled pixels.
    """
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
    """Compute the consistency loss: the change of the prediction if only a rectangle of each view is decoded.

    The rectangle is chosen at random, the same in all views. The features of the encoded views are cropped to the
    rectangle, and the mask decoder is run on the crop. Each pixel of the rectangle then has two flood probabilities:
    from the whole view (`logits`) and from the crop. The loss is the mean squared difference of the two, over pixels
    with a label.

    The tokens of the mask decoder attend to the whole input. Without this loss the result at a place depends on the
    borders of the window, and two tilings of one scene give different results.

    Args:
        model: the network.
        encoded: image embedding and skip features of B views: the result of `model.encode`. A view has H x W pixels; H
            and W are multiples of 32.
        logits: flood logits of the whole views, (B, H/2, W/2).
        masks: mask prompts of the whole views: flood logits, (B, 1, H/4, W/4). None: no mask prompts.
        scored: bool (B, H, W), True where a pixel has a label and counts in the loss.
        generator: source of randomness for the rectangle.

    Returns:
        The loss of the batch, a scalar.
    """
    rows, cols = (draw_interval(side, generator) for side in scored.shape[1:])

    def part(x: Tensor, stride: int) -> Tensor:
        return x[..., rows.start // stride : rows.stop // stride, cols.start // stride : cols.stop // stride]

    cropped, _ = model.decode(encoded.crop(rows, cols), masks=None if masks is None else part(masks, 4))
    difference = cropped.float().sigmoid() - part(logits, 2).float().sigmoid()
    weight = part(F.avg_pool2d(scored[:, None].float(), 2)[:, 0], 2)
    return (difference.square() * weight).sum() / weight.sum().clamp(min=1)


def draw_interval(side: int, generator: torch.Generator) -> slice:
    """Choose a random interval of the rows or columns of pixels of a view, at least half as long as the side.

    Args:
        side: height or width of the view in pixels, a multiple of 32.
        generator: source of randomness.

    Returns:
        The interval as a slice, in pixels. Start and stop are multiples of 32, the largest stride in the image encoder.
    """
    n_units = side // 32
    length = int(torch.randint(-(-n_units // 2), n_units + 1, (), generator=generator))
    first = int(torch.randint(0, n_units - length + 1, (), generator=generator))
    return slice(32 * first, 32 * (first + length))
