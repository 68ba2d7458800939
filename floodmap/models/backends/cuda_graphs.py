"""Capture of function calls as CUDA graphs, and replay of these graphs.

An image encoder of SAM launches about 400 kernels on the GPU; a replay is a single launch. Every launch needs Python's
global interpreter lock. While other threads used the lock, to read windows and to trace outlines, 400 launches took as
long as the computation itself (`benchmarks/gpu.py`).
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

_MAX_GRAPHS = 64
"""Largest number of graphs that are kept; all graphs share one memory pool."""

Function = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class _CapturedGraph:
    graph: Any
    """A `torch.cuda.CUDAGraph`."""
    inputs: tuple[Tensor | None, ...]
    """Tensors at fixed addresses that the graph reads; None for an input that is None."""
    result: Tensor
    """Tensor at a fixed address that the graph writes. The replay of another graph may overwrite this tensor."""

    def replay(self, inputs: tuple[Tensor | None, ...]) -> Tensor:
        for static, given in zip(self.inputs, inputs, strict=True):
            if static is not None and given is not None:
                static.copy_(given, non_blocking=True)
        self.graph.replay()
        return self.result.clone()


class Replayer:
    """Runner of functions that take tensors; on an NVIDIA GPU, the functions are captured as CUDA graphs.

    A function is captured in the third call with inputs of equal shapes, dtypes and strides, and replayed from then on.
    On an NVIDIA GPU, there are four conditions for the functions and their callers:

    - The method `run` is called by one thread at a time.
    - All calls are made in PyTorch's inference mode, and on the same CUDA stream.
    - A function launches the same kernels for all values of the tensors.
    - A function does not synchronize with the GPU.

    On other devices, functions are called as usual, and there are no conditions.
    """

    def __init__(self, device: torch.device) -> None:
        self._captures = device.type == "cuda" and torch.version.cuda is not None
        self._calls: Counter[Hashable] = Counter()
        self._graphs: dict[Hashable, _CapturedGraph] = {}
        self._pool: Any = None

    def run(self, function: Function, *inputs: Tensor | None) -> Tensor:
        """Return the result of a function, from a replayed CUDA graph if there is one.

        Args:
            function: function to run. A graph is found again only if every call passes the same function, or an equal
                bound method.
            inputs: arguments of the function: tensors on the device, or None.
        """
        if not self._captures:
            return function(*inputs)
        key = (function, *(None if x is None else (x.shape, x.dtype, x.stride()) for x in inputs))
        self._calls[key] += 1  # the first calls compile kernels, and rare shapes are not worth a capture
        if self._calls[key] == 3 and len(self._graphs) < _MAX_GRAPHS:
            try:
                self._graphs[key] = self._capture(function, inputs)
            except Exception as error:  # errors of CUDA have many types; out of memory is one of them
                log.debug("%s cannot be recorded (%s)", function, error)
        graph = self._graphs.get(key)
        return function(*inputs) if graph is None else graph.replay(inputs)

    def _capture(self, function: Function, inputs: tuple[Tensor | None, ...]) -> _CapturedGraph:
        torch.cuda.empty_cache()  # no memory is freed during a capture
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        static = tuple(None if x is None else x.clone() for x in inputs)
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            # Thread-local: other threads copy tiles to the GPU at the same time. These copies must not be captured.
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
            try:
                result = function(*static)
            finally:
                graph.capture_end()
        current.wait_stream(stream)
        return _CapturedGraph(graph, static, result)
