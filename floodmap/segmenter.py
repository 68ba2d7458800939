"""Models at work: tiles and prompts in, flood probabilities out."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from floodmap.calibration import UNCALIBRATED, Calibration
from floodmap.dispatch import Dispatcher, sent, sent_array
from floodmap.encoder import EncoderConfig, fuse
from floodmap.errors import ModelError
from floodmap.forks import PerProcess, refuse_lost_gpu, threads
from floodmap.models import ResolvedModel
from floodmap.onednn import pack_linears
from floodmap.prompts import Prompts
from floodmap.replay import Replayer
from floodmap.sam import FRAME, SUREST, VIT, Encoded, FloodSam, Sam, build_sam
from floodmap.scene import Tile
from floodmap.seal import check_seal

PIXEL_CENTRE = 0.5
"""SAM counts pixels from the centre of the first one; `Prompts` from its corner."""
SIDE_BY_SIDE = 4
"""Windows at most that a CPU works on at once."""
SHARED = 2**19
"""Pixels from which on threads share a tile that is alone: oneDNN makes other kernels for them, 5 MB for a shape."""
TOGETHER = 4
"""Tiles of one shape, all too small to share, that a CPU sees at once, filled up to so many: of 320 pixels a side they
take little more than half the time. Other numbers would be more of oneDNN's kernels, and eight hardly save more."""
POINTED_SCALES = (0.7, 1.4)
"""Scales at which windows with points are seen besides their own: worth 0.866 to 0.873 on val with eight points."""
SETS = (4, 16)
"""Prompt sets decoded at once: on a GPU the next of these."""
TOKENS = 8
"""Points and corners of boxes in each of them, at least, on a GPU; otherwise a power of two."""
NOTHING = -1e4
"""Logit where nothing is prompted."""
_DAMAGED = "{}: not a model floodmap can load ({}); fetch or train it again"


def load_segmenter(
    model: ResolvedModel, device: str = "auto", precision: str = "auto"
) -> FloodSegmenter | SamSegmenter:
    """Load a model's weights and make it ready to run; on a CPU with as many threads as torch has by now.

    Args:
        model: weights on this disk.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
        precision: `auto`, `float32` or `bfloat16`.

    Raises:
        ModelError: the file is damaged or holds another architecture, or the device is not there.
    """
    chosen = pick_device(device)
    dtype = pick_dtype(chosen, precision)
    if model.path.suffix == ".safetensors":
        return FloodSegmenter(model, *_load_trained(model.path), chosen, dtype)
    return SamSegmenter(model, _load_sam(model.path), chosen, dtype)


def pick_device(wanted: str) -> torch.device:
    """The device of that name, or the best there is for `auto`."""
    if wanted == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        refuse_lost_gpu()
        return torch.device("cuda")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(
            f"device {wanted!r} is not available here ({str(error).splitlines()[0]}); use --device cpu"
        ) from error
    return device


def pick_dtype(device: torch.device, wanted: str) -> torch.dtype:
    """bfloat16 where the hardware multiplies it natively, else float32."""
    if wanted != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[wanted]
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported() and _has_bf16_instructions()
    return torch.bfloat16 if native else torch.float32


def _has_bf16_instructions() -> bool:
    # oneDNN also accepts bfloat16 where it only emulates it (AVX-512 without BF16), more slowly than float32.
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(probe and probe())


