"""SAM's prompt encoder and mask decoder, put together from the `segment-anything` package."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from floodmap.models.sam.efficientnet import ConvNorm, Skips
from floodmap.models.sam.modeling import MaskDecoder, PromptEncoder, TwoWayAttention, TwoWayTransformer

FEW = 8
"""Tokens of an image up to which all heads are worked out as one."""
FEW_ROWS = 64
"""Rows of a product that float32 takes no longer for."""
_CELLS = 512
"""Cells that are added up at a time: MKL takes 8 MB for sums of thousands."""
STRIP_ROWS = 32
"""Rows of the decoder's last step that are worked on together on a CPU, at a quarter of the resolution."""
STRIP_CELLS = 2**13
"""Cells of it, of small images: as many as in so many rows of a large one."""


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


class PointEncoder(PromptEncoder):
    """SAM's prompt encoder; a GPU is not waited for to tell what kind each point is of.

    Kinds are the package's labels, 0 dry, 1 flood and -1 none, and 2 and 3, a box's first and last corner.
    """

    def _embed_points(self, points: Tensor, labels: Tensor, pad: bool) -> Tensor:
        if pad:
            points, labels = F.pad(points, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=-1)
        placed = self.pe_layer.forward_with_coords(points + 0.5, self.input_image_size)
        kinds = torch.cat([self.not_a_point_embed.weight, *(one.weight for one in self.point_embeddings)])
        embedded: Tensor = placed * (labels >= 0)[..., None] + kinds[labels.clamp(min=-1) + 1]
        return embedded


