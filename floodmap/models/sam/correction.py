"""What makes a result of points: kriging, and a small network that has seen many results corrected."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CELL = 4
"""Pixels to a side of the cells that the kernel is worked out on."""
SURE = 5.0
"""Logit that a point vouches for."""
LOOKS = (0.5, 0.9)
"""How far apart directions of the embedding, and of the decoder's features, are before ground no longer looks alike."""
FAR, NEAR = (120.0, 0.7), (24.0, 0.3)
"""Reach in pixels and share of two parts of the kernel: among what looks alike, and whatever it looks like."""
EVERYWHERE = 0.05
"""Share of the third part: what is wrong at points is, a little, wrong of the whole picture."""
NOISE = 0.1
"""Variance of what points say, as a share of the kernel's: points that contradict each other meet in the middle."""
CHANNELS = 48
HINTS = 16
"""Channels that the image embedding is squeezed into."""
DILATIONS = (1, 2, 4, 8, 16, 1)
GAIN = 3.0
"""Logits to a unit of the network's last layer."""
STEEPEST = 9.0
"""Largest logit that the network is told."""


class Kriging:
    """What points say of the ground of one tile.

    Args:
        looks: of its cells, (D, H/4, W/4); see `looks_of`.
        xy: points, (N, 2) in pixels from the centre of the first, x first.
        labels: of the points, (N,): 1 flood, 0 dry.
    """

    MAPS = 6
    """Planes that `maps` returns."""

    def __init__(self, looks: Tensor, xy: Tensor, labels: Tensor) -> None:
        height, width = looks.shape[1:]
        self.labels = labels
        self.col, self.row = (
            (x / CELL).long().clamp(0, n - 1) for x, n in zip(xy.float().unbind(1), (width, height), strict=True)
        )
        own = looks[:, self.row, self.col]
        unlike = looks.square().sum(dim=0) + own.square().sum(dim=0)[:, None, None]
        self.unlike = (unlike - 2 * torch.einsum("dn,dhw->nhw", own, looks)).clamp_(min=0)
        """How unlike every cell is to each point's, (N, H/4, W/4)."""
        down = torch.arange(height, device=looks.device) - self.row[:, None]
        right = torch.arange(width, device=looks.device) - self.col[:, None]
        self.away = (down[:, :, None].square() + right[:, None].square()) * float(CELL**2)
        """Squared distance in pixels, (N, H/4, W/4)."""
        (far, share_far), (near, share_near) = FAR, NEAR
        self.kernel = share_far * torch.exp(-self.unlike / 2 - self.away / (2 * far**2))
        self.kernel += share_near * torch.exp(-self.unlike / 20 - self.away / (2 * near**2))
        self.kernel += EVERYWHERE
        """How much every cell shares with each point's, 0 to 1.05, (N, H/4, W/4)."""

    def __call__(self, logits: Tensor) -> Tensor:
        """Logits of cells, (H/4, W/4), as corrected by the points; no gradient flows through the correction."""
        sign = self.labels.float() * 2 - 1
        residual = sign * F.relu(SURE - sign * logits.detach()[self.row, self.col])
        variance = self.kernel[:, self.row, self.col] + NOISE * torch.eye(len(self.row), device=logits.device)
        return logits + torch.einsum("n,nhw->hw", torch.linalg.solve(variance, residual), self.kernel)

    def maps(self) -> Tensor:
        """What flood points, and dry ones, say by looks alone, by place alone, and by both: (6, H/4, W/4), 0 to 1."""
        (far, _), (near, _) = FAR, NEAR
        told = (
            torch.exp(-self.unlike / 2),
            torch.exp(-self.away / (2 * near**2)),
            torch.exp(-self.unlike / 4 - self.away / (2 * far**2)),
        )
        nothing = self.kernel.new_zeros(1, *self.kernel.shape[1:])
        return torch.stack(
            [torch.cat([one[self.labels == label], nothing]).amax(dim=0) for label in (1, 0) for one in told]
        )


def looks_of(embedding: Tensor, features: Tensor) -> Tensor:
    """What cells look like, (B, D, H/4, W/4): their distances are those of the kernel.

    Args:
        embedding: of the image encoder, (B, E, H/16, W/16).
        features: of the mask decoder, of cells, (B, C, H/4, W/4).
    """
    coarse = F.normalize(embedding.float(), dim=1) / LOOKS[0]
    coarse = F.interpolate(coarse, features.shape[2:], mode="bilinear", align_corners=False)
    return torch.cat([coarse, F.normalize(features.float(), dim=1) / LOOKS[1]], dim=1)


