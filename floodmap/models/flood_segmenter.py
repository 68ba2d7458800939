"""`FloodSegmenter`: inference with floodmap's own models, from image tiles and prompts to flood probabilities."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from floodmap._runtime.forks import PerProcess, threads
from floodmap.imagery.tile import Tile
from floodmap.models.backends.cuda_graphs import Replayer
from floodmap.models.backends.dispatch import (
    Dispatcher,
    TileBatch,
    array_to_device,
    floats_to_device,
    keep_in_bounds,
    tiles_to_device,
)
from floodmap.models.backends.onednn import pack_linears
from floodmap.models.backends.threads import compute_gelu_in_one_thread, one_thread
from floodmap.models.calibration import Calibration
from floodmap.models.familiarity import Familiarity
from floodmap.models.mask_prompts import mask_logits
from floodmap.models.prompts import PIXEL_CENTRE, Prompts
from floodmap.models.registry import ResolvedModel
from floodmap.models.sam.common import FRAME, Encoded, normalized
from floodmap.models.sam.efficientnet import fuse
from floodmap.models.sam.flood_sam import FloodSam
from floodmap.models.sam.meta_sam import Sam

SIDE_BY_SIDE = 4
"""Largest number of batches that a CPU computes at the same time, each with its own threads."""
SHARED = 2**19
"""Least number of pixels of a tile for which a CPU uses several threads.
Every smaller tile gets one thread, even if other threads are idle. The reason is memory: oneDNN keeps separate kernels
of 5 MB for each combination of a number of threads and a shape of tile."""
TOGETHER = 4
"""Number of tiles in a full batch on a CPU. All tiles of a batch have the same shape.
Only tiles of fewer than `SHARED / TOGETHER` pixels share a batch. A batch has 1 or `TOGETHER` tiles: if there are only
two or three tiles, copies of the last tile fill the batch, and the results of the copies are thrown away. The reason is
that other sizes of batch would need further kernels of oneDNN. For tiles of 320 x 320 pixels, a full batch takes little
more than half the time of the same tiles one by one. Batches of eight tiles would hardly take less time per tile than
batches of `TOGETHER` tiles."""
POINTED_SCALES = (0.7, 1.4)
"""Further scales, besides 1, at which tiles with point prompts are predicted (test-time augmentation).
The IoU on the validation pictures with eight points rises from 0.866 to 0.873."""


class FloodSegmenter:
    """Model that was trained on floods by floodmap; it needs no prompt and accepts tiles of any size.

    Args:
        model: path, name and SHA-256 of the weights.
        network: the network with its weights.
        calibration: calibration of the logits.
        familiarity: features of the training views, for the out-of-distribution score; None: not known.
        device: device of the model.
        dtype: dtype of the weights.
        share: number of processes that share the cores of the machine. This process computes with 1/`share` of them.
    """

    knows_floods = True
    multiple = 32

    def __init__(
        self,
        model: ResolvedModel,
        network: FloodSam | Sam,
        calibration: Calibration,
        familiarity: Familiarity | None,
        device: torch.device,
        dtype: torch.dtype,
        share: int = 1,
    ) -> None:
        self.name, self.sha256, self.training, self.familiarity = model.name, model.sha256, model.training, familiarity
        self.calibration, self.device, self.dtype = calibration, device, dtype
        self._threads, self._dispatcher, self._replayer = torch.get_num_threads(), Dispatcher(device), Replayer(device)
        self.best_batch_size = 8 if device.type == "cuda" else min(self._threads, SIDE_BY_SIDE)
        self._own_threads = max(1, self._threads // share)
        n_batches = 8 if device.type == "cuda" else min(self._own_threads, SIDE_BY_SIDE)
        self._side_by_side = PerProcess(partial(ThreadPoolExecutor, n_batches, "windows"))
        self.runs_on = f"{device.type} {str(dtype).removeprefix('torch.')}"
        self.offloads = device.type != "cpu"
        # Meta's networks resize every tile to SAM's input frame, and a GPU needs a warm-up for every shape.
        self.any_size = isinstance(network, FloodSam) and not self.offloads
        network.eval().requires_grad_(False)
        fuse(network)
        # The prompt encoder stays in float32: in bfloat16 neighbouring coordinates are equal.
        network.image_encoder.to(dtype)
        network.mask_decoder.to(dtype)
        if isinstance(network, FloodSam):
            network.corrector.to(dtype)
            network.point_maps.to(dtype)
        self.network = network.to(device)
        if device.type == "cpu":
            network.to(memory_format=torch.channels_last)
            if isinstance(network, Sam):
                pack_linears(network.image_encoder)
            else:
                compute_gelu_in_one_thread(network)

    def predict(self, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> list[NDArray[np.float32]]:
        """Predict the flood probability of every pixel; see `protocol.Segmenter`.

        If the network is a `FloodSam`, a tile with point prompts is predicted at up to three scales, and the mean of
        these predictions is returned.
        """
        if self.device.type != "cpu":
            return self._dispatcher.run(self._predict_on_device, tiles, prompts)

        # Each batch has its own threads, because threads that share a window wait for each other at every layer.
        def run_batch(indices: list[int]) -> list[NDArray[np.float32]]:
            each = threads(self._threads) // min(len(batches), self.best_batch_size)
            # In float32, oneDNN's convolutions give other last bits in one thread than in several. A process that has
            # only a share of the cores then uses as many threads for a batch as a process that has all cores.
            each = each if self.dtype == torch.float32 else min(each, self._own_threads)
            torch.set_num_threads(max(1, each if _pixels(tiles, indices[:1]) >= SHARED else 1))  # for this thread only
            padded = indices if len(indices) == 1 else indices + [indices[-1]] * (TOGETHER - len(indices))
            batch = tiles_to_device([tiles[index] for index in padded], self.device)
            results = self._predict(batch, [prompts[index] for index in padded])
            return list(results[: len(indices)].numpy())

        # The largest batches come first: a large batch at the end would leave the other threads idle.
        batches = sorted(cpu_batches(tiles, prompts), key=lambda indices: -_pixels(tiles, indices))
        try:
            results = dict(zip(chain(*batches), chain(*self._side_by_side().map(run_batch, batches)), strict=True))
        finally:
            torch.set_num_threads(threads(self._own_threads))  # a new thread inherits the value that was set last
        return [results[index] for index in range(len(tiles))]

    def ood_score(self, tiles: Sequence[Tile]) -> float:
        """Compute the out-of-distribution score of a scene from some of its tiles; see `protocol.Segmenter`.

        The score is 0, which means not known, if the model's file has no features of the training views.
        """
        return 0.0 if self.familiarity is None else self.familiarity.ood_score(self.described(tiles))

    def described(self, tiles: Sequence[Tile]) -> NDArray[np.float32]:
        """Return the feature statistics of n tiles for `Familiarity`, float32 (n, D).

        The statistics of a tile are those of `PyramidEncoder.described`. The tiles may have any shapes.

        Raises:
            AttributeError: the image encoder is one of Meta's; only a `PyramidEncoder` computes these statistics.
        """
        return np.stack(self._dispatcher.run(self._describe, tiles, [Prompts.none()] * len(tiles)))

    @torch.inference_mode()
    def _describe(self, batch: TileBatch, _: Sequence[Prompts]) -> Tensor:
        height, width = batch.rgb.shape[-2:]
        pad = (0, -width % self.multiple, 0, -height % self.multiple)
        rgb, valid = F.pad(batch.rgb, pad), F.pad(batch.valid, pad)
        encoder = self.network.image_encoder
        described: Tensor = encoder.described(normalized(rgb, valid, encoder.skip4.weight.dtype))
        return described

    def _predict_on_device(self, batch: TileBatch, prompts: Sequence[Prompts]) -> Tensor:
        # cuDNN takes up to two seconds to prepare a depthwise convolution for a new shape. Torch's own kernels need no
        # preparation and take a quarter more time. The flag affects all threads, but only one launches GPU work.
        with torch.backends.cudnn.flags(enabled=not isinstance(self.network, FloodSam)):
            return self._predict(batch, prompts)

    @torch.inference_mode()
    def _predict(self, batch: TileBatch, prompts: Sequence[Prompts]) -> Tensor:
        """Return flood probabilities (B, H, W), 0 to 1.

        The probabilities of tiles with point prompts are means over up to three scales, if the network is a `FloodSam`.
        Pixels outside of `Prompts.bounds` have the probability 0.
        """
        probabilities = self._probabilities(batch, prompts)
        if isinstance(self.network, FloodSam):
            for i, p in enumerate(prompts):
                if len(p.points_xy):
                    one = slice(i, i + 1)
                    scales = _scales(p, batch.rgb.shape)
                    others = [self._probabilities_at_scale(batch[one], p, scale) for scale in scales]
                    probabilities[one] = torch.stack([probabilities[one], *others]).mean(dim=0)
        return keep_in_bounds(probabilities, prompts)

    def _probabilities(self, batch: TileBatch, prompts: Sequence[Prompts]) -> Tensor:
        """Return flood probabilities (B, H, W), 0 to 1, of tiles at one scale; `batch.rgb` may be uint8 or float."""
        masks = [p.mask for p in prompts if p.mask is not None]
        pointed = any(len(p.points_xy) or len(p.boxes_xyxy) for p in prompts)
        if pointed or len(masks) not in (0, len(prompts)) or len({mask.shape for mask in masks}) > 1:
            decode = partial(self._decode, prompts=prompts, shape_hw=batch.rgb.shape[-2:])
            return self._encode_and_decode(decode, batch)
        likelihood = array_to_device(np.stack(masks).astype(np.float32), self.device) if masks else None
        return self._replayer.run(self._probabilities_unpointed, batch.rgb, batch.valid, batch.gsd_m, likelihood)

    def _probabilities_unpointed(self, rgb: Tensor, valid: Tensor, gsd_m: Tensor, likelihood: Tensor | None) -> Tensor:
        """Return flood probabilities (B, H, W), 0 to 1, of tiles without point and box prompts, at one scale.

        `likelihood` holds `Prompts.mask` of each tile, float32 (B, h, w), 0 to 1: usually flood probabilities of the
        coarse map. `mask_logits` converts it to logits for the network. h and w may differ from H and W. None: no tile
        has a mask prompt.
        """

        def decode(encoded: Encoded) -> Tensor:
            masks = None if likelihood is None else self._mask_logits(encoded, likelihood, rgb.shape[-2:])
            return self.network.decode(encoded, masks=masks)[0]

        return self._encode_and_decode(decode, TileBatch(rgb, valid, gsd_m))

    def _encode_and_decode(self, decode: Callable[[Encoded], Tensor], batch: TileBatch) -> Tensor:
        """Return calibrated flood probabilities (B, H, W), 0 to 1.

        `decode` is a function that computes logits (B, h, w), coarser than the tiles, from the encoded tiles.
        """
        rgb, valid = batch.rgb, batch.valid
        height, width = rgb.shape[-2:]
        pad = (0, -width % self.multiple, 0, -height % self.multiple)
        if any(pad):
            rgb, valid = F.pad(rgb, pad), F.pad(valid, pad)
        gsd = (batch.gsd_m,) if isinstance(self.network, FloodSam) else ()
        logits = decode(self.network.encode(rgb, valid, *gsd))
        logits = logits.float().mul_(self.calibration.scale).add_(self.calibration.shift)
        full = F.interpolate(logits[:, None], rgb.shape[-2:], mode="bilinear", align_corners=False)
        with one_thread():
            return full[:, 0, :height, :width].sigmoid_()

    def _mask_logits(self, encoded: Encoded, likelihood: Tensor, shape_hw: Sequence[int]) -> Tensor:
        height, width = encoded.shape_hw
        return mask_logits(likelihood, shape_hw, (height // 4, width // 4), self.calibration)

    def _probabilities_at_scale(self, batch: TileBatch, prompts: Prompts, scale: float) -> Tensor:
        """Resample a tile, predict flood, and return the probabilities (1, H, W) at the original size of the tile.

        `batch` has only this tile. `scale` is the side of the resampled tile, divided by the original side; below 1 the
        tile is shrunk.
        """
        valid, shape_hw = batch.valid, batch.rgb.shape[-2:]
        scaled_hw = [max(1, round(side * scale)) for side in shape_hw]
        resized = partial(F.interpolate, size=scaled_hw, mode="bilinear", align_corners=False, antialias=True)
        share = resized(valid[:, None].float())
        rgb = resized(batch.rgb * valid[:, None].float()) / share.clamp(min=1e-3)
        y, x = (new / old for new, old in zip(scaled_hw, shape_hw, strict=True))
        prompts = replace(
            prompts,
            points_xy=prompts.points_xy * np.array([x, y], np.float32),
            boxes_xyxy=prompts.boxes_xyxy * np.array([x, y, x, y], np.float32),
        )
        scaled = self._probabilities(TileBatch(rgb, share[:, 0] > 0.5, batch.gsd_m / scale), [prompts])
        return F.interpolate(scaled[:, None], shape_hw, mode="bilinear", align_corners=False)[:, 0]

    def _decode(self, encoded: Encoded, prompts: Sequence[Prompts], shape_hw: Sequence[int]) -> Tensor:
        """Decode encoded tiles one after the other, each with prompts of any kind; return the logits (B, h, w).

        `shape_hw` is the height and the width of the tiles in pixels. h and w are smaller.
        """
        decoded = []
        for i, p in enumerate(prompts):
            points = boxes = masks = None
            if len(p.points_xy):
                xy = floats_to_device(p.points_xy - PIXEL_CENTRE, self.device)
                points = (xy[None], array_to_device(p.labels, self.device)[None])
            if len(p.boxes_xyxy):
                corners = [p.boxes_xyxy[:, :2].min(axis=0), p.boxes_xyxy[:, 2:].max(axis=0)]
                boxes = floats_to_device(np.concatenate(corners) - PIXEL_CENTRE, self.device)[None]
            if p.mask is not None:
                masks = self._mask_logits(encoded, floats_to_device(p.mask, self.device)[None], shape_hw)
            one = encoded[i : i + 1]
            decoded.append(self.network.decode(one, points=points, boxes=boxes, masks=masks)[0])
        return torch.cat(decoded)


def cpu_batches(tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> list[list[int]]:
    """Group tiles into batches for a CPU.

    Up to `TOGETHER` tiles form a batch if they have the same shape, fewer than `SHARED / TOGETHER` pixels each, and
    neither points nor boxes. The mask prompts of the batch must all have the same shape, or all be absent. Every other
    tile is a batch of its own.

    Args:
        tiles: image tiles, of any shapes.
        prompts: one set of prompts for each tile.

    Returns:
        Batches, each a list of indices of `tiles`.
    """
    batches: list[list[int]] = []
    same_shape: dict[Hashable, list[int]] = {}
    for index, (tile, prompt) in enumerate(zip(tiles, prompts, strict=True)):
        if TOGETHER * tile.reason.size >= SHARED or len(prompt.points_xy) or prompt.bounded:
            batches.append([index])
        else:
            key = tile.reason.shape, None if prompt.mask is None else prompt.mask.shape
            same_shape.setdefault(key, []).append(index)
    for indices in same_shape.values():
        batches += [indices[first : first + TOGETHER] for first in range(0, len(indices), TOGETHER)]
    return batches


def _pixels(tiles: Sequence[Tile], indices: Sequence[int]) -> int:
    return sum(tiles[index].reason.size for index in indices)


def _scales(prompts: Prompts, shape: Sequence[int]) -> list[float]:
    """Return the scales, besides 1, at which a tile with point prompts is predicted.

    If the tile has boxes, only scales are returned at which the tile fits into SAM's input frame of 1024 x 1024 pixels,
    because box coordinates are encoded relative to the frame. `shape` ends with height and width of the tile in pixels.
    """
    return [scale for scale in POINTED_SCALES if not len(prompts.boxes_xyxy) or scale * max(shape[-2:]) <= FRAME]
