"""`SceneRow`: the row of one scene in a catalogue, with the paths of the scene's files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import shapely
from affine import Affine
from shapely import Polygon

from floodmap.geo.crs import is_placed
from floodmap.geo.source_name import SourceName
from floodmap.output.results import FloodMap

Status = Literal["done", "failed windows", "failed"]

WORLD = "EPSG:4326"
"""CRS of a catalogue whose scenes have several CRS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneRow:
    """Row of one scene."""

    name: str
    """Name of the scene, with which the names of its files begin."""
    source: str
    """File or URL of the scene as given; the query of a URL is left out."""
    status: Status
    """`done`; `failed windows`: done, but some windows are unobserved because they failed; `failed`: no results, or no
    polygons in the catalogue."""
    error: str | None = None
    """One line: the error message of a failed scene, or that of the first failed window; None without failures."""
    date: str | None = None
    """Date of the scene, ISO 8601; None if the scene failed, as for all fields below."""
    crs: str | None = None
    """CRS of the scene; also None if the scene has no CRS."""
    outline: Polygon | None = None
    """Outline of the scene in the CRS of the scene; None without CRS."""
    flood_area_m2: float | None = None
    """Geodesic area of flood, in square metres, by pixels of the scene's own grid; None without CRS."""
    observed_share: float | None = None
    """Share of observed pixels, 0 to 1."""
    failed_windows: int | None = None
    """Number of windows that failed, in whole or in part."""
    mask_path: Path | None = None
    probability_path: Path | None = None
    layer_paths: tuple[Path, ...] = ()
    """Vector files, as in `FloodMap.layer_paths`."""
    report_path: Path | None = None

    @classmethod
    def of(cls, result: FloodMap, source: SourceName) -> SceneRow:
        """Return the row of a scene that is done."""
        report = result.report
        failed, about = report["windows"]["failed"], report["source"]
        is_on_earth = is_placed(about["crs"])
        return cls(
            name=result.name, source=str(source), status="failed windows" if failed else "done",
            error=_one_line(failed[0]["why"]) if failed else None, date=about["date"], crs=about["crs"],
            outline=_outline(about) if is_on_earth else None, flood_area_m2=report["flood_area_m2"],
            observed_share=report["observed_share"], failed_windows=len(failed), mask_path=result.mask_path,
            probability_path=result.probability_path, layer_paths=result.layer_paths, report_path=result.report_path,
        )  # fmt: skip

    @classmethod
    def of_failure(cls, name: str, source: SourceName, error: str) -> SceneRow:
        """Return the row of a scene that was refused or failed."""
        return cls(name=name, source=str(source), status="failed", error=_one_line(error))

    @property
    def has_place(self) -> bool:
        """True if the scene is done and has a geographic or projected CRS."""
        return self.outline is not None

    def without_polygons(self, error: str) -> SceneRow:
        """Return the row of the same scene, `failed` because its polygons cannot be read from its files."""
        return replace(self, status="failed", error=_one_line(error))

    def columns(self, folder: Path) -> dict[str, Any]:
        """Return the values of the columns of `schema.SCENES`; paths are relative to the folder of the catalogue."""
        polygons = [_relative(path, folder) for path in self.layer_paths]
        return {
            "name": self.name, "source": self.source, "status": self.status, "error": self.error, "date": self.date,
            "crs": self.crs, "flood_area_m2": self.flood_area_m2, "observed_share": self.observed_share,
            "failed_windows": self.failed_windows, "mask": _relative(self.mask_path, folder),
            "probability": _relative(self.probability_path, folder), "polygons": polygons[0] if polygons else None,
            "report": _relative(self.report_path, folder),
        }  # fmt: skip


def common_crs(rows: Iterable[SceneRow]) -> str:
    """Return the CRS of the polygons of a catalogue: that of the scenes, if all have the same one, else EPSG:4326."""
    found = {row.crs for row in rows if row.has_place}
    return next(iter(found)) or WORLD if len(found) == 1 else WORLD


def latest_date(rows: Iterable[SceneRow]) -> datetime:
    """Return the latest date of all scenes, in UTC; 1970 if no scene is done."""
    dates = [datetime.fromisoformat(row.date) for row in rows if row.date is not None]
    known = [date.replace(tzinfo=UTC) if date.tzinfo is None else date.astimezone(UTC) for date in dates]
    return max(known, default=datetime(1970, 1, 1, tzinfo=UTC))


def _outline(about: dict[str, Any]) -> Polygon:
    """Return the outline of a scene from the part `source` of its JSON report, in the CRS of the scene."""
    transform, width, height = Affine(*about["transform"]), about["width"], about["height"]
    corners = [(0, 0), (width, 0), (width, height), (0, height)]
    return shapely.polygons([transform @ corner for corner in corners])


def _relative(path: Path | None, folder: Path) -> str | None:
    if path is None:
        return None
    return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()


def _one_line(text: str) -> str:
    return " ".join(text.split())
