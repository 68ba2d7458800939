"""Placement: the position of a frame's pixels in the pixel grid of a product."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from threading import get_ident
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer

from floodmap.errors import SceneError
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.turns import x_period
from floodmap.geo.window import Window

Floats = NDArray[np.float64]

_EDGE_POINTS = 33
"""Number of points on each edge of a frame from which the outline in another CRS is found."""
_NODE_STEP = 64
"""Distance in product pixels of the points whose coordinates are transformed exactly; interpolated linearly between.

PROJ needs about a microsecond a point, several times as long as all the rest. Between points 64 pixels apart, a map
projection differs from a linear function by less than a hundredth of a pixel for pixels of up to 100 m."""
_ALIGNED = 0.01
"""Largest distance, in pixels, between pixel corners of a frame and of the product that counts as none."""
_NEARLY = 0.01
"""Tolerance of the number of frame pixels on the side of a product pixel: 1.99 counts as 2."""


def outline(grid: GeoGrid, crs: Any) -> Floats:
    """Return points on the edges of a grid, in another CRS.

    Args:
        grid: grid with a CRS.
        crs: CRS of the result.

    Returns:
        float64 (n, 2), x and y in units of `crs`.

    Raises:
        SceneError: the edges cannot be transformed to the CRS.
    """
    steps = np.linspace(0, 1, _EDGE_POINTS)
    ones = np.ones_like(steps)
    edges = [(steps, 0 * ones), (steps, ones), (0 * ones, steps), (ones, steps)]
    xy = grid.to_crs(np.concatenate([np.stack(edge, axis=1) for edge in edges]) * (grid.width, grid.height))
    if grid.crs != crs:
        xy = np.stack(_transformer(grid.crs, crs).transform(*xy.T), axis=1)
    if not np.isfinite(xy).all():
        raise SceneError(f"it cannot be transformed from {grid.crs} to the CRS of the product, {crs}")
    return xy


@dataclass(frozen=True)
class Placement:
    """Position of a frame's pixels in the pixel grid of a product."""

    frame: GeoGrid
    """Working grid of the frame."""
    product: GeoGrid
    """Grid of the product."""

    @cached_property
    def shift(self) -> tuple[int, int] | None:
        """Row and column of the product at the frame's upper left corner, if both have the same pixels.

        None: the frame has to be resampled.
        """
        if self.frame.crs != self.product.crs:
            return None
        corners = np.array([[0, 0], [self.frame.width, 0], [0, self.frame.height]], float)
        cols, rows = self.product.to_pixels(self.frame.to_crs(corners)).T
        expected = np.round([cols[0], rows[0]])
        moved = np.stack([cols, rows], axis=1) - corners - expected
        return (int(expected[1]), int(expected[0])) if np.abs(moved).max() <= _ALIGNED else None

    @cached_property
    def window(self) -> Window:
        """Smallest window of the product that contains the frame."""
        if self.shift is not None:
            return Window(*self.shift, *self.frame.shape_hw)
        cols, rows = self.product.to_pixels(outline(self.frame, self.product.crs)).T
        top, left = max(math.floor(rows.min()) - 1, 0), max(math.floor(cols.min()) - 1, 0)
        bottom, right = math.ceil(rows.max()) + 1, math.ceil(cols.max()) + 1
        bottom, right = min(bottom, self.product.height), min(right, self.product.width)
        return Window(top, left, max(bottom - top, 0), max(right - left, 0))

    @cached_property
    def _steps(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Steps in the frame, as (columns, rows), to the next product column and row, at the centre of the frame."""
        row, col = self.window.row_off + self.window.height // 2, self.window.col_off + self.window.width // 2
        x, y = self._exact(np.array([row, row + 1.0]), np.array([col, col + 1.0]))
        return (x[0, 1] - x[0, 0], y[0, 1] - y[0, 0]), (x[1, 0] - x[0, 0], y[1, 0] - y[0, 0])

    @cached_property
    def scale(self) -> float:
        """Number of frame pixels along the side of a product pixel, at the centre of the frame."""
        across, down = self._steps
        return math.sqrt(abs(across[0] * down[1] - across[1] * down[0]))

    def pixels_around(self, window: Window) -> float:
        """Return about how many frame pixels the rectangle of rows and columns around a product window has."""
        across, down = self._steps
        width, height = (abs(across[axis]) * window.width + abs(down[axis]) * window.height for axis in (0, 1))
        return width * height

    @property
    def factor(self) -> int:
        """Number of frame pixels along each side of the squares that are averaged before resampling; 1: no mean."""
        return max(1, math.floor(self.scale + _NEARLY))

    def within(self, rows: tuple[int, int]) -> Window | None:
        """Return the part of `window` in a range of product rows (first, end); None if it is empty."""
        top, bottom = max(self.window.row_off, rows[0]), min(self.window.row_end, rows[1])
        if top >= bottom or not self.window.width:
            return None
        return Window(top, self.window.col_off, bottom - top, self.window.width)

    @cached_property
    def _linear(self) -> Affine | None:
        """Transform from product pixels to frame pixels; None if the CRS differ, so that it is not linear."""
        return ~self.frame.transform @ self.product.transform if self.frame.crs == self.product.crs else None

    @cached_property
    def is_parallel(self) -> bool:
        """True if the rows and columns of the frame are parallel to those of the product."""
        linear = self._linear
        if linear is None:
            return False
        return max(abs(linear.b) * self.window.height, abs(linear.d) * self.window.width) <= _ALIGNED

    def axes_to_frame(self, window: Window) -> tuple[Floats, Floats]:
        """Return the positions of the centres of product columns and rows in the frame, if `is_parallel` is True.

        Args:
            window: window of the product.

        Returns:
            Columns, float64 (width,), and rows, float64 (height,), in frame pixels.
        """
        x, _ = self.to_frame(Window(window.row_off, window.col_off, 1, window.width))
        _, y = self.to_frame(Window(window.row_off, window.col_off, window.height, 1))
        return x[0], y[:, 0]

    def to_frame(self, window: Window) -> tuple[Floats, Floats]:
        """Return the positions of the centres of product pixels in the frame.

        Args:
            window: window of the product.

        Returns:
            Columns and rows in frame pixels, float64 (height, width) each; (0, 0) is the upper left corner of the
            frame. Infinite where the product's coordinates have no counterpart in the frame's CRS.
        """
        rows = np.arange(window.height, dtype=np.float64) + (window.row_off + 0.5)
        cols = np.arange(window.width, dtype=np.float64) + (window.col_off + 0.5)
        if self._linear is not None:
            return self._exact(rows, cols)
        node_rows, node_cols = _nodes(rows), _nodes(cols)
        x, y = self._exact(node_rows, node_cols)
        nodes, points = (node_rows, node_cols), (rows, cols)
        return _interpolated(x, nodes, points), _interpolated(y, nodes, points)

    def to_product(self, window: Window) -> Window:
        """Return the smallest window of the product that contains a window of the frame."""
        corner = Affine.translation(window.col_off, window.row_off)
        part = GeoGrid(self.frame.crs, self.frame.transform @ corner, (window.height, window.width))
        return Placement(part, self.product).window

    def _exact(self, rows: Floats, cols: Floats) -> tuple[Floats, Floats]:
        """Transform all combinations of `rows` and `cols`, pixels of the product, to pixels of the frame.

        Returns:
            Columns, then rows, float64 (number of rows, number of columns) each.
        """
        col, row = cols[None, :], rows[:, None]
        if self._linear is not None:
            a, b, c, d, e, f = self._linear[:6]
            return a * col + (b * row + c), d * col + (e * row + f)
        points = np.stack(np.broadcast_arrays(col, row), axis=-1).reshape(-1, 2)
        x, y = _transformer(self.product.crs, self.frame.crs).transform(*self.product.to_crs(points).T)
        pixels = self.frame.to_pixels(np.stack([self._turned(x), y], axis=1)).reshape(len(rows), len(cols), 2)
        return pixels[..., 0], pixels[..., 1]

    def _turned(self, x: Floats) -> Floats:
        """Shift x by whole turns around the Earth, so that it is nearest to the frame's centre."""
        period, (west, east) = x_period(self.frame.crs), self.frame.span_x
        return x if period is None else x - period * np.round((x - (west + east) / 2) / period)


def _transformer(source: Any, target: Any) -> Transformer:
    return _transformer_of_wkt(source.to_wkt(), target.to_wkt(), get_ident())


@lru_cache(maxsize=64)
def _transformer_of_wkt(source: str, target: str, thread: int) -> Transformer:
    # Each thread has its own, because pyproj's transformers are not safe to share between threads.
    return Transformer.from_crs(source, target, always_xy=True)


def _nodes(values: Floats) -> Floats:
    return np.linspace(values[0], values[-1], max(2, -(-len(values) // _NODE_STEP) + 1))


def _interpolated(values: Floats, nodes: tuple[Floats, Floats], points: tuple[Floats, Floats]) -> Floats:
    """Interpolate values on a lattice bilinearly.

    Args:
        values: float64 (m, n), values at the nodes.
        nodes: evenly spaced rows, float64 (m,), and columns, float64 (n,), of the nodes.
        points: rows, float64 (h,), and columns, float64 (w,), of the result.

    Returns:
        float64 (h, w).
    """
    for axis in (0, 1):
        first, fraction = _taps(nodes[axis], points[axis])
        low, high = np.take(values, first, axis=axis), np.take(values, first + 1, axis=axis)
        with np.errstate(invalid="ignore"):  # infinite values become NaN
            values = low + (high - low) * (fraction[:, None] if axis == 0 else fraction[None, :])
    return values


def _taps(nodes: Floats, points: Floats) -> tuple[NDArray[np.intp], Floats]:
    """Return the index of the node before each point, and the position of the point between two nodes, 0 to 1.

    Args:
        nodes: two or more, evenly spaced and ascending, or all equal; float64 (n,).
        points: between the first and the last node, float64 (m,).
    """
    step = (nodes[-1] - nodes[0]) / (len(nodes) - 1) or 1.0
    place = (points - nodes[0]) / step
    first = np.clip(np.floor(place).astype(np.intp), 0, len(nodes) - 2)
    return first, place - first
