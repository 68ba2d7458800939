"""Data augmentation of pictures: repainted flood water (`Water`), and changed exposure, colour and noise (`Light`)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import jpeg

WAVES = 64
"""Number of random values along each side of a square patch. Waves are interpolated from the values of a patch:
neighbouring values are half a wavelength apart."""
TANNIN = 0.45
"""Share of the repainted views, 0 to 1, in which the new water is dark brown.

Water between houses and trees often has this colour, but few labelled pictures show such water."""


@dataclass(frozen=True, slots=True)
class Water:
    """Random parameters for repainting the flood water of a batch of B views.

    The new water has waves, reflections, and two colours that blend into each other, or is a copy of the water of
    another view. All coordinates refer to the far view of a pair (see `samples.Pairs`): x and y go from -1 to 1.
    """

    opacity: Tensor
    """(B, 1, 1, 1), 0 to 1: opacity of the new water; 0 leaves a view unchanged."""
    colours: Tensor
    """(B, 2, 3, 1, 1), 0 to 1: two RGB colours for each view."""
    mixture: Tensor
    """(B, 1, 5, 5), 0 to 1: share of the second colour, on a grid over the far view."""
    waves: Tensor
    """(B, 2, WAVES, WAVES): patches of normally distributed noise, for swell and for ripples (long and short waves)."""
    directions: Tensor
    """(B, 2, 2, 2): for swell and for ripples, a 2 x 2 matrix that maps (x, y) in the far view to (x, y) in the patch.

    The matrix rotates the axes, and then scales them. After the rotation, x points in the direction in which the waves
    travel, and y points along the crests. The scale of x is such that neighbouring values of the patch are half a
    wavelength apart along x. The scale of y is such that neighbouring values are 1 to 8 times this distance apart along
    y, because the crests of waves are long. The patch of `waves` covers -1 to 1 along both axes. Outside this range,
    mirror images continue the patch."""
    heights: Tensor
    """(B, 2, 1, 1): amplitudes of swell and ripples, as a share of the water's brightness."""
    mirrored: Tensor
    """(B, 1, 1, 1), 0 to 1: share of the reflection in the water's colour."""
    sky: Tensor
    """(B, 3, 1, 1), about 0 to 1: RGB colour of the reflected sky."""
    tall: Tensor
    """(B,): greatest height of a reflected object, in units of half the side of the far view."""
    borrowed: Tensor
    """bool (B,), True: the new water of a view is copied from the donor, the most flooded view of the batch.

    Each pixel is copied from the same row and column of the donor. True has no effect on pixels that are dry in the
    donor, and no effect on the donor itself. If at most half of the donor is flooded, True has no effect on any view.
    """

    @classmethod
    def draw(cls, shares: Tensor, generator: torch.Generator) -> Water:
        """Draw random parameters for a batch of B views.

        Args:
            shares: probability that a view is repainted, (B,), 0 to 1, for each view.
            generator: source of randomness.
        """

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand(len(shares), *shape, 1, 1, generator=generator)

        def chosen(share: Tensor | float) -> Tensor:
            return (torch.rand(len(shares), generator=generator) < share).float()[:, None, None, None]

        # Colours from nearly black through olive and brown to bright shallow water over sand; tannin: dark and brown.
        colours = torch.exp(uniform(-3.5, -0.6, 2, 1)) * torch.exp(uniform(-0.3, 0.3, 2, 3))
        tint = torch.tensor([0.25, 0.0, -0.2])[:, None, None]
        tannin = torch.exp(uniform(-3.5, -1.6, 2, 1)) * torch.exp(tint + uniform(-0.2, 0.2, 2, 3))
        angle = uniform(-math.pi, math.pi, 2)[..., 0, 0]
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=-1).reshape(-1, 2, 2, 2)
        # `length`: half a wavelength of swell and of ripples, in units of half a far view. Waves are 1 to 8 times as
        # wide as long.
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
        """Repaint the flood water of views, in place.

        Args:
            rgb: RGB of the views, (B, 3, H, W), 0 to 1.
            flood: flooded share of each pixel, (B, H, W), 0 to 1.
            place: coordinates of the pixels in the far view of the pair, (B, H, W, 2), -1 to 1, x first.
            detail: factor on the amplitude of the ripples, 0 to 1.

        Returns:
            The tensor `rgb`, clipped to 0 to 1.
        """
        donor, donor_water = int(flood.mean(dim=(1, 2)).argmax()), None
        if flood[donor].mean() > 0.5:
            donor_water = rgb[donor].clone(), flood[donor]
        for i in self.opacity[:, 0, 0, 0].nonzero()[:, 0]:
            mixture = F.grid_sample(
                self.mixture[i, None], place[i, None], mode="bicubic", padding_mode="border", align_corners=False
            )[0].clamp(0, 1)
            colour = torch.lerp(self.colours[i, 0], self.colours[i, 1], mixture)
            colour = colour * (1 + self._waves(int(i), place[i], detail))
            if self.mirrored[i] > 0:
                tall = float(self.tall[i] / (place[i, 1, 0, 1] - place[i, 0, 0, 1]))
                reflected = reflection(rgb[i], flood[i] > 0.5, self.sky[i], tall)
                colour = torch.lerp(colour, reflected, self.mirrored[i])
            if donor_water is not None and self.borrowed[i] and i != donor:
                colour = torch.lerp(colour, donor_water[0], donor_water[1])
            rgb[i] = torch.lerp(rgb[i], colour, self.opacity[i] * flood[i])
        return rgb.clamp_(0.0, 1.0)

    def _waves(self, i: int, place: Tensor, detail: float) -> Tensor:
        """Return the change of brightness by waves in view `i`, as a share of the water's brightness, (1, H, W).

        `place`, (H, W, 2), and `detail` are as in `on`.
        """
        total = torch.zeros(1, *place.shape[:2])
        for patch, to_patch, height in zip(
            self.waves[i], self.directions[i], self.heights[i] * torch.tensor([1.0, detail])[:, None, None], strict=True
        ):
            at = ((place @ to_patch.T + 1) % 4 - 2).abs() - 1  # tiled by mirroring, so that there is no seam
            total += height * F.grid_sample(patch[None, None], at[None], align_corners=False)[0]
        return total


