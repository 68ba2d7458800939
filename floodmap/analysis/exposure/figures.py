"""Figures of an exposure: rows of districts, of roads by class and of buildings by share under water."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from floodmap.analysis.exposure.buildings import CLASSES_OF_SHARE, BuildingSums
from floodmap.analysis.exposure.districts import Districts
from floodmap.analysis.exposure.population import EXPOSED, IN_SCENE, ON_UNOBSERVED
from floodmap.analysis.exposure.result import LEVELS, PERMANENT_WATER, UNOBSERVED

Floats = NDArray[np.float64]
Row = dict[str, Any]
"""Values by name of the column; the unit is at the end of the name."""

DISTRICT, OUTSIDE, TOTAL = "district", "outside", "total"
"""Kinds of rows: a district, all ground of the scene in no district, the whole scene."""
SHARE_NAMES = {0.0: "touched", 0.1: "10_percent", 0.5: "50_percent"}
"""Part of the names of columns for each class of share of buildings."""
SHARE_TEXTS = {0.0: "more than 0", 0.1: "10 % or more", 0.5: "50 % or more"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """All sums of an exposure; the last row of each array is for the ground in no district."""

    districts: Districts
    areas_m2: Floats
    """Areas of the classes, float64 (districts + 1, `CLASSES`), in square metres."""
    has_permanent: bool
    """Whether the flood map separates permanent water."""
    buildings: BuildingSums | None
    roads: Mapping[str, Floats] | None
    """Lengths by class of road, float64 (districts + 1, `CLASSES`), in metres."""
    people: Floats | None
    """See `Population.people`."""

    def rows(self) -> list[Row]:
        """Return a row for each district, one for the ground in no district, and one for the whole scene.

        Without districts there is only the row of the whole scene.
        """
        return [{**head, **self._figures(chosen)} for head, chosen in self._groups()]

    def road_rows(self) -> list[Row]:
        """Return a row for each class of road in each row of `rows`; classes without roads there are left out."""
        rows = []
        for head, chosen in self._groups():
            for name, lengths in sorted((self.roads or {}).items()):
                if (row := _road(lengths[chosen].sum(axis=0)))["road_km"]:
                    rows.append({**_named(head), "road_class": name, **row})
        return rows

    def building_rows(self) -> list[Row]:
        """Return a row for each class of share under water in each row of `rows`."""
        if self.buildings is None:
            return []
        rows = []
        for head, chosen in self._groups():
            wet, count = self.buildings.wet[chosen].sum(axis=0), int(self.buildings.counts[chosen, 0].sum())
            for index, share in enumerate(CLASSES_OF_SHARE):
                counts = {f"buildings_{level}": int(wet[index, number]) for number, level in enumerate(LEVELS)}
                rows.append({**_named(head), "share_under_water": SHARE_TEXTS[share], "buildings": count, **counts})
        return rows

    def _groups(self) -> Iterator[tuple[Row, NDArray[np.bool_]]]:
        """Yield the first columns of each row, and which rows of the arrays it sums, bool (districts + 1,)."""
        districts, count = self.districts, len(self.districts)
        for number in range(count):
            head = {"kind": DISTRICT, "district_id": districts.ids[number], "district": districts.names[number],
                    "district_ha": _ha(districts.area_m2[number])}  # fmt: skip
            yield head, np.arange(count + 1) == number
        if count:
            head = {"kind": OUTSIDE, "district_id": None, "district": "in no district", "district_ha": None}
            yield head, np.arange(count + 1) == count
        head = {"kind": TOTAL, "district_id": None, "district": "whole scene", "district_ha": None}
        yield head, np.ones(count + 1, bool)

    def _figures(self, chosen: NDArray[np.bool_]) -> Row:
        areas = self.areas_m2[chosen].sum(axis=0)
        district_m2 = float(self.districts.area_m2[chosen[:-1]].sum()) if chosen.sum() == 1 and not chosen[-1] else None
        row = _ground(areas, district_m2)
        if self.has_permanent:
            row["permanent_water_ha"] = _ha(areas[PERMANENT_WATER])
        if self.buildings is not None:
            row |= _buildings(self.buildings, chosen)
        if self.roads is not None:
            lengths = sum((values[chosen].sum(axis=0) for values in self.roads.values()), np.zeros(len(areas)))
            row |= _road(np.asarray(lengths))
        if self.people is not None:
            row |= _people(self.people[chosen].sum(axis=0))
        return row


def wide(rows: list[Row], road_rows: list[Row]) -> list[Row]:
    """Return rows of districts with the columns of all classes of road, for a table without a second sheet."""
    classes = sorted({row["road_class"] for row in road_rows})
    found = {(_key(row), row["road_class"]): row for row in road_rows}
    names = [name for name in (road_rows[0] if road_rows else {}) if name.startswith("road_") and name != "road_class"]
    return [
        row | {f"road_{name}_{column.removeprefix('road_')}": found.get((_key(row), name), {}).get(column, 0.0)
               for name in classes for column in names}
        for row in rows
    ]  # fmt: skip


def _key(row: Row) -> tuple[Any, ...]:
    return row["kind"], row["district_id"]


def _named(head: Row) -> Row:
    return {name: value for name, value in head.items() if name != "district_ha"}


def _ground(areas: Floats, district_m2: float | None) -> Row:
    scene = float(areas.sum())
    observed, flood = scene - float(areas[UNOBSERVED]), np.cumsum(areas[:3])
    return {
        "scene_ha": _ha(scene),
        "scene_share": None if not district_m2 else round(min(scene / district_m2, 1.0), 6),
        "observed_ha": _ha(observed),
        "unobserved_ha": _ha(areas[UNOBSERVED]),
        **{f"flood_{level}_ha": _ha(flood[number]) for number, level in enumerate(LEVELS)},
        "flood_share_of_observed": round(float(flood[1]) / observed, 6) if observed > 0 else None,
    }


def _buildings(sums: BuildingSums, chosen: NDArray[np.bool_]) -> Row:
    counts, wet = sums.counts[chosen].sum(axis=0), sums.wet[chosen].sum(axis=0)
    row: Row = {
        "buildings": int(counts[0]),
        "buildings_with_unobserved_ground": int(counts[1]),
        "buildings_unobserved": int(counts[2]),
    }
    for index, share in enumerate(CLASSES_OF_SHARE):
        for number, level in enumerate(LEVELS):
            row[f"buildings_{SHARE_NAMES[share]}_{level}"] = int(wet[index, number])
    row["footprints_m2"] = _m2(sums.area_m2[chosen].sum())
    row["footprints_unobserved_m2"] = _m2(sums.unobserved_m2[chosen].sum())
    wet_m2 = sums.wet_m2[chosen].sum(axis=0)
    return row | {f"footprints_flood_{level}_m2": _m2(wet_m2[number]) for number, level in enumerate(LEVELS)}


def _road(lengths_m: Floats) -> Row:
    flood = np.cumsum(lengths_m[:3])
    return {
        "road_km": _km(lengths_m.sum()),
        "road_unobserved_km": _km(lengths_m[UNOBSERVED]),
        **{f"road_flood_{level}_km": _km(flood[number]) for number, level in enumerate(LEVELS)},
    }


def _people(people: Floats) -> Row:
    return {
        "people": round(float(people[IN_SCENE]), 2),
        "people_on_unobserved_ground": round(float(people[ON_UNOBSERVED]), 2),
        **{f"people_exposed_{level}": round(float(people[EXPOSED + number]), 2) for number, level in enumerate(LEVELS)},
    }


def _ha(m2: float) -> float:
    return round(float(m2) / 1e4, 4)


def _m2(value: float) -> float:
    return round(float(value), 1)


def _km(metres: float) -> float:
    return round(float(metres) / 1e3, 4)
