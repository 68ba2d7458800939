"""Pools of worker processes, with the interface of `concurrent.futures.Executor`."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from dataclasses import dataclass
from typing import Any, TypeVar

from floodmap.errors import PoolError

Result = TypeVar("Result")

MAX_DEATHS = 3
"""Number of workers that may end while they run one call, before the call fails."""


class Pool(Executor):
    """Worker processes that run calls. A call is a function of a module, with arguments that can be pickled.

    If a worker process ends while it runs a call, for example for lack of memory, the call is run again. A call that
    ended several workers fails with an exception of one of the types in `lost`.
    """

    lost: tuple[type[Exception], ...]
    """Types of the exception of a call that ended several workers."""
    same_machine: bool
    """True if all workers run on this machine, on the cores that this process would use."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of calls that run at the same time."""

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
    Close the generator to cancel the calls that have not begun.

    Args:
        pool: the worker processes.
        calls: the calls. An item that is None means that the next call depends on a result not yet yielded.
        ahead: largest number of finished results that wait for an earlier result.

    Yields:
        The result of each call; or `Lost`, if the call ended several workers.

    Raises:
        PoolError: the connection to the workers was lost.
        Exception: a call raised this exception.
    """
    begun: deque[Future[Any]] = deque()
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
                yield _result(pool, begun.popleft())
            else:
                wait(running, return_when=FIRST_COMPLETED)
    finally:
        for future in begun:
            future.cancel()


def _result(pool: Pool, future: Future[Any]) -> Any | Lost:
    try:
        return future.result()
    except pool.lost as error:
        return Lost(" ".join(str(error).split()))
    except CancelledError:
        raise PoolError("the connection to the workers was lost; continue with --resume") from None
