"""Correction of logits at the user's points: kriging in feature space and pixel space, refined by a small network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from floodmap.models.backends.threads import one_thread

CELL = 4
"""Side of a cell in pixels of the tile. A cell is a square of pixels; kriging corrects cells, not single pixels."""
POINT_LOGIT = 5.0
"""Target of kriging for the logit in the cell of a flood point; for a dry point, the target is minus this value.
If the logit is beyond the target already, the logit itself is the target."""
FEATURE_SCALES = (0.5, 0.9)
"""Length scales of the kernel in feature space: a feature vector is normalized to a Euclidean norm of 1, and divided by
its length scale. The first number is for the image embedding, the second for the decoder's features."""
LONG_RANGE, SHORT_RANGE = (120.0, 0.7), (24.0, 0.3)
"""Settings of two terms of the kernel. The kernel is the covariance of two cells, as a sum of several terms.
Each setting is a pair: the length scale of the term in pixels of the tile, and the weight of the term in the sum.
The term `LONG_RANGE` is large only between cells with similar features. The term `SHORT_RANGE` hardly depends on the
features."""
EVERYWHERE = 0.05
"""Weight of the kernel's constant term. By this term, a point changes the whole tile a little."""
NOISE = 0.1
"""Variance of the noise at points; the kernel's variance is about 1. With noise, contradictory points are averaged."""
CHANNELS = 48
"""Number of channels of the layers of the correction network."""
HINTS = 16
"""Number of channels to which the correction network reduces the image embedding."""
DILATIONS = (1, 2, 4, 8, 16, 1)
"""Dilations of the residual convolutions of the correction network."""
OUTPUT_SCALE = 3.0
"""Factor by which the output of the correction network's last layer is multiplied to get logits."""
MAX_INPUT_LOGIT = 9.0
"""Largest absolute logit in the input of the correction network; larger logits are clamped."""


class Kriging:
    """Kriging (Gaussian process regression) from the points of one tile to all cells (4 x 4 pixels) of the tile.

    Args:
        appearance: features of the cells, (D, H/4, W/4); see `appearance_of`.
        xy: coordinates of the points, (N, 2) in tile pixels from the centre of the first pixel, x first.
        labels: labels of the points, (N,): 1 flood, 0 dry.
    """

    MAPS = 6
    """Number of planes that `maps` returns."""

    def __init__(self, appearance: Tensor, xy: Tensor, labels: Tensor) -> None:
        height, width = appearance.shape[1:]
        self.labels = labels
        self.col, self.row = (
            (x / CELL).long().clamp(0, n - 1) for x, n in zip(xy.float().unbind(1), (width, height), strict=True)
        )
        own = appearance[:, self.row, self.col]
        squares = appearance.square().sum(dim=0) + own.square().sum(dim=0)[:, None, None]
        with one_thread():
            products = torch.einsum("dn,dhw->nhw", own, appearance)
        self.dissimilarity = (squares - 2 * products).clamp_(min=0)
        """Squared distance in feature space between the cell of each point and every cell, (N, H/4, W/4)."""
        down = torch.arange(height, device=appearance.device) - self.row[:, None]
        right = torch.arange(width, device=appearance.device) - self.col[:, None]
        self.distance2 = (down[:, :, None].square() + right[:, None].square()) * float(CELL**2)
        """Squared distance, in square pixels, between the cell of each point and every cell, (N, H/4, W/4)."""
        (far, weight_far), (near, weight_near) = LONG_RANGE, SHORT_RANGE
        self.kernel = weight_far * torch.exp(-self.dissimilarity / 2 - self.distance2 / (2 * far**2))
        self.kernel += weight_near * torch.exp(-self.dissimilarity / 20 - self.distance2 / (2 * near**2))
        self.kernel += EVERYWHERE
        """Covariance of every cell with the cell of each point, 0 to 1.05, (N, H/4, W/4)."""

    def __call__(self, logits: Tensor) -> Tensor:
        """Correct the logits of cells, so that the cells of the points agree with the labels of the points.

        Args:
            logits: flood logits of the cells, (H/4, W/4).

        Returns:
            Corrected logits, (H/4, W/4). Gradients flow to `logits`, but not through the added correction.
        """
        sign = self.labels.float() * 2 - 1
        residual = sign * F.relu(POINT_LOGIT - sign * logits.detach()[self.row, self.col])
        variance = self.kernel[:, self.row, self.col] + NOISE * torch.eye(len(self.row), device=logits.device)
        with one_thread():
            return logits + torch.einsum("n,nhw->hw", torch.linalg.solve(variance, residual), self.kernel)

    def maps(self) -> Tensor:
        """Return the similarity of each cell to the most similar point, as six planes (6, H/4, W/4), 0 to 1.

        Planes 0 to 2 are for flood points, planes 3 to 5 for dry points. The three planes of a label differ in the
        measure of similarity: features alone, distance in pixels alone, features and distance. All planes of a label
        are 0 if no point has this label.
        """
        (far, _), (near, _) = LONG_RANGE, SHORT_RANGE
        similarities = (
            torch.exp(-self.dissimilarity / 2),
            torch.exp(-self.distance2 / (2 * near**2)),
            torch.exp(-self.dissimilarity / 4 - self.distance2 / (2 * far**2)),
        )
        zeros = self.kernel.new_zeros(1, *self.kernel.shape[1:])
        return torch.stack(
            [torch.cat([one[self.labels == label], zeros]).amax(dim=0) for label in (1, 0) for one in similarities]
        )


