"""`SamSegmenter`: inference with Meta's SAM, from image tiles and prompts to flood probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from floodmap.imagery.tile import Tile
from floodmap.models.backends.cuda_graphs import Replayer
from floodmap.models.backends.dispatch import Dispatcher, TileBatch, array_to_device, floats_to_device, keep_in_bounds
from floodmap.models.backends.onednn import pack_linears
from floodmap.models.prompts import PIXEL_CENTRE, Prompts
from floodmap.models.registry import ResolvedModel
from floodmap.models.sam.common import FRAME
from floodmap.models.sam.meta_sam import Sam

SETS = (4, 16)
"""Numbers of prompt sets to which a batch is padded on a GPU; no batch has more sets than the last number.
A prompt set contains the prompts of one object; see `prompt_sets`."""
TOKENS = 8
"""Least number of tokens (points and box corners) to which a prompt set is padded on a GPU.
Longer sets are padded to the next power of two."""
NO_PROMPT_LOGIT = -1e4
"""Logit of all pixels of a tile without prompt sets: the tile is predicted as dry."""


class SamSegmenter:
    """Meta's SAM, not trained on floods. It needs prompts, and resizes every tile to fit 1024 x 1024 pixels."""

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
        """Predict the flood probability of every pixel; see `protocol.Segmenter`.

        Every box with the points inside the box is one prompt set, and the points outside all boxes are another set.
        SAM predicts one mask for each prompt set. The result is the union of the masks: the highest probability of each
        pixel. A tile without a box and without a flood point is dry, and so are pixels outside of `Prompts.bounds`.
        """
        return self._dispatcher.run(self._predict, tiles, prompts)

    def ood_score(self, tiles: Sequence[Tile]) -> float:
        """Return 0, which means not known, because there are no feature statistics of SAM's training images."""
        return 0.0

    @torch.inference_mode()
    def _predict(self, batch: TileBatch, prompts: Sequence[Prompts]) -> Tensor:
        """Return flood probabilities (B, height, width), 0 to 1; 0 outside of `Prompts.bounds`."""
        rgb = batch.rgb
        shape_hw = (rgb.shape[-2], rgb.shape[-1])
        embedding = self._replayer.run(self._embed, rgb, batch.valid)
        low_res = torch.full((len(rgb), FRAME // 4, FRAME // 4), NO_PROMPT_LOGIT, device=self.device)
        sets = [(index, prompt_set) for index, p in enumerate(prompts) for prompt_set in prompt_sets(p)]
        for first in range(0, len(sets), SETS[-1]):
            indices, chunk = zip(*sets[first : first + SETS[-1]], strict=True)
            xy, labels = tokens(chunk, FRAME / max(shape_hw))
            tile_of_set = np.array(indices)
            if self.offloads:  # pad to few shapes, for CUDA graphs; a repeated mask does not change the union
                missing = _next_size(SETS, len(tile_of_set)) - len(tile_of_set)
                (xy, labels), tile_of_set = _padded(xy, labels), np.pad(tile_of_set, (0, missing), "edge")
            images = array_to_device(tile_of_set, self.device)
            inputs = floats_to_device(xy, self.device), array_to_device(labels, self.device)
            logits = self._replayer.run(self.network.best_masks, embedding[images].float(), *inputs)
            low_res.scatter_reduce_(0, images[:, None, None].expand_as(logits), logits.float(), "amax")
        return keep_in_bounds(self._upscale(low_res, shape_hw).sigmoid_(), prompts)

    def _embed(self, rgb: Tensor, valid: Tensor) -> Tensor:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.network.encode(rgb, valid).embedding

    @staticmethod
    def _upscale(low_res: Tensor, shape_hw: tuple[int, int]) -> Tensor:
        """Resample logits of SAM's input frame, (B, 256, 256), to logits of tiles, (B, height, width).

        The padding of the frame, to the right of the tile or below it, is cut off.
        """
        scale = FRAME / max(shape_hw)
        frame = F.interpolate(low_res[:, None], (FRAME, FRAME), mode="bilinear", align_corners=False)
        height, width = (round(side * scale) for side in shape_hw)
        part = frame[..., :height, :width]
        return F.interpolate(part, shape_hw, mode="bilinear", align_corners=False)[:, 0]


def tokens(sets: Sequence[Prompts], scale: float) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Convert prompt sets to tokens of the prompt encoder. A token is a point or a corner of a box.

    Sets with fewer tokens than the longest set are padded with tokens of the label code -2.

    Args:
        sets: N prompt sets in pixel coordinates of the tile (see `Prompts`), each with at most one box.
        scale: number of pixels of SAM's input frame (1024 x 1024) per pixel of the tile.

    Returns:
        Two values, as arguments of `Sam.best_masks`. Coordinates in pixels of the input frame, from the centre of the
        first pixel, float32 (N, T, 2), x first. Label codes (see `PointEncoder`), int64 (N, T). T is the number of
        tokens of the longest set.
    """
    each = []
    for prompt_set in sets:
        corners = prompt_set.boxes_xyxy.reshape(-1, 2)
        rest = (corners, [2, 3]) if len(corners) else (np.zeros((1, 2)), [-1])
        each.append((np.concatenate([prompt_set.points_xy, rest[0]]), np.concatenate([prompt_set.labels, rest[1]])))
    length = max(len(labels) for _, labels in each)
    xy = np.zeros((len(each), length, 2), np.float32)
    codes = np.full((len(each), length), -2, np.int64)
    for row, (points, labels) in enumerate(each):
        xy[row, : len(labels)], codes[row, : len(labels)] = points * scale - PIXEL_CENTRE, labels
    return xy, codes


def _padded(xy: NDArray[np.float32], labels: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Pad the results of `tokens` to one of a few shapes, so that CUDA graphs are reused.

    Every set is padded with tokens of the label code -2. The last set is repeated until the number of sets is one of
    `SETS`.
    """
    count, length = labels.shape
    more_sets = (0, _next_size(SETS, count) - count)
    more_tokens = (0, max(TOKENS, 1 << (length - 1).bit_length()) - length)
    xy = np.pad(np.pad(xy, ((0, 0), more_tokens, (0, 0))), (more_sets, (0, 0), (0, 0)), "edge")
    return xy, np.pad(np.pad(labels, ((0, 0), more_tokens), constant_values=-2), (more_sets, (0, 0)), "edge")


def _next_size(sizes: Sequence[int], count: int) -> int:
    return next(size for size in sizes if size >= count)


def in_precision(network: Sam, dtype: torch.dtype) -> Sam:
    """Convert the linear and convolution layers of the image encoder to a dtype, in place, and return the network.

    Autocast would otherwise convert the weights of these layers in every call. The encoder's layer norms and positional
    embeddings are not converted.
    """
    for module in network.image_encoder.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            module.to(dtype)
    return network


def prompt_sets(prompts: Prompts) -> list[Prompts]:
    """Split a tile's prompts into one set for each object.

    Each box, together with the points inside the box, is a set. The points outside all boxes are one further set,
    unless all of these points are dry. A mask prompt is left out.
    """
    sets, free = [], np.ones(len(prompts.points_xy), bool)
    for box in prompts.boxes_xyxy:
        inside = ((prompts.points_xy >= box[:2]) & (prompts.points_xy <= box[2:])).all(axis=1)
        free &= ~inside
        sets.append(Prompts(points_xy=prompts.points_xy[inside], labels=prompts.labels[inside], boxes_xyxy=box[None]))
    if (prompts.labels[free] == 1).any():
        sets.append(Prompts(points_xy=prompts.points_xy[free], labels=prompts.labels[free]))
    return sets
