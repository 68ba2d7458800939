"""Parts: square crops of a window, placed where the coarse pass is uncertain.

At full resolution, the model predicts only the parts. In the rest of the window, the result is the probability of the
coarse pass.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from floodmap.geo.window import Window
from floodmap.models.prompts import Prompts

DRY_LIMIT, FLOOD_LIMIT = 0.15, 0.75
"""Limits of the flood probability of the coarse pass, 0 to 1. Pixels below the dry limit are dry, and pixels above the
flood limit are flood, without further prediction. The dry limit is farther from 0.5 than the flood limit, because
narrow streams have a low coarse probability."""
_CELL = 16
"""Side of a cell in pixels of the window. A cell is a square that counts as certain or as uncertain as a whole."""
_STEP = 2
"""Step between the possible positions of a part, in cells: the first row and the first column of a part are multiples
of the step. 2 cells are 32 pixels, the model's coarsest stride. A value of the model's feature maps therefore covers
the same pixels in a part as in the whole window."""
_MARGIN = 1
"""Width of the margin of a part, in cells. The margin is the band of cells along the edge of the part, inside the part.
The margin only gives context to the model, and does not count as covered. An uncertain cell in the margin of one part
is therefore covered by another part, outside the margin of the other part. Without a margin, the IoU on the data set
dubai-water falls by 0.005."""
_FADE = 16
"""Distance from the edge of a part, in pixels, at which the weight of the part reaches 1; at the edge, the weight is 0.
Between the two, the probability of the part is blended with the coarse probability; see `blend_in`."""
_SIDE = 20
"""Side of a part, in cells. 20 cells are 320 pixels. All parts have one size, for two reasons. First, several parts can
form a batch (`flood_segmenter.TOGETHER`), which at best halves the time. Second, oneDNN compiles separate kernels for
each shape of its input, and parts of many sizes would need many kernels. Parts of 256 pixels have too little context:
in a part of this size, a field was predicted as a pond."""
_PART_COST = 1.15
"""Computing time of a cell in a part, relative to the computing time of a cell in a whole window."""

Bools = NDArray[np.bool_]


def uncertain_parts(prompts: Prompts, shape_hw: tuple[int, int], observed: Bools | None = None) -> list[Window] | None:
    """Find the parts of a window that the model has to predict.

    Args:
        prompts: prompts of the window. The mask prompt is the coarse probability, float32 (h, w), 0 to 1. A window
            without a mask prompt, or with points or boxes, is predicted as a whole.
        shape_hw: height and width of the window in pixels.
        observed: bool `shape_hw`, True at observed pixels; nothing is predicted for cells without such a pixel. None:
            all pixels are observed.

    Returns:
        Parts, which may overlap, in pixels of the window. The list is empty if the coarse pass is certain everywhere.
        None: the whole window has to be predicted, because of the prompts, or because the parts would take as long as
        the whole window.
    """
    mask = prompts.mask
    if mask is None or prompts.bounded or len(prompts.points_xy):
        return None
    uncertain = (mask >= DRY_LIMIT) & (mask <= FLOOD_LIMIT)
    for axis, side in enumerate(shape_hw):
        uncertain = _by_cells(uncertain, axis, side)
        observed = None if observed is None else _by_cells(observed, axis, side)
    if observed is not None:
        uncertain &= observed
    uncertain = np.pad(uncertain, [(0, -cells % _STEP) for cells in uncertain.shape])
    parts = list(_squares(uncertain))
    if _PART_COST * sum(part.height * part.width for part in parts) >= uncertain.size:
        return None
    return [_in_pixels(part, shape_hw) for part in parts]


def coarse_probability(mask: NDArray[np.float32], shape_hw: tuple[int, int]) -> NDArray[np.float32]:
    """Resample a mask prompt to the pixels of a window, by nearest neighbour.

    Args:
        mask: coarse probability, float32 (h, w), 0 to 1.
        shape_hw: height and width of the window in pixels.

    Returns:
        The coarse probability, float32 (height, width), 0 to 1.
    """
    rows, cols = (np.arange(n) * m // n for n, m in zip(shape_hw, mask.shape, strict=True))
    return mask[np.ix_(rows, cols)]


def blend_in(part: Window, probability: NDArray[np.float32], into: NDArray[np.float32]) -> None:
    """Blend the probabilities of a part into the probabilities of the window, in place.

    The weight of the part rises from 0 at the edge of the part to 1 at a distance of 16 pixels. If a side of the part
    lies on the edge of the window, the weight is 1 up to this side.

    Args:
        part: the part, in pixels of the window.
        probability: probabilities of the part, float32 (part height, part width), 0 to 1.
        into: probabilities of the window, float32 (height, width), 0 to 1, which are changed.
    """
    down = _ramp(part.row_off, part.height, into.shape[0])
    across = _ramp(part.col_off, part.width, into.shape[1])
    coarse = into[part.slices]
    coarse += (probability - coarse) * (down[:, None] * across)


def _ramp(first: int, side: int, whole: int) -> NDArray[np.float32]:
    """Return the blend weights of a part along one axis, float32 (side,), 0 to 1.

    Args:
        first: first pixel of the part in the window.
        side: length of the part in pixels.
        whole: length of the window in pixels.
    """
    inside = np.arange(side, dtype=np.float32) + 0.5
    before = inside if first else np.inf
    after = inside[::-1] if first + side < whole else np.inf
    near = np.minimum(np.minimum(before, after) / _FADE, 1.0)
    return np.asarray(np.sin(near * (np.pi / 2)) ** 2 * np.ones(side), np.float32)


def _by_cells(uncertain: Bools, axis: int, side: int) -> Bools:
    """Resample flags along one axis to the cells of a window: a cell is True if it overlaps a flag that is True.

    Args:
        uncertain: bool, two-dimensional: flags that cover the whole window, of uncertain pixels or of observed pixels.
            Along `axis`, n flags divide the window into n equal lengths. These are for example the pixels of the mask
            prompt, or the pixels of the window. Along the other axis, the number of flags does not matter.
        axis: the axis to resample, 0 or 1.
        side: length of the window along this axis, in pixels of the window.

    Returns:
        bool, two-dimensional. Along `axis`, it has one value for each cell of the window.
    """
    length, begin = uncertain.shape[axis], np.arange(0, side, _CELL)
    last = -(-np.minimum(begin + _CELL, side) * length // side) - 1
    reached = np.logical_or.reduceat(uncertain, begin * length // side, axis=axis)
    return np.asarray(reached | uncertain.take(last, axis=axis))


def _squares(uncertain: Bools) -> Iterator[Window]:
    """Cover all uncertain cells with parts, and yield the parts as windows in units of cells.

    A part covers all its cells except the margin (see `_MARGIN`). The parts are chosen one after the other. An open
    cell is an uncertain cell that no earlier part covers. The first open cell is the leftmost open cell in the topmost
    row with an open cell. The next part covers the first open cell. No cell in the rows above is open. Of all
    positions that cover the first open cell, the part therefore takes the largest row numbers. The columns of the part
    are chosen such that the part covers the largest possible number of open cells.

    Args:
        uncertain: bool (rows of cells, columns of cells), True for uncertain cells.
    """
    uncovered = uncertain.copy()
    height, width = (min(_SIDE, whole) for whole in uncovered.shape)
    while uncovered.any():
        row, col = np.unravel_index(int(uncovered.argmax()), uncovered.shape)
        top = min(max(int(row) - _MARGIN, 0) // _STEP * _STEP, uncovered.shape[0] - height)
        rows = _without_margin(top, height, uncovered.shape[0])
        candidates = _candidates(int(col), width, uncovered.shape[1])
        best = max(candidates, key=lambda columns: uncovered[rows, columns[1]].sum())
        uncovered[rows, best[1]] = False
        yield Window(top, best[0], height, width)


def _candidates(cell: int, side: int, whole: int) -> Iterator[tuple[int, slice]]:
    """Yield, along one axis, the possible positions of a part that covers a cell.

    Args:
        cell: index of the cell.
        side: length of the part in cells.
        whole: length of the window in cells.

    Yields:
        Two values: the index of the first cell of the part, and the slice of the cells that the part covers (all cells
        of the part except the margin).
    """
    for first in range(max(cell - side + 1, 0) // _STEP * _STEP, min(cell, whole - side) + 1, _STEP):
        covered = _without_margin(first, side, whole)
        if covered.start <= cell < covered.stop:
            yield first, covered


def _without_margin(first: int, side: int, whole: int) -> slice:
    """Return, along one axis, the cells of a part except the margin, as a slice of the window's cells.

    A side of the part that lies on the edge of the window has no margin.

    Args:
        first: first cell of the part in the window.
        side: length of the part in cells.
        whole: length of the window in cells.
    """
    end = first + side
    return slice(first + _MARGIN if first else 0, end - _MARGIN if end < whole else end)


def _in_pixels(part: Window, shape_hw: tuple[int, int]) -> Window:
    """Convert a part from cells to pixels of the window, and clip the part to the window."""
    top, left = part.row_off * _CELL, part.col_off * _CELL
    return Window(top, left, min(part.height * _CELL, shape_hw[0] - top), min(part.width * _CELL, shape_hw[1] - left))
