"""Near infrared (NIR) combined with a model's probabilities: water absorbs NIR, plants and soil reflect it.

The model's input is RGB alone. The evidence for water at a pixel is a number that is added to the logit of the model's
probability. The evidence is computed from NDWI and from NIR brightness. The evidence is negative on ground that is
bright in NIR, and positive on ground that is dark in NIR.
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

NDWI_MIDPOINT, NDWI_SLOPE = 0.05, 20.0
"""NDWI (McFeeters, IJRS 17:1425, 1996) at which the evidence from NDWI is 0, and slope of this evidence at that NDWI.
The slope is in logits per unit of NDWI."""
NDWI_WEIGHT, BRIGHTNESS_WEIGHT = 4.0, 2.0
"""Largest absolute value of the evidence from NDWI, and of the evidence from NIR brightness, in logits."""
BRIGHTNESS_MIDPOINT, BRIGHTNESS_SLOPE = 0.5, 6.0
"""Parameters of the evidence from NIR brightness, in logits:
`BRIGHTNESS_WEIGHT * tanh(BRIGHTNESS_SLOPE * (BRIGHTNESS_MIDPOINT - x))`, where x is the pixel's NIR divided by the
scene's bright NIR (see `_BRIGHT`)."""
SHADOW_GSD_M, SHADOW_EVIDENCE = 2.0, 2.0
"""Ground sample distance in metres below which shadows are visible, and upper limit of the evidence in finer scenes.
The limit is in logits. It is needed because shadows are as dark and as blue as water. It applies to every scene with a
smaller ground sample distance, and to scenes whose ground sample distance is unknown. Negative evidence (against water)
has no such limit."""
POINT_RADIUS = 64.0
"""Radius, in pixels of the tile, of the reduction of the evidence around a point prompt.
At d pixels from the point, the evidence is multiplied by `1 - exp(-(d / POINT_RADIUS)**2)`: 0 at the point itself."""
_BRIGHT = 95
"""Rank, 0 to 100, of the percentile of a scene's NIR values that is called bright NIR.
Bright NIR is typical of plants or of soil. It is a value as in the raster file, before the stretch."""
_PREVIEW = 512
"""Longer side in pixels of the preview from which bright NIR is computed."""


@dataclass(frozen=True, slots=True)
class Infrared:
    """Parameters of the evidence for water in a scene: values of the green and NIR bands, and limit of the evidence."""

    low: tuple[float, float]
    """Values of green and of NIR, as in the raster file, that the stretch maps to 0."""
    high: tuple[float, float]
    """Values of green and of NIR, as in the raster file, that the stretch maps to 255."""
    bright: float
    """Bright NIR of the scene, as in the raster file: the percentile of the scene's NIR values with rank `_BRIGHT`."""
    max_evidence: float
    """Upper limit of the evidence for water, in logits. Larger evidence is replaced by this limit.

    It is `SHADOW_EVIDENCE` in scenes where shadows may be visible. In other scenes it is the sum of `NDWI_WEIGHT` and
    `BRIGHTNESS_WEIGHT`, which the evidence never exceeds.
    """

    @classmethod
    def of(cls, scene: Scene) -> Infrared | None:
        """Compute the parameters from a downsampled preview of a scene.

        Returns:
            The parameters. None if the scene has no NIR or no valid pixel with NIR, or if bright NIR is 0 or less.
        """
        preview = scene.preview(_PREVIEW)
        known = preview.valid if preview.nir_missing is None else preview.valid & ~preview.nir_missing
        if preview.nir is None or not known.any():
            return None
        low, high = ((ends[1], ends[3]) for ends in (scene.stretch.low, scene.stretch.high))
        stretched = float(np.percentile(preview.nir[known], _BRIGHT))
        bright = low[1] + stretched * (high[1] - low[1]) / 255
        shadows = scene.gsd_m is None or scene.gsd_m < SHADOW_GSD_M
        max_evidence = SHADOW_EVIDENCE if shadows else NDWI_WEIGHT + BRIGHTNESS_WEIGHT
        return cls(low, high, bright, max_evidence) if bright > 0 else None

    def evidence(self, tile: Tile) -> Floats:
        """Return the evidence for water in a tile, in logits, float32 (height, width).

        The evidence is 0 at pixels without NIR. It is 0 at all pixels if the tile has no NIR.
        """
        if tile.nir is None:
            return np.zeros(tile.reason.shape, np.float32)
        green, nir = (
            low + plane.astype(np.float32) * ((high - low) / 255)
            for plane, low, high in zip((tile.rgb[1], tile.nir), self.low, self.high, strict=True)
        )
        green, nir = np.maximum(green, 0), np.maximum(nir, 0)
        ndwi = (green - nir) / np.maximum(green + nir, 1e-6)
        logit = NDWI_WEIGHT * np.tanh(NDWI_SLOPE / NDWI_WEIGHT * (ndwi - NDWI_MIDPOINT))
        logit += BRIGHTNESS_WEIGHT * np.tanh(BRIGHTNESS_SLOPE * (BRIGHTNESS_MIDPOINT - nir / self.bright))
        logit = np.minimum(logit, self.max_evidence)
        return np.asarray(logit if tile.nir_missing is None else np.where(tile.nir_missing, 0, logit), np.float32)


