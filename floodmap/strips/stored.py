"""Strips of codes in one compressed file, for codes that are computed once and read several times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from floodmap.strips.strip import packed, unpacked

Codes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class StoredStrips:
    """Strips in a file."""

    path: Path
    index: tuple[tuple[int, tuple[int, int], int], ...]
    """First row, shape (rows, width), and size in bytes of each strip in the file."""

    @classmethod
    def of(cls, strips: Iterable[tuple[int, Codes]], path: Path) -> StoredStrips:
        """Write strips, pairs of first row and codes, uint8 (rows, width), to a file."""
        index = []
        with path.open("wb") as stream:
            for row, codes in strips:
                index.append((row, (codes.shape[0], codes.shape[1]), stream.write(packed(codes))))
        return cls(path, tuple(index))

    def strips(self) -> Iterator[tuple[int, Codes]]:
        """Yield first row and codes, uint8 (rows, width), read-only, of each strip."""
        with self.path.open("rb") as stream:
            for row, (height, width), size in self.index:
                yield row, unpacked(stream.read(size), width, height)