class Decoder(MaskDecoder):
    """SAM's mask decoder for several images at once.

    The package's own `predict_masks` repeats every image for every prompt, so it is right for one image only.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for module in self.transformer.modules():
            if isinstance(module, TwoWayAttention):
                module.__class__ = TokenAttention
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.__class__ = TokenLinear

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """As the package's, for `forward`; see `decode`."""
        return self.decode(image_embeddings, image_pe, sparse_prompt_embeddings, dense_prompt_embeddings)[:2]

    def decode(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        skips: Skips | None = None,
        absent: Tensor | None = None,
        keep: bool = True,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Decode one prompt set per image.

        Args:
            image_embeddings: (B, E, h, w).
            image_pe: positional encoding of the embedding's cells, (1 or B, E, h, w).
            sparse_prompt_embeddings: (B, N, E).
            dense_prompt_embeddings: (B, E, h, w), or anything that broadcasts to it.
            skips: features added while upscaling, (B, E/4, 2h, 2w), (B, E/8, 4h, 4w) and (B, E/8, 8h, 8w).
            absent: which of the sparse embeddings only fill the batch up, bool (B, N); not with gradients.
            keep: whether the features are wanted.

        Returns:
            Mask logits (B, masks, 4h, 4w), or (B, masks, 8h, 8w) with skips; the quality predicted for each (B, masks);
            the features that the masks are read off, (B, E/8, as the masks), at least where they are wanted.
        """
        tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).to(sparse_prompt_embeddings.dtype)
        batch, dim, height, width = image_embeddings.shape
        tokens = torch.cat([tokens.expand(batch, -1, -1), sparse_prompt_embeddings], dim=1)
        source = image_embeddings + dense_prompt_embeddings
        if absent is not None:
            absent = F.pad(absent, (tokens.shape[1] - absent.shape[1], 0), value=False)
        for layer in self.transformer.layers:
            layer.self_attn.absent = layer.cross_attn_image_to_token.absent = absent
        hidden, source = self.transformer(source, image_pe.expand(batch, -1, -1, -1), tokens)
        weights = torch.stack([mlp(hidden[:, 1 + i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1)
        placed = source.transpose(1, 2).reshape(batch, dim, height, width)
        masks, features = self._masks(placed, weights, skips, keep=keep)
        return masks, self.iou_prediction_head(hidden[:, 0]), features

    def _masks(
        self, source: Tensor, weights: Tensor, skips: Skips | None, *, keep: bool
    ) -> tuple[Tensor, Tensor | None]:
        features = self.output_upscaling(source)
        return _read_off(features, weights), features


class SkipDecoder(Decoder):
    """SAM's mask decoder with detail from the encoder added while it upscales, one step further than SAM's.

    As in HQ-SAM (arXiv:2306.01567) and SAM 2 (arXiv:2408.00714), with a convolution after each sum. Water between the
    crowns of trees is a few pixels wide: a quarter of the resolution loses it.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(
            transformer_dim=dim,
            transformer=TwoWayTransformer(depth=2, embedding_dim=dim, mlp_dim=4 * dim, num_heads=8),
            num_multimask_outputs=0,
            iou_head_hidden_dim=dim,
        )
        self.refine8 = ConvNorm(dim // 4, dim // 4, 3)
        self.refine4 = ConvNorm(dim // 8, dim // 8, 3)
        self.refine2 = ConvNorm(dim // 8, dim // 8, 3)
        nn.init.zeros_(self.refine2.norm_weight)  # so that weights trained without it mean the same with it

    def _masks(
        self, source: Tensor, weights: Tensor, skips: Skips | None, *, keep: bool
    ) -> tuple[Tensor, Tensor | None]:
        if skips is None:
            raise ValueError("this decoder needs skip features")
        quarter = self._quarter(source, skips)
        if keep or source.device.type != "cpu" or torch.is_grad_enabled():
            features = self._half(quarter, skips[2])
            return _read_off(features, weights), features
        return self._masks_by_strips(quarter, weights, skips[2]), None

    def _quarter(self, source: Tensor, skips: Skips) -> Tensor:
        """Features at a quarter of the resolution."""
        up8, norm, act8, up4, act4 = self.output_upscaling
        features = act8(norm(up8(source) + skips[0]))
        features = F.relu(features + self.refine8(features))
        features = act4(up4(features) + skips[1])
        return F.relu(features + self.refine4(features))

    def _half(self, quarter: Tensor, skip: Tensor) -> Tensor:
        """Features at half the resolution."""
        # In place: at this size every map counts.
        features = F.interpolate(quarter, scale_factor=2.0, mode="bilinear", align_corners=False).add_(skip)
        refined: Tensor = self.refine2(features)
        return refined.add_(features).relu_()

    def _masks_by_strips(self, quarter: Tensor, weights: Tensor, skip: Tensor) -> Tensor:
        """The same as from all features at once, which take half the memory of a window.

        A strip is wrong within a row of its border, of the quarter; each is as high as the others, for oneDNN's sake.
        """
        rows, high = quarter.shape[2], STRIP_ROWS + 2
        masks = quarter.new_empty(len(quarter), weights.shape[1], *skip.shape[2:])
        if len(quarter) > 1 and quarter[0, 0].numel() <= STRIP_CELLS:
            together = STRIP_CELLS // quarter[0, 0].numel()
            for first in range(0, len(quarter), together):
                some = slice(first, first + together)
                masks[some] = _read_off(self._half(quarter[some], skip[some]), weights[some])
            return masks
        for top in range(0, rows, STRIP_ROWS):
            first = max(0, min(top - 1, rows - high))
            strip = slice(first, first + high), slice(2 * first, 2 * (first + high))
            features = self._half(quarter[:, :, strip[0]], skip[:, :, strip[1]])
            inner = slice(2 * (top - first), 2 * (top - first + STRIP_ROWS))
            masks[:, :, 2 * top : 2 * (top + STRIP_ROWS)] = _read_off(features, weights)[:, :, inner]
        return masks


def _read_off(features: Tensor, weights: Tensor) -> Tensor:
    """Masks (B, masks, h, w) off features (B, C, h, w), by weights (B, masks, C)."""
    # Channels last, so that their gradients come in the order that those of convolutions are in.
    masks = (features.permute(0, 2, 3, 1).flatten(1, 2) @ weights.transpose(1, 2)).transpose(1, 2)
    return masks.unflatten(2, features.shape[2:])
