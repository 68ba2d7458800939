"""Training of a `FloodSam`: reads from top to bottom.

Every step sees the same ground twice, as `floodmap segment` does: from far, where the picture's meaning shows, and
near, with what was made of the far view as a prompt (or with points, a box, or nothing).
"""

from __future__ import annotations

import csv
import json
import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from floodmap.calibration import Calibration, Histogram, fit
from floodmap.dataset import IGNORED, Pairs, PairSampler, Sample, Source, Views
from floodmap.encoder import EncoderConfig, Skips
from floodmap.sam import FRAME, FloodSam

log = logging.getLogger(__name__)

PROMPT_KINDS = ("none", "points", "box", "coarse")
COARSE_FACTOR = 4
"""How much a picture is shrunk for the coarse pass of validation; as in `prompter`."""
COARSE_LIMIT = 9.2
"""Largest logit of a coarse prompt, as `segmenter.SUREST`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything that decides a training run; stored in the checkpoint."""

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    minutes: float = 100.0
    """Length of the run; the learning rate follows the clock, so a slower machine takes fewer steps, not longer."""
    steps: int | None = None
    """Length in steps instead: a run that is broken off and resumed then comes to the same weights."""
    frozen_encoder: bool = False
    """Train the prompt encoder and the mask decoder alone."""
    patience: int | None = None
    """Stop when validation has not gained for so many checkpoints; None: never before the end."""
    sizes: tuple[tuple[int, int, int], ...] = ((192, 256, 12), (256, 384, 6), (320, 512, 3))
    """Sides of the far and near views, in pixels, and how many pairs make a batch."""
    size_shares: tuple[float, ...] = (0.5, 0.3, 0.2)
    """How often each size is drawn."""
    prompt_shares: tuple[float, ...] = (0.24, 0.2, 0.1, 0.46)
    """How often each of `PROMPT_KINDS` is drawn for the near views."""
    joined: float = 0.75
    """How often points and boxes come on top of the coarse mask, as in use, rather than alone."""
    learning_rate: float = 1e-3
    weight_decay: float = 0.03
    warmup: float = 0.03
    """Share of the run over which the learning rate rises."""
    settled: float = 0.5
    """Share of the run, at its end, in which batch norms use their running statistics, as they will in use.

    Those of a batch tell what else is in it, and the network reads that: of dry tiles alone it called 27 % flooded with
    the batch's own statistics, 6 % with the running ones.
    """
    dry_weight: float = 3.5
    """How much more the cross-entropy of a view without flood counts: Dice, which such a view lacks, is as large."""
    steadiness: float = 10.0
    """Weight of the squared difference between what is made of a view and of a part of it: see `_unsteadiness`."""
    ema_steps: int = 400
    """Memory of the averaged weights, in steps."""
    seed: int = 0
    device: str = "cpu"
    checkpoint_minutes: float = 6.0
    """How often progress is saved and validated."""
    checkpoint_steps: int = 200
    """The same for runs whose length is given in steps."""

    def progress(self, step: int, elapsed: float) -> float:
        """How much of the run is done, from 0; `elapsed` in seconds."""
        return elapsed / 60 / self.minutes if self.steps is None else step / self.steps

    def is_checkpoint(self, step: int, since_last: float) -> bool:
        """Whether progress is to be saved, so many seconds after the last time."""
        return since_last > self.checkpoint_minutes * 60 if self.steps is None else step % self.checkpoint_steps == 0


class Averaged:
    """Exponential moving average of a model's weights and statistics."""

    def __init__(self, model: FloodSam) -> None:
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def update(self, model: FloodSam, step: int, memory: int) -> None:
        decay = min(1 - 1 / memory, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value.detach(), 1 - decay)
            else:
                self.state[name].copy_(value)


