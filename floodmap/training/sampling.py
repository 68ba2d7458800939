"""Deterministic batches of random pairs of views.

A batch depends only on the seed of the run, the rank of the process, and the index of the batch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from floodmap.training.augment import Light, Water
from floodmap.training.config import TrainConfig
from floodmap.training.samples import IGNORED, PLAIN_FACTOR, Pairs, Sample, Source, Views

COARSEST_LEVEL = 3
"""Number of reduced levels of an image pyramid: 1/2, 1/4 and 1/8 of full size.
Views that are shrunk are interpolated from these levels, which prevents aliasing."""
GSD_WITHHELD = 0.12
"""Share of the pairs for which the network receives no ground sample distance; users' pictures may have none."""
GSD_ERROR = 0.2
"""Standard deviation of the noise added to the natural logarithm of ground sample distances.
The noise is added because the ground sample distances of many users' pictures are only estimates."""
PREFETCH = 4
"""Number of batches that each worker process draws in advance."""


class _Pyramid:
    """Image pyramid of a sample. Each level is uint8 (5, h, w), 0 to 255.

    Planes 0 to 2 are RGB. Plane 3 is the share of flooded pixels, and plane 4 is the share of pixels with a label. In
    planes 3 and 4, the value 255 means a share of 1.
    """

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
        """Interpolate the five planes at the pixels of a view.

        The planes are read from the coarsest level whose pixels are at most 1.23 times as large as the view's pixels.
        If there is no such level, the planes are read from the level of full size. Example: with `zoom` = 4 the level
        is 1/4 of the picture's size, with `zoom` = 3 it is 1/2.

        Args:
            source_xy: coordinates of the view's pixels, (size, size, 2), in pixels of the picture, x first.
            zoom: approximate number of pixels of the picture per pixel of the view.

        Returns:
            float32 (5, size, size), 0 to 1; 0 outside the picture.
        """
        level = max(0, min(int(math.log2(max(zoom, 1.0)) + 0.3), len(self.levels) - 1))
        picture = self.levels[level]
        full = torch.tensor(self.levels[0].shape[:0:-1])
        side = torch.tensor(picture.shape[:0:-1])
        xy = source_xy * (side / full)
        # Only the rectangle around the view is converted to float.
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
    """Sampler of random pairs of views. Views are rotated, zoomed and tilted at random.

    In some pairs, the flood water is repainted: new water is painted over it (`augment.Water`). In most pairs, exposure
    and colours of the views are changed, and blur, noise or compression may be added (`augment.Light`).

    Args:
        sources: sets of samples. Each source has a share of the pairs, `Source.share`. The shares need not add up to 1,
            because they are divided by their sum.
        generator: the only source of randomness; None: a new generator with torch's default seed. The attribute
            `generator` may be replaced between batches.
    """

    def __init__(self, sources: Sequence[Source], generator: torch.Generator | None = None) -> None:
        self.sources = tuple(sources)
        self.generator = generator or torch.Generator()
        self._pyramids = [[_Pyramid(sample) for sample in source.samples] for source in self.sources]
        self._shares = torch.tensor([float(source.share) for source in self.sources])
        self._weights = [_place_weights(source.samples) for source in self.sources]
        self._flooded = [torch.tensor([float((s.mask == 1).mean()) for s in source.samples]) for source in self.sources]

    def batch(self, count: int, far_size: int, near_size: int) -> Pairs:
        """Draw a batch of pairs.

        Args:
            count: number of pairs.
            far_size: side of the far views in pixels.
            near_size: side of the near views in pixels.
        """
        picks = torch.multinomial(self._shares, count, replacement=True, generator=self.generator)
        are_plain = [
            self._uniform(0, 1) < self.sources[int(pick)].plain or self.sources[int(pick)].augment != "full"
            for pick in picks
        ]
        keep_light = [self.sources[int(pick)].augment in ("flips", "off") for pick in picks]
        drawn = (self._pair(int(p), far_size, near_size, plain) for p, plain in zip(picks, are_plain, strict=True))
        far, near, near_xy, factors, gsds_m = zip(*drawn, strict=True)
        near_gsd_m = self._given_gsd_m(torch.tensor(gsds_m))
        given_gsd_m = near_gsd_m * torch.tensor(factors), near_gsd_m
        places = [_grid(far_size).expand(count, -1, -1, -1)]
        places.append(torch.stack([_grid(near_size) / f + xy for f, xy in zip(factors, near_xy, strict=True)]))
        shares = torch.tensor([self.sources[int(pick)].repainted for pick in picks])
        water, light = Water.draw(shares, self.generator), Light.draw(count, self.generator)
        light.disable(torch.tensor([
            plain and (self._uniform(0, 1) < 0.5 or keep) for plain, keep in zip(are_plain, keep_light, strict=True)
        ]))  # fmt: skip
        views = []
        both = torch.stack(far), torch.stack(near)
        for planes, place, detail, gsd_m in zip(both, places, (0.4, 1.0), given_gsd_m, strict=True):
            scored = planes[:, 4] > 0.5
            target = (planes[:, 3] / planes[:, 4].clamp(min=1e-3)).clamp(0, 1)
            rgb = water.on(planes[:, :3], target, place * (2 / far_size), detail)
            views.append(Views(light.on(rgb, self.generator) * scored[:, None] * 255.0, target, scored, gsd_m))
        return Pairs(views[0], views[1], torch.stack(near_xy), torch.tensor(factors))

    def _given_gsd_m(self, gsd_m: Tensor) -> Tensor:
        """Return ground sample distances as input of the network, (B,), in metres: with noise, or 0 if withheld.

        `gsd_m` holds the distances without noise, (B,), in metres.
        """
        chance = torch.rand(len(gsd_m), generator=self.generator)
        error = torch.randn(len(gsd_m), generator=self.generator) * GSD_ERROR
        return torch.where(chance < GSD_WITHHELD, 0.0, gsd_m * error.exp())

    def _pair(
        self, pick: int, far_size: int, near_size: int, plain: bool
    ) -> tuple[Tensor, Tensor, Tensor, float, float]:
        """Draw a pair of views of a random picture.

        Args:
            pick: index of the source.
            far_size: side of the far view in pixels.
            near_size: side of the near view in pixels.
            plain: True: draw without interpolation; see `Source.plain`.

        Returns:
            Five values: the planes (see `_Pyramid`) of the far view and of the near view, (5, size, size), 0 to 1;
            `near_xy` and `factor` of the pair, see `Pairs`; and the ground sample distance of the near view in metres,
            0 if unknown.
        """
        source = self.sources[pick]
        wet = self._uniform(0, 1) < source.wet and bool(self._flooded[pick].any())
        weights = self._weights[pick] * (self._flooded[pick] if wet else 1)
        number = int(torch.multinomial(weights, 1, generator=self.generator))
        pyramid, sample = self._pyramids[pick][number], source.samples[number]
        height, width = pyramid.levels[0].shape[1:]
        if plain:
            factor = zoom = float(PLAIN_FACTOR if source.factor[0] > 1 else 1)
            to_source = zoom_only(zoom) if source.augment == "off" else self._right_angles(source.from_above, zoom)
        else:
            factor = self._uniform(*source.factor)
            zoom = factor * math.exp(self._uniform(math.log(source.zoom[0]), math.log(source.zoom[1])))
            zoom = min(zoom, source.rim * math.sqrt(height * width) / far_size)
            to_source = self._homography(source.from_above, zoom)
        margin = 0.4 * zoom * far_size
        centre = torch.tensor([self._centre(width, margin), self._centre(height, margin)])
        reach = max(far_size / 2 - near_size / factor / 2, 0.0)
        if plain:  # pixels of the views coincide with pixels of the picture and of the pyramid level
            centre = (centre / factor).round() * factor
        for _ in range(16):  # until the centre of the near view lies in the picture, and on flood if `wet`
            near_xy = (torch.rand(2, generator=self.generator) * 2 - 1) * reach
            if plain:
                near_xy = (near_xy * factor).round() / factor
            x, y = _map(to_source, near_xy[None])[0] + centre
            if 0 <= x < width and 0 <= y < height and (not wet or pyramid.levels[0][3, int(y), int(x)] > 0):
                break
        far = pyramid.view(_map(to_source, _grid(far_size)) + centre, zoom)
        near = pyramid.view(_map(to_source, _grid(near_size) / factor + near_xy) + centre, zoom / factor)
        return far, near, near_xy, factor, sample.gsd_m * zoom / factor

    def _right_angles(self, from_above: bool, zoom: float) -> Tensor:
        """Return a random homography (3, 3) from far view to picture: flips, rotations by 90 degrees, and zoom.

        With this homography, views can be drawn without interpolation (see `Source.plain`). Coordinates in the far view
        and in the picture are in pixels. The origin of both is the centre of the far view. `zoom` is the number of
        pixels of the picture per pixel of the far view.

        Views of nadir pictures (`from_above`) get one of the eight symmetries of a square: flips, and rotations by
        multiples of 90 degrees. Views of oblique pictures get a horizontal flip, or no flip.
        """
        signs = torch.randint(0, 2, (2,), generator=self.generator) * 2.0 - 1.0
        if not from_above:
            signs[1] = 1.0
        matrix = torch.diag(torch.cat([signs * zoom, torch.ones(1)]))
        return matrix[[1, 0, 2]] if from_above and self._uniform(0, 1) < 0.5 else matrix

    def _uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def _centre(self, length: int, margin: float) -> float:
        """Draw one coordinate of a view's centre, in pixels of the picture.

        The coordinate lies at least `margin` pixels from both ends of the picture's side, which has `length` pixels.
        The middle of the side is returned if the side is too short for both margins.
        """
        return self._uniform(margin, length - margin) if length > 2 * margin else length / 2

    def _homography(self, from_above: bool, zoom: float) -> Tensor:
        """Return a random homography (3, 3) from far view to picture: rotation, flip, change of aspect ratio and tilt.

        Coordinates in the far view and in the picture are in pixels. The origin of both is the centre of the far view.
        `zoom` is the number of pixels of the picture per pixel of the far view.
        """
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


