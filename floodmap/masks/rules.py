"""What two masks are compared in: flooded, dry and unobserved pixels of one frame, and the rule for what is which."""

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
"""Window of a grid in, uint8 (height, width) of DRY, FLOOD and UNOBSERVED out."""


Ignore = float | str | Iterable[float | str] | None
"""How values to ignore are given."""

ROUNDING = 1e-3
"""What a probability in floats may be below 0 or above 1 for having been computed."""
_FILLS = (9999, 32767, 65535, 99999, 999999)
"""What is put, besides values below 0, where there is nothing."""
_NO_CLASS = 1e6
"""No class of a raster of floats has a number as large as this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FloodRule:
    """What counts as flood on one side, and what as unobserved; the rest is dry."""

    values: tuple[float, ...] = ()
    """Values of flooded pixels; empty: find out (`meanings.settle`)."""
    threshold: float | None = None
    """The raster holds probabilities, and pixels from this share (0 to 1) up are flood."""
    in_percent: bool = False
    """Rasters of probabilities in floats that do not say so hold per cent, as others of their side show."""
    attribute: str = ""
    """Column of the polygons to look at; empty: every polygon is flood."""
    matches: tuple[str, ...] = ()
    """Values of that column that are flood."""
    ignored: tuple[float, ...] = ()
    """Values of pixels that are unobserved."""
    careful: bool = True
    """Values that hardly anybody means as dry are unobserved, too, unless they are flood: see `hides`."""

    def __post_init__(self) -> None:
        if both := set(self.values) & set(self.ignored):
            raise EvaluationError(f"{both.pop():g} is said to be flood and to be ignored; choose one of them")

    @classmethod
    def parse(
        cls, flood: float | str | Iterable[float] | None, threshold: float | None = None, ignore: Ignore = None
    ) -> FloodRule:
        """Read what a user gave.

        Args:
            flood: 1, (1, 255), "1,255" for rasters, "class=water,river" for polygons.
            threshold: a share, 0.01 to 1.
            ignore: -1, (0, 9), "0,9", ("0,9", "-1"); "none" for nothing but what a raster declares as nodata.

        Raises:
            EvaluationError: it is none of these, or a value and a threshold are given.
        """
        ignored, careful = _ignored(ignore)
        if threshold is not None:
            check_threshold(threshold)
        if flood is None:
            return cls(threshold=threshold, ignored=ignored, careful=careful)
        if threshold is not None:
            raise EvaluationError("flood is given by a value and by a threshold; give one of them")
        if isinstance(flood, str) and "=" in flood:
            attribute, _, named = flood.partition("=")
            matches = tuple(part.strip() for part in named.split(","))
            return cls(attribute=attribute.strip(), matches=matches, ignored=ignored, careful=careful)
        given: Iterable[Any] = flood.split(",") if isinstance(flood, str) else np.atleast_1d(np.asarray(flood))
        try:
            values = tuple(float(value) for value in given)
        except (TypeError, ValueError):
            raise EvaluationError(
                f"{flood!r} does not say what is flood; give values such as 1 or 1,255, or class=water"
            ) from None
        return cls(values=values, ignored=ignored, careful=careful)

    def hides(self, band: NDArray[Any]) -> NDArray[np.bool_]:
        """Pixels of a raster whose value says that nothing is known of them.

        These are what the rule ignores and, where it is `careful`, values below 0, the largest value
        of a type of whole numbers (255 in uint8), and what is too large to be a class (1e20, 3.4e38): unless named as
        flood, they are how tools fill what they have not seen, whether or not the file declares it.

        Args:
            band: (height, width), any dtype of real numbers.
        """
        hidden = among(band, self.ignored)
        if self.careful:
            odd = among(band, _fills(band.dtype))
            if self.values and band.dtype.kind in "iu":
                odd |= band == UNOBSERVED  # as in a mask of bytes that was stored in a wider type
            if band.dtype.kind == "f":
                # Resampling and rounding make probabilities of nearly 0 a little less than that.
                odd |= (band < (0 if self.threshold is None else -ROUNDING)) | (band >= _NO_CLASS)
            elif band.dtype.kind == "i":
                odd |= band < 0
            hidden |= odd & ~among(band, self.values) if self.values else odd
        return hidden


def _fills(dtype: np.dtype[Any]) -> tuple[int, ...]:
    if dtype.kind not in "iu":
        return _FILLS if dtype.kind == "f" else ()
    largest = int(np.iinfo(dtype).max)
    return (*(value for value in _FILLS if value < largest), largest)


def among(band: NDArray[Any], values: Iterable[float]) -> NDArray[np.bool_]:
    """Pixels that have one of some values, in the precision of the raster: 0.1 is found in float32."""
    found = np.zeros(band.shape, bool)
    for value in values:
        if band.dtype.kind == "f":
            with np.errstate(over="ignore"):
                found |= band == band.dtype.type(value)
        elif float(value).is_integer():  # compared as it is, an array of bytes would be converted to float64
            found |= band == int(value)
    return found


def _ignored(given: Ignore) -> tuple[tuple[float, ...], bool]:
    """Values to ignore, and whether those that nobody named are to be ignored as well."""
    parts = [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    words = [word.strip().lower() for part in parts if part is not None for word in str(part).split(",")]
    try:
        return tuple(dict.fromkeys(float(word) for word in words if word != "none")), "none" not in words
    except ValueError:
        raise EvaluationError(f"{given!r} is no value to ignore; give numbers such as 0 or 0,9, or none") from None
