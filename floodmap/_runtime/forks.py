"""What a forked process has to do without: threads, which go on in its parent only, and the locks they held.

Torch (OpenMP) and GDAL keep threads that wait for work. The child of a process with such threads believes that it has
them too, gives them work, and waits for ever. So it does its work in one thread. What was going on at the moment of the
fork is worse: a lock that some thread held is never given back. Then the child is refused.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, Generic, TypeVar

from floodmap.errors import FloodmapError

Thing = TypeVar("Thing")


class _Process:
    """What is known of this process."""

    def __init__(self) -> None:
        self.lock, self.working, self.ended = Lock(), 0, -math.inf
        self.forked = self.torn = self.lost_gpu = False

    def forget(self) -> None:
        """Be the child of a fork."""
        self.torn |= self.working > 0
        self.lock, self.working, self.forked = Lock(), 0, True
        torch: Any = sys.modules.get("torch")
        if hasattr(torch, "set_num_threads"):
            torch.set_num_threads(1)  # as torch's own DataLoader does in the processes that it forks

    def part(self) -> None:
        """Be the parent, before the fork.

        A thread that has ended for Python may still be closing what PROJ has open, with a lock of SQLite held that the
        child would wait for: give it time.
        """
        if not self.working:
            time.sleep(max(0.0, self.ended + _ENDING_S - time.monotonic()))
        cuda: Any = sys.modules.get("torch.cuda")
        self.lost_gpu |= hasattr(cuda, "is_initialized") and cuda.is_initialized()


_ENDING_S = 0.5
"""What a thread takes to end once its work is done, on a busy machine, in seconds."""
_process = _Process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_process.part, after_in_child=_process.forget)

_REMEDY = 'begin processes by multiprocessing.get_context("spawn"), or before floodmap is used'


@contextmanager
def at_work() -> Iterator[None]:
    """Tell that locks of torch and GDAL may be held meanwhile.

    Raises:
        FloodmapError: some may have been, in another thread, when this process was forked.
    """
    if _process.torn:
        raise FloodmapError(f"this process was forked while another thread of its parent used floodmap; {_REMEDY}")
    with _process.lock:
        _process.working += 1
    try:
        yield
    finally:
        with _process.lock:
            _process.working -= 1
            _process.ended = time.monotonic()


class PerProcess(Generic[Thing]):
    """Something that every process makes for itself, a lock or an executor: what it has from its parent is no use.

    Args:
        make: makes it.
    """

    def __init__(self, make: Callable[[], Thing]) -> None:
        self._make, self._process, self._thing = make, os.getpid(), make()

    def __call__(self) -> Thing:
        """It."""
        if self._process != os.getpid():
            self._thing, self._process = self._make(), os.getpid()
        return self._thing


def threads(wanted: int) -> int:
    """How many threads may share a piece of work: one in a forked process."""
    return 1 if _process.forked else wanted


def refuse_lost_gpu() -> None:
    """Raise FloodmapError in a process that was forked from one that used a GPU: CUDA works in the latter only."""
    if _process.forked and _process.lost_gpu:
        raise FloodmapError(f"this process was forked from one that used a GPU, and cannot use it; {_REMEDY}")
