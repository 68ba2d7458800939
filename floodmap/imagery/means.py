"""Downsampling by averaging: over areas of any size, and over whole blocks of 8-bit pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]

_MANY_ROWS = 8
"""Source rows per target row from which on adding row by row is faster than a product with a sparse matrix."""


@dataclass(frozen=True, slots=True)
class AxisWeights:
    """Weights for averaging source pixels to target pixels along one axis: the lengths by which the pixels overlap."""

    middles: NDArray[np.int64]
    """int64 (target pixels,): index of the source pixel at the centre of each target pixel."""
    weights: Any
    """Sparse float32 (target pixels, source pixels): overlap of a target and a source pixel, in source pixels."""

    @classmethod
    @lru_cache(maxsize=8)  # the pieces of a window have the same columns
    def of(cls, first: float, length: float, size: int, count: int) -> AxisWeights:
        """Compute the weights for an interval of source pixels that is divided into equal target pixels.

        Args:
            first: start of the interval, in source pixels; may be a fraction.
            length: length of the interval, in source pixels; may be a fraction.
            size: number of source pixels along the axis.
            count: number of target pixels.
        """
        edges = first + np.arange(count + 1) * (length / count)
        middles = np.clip(((edges[:-1] + edges[1:]) / 2).astype(np.int64), 0, size - 1)
        low, high = np.floor(edges[:-1]).astype(int), np.ceil(edges[1:] - 1e-9).astype(int)
        starts, stops = np.maximum(low, 0), np.maximum(np.minimum(high, size), low + 1)
        rows = np.repeat(np.arange(count), stops - starts)
        ends = np.cumsum(stops - starts)
        cols = np.arange(ends[-1]) + (stops - ends)[rows]
        shares = np.minimum(cols + 1, edges[rows + 1]) - np.maximum(cols, edges[rows])
        weights = np.maximum(shares, 1e-9).astype(np.float32)
        return cls(middles, csr_array((weights, (rows, cols)), shape=(count, size)))

    def sums(self, values: NDArray[Any], exact: np.dtype[Any]) -> NDArray[Any]:
        """Return the weighted sums of rows: (bands, target pixels, width), computed in the floating dtype `exact`.

        `values` has the shape (bands, source pixels, width).
        """
        count, size = self.weights.shape
        if size < _MANY_ROWS * count:
            return np.stack([self.weights @ band.astype(exact) for band in values])
        sums = np.empty((len(values), count, values.shape[2]), exact)
        for row, (begin, end) in enumerate(pairwise(self.weights.indptr.tolist())):
            first, last = self.weights.indices[begin], self.weights.indices[end - 1]
            np.add.reduce(values[:, first + 1 : last], axis=1, dtype=exact, out=sums[:, row])
            sums[:, row] += values[:, first] * self.weights.data[begin]  # only the outer rows have fractions
            if last > first:
                sums[:, row] += values[:, last] * self.weights.data[end - 1]
        return sums


def area_means(
    values: NDArray[Any], empty: Bools | None, rows: AxisWeights, cols: AxisWeights, *, fill: float | None = None
) -> NDArray[Any]:
    """Downsample bands: each target pixel is the mean of the source pixels in the target pixel, weighted by area.

    Empty source pixels are left out of the means.

    Args:
        values: source pixels (bands, height, width), of any real dtype.
        empty: bool (height, width), True at source pixels without a value; None: all source pixels have a value.
        rows: weights from source rows to target rows.
        cols: weights from source columns to target columns.
        fill: value of target pixels in which all source pixels are empty; None: NaN for floats, undefined for integers.

    Returns:
        (bands, target rows, target columns), of the dtype of `values`.
    """
    exact = np.dtype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
    if empty is None or not empty.any():
        empty, known, total = None, values, np.outer(rows.weights.sum(axis=1), cols.weights.sum(axis=1))
    else:
        known = np.where(empty, values.dtype.type(0), values)
        total = (cols.weights @ rows.sums(~empty[None], exact)[0].T).T
    means = np.stack([(cols.weights @ sums.T).T / np.maximum(total, 1e-12) for sums in rows.sums(known, exact)])
    if values.dtype.kind in "iu":
        means = np.floor(means + exact.type(0.5))  # as GDAL rounds
        fill = 0 if fill is None else fill
    if empty is not None:
        means[:, total <= 0] = np.nan if fill is None else fill
    return means.astype(values.dtype)


def block_means(values: Bytes, factor: int, n_empty: NDArray[Any] | None, nodata: float) -> NDArray[Any]:
    """Average blocks of `factor` x `factor` pixels. Nodata pixels are left out of the means.

    Args:
        values: uint8 (bands, height, width); height and width are multiples of `factor`. Nodata
            pixels have the value `nodata` in all bands.
        factor: side of a block in pixels, 2 or 4.
        n_empty: (1, rows of blocks, columns of blocks), number of nodata pixels in each block; None: no nodata pixels.
        nodata: value of nodata pixels.

    Returns:
        Rounded means (bands, rows of blocks, columns of blocks), 0 to 255, uint32 for a factor of 2, uint64 for a
        factor of 4. A block in which all pixels are nodata has the value 0.
    """
    sums, shift = block_sums(values, factor), 2 * (factor.bit_length() - 1)
    if n_empty is None:
        return np.asarray((sums + (1 << shift - 1)) >> shift)
    counts = np.maximum((1 << shift) - n_empty, 1)
    return np.asarray((sums - n_empty * sums.dtype.type(nodata) + counts // 2) // counts)


def known_block_means(
    values: Bytes, factor: int, empty: Bools | None, nodata: float, *, fill: float = 0
) -> tuple[NDArray[Any], Bools | Literal[True]]:
    """Average blocks of `factor` x `factor` pixels. Empty pixels are left out of the means.

    Args:
        values: uint8 (bands, height, width); height and width are multiples of `factor`. The function changes the
            array: it writes `nodata` into the empty pixels of all bands.
        factor: side of a block in pixels, 2 or 4.
        empty: bool (height, width), True at empty pixels; None: there are none.
        nodata: value that is written into empty pixels.
        fill: value of blocks in which all pixels are empty.

    Returns:
        Two values. The first is the array of rounded means (bands, rows of blocks, columns of blocks), 0 to 255. The
        second is an array of flags, bool (rows of blocks, columns of blocks), True at blocks without empty pixels; or
        the single value True, if no block has an empty pixel.
    """
    if empty is None or not empty.any():
        return block_means(values, factor, None, nodata), True
    n_empty = block_sums(empty[None].view(np.uint8), factor)
    values[:, empty] = nodata
    means = block_means(values, factor, n_empty, nodata)
    return np.where(n_empty == factor * factor, fill, means), n_empty[0] == 0


def block_sums(values: Bytes, factor: int) -> NDArray[Any]:
    """Sum the pixels in blocks of `factor` x `factor` pixels.

    Args:
        values: uint8 (bands, height, width); height and width are multiples of `factor`.
        factor: side of a block in pixels, 2 or 4.

    Returns:
        Sums (bands, rows of blocks, columns of blocks), uint32 for a factor of 2, uint64 for a factor of 4.
    """
    rows = values[:, 0::factor].astype(np.uint16)
    for row in range(1, factor):
        rows += values[:, row::factor]
    pairs = rows.view(np.uint32)  # several times faster than slices with a step of 2
    sums = (pairs & 0xFFFF) + (pairs >> 16)
    if factor == 2:
        return np.asarray(sums)
    fours = sums.view(np.uint64)
    return np.asarray((fours & 0xFFFFFFFF) + (fours >> 32))
