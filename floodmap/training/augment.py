"""Water and light that labelled pictures do not show, painted over them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import jpeg

WAVES = 64
"""Half waves along a side of the patches that waves are cut from."""
TANNIN = 0.45
"""Share of the painted water that is dark and brown, as it stands between houses and trees: few pictures show it."""


@dataclass(frozen=True, slots=True)
class Water:
    """Other water for the flooded part of pictures: two colours that flow into each other, waves, reflections, and the
    water of another picture of the batch."""

    opacity: Tensor
    """(B, 1, 1, 1); 0 where the water stays as it is."""
    colours: Tensor
    """(B, 2, 3, 1, 1), 0 to 1."""
    mixture: Tensor
    """(B, 1, 5, 5) over the far view: how much of the second colour."""
    waves: Tensor
    """(B, 2, WAVES, WAVES): a patch of swell and one of ripples, to be repeated."""
    directions: Tensor
    """(B, 2, 2, 2): places in the far view, -1 to 1, to places in those patches."""
    heights: Tensor
    """(B, 2, 1, 1): of swell and ripples, as a share of the water's brightness."""
    mirrored: Tensor
    """(B, 1, 1, 1): how much of what stands behind it, and of the sky, the water reflects."""
    sky: Tensor
    """(B, 3, 1, 1): its colour in the water, 0 to 1."""
    tall: Tensor
    """(B,): how much stands behind the water, in units of half a far view."""
    borrowed: Tensor
    """bool (B,): whether it is painted with another picture's water, where one of the batch has enough."""

    @classmethod
    def draw(cls, shares: Tensor, generator: torch.Generator) -> Water:
        """Water for a batch, each picture's repainted with its probability."""

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(len(shares), *shape, 1, 1, generator=generator)

        def chosen(share: Tensor | float) -> Tensor:
            return (torch.rand(len(shares), generator=generator) < share).float()[:, None, None, None]

        # From nearly black through olive and brown to bright shallows over sand; or as dark and brown as tea.
        colours = torch.exp(uniform(-3.5, -0.6, 2, 1)) * torch.exp(uniform(-0.3, 0.3, 2, 3))
        tint = torch.tensor([0.25, 0.0, -0.2])[:, None, None]
        tannin = torch.exp(uniform(-3.5, -1.6, 2, 1)) * torch.exp(tint + uniform(-0.2, 0.2, 2, 3))
        angle = uniform(-math.pi, math.pi, 2)[..., 0, 0]
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=-1).reshape(-1, 2, 2, 2)
        # Half a wave, swell and ripples, in units of half a far view; waves are up to eight times as wide as long.
        length = torch.exp(torch.cat([uniform(-3.7, -1.9, 1), uniform(-5.3, -3.7, 1)], dim=1)[..., 0])
        cells = torch.cat([length, length * torch.exp(uniform(0.0, 2.1, 2)[..., 0])], dim=-1)
        return cls(
            opacity=chosen(shares) * uniform(0.4, 1.0, 1),
            colours=torch.where(chosen(TANNIN)[..., None] > 0, tannin, colours),
            mixture=(2 * torch.randn(len(shares), 1, 5, 5, generator=generator)).sigmoid(),
            waves=torch.randn(len(shares), 2, WAVES, WAVES, generator=generator),
            directions=turn / (cells[..., None] * WAVES / 2),
            heights=uniform(0.0, 0.3, 2) ** 2 * 3,
            mirrored=chosen(0.7) * uniform(0.1, 0.9, 1),
            sky=uniform(0.4, 1.0, 1) * torch.exp(uniform(-0.1, 0.1, 3)),
            tall=torch.exp(uniform(-3.0, -0.5))[:, 0, 0],
            borrowed=chosen(0.3)[:, 0, 0, 0] > 0,
        )

    def on(self, rgb: Tensor, flood: Tensor, place: Tensor, detail: float) -> Tensor:
        """Repaint pictures.

        Args:
            rgb: (B, 3, H, W), 0 to 1.
            flood: share of each pixel, (B, H, W).
            place: (B, H, W, 2): where the pixels lie in the far view, -1 to 1.
            detail: how much of the ripples is seen.
        """
        lender, lent = int(flood.mean(dim=(1, 2)).argmax()), None
        if flood[lender].mean() > 0.5:
            lent = rgb[lender].clone(), flood[lender]
        for i in self.opacity[:, 0, 0, 0].nonzero()[:, 0]:
            mixture = F.grid_sample(
                self.mixture[i, None], place[i, None], mode="bicubic", padding_mode="border", align_corners=False
            )[0].clamp(0, 1)
            colour = torch.lerp(self.colours[i, 0], self.colours[i, 1], mixture)
            colour = colour * (1 + self._waves(int(i), place[i], detail))
            if self.mirrored[i] > 0:
                tall = float(self.tall[i] / (place[i, 1, 0, 1] - place[i, 0, 0, 1]))
                upturned = reflection(rgb[i], flood[i] > 0.5, self.sky[i], tall)
                colour = torch.lerp(colour, upturned, self.mirrored[i])
            if lent is not None and self.borrowed[i] and i != lender:
                colour = torch.lerp(colour, lent[0], lent[1])
            rgb[i] = torch.lerp(rgb[i], colour, self.opacity[i] * flood[i])
        return rgb.clamp_(0.0, 1.0)

    def _waves(self, i: int, place: Tensor, detail: float) -> Tensor:
        """(1, H, W), about 0."""
        total = torch.zeros(1, *place.shape[:2])
        for patch, to_patch, height in zip(
            self.waves[i], self.directions[i], self.heights[i] * torch.tensor([1.0, detail])[:, None, None], strict=True
        ):
            at = ((place @ to_patch.T + 1) % 4 - 2).abs() - 1  # back and forth over the patch, which has no seam then
            total += height * F.grid_sample(patch[None, None], at[None], align_corners=False)[0]
        return total