def reflection(rgb: Tensor, flooded: Tensor, sky: Tensor, tall: float) -> Tensor:
    """Compute the colours that flood water reflects, as if the picture were oblique and the water still.

    The bank of a flood pixel is the nearest dry pixel above it in the same column. The flood pixel reflects the pixel
    that is as many rows above the bank as the flood pixel is below the bank. For example, with the bank in row 10, the
    flood pixel in row 12 reflects row 8. The flood pixel reflects the sky instead in four cases: it has no bank, it is
    more than `tall` rows below the bank, or the reflected pixel is outside the picture or is flooded.

    Args:
        rgb: RGB of the picture, (3, H, W), 0 to 1.
        flooded: bool (H, W), True on flood water.
        sky: RGB colour of the sky, (3, 1, 1).
        tall: greatest height of a reflected object, in rows.

    Returns:
        Reflected RGB, (3, H, W), 0 to 1, slightly blurred. Values on dry ground have no meaning.
    """
    rows = torch.arange(len(flooded))[:, None].expand(flooded.shape)
    bank = torch.where(flooded, -1, rows).cummax(dim=0).values  # index of the last dry row above each pixel
    mirrored = (2 * bank - rows).clamp(min=0)
    is_sky = (2 * bank < rows) | (rows - bank > tall) | flooded.gather(0, mirrored)
    reflected = torch.where(is_sky, sky, rgb.gather(1, mirrored.expand(3, -1, -1)))
    return F.avg_pool2d(F.pad(reflected[None], (1, 1, 3, 3), mode="replicate"), (7, 3), 1)[0]


@dataclass(frozen=True, slots=True)
class Light:
    """Random photometric changes of B views: exposure, colour, haze, blur, noise, compression.

    Each field is (B, 1, 1, 1); `gain` is (B, 3, 1, 1). All fields apply to RGB values of 0 to 1.
    """

    gamma: Tensor
    """Exponent of RGB; 1: unchanged."""
    saturation: Tensor
    """Factor on the difference between RGB and grey; 1: unchanged, 0: grey."""
    contrast: Tensor
    """Factor on the difference between RGB and middle grey (0.4); 1: unchanged."""
    gain: Tensor
    """Factor on red, green and blue; 1: unchanged."""
    haze: Tensor
    """Share of haze in RGB, 0 to 1."""
    haze_level: Tensor
    """Brightness of the haze, 0 to 1."""
    blur: Tensor
    """Share of the blurred view (the mean of 3 x 3 pixels) in RGB, 0 to 1; 0: unchanged."""
    noise: Tensor
    """Standard deviation of the noise that is added to RGB; 0: no noise."""
    jpeg: Tensor
    """JPEG quality, 25 to 85; 0: not compressed."""

    @classmethod
    def draw(cls, count: int, generator: torch.Generator) -> Light:
        """Draw random parameters for `count` views; `generator` is the source of randomness."""

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

    def disable(self, chosen: Tensor) -> None:
        """Set the parameters of some views such that these views stay unchanged.

        Args:
            chosen: bool (B,), True for views that stay unchanged.
        """
        for value in (self.gamma, self.saturation, self.contrast, self.gain):
            value[chosen] = 1.0
        for value in (self.haze, self.blur, self.noise, self.jpeg):
            value[chosen] = 0.0

    def on(self, rgb: Tensor, generator: torch.Generator) -> Tensor:
        """Apply the changes to views.

        Args:
            rgb: RGB of the views, (B, 3, H, W), 0 to 1.
            generator: source of randomness for the noise.

        Returns:
            Changed RGB, (B, 3, H, W), 0 to 1.
        """
        rgb = rgb.clamp(1e-4, 1.0).pow(self.gamma)
        grey = rgb.mean(dim=1, keepdim=True)
        # Saturation, contrast about a middle grey, gain and haze are combined into one factor and one offset.
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
