"""Review of a result: places to look at, and edits that are taken into the result and out again."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from floodmap._runtime.versions import version
from floodmap.analysis.flood_map import files_of, open_flood_map
from floodmap.analysis.review.buildings import uncertain_buildings
from floodmap.analysis.review.codes import ResultCodes, open_result_codes
from floodmap.analysis.review.edits import Edits, read_edits, write_places
from floodmap.analysis.review.ranking import PLACES, Place, cell_side, expected_errors, ranked
from floodmap.errors import OutputError, SceneError, writing
from floodmap.geo.window import Window
from floodmap.output.finishing import Finishing
from floodmap.output.paths import page_path_of, pdf_path_of, stac_path_of
from floodmap.output.results import FloodMap
from floodmap.strips.codes import FIRST_REASON, PERMANENT_CODE, UNOBSERVED, flood_kinds

log = logging.getLogger(__name__)

METHOD = "Semi-automatic extraction"
"""How the flood of a reviewed result was found, in the words of the Copernicus Emergency Management Service."""
_OF_THE_RUN = (
    "name", "pixels", "polygons", "windows", "pixels_processed", "warnings", "run", "review", "observed_share",
    "flood_share_of_observed",
)  # fmt: skip
"""Entries of the JSON that are computed anew for a reviewed result, besides areas."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """Places of a result that are worth a look."""

    path: Path
    """GeoPackage with the layers `review` and `edits`; see `edits.write_places`."""
    places: tuple[Place, ...]
    """The places, the most worthwhile first."""
    buildings_uncertain: int | None = None
    """Number of uncertain buildings in the whole result; None if no buildings were given."""

    @property
    def error_share(self) -> float:
        """Share of the expected error of the whole result that lies in the places, 0 to 1."""
        return sum(place.share for place in self.places)

    @property
    def buildings_listed(self) -> int:
        """Number of uncertain buildings in the places."""
        return sum(place.buildings or 0 for place in self.places)


def review(
    result: str | Path | FloodMap,
    *,
    out: str | Path | None = None,
    count: int = PLACES,
    buildings: str | os.PathLike[str] | None = None,
    buildings_layer: str | None = None,
    overwrite: bool = False,
) -> Review:
    """Write the places of a result that are most worth a look, as `floodmap review` does.

    Args:
        result: a result of `segment` or `mosaic`: one of its files, its folder, or a `FloodMap`.
        out: the GeoPackage to write; None: `NAME_review.gpkg` beside the result.
        count: largest number of places.
        buildings: file of polygons or points. The places with the most uncertain buildings come first: those that are
            under water by the upper figure of `exposure` (from a probability of 0.3 on) but not by the lower (0.7).
        buildings_layer: layer of the file of buildings; None: the first one with geometries.
        overwrite: True: replace an existing file, and what was entered there.

    Raises:
        SceneError: there is no such result.
        MissingCRSError: there are buildings, and the result has no CRS.
        VectorError: the file of buildings cannot be used.
        OutputError: the file exists already or cannot be written.
    """
    flood_map = open_flood_map(result)
    path = _edits_of(flood_map) if out is None else Path(out)
    if path.suffix.lower() != ".gpkg":
        raise OutputError(f"{path}: places are written as a GeoPackage; give a name ending in .gpkg")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists already, perhaps with a review; replace it with --overwrite")
    with open_result_codes(flood_map) as codes:
        shape, side = codes.grid.shape_hw, cell_side(codes.grid.shape_hw)
        cells = expected_errors(codes.strips(), codes.grid, threshold=codes.threshold, side=side)
        if buildings is not None:
            found = uncertain_buildings(flood_map, buildings, buildings_layer, side=side)
            cells = replace(cells, buildings=found)
        places = ranked(cells, shape, count=count)
        with writing(path):
            write_places(places, codes.grid, path)
    uncertain = None if cells.buildings is None else int(cells.buildings.sum())
    return Review(path=path, places=tuple(places), buildings_uncertain=uncertain)


def apply_review(result: str | Path | FloodMap, edits: str | Path | None = None) -> FloodMap:
    """Take what a person has decided into a result, as `floodmap review --apply` does.

    Mask, probability, polygons, areas and JSON are written anew from the result of the model and the edits. The files
    of the model are kept in the folder `NAME_model`, and the next call begins with them again. In edited ground the
    probability is 100 or 0 per cent.

    Args:
        result: see `review`.
        edits: the file of the review; None: `NAME_review.gpkg` beside the result.

    Returns:
        The reviewed result. `report["review"]` has the numbers of places by status, and the edited area.

    Raises:
        SceneError, VectorError: the result or the edits cannot be read.
        OutputError: a file cannot be written. `undo_review` brings the result of the model back.
    """
    started = time.time()
    flood_map = open_flood_map(result)
    path = _edits_of(flood_map) if edits is None else Path(edits)
    if not path.is_file():
        raise SceneError(f"{path} is missing; write the places to look at first: floodmap review {flood_map.name}")
    kept = _kept_folder(flood_map)
    if kept.is_dir() and "review" not in flood_map.report:  # the scene was segmented again since
        shutil.rmtree(kept)
    if not kept.is_dir():
        _keep(flood_map, kept)
    model_map = open_flood_map(kept / f"{flood_map.name}.json")
    with open_result_codes(model_map) as codes:
        edited = _Edited(codes, read_edits(path, codes.grid), model_map, flood_map.report_path.parent)
        finishing = _finishing(model_map, flood_map, edited, path, started)
        try:
            with writing(flood_map.report_path):
                flood_map.report_path.unlink(missing_ok=True)  # it marks the other files as complete
            done = finishing.run(edited, at_once=True)
        finally:
            edited.close()
    folder, name = flood_map.report_path.parent, flood_map.name
    for path in (page_path_of(folder, name), pdf_path_of(folder, name), stac_path_of(folder, name)):
        if path.exists():
            log.warning("%s is from before the review; delete it, or write it again", path)
    return done


def undo_review(result: str | Path | FloodMap) -> FloodMap:
    """Bring the result of the model back, byte for byte, as `floodmap review --undo` does. Edits stay in their file.

    Args:
        result: see `review`; after an interrupted `apply_review`, its folder and name.

    Raises:
        SceneError: the result has not been reviewed.
    """
    kept = _kept_of(result)
    model_map = open_flood_map(kept)
    folder = kept.parent
    with writing(folder):
        (folder / model_map.report_path.name).unlink(missing_ok=True)
        files = files_of(model_map)
        for file in sorted(files, key=lambda one: one == model_map.report_path):  # the JSON comes last
            file.replace(folder / file.name)
        kept.rmdir()
    return open_flood_map(folder / model_map.report_path.name)


def _edits_of(flood_map: FloodMap) -> Path:
    return flood_map.report_path.with_name(f"{flood_map.name}_review.gpkg")


def _kept_folder(flood_map: FloodMap) -> Path:
    return flood_map.report_path.with_name(f"{flood_map.name}_model")


def _kept_of(result: str | Path | FloodMap) -> Path:
    """Return the folder with the files of the model, also if the reviewed result is incomplete."""
    if not isinstance(result, FloodMap) and not Path(result).is_dir():
        stem = Path(result).name
        for end in ("_mask.tif", "_probability.tif", ".json", ".gpkg"):
            stem = stem.removesuffix(end)
        kept = Path(result).with_name(f"{stem}_model")
    else:
        kept = _kept_folder(open_flood_map(result))
    if not kept.is_dir():
        raise SceneError(f"{kept} is missing: this result has not been reviewed")
    return kept


def _keep(flood_map: FloodMap, kept: Path) -> None:
    """Copy the files of the model into their folder, completely or not at all."""
    with (
        writing(kept),
        tempfile.TemporaryDirectory(prefix=".model-", dir=kept.parent) as scratch,
    ):
        copies = Path(scratch) / "files"
        copies.mkdir()
        for file in files_of(flood_map):
            shutil.copy2(file, copies / file.name)
        copies.rename(kept)


class _Edited:
    """Strips of a result with edits, with the interface of `journal.Strips`."""

    def __init__(self, codes: ResultCodes, edits: Edits, flood_map: FloodMap, folder: Path) -> None:
        self._codes, self.edits, self._report = codes, edits, flood_map.report
        self._folder = Path(tempfile.mkdtemp(prefix=".review-", dir=folder))
        self.grid, self.threshold = codes.grid, codes.threshold

    @property
    def has_permanent(self) -> bool:
        """True if the result or an edit has permanent water."""
        return "permanent_water" in self._report["pixels"] or bool((self.edits.codes > PERMANENT_CODE).any())

    def changed(self) -> int:
        """Return the number of pixels whose class the edits change."""
        classes = flood_kinds(self.threshold)
        classes[FIRST_REASON:] = UNOBSERVED
        pairs = zip(self._codes.strips(), self.strips(), strict=True)
        return sum(int((classes[before] != classes[after]).sum()) for (_, before), (_, after) in pairs)

    @property
    def scratch(self) -> Path:
        """Folder for temporary files."""
        return self._folder

    def close(self) -> None:
        """Delete the folder for temporary files."""
        with suppress(OSError):
            shutil.rmtree(self._folder)

    def notes(self) -> list[Mapping[str, Any]]:
        """Return the counts of windows of the model's run."""
        windows = self._report["windows"]
        return [{**windows, "pixels": self._report["pixels_processed"]}]

    def strips(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield first row and codes, uint8 (rows, width), of each strip."""
        for row, codes in self._codes.strips():
            yield row, self.edits.applied(codes, Window(row, 0, *codes.shape))


def _finishing(model_map: FloodMap, flood_map: FloodMap, edited: _Edited, path: Path, started: float) -> Finishing:
    report = model_map.report
    kept = {
        key: value for key, value in report.items()
        if key not in _OF_THE_RUN and not key.endswith(("_area_m2", "_area_ha"))
    }  # fmt: skip
    about = {
        "method": METHOD, "file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "places": {name: count for name, count in edited.edits.counts.items() if name != "edits"},
        "edits": edited.edits.counts["edits"], "pixels_changed": edited.changed(),
        "model_run_finished": report["run"]["finished"],
        "floodmap": version("floodmap"),
    }  # fmt: skip
    settings, run = report["settings"], report["run"]
    return Finishing(
        source=report["source"]["name"], grid=edited.grid, date=datetime.fromisoformat(report["source"]["date"]),
        out=flood_map.report_path.parent, name=flood_map.name, threshold=edited.threshold,
        min_area_m2=settings["min_area_m2"] or 0.0, simplify_m=settings["simplify_m"] or 0.0,
        formats=tuple(run["formats"]), settings={**kept, "review": about}, started=started,
        files={
            "permanent": edited.has_permanent, "cems": run.get("schema") == "cems", "sheet": True, "pdf": True,
            "stac": True,  # `apply_review` warns of these
        },
        warnings=tuple(report["warnings"]), with_permanent=edited.has_permanent,
        flood_type=run.get("flood_type", "unknown"),
    )  # fmt: skip
