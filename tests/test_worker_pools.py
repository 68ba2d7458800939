"""Pools of workers: waits that are not silent, futures that are always done, and errors of one line."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import HANGS
from fakes import ThreadPool

from floodmap.errors import OutputError, PoolError, SceneError
from floodmap.scaleout.workers import cluster, pool, worker
from floodmap.scaleout.workers.pool import Call, WorkerDied, in_order


class TroubledPool(ThreadPool):
    """Threads whose calls wait until the pool was looked at."""

    def __init__(self, trouble: str) -> None:
        super().__init__(2)
        self.looked, self.text = threading.Event(), trouble

    def trouble(self) -> str:
        self.looked.set()
        return self.text


@pytest.mark.parametrize(
    ("trouble", "said"), [("waiting for workers", "waiting for workers"), ("", "no worker has finished a chunk")]
)
def test_a_wait_without_results_is_not_silent(
    trouble: str, said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, seconds in (("_POLL_S", 0.01), ("_LOOK_S", 0.0), ("_QUIET_S", 0.0)):
        monkeypatch.setattr(pool, name, seconds)
    with TroubledPool(trouble) as troubled, caplog.at_level(logging.WARNING, "floodmap"):
        call = Call(troubled.looked.wait, (HANGS,))
        assert list(in_order(troubled, iter([call]), ahead=1)) == [True]
    assert said in caplog.text


class Remote:
    """A future of distributed."""

    def __init__(self, result: Callable[[], Any]) -> None:
        self.result, self.cancelled, self.done = result, False, list[Any]()

    def add_done_callback(self, function: Any) -> None:
        self.done.append(function)

    def cancel(self) -> None:
        self.cancelled = True


def dask_pool(remote: Remote) -> cluster.DaskPool:
    found = object.__new__(cluster.DaskPool)
    found._device, found._client = "cpu", SimpleNamespace(submit=lambda *_, **__: remote)
    return found


def raising(error: BaseException) -> Callable[[], Any]:
    def result() -> Any:
        raise error

    return result


def outcome(result: Callable[[], Any]) -> Any:
    remote = Remote(result)
    future = dask_pool(remote).submit(int)
    assert not future.done()
    remote.done[0](remote)
    return future.result(HANGS)


def test_a_future_of_a_cluster_is_done_also_if_the_transfer_of_its_result_fails() -> None:
    pytest.importorskip("distributed", reason="needs the extra dask")
    assert outcome(lambda: 7) == 7
    with pytest.raises(MemoryError):
        outcome(raising(MemoryError()))
    with pytest.raises(PoolError, match="connection to the workers was lost"):
        outcome(raising(CancelledError()))


def test_a_cancelled_future_cancels_the_call_in_the_cluster() -> None:
    remote = Remote(lambda: 7)
    future = dask_pool(remote).submit(int)
    assert future.cancel() and remote.cancelled
    remote.done[0](remote)
    assert future.cancelled()


def test_chunks_that_end_dask_workers_fail_with_one_text() -> None:
    scheduler = pytest.importorskip("distributed.scheduler", reason="needs the extra dask")
    texts = set()
    for key in ("run_on-1f", "run_on-2e"):
        error = scheduler.KilledWorker(key, SimpleNamespace(address="tcp://127.0.0.1:1"), 3)
        with pytest.raises(WorkerDied) as raised:
            outcome(raising(error))
        texts.add(str(raised.value))
    assert texts == {"its Dask workers ended 4 times"}


def test_errors_of_dask_are_one_line() -> None:
    comm = pytest.importorskip("distributed.comm", reason="needs the extra dask")
    with pytest.raises(PoolError, match=r"the Dask cluster failed \(CommClosedError: in the middle\)"):
        outcome(raising(comm.CommClosedError("in the\nmiddle")))
    with pytest.raises(PoolError, match="no certificates for TLS"):
        cluster._connected("tls://127.0.0.1:9")


@pytest.mark.parametrize("kind", [SceneError, OutputError])
def test_an_error_in_a_worker_of_a_cluster_says_where_it_is(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "configure_low_memory", lambda **_: None)
    monkeypatch.setattr(worker, "_state", worker._State())
    for text in ("a.tif: no such file", f"a.tif on worker {worker.place()} is another file"):
        with pytest.raises(kind) as raised:
            worker.run_on("cpu", raising(kind(text)))
        assert str(raised.value).count(worker.place()) == 1 and str(raised.value).startswith("a.tif")
