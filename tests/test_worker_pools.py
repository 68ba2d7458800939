"""Pools of workers: waits that are not silent, futures that are always done, and errors of one line."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import HANGS
from fakes import FakeSegmenter, ThreadPool, hold_folder

from floodmap.errors import OutputError, PoolError, SceneError
from floodmap.scaleout.workers import cluster, local, pool, process, worker
from floodmap.scaleout.workers.local import LocalPool
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


# Worker processes.


def test_worker_processes_delete_their_temporary_files_and_ctrl_c_does_not_reach_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "GRACE_S", HANGS)
    with LocalPool(["cpu"]) as own:
        popen = own.workers[0].popen
        folder = Path(own.submit(hold_folder, str(tmp_path)).result(HANGS))
        assert folder.is_dir()
        if sys.platform != "win32":
            assert os.getpgid(popen.pid) != os.getpgrp()  # a terminal sends Ctrl-C to a group of processes
    assert popen.returncode == 0 and not folder.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="processes are stopped by a signal")
def test_a_worker_process_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(local, "GRACE_S", 0.2)
    with LocalPool(["cpu"]) as own:
        popen = own.workers[0].popen
        own.submit(hold_folder, str(tmp_path)).result(HANGS)
        os.kill(popen.pid, signal.SIGSTOP)
    assert popen.returncode == -9


# A GPU that fails.


@pytest.mark.parametrize(
    ("works", "runs_on"), [(True, "cuda bfloat16"), (False, "cuda bfloat16"), (False, "cpu float32")]
)
def test_a_chunk_of_a_broken_gpu_is_no_result(works: bool, runs_on: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from floodmap.models import hardware

    calls = list[torch.device]()

    def synchronize(device: torch.device) -> None:
        calls.append(device)
        if not works:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(hardware, "pick_device", torch.device)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(worker, "_state", worker._State())
    worker.settle("cuda:1", 1)
    segmenter = FakeSegmenter()
    segmenter.runs_on = runs_on
    if works or runs_on.startswith("cpu"):
        worker.refuse_broken_gpu(segmenter)
    else:
        with pytest.raises(worker.BrokenGpuError, match="restart this worker"):
            worker.refuse_broken_gpu(segmenter)
    assert calls == ([] if runs_on.startswith("cpu") else [torch.device("cuda:1")])


def test_a_process_with_a_broken_gpu_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(SystemExit) as raised:
        process._answer(raising(worker.BrokenGpuError("the GPU failed")), ())
    assert raised.value.code == process.BROKEN_GPU
