"""Training loop: steps, learning rate, checkpoints, validation, early stopping.

Every step uses pairs of two views of the same ground: a far view at a coarse resolution, and a near view at a fine
resolution. The two views are like the coarse pass and a window of `floodmap segment`. The prompt of the near view is
one of: the prediction for the far view, points, a box, or no prompt.
"""

from __future__ import annotations

import csv
import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from floodmap.models.calibration import fit
from floodmap.training.checkpoint import MovingAverage, State, Trainable, build, export, restore, save
from floodmap.training.config import TrainConfig
from floodmap.training.distributed import ProcessGroup
from floodmap.training.samples import Sample, Source
from floodmap.training.sampling import Batches, PairSampler
from floodmap.training.trainer import Trainer, set_training, train_step
from floodmap.training.validation import validate

log = logging.getLogger(__name__)

MAX_TRAIN_SCORED = 8
"""Largest number of training pictures that are scored at a checkpoint, besides the validation pictures."""
ENCODER = ("image_encoder.stem", "image_encoder.stages", "image_encoder.blocks", "image_encoder.patch_embed")
"""Prefixes of the names of the parameters in the backbone of the image encoder.
The layers between backbone and decoder are not included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Progress and scores of a training run at a checkpoint."""

    step: int
    """Number of optimizer steps taken."""
    minutes: float
    """Minutes of training since the start of the run, including validation.
    If the run was interrupted, the minutes until the checkpoint from which it was resumed are included."""
    share: float
    """Share of the run that is done, 0 to 1."""
    loss: float
    """Mean training loss since the last checkpoint; NaN before the first step."""
    val_loss: float
    """Mean loss (cross-entropy plus Dice) on the validation pictures, with the coarse pass as mask prompt."""
    train_iou: float
    """Mean IoU on at most `MAX_TRAIN_SCORED` whole training pictures, with the coarse pass as mask prompt, 0 to 1."""
    val_iou: float
    """Mean IoU on the validation pictures, with the coarse pass as mask prompt, 0 to 1."""
    val_iou_unprompted: float
    """Mean IoU on the validation pictures without a prompt, 0 to 1."""

    def as_row(self) -> dict[str, float]:
        """Return a row of `log.csv` as a dictionary from the name of each column to the rounded value."""
        row = {name: round(value, 4) for name, value in asdict(self).items() if name != "share"}
        return {**row, "minutes": round(self.minutes, 2)}

    def __str__(self) -> str:
        """Return a line for the log, with the minutes left."""
        left = f", {self.minutes * (1 / self.share - 1):.0f} min left" if 0 < self.share < 1 else ""
        loss = "" if math.isnan(self.loss) else f"loss {self.loss:.3f}, "
        return (
            f"step {self.step}: {loss}validation loss {self.val_loss:.3f}, IoU {self.val_iou:.3f} on validation, "
            f"{self.train_iou:.3f} on training pictures, {self.minutes:.1f} min{left}"
        )


def train(
    config: TrainConfig,
    sources: Sequence[Source],
    validation: Sequence[Sample],
    folder: Path,
    init: Path | None = None,
    report: Callable[[float, str], None] = lambda *_: None,
    on_checkpoint: Callable[[Checkpoint], None] = lambda _: None,
) -> Path:
    """Train a model from random or given weights, or resume the run of a folder.

    If the folder has a checkpoint (`last.pt`), the run is resumed from this checkpoint, and `init` is ignored. Without
    a checkpoint, training begins with the weights of `init`, or with random weights if `init` is None.

    Args:
        config: settings of the run.
        sources: labelled pictures for training.
        validation: pictures that are scored (mean IoU) at every checkpoint. They are never used for training.
        folder: folder of the run: `last.pt` (the checkpoint for resuming), `log.csv`, `tensorboard/` (if tensorboardX
            is installed), `model.safetensors` (the averaged weights) and `best.safetensors` (the averaged weights with
            the highest validation IoU).
        init: file of initial weights; tensors whose name or shape does not fit the network are left out. None: random
            weights.
        report: called with the share of a stage that is done, 0 to 1, and the name of the stage. In the stage `encode`,
            the frozen image encoder encodes `config.cached_batches` batches, before the first step. This stage is left
            out if `cached_batches` is 0. The stage `train` has all training steps.
        on_checkpoint: called at every checkpoint with a `Checkpoint`: progress, losses and scores. If `init` is given,
            the first call of a new run comes before the first step, with the scores of the initial weights.

    Returns:
        Path of `model.safetensors`, or of `best.safetensors` with early stopping (`patience`).

    Raises:
        MissingPackageError: there are several processes, and `accelerate` is not installed.
    """
    group = ProcessGroup(config.device)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    model = build(config, None if (folder / "last.pt").exists() else init).to(group.device)
    averaged = MovingAverage(model)
    optimizer = make_optimizer(model, config)
    generator = torch.Generator().manual_seed(config.seed + group.rank)
    state = restore(folder / "last.pt", model, averaged, optimizer, generator, group.rank)
    batches = Batches(PairSampler(sources), config, group.rank, state.step * config.accumulate)
    trainer = Trainer(model, config, batches, generator, group.device)
    if config.cached_batches:
        trainer.cache_features(folder / f"encodings-{group.rank}", report)
    started, saved = time.monotonic() - state.elapsed, state.elapsed
    scored_samples = (validation, training_subset(sources))
    losses: list[float] = []
    if state.step == 0 and init is not None:  # so that `best.safetensors` never scores lower than the initial weights
        checkpoint = _score_checkpoint(averaged, config, scored_samples, losses, folder, state, group)
        if group.is_first:
            _write_log(folder, checkpoint)
            on_checkpoint(checkpoint)
    while (progress := config.progress(state.step, state.elapsed)) < 1 and not _stops_early(config, state):
        for parameters in optimizer.param_groups:
            parameters["lr"] = config.learning_rate * parameters["rate"] * schedule(progress, config.warmup)
        set_training(model, settled=progress >= 1 - config.settled)
        losses.append(train_step(trainer, optimizer, group))
        state.step += 1
        averaged.update(model, state.step, config.ema_steps)
        state.elapsed = group.mean(time.monotonic() - started)
        ends = config.progress(state.step, state.elapsed) >= 1
        report(config.progress(state.step, state.elapsed), "train")
        if ends or config.is_checkpoint(state.step, state.elapsed - saved):
            draws = group.gathered(generator.get_state())
            checkpoint = _score_checkpoint(averaged, config, scored_samples, losses, folder, state, group)
            if group.is_first:
                _write_log(folder, checkpoint)
                on_checkpoint(checkpoint)
                save(folder / "last.pt", model, averaged, optimizer, draws, state)
            group.wait()
            losses, saved = [], state.elapsed
    shutil.rmtree(folder / f"encodings-{group.rank}", ignore_errors=True)
    return folder / ("model.safetensors" if config.patience is None else "best.safetensors")


