from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT

from floodmap.models.sam.vit import CachedAttention, _fused, _in_chunks, use_cached_attention


def make_encoders(channels: int = 16) -> tuple[ImageEncoderViT, ImageEncoderViT]:
    """Encoders of the package and of floodmap, with one block of windowed and one of global attention."""
    torch.manual_seed(0)
    stock = ImageEncoderViT(
        img_size=320, embed_dim=2 * channels, depth=2, num_heads=2, out_chans=16, use_rel_pos=True, window_size=14,
        global_attn_indexes=(1,),
    ).eval()  # fmt: skip
    for name, parameter in stock.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:  # zero at first, so a mistake in them would not show
            torch.nn.init.normal_(parameter, std=0.3)
    ours = deepcopy(stock)
    use_cached_attention(ours)
    return stock, ours


def relative(ours: torch.Tensor, stock: torch.Tensor) -> float:
    return float((ours.float() - stock.float()).norm() / stock.float().norm())


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("scores", [1000, 400 * 50, 196**2 * 12, 2**22])  # a few rows at a time to everything
@pytest.mark.parametrize("channels", [16, 32, 64])  # places are further channels nowhere, in windows, everywhere
def test_parts_of_any_size_equal_the_package(scores: int, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("floodmap.models.sam.vit.SCORES_BYTES", 4 * scores)
    stock, ours = make_encoders(channels)
    image = torch.randn(2, 3, 320, 320)
    assert all(isinstance(block.attn, CachedAttention) for block in ours.blocks)
    assert relative(ours(image), stock(image)) < 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        assert relative(ours(image), stock(image)) < 2e-2


def test_what_gpus_work_out_is_what_cpus_do() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 6, 5 * 7, 8)
    down, right = torch.randn(6, 35, 5), torch.randn(6, 35, 7)
    bias = (down[..., :, None] + right[..., None, :]).flatten(-2)
    torch.testing.assert_close(_fused(q, k, v, bias, 0.3), _in_chunks(q, k, v, down, right, 0.3))


def test_gradients_are_those_of_the_package() -> None:
    stock, ours = make_encoders()
    image = torch.randn(1, 3, 320, 320)
    for encoder in (stock, ours):
        encoder(image).square().mean().backward()
    for (name, theirs), own in zip(stock.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(own.grad, theirs.grad, rtol=1e-3, atol=1e-5, msg=lambda text, name=name: name + text)
