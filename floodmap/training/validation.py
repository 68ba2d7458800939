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
    """Scores of a model on whole pictures. IoU and loss are means over the pictures, the histogram is a sum."""

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
    scores, histogram = torch.zeros(len(samples), 3), np.zeros((101, 2), np.int64)
    for i, sample in enumerate(samples):
        none, auto = sample_logits(model, sample, device)
        scored, flood = sample.mask != IGNORED, sample.mask == 1
        loss = mask_loss(auto[None], torch.from_numpy(flood).float()[None], torch.from_numpy(scored)[None])
        scores[i] = torch.tensor([*(_iou(sample.mask, logits > 0) for logits in (auto, none)), float(loss)])
        percent = (auto.sigmoid().numpy()[scored] * 100).round().astype(np.int64)
        histogram += np.bincount(percent * 2 + flood[scored], minlength=202).reshape(101, 2)
    iou, iou_unprompted, loss = scores.mean(dim=0).tolist()
    return Validation(iou=iou, iou_unprompted=iou_unprompted, loss=loss, histogram=histogram)


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
    height, width = rgb.shape[-2:]
    with torch.autocast(device.type, torch.bfloat16):
        factor = coarse_factor(max(height, width))
        small = F.avg_pool2d(rgb, factor, ceil_mode=True)
        [coarse] = _predict_logits(model, small, [None], factor * sample.gsd_m)
        coarse = coarse.clamp(-SUREST, SUREST)
        cells = F.interpolate(coarse, (-(-height // 4), -(-width // 4)), mode="bilinear", align_corners=False)
        pad = (0, -(-width // 32) * 8 - cells.shape[-1], 0, -(-height // 32) * 8 - cells.shape[-2])
        none, auto = _predict_logits(model, rgb, [None, F.pad(cells, pad, value=-6.0)], sample.gsd_m)
    return none[0, 0].cpu(), auto[0, 0].cpu()


def _predict_logits(model: Trainable, rgb: Tensor, masks: Sequence[Tensor | None], gsd_m: float) -> list[Tensor]:
    """Return the flood logits of a picture, once for each of several mask prompts.

    Args:
        model: the model, in eval mode.
        rgb: RGB of the picture, (1, 3, H, W), 0 to 255.
        masks: one or more mask prompts. A mask prompt is logits (1, 1, h, w). h and w are a quarter of the height and
            width of the picture, after height and width are padded to multiples of 32. An element None stands for no
            prompt.
        gsd_m: ground sample distance in metres; 0 if unknown.

    Returns:
        For each element of `masks`, flood logits, float32 (1, 1, H, W).
    """
    height, width = rgb.shape[-2:]
    padded = F.pad(rgb, (0, -width % 32, 0, -height % 32))
    valid = torch.zeros(1, *padded.shape[-2:], dtype=torch.bool, device=rgb.device)
    valid[:, :height, :width] = True
    padded = padded.contiguous(memory_format=torch.channels_last)
    if isinstance(model, FloodSam):
        encoded = model.encode(padded, valid, padded.new_tensor([gsd_m]))
    else:
        encoded = model.encode(padded, valid)
    logits = [model.decode(encoded, masks=mask)[0][:, None].float() for mask in masks]
    full = [F.interpolate(one, padded.shape[-2:], mode="bilinear", align_corners=False) for one in logits]
    return [one[..., :height, :width] for one in full]


def _iou(mask: NDArray[np.uint8], flood: Tensor) -> float:
    """Return the IoU of mask and predicted flood over labelled pixels; 1 if neither has flood.

    Args:
        mask: uint8 (height, width): 1 flood, 0 dry, 255 (`IGNORED`) without a label.
        flood: predicted flood, bool (height, width).
    """
    predicted, reference = flood.numpy() & (mask != IGNORED), mask == 1
    union = int((predicted | reference).sum())
    return int((predicted & reference).sum()) / union if union else 1.0
