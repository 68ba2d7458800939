"""SAM's image encoder, and its attention some rows at a time: the same sums, in what fits into a CPU's cache."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from floodmap.models.sam.common import FRAME, STRIDE
from floodmap.models.sam.modeling import Attention, Block, ImageEncoderViT, get_rel_pos

SCORES_BYTES = 2**24
"""Scores, or what is added to them, worked out at a time."""


class CachedBlock(nn.Module):
    """The package's block, its weights and its results; what is filled up to whole windows is not multiplied.

    Args:
        block: whose layers it takes.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.norm1, self.attn = block.norm1, CachedAttention(block.attn)
        self.norm2, self.mlp, self.window_size = block.norm2, block.mlp, block.window_size

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same."""
        x = x + self.attn(self.norm1(x), self.window_size)
        seen: Tensor = x + self.mlp(self.norm2(x))
        return seen


class CachedAttention(nn.Module):
    """The package's attention with relative positions, its weights and its results.

    Args:
        attention: whose layers it takes.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.num_heads, self.scale = attention.num_heads, attention.scale
        self.qkv, self.proj = attention.qkv, attention.proj
        self.rel_pos_h, self.rel_pos_w = attention.rel_pos_h, attention.rel_pos_w

    def forward(self, x: Tensor, side: int = 0) -> Tensor:
        """(B, H, W, C) to the same; in windows of this side, or over the whole."""
        batch, height, width, dim = x.shape
        rows, cols = (side or height, side or width)
        down, right = -(-height // rows), -(-width // cols)
        qkv = self._filled(x, down * rows, right * cols)
        qkv = qkv.reshape(batch, down, rows, right, cols, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(3, -1, rows * cols, dim // self.num_heads).unbind(0)
        seen = self._seen(q, k, v, rows, cols).view(batch, down, right, self.num_heads, rows, cols, -1)
        seen = seen.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, down * rows, right * cols, dim)
        projected: Tensor = self.proj(seen[:, :height, :width])
        return projected

    def _filled(self, x: Tensor, height: int, width: int) -> Tensor:
        """Queries, keys and values of cells, (B, height, width, 3 C); those beyond the image are those of nothing."""
        qkv: Tensor = self.qkv(x)
        if qkv.shape[1:3] == (height, width):
            return qkv
        filled = self.qkv(torch.zeros_like(x[:1, 0, 0])).expand(len(x), height, width, -1).clone()
        filled[:, : x.shape[1], : x.shape[2]] = qkv
        return filled

    def _seen(self, q: Tensor, k: Tensor, v: Tensor, rows: int, cols: int) -> Tensor:
        """Attention of (N, rows x cols, C)."""
        placed = q.view(len(q), rows, cols, -1)
        down = torch.einsum("bhwc,hkc->bhwk", placed, get_rel_pos(rows, rows, self.rel_pos_h).to(q.dtype))
        right = torch.einsum("bhwc,wkc->bhwk", placed, get_rel_pos(cols, cols, self.rel_pos_w).to(q.dtype))
        down, right = (one.reshape(len(q), rows * cols, -1) for one in (down, right))
        if q.device.type == "cpu" and not torch.is_grad_enabled():
            return _by_parts(q, k, v, down, right, self.scale)
        bias = (down[..., :, None] + right[..., None, :]).flatten(-2)
        if q.device.type == "cpu":  # where the gradients of torch's own attention take twice as long
            return torch.baddbmm(bias, q * self.scale, k.transpose(1, 2)).softmax(dim=-1) @ v
        return _fused(q, k, v, bias, self.scale)


def use_cached_attention(encoder: ImageEncoderViT) -> None:
    """Exchange every block and its attention, in place; their parameters stay."""
    encoder.blocks = nn.ModuleList(CachedBlock(block) for block in encoder.blocks)


def _fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Attention of (N, cells, C) with what is added to its scores, (N, cells, keys), by torch's kernels.

    They take four dimensions; with three, torch multiplies step by step, and on a GPU in float32.
    """
    return F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=bias[None], scale=scale)[0]


def _by_parts(q: Tensor, k: Tensor, v: Tensor, down: Tensor, right: Tensor, scale: float) -> Tensor:
    """Attention of (N, cells, C) with scores added for (N, cells, rows) and (N, cells, columns)."""
    # Few as further channels where products are cheap: a third less time than added to the scores.
    further = q.dtype == torch.bfloat16 and down.shape[-1] + right.shape[-1] < q.shape[-1]
    if further:
        q = torch.cat([q * scale, down, right], dim=-1)
        k = torch.cat([k, _places(down.shape[-1], right.shape[-1]).to(k).expand(len(k), -1, -1)], dim=-1)
        k = k.transpose(1, 2).contiguous()
    seen, (count, cells) = torch.empty_like(v), v.shape[:2]
    most = SCORES_BYTES // q.element_size()
    together = max(1, most // (4 * cells**2))  # whole heads, sooner done by fewer, or rows of one
    rows = cells if together > 1 else min(cells, max(1, most // cells))
    scratch = q.new_empty(min(together, count), rows, cells)  # again and again: fresh pages take as long as a step
    for first in range(0, count, together):
        some = slice(first, min(first + together, count))
        for row in range(0, cells, rows):
            part = (some, slice(row, min(row + rows, cells)))
            scores = scratch[: some.stop - first, : part[1].stop - row]
            if further:
                torch.bmm(q[part], k[some], out=scores)
                torch.bmm(torch.softmax(scores, -1, out=scores), v[some], out=seen[part])
            else:
                bias = scores.unflatten(-1, (down.shape[-1], right.shape[-1]))
                torch.add(down[part][..., :, None], right[part][..., None, :], out=bias)
                seen[part] = _fused(q[part], k[some], v[some], scores, scale)
    return seen


def _places(rows: int, cols: int) -> Tensor:
    """Which row and which column every cell lies in, (rows x cols, rows + cols), ones among zeros."""
    down, right = torch.eye(rows)[:, None], torch.eye(cols)[None]
    shape = (rows, cols, -1)
    return torch.cat([down.expand(shape), right.expand(shape)], dim=-1).flatten(0, 1)


@dataclass(frozen=True, slots=True)
class VitShape:
    """What tells SAM's image encoders apart."""

    embed_dim: int
    depth: int
    num_heads: int
    global_attention: tuple[int, ...]
    """Blocks that attend to the whole image; the others attend within windows of 14 x 14 cells."""


VIT = {
    "vit_b": VitShape(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": VitShape(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": VitShape(1280, 32, 16, (7, 15, 23, 31)),
}


def vit_encoder(shape: VitShape) -> ImageEncoderViT:
    """SAM's image encoder with random weights, as `segment_anything.build_sam` makes it, with faster attention."""
    encoder = ImageEncoderViT(
        img_size=FRAME, patch_size=STRIDE, in_chans=3, embed_dim=shape.embed_dim, depth=shape.depth,
        num_heads=shape.num_heads, mlp_ratio=4, out_chans=256, qkv_bias=True, use_rel_pos=True, window_size=14,
        global_attn_indexes=shape.global_attention, norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )  # fmt: skip
    use_cached_attention(encoder)
    return encoder
