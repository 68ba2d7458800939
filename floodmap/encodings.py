"""Views that a frozen encoder has seen once, kept on disk: training a decoder then costs the decoder alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from floodmap.clicks import cells_of, coarse_prompt
from floodmap.dataset import Pairs, Views
from floodmap.loss import draw_stretch
from floodmap.sam import Encoded


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

    def crop(self, rows: slice, cols: slice) -> Batch:
        """The same part of every view, in pixels, multiples of 32."""
        part = (..., rows, cols)
        views = Views(self.views.rgb, self.views.target[part], self.views.scored[part])
        cells = (..., slice(rows.start // 4, rows.stop // 4), slice(cols.start // 4, cols.stop // 4))
        return Batch(self.encoded.crop(rows, cols), views, self.colours[cells], self.coarse[cells])


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
        """Any of the batches; where the encoder keeps a view's own size, some part of its views, at least half a side.

        So the same views are never quite the same, and decoding them costs about half.
        """
        path = self._paths[int(torch.randint(len(self._paths), (), generator=generator))]
        tensors = {name: tensor.to(device) for name, tensor in load_file(path).items()}
        skips = (tensors["skip0"], tensors["skip1"], tensors["skip2"]) if "skip0" in tensors else None
        target = tensors["target"].float() / 255
        shape_hw = (target.shape[-2], target.shape[-1])
        views = Views(target.new_zeros(0), target, tensors["scored"])
        encoded = Encoded(tensors["embedding"], skips, shape_hw)
        batch = Batch(encoded, views, tensors["colours"].float(), tensors["coarse"].float())
        if skips is None:
            return batch
        batch = batch.crop(*(draw_stretch(side, generator) for side in shape_hw))
        # As the decoder's convolutions like it: sums of maps of both orders in memory are slow.
        return replace(batch, encoded=batch.encoded.contiguous(torch.channels_last))


def _write(path: Path, batch: Batch) -> None:
    encoded, views = batch.encoded, batch.views
    tensors = {
        "embedding": encoded.embedding, "coarse": batch.coarse, "scored": views.scored, "colours": batch.colours,
        "target": (views.target * 255).round().to(torch.uint8),
        **{f"skip{i}": skip for i, skip in enumerate(encoded.skips or ())},
    }  # fmt: skip
    half = {
        name: (x.to(torch.bfloat16) if x.is_floating_point() else x).contiguous().cpu() for name, x in tensors.items()
    }
    temporary = path.with_suffix(".part")
    save_file(half, temporary)
    temporary.replace(path)
