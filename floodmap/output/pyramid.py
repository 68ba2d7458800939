"""Overview pixels of masks, probability rasters and rasters of classes, computed from full-resolution codes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from floodmap.strips.codes import FIRST_REASON, FLOOD, PERMANENT, PERMANENT_CODE, UNOBSERVED

Codes = NDArray[np.uint8]


def shrunk(length: int, level: int) -> int:
    """Return the length in pixels of a side at an overview level; `length` is the length at full resolution."""
    return -(-length // (1 << level))


def pyramid(codes: Codes, threshold: int, levels: int) -> Iterator[tuple[Codes, Codes]]:
    """Yield mask and probability of a block of codes at every level: full resolution first, then the overviews.

    Args:
        codes: uint8 (rows, columns). The block begins at a row and a column that are multiples of 2**levels.
        threshold: in per cent; codes from the threshold to 100 are flood.
        levels: number of overviews.

    Yields:
        For each level, mask (0 dry, 1 flood, 255 unobserved) and probability (per cent, 255 unobserved). Both are uint8
        and have the shape of the block at this level.
    """
    hidden = codes > 100
    flood = codes >= threshold
    height, width = codes.shape
    if hidden.any() and (permanent := (codes > PERMANENT_CODE) & (codes < FIRST_REASON)).any():
        water = pyramid(np.where(permanent, codes - np.uint8(PERMANENT_CODE), codes), threshold, levels)
        yield from _with_permanent(water, permanent, flood & ~hidden)
        return
    if not hidden.any():
        yield flood.view(np.uint8), codes
        sums: list[NDArray[Any]] = [flood.view(np.uint8), codes]
    else:
        flood &= ~hidden
        yield _covered(flood.view(np.uint8), hidden), _covered(codes, hidden)
        sums = [flood.view(np.uint8), codes * ~hidden, hidden.view(np.uint8)]
    for level in range(1, levels + 1):
        # Counts are at most 4 at level 1. Sums of percentages are at most 100 * 4**4 < 2**16 at level 4, and at most
        # 100 * 4**12 < 2**32 at level 12.
        wide: Any = np.uint16 if level <= 4 else np.uint32
        narrow: Any = np.uint8 if level == 1 else wide
        sums = [_halved(values, dtype) for values, dtype in zip(sums, (narrow, wide, narrow), strict=False)]
        n_flood, total, *others = sums
        if not (others or height % (1 << level) or width % (1 << level)):  # all pixels cover equally many pixels
            half = 1 << 2 * level - 1
            yield (n_flood >= half).view(np.uint8), ((total + wide(half)) >> 2 * level).astype(np.uint8)
            continue
        n_observed = np.multiply.outer(_footprint(height, level), _footprint(width, level))
        if others:
            n_observed = n_observed - others[0]
        n_dry = n_observed - n_flood
        mask = (n_flood >= n_dry).view(np.uint8)
        mean = ((total + n_observed // 2) // np.maximum(n_observed, 1)).astype(np.uint8)
        if others:
            n_hidden = others[0]
            hidden = (n_hidden > 0) & (n_hidden >= n_flood) & (n_hidden >= n_dry)
            mask, mean = _covered(mask, hidden), _covered(mean, hidden)
        yield mask, mean


def class_pyramid(codes: Codes, classes: Sequence[int], levels: int) -> Iterator[tuple[Codes]]:
    """Yield the classes of a block at every level: full resolution first, then the overviews.

    An overview pixel has the most frequent class of the pixels beneath. On a tie, unobserved precedes all classes, and
    the classes precede each other in the order of `classes`.

    Args:
        codes: uint8 (rows, columns): a class, or a code from `FIRST_REASON` on, which is unobserved. The block begins
            at a row and a column that are multiples of 2**levels.
        classes: all classes, below `FIRST_REASON`.
        levels: number of overviews.

    Yields:
        For each level, a tuple with one array: classes and `UNOBSERVED`, uint8 in the shape of the block at this level.
    """
    hidden = codes >= FIRST_REASON
    yield (_covered(codes, hidden),)
    if not levels:
        return
    parts = [(UNOBSERVED, hidden), *((value, codes == value) for value in classes)]
    counts: dict[int, NDArray[Any]] = {value: part.view(np.uint8) for value, part in parts if part.any()}
    for level in range(1, levels + 1):
        dtype: Any = np.uint8 if level == 1 else np.uint16 if level <= 7 else np.uint32  # counts are at most 4**level
        counts = {value: _halved(count, dtype) for value, count in counts.items()}
        best, most = np.zeros((2, shrunk(codes.shape[0], level), shrunk(codes.shape[1], level)), dtype)
        for value, count in counts.items():
            more = count > most
            best[more], most[more] = value, count[more]
        yield (best.astype(np.uint8),)


def _with_permanent(
    levels: Iterable[tuple[Codes, Codes]], permanent: NDArray[np.bool_], flood: NDArray[np.bool_]
) -> Iterator[tuple[Codes, Codes]]:
    """Yield masks in which the water is flood or permanent, whichever is more frequent, and probabilities unchanged.

    Args:
        levels: masks of all water and probabilities, from the full resolution on; see `_pyramid`.
        permanent: pixels of permanent water at full resolution.
        flood: pixels of flood at full resolution.
    """
    counts: list[NDArray[Any]] = [permanent.view(np.uint8), flood.view(np.uint8)]
    for level, (mask, mean) in enumerate(levels):
        if level:
            counts = [_halved(count, np.uint8 if level == 1 else np.uint32) for count in counts]
        yield np.where((mask == FLOOD) & (counts[0] > counts[1]), np.uint8(PERMANENT), mask), mean


def _covered(values: Codes, hidden: NDArray[np.bool_]) -> Codes:
    """Return a copy of `values`, uint8, with 255 at the unobserved pixels.

    `hidden`, bool in the shape of `values`, is True at pixels that are unobserved for any reason, not only at
    transparent pixels. The result is computed by a bitwise OR with 255, which is several times faster than `np.where`.
    """
    return values | -hidden.view(np.uint8)


def _halved(values: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Return the sums over blocks of 2 x 2 pixels. At the end of an odd number of rows or columns, blocks are smaller.

    Args:
        values: (rows, columns), unsigned. In uint8 they are at most 127, because sums of two are computed in uint8.
        dtype: type of the sums.

    Returns:
        Sums, ((rows + 1) // 2, (columns + 1) // 2).
    """
    if values.dtype != np.uint8:
        rows = values[0::2].astype(dtype)
        rows[: len(values) // 2] += values[1::2]
        sums = rows[:, 0::2].copy()
        sums[:, : values.shape[1] // 2] += rows[:, 1::2]
        return sums
    rows = np.zeros((-(-len(values) // 2), values.shape[1] + values.shape[1] % 2), np.uint8)
    rows[:, : values.shape[1]] = values[0::2]
    rows[: len(values) // 2, : values.shape[1]] += values[1::2]
    pairs = rows.view(np.uint16)  # several times faster than strided access to bytes
    return np.asarray(((pairs & 255) + (pairs >> 8)).astype(dtype))


def _footprint(length: int, level: int) -> NDArray[Any]:
    """Return, along one axis, the number of full-resolution pixels that each overview pixel covers.

    Args:
        length: number of full-resolution pixels.
        level: overview level, from 0 (full resolution).
    """
    edges = np.minimum(np.arange(shrunk(length, level) + 1) << level, length)
    return np.asarray(np.diff(edges), np.uint16 if level < 8 else np.uint32)
