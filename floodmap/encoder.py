"""The image encoder of the shipped model: a residual network with a feature pyramid, small enough for a laptop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

Skips = tuple[Tensor, Tensor, Tensor]
"""Features of the encoder at strides 8, 4 and 2."""
STEM_WIDTH = 24
"""Channels at stride 2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderConfig:
    """Shape of a `PyramidEncoder`."""

    widths: tuple[int, int, int, int] = (32, 64, 160, 320)
    """Channels at strides 4, 8, 16 and 32."""
    depths: tuple[int, int, int, int] = (1, 2, 4, 2)
    """Residual blocks at each stride."""
    embed_dim: int = 192
    """Channels of the embedding, and of the prompt encoder and mask decoder."""

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


class Block(nn.Module):
    """Two convolutions and a shortcut (He et al. 2016, arXiv:1512.03385)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels, out_channels, 3, stride)
        self.conv2 = ConvNorm(out_channels, out_channels, 3)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else ConvNorm(in_channels, out_channels, 1, stride)
        # Starting as the identity steadies training from scratch (Goyal et al. 2017, arXiv:1706.02677, section 5.1).
        nn.init.zeros_(self.conv2.norm_weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.conv2(F.relu(self.conv1(x))))


class PyramidEncoder(nn.Module):
    """Image to an embedding at stride 16 and skip features at strides 8, 4 and 2.

    The embedding takes the place of SAM's. The skip features hold detail alone, nothing from coarser strides: what the
    picture means has to go through the embedding, or the decoder learns to do without it and so without prompts.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        w4, w8, w16, w32 = config.widths
        dim = config.embed_dim
        self.stem = nn.Sequential(
            ConvNorm(3, STEM_WIDTH, 3, 2), nn.ReLU(inplace=True), ConvNorm(STEM_WIDTH, w4, 3, 2), nn.ReLU()
        )
        self.stages = nn.ModuleList()
        channels = w4
        for stage, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            strides = [1 if stage == 0 else 2] + [1] * (depth - 1)
            blocks = [Block(channels if i == 0 else width, width, stride) for i, stride in enumerate(strides)]
            self.stages.append(nn.Sequential(*blocks))
            channels = width
        self.top = ConvNorm(w32, dim, 1)
        self.lateral = ConvNorm(w16, dim, 1)
        self.smooth = ConvNorm(dim, dim, 3)
        self.skip8 = nn.Conv2d(w8, dim // 4, 1)
        self.skip4 = nn.Conv2d(w4, dim // 8, 1)
        self.skip2 = nn.Conv2d(STEM_WIDTH, dim // 8, 1)
        nn.init.zeros_(self.skip2.weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Skips]:
        """Encode images.

        Args:
            x: normalised RGB, (B, 3, H, W), H and W multiples of 32.

        Returns:
            Embedding (B, E, H/16, W/16), and skips (B, E/4, H/8, W/8), (B, E/8, H/4, W/4) and (B, E/8, H/2, W/2).
        """
        c2 = self.stem[:2](x)
        c4 = self.stages[0](self.stem[2:](c2))
        c8 = self.stages[1](c4)
        c16 = self.stages[2](c8)
        c32 = self.stages[3](c16)
        coarse = F.interpolate(self.top(c32), scale_factor=2.0, mode="nearest")
        embedding = F.relu(self.smooth(F.relu(coarse + self.lateral(c16))))
        return embedding, (self.skip8(c8), self.skip4(c4), self.skip2(c2))


def fuse(module: nn.Module) -> None:
    """Fold every batch norm of an eval-mode module into its convolution, in place."""
    for child in module.modules():
        if isinstance(child, ConvNorm):
            child.fuse()