def appearance_of(embedding: Tensor, features: Tensor) -> Tensor:
    """Compute features of cells (4 x 4 pixels); the kernel compares two cells by the distance between the features.

    Args:
        embedding: image embedding, (B, E, H/16, W/16).
        features: features of the mask decoder, averaged over cells, (B, C, H/4, W/4).

    Returns:
        Normalized and scaled features, float32 (B, D, H/4, W/4), with D = E + C.
    """
    coarse = F.normalize(embedding.float(), dim=1) / FEATURE_SCALES[0]
    coarse = F.interpolate(coarse, features.shape[2:], mode="bilinear", align_corners=False)
    return torch.cat([coarse, F.normalize(features.float(), dim=1) / FEATURE_SCALES[1]], dim=1)


def krigings_of(ground: Ground, points: tuple[Tensor, Tensor]) -> list[Kriging]:
    """Return the kriging of each of B tiles.

    Args:
        ground: the model's outputs for a batch of B tiles of H x W pixels; only `Ground.appearance` is used.
        points: coordinates (B, N, 2) in tile pixels from the centre of the first pixel, x first, and labels (B, N):
            1 flood, 0 dry, -1 padding.
    """
    xy, labels = points
    with torch.autocast(ground.appearance.device.type, enabled=False):
        return [Kriging(ground.appearance[i], xy[i][one >= 0], one[one >= 0]) for i, one in enumerate(labels)]


