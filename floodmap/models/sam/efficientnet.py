"""The image encoder of the shipped model: EfficientNet-Lite0 with a feature pyramid, small enough for a laptop.

Source of the trunk: Tan and Le 2019, arXiv:1905.11946, in the Lite variant (no squeeze-and-excitation, ReLU6).
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
"""Features of the encoder at strides 8, 4 and 2."""
KERNELS = (3, 3, 5, 3, 5, 5, 3)
"""Side of the depthwise kernels of each stage."""
STRIDES = (1, 2, 2, 2, 1, 2, 1)
"""Of each stage's first block; the stem has stride 2, too."""
DESCRIBING = (2, 4)
"""Stages whose features tell what ground looks like."""
EXPANSION = 6
"""How many times wider a block is inside, but for the first stage's, which are not."""

STRIP_BYTES = 4 * 2**20
"""About how much of a block's wide features is made at once: what fits into a CPU's cache need not go to its memory."""


STRIP_ROWS = 128
"""Rows of the first stage that are made together, where it has more than three times as many."""
STRIP_CELLS = 2**16
"""Cells of it, of small images: as many as in so many rows of a large one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """Shape of a `PyramidEncoder`."""

    stem: int = 32
    """Channels the picture becomes, at stride 2."""
    widths: tuple[int, ...] = (16, 24, 40, 80, 112, 192, 320)
    """Channels of each stage; they end at strides 2, 4, 8, 16, 16, 32 and 32."""
    depths: tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)
    """Blocks of each stage."""
    embed_dim: int = 192
    """Channels of the embedding, and of the prompt encoder and mask decoder."""
    context: int = 0
    """Blocks that look far around at stride 32, where that costs next to nothing."""
    scaled: bool = False
    """Whether the network is told the ground sample distance."""

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> EncoderConfig:
        """From a checkpoint's header, where tuples have become lists; unknown or missing fields raise TypeError."""
        whole: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()
        }
        return cls(**whole)


class ConvNorm(nn.Sequential):
    """A convolution and its batch norm, which `fuse` folds into one convolution for inference.

    Plain 3 x 3 convolutions, because that is what CPUs run fastest in bfloat16 (400 GFLOP/s on two cores, where 1 x 1
    convolutions with GELU between them reach 90).
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
        # With its statistics settled a norm is a factor and a shift: on the weights they cost less than on every pixel.
        state = dict(norm.named_buffers())
        scale = norm.weight * (state["running_var"] + norm.eps).rsqrt()
        weight, bias = conv.weight * scale[:, None, None, None], norm.bias - state["running_mean"] * scale
        return F.conv2d(x, weight.to(x.dtype), bias.to(x.dtype), conv.stride[0], int(conv.padding[0]))

    @property
    def norm_weight(self) -> Tensor:
        """The batch norm's scale."""
        weight: Tensor = self.get_parameter("1.weight")
        return weight

    def fuse(self) -> None:
        """Fold the batch norm into the convolution, in place; the module must be in eval mode."""
        conv, norm = self[0], self[1]
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            self[0] = fuse_conv_bn_eval(conv, norm)
        self[1] = nn.Identity()


class InvertedResidual(nn.Module):
    """A wide depthwise convolution between two narrow ends (Sandler et al. 2018, arXiv:1801.04381).

    There are no batch norms: those of the weights it begins with are folded into the convolutions before training.
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
            narrow = self.project(conv_relu6(self.depthwise, self._widened(x)))
        return x + narrow if self.is_residual else narrow

    def _widened(self, x: Tensor) -> Tensor:
        return x if isinstance(self.expand, nn.Identity) else conv_relu6(self.expand, x)

    def _by_strips(self, x: Tensor, rows: int) -> Tensor:
        """The same, so many rows of the result at a time."""
        conv, height, width = self.depthwise, x.shape[-2], x.shape[-1]
        stride, pad = conv.stride[0], int(conv.padding[0])
        bottom, right = -(-height // stride), -(-width // stride)

        def strip(first: int, end: int) -> Tensor:
            top, low = first * stride - pad, (end - 1) * stride + 1 + pad
            wide = self._widened(x[:, :, max(top, 0) : low])
            if top < 0 or low > height:
                wide = F.pad(wide, (0, 0, max(-top, 0), max(low - height, 0)))
            narrow: Tensor = self.project(conv_relu6(conv, wide, padding=(0, pad)))
            return narrow

        shape = (len(x), self.project.out_channels, bottom, right)
        narrow = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        return by_row_strips(strip, narrow, rows=rows, halo=0)


class Depthwise(nn.Conv2d):
    """A depthwise convolution with gradients that CPUs work out fast.

    Those of oneDNN take up to 40 times as long as the convolution itself, in bfloat16 with kernels of 5 x 5 and more or
    with a stride (as of torch 2.15).
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
        to_bias = gradient.sum(dim=(0, 2, 3), dtype=weight.dtype)
        to_x = _input_gradient(gradient, x, weight, ctx.stride)
        return to_x, _weight_gradient(gradient, x, weight, ctx.stride), to_bias, None


