"""Triton kernels of SAM's image encoder. Attention scores, windows and padding are not written to GPU memory.

A window is here an attention window of SAM: a rectangle of cells, between which attention is computed. A cell is a
position of the image embedding: 16 x 16 pixels. The attention kernel is FlashAttention (Dao et al. 2022,
arXiv:2205.14135). The kernel reads the windows from the tensor of the whole image, and adds SAM's relative positional
embeddings. Torch's own kernels need these embeddings as an attention mask, which is larger than all other tensors
together (`benchmarks/gpu.py`).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from floodmap.models.sam.modeling import Attention, Block, ImageEncoderViT

_MIN_SIDE = 16
"""Smallest side of the matrices that the tensor cores of a GPU multiply."""

_TOLERANCE = 0.03
"""Largest accepted relative difference (in the 2-norm) between the results of the kernels and of the encoder's layers.
The difference is due to bfloat16 and to the approximation of GELU with tanh."""
_WHOLE, _WINDOWS = (64, 4, 3), (128, 8, 1)
"""Settings of the attention kernel for global attention, and for attention in windows.
A setting is (queries per Triton program, warps per program, pipeline stages). These were the fastest on an H100."""


def embed(encoder: ImageEncoderViT, image: Tensor) -> Tensor:
    """Compute the image embedding by the kernels of this module, without gradients.

    The residual stream is float32, and all other tensors have the encoder's dtype. GELU is approximated with tanh. Both
    deviations from `encoder(image)` change the result by less than the rounding to the encoder's dtype.

    Args:
        encoder: SAM's image encoder, in bfloat16 on an NVIDIA GPU.
        image: normalized RGB, (B, 3, H, W), in bfloat16. H and W are multiples of 16.

    Returns:
        Image embedding with E channels, (B, E, H/16, W/16).
    """
    residual = _patches(encoder, image).float()
    if encoder.pos_embed is not None:
        residual += encoder.pos_embed
    update: Any = None  # output of the last attention or MLP, not yet added to the residual
    for block in encoder.blocks:
        update = _attention(block, _add_and_norm(residual, update, block.norm1, image.dtype))
        update = _mlp(block, _add_and_norm(residual, update, block.norm2, image.dtype))
    embedding: Tensor = encoder.neck((residual + update).to(image.dtype).permute(0, 3, 1, 2))
    return embedding


@torch.inference_mode()
def check(encoder: ImageEncoderViT) -> str:
    """Compare the kernels with the layers of the encoder's first block, on random features of 14 x 14 cells.

    Returns:
        Text that describes the first difference above `_TOLERANCE`, or "" if there is no such difference.
    """
    block = encoder.blocks[0]
    x = torch.randn(1, 14, 14, block.norm1.normalized_shape[0], device=block.attn.qkv.weight.device)
    x = x.to(block.attn.qkv.weight.dtype)
    for name, result, expected in (
        ("attention", _attention(block, x), block.attn(x, block.window_size)),
        ("perceptron", _mlp(block, x), block.mlp(x)),
    ):
        difference = float((result.float() - expected.float()).norm() / expected.float().norm())
        if not difference <= _TOLERANCE:
            return f"its {name} differs by {difference:.1g}"
    return ""


def _patches(encoder: ImageEncoderViT, image: Tensor) -> Tensor:
    """Return the patch embedding, (B, H/16, W/16, C), of images (B, 3, H, W).

    The embedding is computed as a matrix product, because convolutions of three channels are slow.
    """
    conv = encoder.patch_embed.proj
    rows, cols = conv.kernel_size
    patches = image.unflatten(3, (-1, cols)).unflatten(2, (-1, rows)).permute(0, 2, 4, 1, 3, 5)
    return nn.functional.linear(patches.flatten(3), conv.weight.flatten(1), conv.bias)


def _mlp(block: Block, x: Tensor) -> Tensor:
    """Compute the multilayer perceptron of a block, with GELU fused. Input and result are (B, H, W, C)."""
    first, last = block.mlp.lin1, block.mlp.lin2
    hidden = torch._addmm_activation(first.bias, x.flatten(0, 2), first.weight.t(), use_gelu=True)
    result: Tensor = last(hidden).view(x.shape)
    return result


def _attention(block: Block, x: Tensor) -> Tensor:
    """Compute the attention of a block, in windows or between all cells. Input and result are (B, H, W, C)."""
    attention: Attention = block.attn
    side = (block.window_size, block.window_size) if block.window_size else (x.shape[1], x.shape[2])
    if not hasattr(attention, "positions"):
        attention.positions = positions(attention.rel_pos_h, attention.rel_pos_w).to(x.dtype)
    qkv = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1))
    projected: Tensor = attention.proj(attend(qkv, attention.qkv.bias, attention.positions, side))
    return projected


def positions(down: Tensor, across: Tensor) -> Tensor:
    """Join the relative positional embeddings of rows and of columns to one table for `attend`.

    The table is padded with zeros to a multiple of 16 positions. `attend` multiplies queries by the table. The matrix
    of the products has a row for each query, and a column for each position of the table. By the padding, every row
    begins at an aligned address: at a multiple of 16 elements.

    Args:
        down: one embedding for each difference between the rows of two cells of a window, (2 * rows - 1, C).
        across: one embedding for each difference between the columns of two cells, (2 * columns - 1, C).

    Returns:
        Table (positions, C): first `down`, then `across`, then zeros.
    """
    table = torch.cat([down, across])
    return nn.functional.pad(table, (0, 0, 0, -len(table) % _MIN_SIDE))


def attend(qkv: Tensor, filling: Tensor, table: Tensor, window_hw: tuple[int, int]) -> Tensor:
    """Compute multi-head attention within windows, with relative positional embeddings.

    H and W are counted in cells. C is the number of channels of a head.

    Args:
        qkv: queries, keys and values of every cell, (B, H, W, 3, heads, C).
        filling: queries, keys and values of a padding cell, (3 * heads * C,), for windows that reach beyond the image.
        table: the relative positional embeddings, (positions, C); see `positions`.
        window_hw: number of rows and of columns of a window, in cells; (H, W) for global attention.

    Returns:
        Attended values, (B, H, W, heads * C).
    """
    batch, height, width, _, heads, channels = qkv.shape
    rows, cols = window_hw
    head = 1 << channels.bit_length() - 1  # sides of products are powers of two: 80 channels are split into 64 and 16
    whole = (rows, cols) == (height, width) and cols == triton.next_power_of_2(cols) >= _MIN_SIDE
    padded = cols if whole else max(_MIN_SIDE, triton.next_power_of_2(cols))
    at_once = 1 if whole else max(_MIN_SIDE, triton.next_power_of_2(rows))
    each = qkv[:, :, :, 0].view(-1, heads, channels).transpose(0, 1)
    products = torch.bmm(each, table.t().expand(heads, -1, -1))  # products of every query with all positions
    out = torch.empty(batch, height, width, heads * channels, dtype=qkv.dtype, device=qkv.device)
    windows = batch * triton.cdiv(height, rows) * triton.cdiv(width, cols)
    queries, warps, stages = _WHOLE if whole else _WINDOWS
    _attend[triton.cdiv(rows * cols, queries), windows * heads](
        qkv, filling, products, out, height, width, channels**-0.5,
        HEADS=heads, HEAD=head, TAIL=channels - head, ROWS=rows, COLS=cols, PADDED=padded, AT_ONCE=at_once,
        LENGTH=products.shape[-1], QUERIES=queries, WHOLE=whole, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out


def _add_and_norm(residual: Tensor, update: Tensor | None, norm: nn.LayerNorm, dtype: torch.dtype) -> Tensor:
    """Add `update` to `residual`, float32 (B, H, W, C), in place, and return the layer norm of the sum.

    The result is (B, H, W, C) of type `dtype`. If `update` is None, nothing is added.
    """
    channels = residual.shape[-1]
    out = torch.empty(residual.shape, dtype=dtype, device=residual.device)
    _add_norm[residual.numel() // channels,](
        residual, residual if update is None else update, norm.weight, norm.bias, out, norm.eps,
        CHANNELS=channels, PADDED=triton.next_power_of_2(channels), ADDS=update is not None, num_warps=4,
    )  # fmt: skip
    return out


@triton.jit
def _add_norm(
    residual, update, weight, bias, out, eps, CHANNELS: tl.constexpr, PADDED: tl.constexpr, ADDS: tl.constexpr
):
    """Compute the sum of residual and update, and the layer norm of the sum, for all channels of one cell.

    PADDED is the number of channels, rounded up to a power of two.
    """
    channel = tl.arange(0, PADDED)
    valid = channel < CHANNELS
    at = tl.program_id(0).to(tl.int64) * CHANNELS + channel
    x = tl.load(residual + at, mask=valid, other=0.0)
    if ADDS:
        x += tl.load(update + at, mask=valid, other=0.0).to(tl.float32)
        tl.store(residual + at, x, mask=valid)
    centred = tl.where(valid, x - tl.sum(x, 0) / CHANNELS, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 0) / CHANNELS + eps)
    gain = tl.load(weight + channel, mask=valid, other=0.0).to(tl.float32)
    shift = tl.load(bias + channel, mask=valid, other=0.0).to(tl.float32)
    tl.store(out + at, (centred * scale * gain + shift).to(out.dtype.element_ty), mask=valid)


@triton.jit
def _load_cells(at, inside, fill, WHOLE: tl.constexpr):
    """Load values from the addresses `at`; outside of the image, load padding from the addresses `fill` instead.

    If WHOLE is true, all addresses are inside the image.
    """
    return tl.load(at) if WHOLE else tl.where(inside, tl.load(at, mask=inside, other=0.0), tl.load(fill))


@triton.jit
def _position_scores(to_row, across, valid, first, key_row, key_col, column, ROWS: tl.constexpr, AT_ONCE: tl.constexpr):
    """Compute the positional scores (QUERIES, keys): products of queries with the embeddings of relative positions.

    The score of a query and a key is the sum of two products of the query: the row product, with the embedding of the
    difference of the rows of query and key, and the column product, with the embedding of the difference of the
    columns. `attend` has computed all these products, and stored them in GPU memory. This function reads the row
    products. The kernel `_attend` has read the column products, and passes them in `across`.

    The keys are the cells of AT_ONCE rows of a window, beginning with the row `first`. Each row is padded to PADDED
    columns: the number of columns of the window, rounded up to a power of two, at least 16. There are therefore
    AT_ONCE * PADDED keys.

    - `to_row`, (QUERIES,): address of each query's row product for keys in row 0. The row product for keys in row r is
      stored r elements before this address.
    - `across`, (QUERIES, PADDED): column product of each query and each column, 0 for padding columns.
    - `valid`, (QUERIES,): see `_query_cells`.
    - `key_row` and `key_col`, (keys,): row of each key, counted from `first`, and column of each key.
    - `column`, (PADDED,): numbers of the columns, 0 to PADDED - 1.
    """
    step = tl.arange(0, AT_ONCE)
    rows = first + step
    down = tl.load(to_row[:, None] - rows[None, :], mask=valid[:, None] & (rows < ROWS)[None, :], other=0.0)
    # Products with one-hot matrices of rows and of columns spread the scores over the keys.
    scores = tl.dot(down, (step[:, None] == key_row[None, :]).to(down.dtype))
    return tl.dot(across, (column[:, None] == key_col[None, :]).to(across.dtype), scores)


@triton.jit
def _query_cells(image, top, left, height, width, ROWS: tl.constexpr, COLS: tl.constexpr, QUERIES: tl.constexpr):
    """Return row, column, validity and cell number of each of the QUERIES queries of a Triton program.

    Row and column are counted from the corner of the window of windowed attention, which can extend beyond the image. A
    query is valid if its cell is inside this window and inside the image. The cells of all images of the batch are
    numbered row by row, from 0. Each result is (QUERIES,).
    """
    query = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    row, col = query // COLS, query % COLS
    valid = (query < ROWS * COLS) & (top + row < height) & (left + col < width)
    return row, col, valid, (image * height + top + row) * width + left + col


@triton.jit
def _attend(
    qkv, filling, products, out, height, width, scale,
    HEADS: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
    PADDED: tl.constexpr, AT_ONCE: tl.constexpr, LENGTH: tl.constexpr, QUERIES: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Compute the attention of QUERIES queries, of one window and one head, to all cells of the window.

    Keys are read in steps: AT_ONCE rows of the window in each step. A row of the window has COLS columns, and is padded
    to PADDED columns, a power of two, because Triton accepts only arrays whose sides are powers of two. Keys in padding
    columns, and in rows below the window, get the score minus infinity. A head has HEAD + TAIL channels. HEAD and TAIL
    are powers of two, or TAIL is 0: 80 channels are 64 + 16. `products` holds the product of every query with every
    relative positional embedding. In the code, `scores` are the attention scores before multiplication by `scale`.
    `highest` and `total` are the running maximum and the running sum of the softmax. `to_row` and `to_col`, (QUERIES,),
    are addresses in `products`, one per query: `to_row` for its product with keys in row 0, `to_col` in column 0.
    """
    CHANNELS: tl.constexpr = HEAD + TAIL
    CELL: tl.constexpr = 3 * HEADS * CHANNELS
    window, head = tl.program_id(1) // HEADS, tl.program_id(1) % HEADS
    windows_down, windows_across = tl.cdiv(height, ROWS), tl.cdiv(width, COLS)
    image = (window // (windows_down * windows_across)).to(tl.int64)
    top, left = window // windows_across % windows_down * ROWS, window % windows_across * COLS
    channel, rest = tl.arange(0, HEAD), HEAD + tl.arange(0, TAIL if TAIL else 1)
    row, col, valid, cell = _query_cells(image, top, left, height, width, ROWS, COLS, QUERIES)
    at = qkv + cell * CELL + head * CHANNELS
    q = tl.load(at[:, None] + channel[None, :], mask=valid[:, None], other=0.0)
    cells = tl.num_programs(1).to(tl.int64) // (HEADS * windows_down * windows_across) * height * width
    product = products + (head * cells + cell) * LENGTH
    to_row, to_col = product + row + ROWS - 1, product + 2 * ROWS - 1 + col + COLS - 1
    key, column = tl.arange(0, AT_ONCE * PADDED), tl.arange(0, PADDED)
    key_row, key_col = key // PADDED, key % PADDED
    across = tl.load(to_col[:, None] - column[None, :], mask=valid[:, None] & (column < COLS)[None, :], other=0.0)
    highest, total = tl.full([QUERIES], -float("inf"), tl.float32), tl.zeros([QUERIES], tl.float32)
    acc = tl.zeros([QUERIES, HEAD], tl.float32)
    if TAIL:
        q_rest = tl.load(at[:, None] + rest[None, :], mask=valid[:, None], other=0.0)
        acc_rest = tl.zeros([QUERIES, TAIL], tl.float32)
    if WHOLE:
        col_scores = across.to(tl.float32) / scale
    scale_log2 = scale * 1.4426950408889634  # times log2(e), for exp2
    for first in range(0, ROWS, AT_ONCE):
        y, x = top + first + key_row, left + key_col
        in_window = (key_col < COLS) & (first + key_row < ROWS)
        inside = in_window & (y < height) & (x < width)
        keys = qkv + ((image * height + y) * width + x) * CELL + (HEADS + head) * CHANNELS
        values, fill, more = keys + HEADS * CHANNELS, filling + (HEADS + head) * CHANNELS, HEADS * CHANNELS
        if WHOLE:
            scores = col_scores + (tl.load(to_row - first, mask=valid, other=0.0).to(tl.float32) / scale)[:, None]
        else:
            scores = _position_scores(to_row, across, valid, first, key_row, key_col, column, ROWS, AT_ONCE) / scale
        k = _load_cells(keys[None, :] + channel[:, None], inside[None, :], (fill + channel)[:, None], WHOLE)
        v = _load_cells(values[:, None] + channel[None, :], inside[:, None], (fill + more + channel)[None, :], WHOLE)
        if TAIL:
            k_rest = _load_cells(keys[None, :] + rest[:, None], inside[None, :], (fill + rest)[:, None], WHOLE)
            v_rest = _load_cells(values[:, None] + rest[None, :], inside[:, None], (fill + more + rest)[None, :], WHOLE)
        scores = tl.dot(q, k, scores)
        if TAIL:
            scores = tl.dot(q_rest, k_rest, scores)
        if not WHOLE:
            scores = tl.where(in_window[None, :], scores, -float("inf"))
        new_highest = tl.maximum(highest, tl.max(scores, 1))
        p, decay = tl.exp2((scores - new_highest[:, None]) * scale_log2), tl.exp2((highest - new_highest) * scale_log2)
        highest, total = new_highest, total * decay + tl.sum(p, 1)
        acc = tl.dot(p.to(q.dtype), v, acc * decay[:, None])
        if TAIL:
            acc_rest = tl.dot(p.to(q.dtype), v_rest, acc_rest * decay[:, None])

    to = out + cell * (HEADS * CHANNELS) + head * CHANNELS
    tl.store(to[:, None] + channel[None, :], (acc / total[:, None]).to(out.dtype.element_ty), mask=valid[:, None])
    if TAIL:
        tl.store(to[:, None] + rest[None, :], (acc_rest / total[:, None]).to(out.dtype.element_ty), mask=valid[:, None])
