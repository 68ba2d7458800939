"""Floodmap's own models at work: tiles and prompts in, flood probabilities out."""

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
from floodmap.models.backends.dispatch import Dispatcher, Sent, sent, sent_array, sent_floats
from floodmap.models.backends.onednn import pack_linears
from floodmap.models.calibration import UNCALIBRATED, Calibration
from floodmap.models.familiarity import Familiarity
from floodmap.models.prompts import PIXEL_CENTRE, Prompts
from floodmap.models.registry import ResolvedModel
from floodmap.models.sam.common import FRAME, SUREST, Encoded, normalized
from floodmap.models.sam.efficientnet import fuse
from floodmap.models.sam.flood_sam import FloodSam
from floodmap.models.sam.meta_sam import Sam

SIDE_BY_SIDE = 4
"""Windows at most that a CPU works on at once."""
SHARED = 2**19
"""Pixels from which on threads share a tile that is alone: oneDNN makes other kernels for them, 5 MB for a shape."""
TOGETHER = 4
"""Tiles of one shape, all too small to share, that a CPU sees at once, filled up to so many: of 320 pixels a side they
take little more than half the time. Other numbers would be more of oneDNN's kernels, and eight hardly save more."""
POINTED_SCALES = (0.7, 1.4)
"""Scales at which windows with points are seen besides their own: worth 0.866 to 0.873 on val with eight points."""


