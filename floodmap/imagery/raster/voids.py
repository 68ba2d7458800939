"""Values that stand for nothing though nobody declared them: -9999, -32768, -3.4e38, 1e20 and their like."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
LOG = logging.getLogger(__name__)

USUAL = (-999.0, -9999.0, -99999.0, -10000.0, -32767.0, -32768.0, -2147483648.0, 2147483647.0, 4294967295.0)
"""Numbers that programs write where there is no picture; besides these, all that are `HUGE`."""
HUGE = 1e10
"""No sensor counts so far."""
_MANY, _MANY_SHARE = 32, 2e-4
"""So many pixels of a sample, and such a share of it, hold exactly the same value where it is a void."""
_FAR, _FAR_IF_USUAL = 3.0, 0.2
"""A void lies this many times the width of all other values away from them; a usual one may lie nearer."""
_MOST = 4
"""Voids of one raster."""


def may_be_colour(value: float) -> bool:
    """Whether a nodata value may be a colour in one band where other bands hold something else: 0, 255, 65535."""
    return 0 <= value < HUGE


@dataclass(frozen=True, slots=True, kw_only=True)
class Voids:
    """What tells a raster's voids from its picture."""

    values: tuple[float, ...] = ()
    """Voids found in a sample, the most frequent first."""
    share: float = 0.0
    """Of the sample's pixels that hold one of them."""
    limits: tuple[float, float] = (-np.inf, np.inf)
    """Means below or above are those of a void and of ground."""
    limits_if_usual: tuple[float, float] = (-np.inf, np.inf)
    """Values below or above are voids if the sample held them, or if they are `USUAL`."""
    told: set[float] = field(default_factory=set, compare=False)
    """Voids that came up later, each told once."""

    def find(self, values: NDArray[Any], *, native: bool, name: object = "") -> Bools | None:
        """Pixels (height, width) that hold a void in any band; None where there are none.

        Args:
            values: (bands, height, width).
            native: the values are stored so; otherwise they are means, and one of a void and of ground is neither.
            name: the raster, for a message.
        """
        low, high = self.limits_if_usual if native else self.limits
        if values.dtype == np.uint8 or not values.size:
            return None
        with np.errstate(invalid="ignore"):
            outside = (values < low) | (values > high)
            outside &= np.isfinite(values)
        if not outside.any():
            return None
        saturated: Bools = np.zeros(values.shape[1:], bool)
        if native:
            strange = values[outside]
            known = np.isin(strange, np.array(self.values, values.dtype))
            late = _usual(strange) & ~known
            self._tell(strange[late], name)
            # What lies between a void and the picture was made of both when it was resampled.
            blended = (strange < low) & bool(self.values and min(self.values) < low)
            outside[outside] = known | late | blended
            bright = [value for value in self.values if may_be_colour(value)]
            if bright:  # a band may be saturated; all are not
                there = np.isin(values, np.array(bright, values.dtype))
                saturated, outside = np.asarray(there.all(axis=0)), outside & ~there
        return np.asarray(outside.any(axis=0) | saturated)

    def _tell(self, strange: NDArray[Any], name: object) -> None:
        new = set(np.unique(strange)[:_MOST].tolist()) - self.told
        if new:
            self.told.update(new)
            LOG.warning("%s", text_of(name, sorted(new), None))


def text_of(name: object, values: Sequence[float], share: float | None) -> str:
    """What is said of voids, and how to overrule it."""
    many = "pixels" if share is None else f"{100 * share:.2g} % of its pixels"
    return (
        f"{name}: {many} hold exactly {' or '.join(f'{value:.9g}' for value in values)}, far outside all other values; "
        "they are taken for unobserved (--nodata VALUE names another value, --nodata none says that all is ground)"
    )