class WithInfrared:
    """Model whose probabilities are combined with the evidence for water from near infrared.

    Args:
        segmenter: the model that predicts from RGB.
        infrared: parameters of the evidence for water in the scene.
    """

    def __init__(self, segmenter: Segmenter, infrared: Infrared) -> None:
        self.segmenter, self.infrared = segmenter, infrared
        self.name, self.sha256, self.runs_on = segmenter.name, segmenter.sha256, segmenter.runs_on
        self.training, self.knows_floods, self.multiple = segmenter.training, segmenter.knows_floods, segmenter.multiple
        self.any_size, self.offloads = segmenter.any_size, segmenter.offloads
        self.best_batch_size = segmenter.best_batch_size

    def predict(self, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> list[Floats]:
        """Predict the flood probability of every pixel; see `protocol.Segmenter`."""
        probabilities = self.segmenter.predict(tiles, prompts)
        return [self._combine(*each) for each in zip(probabilities, tiles, prompts, strict=True)]

    def ood_score(self, tiles: Sequence[Tile]) -> float:
        """Compute the out-of-distribution score of a scene; see `protocol.Segmenter`."""
        return self.segmenter.ood_score(tiles)

    def _combine(self, probability: Floats, tile: Tile, prompts: Prompts) -> Floats:
        """Add the evidence for water of near infrared, see `Infrared.evidence`, to the logits of `probability`.

        Near point prompts the evidence has less weight, so that the points decide there. If `prompts.bounded` is True,
        probabilities of 0 stay 0. If a probability is NaN or infinite, all probabilities are returned unchanged.

        Returns:
            Flood probabilities of the tile, float32 (height, width).
        """
        if not np.isfinite(probability).all():
            return probability
        logit = self.infrared.evidence(tile)
        for x, y in prompts.points_xy:
            rows, cols = np.ogrid[: logit.shape[0], : logit.shape[1]]
            near = np.exp(-((rows + 0.5 - y) ** 2 + (cols + 0.5 - x) ** 2) / POINT_RADIUS**2)
            logit = logit * (1 - near).astype(np.float32)
        prior = np.clip(probability, 0.01, 0.99)
        posterior = prior / (prior + (1 - prior) * np.exp(-logit))
        if prompts.bounded:  # outside of the boxes the model's probability is 0, and must stay 0
            posterior = np.where(probability == 0, np.float32(0), posterior)
        return np.asarray(posterior, np.float32)


def with_infrared(segmenter: Segmenter, scene: Scene) -> Segmenter:
    """Combine a model with a scene's near infrared band; see `WithInfrared`.

    Returns:
        The combined model, or `segmenter` itself if the scene has no near infrared or `Infrared.of` returns None.
    """
    infrared = None if scene.nir_band is None else Infrared.of(scene)
    return segmenter if infrared is None else WithInfrared(segmenter, infrared)
