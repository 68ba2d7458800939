"""Function `evaluate`, which scores predicted flood against a reference; both are files, folders or GeoDataFrames."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from floodmap.errors import EvaluationError, FloodmapError
from floodmap.evaluation.counting import Counts, compare, spacing
from floodmap.evaluation.errors_layer import check_target, disagreement, write_disagreement
from floodmap.evaluation.origin import seen_in_training, warn_of_outside
from floodmap.evaluation.scores import COUNTS, Scores
from floodmap.evaluation.summary import Evaluation
from floodmap.geo.gdal import gdal_env
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.vectors import as_file
from floodmap.masks.meanings import settle
from floodmap.masks.opening import holds_polygons, open_mask
from floodmap.masks.pairing import Pair, Pairs, pair_files
from floodmap.masks.raster import RasterMask, is_imagery
from floodmap.masks.rules import FloodRule, Ignore, Reader
from floodmap.masks.vector import PolygonMask, polygon_grid

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

__all__ = ["Evaluation", "Scores", "evaluate"]

_log = logging.getLogger(__name__)

Values: TypeAlias = float | str | Iterable[float] | None
"""Definition of flood by the user: raster values (1 or "1,2"), or values of an attribute ("class=water").

None: the user gave no definition; see `evaluate`."""
_CACHE_BYTES = 128 * 2**20
"""Size of GDAL's block cache in bytes; by default GDAL uses a share of the memory of the machine."""


def evaluate(
    prediction: str | os.PathLike[str] | GeoDataFrame,
    reference: str | os.PathLike[str] | GeoDataFrame,
    *,
    flood_value: Values = None,
    reference_value: Values = None,
    threshold: float | None = None,
    ignore_values: Ignore = None,
    tolerance_m: float | None = None,
    resolution_m: float | None = None,
    errors: Path | str | None = None,
    overwrite: bool = False,
    seed: int = 0,
) -> Evaluation:
    """Score predicted flood against a reference, over the pixels that are flooded or dry in both.

    Prediction and reference are files (rasters of one band, or polygons) in any CRS and on any grid, or folders of
    files. Files of folders are paired by name (`x_mask.tif` with `x_reference.tif`, `x_mask.png`, `x.tif`, `x.gpkg`
    ...). Both are compared on one grid: the grid of the prediction if the prediction is a raster, else the grid of the
    reference if the reference is a raster, else a new grid. A raster on another grid is warped by nearest neighbour,
    and polygons are rasterized. A raster without CRS is compared pixel by pixel with a raster of the same size.

    Unobserved pixels are left out. Unobserved are nodata, masked and transparent pixels, pixels with an ignored value
    (see `ignore_values`), pixels outside a raster, and pixels in polygons of a layer `unobserved`. Pixels in no polygon
    are dry.

    Args:
        prediction: a file, a folder, or a GeoDataFrame of flood polygons.
        reference: a file, a folder, or a GeoDataFrame of flood polygons.
        flood_value: flood in the prediction: raster values (1, (1, 2), "1,2") or "attribute=value" of polygons. None:
            every polygon is flood, and the flood value of rasters follows from the values of all predicted rasters: 1
            for the values 0 and 1; 255 for the values 0 and 255; 1 for the values 0, 1 and 255, where 255 is
            unobserved. Other values are an error, unless the rasters contain probabilities (see `threshold`).
        reference_value: flood in the reference, in the format of `flood_value`.
        threshold: a pixel of the prediction is flood from this probability (0.01 to 1) upwards. The prediction is then
            a raster of probabilities; in a folder, `x_probability.tif` is used. For a raster in per cent the threshold
            is scaled, with a warning. None: 0.5 if `flood_value` is None and the metadata of every prediction raster
            say that its values are per cent (band unit "%", or floodmap's band name); else no threshold.
        ignore_values: raster values of unobserved pixels (9, "0,9", (0, 9)). In the prediction, 0 and flood values are
            never ignored; with a threshold, the values 0 to 100 are never ignored. Pixels with nodata and with common
            fill values are also unobserved. Fill values are every value below 0, the largest value of an integer dtype
            (255 in uint8), and some large values such as 9999 and 1e20 (all are listed at `FloodRule.hides`). A flood
            value is never a fill value. "none": fill values do not count as unobserved, only nodata does.
        tolerance_m: for the boundary score (`Scores.boundary_f1`): a boundary pixel of one mask matches the other mask
            if a boundary pixel of the other mask lies within this distance. In metres; in pixels if the grid has no
            geographic or projected CRS. None: three pixels of the compared grid.
        resolution_m: pixel size of the new grid, if prediction and reference are polygons: in metres, or in the units
            of the files if these have no CRS. None: 1.
        errors: GeoPackage that is written: polygons of false positives (red in QGIS) and false negatives (green).
            None: no file.
        overwrite: replace the GeoPackage if the file exists.
        seed: seed of the bootstrap.

    Returns:
        Scores of each scene, mean scores and pooled scores.

    Raises:
        EvaluationError: no two files form a pair, a file is no mask, the flood value is ambiguous, or prediction and
            reference do not overlap. If only some of several pairs fail, `Evaluation.refused` lists the failed pairs.
        MissingCRSError: only one of prediction and reference has a CRS, and the sizes differ.
        VectorError: polygons cannot be read.
        OutputError: the GeoPackage of `errors` cannot be written.
    """
    with as_file(prediction, "prediction") as predicted, as_file(reference, "reference") as referenced:
        return _evaluate_files(
            predicted, referenced, flood_value=flood_value, reference_value=reference_value, threshold=threshold,
            ignore_values=ignore_values, tolerance_m=tolerance_m, resolution_m=resolution_m,
            errors=None if errors is None else Path(errors), overwrite=overwrite, seed=seed,
        )  # fmt: skip


