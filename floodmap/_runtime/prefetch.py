"""Prefetching in threads: the next windows are read while the model computes the current window."""

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
    """Apply `work` to items in threads, and yield the results in the order of the items.

    Close the generator before closing any file that `work` uses, because closing the generator waits for the threads.

    Args:
        work: function that computes the result of one item.
        items: the items, in order.
        count: largest number of items that the threads compute ahead of the caller.
        threads: number of threads.
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
