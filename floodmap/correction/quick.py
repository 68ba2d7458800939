"""Quick writing of a corrected result: only what the changed windows touch is computed and written anew."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from floodmap.correction.changes import ChangedCodes
from floodmap.correction.cog_tiles import rewritten_rasters
from floodmap.correction.features import Features
from floodmap.correction.outlines.changing import Change
from floodmap.errors import writing
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.window import Window
from floodmap.output.census import Census, take_census
from floodmap.output.cog import KINDS
from floodmap.output.finishing import Finishing
from floodmap.output.polygons import Polygons, layers, polygonize
from floodmap.output.results import FloodMap
from floodmap.strips.codes import FIRST_REASON


def prepared(features: Features, boxes: Sequence[Window], grid: GeoGrid) -> Change | None:
    """Return the change of the kept outlines in some windows, before the new codes are known.

    The result is None if no outlines are kept.
    """
    outlines = features.outlines()
    return None if outlines is None else Change(outlines, boxes, grid=grid)


def described(finishing: Finishing, about: Mapping[str, Any], changed: int) -> Finishing:
    """Return settings that describe a correction in the JSON report, with the number of changed pixels."""
    return replace(finishing, settings={**finishing.settings, "correction": {**about, "pixels_changed": changed}})


def count_changed(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> int:
    """Return the number of observed pixels whose code is changed."""
    return int(((before != after) & (before < FIRST_REASON)).sum())


def write_quickly(
    finishing: Finishing, features: Features, codes: ChangedCodes, change: Change | None, about: Mapping[str, Any]
) -> FloodMap:
    """Write a corrected result from the automatic one and the changes.

    The files have the bytes of a result that is written as a whole (`Finishing.run`), apart from the last digits of the
    areas and perimeters of changed polygons.

    Args:
        finishing: settings for writing the results; see `can_be_quick`.
        features: features of the automatic result.
        codes: codes with the changes.
        change: see `prepared`.
        about: description of the correction for the JSON report, without the number of changed pixels.

    Raises:
        OutputError: a file cannot be written.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="rasters") as executor:
        rasters = executor.submit(_rasters, finishing, features, codes)
        census = executor.submit(census_with_changes, features.census(finishing.threshold), codes, finishing.grid)
        polygons = _polygons(finishing, codes, change)
        taken, changed = census.result()
        return described(finishing, about, changed).complete(codes, rasters.result(), polygons, taken)


def census_with_changes(before: Census, codes: ChangedCodes, grid: GeoGrid) -> tuple[Census, int]:
    """Return the pixels and areas of a scene with changes, and the number of changed pixels.

    Args:
        before: pixels and areas without the changes.
        codes: codes with the changes.
        grid: grid of the scene's pixels.
    """
    pixels = before.pixels.copy()
    ground, changed = None if before.ground_m2 is None else before.ground_m2.copy(), 0
    for row, column, *of_block in codes.changed_blocks():
        old, new = (
            take_census([(row, one)], grid, threshold=before.threshold, first_column=column) for one in of_block
        )
        changed += count_changed(*of_block)
        pixels += new.pixels - old.pixels
        if ground is not None and old.ground_m2 is not None and new.ground_m2 is not None:
            ground += new.ground_m2 - old.ground_m2
    if ground is not None:
        ground[pixels == 0] = 0  # not the rest of a rounding
    return Census(pixels=pixels, ground_m2=ground, threshold=before.threshold), changed


def _rasters(finishing: Finishing, features: Features, codes: ChangedCodes) -> tuple[Path, Path]:
    """Write mask and probability raster with their styles."""
    old = features.automatic
    mask, probability = (finishing.out / f"{finishing.name}_{kind}.tif" for kind in KINDS)
    if not rewritten_rasters(
        old.mask_path, old.probability_path, mask, probability, boxes=codes.boxes, codes_of=codes.after,
        threshold=finishing.threshold,
    ):  # fmt: skip
        return finishing.write_rasters(codes)
    for path, source in ((mask, old.mask_path), (probability, old.probability_path)):
        with writing(path):
            shutil.copy2(source.with_suffix(".qml"), path.with_suffix(".qml"))
    return mask, probability


def _polygons(finishing: Finishing, codes: ChangedCodes, change: Change | None) -> Polygons:
    """Return the polygons: the kept outlines with the changes, or, where that is not possible, traced anew."""
    settings = finishing.of_polygons()
    if change and (found := change.apply(codes.after)):
        return layers(*found, crs=finishing.grid.crs, model=settings["model"], source=settings["source"])
    return polygonize(codes.strips(), **settings)
