"""Image encoder of the shipped model: EfficientNet-Lite0 with outputs at four strides, for laptops without GPU.

Source of the backbone: Tan and Le 2019, arXiv:1905.11946, in the Lite variant (no squeeze-and-excitation, ReLU6).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from floodmap.models.backends.onednn import conv_relu6
from floodmap.models.sam.strips import by_row_strips

Skips = tuple[Tensor, Tensor, Tensor]
"""Features of the encoder at strides 8, 4 and 2: (B, C, height / stride, width / stride).
C is a quarter, an eighth and an eighth of the number of channels of the image embedding."""
KERNELS = (3, 3, 5, 3, 5, 5, 3)
"""Side of the depthwise kernels of each of the seven stages: 3 for 3 x 3, 5 for 5 x 5."""
STRIDES = (1, 2, 2, 2, 1, 2, 1)
"""Stride of each stage's first block; the stem has stride 2."""
DESCRIPTOR_STAGES = (2, 4)
"""Indices of the stages whose outputs, at strides 8 and 16, are used for out-of-distribution detection."""
EXPANSION = 6
"""Expansion factor of the blocks of all stages except the first stage, which has the factor 1."""

STRIP_BYTES = 4 * 2**20
"""Approximate size in bytes of one strip of a block's expanded features, such that the strip fits into a CPU's cache.
In this module, a strip is a group of full rows of a feature map, not of a scene."""
STRIP_ROWS = 128
"""Number of rows, at stride 2, of the strips in which a CPU computes the stem and the first stage for large images.
An image with at most three times as many rows at stride 2 is not split into strips."""
STRIP_CELLS = 2**16
"""Largest number of pixels, at stride 2, of all images of a chunk together. A chunk is a group of whole images.
A CPU computes the stem and the first stage of a batch of small images chunk by chunk."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """Dimensions of a `PyramidEncoder`."""

    stem: int = 32
    """Number of channels of the stem, at stride 2."""
    widths: tuple[int, ...] = (16, 24, 40, 80, 112, 192, 320)
    """Number of channels of each stage; the outputs of the stages have strides 2, 4, 8, 16, 16, 32 and 32."""
    depths: tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)
    """Number of blocks of each stage."""
    embed_dim: int = 192
    """Number of channels of the image embedding, of the prompt encoder and of the mask decoder."""
    context: int = 0
    """Number of blocks with 7 x 7 kernels at stride 32. The blocks enlarge the receptive field at little cost."""
    scaled: bool = False
    """Whether the ground sample distance is an input of the network."""

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> EncoderConfig:
        """Build dimensions from `fields`, the object `encoder` in a model file's JSON; unknown keys raise TypeError."""
        with_tuples: dict[str, Any] = {  # JSON has no tuples
            key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
        }
        return cls(**with_tuples)


