"""What a GPU is told once and told again; a stand-in plays what was recorded where there is no GPU."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from floodmap import replay
from floodmap.replay import Replayer


class Recording:
    """A graph that runs the function again, into the same result, as a GPU does."""

    def __init__(self, function: Callable[..., Tensor], inputs: tuple[Tensor | None, ...]) -> None:
        self.again = lambda: function(*inputs)
        self.result = self.again().clone()
        self.played = 0

    def replay(self) -> None:
        self.played += 1
        self.result.copy_(self.again())


@pytest.fixture
def replayer() -> Replayer:
    def record(function: Callable[..., Tensor], inputs: tuple[Tensor | None, ...]) -> Any:
        kept = tuple(None if one is None else one.clone() for one in inputs)
        recording = Recording(function, kept)
        return replay._Captured(recording, kept, recording.result)

    made = Replayer(torch.device("cpu"))
    made._record, made._wanted = record, 3
    return made


def scaled(x: Tensor, factor: Tensor | None) -> Tensor:
    return x * 2 if factor is None else x * factor


def test_what_is_replayed_is_what_would_be_computed(replayer: Replayer) -> None:
    results = [replayer.run(scaled, torch.full((3,), float(i)), torch.tensor(10.0)) for i in range(6)]
    assert [float(result[0]) for result in results] == [0, 10, 20, 30, 40, 50]  # none overwritten by a later one
    (recorded,) = replayer._recorded.values()
    assert recorded.graph.played == 4


def test_every_kind_of_inputs_is_recorded_apart(replayer: Replayer) -> None:
    for _ in range(4):
        assert replayer.run(scaled, torch.ones(3), None).tolist() == [2, 2, 2]
        assert replayer.run(scaled, torch.ones(2), None).tolist() == [2, 2]
        assert replayer.run(scaled, torch.ones(2), torch.tensor(5.0)).tolist() == [5, 5]
    assert len(replayer._recorded) == 3


def test_what_cannot_be_recorded_is_run(replayer: Replayer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(replayer, "_record", refuse)
    assert [replayer.run(scaled, torch.ones(1), None).item() for _ in range(5)] == [2] * 5


def test_a_cpu_is_told_every_time_unless_it_is_to_have_graphs() -> None:
    replayer = Replayer(torch.device("cpu"))
    assert [replayer.run(scaled, torch.ones(1), None).item() for _ in range(9)] == [2] * 9
    assert not replayer._recorded


def test_a_cpu_runs_graphs_of_each_kind_of_inputs_from_many_threads() -> None:
    replayer, calls = Replayer(torch.device("cpu"), on_cpu=True), []

    def counted(x: Tensor, factor: Tensor | None) -> Tensor:
        calls.append(x.shape)
        return scaled(x, factor)

    def run(number: int) -> bool:
        x = torch.full((1 + number % 2,), float(number))
        results = replayer.run(counted, x, torch.tensor(10.0)), replayer.run(counted, x, None)
        return torch.equal(results[0], x * 10) and torch.equal(results[1], x * 2)

    with torch.inference_mode(), ThreadPoolExecutor(4) as executor:
        assert all(executor.map(run, range(80)))
    assert len(replayer._recorded) == 4
    assert 4 * replay._MET_CPU <= len(calls) < 80


def test_what_a_graph_of_a_cpu_cannot_do_is_told_by_the_function() -> None:
    replayer, fails = Replayer(torch.device("cpu"), on_cpu=True), []

    def failing(x: Tensor) -> Tensor:
        if fails:
            raise RuntimeError("not enough memory")
        return x.view(2, 2)

    for _ in range(replay._MET_CPU):
        assert replayer.run(failing, torch.ones(4)).shape == (2, 2)
    (recorded,) = replayer._recorded.values()
    fails.append(True)
    assert replayer.run(failing, torch.ones(4)).shape == (2, 2)  # by the graph
    with pytest.raises(RuntimeError, match=r"^not enough memory$"):
        recorded.play((torch.ones(3),))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_plays_graphs() -> None:
    replayer, layer = Replayer(torch.device("cuda")), torch.nn.Linear(8, 8).cuda()
    with torch.inference_mode():
        for _ in range(6):
            x = torch.randn(4, 8, device="cuda")
            assert torch.equal(replayer.run(layer.forward, x), layer(x))
    assert len(replayer._recorded) == 1
