"""`FloodSam`: SAM with floodmap's small encoder, the network of the shipped model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from floodmap.models.sam.common import FRAME, STRIDE, SUREST, Decoded, Encoded, normalized, smoothed
from floodmap.models.sam.correction import Corrector, Ground, Kriging, krigings_of
from floodmap.models.sam.decoder import SkipDecoder
from floodmap.models.sam.efficientnet import EncoderConfig, PyramidEncoder
from floodmap.models.sam.ground import GroundScale
from floodmap.models.sam.modeling import PromptEncoder

OUTSIDE = -3.0
"""Logit of a mask prompt outside of a box."""


class FloodSam(nn.Module):
    """SAM with a small image encoder. It predicts one mask, and tile sides may be any multiple of 32 pixels.

    SAM resizes every image to its input frame of 1024 x 1024 pixels. A `FloodSam` places a tile into the frame without
    resizing, by default in the top left corner. A pixel of the encoder's input is therefore a pixel of the tile, and
    has the tile's ground sample distance, whatever the size of the tile.
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
        nn.init.zeros_(self.point_maps.weight)  # zero, so that weights trained without this layer still fit
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
            rgb: RGB (B, 3, H, W), 0 to 255; H and W are multiples of 32.
            valid: bool (B, H, W), True on pixels with a valid picture. The network normalizes RGB, and then sets all
                other pixels to 0.
            points: coordinates (B, N, 2) in tile pixels from the centre of the first pixel, x first, and labels (B, N):
                1 flood, 0 dry, -1 padding.
            boxes: left, top, right, bottom (B, 4) in tile pixels, from the centre of the first pixel.
            masks: mask prompts: coarse flood logits (B, 1, H/4, W/4).
            offset_xy: positions of the tiles' top left corners in SAM's input frame, (B, 2), in pixels, x first.
                None: all tiles lie in the top left corner of the frame.
            gsd_m: ground sample distances in metres, (B,), 0 if unknown; None: all are unknown.

        Returns:
            Flood logits (B, H/2, W/2) and the predicted IoU (B,), about 0 to 1.
        """
        encoded = self.encode(rgb, valid, gsd_m)
        return self.decode(encoded, points=points, boxes=boxes, masks=masks, offset_xy=offset_xy)

    def encode(self, rgb: Tensor, valid: Tensor, gsd_m: Tensor | None = None) -> Encoded:
        """Encode tiles to an image embedding (B, E, H/16, W/16) and skip features.

        Args:
            rgb: RGB (B, 3, H, W), 0 to 255; H and W are multiples of 32.
            valid: bool (B, H, W), True on pixels with a valid picture.
            gsd_m: ground sample distances in metres, (B,), 0 if unknown; None: all are unknown.
        """
        context_vector = ground = None
        if self.ground_scale is not None:
            context_vector, *rest = self.ground_scale(rgb.new_zeros(len(rgb)) if gsd_m is None else gsd_m)
            ground = rest[0], rest[1]
        image = normalized(rgb, valid, self.image_encoder.skip4.weight.dtype)
        embedding, skips = self.image_encoder(image, context_vector)
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
        """Decode encoded tiles with prompts to flood logits.

        Points are no tokens of the decoder, because the decoder learned little from points as tokens. Instead, tiles
        are decoded without points first, and the logits are corrected at the points. Tiles are then decoded again, with
        the corrected logits as mask prompt, and the new logits are corrected at the points, too; see `correct`. The
        result is the mean of the corrected logits of the two decodings. The mean has a higher IoU than the corrected
        logits of either decoding alone. Without points, the result is that of the first decoding.

        Args:
            encoded: the encoded tiles.
            points: coordinates and labels of points; see `forward`.
            boxes: boxes, (B, 4); see `forward`.
            masks: mask prompts, (B, 1, H/4, W/4); see `forward`.
            offset_xy: positions of the tiles in SAM's input frame, (B, 2); see `forward`.

        Returns:
            Flood logits (B, H/2, W/2) and the predicted IoU (B,), about 0 to 1.
        """
        decoded = self.decode_unpointed(encoded, boxes, masks, offset_xy, keep=points is not None)
        return self.correct(encoded, decoded, points), decoded.iou

    def correct(self, encoded: Encoded, decoded: Decoded, points: tuple[Tensor, Tensor] | None) -> Tensor:
        """Correct the logits of decoded tiles at the user's points.

        First, `Corrector` corrects the logits by kriging and by a small network. Then the tiles are decoded a second
        time, with the corrected logits as mask prompt, and the logits of the second decoding are corrected by kriging.
        The result is the mean of the corrected logits of the first and of the second decoding.

        Args:
            encoded: the encoded tiles.
            decoded: result of `decode_unpointed` for these tiles. It must contain the features of the decoder.
            points: coordinates and labels of points, see `forward`; None: no tile has points.

        Returns:
            Flood logits (B, H/2, W/2). The logits of tiles without points are those of `decoded`.
        """
        if points is None:
            return decoded.logits
        ground = Ground.of(decoded.logits, encoded.embedding, decoded.features)
        krigings = krigings_of(ground, points)
        corrected = self.corrector.correct(ground, krigings)
        mean = (corrected + self.decode_corrected(encoded, ground, corrected, krigings)) / 2
        return torch.where((points[1] >= 0).any(dim=1)[:, None, None], mean, decoded.logits)

    def decode_corrected(
        self, encoded: Encoded, ground: Ground, corrected: Tensor, krigings: Sequence[Kriging]
    ) -> Tensor:
        """Decode tiles again with corrected logits as mask prompt, and correct the result by kriging at the points.

        One token tells the decoder that the mask prompt is corrected. Six maps of the similarity of cells to the points
        tell it in which cells the correction has an effect (see `Kriging.maps`). A cell has 4 x 4 pixels of the tile.
        Cells are compared by their features and by their distance. A convolution converts the maps to E channels, which
        are added to the embedding of the mask prompt.

        Args:
            encoded: the encoded tiles.
            ground: outputs of the encoder and of the first decoding, which knew no points; see `correction.Ground`.
                (`encoded.ground` is another thing: an embedding of the ground sample distance.)
            corrected: corrected logits of the first decoding, (B, H/2, W/2).
            krigings: the kriging of each tile, see `correction.krigings_of`.

        Returns:
            Flood logits, (B, H/2, W/2).
        """
        embedding = encoded.embedding
        with torch.autocast(embedding.device.type, enabled=False):
            maps = F.avg_pool2d(torch.stack([one.maps() for one in krigings]), 4).to(self.point_maps.weight.dtype)
        dense = self.prompt_encoder.mask_downscaling(F.avg_pool2d(corrected[:, None], 2).clamp(-SUREST, SUREST))
        dense = dense + self.point_maps(maps)
        token = self.prompt_encoder.not_a_point_embed.weight.to(embedding.dtype).expand(len(embedding), 1, -1)
        tokens, dense = _with_ground(encoded, dense.to(embedding.dtype))
        logits, _, _ = self.mask_decoder.decode(
            embedding, torch.zeros_like(embedding[:1]), token, dense, encoded.skips, ground=tokens
        )
        return self.corrector.correct(ground.with_logits(smoothed(logits.float())[:, 0]), krigings, roughly=True)

    def decode_unpointed(
        self,
        encoded: Encoded,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        offset_xy: Tensor | None = None,
        *,
        keep: bool = True,
    ) -> Decoded:
        """Decode encoded tiles with boxes and mask prompts, without points.

        Args:
            encoded: the encoded tiles.
            boxes: boxes, (B, 4); see `forward`.
            masks: mask prompts, (B, 1, H/4, W/4); see `forward`.
            offset_xy: positions of the tiles in SAM's input frame, (B, 2); see `forward`.
            keep: True: the result has the features that the correction at points needs. False: the field `features` of
                the result may be None.
        """
        embedding = encoded.embedding
        batch, dim, height, width = embedding.shape
        if boxes is None:
            # Without boxes there is no positional encoding: results must not depend on the window's position.
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
        """Return the positional encoding of the image embedding, (B, E, h, w); for `offset_xy` see `forward`.

        Each of the h x w positions of the embedding covers 16 x 16 pixels of SAM's input frame. The encoding is that
        of the centre of these pixels.
        """
        height, width = embedding.shape[-2:]
        y = (torch.arange(height, device=embedding.device) + 0.5) * STRIDE
        x = (torch.arange(width, device=embedding.device) + 0.5) * STRIDE
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        centres = (grid + offset_xy[:, None, None]).flatten(1, 2)
        encoded = self.prompt_encoder.pe_layer.forward_with_coords(centres, (FRAME, FRAME))
        return encoded.transpose(1, 2).unflatten(2, (height, width)).to(embedding.dtype)


def _with_ground(encoded: Encoded, dense: Tensor) -> tuple[Tensor | None, Tensor]:
    """Add the ground sample distance to the embedding of mask prompts.

    The ground sample distance has two embeddings, `encoded.ground[0]` and `encoded.ground[1]`, (B, E) each.

    Args:
        encoded: the encoded tiles.
        dense: embedding of mask prompts, (B, E, h, w); (1, E, 1, 1) without mask prompts.

    Returns:
        A pair (tokens, dense). `tokens` is `encoded.ground[0]`, which the decoder adds to its output tokens. `dense` is
        the argument `dense` plus `encoded.ground[1]`. If `encoded.ground` is None, `tokens` is None, and `dense` is the
        unchanged argument.
    """
    if encoded.ground is None:
        return None, dense
    tokens, cells = encoded.ground
    return tokens, dense + cells[:, :, None, None].to(dense.dtype)


def draw_boxes(masks: Tensor, boxes: Tensor) -> Tensor:
    """Draw boxes into mask prompts: logits outside the box of a tile become `OUTSIDE`.

    The drawing is needed because a network that is trained on a few hundred pictures does not learn SAM's positional
    encoding of boxes.

    Args:
        masks: mask prompts: flood logits (B, 1, h, w) at a quarter of the tile's resolution; 0 means unknown.
        boxes: one box for each tile, (B, 4): left, top, right, bottom in tile pixels, from the centre of the first
            pixel.

    Returns:
        New mask prompts with the boxes, (B, 1, h, w).
    """
    height, width = masks.shape[-2:]
    y = (torch.arange(height, device=masks.device) * 4 + 1.5)[:, None]
    x = torch.arange(width, device=masks.device) * 4 + 1.5
    left, top, right, bottom = boxes[:, :, None, None].unbind(1)
    outside = (x < left) | (x > right) | (y < top) | (y > bottom)
    return masks.masked_fill(outside[:, None], OUTSIDE)
