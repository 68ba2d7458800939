"""Limits of a forked process: thread pools do not survive a fork, and locks held by other threads stay locked.

Torch (OpenMP) and GDAL keep pools of threads. A fork copies the state of a pool, but no thread of the pool. A child
process that submits work to the copied pool waits for ever. A forked process therefore computes in one thread.
A lock that another thread held at the moment of the fork is never released in the child process. A child process that
was forked while another thread was inside torch or GDAL therefore gets an error.
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
    """State of this process: number of threads inside torch or GDAL, and whether the process was forked.

    After a fork, the state also records whether the parent process used a GPU, or had threads inside torch or GDAL.
    """

    def __init__(self) -> None:
        self.lock, self.active, self.last_end_s = Lock(), 0, -math.inf
        self.forked = self.forked_while_active = self.parent_used_gpu = False

    def after_fork_in_child(self) -> None:
        """Reset the state in the child process of a fork, and limit torch to one thread."""
        self.forked_while_active |= self.active > 0
        self.lock, self.active, self.forked = Lock(), 0, True
        torch: Any = sys.modules.get("torch")
        if hasattr(torch, "set_num_threads"):
            torch.set_num_threads(1)  # torch's own DataLoader does the same in forked processes

    def before_fork(self) -> None:
        """Wait until threads that have just ended have released all locks, and record whether a GPU was used.

        This method runs in the parent process. A thread that has ended for Python may still be closing files of PROJ.
        A thread that closes files of PROJ holds a lock of SQLite, and a child process would wait for the lock for ever.
        """
        if not self.active:
            time.sleep(max(0.0, self.last_end_s + _THREAD_EXIT_S - time.monotonic()))
        cuda: Any = sys.modules.get("torch.cuda")
        self.parent_used_gpu |= hasattr(cuda, "is_initialized") and cuda.is_initialized()


_THREAD_EXIT_S = 0.5
"""Time in seconds that a thread needs to exit after the end of its work, on a busy machine."""
_process = _Process()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_process.before_fork, after_in_child=_process.after_fork_in_child)

_REMEDY = 'begin processes by multiprocessing.get_context("spawn"), or before floodmap is used'


@contextmanager
def at_work() -> Iterator[None]:
    """Context manager: mark a `with` block that calls torch or GDAL. Both libraries may hold locks during a call.

    If another thread forks a child process during the block, the child process cannot use floodmap.

    Raises:
        FloodmapError: this process was forked while another thread of the parent process was in a marked block.
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
    """Value that each process creates anew, such as a lock or an executor.

    After a fork, the copy of a value of the parent process would not work.

    Args:
        make: function that creates the value.
    """

    def __init__(self, make: Callable[[], Value]) -> None:
        self._make, self._process_id, self._value = make, os.getpid(), make()

    def __call__(self) -> Value:
        """Return the value that belongs to this process. In a forked process, the first call creates the value."""
        if self._process_id != os.getpid():
            self._value, self._process_id = self._make(), os.getpid()
        return self._value


def threads(wanted: int) -> int:
    """Return the number of threads to use: `wanted`, or 1 in a forked process."""
    return 1 if _process.forked else wanted


def refuse_lost_gpu() -> None:
    """Raise FloodmapError if this process was forked from a process that used a GPU; CUDA fails after a fork."""
    if _process.forked and _process.parent_used_gpu:
        raise FloodmapError(f"this process was forked from one that used a GPU, and cannot use it; {_REMEDY}")