class FloodSegmenter:
    """A model that floodmap trained: knows floods, needs no prompt, takes tiles of any size."""

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
    ) -> None:
        self.name, self.sha256, self.training, self.familiarity = model.name, model.sha256, model.training, familiarity
        self.calibration, self.device, self.dtype = calibration, device, dtype
        self._threads, self._dispatcher, self._replayer = torch.get_num_threads(), Dispatcher(device), Replayer(device)
        self.best_batch_size = 8 if device.type == "cuda" else min(self._threads, SIDE_BY_SIDE)
        self._side_by_side = PerProcess(partial(ThreadPoolExecutor, self.best_batch_size, "windows"))
        self.runs_on = f"{device.type} {str(dtype).removeprefix('torch.')}"
        self.offloads = device.type != "cpu"
        # Meta's stretch every tile to their frame, and a GPU has to prepare for every shape.
        self.any_size = isinstance(network, FloodSam) and not self.offloads
        network.eval().requires_grad_(False)
        fuse(network)
        # The prompt encoder stays in float32: bfloat16 cannot tell neighbouring coordinates apart.
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

    def predict(self, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> list[NDArray[np.float32]]:
        """Flood probability of every pixel; see `protocol.Segmenter`.

        Where somebody gave points, the shipped model looks at three scales and takes the mean.
        """
        if self.device.type != "cpu":
            return self._dispatcher.run(self._predict_elsewhere, tiles, prompts)

        # Each batch by a thread of its own: those that share one wait for each other at every step, and so for whatever
        # else the machine does.
        def alone(numbers: list[int]) -> list[NDArray[np.float32]]:
            each = threads(self._threads) // min(len(todo), self.best_batch_size)
            torch.set_num_threads(max(1, each if _pixels(tiles, numbers[:1]) >= SHARED else 1))  # of this thread
            filled = numbers if len(numbers) == 1 else numbers + [numbers[-1]] * (TOGETHER - len(numbers))
            pictures = sent([tiles[number] for number in filled], self.device)
            results = self._predict(pictures, [prompts[number] for number in filled])
            return list(results[: len(numbers)].numpy())

        # The largest first, so that no thread is left with much when the others are done.
        todo = sorted(seen_together(tiles, prompts), key=lambda numbers: -_pixels(tiles, numbers))
        try:
            found = dict(zip(chain(*todo), chain(*self._side_by_side().map(alone, todo)), strict=True))
        finally:
            torch.set_num_threads(threads(self._threads))  # new threads begin with what any thread set last
        return [found[number] for number in range(len(tiles))]

    def strangeness(self, tiles: Sequence[Tile]) -> float:
        """See `protocol.Segmenter`."""
        return 0.0 if self.familiarity is None else self.familiarity.strangeness(self.described(tiles))

    def described(self, tiles: Sequence[Tile]) -> NDArray[np.float32]:
        """What the encoder says of the colours and textures of tiles, (n, D); only the small encoder does."""
        return np.stack(self._dispatcher.run(self._describe, tiles, [Prompts.none()] * len(tiles)))

    @torch.inference_mode()
    def _describe(self, pictures: Sent, _: Sequence[Prompts]) -> Tensor:
        height, width = pictures.rgb.shape[-2:]
        pad = (0, -width % self.multiple, 0, -height % self.multiple)
        rgb, valid = F.pad(pictures.rgb, pad), F.pad(pictures.valid, pad)
        encoder = self.network.image_encoder
        described: Tensor = encoder.described(normalized(rgb, valid, encoder.skip4.weight.dtype))
        return described

    def _predict_elsewhere(self, pictures: Sent, prompts: Sequence[Prompts]) -> Tensor:
        # cuDNN takes up to two seconds to prepare a depthwise convolution for a new shape; torch's own kernels take a
        # quarter more time, and none for that. What is set here is set for all threads, of which one tells a GPU.
        with torch.backends.cudnn.flags(enabled=not isinstance(self.network, FloodSam)):
            return self._predict(pictures, prompts)

    @torch.inference_mode()
    def _predict(self, pictures: Sent, prompts: Sequence[Prompts]) -> Tensor:
        seen = self._see(pictures, prompts)
        if isinstance(self.network, FloodSam):
            for i, p in enumerate(prompts):
                if len(p.points_xy):
                    one = slice(i, i + 1)
                    scales = _scales(p, pictures.rgb.shape)
                    others = [self._see_scaled(pictures[one], p, scale) for scale in scales]
                    seen[one] = torch.stack([seen[one], *others]).mean(dim=0)
        for one_seen, p in zip(seen, prompts, strict=True):
            if p.bounded:  # that boxes surround all flood a decoder would only hear of
                one_seen.masked_fill_(sent_array(~p.bounds(one_seen.shape), self.device), 0.0)
        return seen

    def _see(self, pictures: Sent, prompts: Sequence[Prompts]) -> Tensor:
        """Probabilities (B, H, W) of tiles, whose pictures may be floats, 0 to 255."""
        masks = [p.mask for p in prompts if p.mask is not None]
        pointed = any(len(p.points_xy) or len(p.boxes_xyxy) for p in prompts)
        if pointed or len(masks) not in (0, len(prompts)) or len({mask.shape for mask in masks}) > 1:
            decode = partial(self._decode, prompts=prompts, shape_hw=pictures.rgb.shape[-2:])
            return self._decoded_by(decode, pictures)
        likelihood = sent_array(np.stack(masks).astype(np.float32), self.device) if masks else None
        return self._replayer.run(self._see_unpointed, pictures.rgb, pictures.valid, pictures.gsd_m, likelihood)

    def _see_unpointed(self, rgb: Tensor, valid: Tensor, gsd_m: Tensor, likelihood: Tensor | None) -> Tensor:
        """As `_see`, with a mask prompt for each tile, (B, h, w) of any resolution, or with no prompt."""

        def decode(encoded: Encoded) -> Tensor:
            masks = None if likelihood is None else self._mask_logits(encoded, likelihood, rgb.shape[-2:])
            return self.network.decode(encoded, masks=masks)[0]

        return self._decoded_by(decode, Sent(rgb, valid, gsd_m))

    def _decoded_by(self, decode: Callable[[Encoded], Tensor], pictures: Sent) -> Tensor:
        rgb, valid = pictures.rgb, pictures.valid
        height, width = rgb.shape[-2:]
        pad = (0, -width % self.multiple, 0, -height % self.multiple)
        if any(pad):
            rgb, valid = F.pad(rgb, pad), F.pad(valid, pad)
        told = (pictures.gsd_m,) if isinstance(self.network, FloodSam) else ()
        logits = decode(self.network.encode(rgb, valid, *told))
        logits = logits.float().mul_(self.calibration.scale).add_(self.calibration.shift)
        full = F.interpolate(logits[:, None], rgb.shape[-2:], mode="bilinear", align_corners=False)
        return full[:, 0, :height, :width].sigmoid_()

    def _mask_logits(self, encoded: Encoded, likelihood: Tensor, shape_hw: Sequence[int]) -> Tensor:
        height, width = encoded.shape_hw
        return mask_logits(likelihood, shape_hw, (height // 4, width // 4), self.calibration)

    def _see_scaled(self, pictures: Sent, prompts: Prompts, scale: float) -> Tensor:
        """As `_see`, of one tile seen from further away (`scale` below 1) or nearer."""
        valid, shape_hw = pictures.valid, pictures.rgb.shape[-2:]
        scaled_hw = [max(1, round(side * scale)) for side in shape_hw]
        resized = partial(F.interpolate, size=scaled_hw, mode="bilinear", align_corners=False, antialias=True)
        share = resized(valid[:, None].float())
        rgb = resized(pictures.rgb * valid[:, None].float()) / share.clamp(min=1e-3)
        y, x = (new / old for new, old in zip(scaled_hw, shape_hw, strict=True))
        prompts = replace(
            prompts,
            points_xy=prompts.points_xy * np.array([x, y], np.float32),
            boxes_xyxy=prompts.boxes_xyxy * np.array([x, y, x, y], np.float32),
        )
        seen = self._see(Sent(rgb, share[:, 0] > 0.5, pictures.gsd_m / scale), [prompts])
        return F.interpolate(seen[:, None], shape_hw, mode="bilinear", align_corners=False)[:, 0]

    def _decode(self, encoded: Encoded, prompts: Sequence[Prompts], shape_hw: Sequence[int]) -> Tensor:
        decoded = []
        for i, p in enumerate(prompts):
            points = boxes = masks = None
            if len(p.points_xy):
                xy = sent_floats(p.points_xy - PIXEL_CENTRE, self.device)
                points = (xy[None], sent_array(p.labels, self.device)[None])
            if len(p.boxes_xyxy):
                corners = [p.boxes_xyxy[:, :2].min(axis=0), p.boxes_xyxy[:, 2:].max(axis=0)]
                boxes = sent_floats(np.concatenate(corners) - PIXEL_CENTRE, self.device)[None]
            if p.mask is not None:
                masks = self._mask_logits(encoded, sent_floats(p.mask, self.device)[None], shape_hw)
            one = encoded[i : i + 1]
            decoded.append(self.network.decode(one, points=points, boxes=boxes, masks=masks)[0])
        return torch.cat(decoded)


def seen_together(tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> list[list[int]]:
    """Numbers of tiles that a CPU sees at once: small ones of one shape, in which no person has pointed at anything."""
    batches: list[list[int]] = []
    alike: dict[Hashable, list[int]] = {}
    for number, (tile, prompt) in enumerate(zip(tiles, prompts, strict=True)):
        if TOGETHER * tile.reason.size >= SHARED or len(prompt.points_xy) or prompt.bounded:
            batches.append([number])
        else:
            alike.setdefault((tile.reason.shape, None if prompt.mask is None else prompt.mask.shape), []).append(number)
    for numbers in alike.values():
        batches += [numbers[first : first + TOGETHER] for first in range(0, len(numbers), TOGETHER)]
    return batches


def _pixels(tiles: Sequence[Tile], numbers: Sequence[int]) -> int:
    return sum(tiles[number].reason.size for number in numbers)


def _scales(prompts: Prompts, shape: Sequence[int]) -> list[float]:
    """What else a tile with points is seen at; with boxes only what fits into SAM's frame, where they have a place."""
    return [scale for scale in POINTED_SCALES if not len(prompts.boxes_xyxy) or scale * max(shape[-2:]) <= FRAME]


def mask_logits(
    likelihood: Tensor, shape_hw: Sequence[int], mask_hw: tuple[int, int], calibration: Calibration = UNCALIBRATED
) -> Tensor:
    """Coarse likelihoods of tiles, of any resolution, as mask prompts of logits (B, 1, *mask_hw).

    Args:
        likelihood: 0 to 1, (B, h, w), covering the tiles.
        shape_hw: the tiles' size in pixels.
        mask_hw: a quarter of the padded tiles' size; beyond the tiles the prompts say dry.
        calibration: of the model, which knows its own logits only; undone.
    """
    covered = (-(-shape_hw[0] // 4), -(-shape_hw[1] // 4))
    logits = (likelihood.clamp(1e-4, 1 - 1e-4).logit()[:, None] - calibration.shift) / calibration.scale
    logits = logits.clamp(-SUREST, SUREST)
    logits = F.interpolate(logits, covered, mode="bilinear", align_corners=False)
    return F.pad(logits, (0, mask_hw[1] - covered[1], 0, mask_hw[0] - covered[0]), value=-6.0)
