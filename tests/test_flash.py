"""Triton kernels, run by Triton's interpreter in a process of its own, since that is set before the import."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

PROGRAM = """
import sys

import torch
from segment_anything.modeling import ImageEncoderViT

from floodmap.models.backends import triton_attention

channels, cells = map(int, sys.argv[1:])
torch.manual_seed(0)
stock = ImageEncoderViT(
    img_size=16 * cells, embed_dim=2 * channels, depth=2, num_heads=2, out_chans=16, use_rel_pos=True, window_size=14,
    global_attn_indexes=(1,),
).eval()
for name, parameter in stock.named_parameters():
    if "rel_pos" in name or "pos_embed" in name:  # zero at first, so a mistake in them would not show
        torch.nn.init.normal_(parameter, std=0.3)
with torch.inference_mode():
    image = torch.randn(2, 3, 16 * cells, 16 * cells)
    expected = stock(image)
    found = triton_attention.embed(stock.half(), image.half())
print(float((found.float() - expected).norm() / expected.norm()))
"""


# Heads of ViT-B and of ViT-H, whose 80 channels are cut in two; windows that reach beyond the image, and none that do;
# images whose rows are a power of two, which take another way through the kernel, and others.
@pytest.mark.slow
@pytest.mark.parametrize(("channels", "cells"), [(64, 16), (80, 20), (80, 16), (16, 28)])
def test_kernels_equal_the_package(channels: int, cells: int) -> None:
    command = [sys.executable, "-c", PROGRAM, str(channels), str(cells)]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert float(ran.stdout) < 2e-3  # of float16; the interpreter knows no bfloat16


CHECK = """
import torch
from segment_anything.modeling import ImageEncoderViT

from floodmap.models.backends import triton_attention
from floodmap.models.sam.vit import use_cached_attention

torch.manual_seed(0)
encoder = ImageEncoderViT(
    img_size=256, embed_dim=128, depth=1, num_heads=2, out_chans=16, use_rel_pos=True, window_size=14,
).eval().half()
use_cached_attention(encoder)
print(repr(triton_attention.check(encoder)))
torch._addmm_activation = lambda bias, x, weight, use_gelu: torch.nn.functional.gelu(torch.addmm(bias, x, weight)) + 1
print(repr(triton_attention.check(encoder)))
triton_attention.attend = lambda qkv, *_: torch.zeros_like(qkv[..., 0, :, :].flatten(3))
print(repr(triton_attention.check(encoder)))
"""


@pytest.mark.slow
def test_kernels_and_calls_that_give_something_else_are_found_when_a_model_is_loaded() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    ran = subprocess.run([sys.executable, "-c", CHECK], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    right, perceptron, attention = ran.stdout.splitlines()
    assert right == "''" and "perceptron" in perceptron and "attention" in attention
