"""Attention of SAM's image encoder, some of its rows at a time: the same sums, in what fits into a CPU's cache.

The package writes the scores of all pairs of cells to memory, a copy for each of four steps: 800 MB each in a block
that sees the whole image. Scaled-dot-product attention of torch takes the relative positions as a mask as large, or as
further channels, three times the work: it is faster with masks of some rows (`benchmarks/vit.py`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from floodmap.modeling import Attention, Block, ImageEncoderViT, get_rel_pos

SCORES_BYTES = 2**24
"""Scores, or what is added to them, worked out at a time."""


class CachedBlock(Block):
    """The package's block, its weights and its results; what is filled up to whole windows is not multiplied."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same."""
        x = x + self.attn(self.norm1(x), self.window_size)
        seen: Tensor = x + self.mlp(self.norm2(x))
        return seen


class CachedAttention(Attention):
    """The package's attention with relative positions, its weights and its results."""

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
    for block in encoder.blocks:
        block.__class__, block.attn.__class__ = CachedBlock, CachedAttention


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
