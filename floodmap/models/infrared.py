"""Near infrared beside a model: water absorbs it, and plants and soil do not.

The model sees colours alone. What NDWI and the brightness in near infrared say is added to its logits: a veto on what
is called water and shines, and a hint at dark water that was missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from floodmap.imagery.scene import Scene
from floodmap.imagery.tile import Tile
from floodmap.models.prompts import Prompts
from floodmap.models.protocol import Segmenter

Floats = NDArray[np.float32]

MIDDLE, STEEPNESS = 0.05, 20.0
"""NDWI (McFeeters, IJRS 17:1425, 1996) that says nothing, and how much a logit changes with it beside that."""
FROM_NDWI, FROM_BRIGHTNESS = 4.0, 2.0
"""The most that either says, as a logit."""
DARK, DARKNESS = 0.5, 6.0
"""Share of the scene's brightest near infrared below which ground is dark, and how much a logit changes with it."""
SHADOWS_M, HINT = 2.0, 2.0
"""Where pixels are smaller than this, in metres, shadows are seen: as dark and as blue as water. There the hint at
water is no stronger than this, as a logit; the veto is."""
HEARD = 64.0
"""Distance in pixels around a person's points within which these count more."""
_BRIGHT = 95
"""Percentile of a scene's near infrared that is its brightest: plants, or soil."""
_PREVIEW = 512


@dataclass(frozen=True, slots=True)
class Infrared:
    """What is known of near infrared in a scene."""

    low: tuple[float, float]
    """Values that tiles have as 0, green and near infrared."""
    high: tuple[float, float]
    """Values that tiles have as 255."""
    bright: float
    """The scene's brightest near infrared."""
    hint: float
    """The most it says for water, as a logit."""

    @classmethod
    def of(cls, scene: Scene) -> Infrared | None:
        """None where the scene has no near infrared, or none but darkness."""
        preview = scene.preview(_PREVIEW)
        if preview.nir is None or not preview.valid.any():
            return None
        low, high = ((ends[1], ends[3]) for ends in (scene.stretch.low, scene.stretch.high))
        shown = float(np.percentile(preview.nir[preview.valid], _BRIGHT))
        bright = low[1] + shown * (high[1] - low[1]) / 255
        seen = scene.gsd_m is None or scene.gsd_m < SHADOWS_M
        return cls(low, high, bright, HINT if seen else FROM_NDWI + FROM_BRIGHTNESS) if bright > 0 else None

    def evidence(self, tile: Tile) -> Floats:
        """What it says for water in a tile, a logit (height, width)."""
        if tile.nir is None:
            return np.zeros(tile.reason.shape, np.float32)
        green, nir = (
            low + plane.astype(np.float32) * ((high - low) / 255)
            for plane, low, high in zip((tile.rgb[1], tile.nir), self.low, self.high, strict=True)
        )
        green, nir = np.maximum(green, 0), np.maximum(nir, 0)
        ndwi = (green - nir) / np.maximum(green + nir, 1e-6)
        said = FROM_NDWI * np.tanh(STEEPNESS / FROM_NDWI * (ndwi - MIDDLE))
        said += FROM_BRIGHTNESS * np.tanh(DARKNESS * (DARK - nir / self.bright))
        return np.asarray(np.minimum(said, self.hint), np.float32)


class WithInfrared:
    """A model whose results near infrared has a say in.

    Args:
        segmenter: the model.
        infrared: of the scene.
    """

    def __init__(self, segmenter: Segmenter, infrared: Infrared) -> None:
        self.segmenter, self.infrared = segmenter, infrared
        self.name, self.sha256, self.runs_on = segmenter.name, segmenter.sha256, segmenter.runs_on
        self.training, self.knows_floods, self.multiple = segmenter.training, segmenter.knows_floods, segmenter.multiple
        self.any_size, self.offloads = segmenter.any_size, segmenter.offloads
        self.best_batch_size = segmenter.best_batch_size

    def predict(self, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> list[Floats]:
        """Flood probability of every pixel; see `protocol.Segmenter`."""
        found = self.segmenter.predict(tiles, prompts)
        return [self._joined(*each) for each in zip(found, tiles, prompts, strict=True)]

    def strangeness(self, tiles: Sequence[Tile]) -> float:
        """See `protocol.Segmenter`."""
        return self.segmenter.strangeness(tiles)

    def _joined(self, probability: Floats, tile: Tile, prompts: Prompts) -> Floats:
        if not np.isfinite(probability).all():
            return probability
        said = self.infrared.evidence(tile)
        for x, y in prompts.points_xy:
            rows, cols = np.ogrid[: said.shape[0], : said.shape[1]]
            near = np.exp(-((rows + 0.5 - y) ** 2 + (cols + 0.5 - x) ** 2) / HEARD**2)
            said = said * (1 - near).astype(np.float32)
        share = np.clip(probability, 0.01, 0.99)
        joined = share / (share + (1 - share) * np.exp(-said))
        if prompts.bounded:  # outside of boxes all is dry
            joined = np.where(probability == 0, np.float32(0), joined)
        return np.asarray(joined, np.float32)


def with_infrared(segmenter: Segmenter, scene: Scene) -> Segmenter:
    """The model, and near infrared beside it where the scene has that."""
    infrared = None if scene.nir_band is None else Infrared.of(scene)
    return segmenter if infrared is None else WithInfrared(segmenter, infrared)
