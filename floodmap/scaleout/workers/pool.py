"""Pools of worker processes, with the interface of `concurrent.futures.Executor`."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from dataclasses import dataclass
from typing import Any, TypeVar

from floodmap.errors import PoolError

Result = TypeVar("Result")

log = logging.getLogger(__name__)

_POLL_S = 1.0
"""Time in seconds after which a wait for results is interrupted, to look for troubles."""
_LOOK_S = 60.0
"""Time in seconds without a result after which `Pool.trouble` is called, and again after each such time."""
_QUIET_S = 600.0
"""Time in seconds without a result after which a warning is logged; the next one follows after twice the time.
A chunk takes minutes on one core."""
MAX_DEATHS = 3
"""Number of workers that may end while they run one call, before the call fails."""


class WorkerDied(Exception):
    """A worker ended while it ran a call. As the exception of a call: several workers did."""


class Pool(Executor):
    """Worker processes that run calls. A call is a function of a module, with arguments that can be pickled.

    If a worker process ends while it runs a call, for example for lack of memory, the call is run again. A call that
    ended several workers fails with `WorkerDied`.
    """

    same_machine: bool
    """True if all workers run on this machine, on the cores that this process would use."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of calls that run at the same time."""

    def trouble(self) -> str:
        """Return why no call can run now, and what to do; empty if nothing is known to be wrong."""
        return ""

    @abstractmethod
    def everywhere(self, function: Callable[..., Result], /, *args: Any) -> list[Result]:
        """Run a function once in every worker, and return the results.

        Raises:
            PoolError: there is no worker, or a worker ended.
        """


@dataclass(frozen=True, slots=True)
class Call:
    """Function with its arguments, to be run by a worker."""

    function: Callable[..., Any]
    args: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Lost:
    """In place of the result of a call that ended several workers."""

    why: str
    """Error message, one line."""


def in_order(pool: Pool, calls: Iterator[Call | None], *, ahead: int) -> Generator[Any | Lost, None, None]:
    """Run calls in a pool, and yield their results in the order of the calls.

    The number of results in memory is bounded: no further call is begun while `ahead` results wait for an earlier one.
    Calls that run at that time still end, so that up to `ahead` + `pool.size` - 1 results wait.
    Close the generator to cancel the calls that have not begun.

    Args:
        pool: the worker processes.
        calls: the calls. An item that is None means that the next call depends on a result not yet yielded.
        ahead: number of finished results that wait for an earlier result, from which no further call is begun.

    Yields:
        The result of each call; or `Lost`, if the call ended several workers.

    Raises:
        PoolError: the connection to the workers was lost.
        Exception: a call raised this exception.
    """
    begun: deque[Future[Any]] = deque()
    patience = _Patience(pool)
    try:
        while True:
            while (
                len(running := [one for one in begun if not one.done()]) < pool.size and len(begun) < pool.size + ahead
            ):
                call = next(calls, None)
                if call is None:
                    break
                begun.append(pool.submit(call.function, *call.args))
            if not begun:
                return
            if begun[0].done():
                yield _result(begun.popleft())
            else:
                patience.wait(running)
    finally:
        for future in begun:
            future.cancel()


class _Patience:
    """Waits for results, and logs a warning if there is no worker, or if no result arrives for long.

    Such a run is not stopped, because workers may come back, and a result may take hours on a slow machine.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool, self._arrived, self._looked = pool, time.monotonic(), time.monotonic()
        self._quiet_s = _QUIET_S

    def wait(self, running: Collection[Future[Any]]) -> None:
        """Wait until one of the calls is done."""
        while not wait(running, timeout=_POLL_S, return_when=FIRST_COMPLETED).done:
            now = time.monotonic()
            if now - self._looked >= _LOOK_S:
                self._looked = now
                self._warn(now - self._arrived)
        self._arrived = self._looked = time.monotonic()

    def _warn(self, quiet_s: float) -> None:
        if trouble := self._pool.trouble():
            log.warning("%s", trouble)
        elif quiet_s >= self._quiet_s:
            self._quiet_s *= 2  # a slow model is not worth a warning each minute
            log.warning("no worker has finished a chunk for %d minutes; one may hang", quiet_s // 60)


def _result(future: Future[Any]) -> Any | Lost:
    try:
        return future.result()
    except WorkerDied as error:
        return Lost(" ".join(str(error).split()))
    except CancelledError:
        raise PoolError("the connection to the workers was lost; continue with --resume") from None