def train(
    config: TrainConfig, sources: Sequence[Source], validation: Sequence[Sample], folder: Path, init: Path | None = None
) -> Path:
    """Train a model from scratch, or go on from the folder's checkpoint.

    Args:
        config: the run.
        sources: labelled pictures.
        validation: pictures scored at every checkpoint (mean IoU); never trained on.
        init: weights to begin with, where they fit.
        folder: gets `last.pt` (to go on from), `log.csv`, `model.safetensors` (the averaged weights) and
            `best.safetensors` (those of the best validation).

    Returns:
        Path of `model.safetensors`, or of `best.safetensors` where there is patience.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(config.seed)
    torch.manual_seed(config.seed)
    device = torch.device(config.device)
    model = FloodSam(config.encoder).to(device).to(memory_format=torch.channels_last)
    model.image_encoder.requires_grad_(not config.frozen_encoder)
    averaged = Averaged(model)
    optimizer = torch.optim.AdamW(_groups(model, config), lr=config.learning_rate, betas=(0.9, 0.98))
    state = _restore(folder / "last.pt", model, averaged, optimizer, generator)
    if state.step == 0 and init is not None:
        load_matching(model, init)
        averaged = Averaged(model)
    sampler = PairSampler(sources, generator)
    started, saved = time.monotonic() - state.elapsed, state.elapsed
    losses: list[float] = []
    while (progress := config.progress(state.step, state.elapsed)) < 1 and not _is_tired(config, state):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * schedule(progress, config.warmup)
        set_training(model, settled=progress > 1 - config.settled)
        losses.append(train_step(model, optimizer, sampler, config, generator, device))
        state.step += 1
        averaged.update(model, state.step, config.ema_steps)
        state.elapsed = time.monotonic() - started
        ends = config.progress(state.step, state.elapsed) >= 1
        if ends or config.is_checkpoint(state.step, state.elapsed - saved):
            scores, histogram = validate(averaged, config, validation, device)
            measured = {"val_iou_none": scores[0], "val_iou_auto": scores[1], "steps": state.step}
            export(averaged.state, config, folder / "model.safetensors", measured, fit(histogram))
            state.since_best += 1
            if scores[1] > state.best:
                state.best, state.since_best = scores[1], 0
                shutil.copyfile(folder / "model.safetensors", folder / "best.safetensors")
            _log(folder / "log.csv", state, losses, scores)
            _save(folder / "last.pt", model, averaged, optimizer, generator, state)
            losses, saved = [], state.elapsed
    return folder / ("model.safetensors" if config.patience is None else "best.safetensors")


@dataclass(slots=True)
class _State:
    """How far a run is."""

    step: int = 0
    elapsed: float = 0.0
    """Seconds of training."""
    best: float = -1.0
    """Best mean IoU of validation."""
    since_best: int = 0
    """Checkpoints since then."""


def _is_tired(config: TrainConfig, state: _State) -> bool:
    return config.patience is not None and state.since_best >= config.patience


def schedule(progress: float, warmup: float) -> float:
    """Learning rate factor after a share of the run: a linear rise, then half a cosine down to 1 %."""
    if progress < warmup:
        return max(progress / warmup, 0.02)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min((progress - warmup) / (1 - warmup), 1.0)))


def set_training(model: FloodSam, *, settled: bool) -> None:
    """Training mode, but for batch norms once they are to stay as they are, and for an encoder that is frozen."""
    model.train()
    if not any(parameter.requires_grad for parameter in model.image_encoder.parameters()):
        model.image_encoder.eval()
    if settled:
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()


def train_step(
    model: FloodSam,
    optimizer: torch.optim.Optimizer,
    sampler: PairSampler,
    config: TrainConfig,
    generator: torch.Generator,
    device: torch.device,
) -> float:
    """One batch of pairs of one size, with one kind of prompt for the near views; returns the loss."""
    far_size, near_size, count = config.sizes[_draw(config.size_shares, generator)]
    kind = PROMPT_KINDS[_draw(config.prompt_shares, generator)]
    pairs = sampler.batch(count, far_size, near_size)
    far, near = pairs.far.to(device), pairs.near.to(device)
    optimizer.zero_grad(set_to_none=True)
    logits, far_loss = _learn(model, far, {}, config, generator)
    # Decoding parts as well costs a third of a step, so it is not done in every one; and points would have to be cut.
    steadied = kind in ("none", "coarse") and _draw((0.5, 0.5), generator) == 1
    has_mask = kind == "coarse" or (kind != "none" and _draw((1 - config.joined, config.joined), generator) == 1)
    prompts: dict[str, object] = {"masks": coarse_prompt(logits, pairs)} if has_mask else {}
    if kind == "box":
        prompts["boxes"] = simulate_boxes(near.target, near.scored, generator)
    _, near_loss = _learn(model, near, prompts, config, generator, steadied=steadied, clicked=kind == "points")
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return (far_loss + near_loss) / 2


def _draw(shares: Sequence[float], generator: torch.Generator) -> int:
    return int(torch.multinomial(torch.tensor(shares), 1, generator=generator))


def _learn(
    model: FloodSam,
    views: Views,
    prompts: Mapping[str, Any],
    config: TrainConfig,
    generator: torch.Generator,
    *,
    steadied: bool = False,
    clicked: bool = False,
) -> tuple[Tensor, float]:
    """Add the gradients of one batch of views; returns their logits and the loss.

    `clicked`: points are added, many of them where the model is wrong without.
    """
    device, size = views.rgb.device, views.rgb.shape[-1]
    offset_xy = torch.randint(0, FRAME - size + 1, (len(views.rgb), 2), generator=generator).float().to(device)
    with torch.autocast(device.type, torch.bfloat16):
        with torch.set_grad_enabled(not config.frozen_encoder):
            embedding, skips = model.encode(views.rgb.contiguous(memory_format=torch.channels_last), views.scored)
        if clicked:
            with torch.no_grad():
                guess, _ = model.decode(embedding, skips, **prompts)
            prompts = {**prompts, "points": simulate_points(views.target, views.scored, guess > 0, generator)}
        logits, iou = model.decode(embedding, skips, offset_xy=offset_xy, **prompts)
        unsteady: Tensor | float = 0.0
        if steadied:
            unsteady = _unsteadiness(model, embedding, skips, logits, prompts.get("masks"), views.scored, generator)
    loss = flood_loss(logits.float(), iou.float(), views.target, views.scored, config.dry_weight)
    loss = loss + config.steadiness * unsteady
    loss.backward()
    return logits.detach().float(), float(loss.detach())


def _unsteadiness(
    model: FloodSam,
    embedding: Tensor,
    skips: Skips,
    logits: Tensor,
    masks: Tensor | None,
    scored: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """How differently a part of a view is seen by itself and as part of the whole: a mean square of probabilities.

    The decoder's tokens look at all of a window. What they make of one place must not hang on where the window ends,
    or two cuts of one scene differ.
    """
    rows, cols = (_draw_stretch(side, generator) for side in scored.shape[1:])

    def part(x: Tensor, stride: int) -> Tensor:
        return x[..., rows.start // stride : rows.stop // stride, cols.start // stride : cols.stop // stride]

    cut = (part(skips[0], 8), part(skips[1], 4), part(skips[2], 2))
    alone, _ = model.decode(part(embedding, 16), cut, masks=None if masks is None else part(masks, 4))
    difference = alone.float().sigmoid() - part(logits, 2).float().sigmoid()
    weight = part(F.avg_pool2d(scored[:, None].float(), 2)[:, 0], 2)
    return (difference.square() * weight).sum() / weight.sum().clamp(min=1)


def _draw_stretch(side: int, generator: torch.Generator) -> slice:
    """Some stretch of a side, at least half of it, in units of the encoder's coarsest stride."""
    n_units = side // 32
    length = int(torch.randint(-(-n_units // 2), n_units + 1, (), generator=generator))
    first = int(torch.randint(0, n_units - length + 1, (), generator=generator))
    return slice(32 * first, 32 * (first + length))


def flood_loss(logits: Tensor, iou: Tensor, target: Tensor, scored: Tensor, dry_weight: float = 1.0) -> Tensor:
    """Cross-entropy plus Dice over scored pixels, and the error of the predicted IoU.

    Args:
        logits: (B, h, w) at a whole fraction of the target's resolution.
        iou: predicted IoU (B,).
        target: flood share (B, H, W).
        scored: bool (B, H, W).
        dry_weight: factor of the cross-entropy of pictures without flood.
    """
    stride = target.shape[-1] // logits.shape[-1]
    weight = F.avg_pool2d(scored[:, None].float(), stride)[:, 0]
    target = F.avg_pool2d((target * scored)[:, None], stride)[:, 0] / weight.clamp(min=1e-3)
    target = target.clamp(0, 1)
    flooded = (target * weight).sum(dim=(1, 2)) * stride**2 > 320.0
    emphasis = weight * torch.where(flooded, 1.0, dry_weight)[:, None, None]
    cross = F.binary_cross_entropy_with_logits(logits, target, emphasis, reduction="sum") / weight.sum().clamp(min=1)
    flood = logits.sigmoid()
    hit = (flood * target * weight).sum(dim=(1, 2))
    total = ((flood + target) * weight).sum(dim=(1, 2))
    # Dice says little of a crop without flood but how small its largest mistake is: cross-entropy alone teaches those.
    dice = ((1 - (2 * hit + 1.0) / (total + 1.0)) * flooded).sum() / flooded.sum().clamp(min=1)
    with torch.no_grad():
        sure, real = (logits > 0) & (weight > 0), (target > 0.5) & (weight > 0)
        union = (sure | real).sum(dim=(1, 2))
        true_iou = torch.where(union > 0, (sure & real).sum(dim=(1, 2)) / union.clamp(min=1), 1.0)
    return cross + dice + 0.05 * F.mse_loss(iou, true_iou)


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
        guess: what was made of the crops before, bool (B, H/2, W/2).
        generator: of all draws.

    Returns:
        Coordinates (B, N, 2) and labels (B, N), as `FloodSam.forward` takes them.
    """
    batch, _, width = target.shape
    count = int(torch.randint(1, 9, (), generator=generator))
    points = torch.zeros(batch, count, 2)
    labels = torch.full((batch, count), -1)
    flooded, known = (target > 0.5).cpu(), scored.cpu()
    wrong = guess.cpu().repeat_interleave(2, dim=1).repeat_interleave(2, dim=2) != flooded
    for i in range(batch):
        for slot in range(count):
            corrects = _draw((0.5, 0.5), generator) == 1 and bool((wrong[i] & known[i]).any())
            choice = wrong[i] if corrects else flooded[i] == (_draw((0.35, 0.65), generator) == 1)
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


@torch.no_grad()
def validate(
    averaged: Averaged, config: TrainConfig, samples: Sequence[Sample], device: torch.device
) -> tuple[tuple[float, float], Histogram]:
    """Mean IoU with no prompt, and with the coarse pass as a prompt; counts by probability of the latter."""
    model = FloodSam(config.encoder).to(device).to(memory_format=torch.channels_last)
    model.load_state_dict(averaged.state)
    model.eval()
    scores, histogram = torch.zeros(len(samples), 2), np.zeros((101, 2), np.int64)
    for i, sample in enumerate(samples):
        none, auto = sample_logits(model, sample, device)
        scores[i] = torch.tensor([_iou(sample.mask, logits > 0) for logits in (none, auto)])
        scored = sample.mask != IGNORED
        percent = (auto.sigmoid().numpy()[scored] * 100).round().astype(np.int64)
        histogram += np.bincount(percent * 2 + (sample.mask[scored] == 1), minlength=202).reshape(101, 2)
    mean_none, mean_auto = scores.mean(dim=0).tolist()
    return (mean_none, mean_auto), histogram


@torch.no_grad()
def sample_logits(model: FloodSam, sample: Sample, device: torch.device) -> tuple[Tensor, Tensor]:
    """Logits of one whole picture, in one window, at its own pixels: with no prompt, and with the coarse pass as one.

    Both (height, width), on the CPU.
    """
    rgb = torch.from_numpy(sample.rgb).float()[None].to(device)
    height, width = rgb.shape[-2:]
    with torch.autocast(device.type, torch.bfloat16):
        small = F.avg_pool2d(rgb, COARSE_FACTOR, ceil_mode=True)
        coarse = _whole(model, small).clamp(-COARSE_LIMIT, COARSE_LIMIT)
        cells = F.interpolate(coarse, (-(-height // 4), -(-width // 4)), mode="bilinear", align_corners=False)
        pad = (0, -(-width // 32) * 8 - cells.shape[-1], 0, -(-height // 32) * 8 - cells.shape[-2])
        cells = F.pad(cells, pad, value=-6.0)
        none, auto = _whole(model, rgb), _whole(model, rgb, masks=cells)
    return none[0, 0].cpu(), auto[0, 0].cpu()


def _whole(model: FloodSam, rgb: Tensor, **prompts: Tensor) -> Tensor:
    """Logits of a whole picture (1, 3, H, W), at its size (1, 1, H, W)."""
    height, width = rgb.shape[-2:]
    padded = F.pad(rgb, (0, -width % 32, 0, -height % 32))
    valid = torch.zeros(1, *padded.shape[-2:], dtype=torch.bool, device=rgb.device)
    valid[:, :height, :width] = True
    logits, _ = model(padded.contiguous(memory_format=torch.channels_last), valid, **prompts)
    full = F.interpolate(logits[:, None].float(), padded.shape[-2:], mode="bilinear", align_corners=False)
    return full[..., :height, :width]


def _iou(mask: NDArray[np.uint8], flood: Tensor) -> float:
    """1 where prediction and mask are both empty."""
    said, real = flood.numpy() & (mask != IGNORED), mask == 1
    union = int((said | real).sum())
    return int((said & real).sum()) / union if union else 1.0


def export(
    state: Mapping[str, Tensor],
    config: TrainConfig,
    path: Path,
    scores: Mapping[str, float],
    calibration: Calibration,
) -> None:
    """Write weights as float16 safetensors with their config, and what their logits mean, in the header."""
    half = {k: (v.half() if v.is_floating_point() else v).contiguous().cpu() for k, v in state.items()}
    header = {
        "architecture": "flood_sam", "config": json.dumps(asdict(config)), "scores": json.dumps(dict(scores)),
        "calibration": json.dumps(calibration._asdict()),
    }  # fmt: skip
    temporary = path.with_suffix(".part")
    save_file(half, temporary, metadata=header)
    temporary.replace(path)


def _groups(model: FloodSam, config: TrainConfig) -> list[dict[str, object]]:
    # Weight decay on biases and norms does harm (He et al. 2019, arXiv:1812.01187, section 3.1).
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim > 1]
    plain = [p for p in trained if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]


def load_matching(model: FloodSam, path: Path) -> None:
    """Begin with the weights of another model, as far as names and shapes agree."""
    own = model.state_dict()
    given = {name: value.float() for name, value in load_file(path).items() if value.is_floating_point()}
    fitting = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    model.load_state_dict(fitting, strict=False)
    log.info("took over %d of %d tensors from %s", len(fitting), len(own), path)


def _restore(
    path: Path, model: FloodSam, averaged: Averaged, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> _State:
    if not path.exists():
        return _State()
    saved = torch.load(path, weights_only=True)
    model.load_state_dict(saved["model"])
    averaged.state = saved["averaged"]
    optimizer.load_state_dict(saved["optimizer"])
    generator.set_state(saved["generator"])
    log.info("going on from step %d", saved["step"])
    return _State(saved["step"], saved["elapsed"], saved.get("best", -1.0), saved.get("since_best", 0))


def _save(
    path: Path,
    model: FloodSam,
    averaged: Averaged,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    state: _State,
) -> None:
    saved = {
        "model": model.state_dict(),
        "averaged": averaged.state,
        "optimizer": optimizer.state_dict(),
        "generator": generator.get_state(),
        **asdict(state),
    }
    temporary = path.with_suffix(".part")
    torch.save(saved, temporary)
    temporary.replace(path)


def _log(path: Path, state: _State, losses: Sequence[float], scores: tuple[float, float]) -> None:
    minutes, loss = round(state.elapsed / 60, 2), sum(losses) / len(losses)
    row = [state.step, minutes, round(loss, 4), round(scores[0], 4), round(scores[1], 4)]
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(["step", "minutes", "loss", "val_iou_none", "val_iou_auto"])
        writer.writerow(row)
    log.info("step %d, %.1f min, loss %.4f, val IoU %.4f with no prompt, %.4f auto", *row)
