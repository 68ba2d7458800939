"""Audit of labelled imagery before training, and the split into training and validation pictures.

The audit finds missing masks, wrong sizes, unknown values and near-duplicates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from floodmap.errors import EvaluationError, FloodmapError, LabelError
from floodmap.geo.gdal import gdal_env
from floodmap.imagery.scene import Scene
from floodmap.imagery.tile import Tile
from floodmap.masks.labels import Labelled, Labels, read_label
from floodmap.masks.meanings import settle, visible_classes
from floodmap.masks.raster import RasterMask
from floodmap.masks.rules import FloodRule, Ignore
from floodmap.strips import codes
from floodmap.strips.codes import FLOOD, UNOBSERVED

Kind = Literal[
    "missing mask", "stray mask", "unreadable", "size", "values", "empty", "full", "unscored", "duplicate", "swapped"
]
FATAL: tuple[Kind, ...] = ("missing mask", "unreadable", "size", "values", "unscored")
"""Kinds of findings that exclude a picture from training. All other kinds are only reported."""
HASH_SIDE = 8
"""Number of cosine coefficients along each axis in the perceptual hash of a picture."""
ALIKE_BITS = 10
"""Largest Hamming distance between the hashes (63 bits) of two pictures that count as near-duplicates."""
_LISTED_MASKS = 8
"""If the user's flood value occurs in no mask, the error message lists values of at most this many masks."""
PREVIEW_SIDE = 256
"""Longest side in pixels of the downsampled picture that the audit checks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Problem of one picture or one mask."""

    kind: Kind
    name: str
    """Name of the picture, or of the mask if the mask has no picture."""
    text: str
    """Message: the problem, and what to do."""

    @property
    def is_fatal(self) -> bool:
        """True if the problem excludes the picture from training."""
        return self.kind in FATAL

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Result of an audit: the problems, and the pictures that can be used for training."""

    findings: tuple[Finding, ...]
    """Problems found; problems that exclude a picture come first."""
    usable: tuple[Labelled, ...]
    """Pictures without a problem that excludes the picture from training."""
    rule: FloodRule
    """Definition of flood: values of raster masks, or an attribute of polygon masks."""
    groups: NDArray[np.int64]
    """int64 (n,): group number of each of the n usable pictures.

    Near-duplicates have the same group number. Training and validation must not share pictures of one group."""

    @property
    def flood_values(self) -> tuple[float, ...]:
        """Values of flooded pixels in raster masks."""
        return self.rule.values

    def table(self) -> str:
        """Return the problems as one text, a line for each; problems that exclude a picture come first."""
        return "\n".join(map(str, self.findings))


def audit(labels: Labels, *, flood_value: str | None = None, ignore_values: Ignore = None) -> Audit:
    """Check every picture and mask of a folder, and return the problems and the usable pictures.

    Args:
        labels: pictures and masks of the folder, from `find_labels`.
        flood_value: mask values of flood, such as "1,255" (see `FloodRule.parse`); other values are dry. None: the
            flood value is inferred from the masks, and pictures with unknown values in their masks are excluded.
        ignore_values: mask values of unobserved pixels, such as "0,9" (see `FloodRule.parse`).

    Raises:
        LabelError: `flood_value` occurs in no mask.
        EvaluationError: the flood value cannot be inferred from any mask.
    """
    findings = [
        Finding(kind="stray mask", name=path.name, text="no picture has this name; rename or remove the mask")
        for path in labels.strays
    ]
    rule = FloodRule.parse(flood_value, ignore=ignore_values)
    is_given = bool(rule.values)
    if not is_given:
        rasters = [one.label for one in labels.labelled if one.label and not one.has_polygons]
        with gdal_env():
            settled = _majority_rule(replace(rule, attribute="", matches=()), rasters)
        rule = replace(settled, attribute=rule.attribute, matches=rule.matches)
    usable, hashes = [], []
    for one in labels.labelled:
        found, preview = _check_picture(one, rule, is_given)
        findings += found
        if preview is not None and not any(finding.is_fatal for finding in found):
            usable.append(one)
            hashes.append(_hash_of(preview))
    if is_given and usable:
        _refuse_absent(rule, usable, {finding.name for finding in findings if finding.kind == "empty"}, labels.folder)
    groups = near_duplicates(hashes)
    findings += _duplicates(usable, groups)
    findings.sort(key=lambda one: not one.is_fatal)
    return Audit(findings=tuple(findings), usable=tuple(usable), rule=rule, groups=groups)


def _refuse_absent(rule: FloodRule, usable: Sequence[Labelled], dry: set[str], folder: Path) -> None:
    """Raise LabelError if the user's flood value occurs in no mask of the usable pictures.

    `dry` are the names of the pictures whose mask has no flooded pixel. The error is raised if all usable pictures are
    among them. It is not raised if any usable picture has a polygon mask, because polygons have no values.
    """
    if any(one.name not in dry or one.has_polygons for one in usable):
        return
    found: set[float] = set()
    for one in usable[:_LISTED_MASKS]:
        if one.label is not None:
            with closing(RasterMask(one.label)) as mask, gdal_env():
                found |= mask.values()
    held = ", ".join(f"{value:g}" for value in sorted(found)[:12])
    given = ", ".join(f"{value:g}" for value in rule.values)
    raise LabelError(f"--flood-value {given} occurs in no mask of {folder}; they hold {held}")


def _majority_rule(rule: FloodRule, paths: Sequence[Path]) -> FloodRule:
    """Return `rule` with flood values inferred from all masks together or, if this fails, from each mask alone.

    In the second case the most frequent result is returned, so that one mask with unknown values does no harm.

    Raises:
        EvaluationError: no rule can be inferred from any mask.
    """
    try:
        return settle(rule, paths, "--flood-value")
    except EvaluationError:
        answers = [alone for path in paths if (alone := _rule_of_mask(rule, path))]
        if not answers:
            raise
        return max(dict.fromkeys(answers), key=answers.count)


def _rule_of_mask(rule: FloodRule, path: Path) -> FloodRule | None:
    try:
        return settle(rule, [path], "--flood-value")
    except EvaluationError:
        return None


def _check_picture(one: Labelled, rule: FloodRule, is_given: bool) -> tuple[list[Finding], Tile | None]:
    """Return the problems of a picture and its mask, and the downsampled picture (None if the picture is unreadable).

    Args:
        one: the picture with its mask.
        rule: definition of flood.
        is_given: True if the user gave the flood values, so that no other value is flood.
    """
    if one.label is None:
        text = f"{one.image} has no mask; add a mask of the same name (.png or .tif; not JPEG), or remove the picture"
        return [Finding(kind="missing mask", name=one.name, text=text)], None

    def finding(kind: Kind, text: str) -> Finding:
        return Finding(kind=kind, name=one.name, text=text)

    try:
        with Scene.open(one.image) as scene:
            preview = scene.preview(PREVIEW_SIDE)
            return [*_picture_findings(preview, finding), *_mask_findings(one, scene, rule, is_given, finding)], preview
    except FloodmapError as error:
        return [finding("unreadable", str(error))], None


def _picture_findings(preview: Tile, finding: Callable[[Kind, str], Finding]) -> Iterator[Finding]:
    if (preview.reason == codes.FAILED).any():
        yield finding("unreadable", "a part of the picture cannot be read; is the file complete?")
    elif not preview.valid.any():
        yield finding("unscored", "the picture has no observed pixel")


def _mask_findings(
    one: Labelled, scene: Scene, rule: FloodRule, is_given: bool, finding: Callable[[Kind, str], Finding]
) -> Iterator[Finding]:
    problem = None if one.has_polygons else _raster_problem(one, scene, rule, is_given, finding)
    if problem is not None:
        yield problem
        return
    label, _ = read_label(one, scene, rule)
    file = one.label.name if one.label else one.name
    scored, flood = label != UNOBSERVED, label == FLOOD
    if not scored.any():
        yield finding("unscored", f"{file} has no pixel that is flooded or dry")
    elif not flood.any():
        yield finding("empty", f"{file} has no flood pixel; correct if the picture is dry, otherwise add the label")
    elif flood[scored].all():
        yield finding("full", f"{file} has only flood: check that it is not inverted")


def _raster_problem(
    one: Labelled, scene: Scene, rule: FloodRule, is_given: bool, finding: Callable[[Kind, str], Finding]
) -> Finding | None:
    """Return the problem of a raster mask with a wrong size or unknown values; None if the mask fits the picture."""
    if one.label is None:
        return None
    with closing(RasterMask(one.label)) as mask, gdal_env():
        grid, values = mask.grid, set() if is_given else visible_classes(mask, rule)
    if grid.crs is None and (grid.height, grid.width) != (scene.height, scene.width):
        sizes = f"{grid.width} x {grid.height} pixels, the picture {scene.width} x {scene.height}"
        return finding("size", f"{one.label.name} has {sizes}: is it another picture's mask, or resized?")
    foreign = values - {0.0, *rule.values, float(UNOBSERVED)}
    if foreign:
        shown = ", ".join(f"{value:g}" for value in sorted(foreign)[:4])
        advice = "give flood values with --flood-value and others with --ignore-value"
        return finding("values", f"{one.label.name} has the values {shown} besides flood and dry; {advice}")
    return None


def picture_hash(path: Path) -> NDArray[np.bool_]:
    """Compute the perceptual hash of a picture, bool (63,), as in Zauner 2010, section 3.2.1.

    Each bit belongs to one of 63 cosine coefficients of low frequency: True if the coefficient is above their median.
    """
    with Scene.open(path) as scene:
        return _hash_of(scene.preview(PREVIEW_SIDE))


def _hash_of(preview: Tile) -> NDArray[np.bool_]:
    grey = Image.fromarray(np.ascontiguousarray(preview.rgb.transpose(1, 2, 0))).convert("L")
    small = np.asarray(grey.resize((4 * HASH_SIDE, 4 * HASH_SIDE), Image.Resampling.BOX), np.float64)
    low = dctn(small, norm="ortho")[:HASH_SIDE, :HASH_SIDE].ravel()[1:]
    return np.asarray(low > np.median(low))


def near_duplicates(hashes: Sequence[NDArray[np.bool_]]) -> NDArray[np.int64]:
    """Divide pictures into groups of near-duplicates.

    Two pictures are joined if their hashes differ in at most `ALIKE_BITS` bits. Groups are the connected components.

    Args:
        hashes: perceptual hash of each of n pictures, bool (63,), from `picture_hash`.

    Returns:
        int64 (n,), group number of each picture.
    """
    if not hashes:
        return np.empty(0, np.int64)
    bits = np.array(hashes, np.float32)
    differing = bits @ (1 - bits).T
    alike = differing + differing.T <= ALIKE_BITS
    return np.asarray(connected_components(coo_array(alike), directed=False)[1], np.int64)


def _duplicates(usable: Sequence[Labelled], groups: NDArray[np.int64]) -> Iterator[Finding]:
    """Yield a finding for every picture of a group of near-duplicates except the first picture of the group."""
    for group in np.flatnonzero(np.bincount(groups) > 1):
        first, *others = (usable[int(i)] for i in np.flatnonzero(groups == group))
        for one in others:
            apart = one.split != first.split
            text = "both stay in the same split"
            if apart:
                text = f"that one is in {first.split or 'no split'}, this one in {one.split or 'no split'}"
            yield Finding(kind="duplicate", name=one.name, text=f"looks like {first.name}; {text}")


def split_labels(
    usable: Sequence[Labelled], groups: NDArray[np.int64], *, val_share: float, seed: int
) -> tuple[tuple[Labelled, ...], tuple[Labelled, ...]]:
    """Divide pictures into training pictures and validation pictures.

    If the data set has a split, this split is used, and `test` pictures are left out. Otherwise whole groups of
    near-duplicates are drawn at random for validation, until the share is reached.

    Args:
        usable: the pictures.
        groups: int64 (n,), group numbers of the pictures, from `near_duplicates`.
        val_share: share of the pictures for validation, 0 to 1.
        seed: seed of the random draw.

    Returns:
        The training pictures and the validation pictures.

    Raises:
        LabelError: no training picture or no validation picture is left.
    """
    if any(one.split for one in usable):
        sides = [[one for one in usable if one.split == split] for split in ("train", "val")]
    else:
        order = np.random.default_rng(seed).permutation(int(groups.max(initial=-1)) + 1)
        sizes = np.bincount(groups)[order]
        wanted = max(1, round(val_share * len(usable)))
        chosen = order[: int(np.searchsorted(np.cumsum(sizes), wanted)) + 1]
        is_val = np.isin(groups, chosen)
        sides = [[one for one, there in zip(usable, side, strict=True) if there] for side in (~is_val, is_val)]
    for side, use in zip(sides, ("train", "validate"), strict=True):
        if not side:
            raise LabelError(
                f"none of the {len(usable)} usable pictures is left to {use} on: label more, or change the split"
            )
    return tuple(sides[0]), tuple(sides[1])
