"""Pixel counts and areas of each code (one uint8 per pixel) in a scene, for the JSON report and the HTML page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from floodmap.geo.geogrid import GeoGrid
from floodmap.strips.codes import FIRST_REASON, OUTSIDE, PERMANENT_CODE, REASONS, THRESHOLD

CELL = 256
"""Side of a cell in pixels of the scene. A cell is a square in which all pixels count with the same geodesic area."""

_PERMANENT = slice(PERMANENT_CODE + 1, 2 * PERMANENT_CODE + 1)
"""Codes of permanent water."""

Strips = Iterable[tuple[int, NDArray[np.uint8]]]
"""Strips of a scene, each as a pair: index of the strip's first row in the scene, and codes, uint8 (rows, width)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """Pixel counts and geodesic areas of each code in a scene."""

    pixels: NDArray[np.int64]
    """Number of pixels of each code, int64 (256,); the index is the code."""
    ground_m2: NDArray[np.float64] | None
    """Geodesic area in square metres of each code, float64 (256,); the index is the code. None without a geographic or
    projected CRS."""
    threshold: int
    """Threshold in per cent: codes from the threshold to 100 are flood."""

    @property
    def flood_pixels(self) -> int:
        """Number of flood pixels."""
        return int(self.pixels[self._flood].sum())

    @property
    def permanent_pixels(self) -> int:
        """Number of pixels of permanent water."""
        return int(self.pixels[_PERMANENT].sum())

    @property
    def observed_pixels(self) -> int:
        """Number of pixels of flood, permanent water and dry ground."""
        return int(self.pixels[:FIRST_REASON].sum())

    @property
    def unobserved_pixels(self) -> dict[str, int]:
        """Number of unobserved pixels by name of the reason, without reasons that no pixel has.

        Pixels outside the area of interest are not included.
        """
        return {name: int(self.pixels[code]) for code, name in REASONS.items() if code != OUTSIDE and self.pixels[code]}

    @property
    def flood_m2(self) -> float | None:
        """Flooded area in square metres; None without a geographic or projected CRS."""
        return None if self.ground_m2 is None else float(self.ground_m2[self._flood].sum())

    @property
    def permanent_m2(self) -> float | None:
        """Area of permanent water in square metres; None without a geographic or projected CRS."""
        return None if self.ground_m2 is None else float(self.ground_m2[_PERMANENT].sum())

    @property
    def observed_m2(self) -> float | None:
        """Observed area in square metres; None without a geographic or projected CRS."""
        return None if self.ground_m2 is None else float(self.ground_m2[:FIRST_REASON].sum())

    @property
    def observed_share(self) -> float:
        """Observed share of the pixels inside the area of interest, 0 to 1; 1 if no pixel is inside."""
        inside = self.observed_pixels + sum(self.unobserved_pixels.values())
        return self.observed_pixels / inside if inside else 1.0

    @property
    def _flood(self) -> slice:
        return slice(self.threshold, PERMANENT_CODE + 1)

    def as_json(self, *, permanent: bool = False) -> dict[str, Any]:
        """Return areas, shares and pixel counts as a dict, which becomes a part of the JSON report.

        Args:
            permanent: True: include the figures of permanent water.
        """
        m2 = {"flood": self.flood_m2, **({"permanent_water": self.permanent_m2} if permanent else {})}
        areas: dict[str, float | None] = {}
        for name, area in m2.items():
            areas[f"{name}_area_m2"] = _rounded(area)
            areas[f"{name}_area_ha"] = _rounded(None if area is None else area / 1e4, 4)
        return {
            **areas,
            "observed_area_m2": _rounded(self.observed_m2),
            "observed_share": round(self.observed_share, 6),
            "flood_share_of_observed": round(self.flood_pixels / max(self.observed_pixels, 1), 6),
            "pixels": {
                "flood": self.flood_pixels,
                **({"permanent_water": self.permanent_pixels} if permanent else {}),
                "dry": self.observed_pixels - self.flood_pixels - self.permanent_pixels,
                "unobserved": self.unobserved_pixels,
                "outside": int(self.pixels[OUTSIDE]),
            },
        }


