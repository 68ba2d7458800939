"""Pixel grid of a product: CRS and pixel size follow from the frames, and their pixels coincide if possible."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from floodmap.errors import SceneError
from floodmap.geo.crs import parse_crs
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.turns import x_period
from floodmap.scaleout.frames.placement import outline

_WHOLE = 0.01
"""Largest distance from a whole number, in pixels, at which the edge of a frame counts as the edge of a pixel."""
_SAME_SIZE = 0.01
"""Largest relative difference of two pixel sizes that count as equal."""
_SPARSE, _LARGE = 50, 10**9
"""A product is refused if it has more than `_SPARSE` times the pixels of all frames, and more than `_LARGE` pixels."""

Floats = NDArray[np.float64]
Lattice = tuple[float, ...]
"""Linear part of a transform (a, b, d, e), and position of the pixel corners modulo one pixel (column, row)."""


def product_grid(
    grids: Sequence[GeoGrid], *, crs: str | None = None, resolution_m: float | None = None, names: Sequence[object] = ()
) -> GeoGrid:
    """Choose the pixel grid of a product.

    - The CRS is the most frequent CRS of the frames, because the fewest frames are then reprojected.
    - The pixel size is the median of the frames' pixel sizes. The finest size would let a single close-up multiply the
      number of pixels of the whole product, and the mean would be the size of no frame.
    - Of all grids with this pixel size, the grid that most frames share is continued over all frames. Frames on this
      grid are not resampled. If this grid is rotated or south-up and not all frames share it, the product is north-up.
    - If a CRS or a resolution is given, the product is north-up, and its corner is at a multiple of the pixel size.

    Args:
        grids: working grids of the frames, at least one, all with a CRS.
        crs: CRS of the product, such as "EPSG:32643"; None: chosen from the frames.
        resolution_m: ground sample distance of the product, in metres; None: chosen from the frames.
        names: names of the frames, for messages.

    Returns:
        The smallest such grid that contains all frames.

    Raises:
        SceneError: `crs` is not a geographic or projected CRS, a frame has no place in the CRS of the product, or the
            frames are too far from each other.
    """
    chosen = _most_frequent_crs(grids) if crs is None else parse_crs(crs)
    called = [*names] or [f"frame {number}" for number in range(1, len(grids) + 1)]
    outlines = [_outline(grid, chosen, name) for grid, name in zip(grids, called, strict=True)]
    own = [grid for grid in grids if grid.crs == chosen]
    if crs is None and resolution_m is None:
        lattice = _shared_lattice(own)
    else:
        gsds = sorted(grid.gsd_m or math.inf for grid in grids)
        lattice = _round_lattice(chosen, resolution_m or gsds[(len(gsds) - 1) // 2], outlines)
    grid = _around(lattice, chosen, outlines)
    _refuse_sparse(grid, grids, outlines, called)
    return grid


def _outline(grid: GeoGrid, crs: Any, name: object) -> Floats:
    try:
        return outline(grid, crs)
    except SceneError as error:
        raise SceneError(f"{name}: {error}; leave it out, or choose another --product-crs") from error


def _most_frequent_crs(grids: Sequence[GeoGrid]) -> Any:
    counts = Counter(grid.crs.to_wkt() for grid in grids)
    (wkt, _), *_ = counts.most_common(1)  # of equal counts, the CRS of the first frame
    return next(grid.crs for grid in grids if grid.crs.to_wkt() == wkt)


def _shared_lattice(grids: Sequence[GeoGrid]) -> Affine:
    """Return the transform of the lattice of median pixel size that most frames share, in one CRS."""
    sizes = [abs(grid.transform.determinant) ** 0.5 for grid in grids]
    median = sorted(sizes)[(len(sizes) - 1) // 2]
    near = [grid for grid, size in zip(grids, sizes, strict=True) if abs(size / median - 1) <= _SAME_SIZE]
    keys = [_lattice(grid.transform) for grid in near]
    (key, count), *_ = Counter(keys).most_common(1)
    found: Affine = next(grid.transform for grid, own in zip(near, keys, strict=True) if own == key)
    north_up = found.b == found.d == 0 and found.a > 0 > found.e
    return found if north_up or count == len(grids) else _at_multiples(median, median)


def _lattice(transform: Affine) -> Lattice:
    a, b, c, d, e, f = transform[:6]
    col, row = ~Affine(a, b, 0, d, e, 0) @ (c, f)
    # 0.995 and 0.005 are the same place modulo one pixel; rounding first makes them equal.
    return (*(float(f"{value:.10g}") for value in (a, b, d, e)), round(col, 2) % 1, round(row, 2) % 1)


def _at_multiples(across: float, down: float) -> Affine:
    """Return a north-up transform whose pixel corners are at multiples of the pixel size, in units of the CRS."""
    return Affine(across, 0, 0, 0, -down, 0)


def _round_lattice(crs: Any, gsd_m: float, outlines: Sequence[Floats]) -> Affine:
    """Return a north-up transform with square pixels of `gsd_m` metres on the ground."""
    corners = np.concatenate(outlines)
    x, y = (corners.min(axis=0) + corners.max(axis=0)) / 2
    unit = 1e-5 if crs.is_geographic else 1.0
    steps = GeoGrid(crs, Affine(unit, 0, x, 0, -unit, y), (1, 1)).steps_m
    if steps is None:
        raise SceneError(
            f"the frames do not lie in the area of the CRS {crs.to_string()}; choose another --product-crs"
        )
    across, down = (unit * gsd_m / step for step in steps)
    if not crs.is_geographic and all(abs(side / gsd_m - 1) <= _SAME_SIZE for side in (across, down)):
        return _at_multiples(gsd_m, gsd_m)  # the unit is nearly a metre on the ground, as in UTM: round numbers
    return _at_multiples(across, down)


def _around(lattice: Affine, crs: Any, outlines: Sequence[Floats]) -> GeoGrid:
    """Return the smallest grid on a lattice that contains all frames."""
    edges = GeoGrid(crs, lattice, (1, 1))
    bounds = np.stack([_extent(edges.to_pixels(xy)) for xy in outlines])
    left, top = np.floor(bounds[:, :2].min(axis=0) + _WHOLE).astype(int)
    right, bottom = np.ceil(bounds[:, 2:].max(axis=0) - _WHOLE).astype(int)
    shape_hw = max(int(bottom - top), 1), max(int(right - left), 1)
    return GeoGrid(crs, lattice @ Affine.translation(float(left), float(top)), shape_hw)


def _extent(xy: Floats) -> Floats:
    return np.concatenate([xy.min(axis=0), xy.max(axis=0)])


def _refuse_sparse(
    grid: GeoGrid, grids: Sequence[GeoGrid], outlines: Sequence[Floats], names: Sequence[object]
) -> None:
    """Raise SceneError if nearly all of the product is ground without a frame, because some frame is far away."""
    pixels, side = grid.height * grid.width, grid.gsd_m or math.inf
    covered = sum(one.height * one.width * ((one.gsd_m or 0.0) / side) ** 2 for one in grids)
    if pixels <= max(_LARGE, _SPARSE * covered):
        return
    centres = np.stack([xy.mean(axis=0) for xy in outlines])
    far = int(np.argmax(np.abs(centres - np.median(centres, axis=0)).sum(axis=1)))
    turn = x_period(grid.crs)
    if turn is not None and np.ptp(centres[:, 0]) > turn / 2:  # 180 degrees
        raise SceneError(
            f"the frames reach around half of the Earth, from {names[int(np.argmin(centres[:, 0]))]} to "
            f"{names[int(np.argmax(centres[:, 0]))]}; if they lie on both sides of 180 degrees, give a projected CRS, "
            "such as --product-crs EPSG:32760"
        )
    raise SceneError(
        f"the frames lie so far apart that the product would have {pixels / 1e6:,.0f} megapixels, most of them without "
        f"a frame; leave out the farthest frame, {names[far]}, or make several products"
    )