class Corrector(nn.Module):
    """Logits, features and points to corrected logits; untrained it adds nothing to kriging.

    Args:
        embed_dim: channels of the image embedding; the decoder's features have an eighth of them.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.hints = nn.Conv2d(embed_dim, HINTS, 1)
        self.first = nn.Conv2d(embed_dim // 8 + HINTS + 2 + Kriging.MAPS, CHANNELS, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(CHANNELS, CHANNELS, 3, padding=d, dilation=d) for d in DILATIONS)
        self.last = nn.Conv2d(CHANNELS, 1, 1)
        nn.init.zeros_(self.last.weight)
        self.last.bias = nn.Parameter(torch.zeros(1))

    def correct(self, ground: Ground, points: tuple[Tensor, Tensor], *, roughly: bool = False) -> Tensor:
        """Correct what was made of some ground; tiles without points keep it.

        Args:
            ground: what was seen, of tiles of H x W pixels.
            points: coordinates (B, N, 2) in pixels from the centre of the first, x first, and labels (B, N): 1 flood,
                0 dry, -1 padding.
            roughly: by kriging alone.

        Returns:
            Logits (B, H/2, W/2), float32.
        """
        logits, xy, labels = ground.logits, *points
        given = (labels >= 0).any(dim=1).nonzero()[:, 0].tolist()
        if not given:
            return logits
        base = ground.cells[given]
        with torch.autocast(logits.device.type, enabled=False):
            told = [Kriging(ground.looks[i], xy[i][labels[i] >= 0], labels[i][labels[i] >= 0]) for i in given]
            final = torch.stack([kriging(one) for kriging, one in zip(told, base, strict=True)])
            maps = None if roughly else torch.stack([kriging.maps() for kriging in told])
        if maps is not None:
            levels = torch.stack([base, final], dim=1).clamp(-STEEPEST, STEEPEST) / SURE
            refined = final + self._refine(ground, given, torch.cat([levels, maps], dim=1))
            with torch.autocast(logits.device.type, enabled=False):
                final = torch.stack([kriging(one) for kriging, one in zip(told, refined, strict=True)])
        change = F.interpolate((final - base)[:, None], logits.shape[1:], mode="bilinear", align_corners=False)[:, 0]
        return logits.index_add(0, torch.tensor(given, device=logits.device), change)

    def maps(self, ground: Ground, points: tuple[Tensor, Tensor]) -> Tensor:
        """What points say of cells, (B, 6, H/4, W/4), float32; see `Kriging.maps`. Arguments as in `correct`."""
        xy, labels = points
        with torch.autocast(ground.looks.device.type, enabled=False):
            told = (Kriging(ground.looks[i], xy[i][one >= 0], one[one >= 0]) for i, one in enumerate(labels))
            return torch.stack([kriging.maps() for kriging in told])

    def _refine(self, ground: Ground, given: list[int], maps: Tensor) -> Tensor:
        """What the network adds, (B, H/4, W/4)."""
        dtype, features = self.first.weight.dtype, ground.features[given]
        hints = self.hints(ground.embedding[given].to(dtype))
        hints = F.interpolate(hints, features.shape[2:], mode="bilinear", align_corners=False)
        told = torch.cat([features.to(dtype), hints, maps.to(dtype)], dim=1)
        x = F.relu(self.first(told.contiguous(memory_format=torch.channels_last)))  # as dilated convolutions like it
        for block in self.blocks:
            x = x + F.relu(block(x))
        refined: Tensor = self.last(x)[:, 0].float() * GAIN
        return refined


@dataclass(frozen=True, slots=True)
class Ground:
    """What was seen of tiles before anybody said anything of them.

    No gradient flows to what it is made of: that is not to be seen otherwise for what somebody said of it.
    """

    logits: Tensor
    """(B, H/2, W/2), float32."""
    cells: Tensor
    """Logits of cells, (B, H/4, W/4)."""
    embedding: Tensor
    """(B, E, H/16, W/16)."""
    features: Tensor
    """Of the mask decoder, of cells, (B, C, H/4, W/4)."""
    looks: Tensor
    """See `looks_of`."""

    @classmethod
    def of(cls, logits: Tensor, embedding: Tensor, features: Tensor | None) -> Ground:
        """From logits (B, H/2, W/2), the image encoder's embedding (B, E, H/16, W/16) and the mask decoder's features
        (B, E/8, H/2, W/2)."""
        if features is None:
            raise ValueError("corrections need the features that logits were read off")
        logits, embedding = logits.detach().float(), embedding.detach()
        fine = F.avg_pool2d(features.detach(), CELL // 2)
        with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
            return cls(logits, cells_of(logits), embedding, fine, looks_of(embedding, fine))

    def with_logits(self, logits: Tensor) -> Ground:
        """The same ground with other logits; gradients flow to these."""
        return replace(self, logits=logits, cells=cells_of(logits))


def cells_of(logits: Tensor) -> Tensor:
    """Logits of cells, (B, H/4, W/4) of (B, H/2, W/2)."""
    return F.avg_pool2d(logits[:, None], CELL // 2)[:, 0]
