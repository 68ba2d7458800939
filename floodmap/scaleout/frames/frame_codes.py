"""Finished codes of one frame in a file, for reading any window: compressed blocks, edge distances, and a checksum."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import lz4.block
import numpy as np
from numpy.typing import NDArray

from floodmap._runtime.files import atomic_path
from floodmap.errors import writing
from floodmap.geo.window import Window
from floodmap.scaleout.frames.edge_distance import Completeness
from floodmap.strips.strip import packed, unpacked

_DIGEST = 16
_KIND = b"frame codes 1"
"""Name of the format. The digest depends on it, so that files of another format are ignored."""
_BLOCK_COLS = 2048
"""Largest number of columns of a block in the file. A block has the rows of one block that `write` is given."""
_READ_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class FrameCodes:
    """Codes of a frame on disk.

    A file is opened for each call of `read` and closed again. The number of frames is therefore not limited by the
    number of files that a process may open.
    """

    path: Path
    """The file."""
    about: Mapping[str, Any]
    """Description of the frame and of the segmentation, of JSON types, as given to `write`."""
    shape_hw: tuple[int, int]
    """Height and width of the frame, in pixels."""
    rows: NDArray[np.int64]
    """First row of each row of blocks, and at the end the height of the frame; int64 (rows of blocks + 1,)."""
    offsets: NDArray[np.int64]
    """Offsets in the file, in bytes: of each block, then of the distances, then the length of the file; int64."""
    distances_hw: tuple[int, int]
    """Height and width of the array of distances."""

    @classmethod
    def write(
        cls, path: Path, shape_hw: tuple[int, int], blocks: Iterable[tuple[int, NDArray[np.uint8]]],
        about: Mapping[str, Any],
    ) -> FrameCodes:  # fmt: skip
        """Write the codes of a frame, completely or not at all.

        Args:
            path: the file.
            shape_hw: height and width of the frame, in pixels.
            blocks: blocks of rows from top to bottom: index of the first row, and codes, uint8 (rows, width).
            about: description of the frame and of the segmentation, of JSON types.

        Raises:
            OutputError: the disk is full, or the operating system reports another error in writing.
        """
        complete, rows, parts = Completeness(shape_hw), [], []
        for row, codes in blocks:
            complete.add(row, codes)
            rows.append(row)
            parts += [packed(codes[:, col : col + _BLOCK_COLS]) for col in range(0, shape_hw[1], _BLOCK_COLS)]
        distances = complete.distances()
        parts.append(lz4.block.compress(distances.tobytes(), store_size=False))
        head = {
            "about": about, "shape_hw": shape_hw, "rows": [*rows, shape_hw[0]], "sizes": [len(part) for part in parts],
            "distances_hw": distances.shape,
        }  # fmt: skip
        body = json.dumps(head, sort_keys=True).encode() + b"\n", *parts
        digest = hashlib.blake2b(digest_size=_DIGEST, person=_KIND)
        for part in body:
            digest.update(part)
        with writing(path), atomic_path(path) as partial, partial.open("wb") as file:
            file.writelines([digest.digest(), *body])
            file.flush()
            os.fsync(file.fileno())
        return cls._of(path, head, len(body[0]))

    @classmethod
    def open(cls, path: Path) -> FrameCodes | None:
        """Return the codes in a file; None if the file is missing or damaged, or has another format."""
        try:
            with path.open("rb") as file:
                wanted, line = file.read(_DIGEST), file.readline()
                digest = hashlib.blake2b(line, digest_size=_DIGEST, person=_KIND)
                while part := file.read(_READ_BYTES):
                    digest.update(part)
        except OSError:
            return None
        return cls._of(path, json.loads(line), len(line)) if digest.digest() == wanted else None

    @classmethod
    def _of(cls, path: Path, head: Mapping[str, Any], head_bytes: int) -> FrameCodes:
        offsets = np.array([*accumulate(head["sizes"], initial=_DIGEST + head_bytes)], np.int64)
        shape_hw, distances_hw = tuple(head["shape_hw"]), tuple(head["distances_hw"])
        return cls(path, head["about"], shape_hw, np.array(head["rows"], np.int64), offsets, distances_hw)

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Read a window of the frame.

        Args:
            window: in pixels of the frame, inside the frame.

        Returns:
            Codes, uint8 (height, width).
        """
        codes = np.empty((window.height, window.width), np.uint8)
        with self.path.open("rb") as file:
            for index, rectangle in self._blocks(window):
                file.seek(int(self.offsets[index]))
                block = file.read(int(self.offsets[index + 1] - self.offsets[index]))
                top, left = max(rectangle.row_off, window.row_off), max(rectangle.col_off, window.col_off)
                bottom, right = min(rectangle.row_end, window.row_end), min(rectangle.col_end, window.col_end)
                part = Window(top, left, bottom - top, right - left)
                inner = unpacked(block, rectangle.width, rectangle.height)[part.within(rectangle).slices]
                codes[part.within(window).slices] = inner
        return codes

    def distances(self) -> NDArray[np.float32]:
        """Read the distances from the edge of observed pixels, float32 `distances_hw`; see `Completeness.distances`."""
        with self.path.open("rb") as file:
            file.seek(int(self.offsets[-2]))
            block = file.read()
        size = 4 * self.distances_hw[0] * self.distances_hw[1]
        raw = lz4.block.decompress(block, uncompressed_size=size)
        return np.frombuffer(raw, np.float32).reshape(self.distances_hw)

    def _blocks(self, window: Window) -> Iterator[tuple[int, Window]]:
        """Yield the index of each block that a window touches, and the rectangle of the block in frame pixels."""
        first = int(np.searchsorted(self.rows, window.row_off, side="right")) - 1
        across = -(-self.shape_hw[1] // _BLOCK_COLS)
        for row in range(first, int(np.searchsorted(self.rows, window.row_end))):
            top, bottom = int(self.rows[row]), int(self.rows[row + 1])
            for col in range(window.col_off // _BLOCK_COLS, -(-window.col_end // _BLOCK_COLS)):
                left = col * _BLOCK_COLS
                yield row * across + col, Window(top, left, bottom - top, min(_BLOCK_COLS, self.shape_hw[1] - left))
