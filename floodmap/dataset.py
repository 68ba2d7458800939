"""Labelled pictures, and the random views of them that a model is trained on."""

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
from torchvision.transforms.v2.functional import jpeg

IGNORED = 255
"""Mask value of pixels that are not scored: outside the picture, or unlabelled."""
COARSEST_LEVEL = 3
"""Pictures are kept at 1, 1/2, 1/4 and 1/8 of their size, so that a shrunken view does not alias."""
FAR_FACTORS = (3.0, 5.0)
"""How many times coarser the far view of a pair is than the near one; `prompter.COARSE_FACTOR` lies between."""

WAVES = 64
"""Half waves along a side of the patches that waves are cut from."""
TANNIN = 0.45
"""Share of the painted water that is dark and brown, as it stands between houses and trees: few pictures show it."""
PLAIN_FACTOR = 4
"""As `prompter.COARSE_FACTOR`: a power of two, so that a level of the picture's pyramid is the far view."""


@dataclass(frozen=True, slots=True)
class Views:
    """A batch of views."""

    rgb: Tensor
    """float32 (B, 3, size, size), 0 to 255; 0 outside the picture."""
    target: Tensor
    """float32 (B, size, size): the flood share of each pixel."""
    scored: Tensor
    """bool (B, size, size)."""

    def to(self, device: torch.device) -> Views:
        return Views(*(x.to(device) for x in (self.rgb, self.target, self.scored)))

    def __getitem__(self, part: slice) -> Views:
        """Some views of the batch."""
        return Views(self.rgb[part], self.target[part], self.scored[part])


@dataclass(frozen=True, slots=True)
class Pairs:
    """The same ground twice: from far, with its surroundings, and a part of it from near."""

    far: Views
    near: Views
    near_xy: Tensor
    """(B, 2): centre of the near view in pixels of the far one, counted from the far one's centre."""
    factor: Tensor
    """(B,): near pixels per far pixel."""


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
    """Share of the views that come from this source."""
    from_above: bool
    """Straight-down pictures have no up: they are turned by any angle. Oblique ones are tilted by a few degrees."""
    zoom: tuple[float, float] = (0.6, 1.6)
    """Range of source pixels per pixel of a near view."""
    factor: tuple[float, float] = FAR_FACTORS
    """Range of near pixels per far pixel. Pictures too small to be shrunk so much are seen twice from near."""
    rim: float = 1.6
    """Most that a far view may be wider than its picture: what is mostly empty teaches little."""
    plain: float = 0.0
    """Share of the pairs seen as a scene is when it is segmented: pixel for pixel, from far by `PLAIN_FACTOR`, turned
    by right angles at most, half of them in the light they came in. Resampling blurs what is a pixel wide."""
    wet: float = 0.0
    """Share of the pairs that seek flood, for sources with little of it: pictures with more are drawn more often, and
    of sixteen places in the far view the first that is flooded."""
    repainted: float = 0.0
    """Share of the pairs whose flood is painted in other colours of water: for pictures of few kinds of water."""


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

    def view(self, source_xy: Tensor, zoom: float) -> Tensor:
        """Planes as seen at these places.

        Args:
            source_xy: (size, size, 2) in pixels of the picture, x first.
            zoom: picture pixels per pixel of the view, about.

        Returns:
            float32 (5, size, size), 0 to 1; 0 outside the picture.
        """
        level = max(0, min(int(math.log2(max(zoom, 1.0)) + 0.3), len(self.levels) - 1))
        picture = self.levels[level]
        full = torch.tensor(self.levels[0].shape[:0:-1])
        side = torch.tensor(picture.shape[:0:-1])
        xy = source_xy * (side / full)
        # Only the part in view is turned into floats.
        first = (xy.amin(dim=(0, 1)).floor().long() - 1).clamp(min=0)
        last = torch.minimum(xy.amax(dim=(0, 1)).ceil().long() + 2, side)
        if bool((last <= first).any()):
            return torch.zeros(len(picture), *source_xy.shape[:2])
        part = picture[:, first[1] : last[1], first[0] : last[0]].float() / 255.0
        normalised = (xy - first) / (last - first) * 2 - 1
        return F.grid_sample(part[None], normalised[None], mode="bilinear", padding_mode="zeros", align_corners=False)[
            0
        ]


