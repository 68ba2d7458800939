"""SAM's prompt encoder and mask decoder, adapted from the `segment-anything` package."""

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
"""Number of rows in a strip: the rows that the decoder's last step computes at a time on a CPU.
Rows are counted in the decoder's features at a quarter of the tile's resolution. In this module, a strip is a group of
full rows of features, not of a scene. A batch of several small tiles is not computed in strips but in chunks, see
`STRIP_CELLS`."""
STRIP_CELLS = 2**13
"""Largest number of pixels in a chunk: the whole tiles that the decoder's last step computes at a time on a CPU.
Pixels are counted in the decoder's features at a quarter of the tile's resolution. A batch is computed in chunks if it
has two or more tiles, and each tile has at most this number of pixels. All other batches are computed in strips.
The number is the same as in `STRIP_ROWS` rows of a tile that is 1024 pixels wide."""


class TokenAttention(nn.Module):
    """Attention layer of the mask decoder, as in `segment_anything`, but with a mask for padding tokens.

    Args:
        attention: layer of `segment_anything`, whose weights are shared.
    """

    absent: Tensor | None = None
    """Mask of padding among the keys, bool (B, M), True for padding: these keys get no attention.
    The mask has no effect if gradients are computed: padding then gets attention like any other key. None: no key is
    padding."""

    def __init__(self, attention: TwoWayAttention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.q_proj, self.k_proj, self.v_proj = attention.q_proj, attention.k_proj, attention.v_proj
        self.out_proj = attention.out_proj

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Compute the attention of queries to keys and values.

        Args:
            q: inputs of the queries, (B, N, C).
            k: inputs of the keys, (B, M, C).
            v: inputs of the values, (B, M, C).

        Returns:
            Attended values after the output projection, (B, N, C).
        """
        q, k, v = (
            project(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for project, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        if torch.is_grad_enabled():  # on a CPU the gradients of torch's fused attention take longer
            attended = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]), dim=-1) @ v
        else:
            mask = None if self.absent is None else ~self.absent[:, None, None]
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        projected: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return projected


class PointEncoder(PromptEncoder):
    """SAM's prompt encoder; label embeddings are looked up by index, so that the CPU need not wait for the GPU.

    The label codes are those of `segment_anything`: 0 dry point, 1 flood point, 2 top left corner of a box, 3 bottom
    right corner of a box, -1 SAM's padding token. SAM adds one padding token after points without a box. This token is
    not masked: it gets attention in the same way as a point. Its embedding is the same at all coordinates.
    """

    def forward(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Encode prompts, with the same results as SAM's prompt encoder in `segment_anything`.

        Args:
            points: a pair of tensors: coordinates (B, N, 2) and label codes (B, N). The coordinates are in pixels of
                SAM's input frame (1024 x 1024), from the centre of the first pixel, x first. None: no points.
            boxes: left, top, right, bottom, (B, 4), in the coordinates of `points`. None: no boxes.
            masks: mask prompts: flood logits, (B, 1, 4h, 4w), for an image embedding of h x w positions. None: no mask
                prompts.

        Returns:
            Two values. Embeddings of points and boxes, (B, tokens, E); (1, 0, E) if `points` and `boxes` are None.
            Embeddings of masks, (B, E, h, w); (1, E, h, w) if `masks` is None.
        """
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
        """Compute the embeddings of points or box corners.

        Args:
            points: coordinates (B, N, 2) in pixels of SAM's input frame, from the centre of the first pixel, x first.
            labels: label codes (B, N), -1 to 3 as listed in the docstring of `PointEncoder`, or -2. The codes -1 and -2
                have the same embedding, and differ only for the caller. A token of code -2 is padding that the caller
                masks in the decoder (see `absent` in `Decoder.decode`). A token of code -1 is not masked.

        Returns:
            Embeddings, (B, N, E).
        """
        positions = self.pe_layer.forward_with_coords(points + 0.5, self.input_image_size)
        by_label = torch.cat([self.not_a_point_embed.weight, *(one.weight for one in self.point_embeddings)])
        embedded: Tensor = positions * (labels >= 0)[..., None] + by_label[labels.clamp(min=-1) + 1]
        return embedded


class Decoder(MaskDecoder):
    """SAM's mask decoder for batches of several images.

    The function `predict_masks` of `segment_anything` repeats every image for every prompt. The result of that function
    is correct for batches of one image only.
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
        """Return mask logits and predicted IoU; see `decode`. SAM's `MaskDecoder.forward` calls this function."""
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
        """Predict the masks of images, from one set of prompts for each image.

        Args:
            image_embeddings: image embeddings, (B, E, h, w).
            image_pe: positional encoding of the embedding's positions, (1 or B, E, h, w).
            sparse_prompt_embeddings: embeddings of points and boxes, (B, N, E).
            dense_prompt_embeddings: embeddings of mask prompts, (B, E, h, w), or broadcastable to this shape.
            skips: skip features, added during upscaling: (B, E/4, 2h, 2w), (B, E/8, 4h, 4w) and (B, E/8, 8h, 8w).
            absent: bool (B, N), True for sparse embeddings that are padding: they get no attention. The mask has no
                effect if gradients are computed: padding then gets attention like any other embedding. None: no
                embedding is padding.
            keep: True: always return the features of the last layer. False: `SkipDecoder` may return None instead.
            ground: embedding of the ground sample distance, (B, E), added to the output tokens.

        Returns:
            Three values. Mask logits: (B, masks, 4h, 4w), or (B, masks, 8h, 8w) with skips. Predicted IoU of each mask,
            (B, masks). Features of the last layer, (B, E/8, height and width of the masks), or None.
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
        image = source.transpose(1, 2).reshape(batch, dim, height, width)
        masks, features = self._masks(image, weights, skips, keep=keep)
        return masks, self.iou_prediction_head(hidden[:, 0]), features

    def _masks(
        self, source: Tensor, weights: Tensor, skips: Skips | None, *, keep: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Compute mask logits, and features of the last layer or None; both as `decode` returns them.

        Args:
            source: image embedding after the transformer, (B, E, h, w).
            weights: output of the hypernetworks, (B, masks, E/8): one weight for each mask and each channel of the
                features. The logits of a mask are the weighted sum of the channels.
            skips: skip features; None: the decoder has no skip connections.
            keep: False: None may be returned instead of the features.
        """
        features = self.output_upscaling(source)
        return _apply_weights(features, weights), features


class SkipDecoder(Decoder):
    """SAM's mask decoder with skip connections from the encoder; masks have half the tile's resolution, not a quarter.

    The skip connections are those of HQ-SAM (arXiv:2306.01567) and SAM 2 (arXiv:2408.00714), with a convolution after
    each skip connection. Half the resolution is needed, because water between the crowns of trees is only a few pixels
    wide.
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
        nn.init.zeros_(self.refine2.norm_weight)  # identity, so that weights trained without this layer still fit

    def _masks(
        self, source: Tensor, weights: Tensor, skips: Skips | None, *, keep: bool
    ) -> tuple[Tensor, Tensor | None]:
        if skips is None:
            raise ValueError("this decoder needs skip features")
        quarter = self._quarter(source, skips)
        if keep or source.device.type != "cpu" or torch.is_grad_enabled():
            features = self._half(quarter, skips[2])
            return _apply_weights(features, weights), features
        return self._masks_by_strips(quarter, weights, skips[2]), None

    def _quarter(self, source: Tensor, skips: Skips) -> Tensor:
        """Compute the features at a quarter of the tile's resolution, (B, E/8, H/4, W/4).

        `source` is the image embedding after the transformer, and `skips` are the skip features, both as in `decode`.
        """
        up8, norm, act8, up4, act4 = self.output_upscaling
        features = act8(norm(up8(source) + skips[0]))
        features = F.relu(features + self.refine8(features))
        features = act4(up4(features) + skips[1])
        return F.relu(features + self.refine4(features))

    def _half(self, quarter: Tensor, skip: Tensor) -> Tensor:
        """Compute the features at half the tile's resolution, (B, E/8, H/2, W/2), from those at a quarter.

        `skip` are the skip features at half the tile's resolution, of the same shape as the result.
        """
        # In place: these are the largest tensors of a window.
        features = F.interpolate(quarter, scale_factor=2.0, mode="bilinear", align_corners=False).add_(skip)
        refined: Tensor = self.refine2(features)
        return refined.add_(features).relu_()

    def _masks_by_strips(self, quarter: Tensor, weights: Tensor, skip: Tensor) -> Tensor:
        """Compute mask logits (B, masks, H/2, W/2) in strips of large tiles, or in chunks of small tiles.

        `STRIP_ROWS` describes the strips, and `STRIP_CELLS` the chunks. The features at half the tile's resolution are
        not kept, because all features at once would take half of the memory that a window needs.
        """
        masks = quarter.new_empty(len(quarter), weights.shape[1], *skip.shape[2:])
        if len(quarter) > 1 and quarter[0, 0].numel() <= STRIP_CELLS:
            per_chunk = STRIP_CELLS // quarter[0, 0].numel()
            for first in range(0, len(quarter), per_chunk):
                part = slice(first, first + per_chunk)
                masks[part] = _apply_weights(self._half(quarter[part], skip[part]), weights[part])
            return masks

        def strip(first: int, end: int) -> Tensor:
            return _apply_weights(self._half(quarter[:, :, first // 2 : end // 2], skip[:, :, first:end]), weights)

        # Halo of two rows: the convolution and the interpolation give wrong results at the border of a strip.
        return by_row_strips(strip, masks, rows=2 * STRIP_ROWS, halo=2)


def _apply_weights(features: Tensor, weights: Tensor) -> Tensor:
    """Return mask logits (B, masks, h, w): products of features (B, C, h, w) and weights of the masks (B, masks, C)."""
    # Channels last, so that gradients have the memory format of the convolutions' gradients.
    masks = (features.permute(0, 2, 3, 1).flatten(1, 2) @ weights.transpose(1, 2)).transpose(1, 2)
    return masks.unflatten(2, features.shape[2:])
