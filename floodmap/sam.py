"""Segment Anything, put together from the `segment-anything` package, with its own encoders or with floodmap's.

Source: Kirillov et al. 2023, arXiv:2304.02643.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from floodmap.attention import use_cached_attention
from floodmap.corrector import Corrector, Ground
from floodmap.encoder import ConvNorm, EncoderConfig, PyramidEncoder, Skips
from floodmap.errors import ModelError
from floodmap.kriging import Kriging
from floodmap.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayAttention, TwoWayTransformer
from floodmap.tokens import TokenAttention, TokenLinear

log = logging.getLogger(__name__)

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
FRAME = 1024
"""Side of SAM's input frame, in pixels: prompt coordinates are relative to it, whatever the size of the tile."""
STRIDE = 16
"""Pixels per cell of the image embedding."""
SUREST = 9.2
"""Largest logit of a mask prompt."""
STRIP_ROWS = 32
"""Rows of the decoder's last step that are worked on together on a CPU, at a quarter of the resolution."""
STRIP_CELLS = 2**13
"""Cells of it, of small images: as many as in so many rows of a large one."""
OUTSIDE = -3.0
"""What a mask prompt says of ground outside a box."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """What an image encoder made of a batch of tiles."""

    embedding: Tensor
    """(B, E, h, w)."""
    skips: Skips | None
    """Detail for the decoder, where it takes any."""
    shape_hw: tuple[int, int]
    """Of the tiles, in pixels."""

    def __getitem__(self, part: slice) -> Encoded:
        """Some tiles of the batch."""
        skips = None if self.skips is None else (self.skips[0][part], self.skips[1][part], self.skips[2][part])
        return Encoded(self.embedding[part], skips, self.shape_hw)

    def crop(self, rows: slice, cols: slice) -> Encoded:
        """The same part of every tile, in pixels, multiples of 32; of encoders that keep a tile's own size."""

        def cut(x: Tensor, stride: int) -> Tensor:
            return x[..., rows.start // stride : rows.stop // stride, cols.start // stride : cols.stop // stride]

        if self.skips is None:
            raise ValueError("an embedding of SAM's frame cannot be cropped")
        skips = (cut(self.skips[0], 8), cut(self.skips[1], 4), cut(self.skips[2], 2))
        return Encoded(cut(self.embedding, STRIDE), skips, (rows.stop - rows.start, cols.stop - cols.start))


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a mask decoder made of a batch of tiles."""

    logits: Tensor
    """(B, H/2, W/2)."""
    iou: Tensor
    """The IoU it expects, (B,)."""
    features: Tensor | None
    """That the logits were read off, (B, C, H/2, W/2); None where they were not to be kept."""


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


class FloodSam(nn.Module):
    """SAM with the small encoder: same prompts, same decoder, one mask, tiles of any size that is a multiple of 32.

    SAM stretches every image to 1024 pixels; here a tile keeps its own size and lies in the top left corner of the
    1024-pixel frame, so that a pixel means the same ground whatever the tile.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        cells = FRAME // STRIDE
        self.image_encoder = PyramidEncoder(config)
        self.prompt_encoder = PromptEncoder(
            embed_dim=dim, image_embedding_size=(cells, cells), input_image_size=(FRAME, FRAME), mask_in_chans=16
        )
        self.mask_decoder = SkipDecoder(dim)
        self.corrector = Corrector(dim)
        self.point_maps = nn.Conv2d(Kriging.MAPS, dim, 1)
        nn.init.zeros_(self.point_maps.weight)  # so that weights trained without it mean the same with it
        self.point_maps.bias = nn.Parameter(torch.zeros(dim))

    def forward(
        self,
        rgb: Tensor,
        valid: Tensor,
        *,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        offset_xy: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Segment flood water.

        Args:
            rgb: (B, 3, H, W), 0 to 255; H and W multiples of 32.
            valid: bool (B, H, W); other pixels are blanked.
            points: coordinates (B, N, 2) in tile pixels, x first, and labels (B, N): 1 flood, 0 dry, -1 padding.
            boxes: (B, 4) in tile pixels, x0 y0 x1 y1.
            masks: coarse flood logits (B, 1, H/4, W/4).
            offset_xy: where the tile lies in the frame, (B, 2) pixels; the corner if None.

        Returns:
            Flood logits (B, H/2, W/2) and the predicted IoU (B,).
        """
        return self.decode(self.encode(rgb, valid), points=points, boxes=boxes, masks=masks, offset_xy=offset_xy)

    def encode(self, rgb: Tensor, valid: Tensor) -> Encoded:
        """Images to an embedding (B, E, H/16, W/16) and skip features; arguments as in `forward`."""
        embedding, skips = self.image_encoder(normalized(rgb, valid, self.image_encoder.skip4.weight.dtype))
        return Encoded(embedding, skips, (rgb.shape[-2], rgb.shape[-1]))

    def decode(
        self,
        encoded: Encoded,
        *,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        offset_xy: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Prompts and encoded images to logits; arguments as in `forward`.

        Points are no tokens of the decoder, which learned little from them: its result is corrected at them, and seen
        once more with the correction as its mask prompt. The mean of both is better than either.
        """
        decoded = self.decode_unpointed(encoded, boxes, masks, offset_xy, keep=points is not None)
        return self.correct(encoded, decoded, points), decoded.iou

    def correct(self, encoded: Encoded, decoded: Decoded, points: tuple[Tensor, Tensor] | None) -> Tensor:
        """Logits as corrected by points; tiles without points keep theirs."""
        if points is None:
            return decoded.logits
        ground = Ground.of(decoded.logits, encoded.embedding, decoded.features)
        corrected = self.corrector.correct(ground, points)
        mean = (corrected + self.decode_corrected(encoded, ground, corrected, points)) / 2
        return torch.where((points[1] >= 0).any(dim=1)[:, None, None], mean, decoded.logits)

    def decode_corrected(
        self, encoded: Encoded, ground: Ground, corrected: Tensor, points: tuple[Tensor, Tensor]
    ) -> Tensor:
        """What the decoder makes of corrected logits (B, H/2, W/2) as its mask prompt, kept right at the points.

        A token tells it that somebody saw to this prompt, and maps of what the points say how far.
        """
        embedding = encoded.embedding
        maps = F.avg_pool2d(self.corrector.maps(ground, points), 4).to(self.point_maps.weight.dtype)
        dense = self.prompt_encoder.mask_downscaling(F.avg_pool2d(corrected[:, None], 2).clamp(-SUREST, SUREST))
        dense = dense + self.point_maps(maps)
        token = self.prompt_encoder.not_a_point_embed.weight.to(embedding.dtype).expand(len(embedding), 1, -1)
        logits, _, _ = self.mask_decoder.decode(
            embedding, torch.zeros_like(embedding[:1]), token, dense.to(embedding.dtype), encoded.skips
        )
        return self.corrector.correct(ground.resaid(smoothed(logits.float())[:, 0]), points, roughly=True)

    def decode_unpointed(
        self,
        encoded: Encoded,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        offset_xy: Tensor | None = None,
        *,
        keep: bool = True,
    ) -> Decoded:
        """As `decode` without points, and with the features that corrections want, where they are to be kept."""
        embedding = encoded.embedding
        batch, dim, height, width = embedding.shape
        if boxes is None:
            # Nothing refers to places, so none are told: what is seen must not depend on where the window was cut.
            sparse, position = embedding.new_zeros(batch, 0, dim), torch.zeros_like(embedding[:1])
        else:
            if offset_xy is None:
                offset_xy = torch.zeros(batch, 2, device=embedding.device)
            position = self._position(embedding, offset_xy)
            sparse = self.prompt_encoder(None, boxes + offset_xy.repeat(1, 2), None)[0].to(embedding.dtype)
        if boxes is None and masks is None:
            dense = self.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1)
        else:
            if masks is None:
                masks = torch.zeros(batch, 1, 4 * height, 4 * width, device=embedding.device)
            dense = self.prompt_encoder.mask_downscaling(masks if boxes is None else draw_boxes(masks, boxes))
        dense = dense.to(embedding.dtype)
        logits, iou, features = self.mask_decoder.decode(embedding, position, sparse, dense, encoded.skips, keep=keep)
        return Decoded(smoothed(logits.float())[:, 0], iou[:, 0], features)

    def _position(self, embedding: Tensor, offset_xy: Tensor) -> Tensor:
        height, width = embedding.shape[-2:]
        y = (torch.arange(height, device=embedding.device) + 0.5) * STRIDE
        x = (torch.arange(width, device=embedding.device) + 0.5) * STRIDE
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        coords = (grid + offset_xy[:, None, None]) / FRAME
        return self.prompt_encoder.pe_layer._pe_encoding(coords).permute(0, 3, 1, 2).to(embedding.dtype)


def normalized(rgb: Tensor, valid: Tensor, dtype: torch.dtype) -> Tensor:
    """Pictures as image encoders know them, (B, 3, H, W), blank where they are not valid; arguments as in `FloodSam`.

    Band by band: what lies between then fits into a CPU's cache, which is six times as fast.
    """
    image = torch.empty(rgb.shape, dtype=dtype, device=rgb.device, memory_format=torch.channels_last)
    blank = None if valid.device.type == "cpu" and valid.all() else ~valid  # a GPU would have to be waited for
    for band, (mean, std) in enumerate(zip(PIXEL_MEAN, PIXEL_STD, strict=True)):
        plane = (rgb[:, band] - mean) / std
        image[:, band] = plane if blank is None else plane.masked_fill_(blank, 0.0)
    return image


def smoothed(logits: Tensor) -> Tensor:
    """Logits (B, C, H, W) weighted 1, 2, 1 along both axes, which wipes out the decoder's checkerboard.

    Transposed convolutions leave one (Odena et al. 2016, doi:10.23915/distill.00003): every fourth step from pixel to
    pixel was larger than the others by a sixth, on window borders and everywhere else.
    """
    padded = F.pad(logits, (1, 1, 1, 1), mode="replicate")
    return F.avg_pool2d(F.avg_pool2d(padded, 2, stride=1), 2, stride=1)


def draw_boxes(masks: Tensor, boxes: Tensor) -> Tensor:
    """Draw boxes into the mask prompt, where a convolution finds them at once.

    A network trained on a few hundred pictures does not learn from these alone what SAM's positional encodings say.

    Args:
        masks: flood logits (B, 1, h, w) at a quarter of the tile's resolution, 0 where nothing is known.
        boxes: as in `FloodSam.forward`.
    """
    height, width = masks.shape[-2:]
    y = (torch.arange(height, device=masks.device) * 4 + 1.5)[:, None]
    x = torch.arange(width, device=masks.device) * 4 + 1.5
    left, top, right, bottom = boxes[:, :, None, None].unbind(1)
    outside = (x < left) | (x > right) | (y < top) | (y > bottom)
    return masks.masked_fill(outside[:, None], OUTSIDE)


class Sam(nn.Module):
    """Meta's SAM with its own image encoder, which sees every tile stretched to a frame of 1024 x 1024 pixels."""

    def __init__(self, image_encoder: ImageEncoderViT) -> None:
        super().__init__()
        cells = FRAME // STRIDE
        self.image_encoder = image_encoder
        self.prompt_encoder = PointEncoder(
            embed_dim=256, image_embedding_size=(cells, cells), input_image_size=(FRAME, FRAME), mask_in_chans=16
        )
        self.mask_decoder = Decoder(
            transformer_dim=256,
            transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
        )
        self.recomputes = False
        """Whether the encoder's blocks run again for their gradients instead of keeping what lies between."""
        self._kernels_fail = False

    def encode(self, rgb: Tensor, valid: Tensor) -> Encoded:
        """Tiles to embeddings (B, 256, 64, 64).

        Args:
            rgb: (B, 3, H, W), 0 to 255. The longer side is stretched to 1024; the package's own resizing of tensors
                reads the wrong axes on images that are not square, so it is done here.
            valid: bool (B, H, W); other pixels are blanked.
        """
        image = normalized(rgb, valid, torch.float32)
        height, width = rgb.shape[-2:]
        framed_hw = _framed((height, width))
        if framed_hw != (height, width):
            image = F.interpolate(image, framed_hw, mode="bilinear", align_corners=False, antialias=True)
        image = F.pad(image, (0, FRAME - framed_hw[1], 0, FRAME - framed_hw[0]))
        return Encoded(self._embed(image.to(self.image_encoder.neck[0].weight.dtype)), None, (height, width))

    def _embed(self, image: Tensor) -> Tensor:
        encoder = self.image_encoder
        if not self.recomputes:
            return self._embed_fused(image) if _takes_kernels(encoder) else encoder(image)
        x = encoder.patch_embed(image) + encoder.pos_embed
        for block in encoder.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return encoder.neck(x.permute(0, 3, 1, 2))

    def _embed_fused(self, image: Tensor) -> Tensor:
        from floodmap import flash

        if not self._kernels_fail:
            try:
                return flash.embed(self.image_encoder, image)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # Triton raises what its own compiler and the system's give
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                log.warning("attention runs at about half speed, as its kernels cannot be compiled here (%s)", reason)
                self._kernels_fail = True
        return self.image_encoder(image)

    def decode(
        self,
        encoded: Encoded,
        *,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        offset_xy: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `FloodSam.decode`, once trained for floods.

        Returns:
            Logits (B, h, w), four pixels of the frame to a side, and the predicted IoU (B,).
        """
        height, width = encoded.shape_hw
        scale = FRAME / max(height, width)
        framed_h, framed_w = _framed((height, width))
        if points is not None:
            points = ((points[0] + 0.5) * scale - 0.5, points[1])
        if boxes is not None:
            boxes = (boxes + 0.5) * scale - 0.5
        if masks is not None:
            masks = F.interpolate(masks, (framed_h // 4, framed_w // 4), mode="bilinear", align_corners=False)
            masks = F.pad(masks, (0, FRAME // 4 - masks.shape[-1], 0, FRAME // 4 - masks.shape[-2]), value=-6.0)
        embedding = encoded.embedding
        dtype, batch = self.mask_decoder.iou_token.weight.dtype, len(embedding)
        sparse, dense = self.prompt_encoder(points, boxes, masks)
        logits, iou = self.mask_decoder(
            image_embeddings=embedding.to(dtype),
            image_pe=self.prompt_encoder.get_dense_pe().to(dtype),
            sparse_prompt_embeddings=sparse.to(dtype).expand(batch, -1, -1),
            dense_prompt_embeddings=dense.to(dtype),
            multimask_output=False,
        )
        return logits[:, 0, : framed_h // 4, : framed_w // 4], iou[:, 0]

    def best_masks(self, embedding: Tensor, xy: Tensor, labels: Tensor) -> Tensor:
        """Logits (N, 256, 256) of prompt sets of any kinds, each of an image of its own.

        One point alone is ambiguous, so SAM offers three masks and says which it thinks best (arXiv:2304.02643,
        section 3); otherwise its single mask is taken.

        Args:
            embedding: (N, 256, 64, 64).
            xy: points and corners of boxes in the frame, (N, T, 2).
            labels: of what kind they are, see `PointEncoder`; -2 where there is none. A set without a box holds one -1,
                as the package adds it.
        """
        encoder, decoder = self.prompt_encoder, self.mask_decoder
        dtype = decoder.iou_token.weight.dtype
        masks, iou, _ = decoder.decode(
            embedding.to(dtype),
            encoder.get_dense_pe().to(dtype),
            encoder._embed_points(xy, labels, pad=False).to(dtype),
            encoder.no_mask_embed.weight.view(1, -1, 1, 1).to(dtype),
            absent=labels == -2,
        )
        alone = (labels >= 0).sum(dim=1) == 1
        best = torch.where(alone, 1 + iou[:, 1:].argmax(dim=1), 0)
        return masks[torch.arange(len(masks), device=masks.device), best]


def _takes_kernels(encoder: ImageEncoderViT) -> bool:
    """Whether an encoder is where, and as, the kernels of `flash` want it: on an NVIDIA GPU, at half precision."""
    weight = encoder.patch_embed.proj.weight
    there = weight.is_cuda and torch.version.cuda is not None and find_spec("triton") is not None
    return there and weight.dtype == torch.bfloat16 and not torch.is_grad_enabled()


def _framed(shape_hw: tuple[int, int]) -> tuple[int, int]:
    """A tile's size once its longer side is stretched to the frame."""
    height, width = (max(4, round(side * FRAME / max(shape_hw))) for side in shape_hw)
    return height, width


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


def architecture_of(state: Mapping[str, Tensor]) -> str:
    """Which of `VIT` a state dict is of; that shows in the patch embedding.

    Raises:
        ModelError: of none.
    """
    patch = state.get("image_encoder.patch_embed.proj.weight")
    for name, shape in VIT.items():
        if patch is not None and patch.shape[0] == shape.embed_dim:
            return name
    raise ModelError("not a checkpoint of SAM ViT-B, ViT-L or ViT-H; choose another --model")


def build_sam(state: Mapping[str, Tensor]) -> Sam:
    """SAM from an official state dict.

    Raises:
        ModelError: the state dict is not one of SAM's.
    """
    shape = VIT[architecture_of(state)]
    with torch.device("meta"):
        network = Sam(vit_encoder(shape))
    weights = {name: tensor.float() for name, tensor in state.items() if name not in ("pixel_mean", "pixel_std")}
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        raise ModelError("the checkpoint does not fit SAM: " + " ".join(str(error).split())[:200]) from error
    return network
