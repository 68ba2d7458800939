"""Low-rank adapters (LoRA) for frozen linear layers (Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from floodmap.models.sam.modeling import ImageEncoderViT


class LoraLinear(nn.Module):
    """Frozen linear layer with an adapter: a trained matrix of low rank that is added to the layer's weights.

    The matrix is the product of `up`, (output features, rank), and `down`, (rank, input features).

    Args:
        base: the linear layer; the parameters of this layer are frozen.
        rank: rank of the added matrix.
    """

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.empty(rank, base.in_features))
        # Zero, so that the layer's result is unchanged at the beginning of training.
        self.up = nn.Parameter(torch.zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        corrected: Tensor = self.base(x) + x @ self.down.T @ self.up.T
        return corrected


def adapt(encoder: ImageEncoderViT, rank: int) -> None:
    """Freeze an image encoder, and add a trainable adapter to the layer `qkv` of every transformer block, in place.

    Args:
        encoder: SAM's image encoder.
        rank: rank of the adapters; see `LoraLinear`.
    """
    encoder.requires_grad_(False)
    for block in encoder.blocks:
        block.attn.qkv = LoraLinear(block.attn.qkv, rank)


def merged(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Merge the adapters of a state dict into the weights of the adapted layers.

    Args:
        state: tensors by name, of a model with or without adapters.

    Returns:
        Tensors by name, with the names of a model without adapters.
    """
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
