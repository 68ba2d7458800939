"""How far ground lies from all that a model was trained on, by the encoder's features of its colours and textures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
PREFIX = "familiar."
"""Names of its arrays among a model's weights begin with this."""
KEY = "familiar"
"""Where the header of these has its limit."""
DIMENSIONS = 32
"""Directions in which training ground differs most, and distances are measured."""
NEIGHBOUR = 3
"""Distances are those to the training view that is the third nearest: the nearest may be odd itself."""


@dataclass(frozen=True, slots=True)
class Familiarity:
    """Ground that a model knows.

    Source of the measure: Sun et al. 2022, Out-of-distribution detection with deep nearest neighbours,
    arXiv:2204.06507.
    """

    centre: Floats
    """Mean features of training views, (D,)."""
    basis: Floats
    """Features to directions that are measured in, (D, K)."""
    bank: Floats
    """Training views there, (N, K)."""
    limit: float
    """Distance that few pictures of the kinds that the model was scored on reach."""

    @classmethod
    def of(cls, views: Floats, weights: Floats) -> Familiarity:
        """Learned from features of training views (N, D), each counting by its weight (N,); no limit yet."""
        weights = weights / weights.sum()
        centre = weights @ views
        spread = np.sqrt(weights @ (views - centre) ** 2) + 1e-4
        scaled = (views - centre) / spread
        values, vectors = np.linalg.eigh((scaled * weights[:, None]).T @ scaled)
        values, vectors = values[::-1][:DIMENSIONS], vectors[:, ::-1][:, :DIMENSIONS]
        # What hardly varies in training is not blown up: it may vary by chance.
        basis = vectors / np.sqrt(values + 0.02 * values[0]) / spread[:, None]
        kept = [np.asarray(each, np.float16).astype(np.float32) for each in (centre, basis)]
        bank = ((views - kept[0]) @ kept[1]).astype(np.float16).astype(np.float32)
        return cls(kept[0], kept[1], bank, float("inf"))

    @classmethod
    def stored(cls, arrays: Mapping[str, NDArray[Any]], header: Mapping[str, str]) -> Familiarity | None:
        """From a model's file; None where it has none."""
        if KEY not in header:
            return None
        centre, basis, bank = (
            np.asarray(arrays[f"{PREFIX}{name}"], np.float32) for name in ("centre", "basis", "bank")
        )
        return cls(centre, basis, bank, float(json.loads(header[KEY])["limit"]))

    def arrays(self) -> dict[str, NDArray[np.float16]]:
        """What a model's file holds of it; the limit stands in its header."""
        named = {"centre": self.centre, "basis": self.basis, "bank": self.bank}
        return {f"{PREFIX}{name}": each.astype(np.float16) for name, each in named.items()}

    def distances(self, views: Floats) -> Floats:
        """How far views are from training, (n,), by their features (n, D)."""
        places = (views - self.centre) @ self.basis
        apart = np.linalg.norm(places[:, None] - self.bank[None], axis=2)
        return np.asarray(np.partition(apart, NEIGHBOUR - 1, axis=1)[:, NEIGHBOUR - 1], np.float32)

    def strangeness(self, views: Floats) -> float:
        """Mean distance of a scene's views, in units of the limit."""
        return float(self.distances(views).mean() / self.limit)
