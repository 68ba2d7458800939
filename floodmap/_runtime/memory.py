"""Settings of the memory allocator of glibc: freed memory is kept in the process, or returned to the kernel.

With other C libraries, settings of the allocator have no effect.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_KEEP_BYTES, _RELEASE_BYTES = 1 << 30, 1 << 25
"""Sizes in bytes: 1 GiB in the `with` block of `freed_memory_kept`, 32 MiB after the block.

Each size is the value of two thresholds of glibc. Trim threshold: free memory above this size at the end of the heap
returns to the kernel. Mmap threshold: blocks of at least this size are allocated by mmap, outside the heap. In the
`with` block, the mmap threshold is `_LARGE_BYTES` instead, if large blocks are kept apart (`large_apart`).
"""
_LARGE_BYTES = 5 << 20
"""Size in bytes from which a block is allocated by mmap. A block of this size returns to the kernel when freed.

`freed_memory_kept` uses this size only if the system has huge pages, because huge pages make allocations by mmap cheap.
"""
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def configure_low_memory(*, one_heap: bool = True) -> None:
    """Configure glibc, torch and MKL for low memory use, in a process that only segments scenes.

    Call this function before numpy, torch or rasterio is imported. With `one_heap=False`, numpy and rasterio may be
    imported already.

    - All threads share one heap (arena), so that each thread reuses memory that another thread has freed.
    - Large blocks are allocated outside the heap, because freed large blocks would leave unused gaps in the heap. Large
      blocks are mapped in huge pages of 2 MB, which the kernel zeroes in a tenth of the time of small pages.
    - The layer cache of torch (ideep) is limited to one entry, because oneDNN has a cache, too. More entries would take
      3 MB per shape of input and save 1 % of the time.
    - MKL allocates new buffers for each matrix product. By default MKL keeps buffers of 4 MB or more for every thread
      that has multiplied matrices.

    Args:
        one_heap: False: leave out the first setting of this list, which affects all threads of the process.
    """
    if _has_huge_pages():
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # makes torch allocate in huge pages
    os.environ.setdefault("LRU_CACHE_CAPACITY", "1")  # cache of torch's ideep; with 0, torch crashes
    os.environ.setdefault("MKL_DISABLE_FAST_MM", "1")
    if one_heap and (libc := _glibc()):
        libc.mallopt(_M_ARENA_MAX, 1)


def _has_huge_pages() -> bool:
    try:
        return "[never]" not in _HUGE_PAGES.read_text()
    except OSError:
        return False


@contextmanager
def freed_memory_kept(*, large_apart: bool = True) -> Iterator[None]:
    """Context manager: memory that torch frees after a window is kept in the process for the next window.

    Without this setting, the kernel zeroes fresh pages for each window. Zeroing takes a sixth of the time of a window,
    and more with two threads.

    At the end of the `with` block all free memory returns to the kernel. The reason: later work, such as the writing of
    results, allocates blocks of other sizes than the windows need. If the memory of the windows stayed in the process,
    the process would need memory for these blocks in addition to it.

    Args:
        large_apart: whether blocks of at least 5 MiB (`_LARGE_BYTES`) are not kept, but return to the kernel as soon as
            they are freed. True has an effect only if the system has huge pages and `configure_low_memory` has
            configured the process. With False, these blocks are kept, too. Pass False for the encoders of Meta's
            models: nearly all blocks of these encoders are so large, and fresh pages would take a fifth of the time.
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
    """Return free memory to the kernel.

    glibc keeps freed memory in the process, to use it for later blocks. Later blocks may not fit into this memory if
    their sizes differ from those of the freed blocks; the process then needs more memory. Call this function between
    two phases of work whose large blocks differ in size, and from time to time in a long loop.
    """
    if libc := _glibc():
        libc.malloc_trim(0)


def _glibc() -> Any | None:
    """Return the C library of the process if this library is glibc, else None."""
    try:
        libc = ctypes.CDLL(None)
        return libc if libc.mallopt and libc.malloc_trim else None
    except (OSError, AttributeError, TypeError):
        return None


def _set_thresholds(libc: Any, trim: int, *, mmap: int) -> None:
    libc.mallopt(_M_MMAP_THRESHOLD, mmap)
    libc.mallopt(_M_TRIM_THRESHOLD, trim)
