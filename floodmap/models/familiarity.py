"""Out-of-distribution detection by the distance of a scene's encoder features from those of the training views."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
PREFIX = "familiar."
"""Prefix of the names of the arrays of a `Familiarity` in a model's file."""
KEY = "familiar"
"""Key of the file's header under which the limit is stored, as JSON."""
DIMENSIONS = 32
"""Number of principal components in which distances are measured."""
NEIGHBOUR = 3
"""Rank of the training view to which a distance is measured: the third nearest, as the nearest may be an outlier."""


@dataclass(frozen=True, slots=True)
class Familiarity:
    """Nearest-neighbour distances to the training views, in whitened principal components of encoder features.

    D is the number of features of a view, K the number of principal components, N the number of training views.
    Source: Sun et al. 2022, Out-of-distribution detection with deep nearest neighbours, arXiv:2204.06507.
    """

    centre: Floats
    """Weighted mean of the features of the training views, float32 (D,)."""
    basis: Floats
    """Projection of centred features onto whitened principal components, float32 (D, K)."""
    bank: Floats
    """Features of the training views, projected by `basis`, float32 (N, K)."""
    limit: float
    """Distance above which a scene is out of distribution; a high percentile of the validation pictures' distances."""

    @classmethod
    def of(cls, views: Floats, weights: Floats) -> Familiarity:
        """Fit to features of training views, float32 (N, D), with weights, float32 (N,); the limit is infinite."""
        weights = weights / weights.sum()
        centre = weights @ views
        spread = np.sqrt(weights @ (views - centre) ** 2) + 1e-4
        scaled = (views - centre) / spread
        values, vectors = np.linalg.eigh((scaled * weights[:, None]).T @ scaled)
        values, vectors = values[::-1][:DIMENSIONS], vectors[:, ::-1][:, :DIMENSIONS]
        # Components of low variance are not scaled up to a variance of one, because their variance may be noise.
        basis = vectors / np.sqrt(values + 0.02 * values[0]) / spread[:, None]
        kept = [np.asarray(each, np.float16).astype(np.float32) for each in (centre, basis)]
        bank = ((views - kept[0]) @ kept[1]).astype(np.float16).astype(np.float32)
        return cls(kept[0], kept[1], bank, float("inf"))

    @classmethod
    def stored(cls, arrays: Mapping[str, NDArray[Any]], header: Mapping[str, str]) -> Familiarity | None:
        """Return the data stored in the arrays and the header of a model's file; None if the header has no limit."""
        if KEY not in header:
            return None
        centre, basis, bank = (
            np.asarray(arrays[f"{PREFIX}{name}"], np.float32) for name in ("centre", "basis", "bank")
        )
        return cls(centre, basis, bank, float(json.loads(header[KEY])["limit"]))

    def arrays(self) -> dict[str, NDArray[np.float16]]:
        """Return the arrays to store in a model's file, float16, by name; the limit is stored in the file's header."""
        named = {"centre": self.centre, "basis": self.basis, "bank": self.bank}
        return {f"{PREFIX}{name}": each.astype(np.float16) for name, each in named.items()}

    def distances(self, views: Floats) -> Floats:
        """Return the distance of each view from the training views, float32 (n,).

        Args:
            views: features of the views, float32 (n, D).
        """
        projected = (views - self.centre) @ self.basis
        distance = np.linalg.norm(projected[:, None] - self.bank[None], axis=2)
        return np.asarray(np.partition(distance, NEIGHBOUR - 1, axis=1)[:, NEIGHBOUR - 1], np.float32)

    def ood_score(self, views: Floats) -> float:
        """Return the out-of-distribution score of a scene; above 1 the scene is out of distribution.

        The score is the mean distance of the scene's views, divided by the limit.

        Args:
            views: features of the views, float32 (n, D).
        """
        return float(self.distances(views).mean() / self.limit)
