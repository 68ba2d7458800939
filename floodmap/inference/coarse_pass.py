"""The coarse pass: a model predicts the whole scene at reduced resolution."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from floodmap._runtime.memory import trim_heap
from floodmap._runtime.prefetch import ahead
from floodmap.geo.window import Window
from floodmap.imagery.scene import Scene
from floodmap.imagery.tile import Tile
from floodmap.inference.coarse_map import CoarseMap
from floodmap.inference.mosaic import Mosaic
from floodmap.inference.observed import Observed
from floodmap.inference.parts import blend_in, uncertain_parts
from floodmap.inference.proof import NOT_FINITE, Failure, model_failure
from floodmap.inference.scales import coarse_factor
from floodmap.inference.tiling import Grid
from floodmap.models.mirrored import mirrored, predict_mirrored
from floodmap.models.prompts import Prompts
from floodmap.models.protocol import Segmenter
from floodmap.strips.strip import Strip

Floats = NDArray[np.float32]
COARSE_TILE, COARSE_OVERLAP, COARSE_STEP = 1024, 24, 128
"""Three lengths for the windows of the coarse pass, in pixels of the coarse map.

The first is the upper limit of a window's sides. The second is the least overlap of neighbouring windows. The third is
the step of the sides: each side of a window is a multiple of the step, unless the coarse map itself is shorter. In
large scenes the windows of the coarse pass have as many pixels as the windows at full resolution, so that oneDNN
compiles kernels for one size only."""


def coarse_pass(scene: Scene, segmenter: Segmenter, *, exhaustive: bool = True) -> tuple[CoarseMap, Observed]:
    """Predict the flood probability of the whole scene at reduced resolution, without prompts.

    A tile and its mirror image are both predicted, and the two probabilities of each pixel are averaged (test-time
    augmentation). The second prediction takes little time at reduced resolution, and makes the coarse map more
    accurate. Errors of the coarse map affect all windows, because it is their mask prompt.

    Args:
        scene: the scene. The whole scene is read.
        segmenter: the model.
        exhaustive: True: predict the mirror image of every tile as a whole. False: predict the mirror image only of the
            parts of a tile in which the first prediction is uncertain. If the model cannot predict parts alone
            (`Segmenter.any_size` is False), the whole mirror image is predicted in both cases.

    Returns:
        Two values. The first is the coarse map: codes, uint8 (h, w); h and w are the height and width of the scene,
        divided by the result of `scales.coarse_factor` and rounded up. The second is an `Observed`: for each square of
        16 x 16 pixels of the coarse map, it holds whether all pixels of the scene in the square are observed.

    Raises:
        ModelError: the model fails, or its probabilities are not finite.
        OutputError: the temporary file that holds the coarse map cannot be written, for example because the disk is
            full.
    """
    factor, grid = coarse_grid(scene, segmenter)
    coarse, observed = CoarseMap(grid.width), Observed(grid.height, grid.width)
    rows = range(len(grid.row_offsets))
    strips = coarse_strips(scene, segmenter, Mosaic(grid), rows, factor, observed, exhaustive=exhaustive)
    with closing(strips):
        for strip in strips:
            append_strip(coarse, strip)
    return coarse, observed


def coarse_grid(scene: Scene, segmenter: Segmenter) -> tuple[int, Grid]:
    """Return the factor by which the coarse pass shrinks a scene, and the windows of the shrunk scene."""
    factor = coarse_factor(max(scene.height, scene.width))
    return factor, Grid(
        height=-(-scene.height // factor), width=-(-scene.width // factor),
        tile_size=COARSE_TILE, overlap=COARSE_OVERLAP, multiple=segmenter.multiple,
        step=COARSE_STEP,
    )  # fmt: skip


def append_strip(coarse: CoarseMap, strip: Strip) -> None:
    """Append a finished strip to the coarse map."""
    for codes in strip.blocks():
        coarse.append(codes)
    trim_heap()


def coarse_strips(
    scene: Scene,
    segmenter: Segmenter,
    mosaic: Mosaic,
    rows: range,
    factor: int,
    observed: Observed,
    *,
    exhaustive: bool,
) -> Generator[Strip, None, None]:
    """Run the coarse pass on some rows of windows. Close the generator before the scene is closed.

    Args:
        scene: the scene.
        segmenter: the model.
        mosaic: mosaic of the shrunk scene, which begins with the first of the rows.
        rows: indices of the rows of windows of the shrunk scene (see `coarse_grid`).
        factor: factor by which the scene is shrunk.
        observed: record to which the observed pixels of each window are added.
        exhaustive: see `coarse_pass`.

    Yields:
        The strip of each row of windows, from the top.

    Raises:
        ModelError: the model fails, or its probabilities are not finite.
    """
    predict_tiles = _predict_twice if exhaustive or not segmenter.any_size else _predict_twice_where_uncertain

    def predict(tiles: list[Tile]) -> list[tuple[Tile, Floats | None]]:
        observed = [tile for tile in tiles if tile.valid.any()]
        try:
            probabilities = iter(predict_tiles(segmenter, observed) if observed else [])
        except (RuntimeError, MemoryError) as error:
            raise model_failure(scene.path, "in the coarse pass", Failure.of(error)) from error
        return [(tile, next(probabilities) if tile.valid.any() else None) for tile in tiles]

    windows = (window for row in rows for window in mosaic.grid.row(row))
    with ExitStack() as stack:
        tiles = stack.enter_context(closing(ahead(lambda window: scene.shrunk(window, factor), windows)))
        # Two pairs of tiles are computed in parallel, so that no core is idle while a pair's slower tile is computed.
        pairs = _in_pairs(tiles, len(rows), len(mosaic.grid.col_offsets))
        predicted = stack.enter_context(closing(ahead(predict, pairs, count=2, threads=2)))
        for tile, probability in chain.from_iterable(predicted):
            observed.add(tile.window, None if tile.failure else tile.complete)
            if strip := mosaic.add(tile.window, probability, tile.reason):
                yield strip


def _in_pairs(tiles: Iterator[Tile], rows: int, columns: int) -> Iterator[list[Tile]]:
    """Group tiles into pairs. Both tiles of a pair are in one row of windows.

    The last bits of a prediction depend on the tiles that share a batch. Pairs are therefore the same wherever the rows
    of windows are divided among processes.
    """
    for _ in range(rows):
        row = islice(tiles, columns)
        while pair := list(islice(row, 2)):
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
