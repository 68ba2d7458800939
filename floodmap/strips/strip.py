"""Strips: finished rows of a scene, compressed with LZ4.

LZ4 compresses codes to a fifth of their size, as small as zlib does, and is several times faster.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import lz4.block
import numpy as np
from numpy.typing import NDArray

BLOCK_PIXELS = 2**21
"""Largest number of pixels that are decompressed together; a block has at least one row."""


def packed(codes: NDArray[np.uint8]) -> bytes:
    """Compress codes, uint8 of any shape, in row-major order with LZ4."""
    block: bytes = lz4.block.compress(np.ascontiguousarray(codes).data, store_size=False)
    return block


def unpacked(block: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """Decompress a block to codes, a read-only uint8 array (height, width)."""
    return np.frombuffer(lz4.block.decompress(block, uncompressed_size=width * height), np.uint8).reshape(height, width)


@dataclass(frozen=True, slots=True)
class Strip:
    """Finished rows of a scene, compressed.

    In a scene of a hundred thousand columns, uncompressed rows would need more memory than the model.
    """

    row_off: int
    """First row of the strip in the scene."""
    height: int
    """Number of rows."""
    step: int
    """Number of rows in a block; the last block may have fewer."""
    pieces: tuple[tuple[int, tuple[bytes, ...]], ...]
    """Pieces from left to right: number of columns, and the compressed codes of each block of rows from the top."""

    @classmethod
    def of(cls, row_off: int, codes: NDArray[np.uint8]) -> Strip:
        """Compress codes, uint8 (rows, scene width), to a strip that begins at scene row `row_off`."""
        step = block_rows(codes.shape[1])
        return cls(row_off, len(codes), step, ((codes.shape[1], tuple(pack_blocks(codes, step))),))

    @property
    def codes(self) -> NDArray[np.uint8]:
        """Codes, uint8 (rows, scene width); see `floodmap.strips.codes`."""
        return np.concatenate(list(self.blocks()))

    def blocks(self) -> Iterator[NDArray[np.uint8]]:
        """Yield codes, uint8 (rows, scene width), block by block from the top."""
        for number, row in enumerate(range(0, self.height, self.step)):
            rows = min(self.step, self.height - row)
            yield np.concatenate([unpacked(blocks[number], columns, rows) for columns, blocks in self.pieces], axis=1)


def block_rows(width: int) -> int:
    """Return the number of rows in a block of a scene of `width` columns."""
    return max(1, BLOCK_PIXELS // width)


def pack_blocks(codes: NDArray[np.uint8], step: int) -> Iterator[bytes]:
    """Compress codes, uint8 (rows, columns), and yield the bytes of each block of `step` rows."""
    for row in range(0, len(codes), step):
        yield packed(codes[row : row + step])
