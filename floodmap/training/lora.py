"""Low-rank adapters: a frozen layer learns a small correction (Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from floodmap.models.sam.modeling import ImageEncoderViT


class LoraLinear(nn.Module):
    """A linear layer that stays as it is, and the product of two thin ones that is learned beside it.

    Args:
        base: the layer.
        rank: of the correction.
    """

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.empty(rank, base.in_features))
        # Zero, so that training begins with the layer as it was.
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        corrected: Tensor = self.base(x) + x @ self.down.T @ self.up.T
        return corrected


def adapt(encoder: ImageEncoderViT, rank: int) -> None:
    """Freeze an image encoder but for adapters in the attention of every block, in place."""
    encoder.requires_grad_(False)
    for block in encoder.blocks:
        block.attn.qkv = LoraLinear(block.attn.qkv, rank)


def merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with its adapters added to the layers they correct, under the names these had before."""
    whole: dict[str, Tensor] = {}
    for name, value in state.items():
        layer, _, last = name.rpartition(".")
        if f"{layer}.up" in state and f"{layer}.down" in state:
            continue
        parent = layer.removesuffix(".base")
        if f"{parent}.up" in state and layer.endswith(".base"):
            if last == "weight":
                value = value + state[f"{parent}.up"] @ state[f"{parent}.down"]
            name = f"{parent}.{last}"
        whole[name] = value
    return whole
