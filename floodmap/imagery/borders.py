"""Untagged black or white borders: what an orthophoto holds round its footprint when nobody declared nodata.

A border pixel has exactly the border's colour and hangs together with a sizeable area of it that reaches the edge of
the scene. Dark lakes and white roofs at the edge vary by more than that. The area is found once on a small picture of
the scene, and each window then tells its own pixels apart at full resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from floodmap.geo.window import Window

Colour = Literal["black", "white"]
Bools = NDArray[np.bool_]
Read = Callable[[Window, tuple[int, int]], tuple[NDArray[Any], Bools]]
"""Reads a window at a (height, width): values (bands, height, width), and which of the pixels may be border."""

MAX_SIDE = 2048
"""Longest side of the picture the border is found on, in pixels."""

_TOLERANCE = 2
"""Distance from black or white, in 8-bit values, that still is the border's colour."""
_FRINGE_TOLERANCE = 24
"""The same within `_FRINGE` pixels of the border, in a scene compressed with loss: JPEG rings as far as its blocks."""
_FRINGE = 8
_CORNER_SHARE, _CORNER_CELLS = 0.0002, 16
"""An area that holds a corner of the scene is a border from this share of it on, and at least so many pixels."""
_SIDE_SHARE, _SIDE_CELLS = 0.005, 64
"""The same for an area that only touches a side: more is asked, for it may be a burnt-out roof."""
_THIN_SHARE = 0.25
"""A border too thin for the small picture is one where it fills so much of a side of the scene."""
_PROBES, _PROBE_SIDE = 33, 2
"""The edge is probed at so many places a side, with squares of so many pixels, before the whole scene is looked at."""
_EIGHT = np.ones((3, 3), bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collar:
    """Where a scene has borders, roughly, and how to tell their pixels."""

    cells: dict[Colour, Bools]
    """For each colour found, the cells of a coarse grid over the scene (rows, columns) that touch the border."""
    height: int
    """Scene rows, in pixels."""
    width: int
    """Scene columns, in pixels."""
    lossy: bool
    """The scene is compressed with loss, so its border is frayed."""

    @property
    def colours(self) -> tuple[Colour, ...]:
        """Colours found."""
        return tuple(self.cells)

    def find(self, window: Window, values: NDArray[Any], possible: Bools) -> Bools:
        """Border pixels of a window.

        Args:
            window: where the values lie in the scene.
            values: (bands, height, width) as stored; fewer pixels than the window has where it was read smaller.
            possible: (height, width), False where a pixel is known to be something else.

        Returns:
            bool (height, width).
        """
        shape_hw = values.shape[1:]
        found = np.zeros(shape_hw, bool)
        for colour, cells in self.cells.items():
            marked = cells[np.ix_(*self._cell_indices(window, shape_hw, cells.shape))]
            self._mark_edges(window, marked)
            if not marked.any():
                continue
            coloured = _has_colour(values, colour, _TOLERANCE) & possible
            border = _joined(coloured, marked)
            if self.lossy and values.dtype == np.uint8 and border.any() and not border.all():
                frayed = _has_colour(values, colour, _FRINGE_TOLERANCE) & possible | border
                border = ndimage.binary_dilation(border, iterations=_FRINGE, mask=frayed)
            found |= border
        return found

    def near(self, window: Window, shape_hw: tuple[int, ...]) -> Bools:
        """Where `find` may find anything at the scene's own size: (height, width) pixels of a window seen shrunk."""
        near = np.zeros(shape_hw, bool)
        for cells in self.cells.values():
            marked = cells[np.ix_(*self._cell_indices(window, shape_hw, cells.shape))]
            self._mark_edges(window, marked)
            near |= marked
        # Pixels beneath one whose centre lies in a cell may lie in the next.
        return np.asarray(ndimage.binary_dilation(near, _EIGHT))

    def _cell_indices(self, window: Window, shape_hw: tuple[int, ...], cells_hw: tuple[int, ...]) -> Iterator[Any]:
        starts, lengths = (window.row_off, window.col_off), (window.height, window.width)
        for start, length, count, cells, whole in zip(
            starts, lengths, shape_hw, cells_hw, (self.height, self.width), strict=True
        ):
            centres = start + (np.arange(count) + 0.5) * (length / count)
            yield np.minimum((centres * (cells / whole)).astype(int), cells - 1)

    def _mark_edges(self, window: Window, marked: Bools) -> None:
        # Where a rotated footprint meets the edge the border tapers off to less than a cell, so in a scene that has a
        # border its colour along the very edge belongs to it.
        if window.row_off == 0:
            marked[0] = True
        if window.row_end == self.height:
            marked[-1] = True
        if window.col_off == 0:
            marked[:, 0] = True
        if window.col_end == self.width:
            marked[:, -1] = True


def find_collar(
    read: Read, *, height: int, width: int, colours: tuple[Colour, ...] = ("black", "white"), lossy: bool = False
) -> Collar | None:
    """Look for borders of a scene; None where it has none, which a few small reads along its edge mostly tell.

    Args:
        read: reads a window; where it reads smaller, by averaging.
        height: scene rows, in pixels.
        width: scene columns, in pixels.
        colours: what to look for.
        lossy: the scene is compressed with loss.
    """
    scale = max(1.0, max(height, width) / MAX_SIDE)
    shares = _probe(read, height, width, colours) if scale > 1 else dict.fromkeys(colours, 0.0)
    if not shares:
        return None
    shape_hw = max(1, round(height / scale)), max(1, round(width / scale))
    # The average of a cell is the border's colour only where (nearly) all of its pixels are.
    values, possible = read(Window(0, 0, height, width), shape_hw)
    cells: dict[Colour, Bools] = {}
    for colour, share in shares.items():
        areas = _areas_at_edge(_has_colour(values, colour, _TOLERANCE) & possible)
        # A border thinner than a cell shows in none, but along the edge; `Collar.find` starts there anyway.
        if areas.any() or share >= _THIN_SHARE:
            # Cells that the border only partly fills are not of its colour: they lie next to those that are.
            cells[colour] = ndimage.binary_dilation(areas, _EIGHT, iterations=2) if scale > 1 else areas
    return Collar(cells=cells, height=height, width=width, lossy=lossy) if cells else None


def _probe(read: Read, height: int, width: int, colours: tuple[Colour, ...]) -> dict[Colour, float]:
    """Colours that fill any of a few small squares along the edge, each with its share of the side it fills most."""
    side_h, side_w = min(_PROBE_SIDE, height), min(_PROBE_SIDE, width)
    rows = np.linspace(0, height - side_h, _PROBES).astype(int).tolist()
    cols = np.linspace(0, width - side_w, _PROBES).astype(int).tolist()
    sides = [[(row, col) for col in cols] for row in (0, height - side_h)]
    sides += [[(row, col) for row in rows] for col in (0, width - side_w)]
    filled: dict[Colour, set[tuple[int, int]]] = {colour: set() for colour in colours}
    # From top to bottom: formats without blocks (PNG, JPG) are decoded once that way.
    for place in sorted({place for side in sides for place in side}):
        values, possible = read(Window(*place, side_h, side_w), (side_h, side_w))
        for colour in colours:
            if (_has_colour(values, colour, _TOLERANCE) & possible).all():
                filled[colour].add(place)
    return {
        colour: max(len(places.intersection(side)) / len(side) for side in sides)
        for colour, places in filled.items()
        if places
    }


def _has_colour(values: NDArray[Any], colour: Colour, tolerance: int) -> Bools:
    """Pixels (height, width) that have the colour in every band; beyond 8 bits only exact zeros and maxima have it."""
    if values.dtype == np.uint8:
        match = values <= tolerance if colour == "black" else values >= 255 - tolerance
    elif colour == "black":
        match = values == 0
    elif values.dtype.kind in "iu":
        match = values == np.iinfo(values.dtype).max
    else:
        return np.zeros(values.shape[1:], bool)
    return np.asarray(match.all(axis=0))


def _areas_at_edge(coloured: Bools) -> Bools:
    """Areas that reach the edge and are large enough to be a border."""
    labels, count = ndimage.label(coloured, _EIGHT)
    if not count:
        return coloured
    sizes = np.bincount(labels.ravel())
    at_corner, at_side = np.zeros(count + 1, bool), np.zeros(count + 1, bool)
    at_corner[labels[[0, 0, -1, -1], [0, -1, 0, -1]]] = True
    for line in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        at_side[line] = True
    kept = at_corner & (sizes >= max(_CORNER_CELLS, _CORNER_SHARE * labels.size))
    kept |= at_side & (sizes >= max(_SIDE_CELLS, _SIDE_SHARE * labels.size))
    kept[0] = False
    return np.asarray(kept[labels])


def _joined(coloured: Bools, marked: Bools) -> Bools:
    """Coloured pixels that hang together with marked ones."""
    seeds = coloured & marked
    if not seeds.any() or not (coloured & ~marked).any():
        return seeds
    labels, count = ndimage.label(coloured, _EIGHT)
    kept = np.zeros(count + 1, bool)
    kept[labels[seeds]] = True
    return np.asarray(kept[labels])
