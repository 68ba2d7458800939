"""Rectangles of a scene: the changed boxes with a margin, and the whole cells around them."""

from __future__ import annotations

from collections.abc import Iterable

from floodmap.correction.outlines.cells import CELL
from floodmap.geo.window import Window

MARGIN = 2
"""Width in pixels of the margin around a changed box, in which no pixel changes."""


class NotLocalError(Exception):
    """The change cannot be confined to the boxes. The caller traces the whole scene; never shown to a user."""


def blocks(boxes: Iterable[Window], shape_hw: tuple[int, int]) -> list[Window]:
    """Return the changed boxes with a margin, as rectangles that neither overlap nor touch.

    Args:
        boxes: rectangles outside which no pixel changes. Parts outside the scene are cut off.
        shape_hw: rows and columns of the scene.
    """
    return merged(grown(box, MARGIN, shape_hw) for box in boxes if _is_in(box, shape_hw))


def surroundings(inner: Iterable[Window], shape_hw: tuple[int, int]) -> list[Window]:
    """Return rectangles of whole cells around rectangles, with one more cell at each side.

    The results neither overlap nor touch.
    """
    return merged(_aligned(rect, shape_hw) for rect in inner)


def grown(rect: Window, margin: int, shape_hw: tuple[int, int]) -> Window:
    """Return the rectangle with a margin at each side, in pixels, cut at the border of the scene."""
    top, left = max(rect.row_off - margin, 0), max(rect.col_off - margin, 0)
    bottom, right = min(rect.row_end + margin, shape_hw[0]), min(rect.col_end + margin, shape_hw[1])
    return Window(top, left, bottom - top, right - left)


def merged(rects: Iterable[Window]) -> list[Window]:
    """Replace rectangles that overlap or touch, also at a corner, by the smallest rectangle around them."""
    done: list[Window] = []
    for rect in rects:
        while (other := next((one for one in done if touch(one, rect)), None)) is not None:
            done.remove(other)
            top, left = min(rect.row_off, other.row_off), min(rect.col_off, other.col_off)
            bottom, right = max(rect.row_end, other.row_end), max(rect.col_end, other.col_end)
            rect = Window(top, left, bottom - top, right - left)
        done.append(rect)
    return sorted(done)


def _aligned(rect: Window, shape_hw: tuple[int, int]) -> Window:
    top, left = (max(start // CELL - 1, 0) * CELL for start in (rect.row_off, rect.col_off))
    bottom = min((-(-rect.row_end // CELL) + 1) * CELL, shape_hw[0])
    right = min((-(-rect.col_end // CELL) + 1) * CELL, shape_hw[1])
    return Window(top, left, bottom - top, right - left)


def touch(one: Window, other: Window) -> bool:
    """Return whether two rectangles overlap or touch, also at a corner."""
    rows = one.row_off <= other.row_end and other.row_off <= one.row_end
    return rows and one.col_off <= other.col_end and other.col_off <= one.col_end


def _is_in(box: Window, shape_hw: tuple[int, int]) -> bool:
    return (
        box.height > 0 and box.width > 0 and box.row_end > 0 and box.col_end > 0
        and box.row_off < shape_hw[0] and box.col_off < shape_hw[1]
    )  # fmt: skip
