"""Strips: finished rows of a scene, packed by LZ4, several times faster than zlib and as small, to a fifth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import lz4.block
import numpy as np
from numpy.typing import NDArray

BLOCK_PIXELS = 2**21
"""Pixels of a strip that are unpacked in one go."""


def packed(codes: NDArray[np.uint8]) -> bytes:
    """Codes of any shape, row by row."""
    small: bytes = lz4.block.compress(np.ascontiguousarray(codes).data, store_size=False)
    return small


def unpacked(small: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """The codes again, (height, width); not to be written to."""
    return np.frombuffer(lz4.block.decompress(small, uncompressed_size=width * height), np.uint8).reshape(height, width)


@dataclass(frozen=True, slots=True)
class Strip:
    """Finished rows of a scene, packed: at a hundred thousand columns they would take more than the model does."""

    row_off: int
    """First scene row."""
    height: int
    """How many rows."""
    step: int
    """Rows of a block; the last may have fewer."""
    pieces: tuple[tuple[int, tuple[bytes, ...]], ...]
    """From left to right: how many columns, and their codes, block by block from the top."""

    @classmethod
    def of(cls, row_off: int, codes: NDArray[np.uint8]) -> Strip:
        """From codes (rows, scene width)."""
        step = block_rows(codes.shape[1])
        return cls(row_off, len(codes), step, ((codes.shape[1], tuple(pack_blocks(codes, step))),))

    @property
    def codes(self) -> NDArray[np.uint8]:
        """(rows, scene width); what the values mean stands in `floodmap.strips.codes`."""
        return np.concatenate(list(self.blocks()))

    def blocks(self) -> Iterator[NDArray[np.uint8]]:
        """Codes (rows, scene width), some rows at a time."""
        for number, row in enumerate(range(0, self.height, self.step)):
            rows = min(self.step, self.height - row)
            yield np.concatenate([unpacked(blocks[number], columns, rows) for columns, blocks in self.pieces], axis=1)


def block_rows(width: int) -> int:
    """Rows of a block of a scene with so many columns."""
    return max(1, BLOCK_PIXELS // width)


def pack_blocks(codes: NDArray[np.uint8], step: int) -> Iterator[bytes]:
    """Codes (rows, columns), packed so many rows at a time."""
    for row in range(0, len(codes), step):
        yield packed(codes[row : row + step])
