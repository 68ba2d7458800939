"""Settings of glibc's memory allocator: which freed memory the process keeps. No effect with other C libraries."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_KEEP_BYTES, _RELEASE_BYTES = 1 << 30, 1 << 25
"""Thresholds of the allocator while it keeps freed memory, and otherwise."""
_LARGE_BYTES = 5 << 20
"""Blocks from this size on come from mmap and return to the kernel at once, where huge pages make that cheap."""
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def configure_low_memory() -> None:
    """Configure glibc, torch and MKL for little memory, in a process that does nothing but segment.

    To be called before numpy, torch or rasterio is imported.

    - All threads share one heap (arena), where each reuses memory that another freed.
    - Large blocks stay out of the heap, where they would leave holes. They are mapped in huge pages of 2 MB, which the
      kernel zeroes in a tenth of the time.
    - torch (ideep) caches layers by shape, besides the cache of oneDNN: 3 MB a shape, for 1 % of the time.
    - MKL would keep buffers of 4 MB and more for every thread that ever multiplied matrices; now it allocates them
      each time.
    """
    if _has_huge_pages():
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # makes torch allocate in huge pages
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
    """Context manager: while windows run, glibc keeps memory that torch frees for the next window.

    The kernel zeroes fresh pages one by one, which takes a sixth of the time of a window, on two threads more. At the
    end all free memory returns to the kernel: later work allocates other sizes, which would come on top.

    Args:
        large_apart: return large blocks at once all the same, in a process that `configure_low_memory` has set up.
            False for Meta's encoders: nearly all their blocks are large, and fresh pages would take a fifth of the
            time.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    large_apart &= _has_huge_pages() and os.environ.get("THP_MEM_ALLOC_ENABLE") == "1"
    _set_thresholds(libc, _KEEP_BYTES, mmap=_LARGE_BYTES if large_apart else _KEEP_BYTES)
    try:
        yield
    finally:
        _set_thresholds(libc, _RELEASE_BYTES, mmap=_RELEASE_BYTES)
        libc.malloc_trim(0)


def trim_heap() -> None:
    """Return free memory to the kernel, before work that allocates much memory in other sizes."""
    if libc := _glibc():
        libc.malloc_trim(0)


def _glibc() -> Any | None:
    """The C library if it is glibc, else None."""
    try:
        libc = ctypes.CDLL(None)
        return libc if libc.mallopt and libc.malloc_trim else None
    except (OSError, AttributeError, TypeError):
        return None


def _set_thresholds(libc: Any, trim: int, *, mmap: int) -> None:
    libc.mallopt(_M_MMAP_THRESHOLD, mmap)
    libc.mallopt(_M_TRIM_THRESHOLD, trim)
