"""Files of a training run: initial weights, checkpoints for resuming, and exported weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from floodmap._runtime.files import atomic_path
from floodmap.models.calibration import Calibration
from floodmap.models.digest import with_digest
from floodmap.models.sam.flood_sam import FloodSam
from floodmap.models.sam.meta_sam import Sam
from floodmap.models.sam.vit import VIT, vit_encoder
from floodmap.training.config import TrainConfig
from floodmap.training.lora import adapt, merged

log = logging.getLogger(__name__)

Trainable = FloodSam | Sam


@dataclass(slots=True)
class State:
    """Progress of a training run. Every checkpoint contains the progress."""

    step: int = 0
    """Number of optimizer steps taken."""
    elapsed: float = 0.0
    """Time of training, in seconds."""
    best: float = -1.0
    """Highest mean IoU on the validation pictures so far, 0 to 1; -1 before the first checkpoint."""
    since_best: int = 0
    """Number of checkpoints since the checkpoint with the highest mean IoU."""


class MovingAverage:
    """Exponential moving average of a model's weights and batch norm statistics."""

    def __init__(self, model: Trainable) -> None:
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def update(self, model: Trainable, step: int, memory: int) -> None:
        """Update the average with the weights of the model after an optimizer step.

        Args:
            model: the trained model.
            step: number of optimizer steps taken so far.
            memory: time constant of the average, in steps; at the beginning of a run a shorter time constant is used.
        """
        decay = min(1 - 1 / memory, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value.detach(), 1 - decay)
            else:
                self.state[name].copy_(value)


def build(config: TrainConfig, init: Path | None = None) -> Trainable:
    """Build the network to train.

    Args:
        config: settings of the run: architecture, and which weights are trained.
        init: file of initial weights, .safetensors or .pth. Tensors of the file are left out if the network has no
            tensor of the same name and shape. None: random weights.
    """
    if config.architecture == "flood_sam":
        model: Trainable = FloodSam(config.encoder).to(memory_format=torch.channels_last)
    else:
        model = Sam(vit_encoder(VIT[config.architecture]))
        # The activations of a ViT encoder do not fit into memory, so they are recomputed for the gradients.
        model.recomputes = config.what != "decoder"
    if init is not None:
        _load_matching(model, init)
    if config.what == "lora":
        adapt(model.image_encoder, config.lora_rank)
    elif config.what == "decoder":
        model.image_encoder.requires_grad_(False)
    return model


def _load_matching(model: Trainable, path: Path) -> None:
    """Load the tensors of a file for which the model has a tensor of the same name and shape; leave out all others."""
    own = model.state_dict()
    loaded = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True, mmap=True)
    given = {name: value.float() for name, value in loaded.items() if value.is_floating_point()}
    fitting = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    model.load_state_dict(fitting, strict=False)
    log.info("took over %d of %d tensors from %s", len(fitting), len(own), path)


def export(
    state: Mapping[str, Tensor],
    config: TrainConfig,
    path: Path,
    scores: Mapping[str, float],
    calibration: Calibration,
) -> None:
    """Write weights as float16 safetensors, with settings, scores and calibration in the header.

    Args:
        state: weights by name, of a model with or without adapters (LoRA). This function merges each adapter into the
            weights of its layer; the file has no adapters.
        config: settings of the run.
        path: path of the new file.
        scores: validation scores by name, such as `val_iou`.
        calibration: calibration of the model's logits.
    """
    whole = merged(state)
    half = {k: (v.half() if v.is_floating_point() else v).contiguous().cpu() for k, v in whole.items()}
    header = {
        "architecture": config.architecture, "config": json.dumps(asdict(config)), "scores": json.dumps(dict(scores)),
        "calibration": json.dumps(calibration._asdict()),
    }  # fmt: skip
    with atomic_path(path) as partial:
        save_file(half, partial, metadata=with_digest(half, header))


def save(
    path: Path,
    model: Trainable,
    averaged: MovingAverage,
    optimizer: torch.optim.Optimizer,
    draws: list[Tensor],
    state: State,
) -> None:
    """Write a checkpoint with all data for resuming.

    Args:
        path: path of the checkpoint.
        model: the trained model.
        averaged: moving average of the weights.
        optimizer: the optimizer.
        draws: state of the random generator of each process, in order of rank.
        state: progress of the run.
    """
    saved = {
        "model": model.state_dict(), "averaged": averaged.state, "optimizer": optimizer.state_dict(), "draws": draws,
        **asdict(state),
    }  # fmt: skip
    with atomic_path(path) as partial:
        torch.save(saved, partial)


def restore(
    path: Path,
    model: Trainable,
    averaged: MovingAverage,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    rank: int,
) -> State:
    """Load a checkpoint into model, average, optimizer and generator, in place.

    Args:
        path: path of the checkpoint; nothing is loaded if there is no such file.
        model: the model to train.
        averaged: moving average of the weights.
        optimizer: the optimizer.
        generator: random generator of this process. It stays unchanged if the checkpoint has no state for `rank`.
        rank: rank of this process.

    Returns:
        Progress of the run; step 0 if there is no checkpoint.
    """
    if not path.exists():
        return State()
    saved = torch.load(path, weights_only=True, map_location="cpu")
    model.load_state_dict(saved["model"])
    for name, value in saved["averaged"].items():
        averaged.state[name].copy_(value)
    optimizer.load_state_dict(saved["optimizer"])
    if rank < len(saved["draws"]):
        generator.set_state(saved["draws"][rank])
    log.info("going on from step %d", saved["step"])
    return State(saved["step"], saved["elapsed"], saved["best"], saved["since_best"])
