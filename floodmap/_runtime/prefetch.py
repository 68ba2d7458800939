"""Work done ahead of time in a thread: the next windows are read while the model is busy with this one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    work: Callable[[Item], Result], items: Iterable[Item], *, count: int = 3, threads: int = 1
) -> Generator[Result, None, None]:
    """Results in the order of the items, the next `count` of them made in threads meanwhile.

    Close it before what the work needs is closed: it waits for the threads.
    """
    executor = ThreadPoolExecutor(threads, thread_name_prefix="ahead")
    todo = iter(items)
    try:
        pending: list[Future[Result]] = [executor.submit(work, item) for item in islice(todo, count)]
        while pending:
            result = pending.pop(0).result()
            pending.extend(executor.submit(work, item) for item in islice(todo, 1))
            yield result
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
