"""SAM's ViT image encoder, with attention computed in chunks that fit into a CPU's cache."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from floodmap.models.sam.common import FRAME, STRIDE
from floodmap.models.sam.modeling import Attention, Block, ImageEncoderViT, get_rel_pos

SCORES_BYTES = 2**24
"""Largest size in bytes of the array of one chunk, which has one value for each pair of a query and a key.

The values are the positional bias of the attention scores if torch's fused kernel computes the attention. Otherwise the
values are the attention scores with the bias."""


class CachedBlock(nn.Module):
    """Transformer block with the same results as `Block` of `segment_anything`, but less computation.

    Linear layers are not computed on the padding of attention windows.

    Args:
        block: block of `segment_anything`, whose weights are shared.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.norm1, self.attn = block.norm1, CachedAttention(block.attn)
        self.norm2, self.mlp, self.window_size = block.norm2, block.mlp, block.window_size

    def forward(self, x: Tensor) -> Tensor:
        """Transform features (B, H, W, C) of cells (16 x 16 pixels) to features of the same shape."""
        x = x + self.attn(self.norm1(x), self.window_size)
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class CachedAttention(nn.Module):
    """Attention with relative positional embeddings, with the same results as `Attention` of `segment_anything`.

    Args:
        attention: layer of `segment_anything`, whose weights are shared.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.num_heads, self.scale = attention.num_heads, attention.scale
        self.qkv, self.proj = attention.qkv, attention.proj
        self.rel_pos_h, self.rel_pos_w = attention.rel_pos_h, attention.rel_pos_w

    def forward(self, x: Tensor, side: int = 0) -> Tensor:
        """Compute the attention between cells. A cell is a position of the image embedding: 16 x 16 pixels.

        Args:
            x: features of the cells, (B, H, W, C).
            side: side of an attention window, in cells; 0: attention between all cells. An attention window is a square
                of cells: attention is computed only between cells of the same square.

        Returns:
            Features after attention and output projection, (B, H, W, C).
        """
        batch, height, width, dim = x.shape
        rows, cols = (side or height, side or width)
        down, right = -(-height // rows), -(-width // cols)
        qkv = self._padded_qkv(x, down * rows, right * cols)
        qkv = qkv.reshape(batch, down, rows, right, cols, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, -1, rows * cols, dim // self.num_heads).unbind(0)
        attended = self._attend(q, k, v, rows, cols).view(batch, down, right, self.num_heads, rows, cols, -1)
        attended = attended.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, down * rows, right * cols, dim)
        projected: Tensor = self.proj(attended[:, :height, :width])
        return projected

    def _padded_qkv(self, x: Tensor, height: int, width: int) -> Tensor:
        """Compute queries, keys and values of cells, and pad them to `height` x `width` cells: (B, height, width, 3 C).

        `x` holds the features before padding, (B, H, W, C). Cells of the padding get the queries, keys and values of a
        cell with features 0.
        """
        qkv: Tensor = self.qkv(x)
        if qkv.shape[1:3] == (height, width):
            return qkv
        padded = self.qkv(torch.zeros_like(x[:1, 0, 0])).expand(len(x), height, width, -1).clone()
        padded[:, : x.shape[1], : x.shape[2]] = qkv
        return padded

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, rows: int, cols: int) -> Tensor:
        """Compute attention with relative positional embeddings in windows of `rows` x `cols` cells.

        Queries, keys, values and the result are (N, rows x cols, C). N is the number of images x attention windows x
        heads, and C is the number of channels of one head.
        """
        by_cell = q.view(len(q), rows, cols, -1)
        down = torch.einsum("bhwc,hkc->bhwk", by_cell, get_rel_pos(rows, rows, self.rel_pos_h).to(q.dtype))
        right = torch.einsum("bhwc,wkc->bhwk", by_cell, get_rel_pos(cols, cols, self.rel_pos_w).to(q.dtype))
        down, right = (one.reshape(len(q), rows * cols, -1) for one in (down, right))
        if q.device.type == "cpu" and not torch.is_grad_enabled():
            return _in_chunks(q, k, v, down, right, self.scale)
        bias = (down[..., :, None] + right[..., None, :]).flatten(-2)
        if q.device.type == "cpu":  # the gradients of torch's fused attention take twice as long there
            return torch.baddbmm(bias, q * self.scale, k.transpose(1, 2)).softmax(dim=-1) @ v
        return _fused(q, k, v, bias, self.scale)


def use_cached_attention(encoder: ImageEncoderViT) -> None:
    """Replace all transformer blocks of an encoder by `CachedBlock`, in place; the parameters stay the same objects."""
    encoder.blocks = nn.ModuleList(CachedBlock(block) for block in encoder.blocks)


def _fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Compute attention of queries (N, queries, C) to keys and values (N, cells, C) by torch's fused kernels.

    N is the number of images x attention windows x heads, and C is the number of channels of one head. The score of a
    query and a key is their product times `scale`, plus the value of `bias`, (N, queries, cells). The result is
    (N, queries, C).

    The tensors get a fourth dimension of size 1, because torch uses the fused kernels only for four dimensions. For
    three dimensions, torch computes separate matrix products, and converts float16 and bfloat16 tensors to float32.
    """
    return F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=bias[None], scale=scale)[0]


