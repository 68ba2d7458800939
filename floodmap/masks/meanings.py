"""Search for the flood value (the value of flooded pixels) of masks, if the user gives no flood value.

The flood value follows from the values that occur in the masks of one side: in all predictions, or in all references.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from floodmap.errors import EvaluationError, FloodmapError
from floodmap.masks.raster import MASK, RasterMask
from floodmap.masks.rules import FloodRule
from floodmap.strips.codes import PERMANENT, UNOBSERVED


def settle(rule: FloodRule, paths: Sequence[Path], option: str) -> FloodRule:
    """Complete the rule of the user by what the rasters show: the flood value, a threshold, or the unit per cent.

    - A rule with flood values (for rasters), or with an attribute (for polygons), is returned unchanged.
    - In a rule with a threshold, only the field `in_percent` is set. It is True if there are two rasters or more, and
      at least one of them is a float raster with values above 1, whose metadata do not declare per cent. Other float
      rasters of the side, in which no value is above 1, are then in per cent, too. A single raster does not need the
      field: `RasterMask.scale` finds the unit from the values of this raster.
    - A rule without flood values, attribute and threshold gets flood values or a threshold:
      - If the metadata of all rasters declare per cent, as in probability rasters of floodmap, the threshold is 0.5.
      - If the values of the masks are 0 and 1, 1 is flood. If the values are 0 and 255, 255 is flood.
      - If the values are 0, 1 and 255, 1 is flood and 255 is unobserved, as in the masks that floodmap writes.
      - In masks that floodmap wrote, 2 is permanent water and no flood.

    The values of all masks of one side are combined, because a mask that is all dry or all flood does not show the
    flood value. Values of unobserved pixels (see `FloodRule.hides`) are left out.

    Args:
        rule: the rule from the options of the user.
        paths: rasters of one side (predictions or references). Rasters that cannot be read are skipped.
        option: name of the option that defines flood, for the error message.

    Returns:
        The completed rule. It has flood values, a threshold or an attribute.

    Raises:
        EvaluationError: the values do not show which value is flood.
    """
    if rule.values or rule.attribute:
        return rule
    if rule.threshold is not None:
        return replace(rule, in_percent=len(paths) > 1 and any(_holds_percent(path, rule) for path in paths))
    if paths and all(map(_declares_percent, paths)):
        return replace(rule, threshold=0.5)
    found: set[float] = set()
    nodata: set[float] = set()
    names, by_floodmap = [], True
    for path in paths:
        try:
            with closing(RasterMask(path)) as mask:
                found |= visible_classes(mask, rule)
                nodata |= {mask.nodata} if mask.nodata is not None else set()
                by_floodmap &= mask.described == MASK
        except EvaluationError:
            continue
        names.append(path)
    where = str(names[0]) if len(names) == 1 else f"{names[0].parent} ({len(names)} masks)" if names else ""
    if 0.0 in nodata and found in ({1.0}, {255.0}):
        raise EvaluationError(
            f"{where} declares 0 as nodata, so no pixel is dry; if 0 means dry, run gdal_edit.py -unsetnodata FILE, "
            f"otherwise confirm with {option} {found.pop():g}"
        )
    if found <= {0.0, 1.0} or (by_floodmap and found <= {0.0, 1.0, float(PERMANENT)}):
        return replace(rule, values=(1.0,))
    if found == {0.0, 1.0, 255.0} or (by_floodmap and found <= {0.0, 1.0, float(PERMANENT), 255.0}):
        return replace(rule, values=(1.0,), ignored=(*rule.ignored, *([float(UNOBSERVED)] if rule.careful else [])))
    if found == {0.0, 255.0} and 255.0 not in nodata:
        return replace(rule, values=(255.0,))
    shown = ", ".join(f"{value:g}" for value in sorted(found)[:6]) + (", ..." if len(found) > 6 else "")
    raise EvaluationError(
        f"{where} holds the values {shown}; say which of them is flood with {option}, "
        "and which is neither flood nor dry with --ignore-value"
    )


def visible_classes(mask: RasterMask, rule: FloodRule) -> set[float]:
    """Return the distinct values of a mask, without the values of unobserved pixels (see `FloodRule.hides`).

    255 may be the flood value. It is therefore left out only if it is among the ignored values of the rule.
    """
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
    """Return whether a float raster has values above 1, although its metadata do not declare per cent.

    The values of such a raster are in per cent. The result is False if the raster cannot be read, or if
    `RasterMask.holds_percent` raises an error.
    """
    try:
        with closing(RasterMask(path)) as mask:
            return mask.dtype.kind == "f" and not mask.declares_percent and mask.holds_percent(rule)
    except FloodmapError:
        return False
