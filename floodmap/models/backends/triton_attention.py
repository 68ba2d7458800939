"""SAM's image encoder on a GPU: neither scores, nor windows, nor what fills them up is ever written to its memory.

FlashAttention (Dao et al. 2022, arXiv:2205.14135) that reads SAM's windows and adds its relative positions in place;
torch's own kernels take the positions as a mask, which is larger than all else together (`benchmarks/gpu.py`).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from floodmap.models.sam.modeling import Attention, Block, ImageEncoderViT

_LANES = 16
"""Matrix units of a GPU take no smaller side."""

_CLOSE = 0.03
"""How far results may lie from those of plain layers, of their norm: bfloat16, and another GELU."""
_WHOLE, _WINDOWS = (64, 4, 3), (128, 8, 1)
"""Queries worked on together, and by how many warps, and stages of loading: the fastest on an H100."""


def embed(encoder: ImageEncoderViT, image: Tensor) -> Tensor:
    """What `encoder(image)` gives, (B, 3, H, W) to (B, E, H/16, W/16), without gradients.

    What the blocks add up stays in float32; the rest is at the encoder's precision, and GELU is its approximation with
    tanh: both change less than that precision does.
    """
    summed = _patches(encoder, image).float()
    if encoder.pos_embed is not None:
        summed += encoder.pos_embed
    added: Any = None  # what the last half block gave
    for block in encoder.blocks:
        added = _attention(block, _add_and_norm(summed, added, block.norm1, image.dtype))
        added = _mlp(block, _add_and_norm(summed, added, block.norm2, image.dtype))
    embedding: Tensor = encoder.neck((summed + added).to(image.dtype).permute(0, 3, 1, 2))
    return embedding


@torch.inference_mode()
def check(encoder: ImageEncoderViT) -> str:
    """Why an encoder's blocks differ from what they are step by step: nothing where they do not, by a small image."""
    block = encoder.blocks[0]
    x = torch.randn(1, 14, 14, block.norm1.normalized_shape[0], device=block.attn.qkv.weight.device)
    x = x.to(block.attn.qkv.weight.dtype)
    for name, found, expected in (
        ("attention", _attention(block, x), block.attn(x, block.window_size)),
        ("perceptron", _mlp(block, x), block.mlp(x)),
    ):
        far = float((found.float() - expected.float()).norm() / expected.float().norm())
        if not far <= _CLOSE:
            return f"its {name} is {far:.1g} off"
    return ""


def _patches(encoder: ImageEncoderViT, image: Tensor) -> Tensor:
    """The patch embedding, (B, H/16, W/16, C), as the product it is: convolutions of three channels are slow."""
    conv = encoder.patch_embed.proj
    rows, cols = conv.kernel_size
    patches = image.unflatten(3, (-1, cols)).unflatten(2, (-1, rows)).permute(0, 2, 4, 1, 3, 5)
    return nn.functional.linear(patches.flatten(3), conv.weight.flatten(1), conv.bias)


def _mlp(block: Block, x: Tensor) -> Tensor:
    first, last = block.mlp.lin1, block.mlp.lin2
    hidden = torch._addmm_activation(first.bias, x.flatten(0, 2), first.weight.t(), use_gelu=True)
    result: Tensor = last(hidden).view(x.shape)
    return result


def _attention(block: Block, x: Tensor) -> Tensor:
    """(B, H, W, C) to the same."""
    attention: Attention = block.attn
    side = (block.window_size, block.window_size) if block.window_size else (x.shape[1], x.shape[2])
    if not hasattr(attention, "positions"):
        attention.positions = positions(attention.rel_pos_h, attention.rel_pos_w).to(x.dtype)
    qkv = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1))
    projected: Tensor = attention.proj(attend(qkv, attention.qkv.bias, attention.positions, side))
    return projected


def positions(down: Tensor, across: Tensor) -> Tensor:
    """Relative positions, (2 rows - 1, C) and (2 columns - 1, C), as `attend` wants them, (positions, C).

    Their number is rounded up: rows of products with them have to begin where a GPU reads fast.
    """
    table = torch.cat([down, across])
    return nn.functional.pad(table, (0, 0, 0, -len(table) % _LANES))


