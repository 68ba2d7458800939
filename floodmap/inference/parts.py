"""Parts of a window: where the coarse pass is sure of the ground, the model need not see it from near."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from floodmap.geo.window import Window
from floodmap.models.prompts import Prompts

SURELY_DRY, SURELY_FLOOD = 0.15, 0.75
"""The coarse pass is sure of ground that it gives less, or more: dry ground is to be surer, where a stream may hide."""
_CELL = 16
"""Pixels a side of the squares that are sure or not."""
_STEP = 2
"""Parts begin at multiples of so many cells: a model's convolutions see them as they see the whole window."""
_MARGIN = 1
"""Ground seen around what is unsure, in cells: without it the pictures around Dubai lose 0.005."""
_FADE = 16
"""Pixels along the borders of a part across which it fades into what the coarse pass said."""
_SIDE = 20
"""Sides of parts, in cells. All are alike, so that several are seen at once (`flood_segmenter.TOGETHER`), in down to
half the time, and oneDNN has few shapes to make kernels for. Those of 256 pixels show too little: one made a field a
pond."""
_DEARER = 1.15
"""What a cell of a part costs beside one of a whole window."""

Bools = NDArray[np.bool_]


def unsure_parts(prompts: Prompts, shape_hw: tuple[int, int]) -> list[Window] | None:
    """What is to be seen of a window.

    Args:
        prompts: a mask prompt is what the coarse pass said; a person's points and boxes are always heard.
        shape_hw: the window's size in pixels.

    Returns:
        Parts in the window's pixels, which may overlap: none where the coarse pass is sure everywhere. None where the
        whole window is to be seen.
    """
    mask = prompts.mask
    if mask is None or prompts.bounded or len(prompts.points_xy):
        return None
    unsure = (mask >= SURELY_DRY) & (mask <= SURELY_FLOOD)
    for axis, side in enumerate(shape_hw):
        unsure = _by_cells(unsure, axis, side)
    unsure = np.pad(unsure, [(0, -cells % _STEP) for cells in unsure.shape])
    parts = list(_squares(unsure))
    if _DEARER * sum(part.height * part.width for part in parts) >= unsure.size:
        return None
    return [_in_pixels(part, shape_hw) for part in parts]


def coarse_probability(mask: NDArray[np.float32], shape_hw: tuple[int, int]) -> NDArray[np.float32]:
    """Probabilities of a window's pixels, (height, width), as its mask prompt has them."""
    rows, cols = (np.arange(n) * m // n for n, m in zip(shape_hw, mask.shape, strict=True))
    return mask[np.ix_(rows, cols)]


def blend_in(part: Window, probability: NDArray[np.float32], into: NDArray[np.float32]) -> None:
    """Put a part's probabilities into those of its window, (height, width), in place; they fade in from its borders."""
    down = _ramp(part.row_off, part.height, into.shape[0])
    across = _ramp(part.col_off, part.width, into.shape[1])
    ground = into[part.slices]
    ground += (probability - ground) * (down[:, None] * across)


def _ramp(first: int, side: int, whole: int) -> NDArray[np.float32]:
    """How much a part counts along an axis; fully up to where its window ends as well."""
    inside = np.arange(side, dtype=np.float32) + 0.5
    before = inside if first else np.inf
    after = inside[::-1] if first + side < whole else np.inf
    near = np.minimum(np.minimum(before, after) / _FADE, 1.0)
    return np.asarray(np.sin(near * (np.pi / 2)) ** 2 * np.ones(side), np.float32)


def _by_cells(unsure: Bools, axis: int, side: int) -> Bools:
    """Cells that anything unsure reaches into, along an axis that is `side` pixels long."""
    length, begin = unsure.shape[axis], np.arange(0, side, _CELL)
    last = -(-np.minimum(begin + _CELL, side) * length // side) - 1
    reached = np.logical_or.reduceat(unsure, begin * length // side, axis=axis)
    return np.asarray(reached | unsure.take(last, axis=axis))


def _squares(unsure: Bools) -> Iterator[Window]:
    """Squares of cells that hold all unsure ones and their margin: each time the one around the first cell that is left
    which holds most others.
    """
    left = unsure.copy()
    height, width = (min(_SIDE, whole) for whole in left.shape)
    while left.any():
        row, col = np.unravel_index(int(left.argmax()), left.shape)
        top = min(max(int(row) - _MARGIN, 0) // _STEP * _STEP, left.shape[0] - height)
        rows = _inside(top, height, left.shape[0])
        best = max(_around(int(col), width, left.shape[1]), key=lambda columns: left[rows, columns[1]].sum())
        left[rows, best[1]] = False
        yield Window(top, best[0], height, width)


def _around(cell: int, side: int, whole: int) -> Iterator[tuple[int, slice]]:
    """Where parts may begin along an axis that have a cell inside their margin, and what else they have there."""
    for first in range(max(cell - side + 1, 0) // _STEP * _STEP, min(cell, whole - side) + 1, _STEP):
        inside = _inside(first, side, whole)
        if inside.start <= cell < inside.stop:
            yield first, inside


def _inside(first: int, side: int, whole: int) -> slice:
    """What lies inside the margin of a part, along an axis; there is none where its window ends."""
    end = first + side
    return slice(first + _MARGIN if first else 0, end - _MARGIN if end < whole else end)


def _in_pixels(part: Window, shape_hw: tuple[int, int]) -> Window:
    top, left = part.row_off * _CELL, part.col_off * _CELL
    return Window(top, left, min(part.height * _CELL, shape_hw[0] - top), min(part.width * _CELL, shape_hw[1] - left))
