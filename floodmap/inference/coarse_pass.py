"""The coarse pass: a model's flood probability of the whole scene at reduced resolution, kept on disk."""

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
from floodmap.inference.parts import blend_in, uncertain_parts
from floodmap.inference.proof import NOT_FINITE, Failure, model_failure
from floodmap.inference.scales import coarse_factor
from floodmap.inference.tiling import Grid
from floodmap.models.mirrored import mirrored, predict_mirrored
from floodmap.models.prompts import Prompts
from floodmap.models.protocol import Segmenter
from floodmap.strips.strip import packed, unpacked

Floats = NDArray[np.float32]
_CHUNK = 64
"""Number of rows of the coarse map in a chunk. The rows of a chunk are compressed together."""
_SQUARE = 16
"""Side of the squares of `Observed`, in pixels of the coarse map."""
COARSE_TILE, COARSE_OVERLAP, COARSE_STEP = 1024, 24, 128
"""Three lengths for the windows of the coarse pass, in pixels of the coarse map.

The first is the longest side of a window. The second is the least overlap of neighbouring windows. The third is the
step of the sides: each side of a window is a multiple of the step, unless the coarse map itself is shorter. In large
scenes the windows of the coarse pass have as many pixels as the windows at full resolution, so that oneDNN compiles
kernels for one size only."""