def attend(qkv: Tensor, filling: Tensor, table: Tensor, window_hw: tuple[int, int]) -> Tensor:
    """Attention within windows, with relative positions.

    Args:
        qkv: queries, keys and values of every cell, (B, H, W, 3, heads, C).
        filling: those of cells beyond the image in windows that reach there, (3 heads C,).
        table: the relative positions, see `positions`.
        window_hw: rows and columns of a window; those of the image where cells see all others.

    Returns:
        (B, H, W, heads C).
    """
    batch, height, width, _, heads, channels = qkv.shape
    rows, cols = window_hw
    head = 1 << channels.bit_length() - 1  # sides of products are powers of two: 80 channels are 64 and 16
    whole = (rows, cols) == (height, width) and cols == triton.next_power_of_2(cols) >= _LANES
    padded = cols if whole else max(_LANES, triton.next_power_of_2(cols))
    at_once = 1 if whole else max(_LANES, triton.next_power_of_2(rows))
    each = qkv[:, :, :, 0].view(-1, heads, channels).transpose(0, 1)
    places = torch.bmm(each, table.t().expand(heads, -1, -1))  # every query's products with all positions
    out = torch.empty(batch, height, width, heads * channels, dtype=qkv.dtype, device=qkv.device)
    windows = batch * triton.cdiv(height, rows) * triton.cdiv(width, cols)
    queries, warps, stages = _WHOLE if whole else _WINDOWS
    _attend[triton.cdiv(rows * cols, queries), windows * heads](
        qkv, filling, places, out, height, width, channels**-0.5,
        HEADS=heads, HEAD=head, TAIL=channels - head, ROWS=rows, COLS=cols, PADDED=padded, AT_ONCE=at_once,
        LENGTH=places.shape[-1], QUERIES=queries, WHOLE=whole, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out


def _add_and_norm(summed: Tensor, added: Tensor | None, norm: nn.LayerNorm, dtype: torch.dtype) -> Tensor:
    """Add to float32 (B, H, W, C) in place; returns the sum, normalized, as `dtype`."""
    channels = summed.shape[-1]
    out = torch.empty(summed.shape, dtype=dtype, device=summed.device)
    _add_norm[summed.numel() // channels,](
        summed, summed if added is None else added, norm.weight, norm.bias, out, norm.eps,
        CHANNELS=channels, PADDED=triton.next_power_of_2(channels), ADDS=added is not None, num_warps=4,
    )  # fmt: skip
    return out


@triton.jit
def _add_norm(summed, added, weight, bias, out, eps, CHANNELS: tl.constexpr, PADDED: tl.constexpr, ADDS: tl.constexpr):
    channel = tl.arange(0, PADDED)
    ours = channel < CHANNELS
    at = tl.program_id(0).to(tl.int64) * CHANNELS + channel
    x = tl.load(summed + at, mask=ours, other=0.0)
    if ADDS:
        x += tl.load(added + at, mask=ours, other=0.0).to(tl.float32)
        tl.store(summed + at, x, mask=ours)
    centred = tl.where(ours, x - tl.sum(x, 0) / CHANNELS, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 0) / CHANNELS + eps)
    gain = tl.load(weight + channel, mask=ours, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=ours, other=0.0).to(tl.float32)
    tl.store(out + at, (centred * scale * gain + shift).to(out.dtype.element_ty), mask=ours)


@triton.jit
def _loaded(at, inside, fill, WHOLE: tl.constexpr):
    """What lies at addresses inside the image, and what fills up the rest; WHOLE: there is no rest."""
    return tl.load(at) if WHOLE else tl.where(inside, tl.load(at, mask=inside, other=0.0), tl.load(fill))


@triton.jit
def _placed(to_row, across, ours, first, key_row, key_col, column, ROWS: tl.constexpr, AT_ONCE: tl.constexpr):
    """Products of queries with the relative positions of the keys of a window, (QUERIES, keys)."""
    step = tl.arange(0, AT_ONCE)
    rows = first + step
    down = tl.load(to_row[:, None] - rows[None, :], mask=ours[:, None] & (rows < ROWS)[None, :], other=0.0)
    # Whose row and whose column is meant: products with ones and zeros spread them over the keys.
    scores = tl.dot(down, (step[:, None] == key_row[None, :]).to(down.dtype))
    return tl.dot(across, (column[:, None] == key_col[None, :]).to(across.dtype), scores)


@triton.jit
def _asking(image, top, left, height, width, ROWS: tl.constexpr, COLS: tl.constexpr, QUERIES: tl.constexpr):
    """Rows and columns of queries in their window, which of them are in it and in the image, and their cells there."""
    query = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    row, col = query // COLS, query % COLS
    ours = (query < ROWS * COLS) & (top + row < height) & (left + col < width)
    return row, col, ours, (image * height + top + row) * width + left + col


