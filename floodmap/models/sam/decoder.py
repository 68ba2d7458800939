"""SAM's prompt encoder and mask decoder, put together from the `segment-anything` package."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from floodmap.models.sam.efficientnet import ConvNorm, Skips
from floodmap.models.sam.modeling import MaskDecoder, PromptEncoder, TwoWayAttention, TwoWayTransformer
from floodmap.models.sam.strips import by_row_strips

STRIP_ROWS = 32
"""Rows of the decoder's last step that are worked on together on a CPU, at a quarter of the resolution."""
STRIP_CELLS = 2**13
"""Cells of it, of small images: as many as in so many rows of a large one."""


class TokenAttention(nn.Module):
    """The package's attention between tokens and cells, blind for tokens that only fill a batch up.

    Args:
        attention: whose layers it takes.
    """

    absent: Tensor | None = None
    """Keys that are not there, bool (B, tokens); not with gradients."""

    def __init__(self, attention: TwoWayAttention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.q_proj, self.k_proj, self.v_proj = attention.q_proj, attention.k_proj, attention.v_proj
        self.out_proj = attention.out_proj

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries (B, N, C), keys and values (B, M, C) to (B, N, C)."""
        q, k, v = (
            project(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for project, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        if torch.is_grad_enabled():  # as the package does it: on a CPU gradients of torch's own take longer
            seen = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]), dim=-1) @ v
        else:
            there = None if self.absent is None else ~self.absent[:, None, None]
            seen = F.scaled_dot_product_attention(q, k, v, attn_mask=there)
        projected: Tensor = self.out_proj(seen.transpose(1, 2).flatten(2))
        return projected


class PointEncoder(PromptEncoder):
    """SAM's prompt encoder; a GPU is not waited for to tell what kind each point is of.

    Kinds are the package's labels, 0 dry, 1 flood and -1 none, and 2 and 3, a box's first and last corner.
    """

    def forward(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """As the package's: embeddings of points (B, N, 2) with labels and of boxes (B, 4), and of masks."""
        sparse = []
        if points is not None:
            xy, labels = points
            if boxes is None:
                xy, labels = F.pad(xy, (0, 0, 0, 1)), F.pad(labels, (0, 1), value=-1)
            sparse.append(self.embed(xy, labels))
        if boxes is not None:
            corners = boxes.reshape(-1, 2, 2)
            sparse.append(self.embed(corners, torch.tensor([2, 3], device=boxes.device).expand(len(corners), -1)))
        embedded = torch.cat(sparse, dim=1) if sparse else self.no_mask_embed.weight.new_zeros(1, 0, self.embed_dim)
        if masks is not None:
            return embedded, self.mask_downscaling(masks)
        dense = self.no_mask_embed.weight.view(1, -1, 1, 1).expand(-1, -1, *self.image_embedding_size)
        return embedded, dense

    def embed(self, points: Tensor, labels: Tensor) -> Tensor:
        """Embeddings (B, N, E) of places (B, N, 2) in the frame, of kinds (B, N)."""
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
        for module in list(self.transformer.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, TwoWayAttention):
                    setattr(module, name, TokenAttention(child))

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
        ground: Tensor | None = None,
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
            ground: (B, E), added to the tokens that masks are made of.

        Returns:
            Mask logits (B, masks, 4h, 4w), or (B, masks, 8h, 8w) with skips; the quality predicted for each (B, masks);
            the features that the masks are read off, (B, E/8, as the masks), at least where they are wanted.
        """
        tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).to(sparse_prompt_embeddings.dtype)
        batch, dim, height, width = image_embeddings.shape
        tokens = tokens.expand(batch, -1, -1) if ground is None else tokens + ground[:, None].to(tokens.dtype)
        tokens = torch.cat([tokens, sparse_prompt_embeddings], dim=1)
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
        """The same as from all features at once, which take half the memory of a window."""
        masks = quarter.new_empty(len(quarter), weights.shape[1], *skip.shape[2:])
        if len(quarter) > 1 and quarter[0, 0].numel() <= STRIP_CELLS:
            together = STRIP_CELLS // quarter[0, 0].numel()
            for first in range(0, len(quarter), together):
                some = slice(first, first + together)
                masks[some] = _read_off(self._half(quarter[some], skip[some]), weights[some])
            return masks

        def strip(first: int, end: int) -> Tensor:
            return _read_off(self._half(quarter[:, :, first // 2 : end // 2], skip[:, :, first:end]), weights)

        # A strip is wrong within a row of the quarter of its border.
        return by_row_strips(strip, masks, rows=2 * STRIP_ROWS, halo=2)


def _read_off(features: Tensor, weights: Tensor) -> Tensor:
    """Masks (B, masks, h, w) off features (B, C, h, w), by weights (B, masks, C)."""
    # Channels last, so that their gradients come in the order that those of convolutions are in.
    masks = (features.permute(0, 2, 3, 1).flatten(1, 2) @ weights.transpose(1, 2)).transpose(1, 2)
    return masks.unflatten(2, features.shape[2:])
