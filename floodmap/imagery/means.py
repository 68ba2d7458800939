"""Means of pixels, for pictures that are read smaller than they are: of areas of any size, and of blocks of bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Samples:
    """Pixels along one side, and which of a row of smaller ones each of them stands for."""

    middles: NDArray[np.int64]
    """The pixel in the middle of each."""
    weights: Any
    """(pixels, smaller ones), sparse: how much of each lies in it."""

    @classmethod
    def of(cls, first: float, length: float, size: int, count: int) -> Samples:
        """`count` pixels over a stretch of `length` of the `size` smaller ones, which begins at `first`."""
        edges = first + np.arange(count + 1) * (length / count)
        middles = np.clip(((edges[:-1] + edges[1:]) / 2).astype(np.int64), 0, size - 1)
        low, high = np.floor(edges[:-1]).astype(int), np.ceil(edges[1:] - 1e-9).astype(int)
        spans = [np.arange(max(0, a), max(min(b, size), a + 1)) for a, b in zip(low, high, strict=True)]
        cols = np.concatenate(spans)
        rows = np.repeat(np.arange(count), [len(span) for span in spans])
        shares = np.minimum(cols + 1, edges[rows + 1]) - np.maximum(cols, edges[rows])
        return cls(middles, csr_array((np.maximum(shares, 1e-9), (rows, cols)), shape=(count, size)))


def area_means(values: NDArray[Any], empty: Bools | None, rows: Samples, cols: Samples) -> NDArray[Any]:
    """Means over areas of what is not empty; anything where all of it is."""
    weight = np.ones(values.shape[1:]) if empty is None else (~empty).astype(np.float64)
    total = (cols.weights @ (rows.weights @ weight).T).T
    means = np.empty((len(values), *total.shape), np.float64)
    for band, out in zip(values, means, strict=True):
        known = np.where(weight > 0, band, 0.0)
        out[...] = (cols.weights @ (rows.weights @ known).T).T / np.maximum(total, 1e-12)
    if values.dtype.kind in "iu":
        np.rint(means, out=means)
    elif empty is not None:
        means[:, total <= 0] = np.nan
    return means.astype(values.dtype)


def block_means(values: Bytes, factor: int, n_empty: NDArray[Any] | None, nodata: float) -> NDArray[Any]:
    """Rounded means of blocks, 2 or 4 a side, of what is not nodata in them: all of it, or all but `n_empty` pixels."""
    sums, shift = block_sums(values, factor), 2 * (factor.bit_length() - 1)
    if n_empty is None:
        return np.asarray((sums + (1 << shift - 1)) >> shift)
    counts = np.maximum((1 << shift) - n_empty, 1)
    return np.asarray((sums - n_empty * sums.dtype.type(nodata) + counts // 2) // counts)


def block_sums(values: Bytes, factor: int) -> NDArray[Any]:
    """Sums of blocks, 2 or 4 a side."""
    rows = values[:, 0::factor].astype(np.uint16)
    for row in range(1, factor):
        rows += values[:, row::factor]
    pairs = rows.view(np.uint32)  # several times faster than every second number
    sums = (pairs & 0xFFFF) + (pairs >> 16)
    if factor == 2:
        return np.asarray(sums)
    fours = sums.view(np.uint64)
    return np.asarray((fours & 0xFFFFFFFF) + (fours >> 32))
