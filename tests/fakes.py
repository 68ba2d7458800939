"""Fake models without weights, for tests of the code around a model."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from floodmap.imagery.tile import Tile
from floodmap.models.prompts import Prompts
from floodmap.scaleout.workers.model import Loaded


class ThreadPool(ThreadPoolExecutor):
    """Threads of this process with the interface of a pool of workers."""

    same_machine, size = True, 2

    def everywhere(self, function: Any, /, *args: Any) -> list[Any]:
        return [function(*args)]

    def trouble(self) -> str:
        return ""


class FakeSegmenter:
    """Predicts flood by the blue band; keeps the tiles and prompts it gets."""

    best_batch_size = 1
    name, sha256, runs_on = "fake", "0" * 64, "cpu float32"
    knows_floods, multiple, any_size, offloads = True, 32, True, False
    training = None

    def __init__(self, before: Callable[[Tile], None] | None = None) -> None:
        self.before = before or (lambda _: None)
        self.tiles: list[Tile] = []
        self.prompts: list[Prompts] = []

    def predict(self, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> NDArray[np.float32]:
        for tile in tiles:
            self.before(tile)
        self.tiles += tiles
        self.prompts += prompts
        return np.stack([tile.rgb[2] / np.float32(255.0) for tile in tiles])

    def ood_score(self, tiles: Sequence[Tile]) -> float:
        return 0.0


class ConstantSegmenter(FakeSegmenter):
    """Predicts the same probability everywhere."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = np.float32(probability)

    def predict(self, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> NDArray[np.float32]:
        return np.full((len(tiles), *tiles[0].reason.shape), self.probability)


@dataclass(frozen=True)
class FakeSource:
    """Description of a `FakeSegmenter` that worker processes make for themselves."""

    kill_row: int = -1
    """Scene row in which windows begin that end the process of the model."""
    kills: int = 0
    """Number of processes that end."""
    folder: str = ""
    """Folder in which each process that ends leaves a file."""
    fails: bool = False
    """True: every prediction raises an error."""
    deadly_row: int = -1
    """Scene row in which windows begin that end every process."""
    hang_row: int = -1
    """Scene row in which windows begin whose prediction never ends."""

    def load(self, device: str, share: int) -> Loaded:
        return Loaded(FakeSegmenter(self._before), 1, f"fake {device}")

    def _before(self, tile: Tile) -> None:
        if self.fails:
            raise RuntimeError("no luck")
        if tile.window.row_off == self.hang_row:
            threading.Event().wait()
        if tile.window.row_off == self.deadly_row:
            os.kill(os.getpid(), signal.SIGKILL)
        if tile.window.row_off == self.kill_row and len(os.listdir(self.folder)) < self.kills:
            Path(self.folder, str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)


def hold_folder(parent: str) -> str:
    """Keep a temporary folder open in this worker process, as an area of interest at a URL does; return its path."""
    from floodmap.scaleout.workers import worker

    stack = ExitStack()
    folder = stack.enter_context(TemporaryDirectory(dir=parent))
    worker._state.sessions["fake"] = worker._Session(None, FakeSegmenter(), stack)  # type: ignore[arg-type]
    return folder
