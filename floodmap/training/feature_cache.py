"""Views that a frozen encoder has seen once, kept on disk: training a decoder then costs the decoder alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from floodmap._runtime.files import atomic_path
from floodmap.models.sam.common import STRIDE, Encoded
from floodmap.training.samples import Pairs, Views
from floodmap.training.simulated_prompts import cells_of, coarse_prompt

STRIDES = {"target": 1, "scored": 1, "skip2": 2, "skip1": 4, "colours": 4, "coarse": 4, "skip0": 8, "embedding": STRIDE}
"""Pixels to a side of what is kept of views."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of near views, encoded."""

    encoded: Encoded
    views: Views
    """Without their pixels: `rgb` is empty."""
    colours: Tensor
    """Of cells, (B, 3, h/4, w/4), 0 to 255."""
    coarse: Tensor
    """What was made of the far views, as mask prompts (B, 1, h/4, w/4)."""


class Encodings:
    """Batches on disk.

    Args:
        folder: where they are; what is there of an earlier run is used.
        count: how many.
        draw: the i-th pairs, always the same.
        encode: embedding of views.
        decode: logits of embeddings without a prompt, for the coarse masks.
    """

    def __init__(
        self,
        folder: Path,
        count: int,
        draw: Callable[[int], Pairs],
        encode: Callable[[Views], Encoded],
        decode: Callable[[Encoded], Tensor],
        report: Callable[[float], None] = lambda _: None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._paths = [folder / f"{number:06}.safetensors" for number in range(count)]
        for number, path in enumerate(self._paths):
            if not path.exists():
                pairs = draw(number)
                coarse = coarse_prompt(decode(encode(pairs.far)), pairs)
                _write(path, Batch(encode(pairs.near), pairs.near, cells_of(pairs.near.rgb), coarse))
            report((number + 1) / count)

    def draw(self, generator: torch.Generator, device: torch.device) -> Batch:
        """Any of the batches; where the encoder keeps a view's own size, some part of its views.

        So the same views are never quite the same, and decoding them costs about half.
        """
        path = self._paths[int(torch.randint(len(self._paths), (), generator=generator))]
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            sides, can_be_cut = file.get_slice("target").get_shape()[1:], "skip0" in names
            place = [_draw_stretch(side, generator) for side in sides] if can_be_cut else []
            found = {
                name: _part(file.get_slice(name), STRIDES[name], place).to(device)
                if name in STRIDES
                else file.get_tensor(name).to(device)
                for name in names
            }
        target = found["target"].float() / 255
        skips = (found["skip0"], found["skip1"], found["skip2"]) if can_be_cut else None
        ground = (found["ground0"], found["ground1"]) if "ground0" in names else None
        return Batch(
            Encoded(found["embedding"], skips, (target.shape[-2], target.shape[-1]), ground),
            Views(target.new_zeros(0), target, found["scored"], target.new_zeros(len(target))),
            found["colours"].float(), found["coarse"].float(),
        )  # fmt: skip


def _draw_stretch(side: int, generator: torch.Generator) -> slice:
    """Three quarters of a side somewhere along it, in units of the encoder's coarsest stride.

    Always as long: every new shape has the CPU's library make some 100 kernels anew, a third of a step.
    """
    units = side // 32
    length = -(-3 * units // 4)
    first = int(torch.randint(0, units - length + 1, (), generator=generator))
    return slice(32 * first, 32 * (first + length))


def _part(stored: Any, stride: int, place: Sequence[slice]) -> Tensor:
    """A part of planes on disk, its rows and columns in pixels: (B, H, W), or (B, C, H, W) as convolutions like it."""
    places = (slice(one.start // stride, one.stop // stride) for one in place)
    part: Tensor = stored[(slice(None), *places)].contiguous()
    return part if part.ndim == 3 else part.permute(0, 3, 1, 2)


def _write(path: Path, batch: Batch) -> None:
    encoded, views = batch.encoded, batch.views
    tensors = {
        "embedding": encoded.embedding, "coarse": batch.coarse, "scored": views.scored, "colours": batch.colours,
        "target": (views.target * 255).round().to(torch.uint8),
        **{f"skip{i}": skip for i, skip in enumerate(encoded.skips or ())},
        **{f"ground{i}": vectors for i, vectors in enumerate(encoded.ground or ())},
    }  # fmt: skip
    planes = {name: x if x.ndim < 4 else x.permute(0, 2, 3, 1) for name, x in tensors.items()}
    half = {
        name: (x.to(torch.bfloat16) if x.is_floating_point() else x).contiguous().cpu() for name, x in planes.items()
    }
    with atomic_path(path) as partial:
        save_file(half, partial)
