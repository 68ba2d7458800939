"""Tiles sent to a device in batches, and what comes back: several threads may send, so that a GPU is never idle."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from floodmap.prompts import Prompts
from floodmap.scene import Tile

log = logging.getLogger(__name__)

Predict = Callable[[list[Tile], list[Prompts]], Tensor]
"""Tiles of one shape and their prompts to results, (B, ...)."""


class Dispatcher:
    """The way to one device.

    A GPU works on what it was told while this thread waits for an earlier result and another puts the next batch
    together. On a CPU, where telling is doing, one batch waits for the other: two at once would want twice the memory.
    """

    def __init__(self) -> None:
        self._turn = Lock()
        self._room: int | None = None
        """Tiles that fit into the device's memory at once, as far as is known."""

    def run(self, predict: Predict, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> list[NDArray[Any]]:
        """What `predict` makes of tiles of any shapes, those of one shape together."""
        with self._turn:
            coming = [part for alike in _alike(tiles) for part in self._begin(predict, alike, tiles, prompts)]
        found: dict[int, NDArray[Any]] = {}
        for numbers, wait in coming:
            found |= zip(numbers, wait(), strict=True)
        return [found[number] for number in range(len(tiles))]

    def _begin(
        self, predict: Predict, numbers: list[int], tiles: Sequence[Tile], prompts: Sequence[Prompts]
    ) -> Iterator[tuple[list[int], Callable[[], NDArray[Any]]]]:
        """As many at once as there is room for, which is found by trying."""
        while numbers:
            some = numbers[: self._room]
            try:
                result = predict([tiles[i] for i in some], [prompts[i] for i in some])
            except torch.OutOfMemoryError:
                if len(some) == 1:
                    raise
                self._room = len(some) // 2
            else:
                yield some, fetch(result)
                numbers = numbers[len(some) :]
                continue
            # Outside the handler: the error's traceback holds on to the memory that ran out.
            log.info("%d windows at once do not fit into the GPU's memory; going on with %d", len(some), self._room)
            torch.cuda.empty_cache()


def _alike(tiles: Sequence[Tile]) -> list[list[int]]:
    """Numbers of the tiles of each shape."""
    numbers: dict[tuple[int, ...], list[int]] = {}
    for number, tile in enumerate(tiles):
        numbers.setdefault(tile.reason.shape, []).append(number)
    return list(numbers.values())


def send(arrays: Sequence[NDArray[Any]], device: torch.device) -> Tensor:
    """Arrays of one shape on a device, (B, ...)."""
    stacked = torch.from_numpy(np.stack(arrays) if len(arrays) > 1 else np.ascontiguousarray(arrays[0])[None])
    if device.type != "cuda":
        return stacked.to(device)
    return stacked.pin_memory().to(device, non_blocking=True)  # which nobody has to wait for


def fetch(result: Tensor) -> Callable[[], NDArray[Any]]:
    """Begin to fetch a result; what is returned waits for it alone, not for what the device is told later."""
    if not result.is_cuda:
        return result.cpu().numpy
    host = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
    host.copy_(result, non_blocking=True)
    done = torch.cuda.Event(blocking=True)  # other threads have use for the core
    done.record(torch.cuda.current_stream(result.device))

    def wait() -> NDArray[Any]:
        done.synchronize()
        array: NDArray[Any] = host.numpy()
        return array

    return wait