def zoom_only(zoom: float) -> Tensor:
    """Return the homography (3, 3) from far view to picture without rotation and flip.

    Coordinates in the far view and in the picture are in pixels. The origin of both is the centre of the far view.

    Args:
        zoom: number of pixels of the picture per pixel of the far view.
    """
    return torch.diag(torch.tensor([zoom, zoom, 1.0]))


def _place_weights(samples: Sequence[Sample]) -> Tensor:
    """Return the weight with which each of n samples is drawn, (n,), such that every place is drawn equally often.

    Samples with the same name `Sample.place` show the same place. A sample without a name is the only one of its place.
    Example: of three samples, two show the same place. The weights are 0.5, 0.5 and 1.
    """
    count = Counter(sample.place for sample in samples if sample.place)
    return torch.tensor([1.0 / count.get(sample.place, 1) for sample in samples])


def _grid(size: int) -> Tensor:
    """Return the coordinates of a view's pixels, in pixels from the view's centre, (size, size, 2), x first."""
    axis = torch.arange(size) + 0.5 - size / 2
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)


def _map(homography: Tensor, xy: Tensor) -> Tensor:
    """Apply a homography (3, 3) to points (..., 2), x first."""
    mapped = xy @ homography[:, :2].T + homography[:, 2]
    return mapped[..., :2] / mapped[..., 2:]