def take_census(strips: Strips, grid: GeoGrid, *, threshold: int, first_column: int = 0) -> Census:
    """Count the pixels of each code in a scene, and add up the geodesic areas of these pixels.

    Args:
        strips: all strips of the scene, from top to bottom. A strip is a pair. The first value is the index of the
            strip's first row in the scene, an int. The second value is the codes, uint8 (rows, width).
        grid: grid of the scene's pixels. Areas are None without a geographic or projected CRS.
        threshold: in per cent; codes from the threshold to 100 are flood.
        first_column: column of the scene at which the strips begin, a multiple of `CELL`.
    """
    tally = Tally(grid, threshold=threshold, first_column=first_column)
    for _ in tally.count(strips):
        pass
    return tally.census()


class Tally:
    """Counter of the pixels of each code in the strips of a scene.

    The method `count` takes an iterator of strips, and yields the same strips for the next function. The pixels are
    thereby counted without a second pass over the strips.

    Args:
        grid: grid of the scene's pixels. Areas are None without a geographic or projected CRS.
        threshold: in per cent; codes from the threshold to 100 are flood. Pixels and areas of each code do not depend
            on it.
        first_column: see `take_census`.
    """

    def __init__(self, grid: GeoGrid, *, threshold: int = THRESHOLD, first_column: int = 0) -> None:
        self._grid, self._threshold, self._placed = grid, threshold, grid.is_on_earth
        self._first_column = first_column
        self._pixels, self._ground_m2 = np.zeros(256, np.int64), np.zeros(256)

    def count(self, strips: Strips) -> Strips:
        """Count the pixels of each strip, then yield the strip unchanged; for strips see `take_census`."""
        for first, codes in strips:
            for top in range(0, len(codes), CELL):
                self._add(first + top, codes[top : top + CELL])
            yield first, codes

    def census(self) -> Census:
        """Return the pixel counts and areas of all strips that were counted so far."""
        ground_m2 = self._ground_m2.copy() if self._placed else None
        return Census(pixels=self._pixels.copy(), ground_m2=ground_m2, threshold=self._threshold)

    def _add(self, first: int, codes: NDArray[np.uint8]) -> None:
        edges = np.append(np.arange(0, codes.shape[1], CELL), codes.shape[1])
        counts = _per_cell(codes, edges)
        self._pixels += counts.sum(axis=0)
        if self._placed:
            rows = np.array([first, first + len(codes)], float)
            cells = self._grid.cell_areas_m2(rows, edges + float(self._first_column))[0]
            self._ground_m2 += (cells / (np.diff(edges) * len(codes))) @ counts


def _per_cell(codes: NDArray[np.uint8], edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the pixels of each code in rectangles; each rectangle has all rows of `codes` and a range of columns.

    Args:
        codes: uint8 (rows, columns).
        edges: first column of each rectangle, and at the end the number of columns, (rectangles + 1,).

    Returns:
        Numbers of pixels, int64 (rectangles, 256); the second index is the code.
    """
    # Runs of equal codes in a row are counted as a whole, because most pixels have the code of their left neighbour.
    begins = np.empty(codes.shape, bool)
    np.not_equal(codes[:, 1:], codes[:, :-1], out=begins[:, 1:])
    begins[:, edges[:-1]] = True
    first = np.flatnonzero(begins)
    cell = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
    key = cell[first % codes.shape[1]] * 256 + codes.ravel()[first]
    counts = np.bincount(key, np.diff(first, append=codes.size), minlength=256 * (len(edges) - 1))
    return counts.astype(np.int64).reshape(-1, 256)


def _rounded(value: float | None, digits: int = 2) -> float | None:
    return None if value is None else round(value, digits)
