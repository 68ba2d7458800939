"""Inference of the flood value of masks without metadata about it, from the values of all masks of one side."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from floodmap.errors import EvaluationError, FloodmapError
from floodmap.masks.raster import RasterMask
from floodmap.masks.rules import FloodRule
from floodmap.strips.codes import UNOBSERVED


def settle(rule: FloodRule, paths: Sequence[Path], option: str) -> FloodRule:
    """Complete a rule that does not define flood: of the values 0 and 1 it is 1, of 0 and 255 it is 255.

    In rasters whose metadata declares per cent, as floodmap's probabilities do, flood begins at 0.5. The values of all
    masks of one side are combined, since a mask that is all dry or all flood shows nothing. Values that the rule hides
    are left out, and 255 beside 0 and 1 means unobserved, as in the masks that floodmap writes. With a threshold, the
    largest values of the side show whether floats are per cent.

    Args:
        rule: the rule from the user's options.
        paths: rasters of one side; those that cannot be read are skipped.
        option: the option that defines flood, for the error message.

    Raises:
        EvaluationError: the values do not show what is flood.
    """
    if rule.values or rule.attribute:
        return rule
    if rule.threshold is not None:
        return replace(rule, in_percent=len(paths) > 1 and any(_holds_percent(path, rule) for path in paths))
    if paths and all(map(_declares_percent, paths)):
        return replace(rule, threshold=0.5)
    found: set[float] = set()
    nodata: set[float] = set()
    names = []
    for path in paths:
        try:
            with closing(RasterMask(path)) as mask:
                found |= visible_classes(mask, rule)
                nodata |= {mask.nodata} if mask.nodata is not None else set()
        except EvaluationError:
            continue
        names.append(path)
    where = str(names[0]) if len(names) == 1 else f"{names[0].parent} ({len(names)} masks)" if names else ""
    if 0.0 in nodata and found in ({1.0}, {255.0}):
        raise EvaluationError(
            f"{where} declares its 0 as nodata, so nothing in it is dry; where 0 means dry, undo that with "
            f"gdal_edit.py -unsetnodata, else confirm with {option} {found.pop():g}"
        )
    if found <= {0.0, 1.0}:
        return replace(rule, values=(1.0,))
    if found == {0.0, 1.0, 255.0}:
        return replace(rule, values=(1.0,), ignored=(*rule.ignored, *([float(UNOBSERVED)] if rule.careful else [])))
    if found == {0.0, 255.0} and 255.0 not in nodata:
        return replace(rule, values=(255.0,))
    shown = ", ".join(f"{value:g}" for value in sorted(found)[:6]) + (", ..." if len(found) > 6 else "")
    raise EvaluationError(
        f"{where} holds the values {shown}; say which of them is flood with {option}, "
        "and which is neither flood nor dry with --ignore-value"
    )


def visible_classes(mask: RasterMask, rule: FloodRule) -> set[float]:
    """Values of a mask without those that the rule hides; 255 is kept unless ignored, since it may be flood."""
    values = mask.values()
    visible = {value for value in values if not rule.hides(np.array([value], mask.dtype))[0]}
    return visible | (values & {float(UNOBSERVED)} - set(rule.ignored))


def _declares_percent(path: Path) -> bool:
    try:
        with closing(RasterMask(path)) as mask:
            return mask.declares_percent
    except EvaluationError:
        return False


def _holds_percent(path: Path, rule: FloodRule) -> bool:
    """Whether the values of a float raster without such metadata are per cent."""
    try:
        with closing(RasterMask(path)) as mask:
            return mask.dtype.kind == "f" and not mask.declares_percent and mask.holds_percent(rule)
    except FloodmapError:
        return False
