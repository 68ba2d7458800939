"""Rules that convert the values of a mask into flooded, dry and unobserved pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from floodmap.errors import EvaluationError
from floodmap.geo.window import Window
from floodmap.options import check_threshold
from floodmap.strips.codes import UNOBSERVED

Codes = NDArray[np.uint8]
Reader = Callable[[Window], Codes]
"""Function that reads the class of each pixel of a window: uint8 (height, width), 0 dry, 1 flood, 255 unobserved."""


Ignore = float | str | Iterable[float | str] | None
"""Option of a user: values of unobserved pixels, such as -1 or "0,9". `FloodRule.parse` explains the format."""

ROUNDING = 1e-3
"""Tolerance for rounding: float probabilities may be lower than 0, or higher than 1, by up to this difference."""
_FILLS = (9999, 32767, 65535, 99999, 999999)
"""Common fill values (nodata values that files do not declare), besides values below 0."""
_NO_CLASS = 1e6
"""Limit of class numbers: in float rasters, values from this limit on are fill values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FloodRule:
    """Definition of flooded and unobserved pixels in the masks of one side (all predictions, or all references).

    Pixels that are neither flooded nor unobserved are dry.
    """

    values: tuple[float, ...] = ()
    """Values of flooded pixels in rasters of classes.

    If there are no values, no threshold and no attribute, `meanings.settle` infers values or a threshold.
    """
    threshold: float | None = None
    """Probability from which a pixel is flooded, 0 to 1; None: the rasters contain classes, not probabilities."""
    in_percent: bool = False
    """True: float rasters whose metadata do not tell the unit are in per cent.

    `meanings.settle` sets this field if at least one such raster of the same side has values above 1.
    """
    attribute: str = ""
    """Name of the attribute that selects flood polygons; empty: every polygon is flood."""
    matches: tuple[str, ...] = ()
    """Values of `attribute` in flood polygons."""
    ignored: tuple[float, ...] = ()
    """Values of unobserved pixels, besides the nodata value of the raster."""
    careful: bool = True
    """True: pixels with a common fill value (see `hides`) are unobserved, too, unless `values` lists the fill value."""

    def __post_init__(self) -> None:
        if both := set(self.values) & set(self.ignored):
            raise EvaluationError(f"{both.pop():g} is both a flood value and an ignored value: remove one")

    @classmethod
    def parse(
        cls, flood: float | str | Iterable[float] | None, threshold: float | None = None, ignore: Ignore = None
    ) -> FloodRule:
        """Parse the options of a user.

        Args:
            flood: for rasters, values of flooded pixels, such as 1, (1, 255) or "1,255". For polygons, an attribute and
                values of the attribute, such as "class=water,river". None: not given.
            threshold: probability from which a pixel is flooded, 0.01 to 1. None: not given.
            ignore: values of unobserved pixels, such as -1, (0, 9), "0,9" or ("0,9", "-1"). None: not given. Pixels
                with the nodata value of the raster are always unobserved. Pixels with a common fill value (see `hides`)
                are unobserved, too, unless "none" is given, alone or with values ("none,0").

        Raises:
            EvaluationError: an option has another format, or both a flood value and a threshold are given.
        """
        ignored, careful = _ignored(ignore)
        if threshold is not None:
            check_threshold(threshold)
        if flood is None:
            return cls(threshold=threshold, ignored=ignored, careful=careful)
        if threshold is not None:
            raise EvaluationError("--flood-value and --threshold exclude each other; give one of them")
        if isinstance(flood, str) and "=" in flood:
            attribute, _, named = flood.partition("=")
            matches = tuple(part.strip() for part in named.split(","))
            return cls(attribute=attribute.strip(), matches=matches, ignored=ignored, careful=careful)
        given: Iterable[Any] = flood.split(",") if isinstance(flood, str) else np.atleast_1d(np.asarray(flood))
        try:
            values = tuple(float(value) for value in given)
        except (TypeError, ValueError):
            raise EvaluationError(
                f"{flood!r} is not a flood value: give values such as 1 or 1,255, or class=water"
            ) from None
        return cls(values=values, ignored=ignored, careful=careful)

    def hides(self, band: NDArray[Any]) -> NDArray[np.bool_]:
        """Return which pixels of a raster have a value that marks unobserved pixels.

        Values in `ignored` are unobserved. If the rule is `careful`, fill values that are not flood are unobserved,
        too. Fill values are values below 0, the largest value of an integer dtype (255 in uint8), the values in
        `_FILLS` (9999 and others), and float values of `_NO_CLASS` or more (1e20, 3.4e38). If the rule has flood
        values, 255 is a fill value in every integer dtype. If the rule has a threshold, float values slightly below 0
        (see `ROUNDING`) are no fill values. Software fills unobserved pixels with such values, and many files do not
        declare the fill value.

        Args:
            band: values of the pixels, any shape and any real dtype.

        Returns:
            bool, shape of `band`, True for unobserved pixels.
        """
        hidden = among(band, self.ignored)
        if self.careful:
            fill = among(band, _fills(band.dtype))
            if self.values and band.dtype.kind in "iu":
                fill |= band == UNOBSERVED  # 255: an 8-bit mask may be stored in a wider dtype
            if band.dtype.kind == "f":
                # Resampling and rounding make probabilities of nearly 0 slightly negative.
                fill |= (band < (0 if self.threshold is None else -ROUNDING)) | (band >= _NO_CLASS)
            elif band.dtype.kind == "i":
                fill |= band < 0
            hidden |= fill & ~among(band, self.values) if self.values else fill
        return hidden


def _fills(dtype: np.dtype[Any]) -> tuple[int, ...]:
    """Return the common fill values in rasters of a dtype, besides values below 0."""
    if dtype.kind not in "iu":
        return _FILLS if dtype.kind == "f" else ()
    largest = int(np.iinfo(dtype).max)
    return (*(value for value in _FILLS if value < largest), largest)


def among(band: NDArray[Any], values: Iterable[float]) -> NDArray[np.bool_]:
    """Return which pixels of a raster have one of the given values.

    Values are compared in the dtype of the raster, so that 0.1 is found in float32.

    Args:
        band: values of the pixels, any shape and any real dtype.
        values: the values to find.

    Returns:
        bool, shape of `band`, True for pixels that have one of the values.
    """
    found = np.zeros(band.shape, bool)
    for value in values:
        if band.dtype.kind == "f":
            with np.errstate(over="ignore"):
                found |= band == band.dtype.type(value)
        elif float(value).is_integer():  # comparing with a float would convert an 8-bit array to float64
            found |= band == int(value)
    return found


def _ignored(given: Ignore) -> tuple[tuple[float, ...], bool]:
    """Parse the option `ignore` of `FloodRule.parse`.

    Returns:
        Values of the fields `ignored` and `careful` of `FloodRule`: (0.0, 9.0) and True for "0,9"; () and False for
        "none".
    """
    parts = [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    words = [word.strip().lower() for part in parts if part is not None for word in str(part).split(",")]
    try:
        return tuple(dict.fromkeys(float(word) for word in words if word != "none")), "none" not in words
    except ValueError:
        raise EvaluationError(f"{given!r} is no value to ignore; give numbers such as 0 or 0,9, or none") from None
