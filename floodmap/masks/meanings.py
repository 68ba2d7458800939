"""What is flood in masks that do not say so, by the values of all masks of one side together."""

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
    """Complete a rule that leaves open what is flood: 1 of 0 and 1, 255 of 0 and 255.

    Rasters that say that they hold per cent, as floodmap's probabilities do, are flooded from 0.5 up. All masks of one
    side are looked at together, since one that is all dry or all flood tells nothing. What the rule
    hides is not looked at, and 255 beside 0 and 1 means unobserved, as in the masks floodmap writes. With a threshold,
    floats that hold per cent are known by the side's largest values.

    Args:
        rule: what was given.
        paths: rasters of one side; those that cannot be read are passed over.
        option: the option that would answer the question, for the error.

    Raises:
        EvaluationError: the values leave it open.
    """
    if rule.values or rule.attribute:
        return rule
    if rule.threshold is not None:
        return replace(rule, in_percent=len(paths) > 1 and any(_holds_percent(path, rule) for path in paths))
    if paths and all(map(_says_percent, paths)):
        return replace(rule, threshold=0.5)
    found: set[float] = set()
    nodata: set[float] = set()
    names = []
    for path in paths:
        try:
            with closing(RasterMask(path)) as mask:
                found |= shown_classes(mask, rule)
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


def shown_classes(mask: RasterMask, rule: FloodRule) -> set[float]:
    """Values of a mask's pixels but for those that a rule hides; with 255, which may be flood unless it is ignored."""
    values = mask.values()
    told = {value for value in values if not rule.hides(np.array([value], mask.dtype))[0]}
    return told | (values & {float(UNOBSERVED)} - set(rule.ignored))


def _says_percent(path: Path) -> bool:
    try:
        with closing(RasterMask(path)) as mask:
            return mask.says_percent
    except EvaluationError:
        return False


def _holds_percent(path: Path, rule: FloodRule) -> bool:
    """Whether a raster of floats that does not say so holds per cent."""
    try:
        with closing(RasterMask(path)) as mask:
            return mask.dtype.kind == "f" and not mask.says_percent and mask.holds_percent(rule)
    except FloodmapError:
        return False
