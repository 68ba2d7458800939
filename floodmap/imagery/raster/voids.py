"""Voids: nodata values that a file does not declare, such as -9999, -32768, -3.4e38 and 1e20.

Voids are searched in stored values of all bands that are used, in 8 x 8 squares of 128 x 128 pixels, evenly spaced over
the raster (see `values.sample_of`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
LOG = logging.getLogger(__name__)

COMMON_VOIDS = (-999.0, -9999.0, -99999.0, -10000.0, -32767.0, -32768.0, -2147483648.0, 2147483647.0, 4294967295.0)
"""Values that programs commonly write as nodata. Absolute values of `HUGE` or more are treated in the same way."""
HUGE = 1e10
"""Absolute value that no value of a sensor reaches."""
_MANY, _MANY_SHARE = 32, 2e-4
"""Least frequency of a void in the values that are searched: all bands in some squares of the raster.

A value can be a void only if it occurs at least `_MANY` times among the searched values, and if it also makes up at
least the share `_MANY_SHARE` (0 to 1) of the searched values."""
_FAR, _FAR_IF_COMMON = 3.0, 0.2
"""Least distance of a void from all other values, as a multiple of the range of the other values.

`_FAR_IF_COMMON` is for values in `COMMON_VOIDS`, for absolute values of `HUGE` or more, and for the smallest and
largest value of an integer dtype. `_FAR` is for all other values."""
_MAX_VOIDS = 4
"""Largest number of rounds in the search for voids of a raster. Also the largest number of voids in one warning."""


def may_be_colour(value: float) -> bool:
    """Return whether a nodata value may also be a colour value of one band, as 0, 255 and 65535 may, but not -9999."""
    return 0 <= value < HUGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Voids:
    """Voids of a raster, and limits between voids and the values of the picture."""

    values: tuple[float, ...] = ()
    """Voids that `find_voids` found in the squares of the raster that `values.sample_of` reads."""
    share: float = 0.0
    """Share of the pixels of these squares that hold a void in any band, 0 to 1."""
    limits: tuple[float, float] = (-np.inf, np.inf)
    """Low and high limit for resampled values. A resampled value outside the limits is treated as a void, because it is
    a void, or a mixture of a void and of valid values."""
    limits_if_common: tuple[float, float] = (-np.inf, np.inf)
    """Low and high limit for stored values. A stored value outside the limits is a void in three cases:

    - it is one of `values`;
    - it is one of `COMMON_VOIDS`, or its absolute value is `HUGE` or more;
    - it is below the low limit, and at least one of `values` is below the low limit. The value is then a mixture of a
      void and of valid values, made by resampling before the file was written.

    For voids that may be a colour, such as 255, see `find`."""
    reported: set[float] = field(default_factory=set, compare=False)
    """Values that get no further warning: the declared nodata value, and voids that were already logged."""

    def find(self, values: NDArray[Any], *, native: bool, name: object = "") -> Bools | None:
        """Find pixels that hold a void in any band; a void that may be a colour, such as 255, must be in all bands.

        Args:
            values: (bands, height, width), of any real dtype.
            native: True: the values are as stored. False: the values are resampled, so that some values may be mixtures
                of a void and of valid values.
            name: name of the raster, for a warning.

        Returns:
            bool (height, width): True at voids; None if there are no voids.
        """
        low, high = self.limits_if_common if native else self.limits
        if values.dtype == np.uint8 or not values.size:
            return None
        if values.min() >= low and values.max() <= high:
            return None
        with np.errstate(invalid="ignore"):
            outside = (values < low) | (values > high)
            outside &= np.isfinite(values)
        if not outside.any():
            return None
        saturated: Bools = np.zeros(values.shape[1:], bool)
        if native:
            outliers = values[outside]
            known = np.isin(outliers, np.array(self.values, values.dtype))
            late = _is_common(outliers) & ~known
            self._report(outliers[late], name)
            # Values between a void and the picture come from resampling across the edge of the void.
            blended = (outliers < low) & bool(self.values and min(self.values) < low)
            outside[outside] = known | late | blended
            bright = [value for value in self.values if may_be_colour(value)]
            if bright:  # an observed pixel may be saturated in one band, but hardly in all bands
                there = np.isin(values, np.array(bright, values.dtype))
                saturated, outside = np.asarray(there.all(axis=0)), outside & ~there
        return np.asarray(outside.any(axis=0) | saturated)

    def _report(self, outliers: NDArray[Any], name: object) -> None:
        new = set(np.unique(outliers)[:_MAX_VOIDS].tolist()) - self.reported
        if new:
            self.reported.update(new)
            LOG.warning("%s", voids_text(name, sorted(new), None))


def voids_text(name: object, values: Sequence[float], share: float | None) -> str:
    """Return the message that values are treated as voids.

    The message also names the option `--nodata`. With `--nodata VALUE`, the user gives another nodata value. With
    `--nodata none`, the user says that every pixel is valid.

    Args:
        name: name of the raster.
        values: the voids.
        share: share of pixels that hold a void, 0 to 1; None: not known.
    """
    many = "pixels" if share is None else f"{100 * share:.2g} % of its pixels"
    return (
        f"{name}: {many} hold exactly {' or '.join(f'{value:.9g}' for value in values)}, far outside all other values; "
        "they are treated as unobserved (--nodata VALUE: another value; --nodata none: every pixel is ground)"
    )


def find_voids(sample: NDArray[Any], nodata: float | None = None) -> Voids:
    """Find the voids among stored values of a raster. The caller has read them with `values.sample_of`.

    Args:
        sample: values of the pixels in some squares of the raster, (bands, pixels), of any real dtype, as stored.
        nodata: the declared nodata value; None: no nodata value is declared.

    Returns:
        The voids in `sample`, perhaps none, and the limits between voids and valid values. With the limits,
        `Voids.find` also recognizes values in `COMMON_VOIDS` that are not in `sample`, but in windows that are read
        later.
    """
    if sample.dtype == np.uint8 or not sample.size:
        return Voids()
    flat = sample[np.isfinite(sample)].astype(np.float64)
    if nodata is not None:
        flat = flat[flat != float(np.asarray(nodata).astype(sample.dtype))]
    values = list(_find_values(flat, sample.dtype))
    rest = flat[~np.isin(flat, values)]
    rest = rest[~_is_common(rest)]
    reported = set() if nodata is None else {float(np.asarray(nodata).astype(sample.dtype))}
    if not rest.size:
        return Voids()
    # Percentiles leave out values that come from resampling across the edge of a void.
    low, high = (float(edge) for edge in np.percentile(rest, (5, 95)))
    width = max(high - low, 4 * float(np.spacing(abs(high))))
    lowest, highest = max(float(rest.min()), low - 2 * width), min(float(rest.max()), high + 2 * width)
    below, above = [value for value in values if value < lowest], [value for value in values if value > highest]
    middles = [(max(below) + lowest) / 2] if below else [], [(min(above) + highest) / 2] if above else []
    near, far = _FAR_IF_COMMON * width, max(2 * width, abs(lowest), 100.0)
    return Voids(
        values=tuple(values),
        share=float(np.isin(sample, np.array(values, sample.dtype)).any(axis=0).mean()) if values else 0.0,
        limits=(max([lowest - far, *middles[0]]), min([max(highest + far, HUGE / 100), *middles[1]])),
        limits_if_common=(max([lowest - near, *middles[0]]), min([highest + near, *middles[1]])),
        reported=reported,
    )


def _find_values(flat: NDArray[np.float64], dtype: np.dtype[Any]) -> Iterator[float]:
    """Yield the voids among some values of a raster.

    The minimum, the maximum and values in `COMMON_VOIDS` are tested, see `_is_void`. Voids that are found are removed
    from the values, and the test is repeated, up to `_MAX_VOIDS` times in all.

    Args:
        flat: finite values of all bands without the declared nodata value, float64 (n,).
        dtype: dtype of the raster.
    """
    rest = flat
    for _ in range(_MAX_VOIDS):
        if not rest.size:
            return
        ends = {rest.min(), rest.max(), *(value for value in COMMON_VOIDS if (rest == value).sum() >= _MANY)}
        found = [end for end in ends if _is_void(float(end), rest, flat.size, dtype)]
        if not found:
            return
        yield from map(float, found)
        rest = rest[~np.isin(rest, found)]


def _is_void(value: float, rest: NDArray[np.float64], n: int, dtype: np.dtype[Any]) -> bool:
    """Return whether a value is a void: frequent (see `_MANY`), and far from all other values (see `_FAR`).

    A frequent negative integer is also a void if no other value is negative.

    Args:
        value: the value, which occurs in `rest`.
        rest: the values that are searched, without voids that are already found, float64 (m,).
        n: number of the values that are searched, with the voids that are already found.
        dtype: dtype of the raster.
    """
    others = rest[rest != value]
    if not others.size or rest.size - others.size < max(_MANY, _MANY_SHARE * n):
        return False
    gap = float(np.abs(others - value).min())
    common = bool(_is_common(np.array([value]))[0])
    if dtype.kind in "iu":
        common |= value != 0 and value in (np.iinfo(dtype).min, np.iinfo(dtype).max)
    # A single negative integer among values from 0 up is not a reflectance.
    alone = value <= -1 and value == round(value) and float(others.min()) >= 0
    picture = others[~_is_common(others)]
    width = _width(picture if picture.size else others)
    if common and picture.size:  # after resampling, intermediate values lie next to a void
        low, high = np.percentile(picture, (5, 95))
        gap = max(gap, float(min(abs(value - low), abs(value - high))) if not low <= value <= high else 0.0)
        width = max(float(high - low), 4 * float(np.spacing(abs(high))))
    return alone or gap >= width * (_FAR_IF_COMMON if common else _FAR)


def _width(values: NDArray[np.float64]) -> float:
    """Return the 99.5th percentile of values minus the 0.5th; a tiny number above 0 if both are equal."""
    low, high = (float(edge) for edge in np.percentile(values, (0.5, 99.5)))
    return max(high - low, 4 * float(np.spacing(abs(high))))


def _is_common(values: NDArray[Any]) -> Bools:
    """Return bool in the shape of `values`: True for `COMMON_VOIDS` and for absolute values of `HUGE` or more."""
    return np.asarray(np.isin(values, COMMON_VOIDS) | (np.abs(values.astype(np.float64)) >= HUGE))
