"""Cache on disk of the features of a frozen image encoder, so that training steps need not run the encoder."""

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
"""Stride of each cached tensor, in pixels of the view, by the name of the tensor in the file of a batch.
Tensors with other names have no height and width, and are read whole."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Batch of encoded near views of h x w pixels."""

    encoded: Encoded
    """Features of the near views: the output of the image encoder."""
    views: Views
    """The near views, with their labels (`views.target` and `views.scored`).
    In a batch that was read from the cache, `views.rgb` is an empty tensor and `views.gsd_m` is 0, because the cache
    does not contain them."""
    colours: Tensor
    """Mean RGB of each square of 4 x 4 pixels, (B, 3, h/4, w/4), 0 to 255."""
    coarse: Tensor
    """Mask prompts from the predictions for the far views, logits (B, 1, h/4, w/4)."""


class FeatureCache:
    """Folder of encoded batches. The constructor draws, encodes and writes every batch whose file is missing.

    Args:
        folder: folder with one file for each batch. Files of an interrupted run are used again.
        count: number of batches.
        draw: function from the index of a batch (0 to `count` - 1) to the batch's pairs of a far and a near view. The
            same index must always give the same batch.
        encode: function from views to encoded views.
        decode: function from encoded views to flood logits (B, h, w), computed without a prompt. The logits of far
            views become the mask prompts of near views.
        report: progress callback, called after each batch. Its argument is the share of the batches that are finished,
            0 to 1.
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
        """Read a random batch of cached features and labels from the folder, and copy it to a device.

        If the encoder is that of `FloodSam`, only a random rectangle of the features and labels is read, the same
        rectangle for all views of the batch. Its sides are about three quarters of the sides of a view. This has two
        advantages. If a view is read in several training steps, each step gets another rectangle of the view. And for
        the rectangle, the mask decoder takes only about half the time that it would take for the whole view.

        If the encoder is one of Meta's, features and labels of whole views are read: these encoders resize every view
        to the fixed size of SAM's input, and Meta's mask decoder needs the features of the whole input.

        Args:
            generator: source of randomness.
            device: torch device of the result.
        """
        path = self._paths[int(torch.randint(len(self._paths), (), generator=generator))]
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            sides, can_be_cut = file.get_slice("target").get_shape()[1:], "skip0" in names
            place = [_draw_interval(side, generator) for side in sides] if can_be_cut else []
            tensors = {
                name: _read_part(file.get_slice(name), STRIDES[name], place).to(device)
                if name in STRIDES
                else file.get_tensor(name).to(device)
                for name in names
            }
        target = tensors["target"].float() / 255
        skips = (tensors["skip0"], tensors["skip1"], tensors["skip2"]) if can_be_cut else None
        ground = (tensors["ground0"], tensors["ground1"]) if "ground0" in names else None
        return Batch(
            Encoded(tensors["embedding"], skips, (target.shape[-2], target.shape[-1]), ground),
            Views(target.new_zeros(0), target, tensors["scored"], target.new_zeros(len(target))),
            tensors["colours"].float(), tensors["coarse"].float(),
        )  # fmt: skip


def _draw_interval(side: int, generator: torch.Generator) -> slice:
    """Draw a random interval of pixels that covers about three quarters of the side of a view.

    `side` is in pixels. Both ends of the interval are multiples of 32, and therefore of every stride in `STRIDES`.
    The length is fixed, because oneDNN prepares about 100 kernels for each new shape. The preparation takes a third of
    the time of a step.
    """
    units = side // 32
    length = -(-3 * units // 4)
    first = int(torch.randint(0, units - length + 1, (), generator=generator))
    return slice(32 * first, 32 * (first + length))


def _read_part(stored: Any, stride: int, place: Sequence[slice]) -> Tensor:
    """Read one rectangle of the cached features or labels, the same rectangle for all B views of a batch.

    Args:
        stored: the tensor in the file, a slice of safetensors: (B, H, W) or (B, H, W, C).
        stride: stride of the tensor, see `STRIDES`.
        place: rows and columns of the rectangle, in pixels of the view: two slices, whose ends are multiples of
            `stride`. Empty: the whole tensor is read.

    Returns:
        The rectangle: (B, h, w) for a tensor (B, H, W); (B, C, h, w) for a tensor (B, H, W, C).
    """
    places = (slice(interval.start // stride, interval.stop // stride) for interval in place)
    part: Tensor = stored[(slice(None), *places)].contiguous()
    return part if part.ndim == 3 else part.permute(0, 3, 1, 2)


def _write(path: Path, batch: Batch) -> None:
    """Write a batch of features and labels to a file.

    Floating-point tensors are stored as bfloat16, except for the label `views.target`: the flooded share of each pixel,
    0 to 1, is multiplied by 255 and stored as uint8. Tensors (B, C, H, W) are stored as (B, H, W, C).
    """
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
