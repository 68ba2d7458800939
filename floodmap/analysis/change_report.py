"""JSON report of a comparison of two dates, and warnings about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from floodmap._runtime.versions import version
from floodmap.analysis.change_classes import CHANGES, CLASSES, DRY, REASONS
from floodmap.analysis.sides import Role, Side, order_warning
from floodmap.geo.geogrid import GeoGrid
from floodmap.output.census import Census

MOST_TIMES = 4
"""Largest ratio of the pixel sizes of both sides without a warning."""


def counted(census: Census) -> dict[str, Any]:
    """Return pixels and areas of all classes as a part of the JSON report."""
    ground = census.ground_m2
    m2 = None if ground is None else {code: float(ground[code]) for code in (*CLASSES, *REASONS)}
    observed = sum(int(census.pixels[code]) for code in CLASSES)
    return {
        "pixels": _by_class({code: int(census.pixels[code]) for code in (*CLASSES, *REASONS)}),
        "area_m2": m2 and _by_class({code: round(area, 2) for code, area in m2.items()}),
        "area_ha": m2 and _by_class({code: round(area / 1e4, 4) for code, area in m2.items()}),
        "observed_share": round(observed / max(1, int(census.pixels.sum())), 6),
    }


def _by_class(values: Mapping[int, Any]) -> dict[str, Any]:
    return {
        **{name.replace(" ", "_"): values[code] for code, name in CHANGES.items()},
        "dry": values[DRY],
        "unobserved": {name: values[code] for code, name in REASONS.items()},
    }


def described_grid(grid: GeoGrid, of: str | None) -> dict[str, Any]:
    """Return the grid of a comparison as a part of the JSON report; `of` is the side that it is from."""
    return {
        "of": of,
        "width": grid.width,
        "height": grid.height,
        "crs": grid.crs.to_string() if grid.crs else None,
        "transform": list(grid.transform)[:6],
        "gsd_m": grid.gsd_m,
    }


def versions() -> dict[str, str]:
    """Return the versions of floodmap and of the packages on which a comparison depends, by name."""
    return {name: version(name) for name in ("floodmap", "rasterio", "numpy", "shapely")}


def early_warnings(before: Side, after: Side) -> Iterator[str]:
    """Yield what is to be checked before the result is used, and is known before the comparison."""
    if line := order_warning(before, after):
        yield line
    first, second = (side.grid.gsd_m if side.grid else None for side in (before, after))
    if first and second and max(first, second) > MOST_TIMES * min(first, second):
        yield (
            f"the pixels of BEFORE ({first:.3g} m) and AFTER ({second:.3g} m) differ by more than {MOST_TIMES} times: "
            "changes along banks are no finer than the coarser pixels"
        )
    for side in (before, after):
        if side.grid is None:
            yield f"{side.label} does not say which ground was observed: ground outside of its polygons counts as dry"


def late_warnings(pixels: Mapping[str, Any], values: Mapping[Role, object]) -> Iterator[str]:
    """Yield what is to be checked after the comparison.

    Args:
        pixels: the entry `pixels` of `counted`.
        values: definition of water on each side by the user; None: none was given.
    """
    newly, receded, unchanged = (pixels[name.replace(" ", "_")] for name in CHANGES.values())
    if not newly + receded + unchanged + pixels["dry"]:
        yield "no pixel is observed on both dates"
        return
    water: dict[Role, int] = {"before": receded + unchanged, "after": newly + unchanged}
    for role, pixels_of_water in water.items():
        if values[role] is not None and not pixels_of_water:
            yield f"{role.upper()} has no water with this --{role}-value: check the value"
