"""Layout of a COG that `output.cog` has written: where each internal tile lies in the file, level by level."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from floodmap.output.cog import BLOCK_SIZE, overview_levels
from floodmap.output.pyramid import shrunk

MARGIN = 4
"""Bytes before each tile in a COG (leader: size of the tile, uint32), and after it (trailer: its last four bytes)."""

Integers = NDArray[np.int64]

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _SAMPLES, _PREDICTOR = 256, 257, 258, 259, 277, 317
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_SIZES = 322, 323, 324, 325
_TYPES = {3: "<u2", 4: "<u4", 16: "<u8"}
"""Type of the values of a tag, by TIFF's number: SHORT, LONG and LONG8."""
_FIXED = {_BITS: 8, _COMPRESSION: 8, _SAMPLES: 1, _TILE_WIDTH: BLOCK_SIZE, _TILE_HEIGHT: BLOCK_SIZE}
"""Values of tags that are the same in all rasters of floodmap; compression 8 is DEFLATE."""
_MOST_LEVELS, _MOST_TAGS, _MOST_BYTES = 32, 1000, 2**27
"""Limits above every file of floodmap: numbers of levels and of tags, and bytes of the values of a tag."""
_GHOST = b"GDAL_STRUCTURAL_METADATA_SIZE="
_PROMISES = (
    b"LAYOUT=IFDS_BEFORE_DATA", b"BLOCK_LEADER=SIZE_AS_UINT4", b"BLOCK_TRAILER=LAST_4_BYTES_REPEATED",
    b"KNOWN_INCOMPATIBLE_EDITION=NO",
)  # fmt: skip
"""Lines of the ghost area, the text in which GDAL says how it has laid out a COG."""


class LayoutError(ValueError):
    """Exception raised if a file is laid out in another way than the COGs of floodmap; the message is not for users."""


@dataclass(frozen=True, slots=True)
class Values:
    """Array of integers in the header of a file: the offsets, or the sizes, of all tiles of a level."""

    position: int
    """Number of the byte of the file at which the array begins."""
    dtype: str
    """Type of the integers in the file: `<u2`, `<u4` or `<u8`."""
    values: Integers
    """The integers, int64 (n,)."""

    def patch(self, header: bytearray, values: Integers) -> None:
        """Write other integers into a copy of the header.

        Args:
            header: the beginning of the file.
            values: int64 (n,).

        Raises:
            LayoutError: an integer is too large for the type.
        """
        limit = np.iinfo(self.dtype).max
        if values.size and int(values.max()) > limit:
            raise LayoutError(f"{int(values.max())} is above {limit}")
        packed = values.astype(self.dtype).tobytes()
        header[self.position : self.position + len(packed)] = packed


