"""Validation of a model on whole pictures: IoU, loss, and the histogram from which the calibration is fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from floodmap.inference.scales import coarse_factor
from floodmap.models.calibration import Histogram
from floodmap.models.sam.common import SUREST
from floodmap.models.sam.flood_sam import FloodSam
from floodmap.training.checkpoint import Trainable
from floodmap.training.loss import mask_loss
from floodmap.training.samples import IGNORED, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """Scores of a model on whole pictures. The IoUs are means over the pictures, the histogram is a sum.

    The pixels of all pieces of a picture are counted together for its IoU. The loss is a mean over the pieces."""

    iou: float
    """Mean IoU with the result of the coarse pass as mask prompt, as in `segment`, 0 to 1."""
    iou_unprompted: float
    """Mean IoU without a prompt, 0 to 1."""
    loss: float
    """Mean of cross-entropy plus Dice (`loss.mask_loss`), with the result of the coarse pass as mask prompt."""
    histogram: Histogram
    """Number of labelled pixels, int64 (101, 2). Row i: probability of i per cent. Column 0: labelled dry; 1: flood.
    The probabilities are predicted with the result of the coarse pass as mask prompt."""


@torch.no_grad()
def validate(model: Trainable, samples: Sequence[Sample], device: torch.device) -> Validation:
    """Score a model on whole pictures.

    Args:
        model: the model, in eval mode.
        samples: labelled pictures.
        device: the device of the model.
    """
    losses, histogram = torch.zeros(len(samples)), np.zeros((101, 2), np.int64)
    counts: dict[str | int, NDArray[np.int64]] = {}
    for i, sample in enumerate(samples):
        none, auto = sample_logits(model, sample, device)
        scored, flood = sample.mask != IGNORED, sample.mask == 1
        loss = mask_loss(auto[None], torch.from_numpy(flood).float()[None], torch.from_numpy(scored)[None])
        losses[i] = loss
        counted = np.stack([_overlap(sample.mask, logits > 0) for logits in (auto, none)])
        picture = sample.picture or i
        counts[picture] = counts.get(picture, 0) + counted
        percent = (auto.sigmoid().numpy()[scored] * 100).round().astype(np.int64)
        histogram += np.bincount(percent * 2 + flood[scored], minlength=202).reshape(101, 2)
    iou, iou_unprompted = np.mean([_iou(counted) for counted in counts.values()], axis=0).tolist()
    return Validation(iou=iou, iou_unprompted=iou_unprompted, loss=float(losses.mean()), histogram=histogram)


@torch.no_grad()
def sample_logits(model: Trainable, sample: Sample, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the logits of a whole picture, computed as one window at full resolution.

    Args:
        model: the model, in eval mode.
        sample: the picture.
        device: the device of the model.

    Returns:
        Logits without a prompt, and logits with the result of the coarse pass as mask prompt. Both are float32
        (height, width), on the CPU.
    """
    rgb = torch.from_numpy(sample.rgb).float()[None].to(device)
    valid = torch.ones_like(rgb[:, :1]) if sample.valid is None else torch.from_numpy(sample.valid).to(rgb)[None, None]
    height, width = rgb.shape[-2:]
    with torch.autocast(device.type, torch.bfloat16):
        factor = coarse_factor(max(height, width))
        share = F.avg_pool2d(valid, factor, ceil_mode=True)
        # As in `Scene.shrunk`, a coarse pixel is the mean of its valid pixels.
        small = F.avg_pool2d(rgb * valid, factor, ceil_mode=True) / share.clamp(min=1e-6)
        [coarse] = _predict_logits(model, small, share > 0, [None], factor * sample.gsd_m)
        coarse = coarse.clamp(-SUREST, SUREST)
        cells = F.interpolate(coarse, (-(-height // 4), -(-width // 4)), mode="bilinear", align_corners=False)
        pad = (0, -(-width // 32) * 8 - cells.shape[-1], 0, -(-height // 32) * 8 - cells.shape[-2])
        none, auto = _predict_logits(model, rgb, valid > 0, [None, F.pad(cells, pad, value=-6.0)], sample.gsd_m)
    return none[0, 0].cpu(), auto[0, 0].cpu()


def _predict_logits(
    model: Trainable, rgb: Tensor, valid: Tensor, masks: Sequence[Tensor | None], gsd_m: float
) -> list[Tensor]:
    """Return the flood logits of a picture, once for each of several mask prompts.

    Args:
        model: the model, in eval mode.
        rgb: RGB of the picture, (1, 3, H, W), 0 to 255.
        valid: bool (1, 1, H, W), True on pixels with a valid picture.
        masks: one or more mask prompts. A mask prompt is logits (1, 1, h, w). h and w are a quarter of the height and
            width of the picture, after height and width are padded to multiples of 32. An element None stands for no
            prompt.
        gsd_m: ground sample distance in metres; 0 if unknown.

    Returns:
        For each element of `masks`, flood logits, float32 (1, 1, H, W).
    """
    height, width = rgb.shape[-2:]
    padded, valid = (F.pad(one, (0, -width % 32, 0, -height % 32)) for one in (rgb, valid[:, 0]))
    padded = padded.contiguous(memory_format=torch.channels_last)
    if isinstance(model, FloodSam):
        encoded = model.encode(padded, valid, padded.new_tensor([gsd_m]))
    else:
        encoded = model.encode(padded, valid)
    logits = [model.decode(encoded, masks=mask)[0][:, None].float() for mask in masks]
    full = [F.interpolate(one, padded.shape[-2:], mode="bilinear", align_corners=False) for one in logits]
    return [one[..., :height, :width] for one in full]


def _overlap(mask: NDArray[np.uint8], flood: Tensor) -> NDArray[np.int64]:
    """Return the numbers of labelled pixels in the intersection and in the union of mask and predicted flood, (2,).

    Args:
        mask: uint8 (height, width): 1 flood, 0 dry, 255 (`IGNORED`) without a label.
        flood: predicted flood, bool (height, width).
    """
    predicted, reference = flood.numpy() & (mask != IGNORED), mask == 1
    return np.array([(predicted & reference).sum(), (predicted | reference).sum()], np.int64)


def _iou(counted: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return IoUs, (n,), of numbers of pixels in intersection and union, (n, 2); 1 where neither side has flood."""
    intersection, union = counted.T
    return np.where(union > 0, intersection / np.maximum(union, 1), 1.0)
