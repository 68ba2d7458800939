"""How glibc keeps and gives back what is freed; elsewhere nothing is done."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEEP, _GIVE_BACK = 1 << 30, 1 << 25


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """While windows run, let glibc keep what torch frees for the next one, instead of handing it back to the kernel.

    Fresh pages are zeroed by the kernel one by one: a sixth of the time of a window, on two threads more. Afterwards,
    what is free goes back: work of another kind wants other sizes, and would take them on top.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    _set_thresholds(libc, _KEEP)
    try:
        yield
    finally:
        _set_thresholds(libc, _GIVE_BACK)
        libc.malloc_trim(0)


def give_back() -> None:
    """Hand what is free back to the kernel, before work that takes much memory of another kind."""
    if libc := _glibc():
        libc.malloc_trim(0)


def _glibc() -> Any | None:
    try:
        libc = ctypes.CDLL(None)
        return libc if libc.mallopt and libc.malloc_trim else None
    except (OSError, AttributeError, TypeError):
        return None


def _set_thresholds(libc: Any, size: int) -> None:
    libc.mallopt(_M_MMAP_THRESHOLD, size)
    libc.mallopt(_M_TRIM_THRESHOLD, size)
