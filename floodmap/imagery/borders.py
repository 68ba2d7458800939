"""Untagged borders (collars): black or white pixels around an orthophoto that are not declared as nodata.

A border is a large connected area of pixels that are black, or white, within a small tolerance (`_TOLERANCE`). The area
touches the edge of the scene. Dark lakes and white roofs vary by more than the tolerance. The borders of a scene are
found once, on a downsampled picture of the scene. Border pixels of a window are then found at full resolution.
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
"""Function that reads a window of the scene, resampled to a shape (height, width).

The function returns the stored values, (bands, height, width), and flags, bool (height, width): True at pixels that may
be border."""

MAX_SIDE = 2048
"""Length of the longer side of the downsampled picture, in pixels. Smaller scenes are not downsampled."""

_TOLERANCE = 2
"""Largest difference of a border pixel from black (0) or white (255), in 8-bit values."""
_FRINGE_TOLERANCE = 24
"""Largest difference from black or white for pixels beside the border of a scene with lossy compression.

The difference is in 8-bit values. This tolerance applies up to `_FRINGE` pixels from border pixels that were found with
`_TOLERANCE`, because JPEG changes the values of a whole block."""
_FRINGE = 8
"""Largest distance from the border at which `_FRINGE_TOLERANCE` applies, in pixels: the side of a JPEG block."""
_CORNER_SHARE, _CORNER_CELLS = 0.0002, 16
"""Least size of an area at a corner of the scene that counts as border: the larger of two limits.

The first limit is a share of all pixels of the downsampled picture, 0 to 1. The second limit is a number of pixels."""
_SIDE_SHARE, _SIDE_CELLS = 0.005, 64
"""Least size of an area at a side of the scene, but at no corner, that counts as border: the larger of two limits.

The first limit is a share, and the second a number of pixels, as at a corner. These limits are larger than at a corner,
because an area at a side may be an overexposed roof."""
_THIN_SHARE = 0.25
"""Least share of the probes (see `_PROBES`) along one side of the scene, 0 to 1, that a thin border must fill.

A thin border is narrower than a pixel of the downsampled picture, and is not found on the downsampled picture."""
_PROBES, _PROBE_SIDE = 33, 2
"""Number of probes (small windows) along each side of the scene, and the side of a probe in pixels.

