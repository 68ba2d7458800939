"""`DaskPool`: the workers of a Dask cluster, through `dask.distributed`."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import wait as wait_for
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from floodmap._runtime.extras import require
from floodmap.errors import PoolError
from floodmap.scaleout.workers.pool import Pool, WorkerDied
from floodmap.scaleout.workers.worker import release, run_on

Result = TypeVar("Result")

_NO_WORKER = "{}: no worker; start workers with: dask worker ADDRESS"
_CONNECT_S = 30
"""Time in seconds after which the attempt to connect to a scheduler ends."""
_POLL_S = 2.0
"""Time in seconds between two checks whether a worker still exists."""
_RELEASE_S = 3.0
"""Time in seconds that the workers have to close their scenes, before the client disconnects."""


class DaskPool(Pool):
    """Workers of a Dask cluster that the user has started. Each thread of a worker runs one call at a time.

    If a worker ends, the scheduler runs its calls again on another worker. The scheduler decides after how many lost
    workers a call fails (`distributed.scheduler.allowed-failures`). Workers may join and leave during a run.

    Args:
        scheduler: address of the scheduler, or a `distributed.Client`, which stays connected at the end.
        device: torch device of every worker.
    """

    same_machine = False

    def __init__(self, scheduler: Any, device: str) -> None:
        require("distributed", "--scheduler")
        from distributed import Client

        if not isinstance(scheduler, str | Client):
            raise TypeError(f"scheduler is a {type(scheduler).__name__}; give an address or a distributed.Client")
        self._own_client, self._device = isinstance(scheduler, str), device
        self._client: Any = _connected(scheduler) if isinstance(scheduler, str) else scheduler

    @property
    def size(self) -> int:
        """Number of threads of all workers. It is 1 if all workers have left, because workers may come back."""
        return max(1, sum(self._threads().values()))

    def submit(self, function: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        """Run a function in a worker that is free; see `concurrent.futures.Executor.submit`."""
        future: Future[Result] = Future()
        remote = self._client.submit(run_on, self._device, function, *args, pure=False, **kwargs)
        future.add_done_callback(lambda one: remote.cancel() if one.cancelled() else None)
        remote.add_done_callback(partial(_hand_over, future))
        return future

    def trouble(self) -> str:
        """Return that there is no worker, if that is so; see `Pool.trouble`."""
        return "" if self._threads() else f"waiting for workers: {_NO_WORKER.format(self._client.scheduler.address)}"

    def everywhere(self, function: Callable[..., Result], /, *args: Any) -> list[Result]:
        """Run a function once in every worker, and return the results; see `Pool.everywhere`."""
        addresses = list(self._threads())
        if not addresses:
            raise PoolError(_NO_WORKER.format(self._client.scheduler.address))
        begun = {address: self._on(address, function, *args) for address in addresses}
        return [self._awaited(address, future) for address, future in begun.items()]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Close the scenes and drop the models in all workers, and disconnect."""
        with suppress(OSError, ValueError, CancelledError, PoolError):  # the scheduler may have ended
            wait_for([self._on(address, release) for address in self._threads()], _RELEASE_S)
        if self._own_client:
            self._client.close()

    def _threads(self) -> dict[str, int]:
        """Return the number of threads of each worker, by address.

        Raises:
            PoolError: the scheduler has ended.
        """
        try:
            threads: dict[str, int] = self._client.nthreads()
            return threads
        except (OSError, ValueError, TypeError, CancelledError) as error:  # the last two, if the client has closed
            raise PoolError("the connection to the scheduler was lost; continue with --resume") from error

    def _on(self, address: str, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Run a function in the worker with this address."""
        return self.submit(function, *args, workers=[address], allow_other_workers=False)

    def _awaited(self, address: str, future: Future[Any]) -> Any:
        """Wait for the result of a call that runs in one worker.

        Raises:
            PoolError: the worker left the cluster, or has another version of floodmap.
        """
        while not wait_for([future], _POLL_S).done:
            if address not in self._threads():
                future.cancel()
                raise PoolError(f"worker {address} ended at the start; free memory there, or start it again")
        try:
            return future.result()
        except WorkerDied:
            raise PoolError(f"worker {address} ended at the start; free memory there, or start it again") from None
        except (ImportError, AttributeError) as error:
            raise PoolError(
                f"worker {address} has no such floodmap ({error}); install the same version there"
            ) from error


def _hand_over(future: Future[Any], remote: Any) -> None:
    """Copy the result or the exception of `remote`, a finished future of the package `distributed`, to `future`."""
    try:
        result = remote.result()
    except BaseException as error:  # also errors of the transfer, after which the future would never be done
        if future.set_running_or_notify_cancel():
            future.set_exception(_plain(error))
        return
    if future.set_running_or_notify_cancel():
        future.set_result(result)


def _plain(error: BaseException) -> BaseException:
    """Return an exception of distributed as one of floodmap, with one line as its message; or the exception itself."""
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):  # its own message has the random name of the call
        return WorkerDied(f"its Dask workers ended {error.allowed_failures + 1} times")
    if isinstance(error, CancelledError):
        return PoolError("the connection to the workers was lost; continue with --resume")
    if type(error).__module__.partition(".")[0] == "distributed":
        text = " ".join(str(error).split())
        return PoolError(f"the Dask cluster failed ({type(error).__name__}: {text}); continue with --resume")
    return error


def _connected(address: str) -> Any:
    """Connect to a scheduler and return the client.

    Raises:
        PoolError: there is no scheduler at this address, or it needs certificates or another version of distributed.
    """
    from distributed import Client

    try:
        return Client(address, timeout=_CONNECT_S, set_as_default=False)
    except TypeError as error:  # TLS without certificates
        raise PoolError(
            f"{address}: no certificates for TLS; set distributed.comm.tls in the configuration of Dask"
        ) from error
    except ImportError as error:
        why = " ".join(str(error).split())
        raise PoolError(f"{address}: {why}; install the same version of distributed") from error
    except (OSError, ValueError, TimeoutError) as error:
        raise PoolError(
            f"{address}: no Dask scheduler answers ({type(error).__name__}); start one with: dask scheduler"
        ) from error


def variables_of_nannies() -> list[str]:
    """Return the environment variables that a cluster in this process has set for its workers.

    A `LocalCluster` sets variables such as OMP_NUM_THREADS=1 in the process that starts it. They are in
    `os.environ` then, but not among the variables with which the process began.
    """
    import dask
    import psutil

    names: dict[str, object] = dask.config.get("distributed.nanny.pre-spawn-environ", {})
    began = psutil.Process().environ()
    return [name for name in names if name in os.environ and name not in began]
