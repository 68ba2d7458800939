"""Labelled pictures, and the random crops of them that a model is trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

IGNORED = 255
"""Mask value of pixels that are not scored: outside the picture, or unlabelled."""
COARSEST_LEVEL = 3
"""Pictures are kept at 1, 1/2, 1/4 and 1/8 of their size, so that a shrunken crop does not alias."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled picture."""

    name: str
    rgb: NDArray[np.uint8]
    """(3, height, width)."""
    mask: NDArray[np.uint8]
    """(height, width): 1 flood, 0 dry, 255 not scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Pictures of one kind, and how they may be drawn."""

    name: str
    samples: Sequence[Sample]
    share: float
    """Share of the crops that come from this source."""
    from_above: bool
    """Straight-down pictures have no up: they are turned by any angle. Oblique ones are tilted by a few degrees."""
    zoom: tuple[float, float] = (0.6, 2.2)
    """Range of source pixels per pixel of the crop."""


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """A picture as uint8 (3, height, width)."""
    with Image.open(path) as image:
        return np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1))


def read_mask(path: Path) -> NDArray[np.uint8]:
    """A mask as uint8 (height, width), values as stored."""
    with Image.open(path) as image:
        return np.asarray(image.convert("L") if image.mode not in ("L", "P", "1") else image).astype(np.uint8)


class _Pyramid:
    """A sample at halved sizes, the mask as float with its scored share beside it."""

    def __init__(self, sample: Sample) -> None:
        rgb = torch.from_numpy(sample.rgb)
        mask = torch.from_numpy(sample.mask)
        self.levels = [
            torch.cat([rgb, (mask == 1).to(torch.uint8)[None] * 255, (mask != IGNORED).to(torch.uint8)[None] * 255])
        ]
        for _ in range(COARSEST_LEVEL):
            last = self.levels[-1]
            if min(last.shape[1:]) < 32:
                break
            self.levels.append(F.avg_pool2d(last[None].float(), 2)[0].round().to(torch.uint8))


class CropSampler:
    """Draws random crops: turned, zoomed, tilted and recoloured.

    Args:
        sources: what to draw from; their shares need not add up to one.
        generator: the only source of randomness.
    """

    def __init__(self, sources: Sequence[Source], generator: torch.Generator) -> None:
        self.sources = tuple(sources)
        self.generator = generator
        self._pyramids = [[_Pyramid(sample) for sample in source.samples] for source in self.sources]
        self._shares = torch.tensor([source.share for source in self.sources])

    def batch(self, count: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw crops.

        Returns:
            rgb float32 (count, 3, size, size) 0 to 255; target float32 (count, size, size), the flood share of each
            pixel; scored bool (count, size, size).
        """
        picks = torch.multinomial(self._shares, count, replacement=True, generator=self.generator)
        crops = torch.stack([self._crop(int(pick), size) for pick in picks])
        scored = crops[:, 4] > 0.5
        rgb = recolour(crops[:, :3], self.generator) * scored[:, None]
        return rgb * 255.0, (crops[:, 3] / crops[:, 4].clamp(min=1e-3)).clamp(0, 1), scored

    def _uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def _crop(self, pick: int, size: int) -> Tensor:
        source = self.sources[pick]
        index = int(torch.randint(len(source.samples), (), generator=self.generator))
        levels = self._pyramids[pick][index].levels
        height, width = levels[0].shape[1:]
        # No more than the whole picture and a little rim: a crop that is mostly empty teaches nothing.
        widest = max(1.1 * math.sqrt(height * width) / size, source.zoom[0])
        zoom = math.exp(
            self._uniform(math.log(source.zoom[0]), math.log(max(min(source.zoom[1], widest), source.zoom[0])))
        )
        homography = self._homography(source.from_above, zoom, size)
        margin = 0.4 * zoom * size
        centre = torch.tensor([self._centre(width, margin), self._centre(height, margin)])
        level = min(int(math.log2(max(zoom, 1.0)) + 0.3), len(levels) - 1)
        picture = levels[level]
        axis = torch.arange(size) + 0.5 - size / 2
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)
        ones = torch.ones(size, size, 1)
        mapped = torch.cat([grid, ones], dim=-1) @ homography.T
        source_xy = mapped[..., :2] / mapped[..., 2:] + centre
        normalised = source_xy / torch.tensor([width, height]) * 2 - 1
        rows = picture[None].float() / 255.0
        return F.grid_sample(rows, normalised[None], mode="bilinear", padding_mode="zeros", align_corners=False)[0]

    def _centre(self, length: int, margin: float) -> float:
        return self._uniform(margin, length - margin) if length > 2 * margin else length / 2

    def _homography(self, from_above: bool, zoom: float, size: int) -> Tensor:
        turn = (
            self._uniform(-math.pi, math.pi) if from_above else float(torch.randn((), generator=self.generator)) * 0.12
        )
        flip_x = -1.0 if self._uniform(0, 1) < 0.5 else 1.0
        flip_y = -1.0 if not from_above and self._uniform(0, 1) < 0.05 else 1.0
        stretch = math.exp(self._uniform(-0.2, 0.2))
        cos, sin = math.cos(turn) * zoom, math.sin(turn) * zoom
        matrix = torch.tensor(
            [
                [cos * flip_x * stretch, -sin * flip_y / stretch, 0.0],
                [sin * flip_x * stretch, cos * flip_y / stretch, 0.0],
                [0.0, 0.0, 1.0],
            ]
        )
        if self._uniform(0, 1) < 0.3:
            matrix[2, 0] = self._uniform(-0.5, 0.5) / size
            matrix[2, 1] = self._uniform(-0.5, 0.5) / size
        return matrix


def recolour(rgb: Tensor, generator: torch.Generator) -> Tensor:
    """Vary light, colour, haze, sharpness and noise, each picture by itself.

    Args:
        rgb: float32 (B, 3, H, W), 0 to 1.
        generator: randomness.

    Returns:
        The same shape and range.
    """
    batch = rgb.shape[0]

    def uniform(low: float, high: float, channels: int = 1) -> Tensor:
        return low + (high - low) * torch.rand(batch, channels, 1, 1, generator=generator)

    def chosen(share: float) -> Tensor:
        return (torch.rand(batch, 1, 1, 1, generator=generator) < share).float()

    rgb = rgb.clamp(1e-4, 1.0) ** torch.exp(uniform(-0.4, 0.4))
    grey = rgb.mean(dim=1, keepdim=True)
    saturation = torch.where(chosen(0.05) > 0, 0.0, torch.exp(uniform(-0.6, 0.4)))
    rgb = grey + (rgb - grey) * saturation
    level = rgb.mean(dim=(1, 2, 3), keepdim=True)
    rgb = level + (rgb - level) * torch.exp(uniform(-0.35, 0.3))
    rgb = rgb * torch.exp(uniform(-0.3, 0.3)) * torch.exp(uniform(-0.1, 0.1, 3))
    haze = chosen(0.2) * uniform(0.05, 0.4)
    rgb = rgb * (1 - haze) + haze * uniform(0.6, 0.95)
    soft = F.avg_pool2d(F.pad(rgb, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    blur = chosen(0.3) * uniform(0.2, 1.0)
    rgb = rgb * (1 - blur) + soft * blur
    noise = torch.randn(rgb.shape, generator=generator) * uniform(0.0, 0.04) * chosen(0.3)
    return (rgb + noise).clamp(0.0, 1.0)
