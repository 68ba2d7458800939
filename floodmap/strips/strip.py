"""Strips: finished rows of a scene, compressed by LZ4 to a fifth, as block as by zlib and several times faster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import lz4.block
import numpy as np
from numpy.typing import NDArray

BLOCK_PIXELS = 2**21
"""Pixels of a strip that are decompressed at a time."""


def packed(codes: NDArray[np.uint8]) -> bytes:
    """Compress codes of any shape, row by row, by LZ4."""
    block: bytes = lz4.block.compress(np.ascontiguousarray(codes).data, store_size=False)
    return block


def unpacked(block: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """Decompress codes to uint8 (height, width), read-only."""
    return np.frombuffer(lz4.block.decompress(block, uncompressed_size=width * height), np.uint8).reshape(height, width)


@dataclass(frozen=True, slots=True)
class Strip:
    """Finished rows of a scene, compressed: at a hundred thousand columns they would take more than the model does."""

    row_off: int
    """First scene row."""
    height: int
    """Number of rows."""
    step: int
    """Rows of a block; the last may have fewer."""
    pieces: tuple[tuple[int, tuple[bytes, ...]], ...]
    """From left to right: number of columns, and their compressed codes, block by block from the top."""

    @classmethod
    def of(cls, row_off: int, codes: NDArray[np.uint8]) -> Strip:
        """Compress codes uint8 (rows, scene width)."""
        step = block_rows(codes.shape[1])
        return cls(row_off, len(codes), step, ((codes.shape[1], tuple(pack_blocks(codes, step))),))

    @property
    def codes(self) -> NDArray[np.uint8]:
        """Codes uint8 (rows, scene width), see `floodmap.strips.codes`."""
        return np.concatenate(list(self.blocks()))

    def blocks(self) -> Iterator[NDArray[np.uint8]]:
        """Codes uint8 (rows, scene width), block by block from the top."""
        for number, row in enumerate(range(0, self.height, self.step)):
            rows = min(self.step, self.height - row)
            yield np.concatenate([unpacked(blocks[number], columns, rows) for columns, blocks in self.pieces], axis=1)


def block_rows(width: int) -> int:
    """Rows of a block, for a scene of `width` columns."""
    return max(1, BLOCK_PIXELS // width)


def pack_blocks(codes: NDArray[np.uint8], step: int) -> Iterator[bytes]:
    """Compress codes uint8 (rows, columns) in blocks of `step` rows."""
    for row in range(0, len(codes), step):
        yield packed(codes[row : row + step])
