"""Prompts simulated from a reference, as a person or the tool itself would give them; for training."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from floodmap.models.sam.common import SUREST
from floodmap.training.samples import Pairs

CELL = 4
"""Pixels to a side of the cells that regions are made of; as many as those of mask prompts."""


def coarse_prompt(far_logits: Tensor, pairs: Pairs) -> Tensor:
    """What was made of the far views, where the near ones lie: mask prompts (B, 1, near/4, near/4)."""
    near_size, far_size = pairs.near.rgb.shape[-1], pairs.far.rgb.shape[-1]
    axis = torch.arange(near_size // 4) * 4 + 2.0 - near_size / 2
    cells = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
    xy = cells / pairs.factor[:, None, None, None] + pairs.near_xy[:, None, None]
    grid = (xy * (2 / far_size)).to(far_logits.device)
    full = F.interpolate(far_logits[:, None], (far_size, far_size), mode="bilinear", align_corners=False)
    full = full.clamp(-SUREST, SUREST)
    return F.grid_sample(full, grid, mode="bilinear", padding_mode="border", align_corners=False)


def perturb_coarse(coarse: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Coarse masks that are wrong in some places of some views, as on pictures that a model was not trained on.

    On those it was trained on the coarse pass is hardly ever wrong, and the near view would learn to believe it.

    Args:
        coarse: mask prompts (B, 1, h, w), logits.
        share: of the views that are changed.
        generator: of all draws.

    Returns:
        The same, with a smooth random field added where they are changed.
    """
    count = len(coarse)
    chosen = (torch.rand(count, generator=generator) < share).float()[:, None, None, None]
    height = chosen * (1.0 + 5.0 * torch.rand(count, 1, 1, 1, generator=generator))
    field = height * torch.randn(count, 1, 4, 4, generator=generator)
    field = F.interpolate(field.to(coarse.device), coarse.shape[2:], mode="bicubic", align_corners=False)
    return (coarse + field).clamp(-SUREST, SUREST)


