"""What a GPU was told once, told again in one call: CUDA graphs.

An encoder of SAM is some 400 calls, and a thread that makes them asks for Python's lock at each: beside threads that
read and outline it took as long to tell the GPU as the GPU to do it (`benchmarks/gpu.py`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

_MOST = 64
"""Graphs kept: each holds the memory that its function takes, though all share it."""

Function = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class _Recorded:
    graph: Any
    inputs: tuple[Tensor | None, ...]
    """That it reads."""
    result: Tensor
    """That it writes, and the next one may overwrite."""

    def play(self, inputs: tuple[Tensor | None, ...]) -> Tensor:
        for ours, theirs in zip(self.inputs, inputs, strict=True):
            if ours is not None and theirs is not None:
                ours.copy_(theirs, non_blocking=True)
        self.graph.replay()
        return self.result.clone()


class Replayer:
    """Runs functions of tensors: on an NVIDIA GPU as graphs, from the third time on that they get such tensors.

    One function at a time, in inference mode, on one stream. They must do the same whatever the tensors hold, and wait
    for nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self._records = device.type == "cuda" and torch.version.cuda is not None
        self._met: Counter[Hashable] = Counter()
        self._recorded: dict[Hashable, _Recorded] = {}
        self._pool: Any = None

    def run(self, function: Function, *inputs: Tensor | None) -> Tensor:
        """What `function`, the same object each time, returns for these."""
        if not self._records:
            return function(*inputs)
        key = (function, *(None if one is None else (one.shape, one.dtype, one.stride()) for one in inputs))
        self._met[key] += 1  # at first things are compiled, and what comes seldom is not worth it
        if self._met[key] == 3 and len(self._recorded) < _MOST:
            try:
                self._recorded[key] = self._record(function, inputs)
            except Exception as error:  # whatever CUDA gives; out of memory among it
                log.debug("%s cannot be recorded (%s)", function, error)
        recorded = self._recorded.get(key)
        return function(*inputs) if recorded is None else recorded.play(inputs)

    def _record(self, function: Function, inputs: tuple[Tensor | None, ...]) -> _Recorded:
        torch.cuda.empty_cache()  # nothing is given back while it records
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        kept = tuple(None if one is None else one.clone() for one in inputs)
        graph, now = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(now)
        with torch.cuda.stream(stream):
            # Other threads send tiles meanwhile, which is not to be recorded.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                result = function(*kept)
            finally:
                graph.capture_end()
        now.wait_stream(stream)
        return _Recorded(graph, kept, result)
