"""Parts of a window: where the coarse pass is sure of the ground, the model need not see it from near."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from floodmap.grid import Window
from floodmap.prompts import Prompts

DRY, FLOOD = 0.15, 0.75
"""The coarse pass is sure of ground that it gives less, or more: dry ground is to be surer, where a stream may hide."""
_CELL = 32
"""Parts begin at multiples of so many pixels: a model's convolutions see them in the same cells as the whole window."""
_MARGIN = 1
"""Ground seen around what is unsure, in cells: without it the pictures around Dubai lose 0.005."""
_FADE = 16
"""Pixels along the borders of a part across which it fades into what the coarse pass said."""
_SMALL, _BROAD = 10, 24
"""Sides of parts that are not their window's, in cells. Parts are small squares, or reach across the whole window:
oneDNN makes some sixty kernels for every shape, 5 MB, and with six shapes windows take 2 % longer than with sixteen."""
_FIXED = 40
"""What a part costs however small it is, in cells."""

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
    unsure = (mask >= DRY) & (mask <= FLOOD)
    for axis, side in enumerate(shape_hw):
        unsure = _by_cells(unsure, axis, side)
    parts = list(_cover(unsure, 0, 0, unsure.shape))
    if _cost(parts) >= _cost([Window(0, 0, *unsure.shape)]):
        return None
    return [_in_pixels(part, shape_hw) for part in parts]


def standing(mask: NDArray[np.float32], shape_hw: tuple[int, int]) -> NDArray[np.float32]:
    """Probabilities of a window as its mask prompt has them, (height, width)."""
    rows, cols = (np.arange(n) * m // n for n, m in zip(shape_hw, mask.shape, strict=True))
    return mask[np.ix_(rows, cols)]


def put(part: Window, probability: NDArray[np.float32], into: NDArray[np.float32]) -> None:
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


def _cover(unsure: Bools, top: int, left: int, whole_hw: tuple[int, ...]) -> Iterator[Window]:
    """Rectangles of cells that hold everything unsure and its margin: one around all, or two of which each is cut on.

    Args:
        unsure: (rows, columns) of cells.
        top: row of the first of them within the window.
        left: its column.
        whole_hw: the window's size, in cells.
    """
    one = _around(unsure, top, left, whole_hw)
    if one is None:
        return
    cheapest, halves = _cost([one]), None
    for axis in (0, 1):
        for cut in range(1, unsure.shape[axis]):
            first, second = np.split(unsure, [cut], axis)
            at = (top + cut, left) if axis == 0 else (top, left + cut)
            around = [_around(first, top, left, whole_hw), _around(second, *at, whole_hw)]
            cost = _cost([part for part in around if part])
            if None not in around and cost < cheapest:
                cheapest, halves = cost, ((first, top, left), (second, *at))
    if halves is None:
        yield one
        return
    for cells, row, col in halves:
        yield from _cover(cells, row, col, whole_hw)


def _around(unsure: Bools, top: int, left: int, whole_hw: tuple[int, ...]) -> Window | None:
    """The part around all unsure cells, with their margin; None where there are none."""
    if not unsure.any():
        return None
    firsts, wanted = [], []
    for axis, (offset, whole) in enumerate(zip((top, left), whole_hw, strict=True)):
        (found,) = np.nonzero(unsure.any(axis=1 - axis))
        first, end = max(offset + found[0] - _MARGIN, 0), min(offset + found[-1] + 1 + _MARGIN, whole)
        firsts.append(first)
        wanted.append(end - first)
    height, width = min(
        (shape for shape in _shapes(*whole_hw) if shape[0] >= wanted[0] and shape[1] >= wanted[1]), key=math.prod
    )
    row, col = min(firsts[0], whole_hw[0] - height), min(firsts[1], whole_hw[1] - width)
    return Window(int(row), int(col), height, width)


def _shapes(height: int, width: int) -> list[tuple[int, int]]:
    """Of parts of a window, all in cells."""
    low, narrow = min(_SMALL, height), min(_SMALL, width)
    strips = [(low, width), (height, narrow), (min(_BROAD, height), width), (height, min(_BROAD, width))]
    return [(low, narrow), *strips, (height, width)]


def _cost(parts: list[Window]) -> int:
    return sum(part.height * part.width + _FIXED for part in parts)


def _in_pixels(part: Window, shape_hw: tuple[int, int]) -> Window:
    top, left = part.row_off * _CELL, part.col_off * _CELL
    return Window(top, left, min(part.height * _CELL, shape_hw[0] - top), min(part.width * _CELL, shape_hw[1] - left))
