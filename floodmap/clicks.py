"""Prompts simulated from a reference, as a person or the tool itself would give them; for training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from floodmap.dataset import Pairs

COARSE_LIMIT = 9.2
"""Largest logit of a coarse prompt, as `segmenter.SUREST`."""


def coarse_prompt(far_logits: Tensor, pairs: Pairs) -> Tensor:
    """What was made of the far views, where the near ones lie: mask prompts (B, 1, near/4, near/4)."""
    near_size, far_size = pairs.near.rgb.shape[-1], pairs.far.rgb.shape[-1]
    axis = torch.arange(near_size // 4) * 4 + 2.0 - near_size / 2
    cells = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
    xy = cells / pairs.factor[:, None, None, None] + pairs.near_xy[:, None, None]
    grid = (xy * (2 / far_size)).to(far_logits.device)
    full = F.interpolate(far_logits[:, None], (far_size, far_size), mode="bilinear", align_corners=False)
    full = full.clamp(-COARSE_LIMIT, COARSE_LIMIT)
    return F.grid_sample(full, grid, mode="bilinear", padding_mode="border", align_corners=False)


def simulate_points(target: Tensor, scored: Tensor, guess: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One to eight points a crop, half of them where the guess is wrong, as by a person who corrects it.

    Of the others most lie on flood; pictures without a class get none of it.

    Args:
        target: flood share (B, H, W).
        scored: bool (B, H, W).
        guess: what was made of the crops before, bool (B, h, w) at a whole fraction of their resolution.
        generator: of all draws.

    Returns:
        Coordinates (B, N, 2) and labels (B, N), as `FloodSam.forward` takes them.
    """
    batch, _, width = target.shape
    count = int(torch.randint(1, 9, (), generator=generator))
    points = torch.zeros(batch, count, 2)
    labels = torch.full((batch, count), -1)
    flooded, known = (target > 0.5).cpu(), scored.cpu()
    stride = width // guess.shape[-1]
    wrong = guess.cpu().repeat_interleave(stride, dim=1).repeat_interleave(stride, dim=2) != flooded
    for i in range(batch):
        for slot in range(count):
            corrects = _chance(0.5, generator) and bool((wrong[i] & known[i]).any())
            choice = wrong[i] if corrects else flooded[i] == _chance(0.65, generator)
            places = (choice & known[i]).flatten().nonzero()[:, 0]
            if len(places):
                place = int(places[torch.randint(len(places), (), generator=generator)])
                points[i, slot] = torch.tensor([place % width, place // width]).float()
                labels[i, slot] = int(flooded[i].flatten()[place])
    return points.to(target.device), labels.to(target.device)


def simulate_boxes(target: Tensor, scored: Tensor, generator: torch.Generator) -> Tensor:
    """The box around all flood, each side off by up to a tenth; the whole crop where nothing is flooded."""
    batch, height, width = target.shape
    boxes = torch.tensor([0.0, 0.0, width, height]).repeat(batch, 1)
    for i in range(batch):
        rows, cols = ((target[i] > 0.5) & scored[i]).nonzero(as_tuple=True)
        if len(rows):
            box = torch.tensor([cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]).float()
            side = torch.stack([box[2] - box[0], box[3] - box[1]]).repeat(2)
            box += side * (torch.rand(4, generator=generator) - 0.5) * 0.2
            limit = torch.tensor([width, height, width, height]).float()
            boxes[i] = torch.minimum(box.clamp(min=0), limit)
    return boxes.to(target.device)


def _chance(share: float, generator: torch.Generator) -> bool:
    return float(torch.rand((), generator=generator)) < share