def _input_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Of a depthwise convolution: another one, with its weights turned round, of what is set apart by the stride."""
    if stride > 1:
        apart = torch.zeros_like(x)
        apart[..., ::stride, ::stride] = gradient
        gradient = apart
    turned = weight.flip(2, 3).to(x.dtype)
    return F.conv2d(gradient, turned, None, 1, weight.shape[-1] // 2, groups=len(weight))


def _weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Of a depthwise convolution, 3 x 3 of its weights at a time: for these alone oneDNN has fast code."""
    side, pad = weight.shape[-1], weight.shape[-1] // 2
    corner, result = weight[..., :3, :3].to(x.dtype), torch.empty_like(weight)
    firsts = sorted({*range(0, side - 2, 3), side - 3})
    rows, cols = (stride * (length - 1) + 3 for length in gradient.shape[2:])
    padded = x if side == 3 else F.pad(x, (pad, pad, pad, pad))
    for row, col in product(firsts, firsts):
        part = x if side == 3 else padded[..., row : row + rows, col : col + cols]
        _, found, _ = torch.ops.aten.convolution_backward(
            gradient, part, corner, None, [stride, stride], [1, 1] if side == 3 else [0, 0], [1, 1], False, [0, 0],
            len(weight), [False, True, False],
        )  # fmt: skip
        result[..., row : row + 3, col : col + 3] = found
    return result


class PyramidEncoder(nn.Module):
    """Image to an embedding at stride 16 and skip features at strides 8, 4 and 2.

    The embedding takes the place of SAM's. The skip features hold detail alone, nothing from coarser strides: what the
    picture means has to go through the embedding, or the decoder learns to do without it and so without prompts.
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
        around = [InvertedResidual(dim, dim, 7, 1, 2) for _ in range(config.context)]
        for block in around:
            # So that weights trained without it mean the same with it.
            nn.init.zeros_(block.project.weight)
            block.project.bias = nn.Parameter(torch.zeros(dim))
        self.context = nn.Sequential(*around)
        self.lateral = ConvNorm(w16, dim, 1)
        self.smooth = ConvNorm(dim, dim, 3)
        self.skip8 = nn.Conv2d(w8, dim // 4, 1)
        self.skip4 = nn.Conv2d(w4, dim // 8, 1)
        self.skip2 = nn.Conv2d(w2, dim // 8, 1)

    def forward(self, x: Tensor, around: Tensor | None = None) -> tuple[Tensor, Skips]:
        """Encode images.

        Args:
            x: normalised RGB, (B, 3, H, W), H and W multiples of 32.
            around: (B, E), added to what the blocks of context are shown; None: nothing.

        Returns:
            Embedding (B, E, H/16, W/16), and skips (B, E/4, H/8, W/8), (B, E/8, H/4, W/4) and (B, E/8, H/2, W/2).
        """
        features = [self._begun(x)]
        for stage in self.stages[1:]:
            features.append(stage(features[-1]))
        top = self.top(features[6])
        if around is not None:
            top = top + around[:, :, None, None].to(top.dtype)
        coarse = F.interpolate(self.context(top), scale_factor=2.0, mode="nearest")
        embedding = F.relu(self.smooth(F.relu(coarse + self.lateral(features[4]))))
        del features[3:], top, coarse
        # Each is let go of as soon as it can be: with what comes before them these take most of a window's memory.
        skip8, skip4, skip2 = (layer(features.pop()) for layer in (self.skip8, self.skip4, self.skip2))
        return embedding, (skip8, skip4, skip2)

    def described(self, x: Tensor) -> Tensor:
        """What images as in `forward` look like, (B, D): means and deviations of features at strides 8 and 16."""
        features = self._begun(x)
        told = []
        for number, stage in enumerate(self.stages[1:5], 1):
            features = stage(features)
            if number in DESCRIBING:
                cells = features.float().flatten(2)
                told += [cells.mean(dim=2), cells.std(dim=2)]
        return torch.cat(told, dim=1)

    def _begun(self, x: Tensor) -> Tensor:
        """The stem and the first stage, at stride 2; on a CPU some rows at a time, for the same reason."""
        rows, cols = x.shape[2] // 2, x.shape[3] // 2
        together = max(1, STRIP_CELLS // (rows * cols))
        by_images, by_rows = together < len(x), rows > 3 * STRIP_ROWS
        if x.device.type != "cpu" or torch.is_grad_enabled() or not (by_images or by_rows):
            first: Tensor = self.stages[0](conv_relu6(self.stem, x))
            return first
        shape = (len(x), self.skip2.in_channels, rows, cols)
        begun = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last)
        if by_images:
            for number in range(0, len(x), together):
                begun[number : number + together] = self._begun(x[number : number + together])
            return begun

        def strip(first: int, end: int) -> Tensor:
            seen = x[:, :, max(2 * first - 1, 0) : 2 * end]
            seen = F.pad(seen, (0, 0, 1, 0)) if first == 0 else seen
            features: Tensor = self.stages[0](conv_relu6(self.stem, seen, padding=(0, 1)))
            return features

        # A block is wrong within a row of a strip's border.
        return by_row_strips(strip, begun, rows=STRIP_ROWS, halo=self.config.depths[0])


def fuse(module: nn.Module) -> None:
    """Fold every batch norm of an eval-mode module into its convolution, in place."""
    for child in module.modules():
        if isinstance(child, ConvNorm):
            child.fuse()
