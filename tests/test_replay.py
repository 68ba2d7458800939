"""What a GPU is told once and told again; a stand-in plays what was recorded where there is no GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from floodmap.models.backends import cuda_graphs
from floodmap.models.backends.cuda_graphs import Replayer


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
def replayer(monkeypatch: pytest.MonkeyPatch) -> Replayer:
    def record(self: Replayer, function: Callable[..., Tensor], inputs: tuple[Tensor | None, ...]) -> Any:
        kept = tuple(None if one is None else one.clone() for one in inputs)
        recording = Recording(function, kept)
        return cuda_graphs._Recorded(recording, kept, recording.result)

    monkeypatch.setattr(Replayer, "_record", record)
    made = Replayer(torch.device("cpu"))
    made._records = True
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

    monkeypatch.setattr(Replayer, "_record", refuse)
    assert [replayer.run(scaled, torch.ones(1), None).item() for _ in range(5)] == [2] * 5


def test_a_cpu_is_told_every_time() -> None:
    replayer = Replayer(torch.device("cpu"))
    assert [replayer.run(scaled, torch.ones(1), None).item() for _ in range(5)] == [2] * 5
    assert not replayer._recorded


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_plays_graphs() -> None:
    replayer, layer = Replayer(torch.device("cuda")), torch.nn.Linear(8, 8).cuda()
    with torch.inference_mode():
        for _ in range(6):
            x = torch.randn(4, 8, device="cuda")
            assert torch.equal(replayer.run(layer.forward, x), layer(x))
    assert len(replayer._recorded) == 1
