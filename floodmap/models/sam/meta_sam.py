"""`Sam`: Meta's Segment Anything networks ViT-B, ViT-L and ViT-H, from the `segment-anything` package."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from floodmap.errors import ModelError
from floodmap.models.sam.common import FRAME, STRIDE, Encoded, normalized
from floodmap.models.sam.decoder import Decoder, PointEncoder
from floodmap.models.sam.modeling import ImageEncoderViT, TwoWayTransformer
from floodmap.models.sam.vit import VIT, vit_encoder

log = logging.getLogger(__name__)


class Sam(nn.Module):
    """Meta's SAM with a ViT image encoder; every tile is resized to fit SAM's input frame of 1024 x 1024 pixels."""

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
        """Whether gradient checkpointing is on: the encoder's activations are not kept, but computed again for the
        gradients. This takes less memory and more time."""
        self._kernels: Literal["unchecked", "checked", "fail"] = "unchecked"

    def encode(self, rgb: Tensor, valid: Tensor) -> Encoded:
        """Encode tiles to image embeddings (B, 256, 64, 64).

        The longer side is resized to 1024 pixels here, because the resizing of tensors in `segment_anything` exchanges
        the axes of images that are not square.

        Args:
            rgb: RGB (B, 3, H, W), 0 to 255.
            valid: bool (B, H, W), True on pixels with a valid picture; other pixels are 0 after normalization.
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
        """Compute the image embedding (B, 256, 64, 64) of images (B, 3, 1024, 1024) by Triton kernels.

        If the kernels fail `triton_attention.check` or raise an error, `image_encoder` computes the embedding.
        """
        from floodmap.models.backends import triton_attention

        if self._kernels == "fail":
            return self.image_encoder(image)
        try:
            reason = triton_attention.check(self.image_encoder) if self._kernels == "unchecked" else ""
            if not reason:
                self._kernels = "checked"
                return triton_attention.embed(self.image_encoder, image)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # Triton and the compilers that it calls raise errors of many types
            reason = (str(error) or type(error).__name__).splitlines()[0]
        log.warning("attention runs at about half speed, as its kernels do not work here (%s)", reason)
        self._kernels = "fail"
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
        """Compute flood logits from encoded tiles and prompts; the network's weights must be trained on floods.

        Args:
            encoded: the encoded tiles, of H x W pixels.
            points: a pair of tensors: coordinates (B, N, 2) and labels (B, N). The coordinates are in tile pixels, from
                the centre of the first pixel, x first. Labels: 1 flood, 0 dry, -1 SAM's padding token, which gets
                attention like a point (see `PointEncoder`). None: no points.
            boxes: left, top, right, bottom (B, 4) in tile pixels, from the centre of the first pixel. None: no boxes.
            masks: mask prompts: coarse flood logits (B, 1, H/4, W/4). None: no mask prompts.
            offset_xy: without effect; `FloodSam.decode` has the same argument.

        Returns:
            Two values. Flood logits (B, h, w): one logit for each square of 4 x 4 pixels of the resized tile in SAM's
            input frame; the padding of the frame has none. Predicted IoU of each tile (B,), about 0 to 1.
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
        """Predict one mask for each of N prompt sets. A prompt set is a number of points and at most one box.

        A single point is ambiguous. For a set of one point SAM predicts three masks, and the mask with the highest
        predicted IoU is returned (arXiv:2304.02643, section 3). For other sets SAM's single mask is returned.

        Args:
            embedding: image embedding for each prompt set, (N, 256, 64, 64).
            xy: coordinates of tokens, (N, T, 2), in pixels of SAM's input frame, from the centre of the first pixel, x
                first. A token is a point, a corner of a box, or padding. All sets are padded to the same number of
                tokens, T.
            labels: labels of the tokens, (N, T): 0 dry point, 1 flood point, 2 top left corner and 3 bottom right
                corner of the box. -1: SAM's padding token, which gets attention like a point (see `PointEncoder`).
                Every set without a box must have exactly one token of label -1, as in `segment_anything`. -2: padding
                to the length T, which gets no attention; if gradients are computed, it gets attention like label -1.
                The coordinates of tokens of label -1 or -2 have no effect.

        Returns:
            Mask logits, (N, 256, 256), one for each square of 4 x 4 pixels of SAM's input frame.
        """
        encoder, decoder = self.prompt_encoder, self.mask_decoder
        dtype = decoder.iou_token.weight.dtype
        masks, iou, _ = decoder.decode(
            embedding.to(dtype),
            encoder.get_dense_pe().to(dtype),
            encoder.embed(xy, labels).to(dtype),
            encoder.no_mask_embed.weight.view(1, -1, 1, 1).to(dtype),
            absent=labels == -2,
        )
        alone = (labels >= 0).sum(dim=1) == 1
        best = torch.where(alone, 1 + iou[:, 1:].argmax(dim=1), 0)
        return masks[torch.arange(len(masks), device=masks.device), best]


def _takes_kernels(encoder: ImageEncoderViT) -> bool:
    """Return whether `triton_attention` can run an encoder: on an NVIDIA GPU, in bfloat16, without gradients."""
    weight = encoder.patch_embed.proj.weight
    available = weight.is_cuda and torch.version.cuda is not None and find_spec("triton") is not None
    return available and weight.dtype == torch.bfloat16 and not torch.is_grad_enabled()


def _framed(shape_hw: tuple[int, int]) -> tuple[int, int]:
    """Return a tile's height and width in pixels after the longer side is resized to 1024 pixels."""
    height, width = (max(4, round(side * FRAME / max(shape_hw))) for side in shape_hw)
    return height, width


def architecture_of(state: Mapping[str, Tensor]) -> str:
    """Return the name of Meta's network (a key of `VIT`) that a state dict belongs to.

    The number of channels of the patch embedding identifies the network.

    Args:
        state: tensors of a checkpoint by name.

    Raises:
        ModelError: the state dict fits no network of `VIT`.
    """
    patch = state.get("image_encoder.patch_embed.proj.weight")
    for name, shape in VIT.items():
        if patch is not None and patch.shape[0] == shape.embed_dim:
            return name
    raise ModelError("not a checkpoint of SAM ViT-B, ViT-L or ViT-H; choose another --model")


def build_sam(state: Mapping[str, Tensor]) -> Sam:
    """Build SAM from the state dict of a checkpoint of Meta.

    Args:
        state: tensors of the checkpoint by name, of any floating-point dtype; the network's weights are float32.

    Raises:
        ModelError: the state dict does not fit SAM.
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
