"""Tuning of the mask decoder on encoded views, with a pull to the old weights and to the old predictions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from floodmap.models.sam.flood_sam import FloodSam
from floodmap.training.adaptation.views import View


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Settings of the tuning; see docs/lab/adaptation.md for how they were chosen."""

    steps: int = 80
    """Number of optimizer steps."""
    learning_rate: float = 6e-4
    """Highest learning rate of AdamW; it falls to 0 along a cosine."""
    pull: float = 10.0
    """Weight decay towards the old weights, decoupled as in AdamW (L2-SP; Li et al. 2018, arXiv:1802.01483)."""
    old_predictions: float = 2.0
    """Weight of the mean squared change of the flood probability, on ground without a correction (Li and Hoiem 2016,
    arXiv:1606.09282, with a bounded loss: a correction also stands for ground around it that looks alike)."""
    margin: float = 2.2
    """Logit, before calibration, that is enough: pixels that are right by this margin do not count in the loss."""
    calibrates: bool = True
    """True: fit the calibration of the logits after the tuning."""
    crop: float = 0.75
    """Share of the side of a view that a step decodes."""
    seed: int = 0
    """Seed of the order of the views and of the rectangles."""
    parts: tuple[str, ...] = ("mask_decoder", "prompt_encoder.mask_downscaling", "prompt_encoder.no_mask_embed")
    """Beginnings of the names of the weights that are tuned."""


def tuned_names(model: FloodSam, tuning: Tuning) -> list[str]:
    """Return the names of the weights that are tuned."""
    return [name for name, _ in model.named_parameters() if name.startswith(tuning.parts)]


def tune(
    model: FloodSam,
    levels: Sequence[Sequence[View]],
    tuning: Tuning,
    *,
    dtype: torch.dtype,
    report: Callable[[float], None] = lambda _: None,
) -> None:
    """Tune the weights of a network in place.

    Each step takes one view of each level, the far views and the near views, and a random rectangle of it.

    Args:
        model: the network.
        levels: views of each level.
        tuning: settings.
        dtype: dtype in which the network computes.
        report: called after every step with the share of the steps that is done, 0 to 1.
    """
    generator = torch.Generator().manual_seed(tuning.seed)
    names = set(tuned_names(model, tuning))
    model.requires_grad_(False)
    tuned = [parameter for name, parameter in model.named_parameters() if name in names]
    for parameter in tuned:
        parameter.requires_grad_(True)
    old = [parameter.detach().clone() for parameter in tuned]
    optimizer = torch.optim.AdamW(tuned, lr=tuning.learning_rate, weight_decay=0.0)
    filled = [level for level in levels if level]
    weights = [_class_weights(level) for level in filled]
    draws = [_in_random_order(len(level), generator) for level in filled]
    for step in range(tuning.steps):
        rate = tuning.learning_rate * _schedule(step / tuning.steps)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        for level, weight, draw in zip(filled, weights, draws, strict=True):
            view = _random_part(level[next(draw)], tuning.crop, generator)
            with torch.autocast(view.flood.device.type, dtype, enabled=dtype != torch.float32):
                logits = model.decode(view.encoded, masks=_pick_mask(view, generator))[0]
            _loss(logits.float(), view, weight, tuning).backward()
        nn.utils.clip_grad_norm_(tuned, 1.0)
        optimizer.step()
        with torch.no_grad():
            for parameter, before in zip(tuned, old, strict=True):
                parameter.lerp_(before, min(1.0, rate * tuning.pull))
        report((step + 1) / tuning.steps)
    model.requires_grad_(False)


def _loss(logits: Tensor, view: View, weight: tuple[float, float, float], tuning: Tuning) -> Tensor:
    """Return the loss of one view: cross-entropy on corrected ground, and the change of probability elsewhere."""
    of_flood, of_dry, mean = weight
    flood, dry = view.flood * of_flood, view.dry * of_dry
    enough = math.log1p(math.exp(-tuning.margin))
    of_wrong = flood * F.relu(F.softplus(-logits) - enough) + dry * F.relu(F.softplus(logits) - enough)
    corrected = of_wrong.sum() / (flood.sum() + dry.sum() + 0.25 * mean)
    change = ((logits.sigmoid() - view.base.sigmoid()).square() * view.free).sum() / view.free.sum().clamp(min=1)
    return corrected + tuning.old_predictions * change


def _class_weights(level: Sequence[View]) -> tuple[float, float, float]:
    """Return the weights of flood and of dry ground, which give both the same sum, and the mean sum of a view."""
    flood = sum(float(view.flood.sum()) for view in level)
    dry = sum(float(view.dry.sum()) for view in level)
    total = flood + dry
    of_flood, of_dry = (total / (2 * one) if one and flood and dry else 1.0 for one in (flood, dry))
    return of_flood, of_dry, total / len(level)


def _in_random_order(count: int, generator: torch.Generator) -> Iterator[int]:
    while True:
        yield from torch.randperm(count, generator=generator).tolist()


def _random_part(view: View, share: float, generator: torch.Generator) -> View:
    """Return a random rectangle of a view whose sides are about `share` of its sides."""
    places = []
    for side in (2 * view.flood.shape[-2], 2 * view.flood.shape[-1]):
        units = side // 32
        length = math.ceil(share * units)
        first = int(torch.randint(0, units - length + 1, (), generator=generator))
        places.append(slice(32 * first, 32 * (first + length)))
    return view.cropped(*places)


def _pick_mask(view: View, generator: torch.Generator) -> Tensor | None:
    return view.masks[int(torch.randint(len(view.masks), (), generator=generator))] if view.masks else None


def _schedule(progress: float) -> float:
    """Return the factor on the learning rate: up over the first 5 %, then down to 0 along a cosine."""
    return min(1.0, progress / 0.05 + 0.2) * 0.5 * (1 + math.cos(math.pi * progress))
