"""How glibc keeps and gives back what is freed; elsewhere nothing is done."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_KEEP, _GIVE_BACK = 1 << 30, 1 << 25
_LARGE = 5 << 20
"""Bytes from which on memory comes from the kernel and goes back there at once, where that costs little."""
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def configure_low_memory() -> None:
    """Settle for less memory in a process that is there to segment, before it imports numpy, torch or rasterio.

    Its threads share one heap, where each finds what another has freed, and what is large stays out of the heap, where
    it would leave holes, in pages of 2 MB, which the kernel zeroes in a tenth of the time. What torch remembers of
    layers for every shape they met, besides what oneDNN does, takes 3 MB a shape and saves 1 % of the time. MKL would
    keep 4 MB and more for every thread that ever multiplied, which it may as well ask for each time.
    """
    if _has_huge_pages():
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch asks for them
    os.environ.setdefault("LRU_CACHE_CAPACITY", "1")  # of torch's ideep, where 0 is a crash
    os.environ.setdefault("MKL_DISABLE_FAST_MM", "1")
    if libc := _glibc():
        libc.mallopt(_M_ARENA_MAX, 1)


def _has_huge_pages() -> bool:
    try:
        return "[never]" not in _HUGE_PAGES.read_text()
    except OSError:
        return False


@contextmanager
def freed_memory_kept(*, large_apart: bool = True) -> Iterator[None]:
    """While windows run, let glibc keep what torch frees for the next one, instead of handing it back to the kernel.

    Fresh pages are zeroed by the kernel one by one: a sixth of the time of a window, on two threads more. Afterwards
    all that is free goes back: work of another kind wants other sizes, and would take them on top.

    Args:
        large_apart: but for large blocks, in a process that is sparing. Meta's encoders ask for little else: fresh
            pages take them a fifth of their time.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    large_apart &= _has_huge_pages() and os.environ.get("THP_MEM_ALLOC_ENABLE") == "1"
    _set_thresholds(libc, _KEEP, mmap=_LARGE if large_apart else _KEEP)
    try:
        yield
    finally:
        _set_thresholds(libc, _GIVE_BACK, mmap=_GIVE_BACK)
        libc.malloc_trim(0)


def trim_heap() -> None:
    """Hand what is free back to the kernel, before work that takes much memory of another kind."""
    if libc := _glibc():
        libc.malloc_trim(0)


def _glibc() -> Any | None:
    try:
        libc = ctypes.CDLL(None)
        return libc if libc.mallopt and libc.malloc_trim else None
    except (OSError, AttributeError, TypeError):
        return None


def _set_thresholds(libc: Any, trim: int, *, mmap: int) -> None:
    libc.mallopt(_M_MMAP_THRESHOLD, mmap)
    libc.mallopt(_M_TRIM_THRESHOLD, trim)
