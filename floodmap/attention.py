"""Attention of SAM's image encoder, some of its rows at a time: the same sums, in what fits into a CPU's cache.

The package writes the scores of all pairs of cells to memory, a copy for each of four steps: 800 MB each in a block
that sees the whole image. Scaled-dot-product attention of torch takes the relative positions as a mask as large, or as
further channels, three times the work. Both are slower (`benchmarks/vit.py`).
"""

from __future__ import annotations

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from torch import Tensor
from torch.nn import functional as F

SCORES = 2**21
"""Scores worked out at a time."""


class CachedAttention(Attention):
    """The package's attention with relative positions, its weights and its results."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same."""
        batch, height, width, dim = x.shape
        heads, cells = self.num_heads, height * width
        qkv = self.qkv(x).reshape(batch, cells, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.reshape(3, batch * heads, cells, dim // heads).unbind(0)
        r_q = q.view(batch * heads, height, width, dim // heads)
        down = torch.einsum("bhwc,hkc->bhwk", r_q, get_rel_pos(height, height, self.rel_pos_h).to(q.dtype))
        right = torch.einsum("bhwc,wkc->bhwk", r_q, get_rel_pos(width, width, self.rel_pos_w).to(q.dtype))
        down, right = (one.reshape(batch * heads, cells, -1) for one in (down, right))
        if x.device.type == "cpu" and not torch.is_grad_enabled():
            seen = _by_parts(q * self.scale, k, v, down, right)
        else:
            bias = (down[..., :, None] + right[..., None, :]).flatten(-2)
            seen = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=self.scale)
        seen = seen.view(batch, heads, height, width, -1).permute(0, 2, 3, 1, 4).reshape(batch, height, width, dim)
        projected: Tensor = self.proj(seen)
        return projected


def use_cached_attention(encoder: ImageEncoderViT) -> None:
    """Exchange the attention of every block, in place; its parameters stay."""
    for block in encoder.blocks:
        block.attn.__class__ = CachedAttention


def _by_parts(q: Tensor, k: Tensor, v: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Attention of (N, cells, C) with scores added for (N, cells, rows) and (N, cells, columns)."""
    count, cells, _ = q.shape
    seen, keys = torch.empty_like(v), k.transpose(1, 2)
    together = max(1, SCORES // cells**2)  # whole heads, or rows of one
    rows = cells if together > 1 else max(1, SCORES // cells)
    for first in range(0, count, together):
        some = slice(first, first + together)
        for row in range(0, cells, rows):
            part = (some, slice(row, row + rows))
            scores = torch.bmm(q[part], keys[some])
            by_place = scores.view(*scores.shape[:2], down.shape[-1], right.shape[-1])
            by_place += down[part][..., :, None]
            by_place += right[part][..., None, :]
            seen[part] = torch.bmm(torch.softmax(scores, -1, out=scores), v[some])
    return seen