def _in_chunks(q: Tensor, k: Tensor, v: Tensor, down: Tensor, right: Tensor, scale: float) -> Tensor:
    """Compute attention of queries, keys and values (N, cells, C) in chunks that fit into a CPU's cache.

    N is the number of images x attention windows x heads, and C is the number of channels of one head. The cells form a
    grid, in row-major order, and each cell has one query and one key. The score of a query and a key is their product
    times `scale`, plus two biases. The first bias is from `down`, (N, cells, rows): one value for each query and each
    row of the grid, used for all keys of this row. The second bias is from `right`, (N, cells, columns): the same for
    columns. The result is (N, cells, C).
    """
    # Biases of few rows and columns are appended to the channels: a third less time than adding them to the scores.
    appended = q.dtype == torch.bfloat16 and down.shape[-1] + right.shape[-1] < q.shape[-1]
    if appended:
        q = torch.cat([q * scale, down, right], dim=-1)
        k = torch.cat([k, _one_hot_positions(down.shape[-1], right.shape[-1]).to(k).expand(len(k), -1, -1)], dim=-1)
        k = k.transpose(1, 2).contiguous()
    attended, (count, cells) = torch.empty_like(v), v.shape[:2]
    max_scores = SCORES_BYTES // q.element_size()
    heads = max(1, max_scores // (4 * cells**2))  # chunks of whole heads, or else of rows of one head
    rows = cells if heads > 1 else min(cells, max(1, max_scores // cells))
    scratch = q.new_empty(min(heads, count), rows, cells)  # reused: page faults of new memory take as long as a step
    for first in range(0, count, heads):
        chunk = slice(first, min(first + heads, count))
        for row in range(0, cells, rows):
            part = (chunk, slice(row, min(row + rows, cells)))
            scores = scratch[: chunk.stop - first, : part[1].stop - row]
            if appended:
                torch.bmm(q[part], k[chunk], out=scores)
                torch.bmm(torch.softmax(scores, -1, out=scores), v[chunk], out=attended[part])
            else:
                bias = scores.unflatten(-1, (down.shape[-1], right.shape[-1]))
                torch.add(down[part][..., :, None], right[part][..., None, :], out=bias)
                attended[part] = _fused(q[part], k[chunk], v[chunk], scores, scale)
    return attended


def _one_hot_positions(rows: int, cols: int) -> Tensor:
    """Return the row number and the column number of every cell, one-hot encoded: (rows x cols, rows + cols)."""
    down, right = torch.eye(rows)[:, None], torch.eye(cols)[None]
    shape = (rows, cols, -1)
    return torch.cat([down.expand(shape), right.expand(shape)], dim=-1).flatten(0, 1)


@dataclass(frozen=True, slots=True)
class VitShape:
    """Dimensions of one of SAM's image encoders."""

    embed_dim: int
    """Number of channels of the transformer blocks."""
    depth: int
    """Number of transformer blocks."""
    num_heads: int
    """Number of attention heads of a block."""
    global_attention: tuple[int, ...]
    """Indices of the blocks with attention between all cells; in other blocks attention windows have 14 x 14 cells."""


VIT = {
    "vit_b": VitShape(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": VitShape(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": VitShape(1280, 32, 16, (7, 15, 23, 31)),
}


def vit_encoder(shape: VitShape) -> ImageEncoderViT:
    """Build SAM's image encoder: the same network as in `segment_anything`, but with blocks of type `CachedBlock`.

    No checkpoint is loaded. The weights have the initial values of `segment_anything`: positional embeddings are 0, and
    most other weights are random.
    """
    encoder = ImageEncoderViT(
        img_size=FRAME, patch_size=STRIDE, in_chans=3, embed_dim=shape.embed_dim, depth=shape.depth,
        num_heads=shape.num_heads, mlp_ratio=4, out_chans=256, qkv_bias=True, use_rel_pos=True, window_size=14,
        global_attn_indexes=shape.global_attention, norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )  # fmt: skip
    use_cached_attention(encoder)
    return encoder
