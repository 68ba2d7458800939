"""Out-of-distribution detection: distance between the encoder features of a scene and of the training views."""

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
"""Name of an entry in the header of a model's file.
The value of the entry is JSON text, such as `{"limit": 1.5}`; see `Familiarity.limit`."""
DIMENSIONS = 32
"""Number of principal components in which distances are measured."""
NEIGHBOUR = 3
"""Rank of the training view to which a distance is measured: third nearest, because the nearest may be an outlier."""


@dataclass(frozen=True, slots=True)
class Familiarity:
    """Encoder features of a model's training views, from which the distance of other images is measured.

    The distance of an image is the distance from the `NEIGHBOUR`th nearest training view, in whitened principal
    components of the features. D is the number of features of a view, K the number of principal components, N the
    number of training views.
    Source: Sun et al. 2022, Out-of-distribution detection with deep nearest neighbours, arXiv:2204.06507.
    """

    centre: Floats
    """Weighted mean of the features of the training views, float32 (D,)."""
    basis: Floats
    """Matrix that projects features, minus `centre`, onto whitened principal components, float32 (D, K)."""
    bank: Floats
    """Features of the training views, projected by `basis`, float32 (N, K)."""
    limit: float
    """Distance above which a scene is out of distribution: a percentile of the distances of the validation pictures.
    The percentile is `LIMIT` in `scripts/familiar_ground.py`."""

    @classmethod
    def of(cls, views: Floats, weights: Floats) -> Familiarity:
        """Build a `Familiarity` from the features of training views; the field `limit` is infinite.

        Args:
            views: features of the training views, float32 (N, D).
            weights: weight of each training view in mean and variance, float32 (N,); the sum need not be 1.
        """
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
        """Build a `Familiarity` from the arrays and the header of a model's file; None if the header has no limit.

        Args:
            arrays: arrays of the file by name, with at least the arrays that the method `arrays` returns.
            header: metadata of the file: texts by key. The limit is under `KEY`.
        """
        if KEY not in header:
            return None
        centre, basis, bank = (
            np.asarray(arrays[f"{PREFIX}{name}"], np.float32) for name in ("centre", "basis", "bank")
        )
        return cls(centre, basis, bank, float(json.loads(header[KEY])["limit"]))

    def arrays(self) -> dict[str, NDArray[np.float16]]:
        """Return the attributes `centre`, `basis` and `bank` as float16 arrays, by name in a model's file.

        The attribute `limit` is not among these arrays, because it is stored in the header of the file.
        """
        named = {"centre": self.centre, "basis": self.basis, "bank": self.bank}
        return {f"{PREFIX}{name}": each.astype(np.float16) for name, each in named.items()}

    def distances(self, views: Floats) -> Floats:
        """Return the distance of each image from the `NEIGHBOUR`th nearest training view, float32 (n,).

        Args:
            views: features of the images, float32 (n, D).
        """
        projected = (views - self.centre) @ self.basis
        distance = np.linalg.norm(projected[:, None] - self.bank[None], axis=2)
        return np.asarray(np.partition(distance, NEIGHBOUR - 1, axis=1)[:, NEIGHBOUR - 1], np.float32)

    def ood_score(self, views: Floats) -> float:
        """Return the out-of-distribution score of a scene; above 1 the scene is out of distribution.

        The score is the mean of the distances (see `distances`) of some tiles of the scene, divided by `limit`. The
        caller chooses the tiles.

        Args:
            views: features of the n tiles, float32 (n, D).
        """
        return float(self.distances(views).mean() / self.limit)
