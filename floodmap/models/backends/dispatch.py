"""Tiles sent to a device in batches, and what comes back: several threads may send, so that a GPU is never idle."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from floodmap._runtime.forks import PerProcess, refuse_lost_gpu
from floodmap.imagery.tile import Tile
from floodmap.models.prompts import Prompts

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Sent:
    """Tiles of one shape, on a device."""

    rgb: Tensor
    """uint8 (B, 3, height, width)."""
    valid: Tensor
    """bool (B, height, width)."""
    gsd_m: Tensor
    """float32 (B,): metres a pixel, 0 where unknown."""

    def __getitem__(self, part: slice) -> Sent:
        """Some of the tiles."""
        return Sent(self.rgb[part], self.valid[part], self.gsd_m[part])


Predict = Callable[[Sent, Sequence[Prompts]], Tensor]
"""Tiles and their prompts to results."""
Coming = tuple[list[int], Callable[[], NDArray[Any]]]
"""Numbers of tiles, and what waits for their results."""


class Dispatcher:
    """The way to one device.

    A GPU works on what it was told while one thread waits for an earlier result and others put the next batches
    together. It is told by a single thread, for torch and cuDNN prepare for every thread anew. On a CPU, where telling
    is doing, one batch waits for the other: two at once would want twice the memory.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._turn = device, PerProcess(Lock)
        self._teller = ThreadPoolExecutor(1, "telling", self._begin_telling) if device.type == "cuda" else None
        self._room: int | None = None
        """Tiles that fit into the device's memory at once, as far as is known."""

    def _begin_telling(self) -> None:
        if self._device.index is not None:
            torch.cuda.set_device(self._device)  # of this thread, which kernels of Triton's run on

    def run(self, predict: Predict, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> list[NDArray[Any]]:
        """What `predict` makes of tiles of any shapes, those of one shape together."""
        if self._teller:
            refuse_lost_gpu()
        coming: list[Coming] = []
        for numbers in _alike(tiles):
            told = predict, sent([tiles[i] for i in numbers], self._device), numbers, prompts
            if self._teller:
                coming += self._teller.submit(self._begin, *told).result()
                continue
            with self._turn():
                coming += self._begin(*told)
        found: dict[int, NDArray[Any]] = {}
        for numbers, wait in coming:
            found |= zip(numbers, wait(), strict=True)
        return [found[number] for number in range(len(tiles))]

    def _begin(self, predict: Predict, pictures: Sent, numbers: list[int], prompts: Sequence[Prompts]) -> list[Coming]:
        """As many at once as there is room for, which is found by trying."""
        coming: list[Coming] = []
        first = 0
        while first < len(numbers):
            some = slice(first, min(first + (self._room or len(numbers)), len(numbers)))
            try:
                result = predict(pictures[some], [prompts[i] for i in numbers[some]])
            except torch.OutOfMemoryError:
                if some.stop - first == 1:
                    raise
                self._room = (some.stop - first) // 2
            else:
                coming.append((numbers[some], fetch(result)))
                first = some.stop
                continue
            # Outside the handler: the error's traceback holds on to the memory that ran out.
            log.info("the GPU has no memory for %d windows at once; going on with %d", some.stop - first, self._room)
            torch.cuda.empty_cache()
        return coming


def _alike(tiles: Sequence[Tile]) -> list[list[int]]:
    """Numbers of the tiles of each shape."""
    numbers: dict[tuple[int, ...], list[int]] = {}
    for number, tile in enumerate(tiles):
        numbers.setdefault(tile.reason.shape, []).append(number)
    return list(numbers.values())


def sent(tiles: Sequence[Tile], device: torch.device) -> Sent:
    """Tiles of one shape on a device."""
    rgb, valid = _stacked([tile.rgb for tile in tiles], device), _stacked([tile.valid for tile in tiles], device)
    return Sent(rgb, valid, sent_floats(np.array([tile.gsd_m for tile in tiles]), device))


def _stacked(arrays: list[NDArray[Any]], device: torch.device) -> Tensor:
    return sent_array(np.stack(arrays) if len(arrays) > 1 else np.ascontiguousarray(arrays[0])[None], device)


def sent_array(array: NDArray[Any], device: torch.device) -> Tensor:
    """An array on a device; on the way to a GPU nobody waits, as torch otherwise does for all the GPU was told."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


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


def sent_floats(array: NDArray[np.floating[Any]], device: torch.device) -> Tensor:
    return sent_array(np.asarray(array, np.float32), device)