def _evaluate_files(
    prediction: Path,
    reference: Path,
    *,
    flood_value: Values,
    reference_value: Values,
    threshold: float | None,
    ignore_values: Ignore,
    tolerance_m: float | None,
    resolution_m: float | None,
    errors: Path | None,
    overwrite: bool,
    seed: int,
) -> Evaluation:
    """Score files or folders. All arguments have the meaning of the arguments of `evaluate`."""
    rules = (
        _prediction_rule(FloodRule.parse(flood_value, threshold), FloodRule.parse(None, ignore=ignore_values)),
        FloodRule.parse(reference_value, ignore=ignore_values),
    )
    if resolution_m is not None and not 0 < resolution_m < np.inf:
        raise EvaluationError(f"a resolution of {resolution_m:g} m is no pixel size; give one above 0")
    if errors is not None:
        check_target(errors, overwrite=overwrite)
    with gdal_env(cache_bytes=_CACHE_BYTES):
        pairs = pair_files(prediction, reference, is_imagery=is_imagery, probabilities=threshold is not None)
        files = [path for pair in pairs.pairs for path in (pair.prediction, pair.reference)]
        if rules[1].ignored and all(map(holds_polygons, files)):
            raise EvaluationError("both sides hold polygons: --ignore-value applies to rasters only")
        for path in filter(holds_polygons, files):
            warn_of_outside(path)
        settled = (
            _settle(rules[0], [pair.prediction for pair in pairs.pairs], "--flood-value"),
            _settle(rules[1], [pair.reference for pair in pairs.pairs], "--reference-value"),
        )
        wrong: list[GeoDataFrame] = []
        keep_errors = None if errors is None else wrong.append
        score = partial(
            _score, rules=settled, tolerance_m=tolerance_m, resolution_m=resolution_m or 1.0, keep_errors=keep_errors
        )
        scenes, refused = _score_all(pairs, score)
        _warn_of_absent(scenes, rules)
        if errors is not None:
            newest = max(pair.prediction.stat().st_mtime for pair in pairs.pairs)
            date = datetime.fromtimestamp(newest, tz=UTC)
            write_disagreement(wrong, errors, date=date, overwrite=overwrite)
    return Evaluation(
        scenes=tuple(scenes),
        unpaired_predictions=tuple(map(str, pairs.unpaired_predictions)),
        unpaired_references=tuple(map(str, pairs.unpaired_references)),
        refused=tuple(refused),
        seen=seen_in_training(pair.prediction for pair in pairs.pairs),
        seed=seed,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rules:
    """Definition of flood in all predictions, or in all references: one rule for rasters, and one rule for polygons."""

    raster: FloodRule
    polygons: FloodRule

    def on(self, mask: RasterMask | PolygonMask, grid: GeoGrid) -> Reader:
        """Return a function that reads the classes of `mask` in a window of `grid` (see `rules.Reader`)."""
        return mask.on(grid, self.raster if isinstance(mask, RasterMask) else self.polygons)


def _prediction_rule(rule: FloodRule, ignoring: FloodRule) -> FloodRule:
    """Return a copy of the rule of the predictions with the user's values to ignore.

    Args:
        rule: rule of the predictions, without values to ignore.
        ignoring: another rule, parsed from the user's `ignore_values` alone.

    Returns:
        Copy of `rule` with two fields of `ignoring`: `careful` (whether pixels with a common fill value are unobserved)
        and `ignored` (values of unobserved pixels). Values that are flood or dry in the predictions are removed from
        `ignored`. With a threshold, these are all values from 0 to 100. Without a threshold, they are 0 and the flood
        values; if the user gave no flood values, they are 0, 1 and 255.
    """
    classes = (0.0, *(rule.values or (1.0, 255.0)))
    ignored = tuple(
        value
        for value in ignoring.ignored
        if (value not in classes if rule.threshold is None else not 0 <= value <= 100)
    )
    return replace(rule, ignored=ignored, careful=ignoring.careful)


def _settle(rule: FloodRule, paths: list[Path], option: str) -> _Rules:
    """Return the rules of all predictions, or of all references. Missing flood values are inferred from the rasters."""
    rasters = [path for path in paths if not holds_polygons(path)]
    return _Rules(raster=settle(rule, rasters, option) if rasters else rule, polygons=rule)


def _score_all(pairs: Pairs, score: Callable[[Pair], Scores]) -> tuple[list[Scores], list[str]]:
    """Score every pair; return the scores, and a line of text for each pair that failed.

    Raises:
        EvaluationError: there are several pairs, and all fail. If the only pair fails, its own error is raised.
    """
    scenes, refused = [], []
    for pair in pairs.pairs:
        try:
            scenes.append(score(pair))
        except FloodmapError as error:
            if len(pairs.pairs) == 1:
                raise
            refused.append(f"{pair.name}: {error}")
    if not scenes:
        raise EvaluationError(f"none of the {len(pairs.pairs)} pairs can be compared; the first, {refused[0]}")
    return scenes, refused


def _score(
    pair: Pair,
    *,
    rules: tuple[_Rules, _Rules],
    tolerance_m: float | None,
    resolution_m: float,
    keep_errors: Callable[[GeoDataFrame], None] | None,
) -> Scores:
    """Score one pair on the grid of the prediction, the grid of the reference, or a new grid (see `evaluate`)."""
    with closing(open_mask(pair.prediction)) as predicted, closing(open_mask(pair.reference)) as referenced:
        if isinstance(predicted, RasterMask):
            grid = predicted.grid
        elif isinstance(referenced, RasterMask):
            grid = referenced.grid
        else:
            grid = polygon_grid(predicted, referenced, resolution_m)
        if isinstance(predicted, RasterMask):
            predicted.tell_scale(rules[0].raster)
        readers = rules[0].on(predicted, grid), rules[1].on(referenced, grid)
        tolerance = 3 * float(np.sqrt(np.prod(spacing(grid)))) if tolerance_m is None else tolerance_m
        counts = compare(*readers, grid, tolerance=tolerance)
        _require_observed(counts, pair)
        if keep_errors is not None:
            keep_errors(disagreement(*readers, grid, scene=pair.name))
    return _scores(counts, pair, tolerance, grid.is_on_earth)


def _scores(counts: Counts, pair: Pair, tolerance: float, placed: bool) -> Scores:
    hectares: dict[str, Any] = {}
    if placed:
        hectares = {"predicted_ha": counts.predicted_m2 / 1e4, "reference_ha": counts.reference_m2 / 1e4}
    return Scores(
        name=pair.name,
        unobserved=counts.unobserved,
        tolerance=tolerance,
        tolerance_unit="m" if placed else "px",
        prediction=str(pair.prediction),
        reference=str(pair.reference),
        **{name: getattr(counts, name) for name in COUNTS},
        **hectares,
    )


def _require_observed(counts: Counts, pair: Pair) -> None:
    """Raise EvaluationError if no pixel is observed (flooded or dry) in both the prediction and the reference."""
    if not counts.prediction_observed:
        raise EvaluationError(f"{pair.prediction} is unobserved throughout, so there is nothing to score")
    if not counts.reference_observed:
        raise EvaluationError(f"{pair.reference} has no observed pixel on the prediction's ground to score it against")
    if counts.unobserved and not counts.tp + counts.fp + counts.fn + counts.tn:
        raise EvaluationError(f"{pair.prediction} and {pair.reference} share no observed pixel")


def _warn_of_absent(scenes: list[Scores], rules: tuple[FloodRule, FloodRule]) -> None:
    """Log a warning if the user defined flood by values or an attribute, and no observed pixel of any scene is flood.

    Predictions and references are tested separately.
    """
    sides = (
        (rules[0], "prediction", "--flood-value", sum(scene.tp + scene.fp for scene in scenes)),
        (rules[1], "reference", "--reference-value", sum(scene.tp + scene.fn for scene in scenes)),
    )
    for rule, side, option, flood in sides:
        if not flood and (rule.values or rule.attribute):
            _log.warning("no %s has flood with this %s: check the value", side, option)