class FloodSegmenter:
    """A model that floodmap trained: knows floods, needs no prompt, takes tiles of any size."""

    knows_floods = True
    multiple = 32

    def __init__(
        self,
        model: ResolvedModel,
        network: FloodSam | Sam,
        calibration: Calibration,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.name, self.sha256 = model.name, model.sha256
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
        """Flood probability of every pixel; see `prompter.Segmenter`.

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
            rgb, valid = sent([tiles[number] for number in filled], self.device)
            results = self._predict(rgb, valid, [prompts[number] for number in filled])
            return list(results[: len(numbers)].numpy())

        # The largest first, so that no thread is left with much when the others are done.
        todo = sorted(seen_together(tiles, prompts), key=lambda numbers: -_pixels(tiles, numbers))
        try:
            found = dict(zip(chain(*todo), chain(*self._side_by_side().map(alone, todo)), strict=True))
        finally:
            torch.set_num_threads(threads(self._threads))  # new threads begin with what any thread set last
        return [found[number] for number in range(len(tiles))]

    def _predict_elsewhere(self, rgb: Tensor, valid: Tensor, prompts: Sequence[Prompts]) -> Tensor:
        # cuDNN takes up to two seconds to prepare a depthwise convolution for a new shape; torch's own kernels take a
        # quarter more time, and none for that. What is set here is set for all threads, of which one tells a GPU.
        with torch.backends.cudnn.flags(enabled=not isinstance(self.network, FloodSam)):
            return self._predict(rgb, valid, prompts)

    @torch.inference_mode()
    def _predict(self, rgb: Tensor, valid: Tensor, prompts: Sequence[Prompts]) -> Tensor:
        seen = self._see(rgb, valid, prompts)
        if isinstance(self.network, FloodSam):
            for i, p in enumerate(prompts):
                if len(p.points_xy):
                    one = slice(i, i + 1)
                    others = [self._see_scaled(rgb[one], valid[one], p, scale) for scale in _scales(p, rgb.shape)]
                    seen[one] = torch.stack([seen[one], *others]).mean(dim=0)
        for one_seen, p in zip(seen, prompts, strict=True):
            if p.bounded:  # that boxes surround all flood a decoder would only hear of
                one_seen.masked_fill_(sent_array(~p.bounds(one_seen.shape), self.device), 0.0)
        return seen

    def _see(self, rgb: Tensor, valid: Tensor, prompts: Sequence[Prompts]) -> Tensor:
        """Probabilities (B, H, W) of tiles (B, 3, H, W), 0 to 255, where they are valid, (B, H, W)."""
        masks = [p.mask for p in prompts if p.mask is not None]
        pointed = any(len(p.points_xy) or len(p.boxes_xyxy) for p in prompts)
        if pointed or len(masks) not in (0, len(prompts)) or len({mask.shape for mask in masks}) > 1:
            return self._decoded_by(partial(self._decode, prompts=prompts, shape_hw=rgb.shape[-2:]), rgb, valid)
        likelihood = sent_array(np.stack(masks).astype(np.float32), self.device) if masks else None
        return self._replayer.run(self._see_unpointed, rgb, valid, likelihood)

    def _see_unpointed(self, rgb: Tensor, valid: Tensor, likelihood: Tensor | None) -> Tensor:
        """As `_see`, with a mask prompt for each tile, (B, h, w) of any resolution, or with no prompt."""

        def decode(encoded: Encoded) -> Tensor:
            masks = None if likelihood is None else self._mask_logits(encoded, likelihood, rgb.shape[-2:])
            return self.network.decode(encoded, masks=masks)[0]

        return self._decoded_by(decode, rgb, valid)

    def _decoded_by(self, decode: Callable[[Encoded], Tensor], rgb: Tensor, valid: Tensor) -> Tensor:
        height, width = rgb.shape[-2:]
        pad = (0, -width % self.multiple, 0, -height % self.multiple)
        if any(pad):
            rgb, valid = F.pad(rgb, pad), F.pad(valid, pad)
        logits = decode(self.network.encode(rgb, valid))
        logits = logits.float().mul_(self.calibration.scale).add_(self.calibration.shift)
        full = F.interpolate(logits[:, None], rgb.shape[-2:], mode="bilinear", align_corners=False)
        return full[:, 0, :height, :width].sigmoid_()

    def _mask_logits(self, encoded: Encoded, likelihood: Tensor, shape_hw: Sequence[int]) -> Tensor:
        height, width = encoded.shape_hw
        return mask_logits(likelihood, shape_hw, (height // 4, width // 4), self.calibration)

    def _see_scaled(self, rgb: Tensor, valid: Tensor, prompts: Prompts, scale: float) -> Tensor:
        """As `_see`, of one tile seen from further away (`scale` below 1) or nearer."""
        shape_hw = rgb.shape[-2:]
        scaled_hw = [max(1, round(side * scale)) for side in shape_hw]
        resized = partial(F.interpolate, size=scaled_hw, mode="bilinear", align_corners=False, antialias=True)
        share = resized(valid[:, None].float())
        rgb = resized(rgb * valid[:, None].float()) / share.clamp(min=1e-3)
        y, x = (new / old for new, old in zip(scaled_hw, shape_hw, strict=True))
        prompts = replace(
            prompts,
            points_xy=prompts.points_xy * np.array([x, y], np.float32),
            boxes_xyxy=prompts.boxes_xyxy * np.array([x, y, x, y], np.float32),
        )
        seen = self._see(rgb, share[:, 0] > 0.5, [prompts])
        return F.interpolate(seen[:, None], shape_hw, mode="bilinear", align_corners=False)[:, 0]

    def _decode(self, encoded: Encoded, prompts: Sequence[Prompts], shape_hw: Sequence[int]) -> Tensor:
        decoded = []
        for i, p in enumerate(prompts):
            points = boxes = masks = None
            if len(p.points_xy):
                xy = _floats(p.points_xy - PIXEL_CENTRE, self.device)
                points = (xy[None], sent_array(p.labels, self.device)[None])
            if len(p.boxes_xyxy):
                corners = [p.boxes_xyxy[:, :2].min(axis=0), p.boxes_xyxy[:, 2:].max(axis=0)]
                boxes = _floats(np.concatenate(corners) - PIXEL_CENTRE, self.device)[None]
            if p.mask is not None:
                masks = self._mask_logits(encoded, _floats(p.mask, self.device)[None], shape_hw)
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


def _floats(array: NDArray[np.floating[Any]], device: torch.device) -> Tensor:
    return sent_array(np.asarray(array, np.float32), device)


def _scales(prompts: Prompts, shape: Sequence[int]) -> list[float]:
    """What else a tile with points is seen at; with boxes only what fits into SAM's frame, where they have a place."""
    return [scale for scale in POINTED_SCALES if not len(prompts.boxes_xyxy) or scale * max(shape[-2:]) <= FRAME]


class SamSegmenter:
    """Meta's SAM: does not know floods, is told where to look by prompts, sees 1024 x 1024 pixels."""

    knows_floods = False
    multiple = 32
    any_size = False

    def __init__(self, model: ResolvedModel, network: Sam, device: torch.device, dtype: torch.dtype) -> None:
        self.name, self.sha256 = model.name, model.sha256
        self.device, self.dtype = device, dtype
        self.best_batch_size = 8 if device.type == "cuda" else 1
        self.runs_on = f"{device.type} {str(dtype).removeprefix('torch.')}"
        self.offloads = device.type != "cpu"
        self.network = in_precision(network.eval().requires_grad_(False), dtype).to(device)
        if device.type == "cpu":
            pack_linears(self.network.image_encoder)
        self._dispatcher, self._replayer = Dispatcher(device), Replayer(device)

    def predict(self, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> list[NDArray[np.float32]]:
        """Flood probability of every pixel; see `prompter.Segmenter`.

        Every box, with the points inside it, is a prompt of its own, and so are the points outside all boxes; the mask
        of a tile is their union. Where nothing is prompted nothing is flooded.
        """
        return self._dispatcher.run(self._predict, tiles, prompts)

    @torch.inference_mode()
    def _predict(self, rgb: Tensor, valid: Tensor, prompts: Sequence[Prompts]) -> Tensor:
        shape_hw = (rgb.shape[-2], rgb.shape[-1])
        embedding = self._replayer.run(self._embed, rgb, valid)
        low = torch.full((len(rgb), FRAME // 4, FRAME // 4), NOTHING, device=self.device)
        sets = [(number, one) for number, p in enumerate(prompts) for one in prompt_sets(p)]
        for first in range(0, len(sets), SETS[-1]):
            numbers, some = zip(*sets[first : first + SETS[-1]], strict=True)
            xy, labels = tokens(some, FRAME / max(shape_hw))
            of = np.array(numbers)
            if self.offloads:  # as many as a GPU is told of in one call; a mask counts once in the union
                (xy, labels), of = _filled(xy, labels), np.pad(of, (0, _up_to(SETS, len(of)) - len(of)), "edge")
            images = sent_array(of, self.device)
            placed = _floats(xy, self.device), sent_array(labels, self.device)
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


def _load_trained(path: Path) -> tuple[FloodSam | Sam, Calibration]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        check_seal(path, stored, header)
        network = _network(path, header, {name: tensor.float() for name, tensor in stored.items()})
        calibration = Calibration(**json.loads(header.get("calibration", "{}")))
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(_DAMAGED.format(path, str(error).splitlines()[0])) from error
    return network, calibration


def _network(path: Path, header: Mapping[str, str], state: Mapping[str, Tensor]) -> FloodSam | Sam:
    architecture = header.get("architecture", "not named")
    if architecture in VIT:
        return build_sam(state)
    if architecture != "flood_sam":
        known = ", ".join(["flood_sam", *VIT])
        raise ModelError(f"{path}: architecture {architecture}, not one of {known}; use another --model")
    network = FloodSam(EncoderConfig.from_json(json.loads(header["config"])["encoder"]))
    # Weights of versions before it lack the maps of points; untrained, these add nothing.
    untrained = {name: value for name, value in network.state_dict().items() if name.startswith("point_maps.")}
    network.load_state_dict({**untrained, **state})
    return network


def _load_sam(path: Path) -> Sam:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return build_sam(state)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    except Exception as error:  # torch.load raises whatever its unpickler meets in a damaged file
        raise ModelError(_DAMAGED.format(path, str(error).splitlines()[0])) from error
