"""Origin of predictions: model and area of interest of a run, from the JSON report beside its results."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from floodmap.masks.pairing import report_beside
from floodmap.models.training_record import seen_before

_log = logging.getLogger(__name__)


def seen_in_training(predictions: Iterable[Path]) -> tuple[str, ...]:
    """Return a warning for each model that was trained or validated on some of the predicted scenes.

    The model, and whether the scene was used in training, are read from the JSON report of each prediction.
    """
    roles: dict[str, list[str | None]] = {}
    for path in predictions:
        model = _entry(path, "model")
        if model:
            roles.setdefault(str(model.get("name")), []).append(model.get("seen_in_training"))
    lines = (
        seen_before(name, seen.count("train"), seen.count("val"), len(seen)) for name, seen in sorted(roles.items())
    )
    return tuple(line for line in lines if line)


def warn_of_outside(polygons: Path) -> None:
    """Log a warning if polygons are the result of a run with an area of interest.

    Polygon files do not hold the ground outside of the area of interest, which therefore counts as dry. In the rasters
    of the same run this ground is unobserved.
    """
    if _entry(polygons, "pixels").get("outside"):
        name = polygons.stem.removesuffix("_flood")
        _log.warning(
            "%s: the run had an area of interest (--aoi); ground outside of it counts as dry here, although the run "
            "did not observe it; score %s_mask.tif instead", polygons, name,
        )  # fmt: skip


def _entry(prediction: Path, key: str) -> dict[str, Any]:
    """Return the JSON object with the key `key` in the report beside a prediction (x.json for x_mask.tif), as a dict.

    The dict is empty if there is no readable report, or if the report has no object with this key.
    """
    found = report_beside(prediction)
    entry = None if found is None else found[1].get(key)
    return entry if isinstance(entry, dict) else {}