@dataclass(frozen=True, slots=True)
class Level:
    """Tiles of one level of a COG: of the full resolution or of an overview. Tiles are numbered row by row."""

    width: int
    """Number of columns of the level, in pixels."""
    height: int
    """Number of rows of the level, in pixels."""
    predictor: int
    """TIFF's predictor: 1 none, 2 differences of neighbours in a row."""
    offsets: Values
    """Position in the file of the compressed data of each tile, in bytes."""
    sizes: Values
    """Size of the compressed data of each tile, in bytes."""

    @property
    def across(self) -> int:
        """Number of tiles in a row of tiles."""
        return -(-self.width // BLOCK_SIZE)


@dataclass(frozen=True, slots=True)
class Layout:
    """Layout of a COG: a header, and behind it the tiles of all levels without gaps.

    Tiles are numbered through all levels: those of the full resolution first, then those of each overview.
    """

    levels: tuple[Level, ...]
    """Full resolution and overviews."""
    offsets: Integers
    """Position in the file of the compressed data of all tiles, in bytes."""
    sizes: Integers
    """Size of the compressed data of all tiles, in bytes."""
    start: int
    """Size of the header in bytes; the leader of the first tile follows."""

    def first(self, number: int) -> int:
        """Return the number of the first tile of a level; 0 is the full resolution."""
        return sum(len(level.sizes.values) for level in self.levels[:number])

    def patch(self, header: bytearray, sizes: Integers) -> None:
        """Write other sizes of tiles into a copy of the header, and the positions that follow from the sizes.

        Args:
            header: the first `start` bytes of the file.
            sizes: size of the compressed data of all tiles, int64 (n,). The order of the tiles in the file is as
                before.

        Raises:
            LayoutError: a number is too large for its type.
        """
        order, offsets = self.offsets.argsort(), np.empty_like(self.offsets)
        offsets[order] = self.start + MARGIN + np.cumsum(np.append(0, sizes[order][:-1] + 2 * MARGIN))
        for number, level in enumerate(self.levels):
            tiles = slice(self.first(number), self.first(number + 1))
            level.offsets.patch(header, offsets[tiles])
            level.sizes.patch(header, sizes[tiles])


def read_layout(file: BinaryIO) -> Layout:
    """Return the layout of a COG of floodmap.

    Args:
        file: the COG, opened for reading.

    Raises:
        LayoutError: the file is not laid out like the COGs that `output.cog` writes.
    """
    levels, header_end = read_levels(file)
    _check_ghost(file)
    width, height = levels[0].width, levels[0].height
    sides = [(level.width, level.height) for level in levels]
    if sides != [
        (shrunk(width, number), shrunk(height, number)) for number in range(1 + overview_levels(width, height))
    ]:
        raise LayoutError(f"levels of {sides}")
    offsets = np.concatenate([level.offsets.values for level in levels])
    sizes = np.concatenate([level.sizes.values for level in levels])
    order = offsets.argsort()
    begins, ends = offsets[order], (offsets + sizes)[order]
    start, size = int(begins[0]) - MARGIN, file.seek(0, io.SEEK_END)
    if start < header_end or ends[-1] + MARGIN != size or (begins[1:] - ends[:-1] != 2 * MARGIN).any():
        raise LayoutError("tiles do not follow each other")
    return Layout(tuple(levels), offsets, sizes, start)


def read_levels(file: BinaryIO) -> tuple[list[Level], int]:
    """Return the levels of a TIFF with one band of uint8, in tiles and compressed by DEFLATE.

    Args:
        file: the TIFF, classic or BigTIFF, opened for reading.

    Returns:
        Levels in the order of the file, and the number of the byte behind everything that was read.

    Raises:
        LayoutError: the file is not such a TIFF, or a tile is missing.
    """
    magic = _read(file, 0, 4)
    if magic not in (b"II*\0", b"II+\0"):
        raise LayoutError(f"no little-endian TIFF: {magic!r}")
    big = magic == b"II+\0"
    [directory] = _integers(file, 8 if big else 4, "<u8" if big else "<u4", 1)
    levels: list[Level] = []
    end = 0
    while directory:
        if len(levels) > _MOST_LEVELS:
            raise LayoutError("more levels than any raster has")
        tags, directory, after = _read_directory(file, directory, big)
        levels.append(_level(tags))
        end = max(end, after)
    if not levels:
        raise LayoutError("no level")
    return levels, end


def _read_directory(file: BinaryIO, position: int, big: bool) -> tuple[dict[int, Values], int, int]:
    """Return the integers of the tags of a directory, the position of the next directory, and the byte behind all."""
    entry, word = ("<HHQ", 8) if big else ("<HHI", 4)
    [count] = _integers(file, position, "<u8" if big else "<u2", 1)
    if count > _MOST_TAGS:
        raise LayoutError(f"{count} tags")
    position += 8 if big else 2
    end = position + count * (struct.calcsize(entry) + word) + word
    tags = {}
    for _ in range(count):
        tag, kind, length = struct.unpack(entry, _read(file, position, struct.calcsize(entry)))
        position += struct.calcsize(entry)
        if kind in _TYPES:
            dtype, at = np.dtype(_TYPES[kind]), position
            if dtype.itemsize * length > word:  # values that do not fit into the entry are elsewhere
                [at] = _integers(file, position, f"<u{word}", 1)
            tags[tag] = Values(at, dtype.str, np.array(_integers(file, at, dtype.str, length), np.int64))
            end = max(end, at + dtype.itemsize * length)
        position += word
    [following] = _integers(file, position, f"<u{word}", 1)
    return tags, following, end


def _level(tags: dict[int, Values]) -> Level:
    """Return the level that a directory describes."""
    needed = {_WIDTH, _HEIGHT, _TILE_OFFSETS, _TILE_SIZES, *_FIXED}
    if missing := needed - set(tags):
        raise LayoutError(f"no tags {missing}")
    one = {tag: int(found.values[0]) for tag, found in tags.items() if len(found.values) == 1}
    if any(one.get(tag) != value for tag, value in _FIXED.items()) or one.get(_PREDICTOR, 1) not in (1, 2):
        raise LayoutError(f"tags {one}")
    if not (one.get(_WIDTH, 0) and one.get(_HEIGHT, 0)):
        raise LayoutError("no size")
    offsets, sizes = tags[_TILE_OFFSETS], tags[_TILE_SIZES]
    level = Level(one[_WIDTH], one[_HEIGHT], one.get(_PREDICTOR, 1), offsets, sizes)
    tiles = level.across * -(-level.height // BLOCK_SIZE)
    if not len(offsets.values) == len(sizes.values) == tiles or not (offsets.values.all() and sizes.values.all()):
        raise LayoutError("tiles are missing")
    return level


def _check_ghost(file: BinaryIO) -> None:
    """Raise LayoutError if the ghost area does not promise leaders and trailers around all tiles."""
    position = 16 if _read(file, 0, 4) == b"II+\0" else 8
    head = _read(file, position, len(_GHOST) + len("000140 bytes\n"))
    length = head.removeprefix(_GHOST)[:6]
    if not head.startswith(_GHOST) or not length.isdigit():
        raise LayoutError("no ghost area")
    lines = [line.strip() for line in _read(file, position + len(head), int(length)).split(b"\n")]
    if not set(_PROMISES) <= set(lines) or any(line.startswith(b"MASK_INTERLEAVED") for line in lines):
        raise LayoutError(f"ghost area {lines}")


def _integers(file: BinaryIO, position: int, dtype: str, count: int) -> list[int]:
    values: list[int] = np.frombuffer(_read(file, position, count * np.dtype(dtype).itemsize), dtype).tolist()
    return values


def _read(file: BinaryIO, position: int, size: int) -> bytes:
    """Return bytes of a file; raise LayoutError if the file has fewer."""
    if size > _MOST_BYTES:  # a damaged size: memory for so many bytes is not to be asked for
        raise LayoutError(f"{size} bytes at {position}")
    file.seek(position)
    found = file.read(size)
    if len(found) != size:
        raise LayoutError(f"the file ends within {size} bytes at {position}")
    return found
