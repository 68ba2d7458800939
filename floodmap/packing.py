"""Codes made small for a while, in memory and on disk: LZ4, several times faster than zlib and as small, to a fifth."""

from __future__ import annotations

from mmap import mmap

import numpy as np
import pyarrow
from numpy.typing import NDArray

_CODEC = pyarrow.Codec("lz4_raw")

Packed = bytes | memoryview


def packed(codes: NDArray[np.uint8]) -> bytes:
    """Codes of any shape, row by row."""
    small: bytes = _CODEC.compress(np.ascontiguousarray(codes).data, asbytes=True)
    return small


class Shelf:
    """Packed codes kept one after another in memory of their own.

    Thousands of small pieces among what a model takes and leaves would keep the holes between them from being used.

    Args:
        room: bytes; only what is used of it is taken.
    """

    def __init__(self, room: int) -> None:
        self._memory, self._used = mmap(-1, max(room, 1)), 0

    def put(self, small: bytes) -> Packed:
        """The same as it lies there, or itself where there is no room."""
        first, self._used = self._used, self._used + len(small)
        if self._used > len(self._memory):
            return small
        self._memory[first : self._used] = small
        return memoryview(self._memory)[first : self._used]


def unpacked(small: Packed, width: int, height: int) -> NDArray[np.uint8]:
    """The codes again, (height, width); not to be written to."""
    return np.frombuffer(_CODEC.decompress(small, width * height, asbytes=True), np.uint8).reshape(height, width)
