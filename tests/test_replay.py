"""CUDA graphs; without a GPU a fake of torch's records the operations and runs them again."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from floodmap.models.backends.cuda_graphs import Replayer


class Capture(TorchDispatchMode):
    """Records every operation, its inputs and its result, as a CUDA graph does during capture."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Tensor]] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        self.operations.append((operation, args, kwargs or {}, result))
        return result


class Graph:
    """A CUDA graph on a CPU: the operations that were captured, run again on the same memory."""

    def __init__(self) -> None:
        self.capture, self.replays = Capture(), 0

    def capture_begin(self, *, pool: Any, capture_error_mode: str) -> None:
        assert (pool, capture_error_mode) == ("pool", "thread_local")  # other threads go on meanwhile
        self.capture.__enter__()

    def capture_end(self) -> None:
        self.capture.__exit__(None, None, None)

    def replay(self) -> None:
        self.replays += 1
        for operation, args, kwargs, result in self.capture.operations:
            result.copy_(operation(*args, **kwargs))


class Stream:
    def wait_stream(self, other: Stream) -> None:
        assert isinstance(other, Stream)


@pytest.fixture
def replayer(monkeypatch: pytest.MonkeyPatch) -> Replayer:
    for name, value in {
        "CUDAGraph": Graph, "Stream": Stream, "current_stream": Stream, "stream": nullcontext,
        "graph_pool_handle": lambda: "pool", "empty_cache": lambda: None,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    made = Replayer(torch.device("cpu"))
    made._captures = True
    return made


def scaled(x: Tensor, factor: Tensor | None) -> Tensor:
    return x * 2 if factor is None else x * factor


def test_a_replay_equals_the_computation(replayer: Replayer) -> None:
    results = [replayer.run(scaled, torch.full((3,), float(i)), torch.tensor(10.0)) for i in range(6)]
    assert [float(result[0]) for result in results] == [0, 10, 20, 30, 40, 50]  # none overwritten by a later one
    (recorded,) = replayer._graphs.values()
    assert recorded.graph.replays == 4


def test_every_shape_of_inputs_has_a_graph_of_its_own(replayer: Replayer) -> None:
    for _ in range(4):
        assert replayer.run(scaled, torch.ones(3), None).tolist() == [2, 2, 2]
        assert replayer.run(scaled, torch.ones(2), None).tolist() == [2, 2]
        assert replayer.run(scaled, torch.ones(2), torch.tensor(5.0)).tolist() == [5, 5]
    assert len(replayer._graphs) == 3


def test_what_cannot_be_captured_is_run(replayer: Replayer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Graph, "capture_begin", refuse)
    assert [replayer.run(scaled, torch.ones(1), None).item() for _ in range(5)] == [2] * 5
    assert not replayer._graphs


def test_a_capture_ends_where_its_function_fails(replayer: Replayer, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Tensor] = []
    ended: list[Graph] = []
    end = Graph.capture_end
    monkeypatch.setattr(Graph, "capture_end", lambda graph: (end(graph), ended.append(graph)))

    def fails_at_the_third(x: Tensor) -> Tensor:
        calls.append(x)
        if len(calls) == 3:
            raise RuntimeError("operation not permitted when stream is capturing")
        return x * 2

    assert [replayer.run(fails_at_the_third, torch.ones(1)).item() for _ in range(4)] == [2] * 4
    assert len(ended) == 1 and not replayer._graphs


def test_a_replay_uses_the_latest_inputs(replayer: Replayer) -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU(), torch.nn.LayerNorm(8))
    with torch.inference_mode():
        for _ in range(6):
            x = torch.randn(4, 8)
            assert torch.equal(replayer.run(layer.forward, x), layer(x))
    assert len(replayer._graphs) == 1


def test_on_a_cpu_nothing_is_replayed() -> None:
    replayer = Replayer(torch.device("cpu"))
    assert [replayer.run(scaled, torch.ones(1), None).item() for _ in range(5)] == [2] * 5
    assert not replayer._graphs


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_on_a_gpu_graphs_are_replayed() -> None:
    replayer, layer = Replayer(torch.device("cuda")), torch.nn.Linear(8, 8).cuda()
    with torch.inference_mode():
        for _ in range(6):
            x = torch.randn(4, 8, device="cuda")
            assert torch.equal(replayer.run(layer.forward, x), layer(x))
    assert len(replayer._graphs) == 1
