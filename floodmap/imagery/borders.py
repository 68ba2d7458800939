"""Untagged black or white borders (collars): pixels round the footprint of an orthophoto without a nodata value.

A border pixel has exactly the border's colour and is connected to a large area of that colour which reaches the edge of
the scene. Dark lakes and white roofs at the edge vary by more than that. The area is found once on a downsampled
picture of the scene; each window then finds its own border pixels at full resolution.
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
"""Reads a window at a (height, width): values (bands, height, width), and pixels (height, width) that may be border."""

MAX_SIDE = 2048
"""Longest side of the downsampled picture on which borders are found, in pixels."""

_TOLERANCE = 2
"""Largest distance from black or white, in 8-bit values, of the border's colour."""
_FRINGE_TOLERANCE = 24
"""The same within `_FRINGE` pixels of the border, in a scene with lossy compression: JPEG rings across a block."""
_FRINGE = 8
"""Width of the fringe, in pixels: a block of JPEG."""
_CORNER_SHARE, _CORNER_CELLS = 0.0002, 16
"""Smallest border that contains a corner of the scene: share of the downsampled picture, and pixels of it."""
_SIDE_SHARE, _SIDE_CELLS = 0.005, 64
"""The same for an area that only touches a side: more is required, since it may be an overexposed roof."""
_THIN_SHARE = 0.25
"""A border thinner than a pixel of the downsampled picture counts if it fills this share of a side of the scene."""
_PROBES, _PROBE_SIDE = 33, 2
"""Probes along each side of the scene, and the side of a probe in pixels, before the whole scene is read."""
_EIGHT_NEIGHBOURS = np.ones((3, 3), bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collar:
    """The borders of a scene on a coarse grid, and how to find their pixels in a window."""

    cells: dict[Colour, Bools]
    """For each colour found, bool (rows, columns): the cells of a coarse grid over the scene that touch the border."""
    height: int
    """Scene rows, in pixels."""
    width: int
    """Scene columns, in pixels."""
    lossy: bool
    """Lossy compression: the border's colour varies at its inner edge."""

    @property
    def colours(self) -> tuple[Colour, ...]:
        """Colours found."""
        return tuple(self.cells)

    def find(self, window: Window, values: NDArray[Any], possible: Bools) -> Bools:
        """Border pixels of a window.

        Args:
            window: place of the values in the scene.
            values: (bands, height, width) as stored; smaller than the window where it was read downsampled.
            possible: bool (height, width), False where a pixel is known to be no border.

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
            border = _connected(coloured, marked)
            if self.lossy and values.dtype == np.uint8 and border.any() and not border.all():
                fringe = _has_colour(values, colour, _FRINGE_TOLERANCE) & possible | border
                border = ndimage.binary_dilation(border, iterations=_FRINGE, mask=fringe)
            found |= border
        return found

    def candidates(self, window: Window, shape_hw: tuple[int, ...]) -> Bools:
        """Pixels (height, width) of a downsampled window that may contain border pixels at full resolution."""
        possible = np.zeros(shape_hw, bool)
        for cells in self.cells.values():
            marked = cells[np.ix_(*self._cell_indices(window, shape_hw, cells.shape))]
            self._mark_edges(window, marked)
            possible |= marked
        # A downsampled pixel may reach beyond the cell that holds its centre.
        return np.asarray(ndimage.binary_dilation(possible, _EIGHT_NEIGHBOURS))

    def _cell_indices(self, window: Window, shape_hw: tuple[int, ...], cells_hw: tuple[int, ...]) -> Iterator[Any]:
        """For rows and for columns, the index of the cell that holds the centre of each pixel of a window."""
        starts, lengths = (window.row_off, window.col_off), (window.height, window.width)
        for start, length, count, cells, whole in zip(
            starts, lengths, shape_hw, cells_hw, (self.height, self.width), strict=True
        ):
            centres = start + (np.arange(count) + 0.5) * (length / count)
            yield np.minimum((centres * (cells / whole)).astype(int), cells - 1)

    def _mark_edges(self, window: Window, marked: Bools) -> None:
        # Where a rotated footprint meets the edge, the border is narrower than a cell. So in a scene with a border all
        # pixels of its colour along the edge belong to it.
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
    """Find the borders of a scene; None where there are none, which small reads along the edge mostly show.

    Args:
        read: reads a window; averages where it downsamples.
        height: scene rows, in pixels.
        width: scene columns, in pixels.
        colours: possible colours of the border.
        lossy: whether the scene has lossy compression.
    """
    scale = max(1.0, max(height, width) / MAX_SIDE)
    shares = _probe(read, height, width, colours) if scale > 1 else dict.fromkeys(colours, 0.0)
    if not shares:
        return None
    shape_hw = max(1, round(height / scale)), max(1, round(width / scale))
    # The average of a cell has the border's colour only where (nearly) all of its pixels have it.
    values, possible = read(Window(0, 0, height, width), shape_hw)
    cells: dict[Colour, Bools] = {}
    for colour, share in shares.items():
        areas = _areas_at_edge(_has_colour(values, colour, _TOLERANCE) & possible)
        # A border thinner than a cell fills no cell; `Collar.find` also starts from the edge of the scene.
        if areas.any() or share >= _THIN_SHARE:
            # Cells that the border fills in part do not have its colour: they are neighbours of cells that do.
            cells[colour] = ndimage.binary_dilation(areas, _EIGHT_NEIGHBOURS, iterations=2) if scale > 1 else areas
    return Collar(cells=cells, height=height, width=width, lossy=lossy) if cells else None


def _probe(read: Read, height: int, width: int, colours: tuple[Colour, ...]) -> dict[Colour, float]:
    """Colours that fill at least one probe along the edge, each with the largest share of probes filled on a side."""
    side_h, side_w = min(_PROBE_SIDE, height), min(_PROBE_SIDE, width)
    rows = np.linspace(0, height - side_h, _PROBES).astype(int).tolist()
    cols = np.linspace(0, width - side_w, _PROBES).astype(int).tolist()
    sides = [[(row, col) for col in cols] for row in (0, height - side_h)]
    sides += [[(row, col) for row in rows] for col in (0, width - side_w)]
    filled: dict[Colour, set[tuple[int, int]]] = {colour: set() for colour in colours}
    # From top to bottom: formats without blocks (PNG, JPG) are then decoded only once.
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
    """Pixels (height, width) that have the colour in every band; above 8 bits only exact 0 and the maximum count."""
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
    """Connected areas that reach the edge and are large enough to be a border."""
    labels, count = ndimage.label(coloured, _EIGHT_NEIGHBOURS)
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


def _connected(coloured: Bools, marked: Bools) -> Bools:
    """Pixels of the border's colour that are connected to marked ones."""
    seeds = coloured & marked
    if not seeds.any() or not (coloured & ~marked).any():
        return seeds
    labels, count = ndimage.label(coloured, _EIGHT_NEIGHBOURS)
    kept = np.zeros(count + 1, bool)
    kept[labels[seeds]] = True
    return np.asarray(kept[labels])