class Observed:
    """Record of the squares of the coarse map in which all pixels of the scene are observed.

    The coarse map is divided into squares of 16 x 16 pixels. A square counts as observed until a window that has
    unobserved pixels in this square is added.

    Args:
        height: number of rows of the coarse map.
        width: number of columns of the coarse map.
    """

    def __init__(self, height: int, width: int) -> None:
        self._squares = np.ones((-(-height // _SQUARE), -(-width // _SQUARE)), bool)

    def add(self, window: Window, complete: NDArray[np.bool_] | None) -> None:
        """Add a window of the coarse map to the record.

        Args:
            window: the window, in pixels of the coarse map.
            complete: bool (window height, window width), True for pixels of the coarse map in which all pixels of the
                scene are observed. None: not known; all squares that overlap the window then count as unobserved.
        """
        rows, cols = _squares(window.row_off, window.row_end), _squares(window.col_off, window.col_end)
        if complete is None:
            self._squares[rows, cols] = False
            return
        for axis, first in enumerate((window.row_off, window.col_off)):
            begin = np.maximum(np.arange(first // _SQUARE * _SQUARE, first + complete.shape[axis], _SQUARE) - first, 0)
            complete = np.logical_and.reduceat(complete, begin, axis=axis)
        self._squares[rows, cols] &= complete

    def covers(self, window: Window) -> bool:
        """Return True if all squares that overlap a window count as observed.

        The window is in pixels of the coarse map. Only the part of the window inside the map counts.
        """
        rows, cols = _squares(window.row_off, window.row_end), _squares(window.col_off, window.col_end)
        return bool(self._squares[rows, cols].all())


def _squares(first: int, end: int) -> slice:
    """Return, along one axis, the squares of `Observed` that overlap an interval, as a slice of indices.

    The interval is in pixels of the coarse map. `first` is inside the interval, `end` is not.
    """
    return slice(max(first, 0) // _SQUARE, -(-end // _SQUARE))


class CoarseMap:
    """Map of the flood probability in per cent, uint8 (height, width), compressed in an unnamed temporary file.

    New rows are appended at the bottom. Rows are read with a slice: `coarse_map[first:end]`.

    Args:
        width: number of columns.
    """

    def __init__(self, width: int) -> None:
        self.shape = (0, width)
        self._file = TemporaryFile()  # noqa: SIM115 (lives as long as the map)
        finalize(self, self._file.close)
        self._chunks: list[tuple[int, int]] = []
        """Offset in the file and length of each chunk, in bytes."""
        self._lock = Lock()
        self._first, self._rows = 0, np.empty((0, width), np.uint8)
        """Cache of the rows that were read last: index of the first row, and the rows, uint8 (rows, width).
        Neighbouring windows read the same rows."""

    def append(self, codes: NDArray[np.uint8]) -> None:
        """Append rows at the bottom of the map.

        Args:
            codes: probability in per cent, uint8 (rows, width), 0 to 100.

        Raises:
            OutputError: the temporary file cannot be written, for example because the disk is full.
        """
        incomplete = self.shape[0] % _CHUNK  # rows of a chunk that is not full yet
        if incomplete:
            codes = np.concatenate([self._unpacked(len(self._chunks) - 1), codes])
            del self._chunks[-1]
        for row in range(0, len(codes), _CHUNK):
            compressed = packed(codes[row : row + _CHUNK])
            self._chunks.append((self._write(compressed), len(compressed)))
        self.shape = (self.shape[0] - incomplete + len(codes), self.shape[1])

    def __getitem__(self, rows: slice) -> NDArray[np.uint8]:
        """Return the rows from `rows.start` to before `rows.stop`, uint8 (rows, width)."""
        with self._lock:
            first, last = rows.start // _CHUNK, (min(rows.stop, self.shape[0]) - 1) // _CHUNK
            if rows.start < self._first or rows.stop > self._first + len(self._rows):
                self._first, end = first * _CHUNK, min((last + 1) * _CHUNK, self.shape[0])
                self._rows = np.empty((0, self.shape[1]), np.uint8)  # frees the old rows before the new are allocated
                self._rows = np.empty((end - self._first, self.shape[1]), np.uint8)
                for number in range(first, last + 1):
                    part = self._unpacked(number)
                    self._rows[number * _CHUNK - self._first :][: len(part)] = part
            return self._rows[rows.start - self._first : rows.stop - self._first]

    def _write(self, compressed: bytes) -> int:
        """Append bytes to the file and return the offset of the first byte."""
        try:
            first = self._file.seek(0, SEEK_END)
            self._file.write(compressed)
            self._file.flush()
        except OSError as error:
            raise OutputError(
                f"{gettempdir()} cannot be written: {error.strerror}; free disk space, or set TMPDIR to another folder"
            ) from error
        return first

    def _unpacked(self, number: int) -> NDArray[np.uint8]:
        """Read and decompress one chunk, given by the index of the chunk; return its rows, uint8 (rows, width)."""
        first, length = self._chunks[number]
        self._file.seek(first)
        rows = min(_CHUNK, self.shape[0] - number * _CHUNK)
        return unpacked(self._file.read(length), self.shape[1], rows)


def coarse_pass(scene: Scene, segmenter: Segmenter, *, exhaustive: bool = True) -> tuple[CoarseMap, Observed]:
    """Predict the flood probability of the whole scene at reduced resolution, without prompts.

    Probabilities are averaged over each tile and its mirror image (test-time augmentation). At reduced resolution the
    prediction of the mirror image takes little time. The accuracy matters, because the coarse map is the mask prompt of
    all windows.

    Args:
        scene: the scene. The whole scene is read.
        segmenter: the model.
        exhaustive: True: predict the mirror image of every tile as a whole. False: if the model accepts crops of any
            size, predict the mirror image only of the parts of a tile in which the first prediction is uncertain.

    Returns:
        Two values. The first is the coarse map: flood probability in per cent, uint8 (h, w), 0 for unobserved pixels;
        h and w are the height and width of the scene, divided by `coarse_factor` and rounded up. The second is the
        record of the squares of the coarse map in which all pixels of the scene are observed.

    Raises:
        ModelError: the model fails, or its probabilities are not finite.
        OutputError: the temporary file cannot be written, for example because the disk is full.
    """
    factor = coarse_factor(max(scene.height, scene.width))
    grid = Grid(
        height=-(-scene.height // factor), width=-(-scene.width // factor),
        tile_size=COARSE_TILE, overlap=COARSE_OVERLAP, multiple=segmenter.multiple,
        step=COARSE_STEP,
    )  # fmt: skip
    mosaic, coarse, observed = Mosaic(grid), CoarseMap(grid.width), Observed(grid.height, grid.width)
    predict_tiles = _predict_twice if exhaustive or not segmenter.any_size else _predict_twice_where_uncertain

    def predict(tiles: list[Tile]) -> list[tuple[Tile, Floats | None]]:
        observed = [tile for tile in tiles if tile.valid.any()]
        try:
            probabilities = iter(predict_tiles(segmenter, observed) if observed else [])
        except (RuntimeError, MemoryError) as error:
            raise model_failure(scene.path, "in the coarse pass", Failure.of(error)) from error
        return [(tile, next(probabilities) if tile.valid.any() else None) for tile in tiles]

    with ExitStack() as stack:
        tiles = stack.enter_context(closing(ahead(lambda window: scene.shrunk(window, factor), grid)))
        # Two pairs of tiles are computed in parallel, so that no core is idle while a pair's slower tile is computed.
        predicted = stack.enter_context(closing(ahead(predict, _in_pairs(tiles), count=2, threads=2)))
        for tile, probability in chain.from_iterable(predicted):
            observed.add(tile.window, None if tile.failure else tile.complete)
            if strip := mosaic.add(tile.window, probability, tile.reason):
                for codes in strip.blocks():
                    coarse.append(np.where(codes > 100, 0, codes))
                trim_heap()
    return coarse, observed


def _in_pairs(tiles: Iterator[Tile]) -> Iterator[list[Tile]]:
    while pair := list(islice(tiles, 2)):
        yield pair


def _predict_twice(segmenter: Segmenter, tiles: list[Tile]) -> list[Floats]:
    """Predict tiles twice, and return the mean flood probability of each tile: float32 (height, width), 0 to 1.

    The two predictions are those of the tile and of the tile's mirror image.
    """
    return _require_finite(predict_mirrored(segmenter, tiles, [Prompts.none()] * len(tiles)))


def _predict_twice_where_uncertain(segmenter: Segmenter, tiles: list[Tile]) -> list[Floats]:
    """Return probabilities of tiles, like `_predict_twice`, but predict the mirror image only of uncertain parts.

    Outside the uncertain parts, the probabilities are those of the first prediction. If `uncertain_parts` returns None
    for a tile, the mirror image of the whole tile is predicted.
    """
    probabilities = _require_finite(segmenter.predict(tiles, [Prompts.none()] * len(tiles)))
    again: list[tuple[int, Window | None]] = []
    flipped: list[Tile] = []
    for number, (one, tile) in enumerate(zip(probabilities, tiles, strict=True)):
        parts = uncertain_parts(Prompts.from_mask(one), tile.reason.shape)
        for part in [None] if parts is None else parts:
            again.append((number, part))
            flipped.append(mirrored(tile if part is None else tile.part(part)))
    results = _require_finite(segmenter.predict(flipped, [Prompts.none()] * len(flipped)) if flipped else [])
    first = [one.copy() for one in probabilities] if any(part for _, part in again) else probabilities.copy()
    for (number, part), result in zip(again, results, strict=True):
        where = np.s_[:, :] if part is None else part.slices
        mean = np.asarray((first[number][where] + result[:, ::-1]) / 2, np.float32)
        if part is None:
            probabilities[number] = mean
        else:
            blend_in(part, mean, probabilities[number])
    return probabilities


def _require_finite(probabilities: Sequence[Floats]) -> list[Floats]:
    if not all(np.isfinite(one).all() for one in probabilities):
        raise RuntimeError(NOT_FINITE)
    return list(probabilities)


def crop_coarse(coarse: CoarseMap | NDArray[np.float32], window: Window, scene: Scene) -> NDArray[np.float32]:
    """Crop a coarse map of the whole scene to a window, with bilinear interpolation.

    Without interpolation, the crop would be shifted against the window by up to one coarse pixel.

    Args:
        coarse: the coarse map: values of the whole scene at reduced resolution, (rows, columns), in any unit.
        window: the window, in pixels of the scene.
        scene: the scene. Only the height and the width of the scene are used.

    Returns:
        The values in the window, float32 (h, w), in the unit of `coarse`. h and w are the height and width of the
        window in pixels of the coarse map, rounded to whole numbers.
    """
    sides = (
        (window.row_off, window.height, scene.height, coarse.shape[0]),
        (window.col_off, window.width, scene.width, coarse.shape[1]),
    )
    (top, bottom, down), (left, right, across) = (_neighbours(*side) for side in sides)
    part = coarse[top[0] : bottom[-1] + 1][:, left[0] : right[-1] + 1]
    sampled = _interpolated(part[top - top[0]], part[bottom - top[0]], down[:, None])
    return _interpolated(sampled[:, left - left[0]], sampled[:, right - left[0]], across)


def _neighbours(first: int, length: int, whole: int, cells: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Return, along one axis, the coarse pixels and the weights for the crop of a window from the coarse map.

    A coarse pixel is a pixel of the coarse map. The n pixels of the crop are evenly spaced, about one per coarse pixel.
    The value of a pixel of the crop is interpolated between two neighbouring coarse pixels.

    Args:
        first: first scene pixel of the window.
        length: length of the window in scene pixels.
        whole: length of the scene in scene pixels.
        cells: length of the coarse map in coarse pixels.

    Returns:
        Three arrays (n,) with a value for each pixel of the crop: index of the coarse pixel before its centre, index of
        the coarse pixel after its centre, and weight of the coarse pixel after, float32, 0 to 1.
    """
    count = max(1, round(length * cells / whole))
    centres = first + (np.arange(count) + 0.5) * (length / count)
    at = np.clip(centres * (cells / whole) - 0.5, 0, cells - 1)
    before = at.astype(np.int64)
    return before, np.minimum(before + 1, cells - 1), (at - before).astype(np.float32)


def _interpolated(one: NDArray[Any], other: NDArray[Any], weight: Floats) -> Floats:
    return np.asarray(one + (other.astype(np.float32) - one) * weight, np.float32)
