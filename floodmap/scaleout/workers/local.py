"""`LocalPool`: worker processes on this machine, without a scheduler."""

from __future__ import annotations

import logging
import pickle
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

from floodmap.errors import PoolError
from floodmap.output.helpers import module_command, own_group
from floodmap.scaleout.workers.pool import MAX_DEATHS, Call, Pool, WorkerDied
from floodmap.scaleout.workers.process import BROKEN_GPU, GRACE_S

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class Worker:
    """A worker process, which runs one call at a time. The process is started at once.

    Args:
        device: torch device of the model in this process, such as `cpu` or `cuda:1`.
        share: number of worker processes that share the cores of this machine.
    """

    def __init__(self, device: str, share: int) -> None:
        self._arguments, self._lock, self._ended = (device, str(share)), threading.Lock(), False
        self._used = False
        self.popen = self._start()

    def call(self, call: Call) -> Any:
        """Run a call in the process and return its result. Another thread that calls this method waits.

        Raises:
            WorkerDied: the process ended. A new process is started, unless `end` was called.
            Exception: the call raised this exception.
        """
        with self._lock:
            try:
                pickle.dump((call.function, call.args), self._pipe(self.popen.stdin), 5)
                self._pipe(self.popen.stdin).flush()
                succeeded, result = pickle.load(self._pipe(self.popen.stdout))
            except (OSError, EOFError, ValueError, pickle.UnpicklingError):
                raise WorkerDied(self._restart()) from None
        self._used = True
        if succeeded:
            return result
        raise result

    def close(self) -> None:
        """Let the process end, so that it deletes its temporary files; kill it if it runs a call, or ran none yet.

        A call that runs raises `WorkerDied`.
        """
        self._ended = True
        if self._used and self._lock.acquire(blocking=False):
            with suppress(OSError):
                self._pipe(self.popen.stdin).close()
            self._lock.release()
        else:
            self.popen.kill()

    def end(self) -> None:
        """Wait until the process has ended after `close`, and kill it if it does not end."""
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(GRACE_S)
        self.popen.kill()
        with self._lock, suppress(OSError), self.popen:  # the lock is free once the call of a killed process has failed
            self.popen.kill()

    def _start(self) -> subprocess.Popen[bytes]:
        command, environment = module_command("floodmap.scaleout.workers.process", *self._arguments)
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a thread that waits leaves its core to other workers
        try:
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, **own_group()
            )
        except OSError as error:
            raise PoolError(
                f"no worker process can be started: {error.strerror or error}; run without --workers"
            ) from error

    def _restart(self) -> str:
        """Start a new process, and return a text on the end of the old process."""
        with suppress(OSError), self.popen:
            self.popen.kill()
        code = self.popen.returncode
        if not self._ended:
            self.popen, self._used = self._start(), False
        if code == BROKEN_GPU:
            return "its worker process ended (its GPU failed)"
        return f"its worker process ended ({f'signal {-code}' if code < 0 else f'exit code {code}'})"

    @staticmethod
    def _pipe(pipe: Any) -> Any:
        if pipe is None:
            raise OSError("no pipe")
        return pipe


class LocalPool(Pool):
    """Worker processes on this machine. They end with this process, whatever ends it.

    Args:
        devices: torch device of each worker process.
    """

    same_machine = True

    def __init__(self, devices: Sequence[str]) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Call] | None] = SimpleQueue()
        self._ended = False
        self.workers = [Worker(device, len(devices)) for device in devices]
        for worker in self.workers:
            threading.Thread(target=self._serve, args=(worker,), name="worker", daemon=True).start()

    @property
    def size(self) -> int:
        """Number of worker processes."""
        return len(self.workers)

    def submit(self, function: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Run a function in the next worker process that is free; see `concurrent.futures.Executor.submit`."""
        if self._ended or kwargs:
            raise RuntimeError("the pool has ended" if self._ended else "calls have no keyword arguments")
        future: Future[Result] = Future()
        self._calls.put((future, Call(function, args)))
        return future

    def everywhere(self, function: Callable[..., Result], /, *args: Any) -> list[Result]:
        """Run a function once in every worker process, and return the results; see `Pool.everywhere`."""
        with ThreadPoolExecutor(self.size) as executor:
            try:
                return list(executor.map(lambda worker: worker.call(Call(function, args)), self.workers))
            except WorkerDied as error:
                raise PoolError(f"{error} at the start; free memory, or use fewer --workers") from None

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the worker processes, also while they run a call."""
        self._ended = True
        for worker in self.workers:
            self._calls.put(None)
            worker.close()
        for worker in self.workers:
            worker.end()

    def _serve(self, worker: Worker) -> None:
        """Run calls of the queue in one worker process, until the pool ends."""
        while not self._ended and (task := self._calls.get()) is not None:
            future, call = task
            if future.set_running_or_notify_cancel():
                self._run(worker, future, call)

    def _run(self, worker: Worker, future: Future[Any], call: Call) -> None:
        for number in range(1, MAX_DEATHS + 1):
            try:
                future.set_result(worker.call(call))
                return
            except WorkerDied as error:
                if self._ended or number == MAX_DEATHS:
                    future.set_exception(WorkerDied(f"{error} {number} times"))
                    return
                log.warning("%s; the windows are computed again", error)
            except BaseException as error:
                future.set_exception(error)
                return
