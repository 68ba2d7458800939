"""Replacement of a few tiles of the mask and of the probability raster, with the bytes of rasters written as a whole.

Writing both rasters of a scene takes time in proportion to the scene. A correction changes a few windows. Here, only
the tiles of these windows are computed and compressed, at full resolution and in all overviews. All other tiles are
copied as they are in the file.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile

from floodmap._runtime.files import atomic_path
from floodmap.correction.cog_layout import MARGIN, Layout, LayoutError, Level, read_layout, read_levels
from floodmap.errors import writing
from floodmap.geo.window import Window
from floodmap.output.cog import BLOCK_SIZE, CACHE_BYTES, STEP_COLUMNS
from floodmap.output.pyramid import pyramid

MOST_PIXELS = 512 * BLOCK_SIZE**2
"""Largest number of pixels whose tiles are replaced.

The tiles of both rasters then take 360 MB of memory. With their compressed data, 550 MB were measured for noise."""
BATCH_TILES = 64
"""Number of tiles that are compressed at a time."""
COPY_BYTES = 4 * 2**20
"""Number of bytes that are copied at a time."""

Codes = NDArray[np.uint8]
Tiles = dict[tuple[int, int], Codes]
"""Pixels of tiles, uint8 (512, 512), by row and column of the tile. Pixels beyond the raster are 0, as GDAL pads."""


def rewritten_rasters(
    base_mask: Path,
    base_probability: Path,
    out_mask: Path,
    out_probability: Path,
    *,
    boxes: Iterable[Window],
    codes_of: Callable[[Window], Codes],
    threshold: int,
) -> bool:
    """Write both rasters of a scene in which codes have changed in a few windows, from the rasters before the change.

    Both files have the bytes that `output.cog.write_rasters` writes from all codes with the threshold, the tags and the
    version of GDAL of the files before. Both are written completely before either replaces a file. Styles (`.qml`) are
    not written.

    Args:
        base_mask: mask before the change, written by `write_rasters`.
        base_probability: probability raster before the change.
        out_mask: path of the new mask; it may be `base_mask`.
        out_probability: path of the new probability raster; it may be `base_probability`.
        boxes: windows of the scene outside which no code has changed. They may overlap or extend beyond the scene.
        codes_of: function that returns the new codes of a window of the scene, uint8 (height, width); see
            `strips.codes`. The windows do not overlap. Each begins at multiples of s = max(512, 2**levels), is at most
            s high and max(s, 4096) wide, and is cut off at the end of the scene.
        threshold: in per cent, the threshold of the files before; codes from the threshold to 100 are flood.

    Returns:
        True if both files are written. False if nothing is written, because the files before are laid out in another
        way, or because more than `MOST_PIXELS` may have changed. Then write all codes by `write_rasters`.

    Raises:
        OSError: a file before cannot be read.
        OutputError: a file cannot be written.
    """
    try:
        mask, probability = _changed_tiles((base_mask, base_probability), boxes, codes_of, threshold)
        with (
            writing(out_mask), atomic_path(out_mask) as mask_part,
            writing(out_probability), atomic_path(out_probability) as probability_part,
        ):  # fmt: skip
            replace_tiles(base_mask, mask_part, mask)
            replace_tiles(base_probability, probability_part, probability)
    except LayoutError:
        return False
    return True


def replace_tiles(source: Path, target: Path, changes: Mapping[int, Mapping[tuple[int, int], Codes]]) -> None:
    """Write a copy of a COG in which some tiles have other pixels.

    Args:
        source: a COG that `output.cog` has written.
        target: path of the copy, not `source`. The copy is written directly: give the path of a temporary file.
        changes: pixels of the changed tiles, by level (0 is the full resolution, 1 the first overview), and by row and
            column of the tile. Each is uint8 (512, 512), with 0 beyond the raster.

    Raises:
        LayoutError: the file is not laid out like the COGs of `output.cog`.
        OSError: a file cannot be read or written.
    """
    with source.open("rb") as file:
        layout = read_layout(file)
        data = _compressed_tiles(layout, changes)
        sizes = layout.sizes.copy()
        for index, content in data.items():
            sizes[index] = len(content)
        file.seek(0)
        header = bytearray(file.read(layout.start))
        layout.patch(header, sizes)
        with target.open("wb") as out:
            out.write(header)
            position = layout.start
            for index in sorted(data, key=lambda index: int(layout.offsets[index])):
                begin, content = int(layout.offsets[index]), data[index]
                _copy(file, out, position, begin - MARGIN)
                out.write(struct.pack("<I", len(content)) + content + content[-MARGIN:])
                position = begin + int(layout.sizes[index]) + MARGIN
            _copy(file, out, position, file.seek(0, io.SEEK_END))


def _compressed_tiles(layout: Layout, changes: Mapping[int, Mapping[tuple[int, int], Codes]]) -> dict[int, bytes]:
    """Return the compressed data of changed tiles by number of the tile, see `Layout`; see also `replace_tiles`."""
    data: dict[int, bytes] = {}
    for number, tiles in changes.items():
        level, first = layout.levels[number], layout.first(number)
        indexes = [first + row * level.across + col for row, col in tiles]
        data.update(zip(indexes, _compressed(list(tiles.values()), level.predictor), strict=True))
    return data


def _changed_tiles(
    bases: tuple[Path, Path], boxes: Iterable[Window], codes_of: Callable[[Window], Codes], threshold: int
) -> list[dict[int, Tiles]]:
    """Return the tiles of mask and probability raster that cover the boxes, by level; see `rewritten_rasters`."""
    with bases[0].open("rb") as mask, bases[1].open("rb") as probability:
        files, layouts = (mask, probability), (read_layout(mask), read_layout(probability))
        height, width = layouts[0].levels[0].height, layouts[0].levels[0].width
        if (layouts[1].levels[0].height, layouts[1].levels[0].width) != (height, width):
            raise LayoutError("mask and probability raster differ in size")
        levels = len(layouts[0].levels) - 1
        areas = _areas(boxes, max(BLOCK_SIZE, 1 << levels), height, width)
        if sum(area.height * area.width for area in areas) > MOST_PIXELS:
            raise LayoutError("many pixels")
        changes: list[dict[int, Tiles]] = [{level: {} for level in range(levels + 1)} for _ in bases]
        for area in areas:
            codes = codes_of(area)
            if codes.shape != (area.height, area.width):
                raise ValueError(f"codes of shape {codes.shape} for {area}")
            for number, arrays in enumerate(pyramid(codes, threshold, levels)):
                for file, layout, tiles, values in zip(files, layouts, changes, arrays, strict=True):
                    row_off, col_off = area.row_off >> number, area.col_off >> number
                    _paste(values, row_off, col_off, tiles[number], file, layout.levels[number])
    return changes


def _areas(boxes: Iterable[Window], step: int, height: int, width: int) -> list[Window]:
    """Return disjoint windows of the scene that cover all boxes. Their edges are multiples of `step` or scene edges."""
    blocks = {
        (row, col)
        for box in boxes
        for row in range(max(0, box.row_off) // step, -(-min(box.row_end, height) // step))
        for col in range(max(0, box.col_off) // step, -(-min(box.col_end, width) // step))
    }
    runs: list[tuple[int, int, int]] = []
    for row, col in sorted(blocks):
        if runs and runs[-1][0] == row and runs[-1][2] == col and (col + 1 - runs[-1][1]) * step <= STEP_COLUMNS:
            runs[-1] = (row, runs[-1][1], col + 1)
        else:
            runs.append((row, col, col + 1))
    return [
        Window(row * step, first * step, min(step, height - row * step), min(end * step, width) - first * step)
        for row, first, end in runs
    ]


def _paste(values: Codes, row_off: int, col_off: int, tiles: Tiles, file: BinaryIO, level: Level) -> None:
    """Write the pixels of a window of a level into the tiles of the level. Tiles not there yet are read from the file.

    Args:
        values: pixels, uint8 (rows, columns).
        row_off: first row of the window in the level.
        col_off: first column of the window in the level.
        tiles: tiles of the level; tiles are added.
        file: the COG before the change.
        level: the level in the COG.
    """
    row_end, col_end = row_off + values.shape[0], col_off + values.shape[1]
    for row in range(row_off // BLOCK_SIZE, -(-row_end // BLOCK_SIZE)):
        for col in range(col_off // BLOCK_SIZE, -(-col_end // BLOCK_SIZE)):
            top, left = row * BLOCK_SIZE, col * BLOCK_SIZE
            bottom, right = min(top + BLOCK_SIZE, level.height), min(left + BLOCK_SIZE, level.width)
            if (row, col) not in tiles:
                is_covered = row_off <= top and col_off <= left and row_end >= bottom and col_end >= right
                blank = np.zeros((BLOCK_SIZE, BLOCK_SIZE), np.uint8)
                tiles[row, col] = blank if is_covered else _tile(file, level, row * level.across + col)
            top, left, bottom, right = max(top, row_off), max(left, col_off), min(bottom, row_end), min(right, col_end)
            part = values[top - row_off : bottom - row_off, left - col_off : right - col_off]
            tiles[row, col][top % BLOCK_SIZE :, left % BLOCK_SIZE :][: part.shape[0], : part.shape[1]] = part


def _tile(file: BinaryIO, level: Level, index: int) -> Codes:
    """Return the pixels of a tile, uint8 (512, 512), with those beyond the raster."""
    file.seek(int(level.offsets.values[index]))
    try:
        content = zlib.decompress(file.read(int(level.sizes.values[index])))
        pixels = np.frombuffer(content, np.uint8).reshape(BLOCK_SIZE, BLOCK_SIZE)
    except (zlib.error, ValueError) as error:
        raise LayoutError(f"tile {index}: {error}") from error
    return np.cumsum(pixels, axis=1, dtype=np.uint8) if level.predictor == 2 else pixels.copy()


def _compressed(tiles: Sequence[Codes], predictor: int) -> Iterator[bytes]:
    """Yield the compressed data of tiles, each uint8 (512, 512), as GDAL writes it into a COG.

    Python's zlib compresses to other bytes than the library in GDAL. GDAL therefore writes a TIFF, in memory, in which
    the tiles lie below each other.
    """
    for first in range(0, len(tiles), BATCH_TILES):
        batch = np.concatenate(tiles[first : first + BATCH_TILES])
        try:
            with (
                rasterio.Env(GDAL_PAM_ENABLED="NO", GDAL_CACHEMAX=CACHE_BYTES),
                warnings.catch_warnings(),
                MemoryFile() as memory,
            ):
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                with memory.open(
                    driver="GTiff", width=BLOCK_SIZE, height=len(batch), count=1, dtype="uint8", tiled=True,
                    blockxsize=BLOCK_SIZE, blockysize=BLOCK_SIZE, compress="DEFLATE", zlevel=3, predictor=predictor,
                ) as tiff:  # fmt: skip
                    tiff.write(batch, 1)
                content = memory.read()
        except RasterioError as error:
            raise LayoutError(f"GDAL cannot compress tiles: {error}") from error
        [level], _ = read_levels(io.BytesIO(content))
        for offset, size in zip(level.offsets.values.tolist(), level.sizes.values.tolist(), strict=True):
            yield content[offset : offset + size]


def _copy(source: BinaryIO, target: BinaryIO, begin: int, end: int) -> None:
    """Copy the bytes from `begin` to `end` of a file to the end of another file."""
    source.seek(begin)
    while begin < end:
        chunk = source.read(min(COPY_BYTES, end - begin))
        if not chunk:
            raise LayoutError(f"the file ends at {begin}")
        target.write(chunk)
        begin += len(chunk)