def _score_checkpoint(
    averaged: MovingAverage,
    config: TrainConfig,
    scored_samples: tuple[Sequence[Sample], Sequence[Sample]],
    losses: Sequence[float],
    folder: Path,
    state: State,
    group: ProcessGroup,
) -> Checkpoint:
    """Score the averaged weights, export these weights to `model.safetensors`, and return the scores.

    If the IoU on the validation pictures is the highest so far, `model.safetensors` is copied to `best.safetensors`.
    `state` is updated: the highest IoU on the validation pictures, and the number of checkpoints after the checkpoint
    that reached this IoU. `scored_samples` is a pair: the validation pictures, and some of the training pictures.
    `losses` are the training losses since the last checkpoint.
    """
    model = build(config).to(group.device)
    model.load_state_dict(averaged.state)
    on_val, on_train = (validate(model.eval(), samples, group.device) for samples in scored_samples)
    state.since_best += 1
    is_best = on_val.iou > state.best
    if is_best:
        state.best, state.since_best = on_val.iou, 0
    done = config.progress(state.step, state.elapsed)
    checkpoint = Checkpoint(
        step=state.step, minutes=state.elapsed / 60, share=min(done, 1.0),
        loss=sum(losses) / len(losses) if losses else math.nan, val_loss=on_val.loss, train_iou=on_train.iou,
        val_iou=on_val.iou, val_iou_unprompted=on_val.iou_unprompted,
    )  # fmt: skip
    if group.is_first:
        measured = {"val_iou": on_val.iou, "val_iou_unprompted": on_val.iou_unprompted, "steps": state.step}
        export(averaged.state, config, folder / "model.safetensors", measured, fit(on_val.histogram))
        if is_best:
            shutil.copyfile(folder / "model.safetensors", folder / "best.safetensors")
    return checkpoint


def training_subset(sources: Sequence[Source], count: int = MAX_TRAIN_SCORED) -> list[Sample]:
    """Return at most `count` of the training pictures, evenly spaced in the order of the sources."""
    samples = [sample for source in sources for sample in source.samples]
    return samples[:: -(-len(samples) // count)]


def _stops_early(config: TrainConfig, state: State) -> bool:
    """Return whether none of the last `patience` checkpoints raised the highest validation IoU.

    The result is False if `patience` is None.
    """
    return config.patience is not None and state.since_best >= config.patience


def schedule(progress: float, warmup: float) -> float:
    """Return the factor on the learning rate: linear warm-up from 0.02 to 1, then cosine decay to 0.01.

    Args:
        progress: share of the run that is done, 0 to 1.
        warmup: share of the run, at the beginning, in which the factor rises, 0 to 1.
    """
    if progress < warmup:
        return max(progress / warmup, 0.02)
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min((progress - warmup) / (1 - warmup), 1.0)))


def make_optimizer(model: Trainable, config: TrainConfig) -> torch.optim.Optimizer:
    """Build the optimizer AdamW for the trainable parameters of a model.

    One-dimensional parameters (biases and norms) have no weight decay. The learning rate of the parameters of `ENCODER`
    is multiplied by `config.encoder_rate`.

    Args:
        model: the network to train.
        config: settings: learning rates and weight decay.
    """
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            # Weight decay on biases and norms does harm (He et al. 2019, arXiv:1812.01187, section 3.1).
            decay = config.weight_decay if parameter.ndim > 1 else 0.0
            rate = config.encoder_rate if name.startswith(ENCODER) else 1.0
            groups.setdefault((decay, rate), []).append(parameter)
    listed = [{"params": params, "weight_decay": decay, "rate": rate} for (decay, rate), params in groups.items()]
    return torch.optim.AdamW(listed, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)


def _write_log(folder: Path, checkpoint: Checkpoint) -> None:
    """Append a checkpoint to `log.csv` and, if tensorboardX is installed, to `tensorboard/`."""
    row = checkpoint.as_row()
    path = folder / "log.csv"
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if fresh:
            writer.writeheader()
        writer.writerow(row)
    log.info("%s", checkpoint)
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError:  # an optional package; the CSV file has the same numbers
        return
    with SummaryWriter(str(folder / "tensorboard")) as board:
        for name, value in row.items():
            if name not in ("step", "minutes") and math.isfinite(value):  # before the first step there is no loss
                board.add_scalar(name, value, checkpoint.step)