class PairSampler:
    """Draws random pairs of views: turned, zoomed, tilted and recoloured.

    Args:
        sources: what to draw from; their shares need not add up to one.
        generator: the only source of randomness; may be exchanged between batches.
    """

    def __init__(self, sources: Sequence[Source], generator: torch.Generator | None = None) -> None:
        self.sources = tuple(sources)
        self.generator = generator or torch.Generator()
        self._pyramids = [[_Pyramid(sample) for sample in source.samples] for source in self.sources]
        self._shares = torch.tensor([float(source.share) for source in self.sources])
        self._flooded = [torch.tensor([float((s.mask == 1).mean()) for s in source.samples]) for source in self.sources]

    def batch(self, count: int, far_size: int, near_size: int) -> Pairs:
        """Draw as many pairs, of views with sides of these lengths in pixels."""
        picks = torch.multinomial(self._shares, count, replacement=True, generator=self.generator)
        are_plain = [self._uniform(0, 1) < self.sources[int(pick)].plain for pick in picks]
        drawn = (self._pair(int(p), far_size, near_size, plain) for p, plain in zip(picks, are_plain, strict=True))
        far, near, near_xy, factors = zip(*drawn, strict=True)
        places = [_grid(far_size).expand(count, -1, -1, -1)]
        places.append(torch.stack([_grid(near_size) / f + xy for f, xy in zip(factors, near_xy, strict=True)]))
        shares = torch.tensor([self.sources[int(pick)].repainted for pick in picks])
        water, light = Water.draw(shares, self.generator), Light.draw(count, self.generator)
        light.leave(torch.tensor([plain and self._uniform(0, 1) < 0.5 for plain in are_plain]))
        views = []
        for planes, place, detail in zip((torch.stack(far), torch.stack(near)), places, (0.4, 1.0), strict=True):
            scored = planes[:, 4] > 0.5
            target = (planes[:, 3] / planes[:, 4].clamp(min=1e-3)).clamp(0, 1)
            rgb = water.on(planes[:, :3], target, place * (2 / far_size), detail)
            views.append(Views(light.on(rgb, self.generator) * scored[:, None] * 255.0, target, scored))
        return Pairs(views[0], views[1], torch.stack(near_xy), torch.tensor(factors))

    def _pair(self, pick: int, far_size: int, near_size: int, plain: bool) -> tuple[Tensor, Tensor, Tensor, float]:
        source = self.sources[pick]
        wet = self._uniform(0, 1) < source.wet and bool(self._flooded[pick].any())
        weights = self._flooded[pick] if wet else torch.ones(len(source.samples))
        pyramid = self._pyramids[pick][int(torch.multinomial(weights, 1, generator=self.generator))]
        height, width = pyramid.levels[0].shape[1:]
        if plain:
            factor = zoom = float(PLAIN_FACTOR if source.factor[0] > 1 else 1)
            to_source = self._right_angles(source.from_above, zoom)
        else:
            factor = self._uniform(*source.factor)
            zoom = factor * math.exp(self._uniform(math.log(source.zoom[0]), math.log(source.zoom[1])))
            zoom = min(zoom, source.rim * math.sqrt(height * width) / far_size)
            to_source = self._homography(source.from_above, zoom)
        margin = 0.4 * zoom * far_size
        centre = torch.tensor([self._centre(width, margin), self._centre(height, margin)])
        reach = max(far_size / 2 - near_size / factor / 2, 0.0)
        if plain:  # pixels of the views on pixels of the picture and of its shrunken level
            centre = (centre / factor).round() * factor
        for _ in range(16):  # until it looks at the picture, not past it, and at flood if it is to
            near_xy = (torch.rand(2, generator=self.generator) * 2 - 1) * reach
            if plain:
                near_xy = (near_xy * factor).round() / factor
            x, y = _map(to_source, near_xy[None])[0] + centre
            if 0 <= x < width and 0 <= y < height and (not wet or pyramid.levels[0][3, int(y), int(x)] > 0):
                break
        far = pyramid.view(_map(to_source, _grid(far_size)) + centre, zoom)
        near = pyramid.view(_map(to_source, _grid(near_size) / factor + near_xy) + centre, zoom / factor)
        return far, near, near_xy, factor

    def _right_angles(self, from_above: bool, zoom: float) -> Tensor:
        """As `_homography`, without resampling: a square's eight symmetries, or left and right alone."""
        signs = torch.randint(0, 2, (2,), generator=self.generator) * 2.0 - 1.0
        if not from_above:
            signs[1] = 1.0
        matrix = torch.diag(torch.cat([signs * zoom, torch.ones(1)]))
        return matrix[[1, 0, 2]] if from_above and self._uniform(0, 1) < 0.5 else matrix

    def _uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def _centre(self, length: int, margin: float) -> float:
        return self._uniform(margin, length - margin) if length > 2 * margin else length / 2

    def _homography(self, from_above: bool, zoom: float) -> Tensor:
        """(3, 3): pixels of the far view, from its centre, to pixels of the picture, from the view's centre there."""
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
            matrix[2, :2] = torch.tensor([self._uniform(-1, 1), self._uniform(-1, 1)]) * 0.002
        return matrix


def _grid(size: int) -> Tensor:
    """Pixel centres of a view, (size, size, 2), x first, counted from its centre."""
    axis = torch.arange(size) + 0.5 - size / 2
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)


def _map(homography: Tensor, xy: Tensor) -> Tensor:
    mapped = xy @ homography[:, :2].T + homography[:, 2]
    return mapped[..., :2] / mapped[..., 2:]


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
