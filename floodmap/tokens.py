"""What SAM's mask decoder does with its few tokens, on a CPU: in float32, and by no kernels made for them.

For a product of two rows oneDNN makes a kernel that holds half a megabyte for every layer and number of rows, and
torch's attention one that holds 4 MB for every thread; both then stand in the way of what a model takes and leaves.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from floodmap.modeling import TwoWayAttention

FEW = 8
"""Tokens of an image up to which all heads are worked out as one."""
FEW_ROWS = 64
"""Rows of a product that float32 takes no longer for."""
_CELLS = 512
"""Cells that are added up at a time: MKL takes 8 MB for sums of thousands."""


class TokenLinear(nn.Linear):
    """A linear layer that does with few rows as oneDNN does, to the bit, but without a kernel of their own."""

    def forward(self, x: Tensor) -> Tensor:
        """As torch's."""
        if not (_is_cpu(x) and x.dtype == torch.bfloat16 and x.numel() <= FEW_ROWS * self.in_features):
            return super().forward(x)
        bias = None if self.bias is None else self.bias.float()
        return F.linear(x.float(), self.weight.float(), bias).to(x.dtype)


class TokenAttention(TwoWayAttention):
    """The package's attention between tokens and cells, blind for tokens that only fill a batch up."""

    absent: Tensor | None = None
    """Keys that are not there, bool (B, tokens)."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As the package's."""
        if torch.is_grad_enabled():
            return super().forward(q, k, v)
        q, k, v = self.q_proj(q), self.k_proj(k), self.v_proj(v)
        if _is_cpu(q) and self.absent is None and min(q.shape[1], k.shape[1]) <= FEW:
            seen = attend_few(q, k, v, self.num_heads)
        else:
            q, k, v = (self._separate_heads(one, self.num_heads) for one in (q, k, v))
            there = None if self.absent is None else ~self.absent[:, None, None]
            seen = self._recombine_heads(F.scaled_dot_product_attention(q, k, v, attn_mask=there))
        return self.out_proj(seen)


def attend_few(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention where queries or keys are few: each once a head, blank but for it, so that all heads are one product.

    Args:
        q: queries (B, N, C), heads side by side.
        k: keys (B, M, C).
        v: values (B, M, C).
        heads: how many there are.

    Returns:
        (B, N, C), in the precision of `q`, worked out in float32.
    """
    (count, channels), dtype = q.shape[1:], q.dtype
    own = torch.eye(heads).repeat_interleave(channels // heads, dim=1)  # (heads, C)
    q, k, v = q.float() * (channels // heads) ** -0.5, k.float(), v.float()
    if k.shape[1] <= FEW:
        scores = torch.bmm(q, _by_heads(k, own).transpose(1, 2)).view(len(q), count, -1, heads)
        shares = scores.softmax(dim=2).flatten(2)
        return torch.bmm(shares, _by_heads(v, own)).to(dtype)
    scores = torch.bmm(k, _by_heads(q, own).transpose(1, 2))
    shares = scores.transpose(1, 2).contiguous().softmax(dim=-1)
    return (_summed(shares, v).view(len(q), count, heads, channels) * own).sum(dim=2).to(dtype)


def _by_heads(tokens: Tensor, own: Tensor) -> Tensor:
    """Tokens (B, N, C) once for every head, (B, N heads, C)."""
    return (tokens[:, :, None] * own).flatten(1, 2)


def _summed(shares: Tensor, v: Tensor) -> Tensor:
    """Shares (B, R, M) of values (B, M, C), (B, R, C)."""
    batch, rows, cells = shares.shape
    if beyond := -cells % _CELLS:
        shares, v = F.pad(shares, (0, beyond)), F.pad(v, (0, 0, 0, beyond))
    shares = shares.view(batch, rows, -1, _CELLS).transpose(1, 2).flatten(0, 1)
    parts = torch.bmm(shares, v.reshape(-1, _CELLS, v.shape[2]))
    return parts.view(batch, -1, rows, v.shape[2]).sum(dim=1)


def _is_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and not torch.is_grad_enabled()