class Batches(Dataset[Pairs]):
    """Endless sequence of random batches: access to a batch by index, and iteration from the batch `first` on.

    Args:
        sampler: sampler of the pairs.
        config: settings of the run: seed, sizes of the batches, number of worker processes.
        rank: rank of the training process. Processes of different ranks draw different batches.
        first: index of the first batch of the iterator.
    """

    def __init__(self, sampler: PairSampler, config: TrainConfig, rank: int = 0, first: int = 0) -> None:
        self._sampler, self._config, self._rank = sampler, config, rank
        self._iterator = self._draw(first)

    def __getitem__(self, number: int) -> Pairs:
        """Return the batch with the index `number`; the same index always gives the same batch."""
        generator = torch.Generator().manual_seed((self._config.seed + self._rank) * 1_000_003 + number)
        self._sampler.generator = generator
        size = int(torch.multinomial(torch.tensor(self._config.size_shares), 1, generator=generator))
        far_size, near_size, pairs = self._config.sizes[size]
        return self._sampler.batch(pairs, far_size, near_size)

    def __next__(self) -> Pairs:
        return next(self._iterator)

    def _draw(self, first: int) -> Iterator[Pairs]:
        if self._config.workers == 0:
            yield from map(self.__getitem__, count(first))
        else:  # forked workers share the pictures in memory
            yield from DataLoader(
                self, batch_size=None, sampler=count(first), num_workers=self._config.workers, prefetch_factor=PREFETCH,
                multiprocessing_context="fork",
            )  # fmt: skip
