"""Batches of pairs by number: the same whoever draws them, so that other processes may, and a run goes on exactly."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import torch
from torch.utils.data import DataLoader, Dataset

from floodmap.dataset import Pairs, PairSampler
from floodmap.recipe import TrainConfig

AHEAD = 4
"""Batches that each process draws ahead."""


class Batches(Dataset[Pairs]):
    """An endless sequence of random batches, and an iterator over it.

    Args:
        sampler: draws them.
        config: says how large they are, and how many processes draw.
        rank: of the process that learns from them; each learns from others.
        first: number of the first that the iterator yields.
    """

    def __init__(self, sampler: PairSampler, config: TrainConfig, rank: int = 0, first: int = 0) -> None:
        self._sampler, self._config, self._rank = sampler, config, rank
        self._drawn = self._draw(first)

    def __getitem__(self, number: int) -> Pairs:
        """The batch of that number, always the same."""
        generator = torch.Generator().manual_seed((self._config.seed + self._rank) * 1_000_003 + number)
        self._sampler.generator = generator
        size = int(torch.multinomial(torch.tensor(self._config.size_shares), 1, generator=generator))
        far_size, near_size, pairs = self._config.sizes[size]
        return self._sampler.batch(pairs, far_size, near_size)

    def __next__(self) -> Pairs:
        return next(self._drawn)

    def _draw(self, first: int) -> Iterator[Pairs]:
        if self._config.workers == 0:
            yield from map(self.__getitem__, count(first))
        else:  # forked, so that they share the pictures
            yield from DataLoader(
                self, batch_size=None, sampler=count(first), num_workers=self._config.workers, prefetch_factor=AHEAD,
                multiprocessing_context="fork",
            )  # fmt: skip
