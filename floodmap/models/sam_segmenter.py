"""Meta's SAM at work: tiles and prompts in, flood probabilities out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from floodmap.imagery.tile import Tile
from floodmap.models.backends.cuda_graphs import Replayer
from floodmap.models.backends.dispatch import Dispatcher, Sent, sent_array, sent_floats
from floodmap.models.backends.onednn import pack_linears
from floodmap.models.prompts import PIXEL_CENTRE, Prompts
from floodmap.models.registry import ResolvedModel
from floodmap.models.sam.common import FRAME
from floodmap.models.sam.meta_sam import Sam

SETS = (4, 16)
"""Prompt sets decoded at once: on a GPU the next of these."""
TOKENS = 8
"""Points and corners of boxes in each of them, at least, on a GPU; otherwise a power of two."""
NOTHING = -1e4
"""Logit where nothing is prompted."""


class SamSegmenter:
    """Meta's SAM: does not know floods, is told where to look by prompts, sees 1024 x 1024 pixels."""

    knows_floods = False
    multiple = 32
    any_size = False

    def __init__(self, model: ResolvedModel, network: Sam, device: torch.device, dtype: torch.dtype) -> None:
        self.name, self.sha256, self.training = model.name, model.sha256, model.training
        self.device, self.dtype = device, dtype
        self.best_batch_size = 8 if device.type == "cuda" else 1
        self.runs_on = f"{device.type} {str(dtype).removeprefix('torch.')}"
        self.offloads = device.type != "cpu"
        self.network = in_precision(network.eval().requires_grad_(False), dtype).to(device)
        if device.type == "cpu":
            pack_linears(self.network.image_encoder)
        self._dispatcher, self._replayer = Dispatcher(device), Replayer(device)

    def predict(self, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> list[NDArray[np.float32]]:
        """Flood probability of every pixel; see `protocol.Segmenter`.

        Every box, with the points inside it, is a prompt of its own, and so are the points outside all boxes; the mask
        of a tile is their union. Where nothing is prompted nothing is flooded.
        """
        return self._dispatcher.run(self._predict, tiles, prompts)

    def strangeness(self, tiles: Sequence[Tile]) -> float:
        """Not known: Meta does not say what is far from eleven million pictures."""
        return 0.0

    @torch.inference_mode()
    def _predict(self, pictures: Sent, prompts: Sequence[Prompts]) -> Tensor:
        rgb = pictures.rgb
        shape_hw = (rgb.shape[-2], rgb.shape[-1])
        embedding = self._replayer.run(self._embed, rgb, pictures.valid)
        low = torch.full((len(rgb), FRAME // 4, FRAME // 4), NOTHING, device=self.device)
        sets = [(number, one) for number, p in enumerate(prompts) for one in prompt_sets(p)]
        for first in range(0, len(sets), SETS[-1]):
            numbers, some = zip(*sets[first : first + SETS[-1]], strict=True)
            xy, labels = tokens(some, FRAME / max(shape_hw))
            of = np.array(numbers)
            if self.offloads:  # as many as a GPU is told of in one call; a mask counts once in the union
                (xy, labels), of = _filled(xy, labels), np.pad(of, (0, _up_to(SETS, len(of)) - len(of)), "edge")
            images = sent_array(of, self.device)
            placed = sent_floats(xy, self.device), sent_array(labels, self.device)
            logits = self._replayer.run(self.network.best_masks, embedding[images].float(), *placed)
            low.scatter_reduce_(0, images[:, None, None].expand_as(logits), logits.float(), "amax")
        return self._upscale(low, shape_hw).sigmoid_()

    def _embed(self, rgb: Tensor, valid: Tensor) -> Tensor:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.network.encode(rgb, valid).embedding

    @staticmethod
    def _upscale(low: Tensor, shape_hw: tuple[int, int]) -> Tensor:
        """Logits of the frame, (B, 256, 256), as those of tiles, (B, height, width)."""
        scale = FRAME / max(shape_hw)
        frame = F.interpolate(low[:, None], (FRAME, FRAME), mode="bilinear", align_corners=False)
        height, width = (round(side * scale) for side in shape_hw)
        part = frame[..., :height, :width]
        return F.interpolate(part, shape_hw, mode="bilinear", align_corners=False)[:, 0]


def tokens(sets: Sequence[Prompts], scale: float) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Points and corners of boxes of prompt sets, in the frame, (N, T, 2), and of what kind they are, (N, T).

    See `Sam.best_masks`.
    """
    each = []
    for one in sets:
        corners = one.boxes_xyxy.reshape(-1, 2)
        rest = (corners, [2, 3]) if len(corners) else (np.zeros((1, 2)), [-1])
        each.append((np.concatenate([one.points_xy, rest[0]]), np.concatenate([one.labels, rest[1]])))
    most = max(len(labels) for _, labels in each)
    xy = np.zeros((len(each), most, 2), np.float32)
    kinds = np.full((len(each), most), -2, np.int64)
    for row, (places, labels) in enumerate(each):
        xy[row, : len(labels)], kinds[row, : len(labels)] = places * scale - PIXEL_CENTRE, labels
    return xy, kinds


def _filled(xy: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Prompt sets and tokens as many as a GPU is told of in one call: the last set again, tokens of no kind."""
    count, most = labels.shape
    more = (0, _up_to(SETS, count) - count)
    wider = (0, max(TOKENS, 1 << (most - 1).bit_length()) - most)
    xy = np.pad(np.pad(xy, ((0, 0), wider, (0, 0))), (more, (0, 0), (0, 0)), "edge")
    return xy, np.pad(np.pad(labels, ((0, 0), wider), constant_values=-2), (more, (0, 0)), "edge")


def _up_to(sizes: Sequence[int], count: int) -> int:
    return next(size for size in sizes if size >= count)


def in_precision(network: Sam, dtype: torch.dtype) -> Sam:
    """Keep the weights of the image encoder's products in a precision, in place, so that autocast need not copy them.

    Its norms and positions stay as they are.
    """
    for module in network.image_encoder.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            module.to(dtype)
    return network


def prompt_sets(prompts: Prompts) -> list[Prompts]:
    """Split a tile's prompts into those of one object each: every box with its points, then the points in no box."""
    sets, free = [], np.ones(len(prompts.points_xy), bool)
    for box in prompts.boxes_xyxy:
        inside = ((prompts.points_xy >= box[:2]) & (prompts.points_xy <= box[2:])).all(axis=1)
        free &= ~inside
        sets.append(Prompts(points_xy=prompts.points_xy[inside], labels=prompts.labels[inside], boxes_xyxy=box[None]))
    if (prompts.labels[free] == 1).any():
        sets.append(Prompts(points_xy=prompts.points_xy[free], labels=prompts.labels[free]))
    return sets