def find_voids(sample: NDArray[Any], nodata: float | None = None) -> Voids:
    """Voids of a raster, by a sample of its pixels.

    Args:
        sample: (bands, n), of any real dtype, as stored.
        nodata: what is declared to stand for nothing.

    Returns:
        No values where nothing stands out; and limits beyond which even later values are voids, where they are `USUAL`.
    """
    if sample.dtype == np.uint8 or not sample.size:
        return Voids()
    flat = sample[np.isfinite(sample)].astype(np.float64)
    if nodata is not None:
        flat = flat[flat != float(np.asarray(nodata).astype(sample.dtype))]
    values = list(_standing_out(flat, sample.dtype))
    rest = flat[~np.isin(flat, values)]
    rest = rest[~_usual(rest)]
    told = set() if nodata is None else {float(np.asarray(nodata).astype(sample.dtype))}
    if not rest.size:
        return Voids()
    # Without what was made of voids and ground when they were resampled.
    low, high = (float(edge) for edge in np.percentile(rest, (5, 95)))
    width = max(high - low, 4 * float(np.spacing(abs(high))))
    lowest, highest = max(float(rest.min()), low - 2 * width), min(float(rest.max()), high + 2 * width)
    below, above = [value for value in values if value < lowest], [value for value in values if value > highest]
    middles = [(max(below) + lowest) / 2] if below else [], [(min(above) + highest) / 2] if above else []
    near, far = _FAR_IF_USUAL * width, max(2 * width, abs(lowest), 100.0)
    return Voids(
        values=tuple(values),
        share=float(np.isin(sample, np.array(values, sample.dtype)).any(axis=0).mean()) if values else 0.0,
        limits=(max([lowest - far, *middles[0]]), min([max(highest + far, HUGE / 100), *middles[1]])),
        limits_if_usual=(max([lowest - near, *middles[0]]), min([highest + near, *middles[1]])),
        told=told,
    )


def _standing_out(flat: NDArray[np.float64], dtype: np.dtype[Any]) -> Iterator[float]:
    """Values at either end that many pixels hold exactly, far from the next."""
    rest = flat
    for _ in range(_MOST):
        if not rest.size:
            return
        ends = {rest.min(), rest.max(), *(value for value in USUAL if (rest == value).sum() >= _MANY)}
        found = [end for end in ends if _is_void(float(end), rest, flat.size, dtype)]
        if not found:
            return
        yield from map(float, found)
        rest = rest[~np.isin(rest, found)]


def _is_void(value: float, rest: NDArray[np.float64], n: int, dtype: np.dtype[Any]) -> bool:
    others = rest[rest != value]
    if not others.size or rest.size - others.size < max(_MANY, _MANY_SHARE * n):
        return False
    gap = float(np.abs(others - value).min())
    usual = bool(_usual(np.array([value]))[0])
    if dtype.kind in "iu":
        usual |= value != 0 and value in (np.iinfo(dtype).min, np.iinfo(dtype).max)
    # One whole negative number where all others are positive is no reflectance.
    alone = value <= -1 and value == round(value) and float(others.min()) >= 0
    picture = others[~_usual(others)]
    width = _width(picture if picture.size else others)
    if usual and picture.size:  # resampled, it is followed by values that are neither
        low, high = np.percentile(picture, (5, 95))
        gap = max(gap, float(min(abs(value - low), abs(value - high))) if not low <= value <= high else 0.0)
        width = max(float(high - low), 4 * float(np.spacing(abs(high))))
    return alone or gap >= width * (_FAR_IF_USUAL if usual else _FAR)


def _width(values: NDArray[np.float64]) -> float:
    """How far values of a picture lie apart, but for a few."""
    low, high = (float(edge) for edge in np.percentile(values, (0.5, 99.5)))
    return max(high - low, 4 * float(np.spacing(abs(high))))


def _usual(values: NDArray[Any]) -> Bools:
    return np.asarray(np.isin(values, USUAL) | (np.abs(values.astype(np.float64)) >= HUGE))
