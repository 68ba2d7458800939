"""Out-of-distribution detection: distance of a scene's encoder features from those of the training views."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
PREFIX = "familiar."
"""Prefix of the arrays' names in a model's file."""
KEY = "familiar"
"""Key of the file's header that holds the limit, as JSON."""
DIMENSIONS = 32
"""Number of principal components in which distances are measured."""
NEIGHBOUR = 3
"""Distances are those to the third nearest training view: the nearest may be an outlier itself."""


@dataclass(frozen=True, slots=True)
class Familiarity:
    """Nearest-neighbour distance to the training views in whitened principal components of encoder features.

    Source: Sun et al. 2022, Out-of-distribution detection with deep nearest neighbours, arXiv:2204.06507.
    """

    centre: Floats
    """Mean features of the training views, float32 (D,)."""
    basis: Floats
    """Projection of features onto whitened principal components, float32 (D, K)."""
    bank: Floats
    """Training views in these components, float32 (N, K)."""
    limit: float
    """Distance above which a scene is out of distribution; few validation pictures reach it."""

    @classmethod
    def of(cls, views: Floats, weights: Floats) -> Familiarity:
        """Fit to features of training views (N, D) with weights (N,); the limit is infinite."""
        weights = weights / weights.sum()
        centre = weights @ views
        spread = np.sqrt(weights @ (views - centre) ** 2) + 1e-4
        scaled = (views - centre) / spread
        values, vectors = np.linalg.eigh((scaled * weights[:, None]).T @ scaled)
        values, vectors = values[::-1][:DIMENSIONS], vectors[:, ::-1][:, :DIMENSIONS]
        # Components of little variance are not scaled up to one: their variance may be noise.
        basis = vectors / np.sqrt(values + 0.02 * values[0]) / spread[:, None]
        kept = [np.asarray(each, np.float16).astype(np.float32) for each in (centre, basis)]
        bank = ((views - kept[0]) @ kept[1]).astype(np.float16).astype(np.float32)
        return cls(kept[0], kept[1], bank, float("inf"))

    @classmethod
    def stored(cls, arrays: Mapping[str, NDArray[Any]], header: Mapping[str, str]) -> Familiarity | None:
        """Read from the arrays and the header of a model's file; None where it has none."""
        if KEY not in header:
            return None
        centre, basis, bank = (
            np.asarray(arrays[f"{PREFIX}{name}"], np.float32) for name in ("centre", "basis", "bank")
        )
        return cls(centre, basis, bank, float(json.loads(header[KEY])["limit"]))

    def arrays(self) -> dict[str, NDArray[np.float16]]:
        """The arrays that a model's file holds, by name; the limit is in the file's header."""
        named = {"centre": self.centre, "basis": self.basis, "bank": self.bank}
        return {f"{PREFIX}{name}": each.astype(np.float16) for name, each in named.items()}

    def distances(self, views: Floats) -> Floats:
        """Distance of views from the training views, float32 (n,), from their features (n, D)."""
        projected = (views - self.centre) @ self.basis
        distance = np.linalg.norm(projected[:, None] - self.bank[None], axis=2)
        return np.asarray(np.partition(distance, NEIGHBOUR - 1, axis=1)[:, NEIGHBOUR - 1], np.float32)

    def ood_score(self, views: Floats) -> float:
        """Out-of-distribution score of a scene: mean distance of its views (n, D), in units of the limit."""
        return float(self.distances(views).mean() / self.limit)