@triton.jit
def _attend(
    qkv, filling, places, out, height, width, scale,
    HEADS: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
    PADDED: tl.constexpr, AT_ONCE: tl.constexpr, LENGTH: tl.constexpr, QUERIES: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Some queries of one window and head see all of its cells, AT_ONCE rows of PADDED columns at a time.

    A head's channels are HEAD and TAIL, both powers of two or the second nothing. Scores are kept before `scale`.
    `place`: where a query's products with the relative positions are; `to_row`, `to_col`: those of row and column 0.
    """
    CHANNELS: tl.constexpr = HEAD + TAIL
    CELL: tl.constexpr = 3 * HEADS * CHANNELS
    window, head = tl.program_id(1) // HEADS, tl.program_id(1) % HEADS
    windows_down, windows_across = tl.cdiv(height, ROWS), tl.cdiv(width, COLS)
    image = (window // (windows_down * windows_across)).to(tl.int64)
    top, left = window // windows_across % windows_down * ROWS, window % windows_across * COLS
    channel, rest = tl.arange(0, HEAD), HEAD + tl.arange(0, TAIL if TAIL else 1)
    row, col, ours, cell = _asking(image, top, left, height, width, ROWS, COLS, QUERIES)
    at = qkv + cell * CELL + head * CHANNELS
    q = tl.load(at[:, None] + channel[None, :], mask=ours[:, None], other=0.0)
    cells = tl.num_programs(1).to(tl.int64) // (HEADS * windows_down * windows_across) * height * width
    place = places + (head * cells + cell) * LENGTH
    to_row, to_col = place + row + ROWS - 1, place + 2 * ROWS - 1 + col + COLS - 1
    key, column = tl.arange(0, AT_ONCE * PADDED), tl.arange(0, PADDED)
    key_row, key_col = key // PADDED, key % PADDED
    across = tl.load(to_col[:, None] - column[None, :], mask=ours[:, None] & (column < COLS)[None, :], other=0.0)
    most, total = tl.full([QUERIES], -float("inf"), tl.float32), tl.zeros([QUERIES], tl.float32)
    seen = tl.zeros([QUERIES, HEAD], tl.float32)
    if TAIL:
        q_rest = tl.load(at[:, None] + rest[None, :], mask=ours[:, None], other=0.0)
        seen_rest = tl.zeros([QUERIES, TAIL], tl.float32)
    if WHOLE:
        moved = across.to(tl.float32) / scale
    steep = scale * 1.4426950408889634  # for powers of two
    for first in range(0, ROWS, AT_ONCE):
        y, x = top + first + key_row, left + key_col
        there = (key_col < COLS) & (first + key_row < ROWS)
        inside = there & (y < height) & (x < width)
        keys = qkv + ((image * height + y) * width + x) * CELL + (HEADS + head) * CHANNELS
        values, fill, more = keys + HEADS * CHANNELS, filling + (HEADS + head) * CHANNELS, HEADS * CHANNELS
        if WHOLE:
            scores = moved + (tl.load(to_row - first, mask=ours, other=0.0).to(tl.float32) / scale)[:, None]
        else:
            scores = _placed(to_row, across, ours, first, key_row, key_col, column, ROWS, AT_ONCE) / scale
        k = _loaded(keys[None, :] + channel[:, None], inside[None, :], (fill + channel)[:, None], WHOLE)
        v = _loaded(values[:, None] + channel[None, :], inside[:, None], (fill + more + channel)[None, :], WHOLE)
        if TAIL:
            k_rest = _loaded(keys[None, :] + rest[:, None], inside[None, :], (fill + rest)[:, None], WHOLE)
            v_rest = _loaded(values[:, None] + rest[None, :], inside[:, None], (fill + more + rest)[None, :], WHOLE)
        scores = tl.dot(q, k, scores)
        if TAIL:
            scores = tl.dot(q_rest, k_rest, scores)
        if not WHOLE:
            scores = tl.where(there[None, :], scores, -float("inf"))
        new_most = tl.maximum(most, tl.max(scores, 1))
        share, less = tl.exp2((scores - new_most[:, None]) * steep), tl.exp2((most - new_most) * steep)
        most, total = new_most, total * less + tl.sum(share, 1)
        seen = tl.dot(share.to(q.dtype), v, seen * less[:, None])
        if TAIL:
            seen_rest = tl.dot(share.to(q.dtype), v_rest, seen_rest * less[:, None])

    to = out + cell * (HEADS * CHANNELS) + head * CHANNELS
    tl.store(to[:, None] + channel[None, :], (seen / total[:, None]).to(out.dtype.element_ty), mask=ours[:, None])
    if TAIL:
        tl.store(to[:, None] + rest[None, :], (seen_rest / total[:, None]).to(out.dtype.element_ty), mask=ours[:, None])
