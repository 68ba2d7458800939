"""Limits of a forked process: no thread pool survives a fork, and locks held by other threads stay locked.

Torch (OpenMP) and GDAL keep pools of threads. A fork copies the state of a pool but none of its threads: the child
submits work to the pool and waits for ever. So a forked process works in one thread. A lock that another thread held
at the moment of the fork is worse: in the child nobody releases it. Such a child is refused with an error.
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

Value = TypeVar("Value")


class _Process:
    """State of this process: threads inside torch or GDAL, and whether and how it was forked."""

    def __init__(self) -> None:
        self.lock, self.active, self.last_end_s = Lock(), 0, -math.inf
        self.forked = self.forked_while_active = self.parent_used_gpu = False

    def after_fork_in_child(self) -> None:
        """Reset the state in the child of a fork."""
        self.forked_while_active |= self.active > 0
        self.lock, self.active, self.forked = Lock(), 0, True
        torch: Any = sys.modules.get("torch")
        if hasattr(torch, "set_num_threads"):
            torch.set_num_threads(1)  # as torch's own DataLoader does in the processes that it forks

    def before_fork(self) -> None:
        """Wait in the parent until threads that ended lately have released their locks, and note the use of a GPU.

        A thread that has ended for Python may still close files of PROJ. Meanwhile it holds a lock of SQLite, for
        which the child would wait for ever.
        """
        if not self.active:
            time.sleep(max(0.0, self.last_end_s + _THREAD_EXIT_S - time.monotonic()))
        cuda: Any = sys.modules.get("torch.cuda")
        self.parent_used_gpu |= hasattr(cuda, "is_initialized") and cuda.is_initialized()


_THREAD_EXIT_S = 0.5
"""Time in seconds that a thread takes to exit after its work, on a busy machine."""
_process = _Process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_process.before_fork, after_in_child=_process.after_fork_in_child)

_REMEDY = 'begin processes by multiprocessing.get_context("spawn"), or before floodmap is used'


@contextmanager
def at_work() -> Iterator[None]:
    """Context manager around calls into torch and GDAL, which may hold locks: a child forked meanwhile is unusable.

    Raises:
        FloodmapError: this process is such a child.
    """
    if _process.forked_while_active:
        raise FloodmapError(f"this process was forked while another thread of its parent used floodmap; {_REMEDY}")
    with _process.lock:
        _process.active += 1
    try:
        yield
    finally:
        with _process.lock:
            _process.active -= 1
            _process.last_end_s = time.monotonic()


class PerProcess(Generic[Value]):
    """A value that each process creates for itself, a lock or an executor: a copy from its parent does not work.

    Args:
        make: creates the value.
    """

    def __init__(self, make: Callable[[], Value]) -> None:
        self._make, self._process_id, self._value = make, os.getpid(), make()

    def __call__(self) -> Value:
        """The value of this process."""
        if self._process_id != os.getpid():
            self._value, self._process_id = self._make(), os.getpid()
        return self._value


def threads(wanted: int) -> int:
    """Number of threads to use: as many as wanted, but one in a forked process."""
    return 1 if _process.forked else wanted


def refuse_lost_gpu() -> None:
    """Raise FloodmapError in a process forked from one that used a GPU: CUDA does not work after a fork."""
    if _process.forked and _process.parent_used_gpu:
        raise FloodmapError(f"this process was forked from one that used a GPU, and cannot use it; {_REMEDY}")