If a side of the scene is longer than `MAX_SIDE`, the probes are read first. The whole scene is then read only if at
least one probe is all black or all white."""
_EIGHT_NEIGHBOURS = np.ones((3, 3), bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Collar:
    """Black and white borders of a scene, marked on the downsampled picture, to find the border pixels of a window."""

    cells: dict[Colour, Bools]
    """Dict from the colour of a border, "black" or "white", to an array, bool, of the shape of the downsampled picture.

    The array is True at border pixels. If the picture is smaller than the scene, the array is also True at pixels up to
    2 pixels from border pixels, because these may contain a part of the border. It is all False if the border is
    thinner than a pixel of the downsampled picture."""
    height: int
    """Number of rows of the scene."""
    width: int
    """Number of columns of the scene."""
    lossy: bool
    """True if the scene has lossy compression, which changes the colours where the border meets the orthophoto."""

    @property
    def colours(self) -> tuple[Colour, ...]:
        """Colours of the borders found: black, white or both."""
        return tuple(self.cells)

    def find(self, window: Window, values: NDArray[Any], possible: Bools) -> Bools:
        """Find the border pixels of a window.

        Args:
            window: the window, in pixels of the scene.
            values: (bands, height, width), the stored values of the colour bands in the window. If the window was read
                downsampled, height and width are smaller than the sides of the window.
            possible: bool (height, width), False at pixels that cannot be border, such as masked pixels.

        Returns:
            bool (height, width): True at border pixels.
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
        """Find the pixels of a downsampled window that may contain border pixels of the scene.

        Args:
            window: the window, in pixels of the scene.
            shape_hw: height and width of the downsampled window.

        Returns:
            bool, of the shape `shape_hw`: False at pixels that contain no border.
        """
        possible = np.zeros(shape_hw, bool)
        for cells in self.cells.values():
            marked = cells[np.ix_(*self._cell_indices(window, shape_hw, cells.shape))]
            self._mark_edges(window, marked)
            possible |= marked
        # A downsampled pixel may reach beyond the coarse cell that contains the pixel's centre.
        return np.asarray(ndimage.binary_dilation(possible, _EIGHT_NEIGHBOURS))

    def _cell_indices(self, window: Window, shape_hw: tuple[int, ...], cells_hw: tuple[int, ...]) -> Iterator[Any]:
        """Yield two integer arrays: the places of a window's pixel rows and columns in the downsampled picture.

        The first array has one value for each pixel row of the window, after the window is resampled to `shape_hw`. The
        value is the index of the row of the downsampled picture in which the centre of the pixel row lies. The second
        array has the same for the columns. `cells_hw` is the shape of the downsampled picture.
        """
        starts, lengths = (window.row_off, window.col_off), (window.height, window.width)
        for start, length, count, cells, whole in zip(
            starts, lengths, shape_hw, cells_hw, (self.height, self.width), strict=True
        ):
            centres = start + (np.arange(count) + 0.5) * (length / count)
            yield np.minimum((centres * (cells / whole)).astype(int), cells - 1)

    def _mark_edges(self, window: Window, marked: Bools) -> None:
        # Where a rotated footprint touches the edge of the scene, the border is narrower than a coarse cell. So all
        # pixels along the edge are marked. Marked pixels that have the border's colour belong to the border.
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
    """Find the black and white borders of a scene.

    If a side is longer than `MAX_SIDE` and no probe (see `_PROBES`) is all black or all white, only probes are read.

    Args:
        read: function that reads a window, as described at `Read`. If the window is downsampled, each value must be the
            mean of the scene pixels that it covers.
        height: number of rows of the scene.
        width: number of columns of the scene.
        colours: colours that a border may have.
        lossy: whether the scene has lossy compression.

    Returns:
        The borders; None if no border was found.
    """
    scale = max(1.0, max(height, width) / MAX_SIDE)
    shares = _probe(read, height, width, colours) if scale > 1 else dict.fromkeys(colours, 0.0)
    if not shares:
        return None
    shape_hw = max(1, round(height / scale)), max(1, round(width / scale))
    # A cell is a pixel of the downsampled picture: the mean of pixels of the scene. The mean has the border's colour
    # only if (nearly) all pixels of the scene in the cell have the border's colour.
    values, possible = read(Window(0, 0, height, width), shape_hw)
    cells: dict[Colour, Bools] = {}
    for colour, share in shares.items():
        areas = _areas_at_edge(_has_colour(values, colour, _TOLERANCE) & possible)
        # A border thinner than a cell fills no cell; `Collar.find` also starts from the edge of the scene.
        if areas.any() or share >= _THIN_SHARE:
            # Cells that the border fills only in part have another colour. They lie beside filled cells.
            cells[colour] = ndimage.binary_dilation(areas, _EIGHT_NEIGHBOURS, iterations=2) if scale > 1 else areas
    return Collar(cells=cells, height=height, width=width, lossy=lossy) if cells else None


def _probe(read: Read, height: int, width: int, colours: tuple[Colour, ...]) -> dict[Colour, float]:
    """Read the probes along the four sides of a scene, and find the colours that fill at least one probe.

    For each of these colours and each side, the number of filled probes along the side is divided by the number of all
    probes along the same side. The result maps the colour to the largest of these four shares, 0 to 1.
    """
    side_h, side_w = min(_PROBE_SIDE, height), min(_PROBE_SIDE, width)
    rows = np.linspace(0, height - side_h, _PROBES).astype(int).tolist()
    cols = np.linspace(0, width - side_w, _PROBES).astype(int).tolist()
    sides = [[(row, col) for col in cols] for row in (0, height - side_h)]
    sides += [[(row, col) for row in rows] for col in (0, width - side_w)]
    filled: dict[Colour, set[tuple[int, int]]] = {colour: set() for colour in colours}
    # Probes are read from top to bottom, so that formats without blocks (PNG, JPG) are decoded only once.
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
    """Return bool (height, width): True at pixels that have the colour, black or white, in every band.

    `values` are (bands, height, width), as stored. For uint8, `tolerance` is the largest difference from 0 or 255. In
    other dtypes only 0 is black, only the maximum of an integer dtype is white, and no float is white.
    """
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
    """Find the connected areas of one colour that touch the edge and are large enough to be a border.

    `coloured` is bool (rows, columns), True at pixels of the colour in the downsampled picture. The result has the same
    shape, and is True at pixels of these areas.
    """
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
    """Find the pixels of one colour that are connected to a marked pixel of the same colour.

    `coloured` is True at pixels of the colour, and `marked` is True at marked pixels. Both arrays and the result are
    bool (height, width).
    """
    seeds = coloured & marked
    if not seeds.any() or not (coloured & ~marked).any():
        return seeds
    labels, count = ndimage.label(coloured, _EIGHT_NEIGHBOURS)
    kept = np.zeros(count + 1, bool)
    kept[labels[seeds]] = True
    return np.asarray(kept[labels])
