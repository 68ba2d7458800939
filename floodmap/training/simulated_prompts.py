"""Training prompts simulated from the reference: points, boxes, and coarse masks with random errors."""

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
"""Side of a cell in pixels. A cell is a square of pixels: mask prompts have one value per cell, and the regions of
`relabel_region` consist of whole cells."""


def coarse_prompt(far_logits: Tensor, pairs: Pairs) -> Tensor:
    """Make the mask prompts of near views: crop the predictions for the far views to the area of the near views.

    Args:
        far_logits: flood logits of the whole far views, (B, h, w). The logits are first resized to the far views' size.
        pairs: B pairs of a far view and a near view. Of a pair, only the sizes of the views, the position of the near
            view in the far view, and the ratio of the pixel sizes are used.

    Returns:
        Mask prompts: logits (B, 1, n/4, n/4), for near views of n x n pixels.
    """
    near_size, far_size = pairs.near.rgb.shape[-1], pairs.far.rgb.shape[-1]
    axis = torch.arange(near_size // 4) * 4 + 2.0 - near_size / 2
    cells = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
    xy = cells / pairs.factor[:, None, None, None] + pairs.near_xy[:, None, None]
    grid = (xy * (2 / far_size)).to(far_logits.device)
    full = F.interpolate(far_logits[:, None], (far_size, far_size), mode="bilinear", align_corners=False)
    full = full.clamp(-SUREST, SUREST)
    return F.grid_sample(full, grid, mode="bilinear", padding_mode="border", align_corners=False)


def perturb_coarse(coarse: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Add random errors to the coarse masks of some views.

    On training pictures the coarse pass is hardly ever wrong. Without random errors, the model would learn to copy the
    mask prompt. On other pictures, the coarse pass has errors.

    Args:
        coarse: mask prompts: flood logits (B, 1, h, w).
        share: probability that a view is changed.
        generator: source of randomness.

    Returns:
        Mask prompts (B, 1, h, w). To the logits of each changed view, a smooth array of random numbers is added: normal
        random numbers (4, 4), interpolated to (h, w). Their standard deviation is drawn for each view, 1 to 6.
    """
    count = len(coarse)
    chosen = (torch.rand(count, generator=generator) < share).float()[:, None, None, None]
    height = chosen * (1.0 + 5.0 * torch.rand(count, 1, 1, 1, generator=generator))
    field = height * torch.randn(count, 1, 4, 4, generator=generator)
    field = F.interpolate(field.to(coarse.device), coarse.shape[2:], mode="bicubic", align_corners=False)
    return (coarse + field).clamp(-SUREST, SUREST)


def drop_flood(coarse: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Remove most flood from the coarse masks of some views.

    The removal simulates a frequent error of the coarse pass: dark water between houses is predicted as dry.

    Args:
        coarse: mask prompts: flood logits (B, 1, h, w).
        share: probability that a view is changed.
        generator: source of randomness.

    Returns:
        Mask prompts (B, 1, h, w). In each changed view, logits above an upper limit are lowered to the limit. The limit
        varies smoothly from pixel to pixel: it is an array of normal random numbers (6, 6), interpolated to (h, w).
        Their mean is drawn for each view, -5 to -1, and their standard deviation is 2. The limit is therefore mostly
        below 0, and a logit below 0 means dry.
    """
    count = len(coarse)
    chosen = (torch.rand(count, generator=generator) < share)[:, None, None, None].to(coarse.device)
    depth = 1.0 + 4.0 * torch.rand(count, 1, 1, 1, generator=generator)
    ceiling = 2.0 * torch.randn(count, 1, 6, 6, generator=generator) - depth
    ceiling = F.interpolate(ceiling.to(coarse.device), coarse.shape[2:], mode="bicubic", align_corners=False)
    return torch.where(chosen, torch.minimum(coarse, ceiling.clamp(min=-SUREST)), coarse)


def relabel_region(colours: Tensor, target: Tensor, scored: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Swap the label of one region in some views: flood becomes dry, or dry ground becomes flood.

    A region is connected and has a similar colour everywhere. On training pictures a model is hardly ever wrong, and
    would learn to ignore points. After the swap, the label of the region can only be learned from the points.

    Args:
        colours: mean RGB of each cell, (B, 3, H/4, W/4), 0 to 255.
        target: flooded share of each pixel, (B, H, W), 0 to 1.
        scored: bool (B, H, W), True where a pixel has a label and counts in the loss.
        share: probability that a view is changed. A view stays unchanged if `_draw_region` returns no region.
        generator: source of randomness.

    Returns:
        The changed target, (B, H, W), 0 to 1.
    """
    changed = target.clone()
    for i in range(len(target)):
        if not _draw_bool(share, generator):
            continue
        flooded, labelled = (cells_of(x[i, None].float())[0].cpu().numpy() > 0.5 for x in (target, scored))
        region = _draw_region(colours[i].float().cpu().numpy(), flooded, labelled, generator)
        if region is None:
            continue
        soft = torch.from_numpy(region).float()[None, None].to(target.device)
        whole = F.interpolate(soft, target.shape[1:], mode="bilinear", align_corners=False)[0, 0] > 0.5
        was_flooded = (target[i] * whole).sum() > whole.sum() / 2
        changed[i] = torch.where(whole, 0.0 if was_flooded else 1.0, target[i])
    return changed


def cells_of(planes: Tensor) -> Tensor:
    """Return the mean of each cell (4 x 4 pixels).

    Args:
        planes: values of pixels, (..., C, H, W).

    Returns:
        Means, (..., C, H/4, W/4).
    """
    return F.avg_pool2d(planes, CELL)


def _draw_region(
    colours: NDArray[np.float32], flooded: NDArray[np.bool_], labelled: NDArray[np.bool_], generator: torch.Generator
) -> NDArray[np.bool_] | None:
    """Draw a class, flood or dry with equal probability, and then a region of this class and of similar colour.

    One cell with a label of this class is drawn at random. The region consists of the cells with a label of this class
    that are connected to the drawn cell and have a similar colour.

    Args:
        colours: mean RGB of each cell, float32 (3, h, w), 0 to 255.
        flooded: bool (h, w), True on flooded cells.
        labelled: bool (h, w), True on cells with a label.
        generator: source of randomness.

    Returns:
        The region, bool (h, w). None if no cell has a label of the drawn class, or if the region covers less than 2 %
        or more than 50 % of the view.
    """
    own = labelled & (flooded == _draw_bool(0.5, generator))
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


def simulate_points(
    target: Tensor, scored: Tensor, predicted: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Choose one to three points per view at random, similar to points with which a user corrects a wrong prediction.

    An error is a connected area of labelled pixels in which the prediction differs from the reference. The first point
    of a view lies in an error. With probability 0.5 it is the pixel farthest from the edge of the largest error,
    otherwise a random pixel of any error. With probability 0.5, a later point is also a random pixel of any error.

    The remaining later points, and all points of a view without errors, need not lie in an error. For such a point, a
    class is drawn first: flood with probability 0.65, otherwise dry. The point is then a random labelled pixel of this
    class in the reference. If the view has no such pixel, the point has the label -1 (no point).

    Args:
        target: flooded share of each pixel, (B, H, W), 0 to 1.
        scored: bool (B, H, W), True where a pixel has a label and counts in the loss.
        predicted: flood predicted so far, bool (B, h, w); H and W are multiples of h and w.
        generator: source of randomness.

    Returns:
        Coordinates (B, N, 2) in pixels from the centre of the first pixel, x first, and labels (B, N) from the
        reference: 1 flood, 0 dry, -1 no point. N is 1, 2 or 3, the same for all views.
    """
    batch, width = len(target), target.shape[-1]
    count = int(torch.randint(1, 4, (), generator=generator))
    points = torch.zeros(batch, count, 2)
    labels = torch.full((batch, count), -1)
    flooded, labelled = (target > 0.5).cpu(), scored.cpu()
    wrong = _upsampled(predicted, width) != flooded
    for i in range(batch):
        for slot in range(count):
            if slot == 0 and _draw_bool(0.5, generator) and (deepest := _deepest(wrong[i] & labelled[i], flooded[i])):
                points[i, slot] = torch.tensor(deepest[::-1]).float()
                labels[i, slot] = int(flooded[i][deepest])
                continue
            corrects = (slot == 0 or _draw_bool(0.5, generator)) and bool((wrong[i] & labelled[i]).any())
            choice = wrong[i] if corrects else flooded[i] == _draw_bool(0.65, generator)
            places = (choice & labelled[i]).flatten().nonzero()[:, 0]
            if len(places):
                place = int(places[torch.randint(len(places), (), generator=generator)])
                points[i, slot] = torch.tensor([place % width, place // width]).float()
                labels[i, slot] = int(flooded[i].flatten()[place])
    return points.to(target.device), labels.to(target.device)


def deepest_points(target: Tensor, scored: Tensor, predicted: Tensor | None) -> tuple[Tensor, Tensor]:
    """Place one point per view in the largest error of the prediction, as far as possible from the error's edge.

    The command `compare` places points in the same way; see `oracle.add_point`.

    Args:
        target: flooded share of each pixel, (B, H, W), 0 to 1.
        scored: bool (B, H, W), True where a pixel has a label and counts in the loss.
        predicted: flood predicted so far, bool (B, h, w); H and W are multiples of h and w. None: all pixels are dry.

    Returns:
        Coordinates (B, 1, 2) in pixels from the centre of the first pixel, x first, and labels (B, 1): 1 flood, 0 dry,
        -1 if a view has no error.
    """
    points, labels = torch.zeros(len(target), 1, 2), torch.full((len(target), 1), -1)
    flooded, labelled = (target > 0.5).cpu(), scored.cpu()
    wrong = flooded if predicted is None else _upsampled(predicted, target.shape[-1]) != flooded
    for i in range(len(target)):
        if place := _deepest(wrong[i] & labelled[i], flooded[i]):
            points[i, 0] = torch.tensor(place[::-1]).float()
            labels[i, 0] = int(flooded[i][place])
    return points.to(target.device), labels.to(target.device)


def _upsampled(predicted: Tensor, width: int) -> Tensor:
    """Repeat the values of predictions (B, h, w), such that the result (B, H, W) is `width` pixels wide."""
    stride = width // predicted.shape[-1]
    return predicted.cpu().repeat_interleave(stride, dim=1).repeat_interleave(stride, dim=2)


def _deepest(wrong: Tensor, flooded: Tensor) -> tuple[int, int] | None:
    """Return row and column of the pixel farthest from the edge of the largest connected error; None without errors.

    The position is exact to a cell of 4 x 4 pixels. Missed flood and false flood are separate errors.

    Args:
        wrong: bool (H, W), True where the prediction is wrong.
        flooded: bool (H, W), True where the reference is flooded. A wrong pixel is missed flood if it is flooded, else
            false flood.
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
    """Return one box for each view: the bounding box of all flood with a label, with random errors.

    The left edge and the right edge are each moved at random by up to a tenth of the box's width, in either direction.
    The upper edge and the lower edge are each moved by up to a tenth of the box's height. No edge leaves the view. The
    box of a view without flood is the whole view.

    Args:
        target: flooded share of each pixel, (B, H, W), 0 to 1.
        scored: bool (B, H, W), True where a pixel has a label and counts in the loss.
        generator: source of randomness.

    Returns:
        Boxes, float32 (B, 4): left, top, right, bottom in pixels from the upper left corner of the view.
    """
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


def _draw_bool(share: float, generator: torch.Generator) -> bool:
    """Return True with the probability `share`, 0 to 1; else False."""
    return float(torch.rand((), generator=generator)) < share
