"""The coarse pass: what a model says of a whole scene from far, kept on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import chain, islice
from os import SEEK_END
from tempfile import TemporaryFile, gettempdir
from threading import Lock
from typing import Any
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from floodmap._runtime.memory import trim_heap
from floodmap._runtime.prefetch import ahead
from floodmap.errors import OutputError
from floodmap.geo.window import Window
from floodmap.imagery.scene import Scene
from floodmap.imagery.tile import Tile
from floodmap.inference.mosaic import Mosaic
from floodmap.inference.parts import blend_in, unsure_parts
from floodmap.inference.proof import NO_NUMBER, Failure, useless
from floodmap.inference.scales import coarse_factor
from floodmap.inference.tiling import Grid
from floodmap.models.mirrored import mirrored, predict_mirrored
from floodmap.models.prompts import Prompts
from floodmap.models.protocol import Segmenter
from floodmap.strips.strip import packed, unpacked

Floats = NDArray[np.float32]
_CHUNK = 64
"""Rows compressed in one go."""


_SQUARE = 16
"""Cells of a coarse map along the sides of squares that are known to be observed or not."""
COARSE_TILE, COARSE_OVERLAP, COARSE_STEP = 1024, 24, 128
"""Windows of the coarse pass, in its pixels, and what their sides are multiples of: those of large scenes are then as
large as those seen from near, and oneDNN has no more kernels in memory than for these."""


class Observed:
    """Ground of which all of the scene's own pixels are known to be observed, by squares of cells of a coarse map.

    Args:
        height: rows of the coarse map.
        width: its columns.
    """

    def __init__(self, height: int, width: int) -> None:
        self._squares = np.ones((-(-height // _SQUARE), -(-width // _SQUARE)), bool)

    def add(self, window: Window, complete: NDArray[np.bool_] | None) -> None:
        """Take in what is known of a window of the map; None where that is nothing."""
        rows, cols = _squares(window.row_off, window.row_end), _squares(window.col_off, window.col_end)
        if complete is None:
            self._squares[rows, cols] = False
            return
        for axis, first in enumerate((window.row_off, window.col_off)):
            begin = np.maximum(np.arange(first // _SQUARE * _SQUARE, first + complete.shape[axis], _SQUARE) - first, 0)
            complete = np.logical_and.reduceat(complete, begin, axis=axis)
        self._squares[rows, cols] &= complete

    def covers(self, window: Window) -> bool:
        """Whether that is known of a window of the map; it may reach beyond it."""
        rows, cols = _squares(window.row_off, window.row_end), _squares(window.col_off, window.col_end)
        return bool(self._squares[rows, cols].all())


def _squares(first: int, end: int) -> slice:
    return slice(max(first, 0) // _SQUARE, -(-end // _SQUARE))


class CoarseMap:
    """Per cent of flood, uint8 (height, width), compressed, in a temporary file that nobody else sees.

    It grows downwards, and rows are read by slices.

    Args:
        width: columns.

    Raises:
        OutputError: there is no room for the file.
    """

    def __init__(self, width: int) -> None:
        self.shape = (0, width)
        self._file = TemporaryFile()  # noqa: SIM115 (lives as long as the map)
        finalize(self, self._file.close)
        self._chunks: list[tuple[int, int]] = []
        """Where each chunk begins in the file, and how many bytes it has."""
        self._lock = Lock()
        self._first, self._rows = 0, np.empty((0, width), np.uint8)
        """The rows last read: windows side by side want the same."""

    def append(self, codes: NDArray[np.uint8]) -> None:
        """Add rows, (rows, width)."""
        whole = self.shape[0] % _CHUNK  # rows of a chunk that is not full yet
        if whole:
            codes = np.concatenate([self._unpacked(len(self._chunks) - 1), codes])
            del self._chunks[-1]
        for row in range(0, len(codes), _CHUNK):
            small = packed(codes[row : row + _CHUNK])
            self._chunks.append((self._kept(small), len(small)))
        self.shape = (self.shape[0] - whole + len(codes), self.shape[1])

    def __getitem__(self, rows: slice) -> NDArray[np.uint8]:
        """Rows from `rows.start` up to `rows.stop`."""
        with self._lock:
            first, last = rows.start // _CHUNK, (min(rows.stop, self.shape[0]) - 1) // _CHUNK
            if rows.start < self._first or rows.stop > self._first + len(self._rows):
                self._first, end = first * _CHUNK, min((last + 1) * _CHUNK, self.shape[0])
                self._rows = np.empty((0, self.shape[1]), np.uint8)  # so that never twice as many are there
                self._rows = np.empty((end - self._first, self.shape[1]), np.uint8)
                for number in range(first, last + 1):
                    part = self._unpacked(number)
                    self._rows[number * _CHUNK - self._first :][: len(part)] = part
            return self._rows[rows.start - self._first : rows.stop - self._first]

    def _kept(self, small: bytes) -> int:
        """Write something to the end of the file; returns where it begins."""
        try:
            first = self._file.seek(0, SEEK_END)
            self._file.write(small)
            self._file.flush()
        except OSError as error:
            raise OutputError(
                f"{gettempdir()} cannot be written: {error.strerror}; make room, or set TMPDIR to another folder"
            ) from error
        return first

    def _unpacked(self, number: int) -> NDArray[np.uint8]:
        first, length = self._chunks[number]
        self._file.seek(first)
        rows = min(_CHUNK, self.shape[0] - number * _CHUNK)
        return unpacked(self._file.read(length), self.shape[1], rows)


def coarse_pass(scene: Scene, segmenter: Segmenter, *, exhaustive: bool = True) -> tuple[CoarseMap, Observed]:
    """What the model says of the whole scene from far, without a prompt: per cent of flood, 0 where unobserved.

    It is asked twice, of the scene and of its mirror image: that costs little here, and all windows hear of it.

    Args:
        scene: seen whole.
        segmenter: asked.
        exhaustive: ask it twice of ground, too, of which it is sure at once.

    Returns:
        (h, w): the scene's sides divided by `coarse_factor`; and where all of the scene is known to be observed.

    Raises:
        ModelError: the model fails, or gives no number.
    """
    factor = coarse_factor(max(scene.height, scene.width))
    grid = Grid(
        height=-(-scene.height // factor), width=-(-scene.width // factor),
        tile_size=COARSE_TILE, overlap=COARSE_OVERLAP, multiple=segmenter.multiple,
        step=COARSE_STEP,
    )  # fmt: skip
    mosaic, coarse, observed = Mosaic(grid), CoarseMap(grid.width), Observed(grid.height, grid.width)
    everywhere = exhaustive or not segmenter.any_size

    def see(tiles: list[Tile]) -> list[tuple[Tile, Floats | None]]:
        observed = [tile for tile in tiles if tile.valid.any()]
        look = _seen_twice if everywhere else _seen_twice_where_unsure
        try:
            found = iter(look(segmenter, observed) if observed else [])
        except (RuntimeError, MemoryError) as error:
            raise useless(scene.path, "in the coarse pass", Failure.of(error)) from error
        return [(tile, next(found) if tile.valid.any() else None) for tile in tiles]

    with ExitStack() as stack:
        tiles = stack.enter_context(closing(ahead(lambda window: scene.shrunk(window, factor), grid)))
        # Two pairs at work, so that no core waits for the longer of a pair.
        seen = stack.enter_context(closing(ahead(see, _in_pairs(tiles), count=2, threads=2)))
        for tile, probability in chain.from_iterable(seen):
            observed.add(tile.window, None if tile.failure else tile.complete)
            if strip := mosaic.add(tile.window, probability, tile.reason):
                for codes in strip.blocks():
                    coarse.append(np.where(codes > 100, 0, codes))
                trim_heap()
    return coarse, observed


def _in_pairs(tiles: Iterator[Tile]) -> Iterator[list[Tile]]:
    while pair := list(islice(tiles, 2)):
        yield pair


def _seen_twice(segmenter: Segmenter, tiles: list[Tile]) -> list[Floats]:
    return _numbers(predict_mirrored(segmenter, tiles, [Prompts.none()] * len(tiles)))


def _seen_twice_where_unsure(segmenter: Segmenter, tiles: list[Tile]) -> list[Floats]:
    seen = _numbers(segmenter.predict(tiles, [Prompts.none()] * len(tiles)))
    again: list[tuple[int, Window | None]] = []
    turned: list[Tile] = []
    for number, (one, tile) in enumerate(zip(seen, tiles, strict=True)):
        parts = unsure_parts(Prompts.from_mask(one), tile.reason.shape)
        for part in [None] if parts is None else parts:
            again.append((number, part))
            turned.append(mirrored(tile if part is None else tile.part(part)))
    results = _numbers(segmenter.predict(turned, [Prompts.none()] * len(turned)) if turned else [])
    first = [one.copy() for one in seen] if any(part for _, part in again) else seen.copy()
    for (number, part), result in zip(again, results, strict=True):
        where = np.s_[:, :] if part is None else part.slices
        mean = np.asarray((first[number][where] + result[:, ::-1]) / 2, np.float32)
        if part is None:
            seen[number] = mean
        else:
            blend_in(part, mean, seen[number])
    return seen


def _numbers(found: Sequence[Floats]) -> list[Floats]:
    if not all(np.isfinite(one).all() for one in found):
        raise RuntimeError(NO_NUMBER)
    return list(found)


def crop_coarse(coarse: CoarseMap | NDArray[np.float32], window: Window, scene: Scene) -> NDArray[np.float32]:
    """The part of a coarse map of the whole scene that a window covers, at about the coarse resolution.

    Sampled between the map's cells: whole cells would lie beside the window by up to one.
    """
    sides = (
        (window.row_off, window.height, scene.height, coarse.shape[0]),
        (window.col_off, window.width, scene.width, coarse.shape[1]),
    )
    (top, bottom, down), (left, right, across) = (_between(*side) for side in sides)
    part = coarse[top[0] : bottom[-1] + 1][:, left[0] : right[-1] + 1]
    sampled = _mixed(part[top - top[0]], part[bottom - top[0]], down[:, None])
    return _mixed(sampled[:, left - left[0]], sampled[:, right - left[0]], across)


def _between(first: int, length: int, whole: int, cells: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """The cells on either side of every place along an axis, and how far it is from the first to the second."""
    count = max(1, round(length * cells / whole))
    centres = first + (np.arange(count) + 0.5) * (length / count)
    at = np.clip(centres * (cells / whole) - 0.5, 0, cells - 1)
    before = at.astype(np.int64)
    return before, np.minimum(before + 1, cells - 1), (at - before).astype(np.float32)


def _mixed(one: NDArray[Any], other: NDArray[Any], share: Floats) -> Floats:
    return np.asarray(one + (other.astype(np.float32) - one) * share, np.float32)
