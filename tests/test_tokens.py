"""Attention between tokens and cells of SAM's mask decoder."""

from __future__ import annotations

import pytest
import torch

from floodmap.models.sam.decoder import TokenAttention
from floodmap.models.sam.efficientnet import EncoderConfig
from floodmap.models.sam.flood_sam import FloodSam
from floodmap.models.sam.modeling import TwoWayAttention

TOKENS, CELLS, BATCH, DIM = 3, 700, 2, 32


@pytest.fixture
def package() -> TwoWayAttention:
    torch.manual_seed(0)
    return TwoWayAttention(DIM, num_heads=8, downsample_rate=2)


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(TOKENS, CELLS), (CELLS, TOKENS), (TOKENS, TOKENS), (9, 512)])
def test_attention_is_the_package_s(package: TwoWayAttention, queries: int, keys: int, gradients: bool) -> None:
    q, k, v = (3 * torch.randn(BATCH, count, DIM) for count in (queries, keys, keys))
    expected = package(q, k, v)
    with torch.set_grad_enabled(gradients):
        ours = TokenAttention(package)(q, k, v)
    assert (ours - expected).norm() < 1e-5 * expected.norm()


def test_absent_tokens_are_not_attended_to(package: TwoWayAttention) -> None:
    layer = TokenAttention(package)
    q, k, v = (torch.randn(BATCH, count, DIM) for count in (CELLS, TOKENS, TOKENS))
    with torch.no_grad():
        seen = layer(q, k[:, :2], v[:, :2])
        layer.absent = torch.tensor([[False, False, True]] * BATCH)
        assert torch.allclose(layer(q, k, v), seen, atol=1e-5)


def test_layers_of_the_decoder_learn() -> None:
    torch.manual_seed(0)
    layer = FloodSam(EncoderConfig()).mask_decoder.transformer.layers[0].self_attn
    assert isinstance(layer, TokenAttention)
    x = torch.randn(1, 2, layer.q_proj.in_features)
    layer(x, x, x).sum().backward()
    assert layer.q_proj.weight.grad is not None