def reflection(rgb: Tensor, flooded: Tensor, sky: Tensor, tall: float) -> Tensor:
    """What still water shows of a picture seen obliquely: what stands behind it upside down, and above that the sky.

    Args:
        rgb: (3, H, W).
        flooded: bool (H, W).
        sky: its colour, (3, 1, 1).
        tall: rows that it shows of what stands behind it, at most.

    Returns:
        (3, H, W), blurred a little; of no meaning on dry ground.
    """
    rows = torch.arange(len(flooded))[:, None].expand(flooded.shape)
    bank = torch.where(flooded, -1, rows).cummax(dim=0).values  # the last dry row above
    mirrored = (2 * bank - rows).clamp(min=0)
    is_sky = (2 * bank < rows) | (rows - bank > tall) | flooded.gather(0, mirrored)
    upturned = torch.where(is_sky, sky, rgb.gather(1, mirrored.expand(3, -1, -1)))
    return F.avg_pool2d(F.pad(upturned[None], (1, 1, 3, 3), mode="replicate"), (7, 3), 1)[0]


@dataclass(frozen=True, slots=True)
class Light:
    """How pictures are recoloured: exposure, colour, haze, sharpness, noise and compression, drawn for each picture."""

    gamma: Tensor
    saturation: Tensor
    contrast: Tensor
    gain: Tensor
    haze: Tensor
    haze_level: Tensor
    blur: Tensor
    noise: Tensor
    jpeg: Tensor
    """Quality it is compressed with, 0 for not at all."""

    @classmethod
    def draw(cls, count: int, generator: torch.Generator) -> Light:
        def uniform(low: float, high: float, channels: int = 1) -> Tensor:
            return low + (high - low) * torch.rand(count, channels, 1, 1, generator=generator)

        def chosen(share: float) -> Tensor:
            return (torch.rand(count, 1, 1, 1, generator=generator) < share).float()

        return cls(
            gamma=torch.exp(uniform(-0.4, 0.4)),
            saturation=torch.exp(uniform(-0.6, 0.4)) * (1 - chosen(0.05)),
            contrast=torch.exp(uniform(-0.35, 0.3)),
            gain=torch.exp(uniform(-0.3, 0.3)) * torch.exp(uniform(-0.1, 0.1, 3)),
            haze=chosen(0.2) * uniform(0.05, 0.4),
            haze_level=uniform(0.6, 0.95),
            blur=chosen(0.3) * uniform(0.2, 1.0),
            noise=chosen(0.3) * uniform(0.0, 0.04),
            jpeg=chosen(0.15) * uniform(25.0, 85.0),
        )

    def leave(self, chosen: Tensor) -> None:
        """Leave these pictures of the batch, bool (B,), as they are."""
        for value in (self.gamma, self.saturation, self.contrast, self.gain):
            value[chosen] = 1.0
        for value in (self.haze, self.blur, self.noise, self.jpeg):
            value[chosen] = 0.0

    def on(self, rgb: Tensor, generator: torch.Generator) -> Tensor:
        """Pictures (B, 3, H, W), 0 to 1, in this light."""
        rgb = rgb.clamp(1e-4, 1.0).pow(self.gamma)
        grey = rgb.mean(dim=1, keepdim=True)
        # Saturation, contrast about a middle grey, gain and haze are one scaling and one offset.
        haze = 1 - self.haze
        scale = self.contrast * self.gain * haze
        rgb = torch.addcmul(grey * (1 - self.saturation) * scale, rgb, self.saturation * scale)
        rgb += (1 - self.contrast) * 0.4 * self.gain * haze + self.haze * self.haze_level
        blurred = self.blur[:, 0, 0, 0].nonzero()[:, 0]
        if len(blurred):
            sharp, blur = rgb[blurred], self.blur[blurred]
            soft = F.avg_pool2d(F.pad(sharp, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
            rgb[blurred] = sharp.lerp(soft, blur)
        for i in self.noise[:, 0, 0, 0].nonzero()[:, 0]:
            rgb[i] += torch.randn(rgb.shape[1:], generator=generator) * self.noise[i]
        rgb.clamp_(0.0, 1.0)
        for i in self.jpeg[:, 0, 0, 0].nonzero()[:, 0]:
            rgb[i] = jpeg((rgb[i] * 255).round().to(torch.uint8), int(self.jpeg[i])).float() / 255
        return rgb