def drop_flood(coarse: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Coarse masks that have flood_dropped the flood of some views, as they do dark water between houses from far.

    Args:
        coarse: mask prompts (B, 1, h, w), logits.
        share: of the views that are changed.
        generator: of all draws.

    Returns:
        The same, with a ceiling that is dry nearly everywhere where they are changed.
    """
    count = len(coarse)
    chosen = (torch.rand(count, generator=generator) < share)[:, None, None, None].to(coarse.device)
    depth = 1.0 + 4.0 * torch.rand(count, 1, 1, 1, generator=generator)
    ceiling = 2.0 * torch.randn(count, 1, 6, 6, generator=generator) - depth
    ceiling = F.interpolate(ceiling.to(coarse.device), coarse.shape[2:], mode="bicubic", align_corners=False)
    return torch.where(chosen, torch.minimum(coarse, ceiling.clamp(min=-SUREST)), coarse)


def relabel_region(colours: Tensor, target: Tensor, scored: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """What somebody might call flood instead: in some views a stretch of water is none, or dry ground of one colour is.

    On pictures it was trained on a model is hardly ever wrong, so it would learn to overhear points there: they have to
    tell it something that it cannot know.

    Args:
        colours: of the cells, (B, 3, H/4, W/4), 0 to 255.
        target: flood share (B, H, W).
        scored: bool (B, H, W).
        share: of the views that are changed, where a region is found.
        generator: of all draws.

    Returns:
        The flood share so understood, (B, H, W).
    """
    changed = target.clone()
    for i in range(len(target)):
        if not _chance(share, generator):
            continue
        flooded, known = (cells_of(x[i, None].float())[0].cpu().numpy() > 0.5 for x in (target, scored))
        region = _region(colours[i].float().cpu().numpy(), flooded, known, generator)
        if region is None:
            continue
        soft = torch.from_numpy(region).float()[None, None].to(target.device)
        whole = F.interpolate(soft, target.shape[1:], mode="bilinear", align_corners=False)[0, 0] > 0.5
        was_flooded = (target[i] * whole).sum() > whole.sum() / 2
        changed[i] = torch.where(whole, 0.0 if was_flooded else 1.0, target[i])
    return changed


def cells_of(planes: Tensor) -> Tensor:
    """Means of cells, (..., C, H/4, W/4) of (..., C, H, W)."""
    return F.avg_pool2d(planes, CELL)


def _region(
    colours: NDArray[np.float32], flooded: NDArray[np.bool_], known: NDArray[np.bool_], generator: torch.Generator
) -> NDArray[np.bool_] | None:
    """Connected ground of one class and about one colour, neither tiny nor most of the view; None if there is none."""
    own = known & (flooded == _chance(0.5, generator))
    places = np.argwhere(own)
    if not len(places):
        return None
    row, col = places[int(torch.randint(len(places), (), generator=generator))]
    smooth = ndimage.uniform_filter(colours, (0, 3, 3))
    tolerance = 10 + 50 * float(torch.rand((), generator=generator))
    near = np.linalg.norm(smooth - smooth[:, row, col, None, None], axis=0) < tolerance
    parts, _ = ndimage.label(own & near)
    region = ndimage.median_filter(ndimage.binary_fill_holes(parts == parts[row, col]) & own, 3)
    return region if 0.02 < region.mean() < 0.5 else None


def simulate_points(target: Tensor, scored: Tensor, guess: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One to three points a crop where the guess is wrong, as by a person who corrects it.

    Half of the first ones lie deepest in the largest error. A third of the others, and all where nothing is wrong, lie
    anywhere, most on flood; pictures without a class get none of it.

    Args:
        target: flood share (B, H, W).
        scored: bool (B, H, W).
        guess: what was made of the crops before, bool (B, h, w) at a whole fraction of their resolution.
        generator: of all draws.

    Returns:
        Coordinates (B, N, 2) and labels (B, N), as `FloodSam.forward` takes them.
    """
    batch, width = len(target), target.shape[-1]
    count = int(torch.randint(1, 4, (), generator=generator))
    points = torch.zeros(batch, count, 2)
    labels = torch.full((batch, count), -1)
    flooded, known = (target > 0.5).cpu(), scored.cpu()
    wrong = _grown(guess, width) != flooded
    for i in range(batch):
        for slot in range(count):
            if slot == 0 and _chance(0.5, generator) and (deepest := _deepest(wrong[i] & known[i], flooded[i])):
                points[i, slot] = torch.tensor(deepest[::-1]).float()
                labels[i, slot] = int(flooded[i][deepest])
                continue
            corrects = (slot == 0 or _chance(0.5, generator)) and bool((wrong[i] & known[i]).any())
            choice = wrong[i] if corrects else flooded[i] == _chance(0.65, generator)
            places = (choice & known[i]).flatten().nonzero()[:, 0]
            if len(places):
                place = int(places[torch.randint(len(places), (), generator=generator)])
                points[i, slot] = torch.tensor([place % width, place // width]).float()
                labels[i, slot] = int(flooded[i].flatten()[place])
    return points.to(target.device), labels.to(target.device)


def deepest_points(target: Tensor, scored: Tensor, guess: Tensor | None) -> tuple[Tensor, Tensor]:
    """One point a crop where the largest error is deepest, as `oracle.add_point`; of no class where nothing is wrong.

    Args:
        target: flood share (B, H, W).
        scored: bool (B, H, W).
        guess: as in `simulate_points`; None: that nothing is flooded.

    Returns:
        As `simulate_points`, N being 1.
    """
    points, labels = torch.zeros(len(target), 1, 2), torch.full((len(target), 1), -1)
    flooded, known = (target > 0.5).cpu(), scored.cpu()
    wrong = flooded if guess is None else _grown(guess, target.shape[-1]) != flooded
    for i in range(len(target)):
        if place := _deepest(wrong[i] & known[i], flooded[i]):
            points[i, 0] = torch.tensor(place[::-1]).float()
            labels[i, 0] = int(flooded[i][place])
    return points.to(target.device), labels.to(target.device)


def _grown(guess: Tensor, width: int) -> Tensor:
    """Guesses (B, h, w) at the resolution of crops that wide."""
    stride = width // guess.shape[-1]
    return guess.cpu().repeat_interleave(stride, dim=1).repeat_interleave(stride, dim=2)


def _deepest(wrong: Tensor, flooded: Tensor) -> tuple[int, int] | None:
    """Row and column deepest in the largest error of one kind, to a cell; None where nothing is wrong.

    Args:
        wrong: bool (H, W).
        flooded: bool (H, W): which of two kinds an error is of.
    """
    cell = np.s_[CELL // 2 :: CELL, CELL // 2 :: CELL]
    largest: NDArray[np.bool_] | None = None
    for kind in (wrong & flooded, wrong & ~flooded):
        parts, count = ndimage.label(kind[cell].numpy())
        if count:
            sizes = np.bincount(parts.ravel())[1:]
            if largest is None or sizes.max() > largest.sum():
                largest = parts == 1 + int(sizes.argmax())
    if largest is None:
        return None
    depth = ndimage.distance_transform_edt(np.pad(largest, 1))[1:-1, 1:-1]
    row, col = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(row) * CELL + CELL // 2, int(col) * CELL + CELL // 2


def simulate_boxes(target: Tensor, scored: Tensor, generator: torch.Generator) -> Tensor:
    """The box around all flood, each side off by up to a tenth; the whole crop where nothing is flooded."""
    batch, height, width = target.shape
    boxes = torch.tensor([0.0, 0.0, width, height]).repeat(batch, 1)
    flooded = ((target > 0.5) & scored).cpu()
    for i in range(batch):
        rows, cols = flooded[i].nonzero(as_tuple=True)
        if len(rows):
            box = torch.tensor([cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]).float()
            side = torch.stack([box[2] - box[0], box[3] - box[1]]).repeat(2)
            box += side * (torch.rand(4, generator=generator) - 0.5) * 0.2
            limit = torch.tensor([width, height, width, height]).float()
            boxes[i] = torch.minimum(box.clamp(min=0), limit)
    return boxes.to(target.device)


def _chance(share: float, generator: torch.Generator) -> bool:
    return float(torch.rand((), generator=generator)) < share
