"""Attention and linear layers of few tokens."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from floodmap.models.sam.decoder import FEW, FEW_ROWS, TokenAttention, TokenLinear
from floodmap.models.sam.efficientnet import EncoderConfig
from floodmap.models.sam.flood_sam import FloodSam
from floodmap.models.sam.modeling import TwoWayAttention

TOKENS, CELLS, BATCH, DIM = 3, 700, 2, 32


def attention() -> TokenAttention:
    torch.manual_seed(0)
    layer = TwoWayAttention(DIM, num_heads=8, downsample_rate=2)
    layer.__class__ = TokenAttention
    return layer


@pytest.mark.parametrize(
    ("queries", "keys"), [(TOKENS, CELLS), (CELLS, TOKENS), (TOKENS, TOKENS), (FEW, 512), (FEW + 1, CELLS)]
)
def test_attention_of_few_tokens_is_the_package_s(queries: int, keys: int) -> None:
    layer = attention()
    q, k, v = (3 * torch.randn(BATCH, count, DIM) for count in (queries, keys, keys))
    with torch.no_grad():
        ours, theirs = layer(q, k, v), TwoWayAttention.forward(layer, q, k, v)
    assert (ours - theirs).norm() < 1e-5 * theirs.norm()


def test_absent_tokens_are_not_attended_to() -> None:
    layer = attention()
    q, k, v = (torch.randn(BATCH, count, DIM) for count in (CELLS, TOKENS, TOKENS))
    with torch.no_grad():
        seen = layer(q, k[:, :2], v[:, :2])
        layer.absent = torch.tensor([[False, False, True]] * BATCH)
        assert torch.allclose(layer(q, k, v), seen, atol=1e-5)


@pytest.mark.parametrize("rows", [1, FEW_ROWS, FEW_ROWS + 1])
def test_linear_layer_of_few_rows_rounds_once(rows: int) -> None:
    torch.manual_seed(rows)
    layer = TokenLinear(DIM, 5).bfloat16()
    x = torch.randn(1, rows, DIM).bfloat16()
    with torch.no_grad():
        exact = nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double())
        assert torch.allclose(layer(x).double(), exact, rtol=2**-8, atol=1e-6)
        assert layer(x).dtype == torch.bfloat16


def test_layers_of_the_decoder_learn_as_before() -> None:
    torch.manual_seed(0)
    decoder = FloodSam(EncoderConfig()).mask_decoder
    layer = decoder.transformer.layers[0].self_attn
    assert isinstance(layer, TokenAttention)
    assert isinstance(layer.q_proj, TokenLinear)
    x = torch.randn(1, 2, layer.embedding_dim)
    layer(x, x, x).sum().backward()
    assert layer.q_proj.weight.grad is not None
