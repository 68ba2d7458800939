"""What makes a result of points: kriging, and a small network that has seen many results corrected.

Kriging knows no shores: how far a point reaches it tells by place and looks alone. The network sees the result before
and after, and what each point could mean; as in click-based segmentation (Sofiiuk et al. 2021, arXiv:2102.06583).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from floodmap.kriging import CELL, SURE, Kriging, looks_of

CHANNELS = 48
HINTS = 16
"""Channels that the image embedding is squeezed into."""
DILATIONS = (1, 2, 4, 8, 16, 1)
GAIN = 3.0
"""Logits to a unit of the network's last layer."""
STEEPEST = 9.0
"""Largest logit that the network is told."""


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

    def resaid(self, logits: Tensor) -> Ground:
        """The same ground with other logits; gradients flow to these."""
        return replace(self, logits=logits, cells=cells_of(logits))


def cells_of(logits: Tensor) -> Tensor:
    """Logits of cells, (B, H/4, W/4) of (B, H/2, W/2)."""
    return F.avg_pool2d(logits[:, None], CELL // 2)[:, 0]
