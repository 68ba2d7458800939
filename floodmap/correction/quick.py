"""Quick writing of a corrected result: only what the changed windows touch is computed and written anew."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from floodmap.correction.changes import ChangedCodes
from floodmap.correction.cog_tiles import rewritten_rasters
from floodmap.correction.features import Features
from floodmap.correction.outlines.changing import Change
from floodmap.errors import writing
from floodmap.geo.geogrid import GeoGrid
from floodmap.output.census import Census, take_census
from floodmap.output.cog import KINDS
from floodmap.output.finishing import Finishing
from floodmap.output.polygons import Polygons, layers, polygonize
from floodmap.output.results import FloodMap


def write_quickly(finishing: Finishing, features: Features, codes: ChangedCodes) -> FloodMap:
    """Write a corrected result from the automatic one and the changes.

    The files have the bytes of a result that is written as a whole (`Finishing.run`).

    Args:
        finishing: settings for writing the results; see `can_be_quick`.
        features: features of the automatic result.
        codes: codes with the changes.

    Raises:
        OutputError: a file cannot be written.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="rasters") as executor:
        rasters = executor.submit(_rasters, finishing, features, codes)
        polygons = _polygons(finishing, features, codes)
        census = census_with_changes(features.census(finishing.threshold), codes, finishing.grid)
        return finishing.complete(codes, rasters.result(), polygons, census)


def census_with_changes(before: Census, codes: ChangedCodes, grid: GeoGrid) -> Census:
    """Return the pixels and areas of a scene with changes.

    Args:
        before: pixels and areas without the changes.
        codes: codes with the changes.
        grid: grid of the scene's pixels.
    """
    blocks = list(codes.changed_blocks())
    old = take_census(((row, one) for row, one, _ in blocks), grid, threshold=before.threshold)
    new = take_census(((row, one) for row, _, one in blocks), grid, threshold=before.threshold)
    ground = None
    if before.ground_m2 is not None and old.ground_m2 is not None and new.ground_m2 is not None:
        ground = before.ground_m2 + (new.ground_m2 - old.ground_m2)
        ground[before.pixels + new.pixels - old.pixels == 0] = 0  # not the rest of a rounding
    return Census(pixels=before.pixels + new.pixels - old.pixels, ground_m2=ground, threshold=before.threshold)


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


def _polygons(finishing: Finishing, features: Features, codes: ChangedCodes) -> Polygons:
    """Return the polygons: the kept outlines with the changes, or, where that is not possible, traced anew."""
    settings = finishing.of_polygons()
    outlines = features.outlines()
    if outlines and (found := Change(outlines, codes.boxes, grid=finishing.grid).apply(codes.after)):
        return layers(*found, crs=finishing.grid.crs, model=settings["model"], source=settings["source"])
    return polygonize(codes.strips(), **settings)
