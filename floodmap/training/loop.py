"""Training: reads from top to bottom.

Every step sees the same ground twice, as `floodmap segment` does: from far, where the picture's meaning shows, and
near, with what was made of the far view as a prompt (or with points, a box, or nothing).
"""

from __future__ import annotations

import csv
import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from floodmap.models.calibration import fit
from floodmap.training.checkpoint import Averaged, State, Trainable, build, export, restore, save
from floodmap.training.config import TrainConfig
from floodmap.training.distributed import Crew
from floodmap.training.lesson import Lesson, set_training, train_step
from floodmap.training.samples import Sample, Source
from floodmap.training.sampling import Batches, PairSampler
from floodmap.training.validation import validate

log = logging.getLogger(__name__)

ENCODER = ("image_encoder.stem", "image_encoder.stages", "image_encoder.blocks", "image_encoder.patch_embed")
"""Names that an image encoder's parameters begin with, but for those that lead over to the decoder."""


def train(
    config: TrainConfig,
    sources: Sequence[Source],
    validation: Sequence[Sample],
    folder: Path,
    init: Path | None = None,
    report: Callable[[float, str], None] = lambda *_: None,
) -> Path:
    """Train a model from scratch or from other weights, or go on from the folder's checkpoint.

    Args:
        config: the run.
        sources: labelled pictures.
        validation: pictures scored at every checkpoint (mean IoU); never trained on.
        folder: gets `last.pt` (to go on from), `log.csv`, `tensorboard/` where tensorboardX is installed,
            `model.safetensors` (the averaged weights) and `best.safetensors` (those of the best validation).
        init: weights to begin with, where they fit.
        report: told the share done and the stage.

    Returns:
        Path of `model.safetensors`, or of `best.safetensors` where there is patience.

    Raises:
        ModelError: several processes were begun without what they need.
    """
    crew = Crew(config.device)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    model = build(config, None if (folder / "last.pt").exists() else init).to(crew.device)
    averaged = Averaged(model)
    optimizer = make_optimizer(model, config)
    generator = torch.Generator().manual_seed(config.seed + crew.rank)
    state = restore(folder / "last.pt", model, averaged, optimizer, generator, crew.rank)
    batches = Batches(PairSampler(sources), config, crew.rank, state.step * config.accumulate)
    lesson = Lesson(model, config, batches, generator, crew.device)
    if config.cached_batches:
        lesson.remember(folder / f"encodings-{crew.rank}", report)
    started, saved = time.monotonic() - state.elapsed, state.elapsed
    if state.step == 0 and init is not None:  # so that no run ends below what it began with
        scores = _judge(averaged, config, validation, folder, state, crew)
        if crew.is_first:
            _log(folder, state, [math.nan], scores)
    losses: list[float] = []
    while (progress := config.progress(state.step, state.elapsed)) < 1 and not _is_tired(config, state):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * group["rate"] * schedule(progress, config.warmup)
        set_training(model, settled=progress >= 1 - config.settled)
        losses.append(train_step(lesson, optimizer, crew))
        state.step += 1
        averaged.update(model, state.step, config.ema_steps)
        state.elapsed = crew.mean(time.monotonic() - started)
        ends = config.progress(state.step, state.elapsed) >= 1
        report(config.progress(state.step, state.elapsed), "train")
        if ends or config.is_checkpoint(state.step, state.elapsed - saved):
            draws = crew.gathered(generator.get_state())
            scores = _judge(averaged, config, validation, folder, state, crew)
            if crew.is_first:
                _log(folder, state, losses, scores)
                save(folder / "last.pt", model, averaged, optimizer, draws, state)
            crew.wait()
            losses, saved = [], state.elapsed
    shutil.rmtree(folder / f"encodings-{crew.rank}", ignore_errors=True)
    return folder / ("model.safetensors" if config.patience is None else "best.safetensors")


def _judge(
    averaged: Averaged,
    config: TrainConfig,
    validation: Sequence[Sample],
    folder: Path,
    state: State,
    crew: Crew,
) -> tuple[float, float]:
    """Score the averaged weights, write them, and see whether they are the best so far."""
    model = build(config).to(crew.device)
    model.load_state_dict(averaged.state)
    scores, histogram = validate(model.eval(), validation, crew.device)
    state.since_best += 1
    is_best = scores[1] > state.best
    if is_best:
        state.best, state.since_best = scores[1], 0
    if crew.is_first:
        measured = {"val_iou_none": scores[0], "val_iou_auto": scores[1], "steps": state.step}
        export(averaged.state, config, folder / "model.safetensors", measured, fit(histogram))
        if is_best:
            shutil.copyfile(folder / "model.safetensors", folder / "best.safetensors")
    return scores


def _is_tired(config: TrainConfig, state: State) -> bool:
    return config.patience is not None and state.since_best >= config.patience


def schedule(progress: float, warmup: float) -> float:
    """Learning rate factor after a share of the run: a linear rise, then half a cosine down to 1 %."""
    if progress < warmup:
        return max(progress / warmup, 0.02)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min((progress - warmup) / (1 - warmup), 1.0)))


def make_optimizer(model: Trainable, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW, with a learning rate of its own for the encoder."""
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # Weight decay on biases and norms does harm (He et al. 2019, arXiv:1812.01187, section 3.1).
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            rate = config.encoder_rate if name.startswith(ENCODER) else 1.0
            groups.setdefault((decay, rate), []).append(parameter)
    listed = [{"params": params, "weight_decay": decay, "rate": rate} for (decay, rate), params in groups.items()]
    return torch.optim.AdamW(listed, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)


def _log(folder: Path, state: State, losses: Sequence[float], scores: tuple[float, float]) -> None:
    """A row of the log, as CSV and for TensorBoard."""
    minutes, loss = round(state.elapsed / 60, 2), sum(losses) / len(losses)
    row = {
        "step": state.step, "minutes": minutes, "loss": round(loss, 4), "val_iou_none": round(scores[0], 4),
        "val_iou_auto": round(scores[1], 4),
    }  # fmt: skip
    path = folder / "log.csv"
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if fresh:
            writer.writeheader()
        writer.writerow(row)
    log.info("step %d, %.1f min, loss %.4f, val IoU %.4f with no prompt, %.4f auto", *row.values())
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError:  # a borrowed GPU need not have it: the CSV has the same numbers
        return
    with SummaryWriter(str(folder / "tensorboard")) as board:
        for name in ("loss", "val_iou_none", "val_iou_auto"):
            if math.isfinite(row[name]):  # before the first step there is no loss
                board.add_scalar(name, row[name], state.step)
