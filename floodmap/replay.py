"""What a device was told once, told again in one call: CUDA graphs on a GPU, torch's own graphs on a CPU.

An encoder of SAM is some 400 calls, and a thread that makes them asks for Python's lock at each: beside threads that
read and outline it took as long to tell the GPU as the GPU to do it (`benchmarks/gpu.py`). On a CPU the calls of the
shipped model take an eighth of its time.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol

import torch
from torch import Tensor

log = logging.getLogger(__name__)

_MOST = 64
"""Graphs kept: each holds the memory that its function takes, though all share it."""
_MET_GPU, _MET_CPU = 3, 6
"""The time from which on tensors of a kind have a graph: what comes seldom is not worth one, and at first a GPU
compiles. On a CPU it takes as long as it saves in ten times."""

Function = Callable[..., Tensor]


class _Recorded(Protocol):
    def play(self, inputs: tuple[Tensor | None, ...]) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class _Captured:
    """A graph of a GPU's."""

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


@dataclass(frozen=True, slots=True)
class _Traced:
    """A graph that torch runs without Python, and so without Python's lock."""

    graph: Any
    function: Function

    def play(self, inputs: tuple[Tensor | None, ...]) -> Tensor:
        try:
            result: Tensor = self.graph(*(one for one in inputs if one is not None))
        except RuntimeError:
            return self.function(*inputs)  # which says in one line what is wrong
        return result


class Replayer:
    """Runs functions of tensors; as graphs, once they have met such tensors a few times.

    Functions run in inference mode, and do the same whatever the tensors hold. On an NVIDIA GPU they run one at a time,
    on one stream, and wait for nothing.

    Args:
        device: an NVIDIA GPU has graphs; others have not.
        on_cpu: a CPU has graphs, too.
    """

    def __init__(self, device: torch.device, *, on_cpu: bool = False) -> None:
        self._record: Callable[[Function, tuple[Tensor | None, ...]], _Recorded] | None = None
        if device.type == "cuda" and torch.version.cuda is not None:
            self._record, self._wanted = self._captured, _MET_GPU
        elif device.type == "cpu" and on_cpu and hasattr(torch.jit, "trace"):
            self._record, self._wanted = self._traced, _MET_CPU
        self._met: Counter[Hashable] = Counter()
        self._counting = Lock()
        self._recorded: dict[Hashable, _Recorded] = {}
        self._pool: Any = None

    def run(self, function: Function, *inputs: Tensor | None) -> Tensor:
        """What `function`, the same object each time, returns for these."""
        if self._record is None:
            return function(*inputs)
        key = (function, *(None if one is None else (one.shape, one.dtype, one.stride()) for one in inputs))
        with self._counting:
            self._met[key] += 1
            due = self._met[key] == self._wanted and len(self._recorded) < _MOST
        if due:
            try:
                self._recorded[key] = self._record(function, inputs)
            except Exception as error:  # whatever CUDA gives; out of memory among it
                log.debug("%s cannot be recorded (%s)", function, error)
        recorded = self._recorded.get(key)
        return function(*inputs) if recorded is None else recorded.play(inputs)

    @staticmethod
    def _traced(function: Function, inputs: tuple[Tensor | None, ...]) -> _Recorded:
        given = [number for number, one in enumerate(inputs) if one is not None]

        def alone(*tensors: Tensor) -> Tensor:
            whole: list[Tensor | None] = [None] * len(inputs)
            for number, one in zip(given, tensors, strict=True):
                whole[number] = one
            return function(*whole)

        with warnings.catch_warnings():
            # Shapes become constants, as is meant. torch's exporter, which is to come after this, gives code in Python.
            warnings.simplefilter("ignore")
            trace: Any = torch.jit.trace
            graph = trace(alone, tuple(one for one in inputs if one is not None), check_trace=False)
        return _Traced(graph, function)

    def _captured(self, function: Function, inputs: tuple[Tensor | None, ...]) -> _Recorded:
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
        return _Captured(graph, kept, result)
