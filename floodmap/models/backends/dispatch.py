"""Computation of batches of tiles on a device, and copies to and from the device; asynchronous on a GPU."""

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
class TileBatch:
    """Batch of tiles of one shape, on a device."""

    rgb: Tensor
    """RGB, uint8 (B, 3, height, width), 0 to 255."""
    valid: Tensor
    """bool (B, height, width), True on pixels with a valid picture."""
    gsd_m: Tensor
    """Ground sample distance in metres, float32 (B,); 0 if unknown."""

    def __getitem__(self, part: slice) -> TileBatch:
        """Return the tiles of a slice of the batch."""
        return TileBatch(self.rgb[part], self.valid[part], self.gsd_m[part])


Predict = Callable[[TileBatch, Sequence[Prompts]], Tensor]
"""Function that computes a result of shape (B, ...) from a batch of B tiles and the prompts of each tile."""
Pending = tuple[list[int], Callable[[], NDArray[Any]]]
"""Batch in computation: indices of the tiles, and function that waits for the results and returns an array (B, ...)."""


class Dispatcher:
    """Runner of batches on one device.

    While a GPU computes a batch, one thread waits for the result of an earlier batch, and other threads prepare later
    batches. A single thread launches all GPU work, because torch and cuDNN initialize separately in every thread. On a
    CPU, batches run one after the other, because two batches at once would take twice the memory.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._lock = device, PerProcess(Lock)
        self._launcher = ThreadPoolExecutor(1, "launch", self._set_device) if device.type == "cuda" else None
        self._max_tiles: int | None = None
        """Number of tiles that fit into the device's memory at once; None until the device runs out of memory."""

    def _set_device(self) -> None:
        if self._device.index is not None:
            torch.cuda.set_device(self._device)  # for this thread: Triton launches kernels on the current device

    def run(self, predict: Predict, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> list[NDArray[Any]]:
        """Compute a result for every tile; tiles of the same shape form a batch.

        Args:
            predict: function that computes the results of a batch, (B, ...).
            tiles: image tiles, of any shapes.
            prompts: one set of prompts for each tile.

        Returns:
            The result of each tile, in the order of `tiles`.
        """
        if self._launcher:
            refuse_lost_gpu()
        pending: list[Pending] = []
        for indices in _by_shape(tiles):
            call = predict, tiles_to_device([tiles[i] for i in indices], self._device), indices, prompts
            if self._launcher:
                pending += self._launcher.submit(self._launch, *call).result()
                continue
            with self._lock():
                pending += self._launch(*call)
        results: dict[int, NDArray[Any]] = {}
        for indices, wait in pending:
            results |= zip(indices, wait(), strict=True)
        return [results[index] for index in range(len(tiles))]

    def _launch(
        self, predict: Predict, batch: TileBatch, indices: list[int], prompts: Sequence[Prompts]
    ) -> list[Pending]:
        """Start the computation of a batch; if the device runs out of memory, halve this batch and all later batches.

        Args:
            predict: function that computes the results of a batch, (B, ...).
            batch: tiles of one shape, on the device.
            indices: index of each tile of the batch in the sequence `tiles` of `run`.
            prompts: the prompts of all tiles of `run`.

        Returns:
            One `Pending` for the whole batch, or one for each part, if the batch was divided.
        """
        pending: list[Pending] = []
        first = 0
        while first < len(indices):
            part = slice(first, min(first + (self._max_tiles or len(indices)), len(indices)))
            try:
                result = predict(batch[part], [prompts[i] for i in indices[part]])
            except torch.OutOfMemoryError:
                if part.stop - first == 1:
                    raise
                self._max_tiles = (part.stop - first) // 2
            else:
                pending.append((indices[part], fetch(result)))
                first = part.stop
                continue
            # Outside the handler: the error's traceback keeps references to the tensors that filled the memory.
            log.info(
                "the GPU has no memory for %d windows at once; going on with %d", part.stop - first, self._max_tiles
            )
            torch.cuda.empty_cache()
        return pending


def _by_shape(tiles: Sequence[Tile]) -> list[list[int]]:
    """Return lists of indices of tiles, one list for each shape of tiles."""
    indices: dict[tuple[int, ...], list[int]] = {}
    for index, tile in enumerate(tiles):
        indices.setdefault(tile.reason.shape, []).append(index)
    return list(indices.values())


def tiles_to_device(tiles: Sequence[Tile], device: torch.device) -> TileBatch:
    """Copy tiles to a device, as one batch; all tiles must have the same shape."""
    rgb, valid = _stacked([tile.rgb for tile in tiles], device), _stacked([tile.valid for tile in tiles], device)
    return TileBatch(rgb, valid, floats_to_device(np.array([tile.gsd_m for tile in tiles]), device))


def _stacked(arrays: list[NDArray[Any]], device: torch.device) -> Tensor:
    return array_to_device(np.stack(arrays) if len(arrays) > 1 else np.ascontiguousarray(arrays[0])[None], device)


def array_to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """Copy an array of any shape and dtype to a device; copies to an NVIDIA GPU are asynchronous, from pinned memory.

    If the memory were not pinned, the copy would wait for all queued work of the GPU.
    """
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def fetch(result: Tensor) -> Callable[[], NDArray[Any]]:
    """Start to copy a result to the CPU, without waiting for the end of the copy.

    Args:
        result: tensor on any device.

    Returns:
        A function without arguments. It waits for the copy, but not for later work of the GPU, and returns the array.
    """
    if not result.is_cuda:
        return result.cpu().numpy
    host = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
    host.copy_(result, non_blocking=True)
    done = torch.cuda.Event(blocking=True)  # waits without busy polling, so that other threads can use the core
    done.record(torch.cuda.current_stream(result.device))

    def wait() -> NDArray[Any]:
        done.synchronize()
        array: NDArray[Any] = host.numpy()
        return array

    return wait


def keep_in_bounds(probabilities: Tensor, prompts: Sequence[Prompts]) -> Tensor:
    """Set flood probabilities (B, height, width) outside of `Prompts.bounds` to 0, in place, and return them.

    SAM's decoders also predict flood outside of boxes.
    """
    for probability, p in zip(probabilities, prompts, strict=True):
        if p.bounded:
            probability.masked_fill_(array_to_device(~p.bounds(probability.shape), probability.device), 0.0)
    return probabilities


def floats_to_device(array: NDArray[np.floating[Any]], device: torch.device) -> Tensor:
    """Convert an array of any shape to float32, and copy it to a device; see `array_to_device`."""
    return array_to_device(np.asarray(array, np.float32), device)
