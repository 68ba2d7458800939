"""Linear stretch of stored values to 0 to 255.

The whole scene has one stretch, so that a bright roof in one window does not change the colours of other windows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (1.0, 99.0)
"""Percentiles of the observed values of a band that are mapped to 0 (first) and to 255 (second)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Linear stretch: for each band, the value that is mapped to 0 and the value that is mapped to 255."""

    low: tuple[float, ...]
    """Stored value that is mapped to 0, for each band."""
    high: tuple[float, ...]
    """Stored value that is mapped to 255, for each band; larger than `low`."""

    @classmethod
    def identity(cls, count: int) -> Stretch:
        """Return the stretch that leaves the 8-bit values of `count` bands unchanged."""
        return cls(low=(0.0,) * count, high=(255.0,) * count)

    @classmethod
    def of(cls, samples: NDArray[Any]) -> Stretch:
        """Compute a stretch from some pixels of a scene: the `PERCENTILES` of each band are mapped to 0 and to 255.

        If both percentiles of a band are equal, the minimum and the maximum are used. A constant band becomes mid-grey.

        Args:
            samples: (bands, pixels), finite stored values of observed pixels. If there are no pixels, the stretch maps
                0 to 0 and 1 to 255.
        """
        if samples.shape[1] == 0:
            return cls(low=(0.0,) * len(samples), high=(1.0,) * len(samples))
        bounds = [_bounds(band) for band in samples]
        return cls(low=tuple(low for low, _ in bounds), high=tuple(high for _, high in bounds))

    def apply(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Apply the stretch to stored values. Values below `low` become 0, values above `high` 255, and NaN 0.

        Args:
            values: (bands, height, width), of any real dtype.

        Returns:
            uint8 (bands, height, width); `values` itself if `values` is uint8 and the stretch is the identity.
        """
        if values.dtype == np.uint8 and self == Stretch.identity(len(values)):
            return values
        shown = np.empty(values.shape, np.uint8)
        for band, low, high, out in zip(values, self.low, self.high, shown, strict=True):
            if band.dtype.itemsize <= 2 and band.dtype.kind in "iu":
                unsigned = band.view(f"u{band.dtype.itemsize}")
                np.take(_table(low, high, band.dtype.str), unsigned, out=out, mode="clip")  # "raise" would buffer
            else:
                out[...] = _scale(band, low, high)
        return shown


def _bounds(band: NDArray[Any]) -> tuple[float, float]:
    low, high = (float(value) for value in np.percentile(band.astype(np.float64), PERCENTILES))
    if not high > low:
        low, high = float(band.min()), float(band.max())
    # Half a unit; for large floats, a few steps between neighbouring numbers.
    half = max(0.5, 4 * float(np.spacing(abs(low))))
    return (low, high) if high > low else (low - half, low + half)


def _scale(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    # float32 holds 16-bit values exactly. Wider values need float64, because in float32 large neighbours become equal.
    # Values are halved first, so that the difference of floats near the largest float stays finite.
    kind = np.dtype(np.float32 if values.dtype == np.float32 and abs(low) + abs(high) < 1e30 else np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = values.astype(kind) * kind.type(0.5)
        scaled -= kind.type(low * 0.5)
        scaled *= kind.type(255.0 / (high * 0.5 - low * 0.5))
        return np.asarray(np.nan_to_num(np.clip(np.rint(scaled), 0, 255), nan=0.0), dtype=np.uint8)


@lru_cache(maxsize=16)
def _table(low: float, high: float, dtype: str) -> NDArray[np.uint8]:
    """Return a lookup table for one band: every value of an integer dtype, stretched to 0 to 255.

    Args:
        low: stored value that is mapped to 0.
        high: stored value that is mapped to 255.
        dtype: name of an integer dtype of 1 or 2 bytes in the byte order of the machine, such as "<i2".

    Returns:
        uint8 (256,) or (65536,). The index is the bits of a stored value, interpreted as an unsigned integer. For
        example, for "<i2" the result for the value -1 is at index 65535.
    """
    kind = np.dtype(dtype)
    patterns = np.arange(2 ** (8 * kind.itemsize), dtype=f"u{kind.itemsize}")
    return _scale(patterns.view(kind.newbyteorder("=")), low, high)