class ConvNorm(nn.Sequential):
    """Convolution and batch norm, which `fuse` folds into one convolution for inference.

    The encoder has a dense 3 x 3 `ConvNorm`, because this is the fastest kind of layer on CPUs in bfloat16: 400 GFLOP/s
    on two cores. A sequence of 1 x 1 convolutions and GELU reaches only 90 GFLOP/s.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        conv, norm = self[0], self[1]
        if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d) or norm.training:
            return super().forward(x)
        # With fixed statistics a batch norm is a scale and a shift. It takes less time to apply both to the weights.
        state = dict(norm.named_buffers())
        scale = norm.weight * (state["running_var"] + norm.eps).rsqrt()
        weight, bias = conv.weight * scale[:, None, None, None], norm.bias - state["running_mean"] * scale
        return F.conv2d(x, weight.to(x.dtype), bias.to(x.dtype), conv.stride[0], int(conv.padding[0]))

    @property
    def norm_weight(self) -> Tensor:
        """Scale of the batch norm, (out_channels,)."""
        weight: Tensor = self.get_parameter("1.weight")
        return weight

    def fuse(self) -> None:
        """Fold the batch norm into the convolution, in place; the module must be in eval mode."""
        conv, norm = self[0], self[1]
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            self[0] = fuse_conv_bn_eval(conv, norm)
        self[1] = nn.Identity()


class InvertedResidual(nn.Module):
    """Inverted residual block: expansion, depthwise convolution, projection (Sandler et al. 2018, arXiv:1801.04381).

    The block has no batch norms: training starts from ImageNet weights with batch norms folded into the convolutions.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = in_channels * expansion
        self.expand = nn.Conv2d(in_channels, width, 1) if expansion > 1 else nn.Identity()
        self.depthwise = Depthwise(width, kernel_size, stride)
        self.project = nn.Conv2d(width, out_channels, 1)
        self.is_residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        row_bytes = self.depthwise.in_channels * len(x) * x.shape[-1] * x.element_size()
        if x.device.type == "cpu" and not torch.is_grad_enabled() and row_bytes * x.shape[-2] > 3 * STRIP_BYTES:
            narrow = self._by_strips(x, max(1, STRIP_BYTES // (row_bytes * self.depthwise.stride[0])))
        else:
            narrow = self.project(conv_relu6(self.depthwise, self._expanded(x)))
        return x + narrow if self.is_residual else narrow

    def _expanded(self, x: Tensor) -> Tensor:
        return x if isinstance(self.expand, nn.Identity) else conv_relu6(self.expand, x)

    def _by_strips(self, x: Tensor, rows: int) -> Tensor:
        """Compute the block without its residual connection, in strips of `rows` rows of the result.

        `x` is (B, C, H, W). The result is (B, output channels, H / stride, W / stride), sides rounded up.
        """
        conv, height, width = self.depthwise, x.shape[-2], x.shape[-1]
        stride, pad = conv.stride[0], int(conv.padding[0])
        bottom, right = -(-height // stride), -(-width // stride)

        def strip(first: int, end: int) -> Tensor:
            top, low = first * stride - pad, (end - 1) * stride + 1 + pad
            wide = self._expanded(x[:, :, max(top, 0) : low])
            if top < 0 or low > height:
                wide = F.pad(wide, (0, 0, max(-top, 0), max(low - height, 0)))
            narrow: Tensor = self.project(conv_relu6(conv, wide, padding=(0, pad)))
            return narrow

        shape = (len(x), self.project.out_channels, bottom, right)
        narrow = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        return by_row_strips(strip, narrow, rows=rows, halo=0)


class Depthwise(nn.Conv2d):
    """Depthwise convolution with fast gradients on CPUs.

    As of torch 2.15, oneDNN's gradients take up to 40 times as long as the convolution itself, in bfloat16. The
    gradients are slow if the kernel is 5 x 5 or larger, or if the stride is larger than 1.
    """

    def __init__(self, channels: int, kernel_size: int, stride: int) -> None:
        super().__init__(channels, channels, kernel_size, stride, kernel_size // 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or not torch.is_grad_enabled():
            return super().forward(x)
        result: Tensor = _DepthwiseFunction.apply(x, self.weight, self.bias, self.stride[0])
        return result


class _DepthwiseFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight.to(x.dtype), bias.to(x.dtype), stride, weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        bias_gradient = gradient.sum(dim=(0, 2, 3), dtype=weight.dtype)
        input_gradient = _input_gradient(gradient, x, weight, ctx.stride)
        return input_gradient, _weight_gradient(gradient, x, weight, ctx.stride), bias_gradient, None


def _input_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Compute the gradient of the input `x`: a depthwise convolution of the dilated `gradient` with flipped weights."""
    if stride > 1:
        dilated = torch.zeros_like(x)
        dilated[..., ::stride, ::stride] = gradient
        gradient = dilated
    flipped = weight.flip(2, 3).to(x.dtype)
    return F.conv2d(gradient, flipped, None, 1, weight.shape[-1] // 2, groups=len(weight))


def _weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Compute the gradient of the weights in blocks of 3 x 3: oneDNN has a fast gradient only for 3 x 3 kernels."""
    side, pad = weight.shape[-1], weight.shape[-1] // 2
    corner, result = weight[..., :3, :3].to(x.dtype), torch.empty_like(weight)
    firsts = sorted({*range(0, side - 2, 3), side - 3})
    rows, cols = (stride * (length - 1) + 3 for length in gradient.shape[2:])
    padded = x if side == 3 else F.pad(x, (pad, pad, pad, pad))
    for row, col in product(firsts, firsts):
        part = x if side == 3 else padded[..., row : row + rows, col : col + cols]
        _, part_gradient, _ = torch.ops.aten.convolution_backward(
            gradient, part, corner, None, [stride, stride], [1, 1] if side == 3 else [0, 0], [1, 1], False, [0, 0],
            len(weight), [False, True, False],
        )  # fmt: skip
        result[..., row : row + 3, col : col + 3] = part_gradient
    return result


class PyramidEncoder(nn.Module):
    """Image encoder with an image embedding at stride 16 and skip features at strides 8, 4 and 2.

    The image embedding replaces that of SAM's encoder. Skip features have no input from coarser strides. With input
    from coarser strides, the decoder would learn to ignore the embedding, and therefore the prompts.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        w2, w4, w8, _, w16, _, w32 = config.widths
        dim = config.embed_dim
        self.stem = nn.Conv2d(3, config.stem, 3, 2, 1)
        self.stages = nn.ModuleList()
        channels = config.stem
        for i, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            blocks = [
                InvertedResidual(
                    width if j else channels, width, KERNELS[i], 1 if j else STRIDES[i], EXPANSION if i else 1
                )
                for j in range(depth)
            ]
            self.stages.append(nn.Sequential(*blocks))
            channels = width
        self.top = ConvNorm(w32, dim, 1)
        context_blocks = [InvertedResidual(dim, dim, 7, 1, 2) for _ in range(config.context)]
        for block in context_blocks:
            # Identity, so that weights trained without these blocks still fit.
            nn.init.zeros_(block.project.weight)
            block.project.bias = nn.Parameter(torch.zeros(dim))
        self.context = nn.Sequential(*context_blocks)
        self.lateral = ConvNorm(w16, dim, 1)
        self.smooth = ConvNorm(dim, dim, 3)
        self.skip8 = nn.Conv2d(w8, dim // 4, 1)
        self.skip4 = nn.Conv2d(w4, dim // 8, 1)
        self.skip2 = nn.Conv2d(w2, dim // 8, 1)

    def forward(self, x: Tensor, context_vector: Tensor | None = None) -> tuple[Tensor, Skips]:
        """Encode images; E is the `embed_dim` of the configuration.

        Args:
            x: normalized RGB, (B, 3, H, W), H and W multiples of 32.
            context_vector: vector (B, E) added to the input of the context blocks; None: nothing is added.

        Returns:
            Image embedding (B, E, H/16, W/16), and `Skips`: (B, E/4, H/8, W/8), (B, E/8, H/4, W/4), (B, E/8, H/2, W/2).
        """
        features = [self._stem_and_first_stage(x)]
        for stage in self.stages[1:]:
            features.append(stage(features[-1]))
        top = self.top(features[6])
        if context_vector is not None:
            top = top + context_vector[:, :, None, None].to(top.dtype)
        coarse = F.interpolate(self.context(top), scale_factor=2.0, mode="nearest")
        embedding = F.relu(self.smooth(F.relu(coarse + self.lateral(features[4]))))
        del features[3:], top, coarse
        # Every tensor is released as soon as possible: these features take most of a window's memory.
        skip8, skip4, skip2 = (layer(features.pop()) for layer in (self.skip8, self.skip4, self.skip2))
        return embedding, (skip8, skip4, skip2)

    def described(self, x: Tensor) -> Tensor:
        """Return the means and standard deviations of the channels of the features at strides 8 and 16, (B, D).

        `x` is normalized RGB, (B, 3, H, W), H and W multiples of 32. The order of the D values is: means at stride 8,
        deviations at stride 8, means at stride 16, deviations at stride 16. By default D = 2 * 40 + 2 * 112 = 304.
        """
        features = self._stem_and_first_stage(x)
        statistics = []
        for number, stage in enumerate(self.stages[1:5], 1):
            features = stage(features)
            if number in DESCRIPTOR_STAGES:
                cells = features.float().flatten(2)
                statistics += [cells.mean(dim=2), cells.std(dim=2)]
        return torch.cat(statistics, dim=1)

    def _stem_and_first_stage(self, x: Tensor) -> Tensor:
        """Compute the features at stride 2, (B, C, H/2, W/2), from normalized RGB, (B, 3, H, W).

        For inference on a CPU, large images are computed in row strips, and small images in chunks; see `STRIP_CELLS`.
        """
        rows, cols = x.shape[2] // 2, x.shape[3] // 2
        per_chunk = max(1, STRIP_CELLS // (rows * cols))
        by_images, by_rows = per_chunk < len(x), rows > 3 * STRIP_ROWS
        if x.device.type != "cpu" or torch.is_grad_enabled() or not (by_images or by_rows):
            first: Tensor = self.stages[0](conv_relu6(self.stem, x))
            return first
        shape = (len(x), self.skip2.in_channels, rows, cols)
        out = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        if by_images:
            for number in range(0, len(x), per_chunk):
                out[number : number + per_chunk] = self._stem_and_first_stage(x[number : number + per_chunk])
            return out

        def strip(first: int, end: int) -> Tensor:
            rows_in = x[:, :, max(2 * first - 1, 0) : 2 * end]
            rows_in = F.pad(rows_in, (0, 0, 1, 0)) if first == 0 else rows_in
            features: Tensor = self.stages[0](conv_relu6(self.stem, rows_in, padding=(0, 1)))
            return features

        # Halo of one row for each block, because a 3 x 3 kernel makes one more row at a strip's border wrong.
        return by_row_strips(strip, out, rows=STRIP_ROWS, halo=self.config.depths[0])


def fuse(module: nn.Module) -> None:
    """Fold the batch norm of every `ConvNorm` in a module into the convolution, in place; see `ConvNorm.fuse`."""
    for child in module.modules():
        if isinstance(child, ConvNorm):
            child.fuse()
