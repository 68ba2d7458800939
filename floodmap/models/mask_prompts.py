"""Mask prompts: coarse flood probabilities of tiles, converted to the logits that the network takes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from floodmap.models.calibration import UNCALIBRATED, Calibration
from floodmap.models.sam.common import SUREST


def mask_logits(
    likelihood: Tensor, shape_hw: Sequence[int], mask_hw: tuple[int, int], calibration: Calibration = UNCALIBRATED
) -> Tensor:
    """Convert coarse flood probabilities or likelihoods of tiles to mask prompts (logits).

    Args:
        likelihood: coarse values of B tiles, (B, h, w), 0 to 1: flood probabilities from the coarse map, or, for Meta's
            SAM, the likelihood from colours. The h x w pixels cover the whole tile; h and w may have any size.
        shape_hw: height and width of the tiles, in pixels, without padding.
        mask_hw: height and width of the mask prompts: a quarter of height and width of the padded tiles. The padding of
            the mask prompts is dry.
        calibration: calibration of the model. The calibration is inverted, because uncalibrated logits were the mask
            prompts in training.

    Returns:
        Mask prompts: logits (B, 1, *mask_hw), at most `SUREST` in absolute value.
    """
    covered = (-(-shape_hw[0] // 4), -(-shape_hw[1] // 4))
    logits = (likelihood.clamp(1e-4, 1 - 1e-4).logit()[:, None] - calibration.shift) / calibration.scale
    logits = logits.clamp(-SUREST, SUREST)
    logits = F.interpolate(logits, covered, mode="bilinear", align_corners=False)
    return F.pad(logits, (0, mask_hw[1] - covered[1], 0, mask_hw[0] - covered[0]), value=-6.0)