class Corrector(nn.Module):
    """Correction of logits at the user's points: kriging, a network that changes the result, and kriging again.

    With the initial weights of the network, only kriging changes the logits.

    Args:
        embed_dim: number of channels of the image embedding. The decoder's features have an eighth of this number.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.hints = nn.Conv2d(embed_dim, HINTS, 1)
        self.first = nn.Conv2d(embed_dim // 8 + HINTS + 2 + Kriging.MAPS, CHANNELS, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=d, dilation=d) for d in DILATIONS)
        self.last = nn.Conv2d(CHANNELS, 1, 1)
        nn.init.zeros_(self.last.weight)
        self.last.bias = nn.Parameter(torch.zeros(1))

    def correct(self, ground: Ground, krigings: Sequence[Kriging], *, roughly: bool = False) -> Tensor:
        """Correct the logits of tiles at the user's points; logits of tiles without points stay unchanged.

        Args:
            ground: the logits to correct, and the model's features, for a batch of B tiles of H x W pixels.
            krigings: the kriging of each tile, see `krigings_of`.
            roughly: True: correct by kriging alone, without the network.

        Returns:
            Logits (B, H/2, W/2), float32.
        """
        logits = ground.logits
        indices = [i for i, kriging in enumerate(krigings) if len(kriging.labels)]
        if not indices:
            return logits
        base, own = ground.cells[indices], [krigings[i] for i in indices]
        with torch.autocast(logits.device.type, enabled=False):
            final = torch.stack([kriging(one) for kriging, one in zip(own, base, strict=True)])
            maps = None if roughly else torch.stack([kriging.maps() for kriging in own])
        if maps is not None:
            levels = torch.stack([base, final], dim=1).clamp(-MAX_INPUT_LOGIT, MAX_INPUT_LOGIT) / POINT_LOGIT
            refined = final + self._refine(ground, indices, torch.cat([levels, maps], dim=1))
            with torch.autocast(logits.device.type, enabled=False):
                final = torch.stack([kriging(one) for kriging, one in zip(own, refined, strict=True)])
        change = F.interpolate((final - base)[:, None], logits.shape[1:], mode="bilinear", align_corners=False)[:, 0]
        return logits.index_add(0, torch.tensor(indices, device=logits.device), change)

    def _refine(self, ground: Ground, indices: list[int], maps: Tensor) -> Tensor:
        """Compute, by the network, the change of the cells' logits, (n, H/4, W/4), for n tiles of the batch.

        Args:
            ground: the model's outputs for the whole batch; `features` and `embedding` of `Ground` are used.
            indices: indices in the batch of the n tiles with points.
            maps: logits before and after kriging, and similarity maps, (n, 2 + `Kriging.MAPS`, H/4, W/4).
        """
        dtype, features = self.first.weight.dtype, ground.features[indices]
        hints = self.hints(ground.embedding[indices].to(dtype))
        hints = F.interpolate(hints, features.shape[2:], mode="bilinear", align_corners=False)
        inputs = torch.cat([features.to(dtype), hints, maps.to(dtype)], dim=1)
        x = F.relu(self.first(inputs.contiguous(memory_format=torch.channels_last)))  # faster dilated convolutions
        for block in self.blocks:
            x = x + F.relu(block(x))
        refined: Tensor = self.last(x)[:, 0].float() * OUTPUT_SCALE
        return refined


@dataclass(frozen=True, slots=True)
class Ground:
    """Outputs of a model before any point is applied, from which the correction starts; without gradients.

    The name means the basis of the correction, not the ground in a picture. Tiles are encoded, and decoded without
    points. Then their logits are corrected at the points, and the tiles are decoded again (see `FloodSam.decode`). In
    training, gradients must not flow from the correction back into the encoding and the first decoding. The outputs of
    these two steps are therefore detached from the graph of gradients.
    """

    logits: Tensor
    """Flood logits, float32 (B, H/2, W/2)."""
    cells: Tensor
    """Flood logits averaged over cells (4 x 4 pixels of the tile), (B, H/4, W/4)."""
    embedding: Tensor
    """Image embedding, (B, E, H/16, W/16)."""
    features: Tensor
    """Features of the mask decoder, averaged over cells, (B, C, H/4, W/4)."""
    appearance: Tensor
    """Features of cells for the kernel, float32 (B, D, H/4, W/4); see `appearance_of`."""

    @classmethod
    def of(cls, logits: Tensor, embedding: Tensor, features: Tensor | None) -> Ground:
        """Detach a model's outputs from the gradients, and compute the features of cells for the kernel.

        Args:
            logits: flood logits, (B, H/2, W/2).
            embedding: image embedding, (B, E, H/16, W/16).
            features: features of the mask decoder, (B, E/8, H/2, W/2).

        Raises:
            ValueError: `features` is None, because the decoder did not keep them.
        """
        if features is None:
            raise ValueError("corrections need the features that logits were read off")
        logits, embedding = logits.detach().float(), embedding.detach()
        fine = F.avg_pool2d(features.detach(), CELL // 2)
        with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
            return cls(logits, cells_of(logits), embedding, fine, appearance_of(embedding, fine))

    def with_logits(self, logits: Tensor) -> Ground:
        """Return these outputs with other flood logits; gradients flow to the new logits.

        Args:
            logits: flood logits, (B, H/2, W/2).
        """
        return replace(self, logits=logits, cells=cells_of(logits))


def cells_of(logits: Tensor) -> Tensor:
    """Return the mean logit of each cell (4 x 4 pixels of the tile).

    Args:
        logits: flood logits, (B, H/2, W/2).

    Returns:
        Mean logits, (B, H/4, W/4).
    """
    return F.avg_pool2d(logits[:, None], CELL // 2)[:, 0]
