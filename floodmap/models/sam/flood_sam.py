"""SAM with floodmap's small encoder: the shipped model's network."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from floodmap.models.sam.common import FRAME, STRIDE, SUREST, Decoded, Encoded, normalized, smoothed
from floodmap.models.sam.correction import Corrector, Ground, Kriging
from floodmap.models.sam.decoder import SkipDecoder
from floodmap.models.sam.efficientnet import EncoderConfig, PyramidEncoder
from floodmap.models.sam.ground import GroundScale
from floodmap.models.sam.modeling import PromptEncoder

OUTSIDE = -3.0
"""What a mask prompt says of ground outside a box."""


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
        self.ground_scale = GroundScale(dim, 3) if config.scaled else None

    def forward(
        self,
        rgb: Tensor,
        valid: Tensor,
        *,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        offset_xy: Tensor | None = None,
        gsd_m: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Segment flood water.

        Args:
            rgb: (B, 3, H, W), 0 to 255; H and W multiples of 32.
            valid: bool (B, H, W); other pixels are blanked.
            points: coordinates (B, N, 2) in tile pixels, x first, and labels (B, N): 1 flood, 0 dry, -1 padding.
            boxes: (B, 4) in tile pixels, x0 y0 x1 y1.
            masks: coarse flood logits (B, 1, H/4, W/4).
            offset_xy: where the tile lies in the frame, (B, 2) pixels; the corner if None.
            gsd_m: metres a pixel, (B,), 0 where unknown; None: unknown.

        Returns:
            Flood logits (B, H/2, W/2) and the predicted IoU (B,).
        """
        encoded = self.encode(rgb, valid, gsd_m)
        return self.decode(encoded, points=points, boxes=boxes, masks=masks, offset_xy=offset_xy)

    def encode(self, rgb: Tensor, valid: Tensor, gsd_m: Tensor | None = None) -> Encoded:
        """Images to an embedding (B, E, H/16, W/16) and skip features; arguments as in `forward`."""
        around = ground = None
        if self.ground_scale is not None:
            around, *rest = self.ground_scale(rgb.new_zeros(len(rgb)) if gsd_m is None else gsd_m)
            ground = rest[0], rest[1]
        image = normalized(rgb, valid, self.image_encoder.skip4.weight.dtype)
        embedding, skips = self.image_encoder(image, around)
        return Encoded(embedding, skips, (rgb.shape[-2], rgb.shape[-1]), ground)

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
        tokens, dense = _with_ground(encoded, dense.to(embedding.dtype))
        logits, _, _ = self.mask_decoder.decode(
            embedding, torch.zeros_like(embedding[:1]), token, dense, encoded.skips, ground=tokens
        )
        return self.corrector.correct(ground.with_logits(smoothed(logits.float())[:, 0]), points, roughly=True)

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
        tokens, dense = _with_ground(encoded, dense.to(embedding.dtype))
        logits, iou, features = self.mask_decoder.decode(
            embedding, position, sparse, dense, encoded.skips, keep=keep, ground=tokens
        )
        return Decoded(smoothed(logits.float())[:, 0], iou[:, 0], features)

    def _position(self, embedding: Tensor, offset_xy: Tensor) -> Tensor:
        height, width = embedding.shape[-2:]
        y = (torch.arange(height, device=embedding.device) + 0.5) * STRIDE
        x = (torch.arange(width, device=embedding.device) + 0.5) * STRIDE
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        places = (grid + offset_xy[:, None, None]).flatten(1, 2)
        encoded = self.prompt_encoder.pe_layer.forward_with_coords(places, (FRAME, FRAME))
        return encoded.transpose(1, 2).unflatten(2, (height, width)).to(embedding.dtype)


def _with_ground(encoded: Encoded, dense: Tensor) -> tuple[Tensor | None, Tensor]:
    """What is added to a decoder's tokens, and what to its embedding, of prompts and of the ground's scale."""
    if encoded.ground is None:
        return None, dense
    tokens, cells = encoded.ground
    return tokens, dense + cells[:, :, None, None].to(dense.dtype)


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
