"""What is wrong with labelled imagery, looked for before anything is trained on it."""

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
from floodmap.masks.meanings import settle, shown_classes
from floodmap.masks.raster import RasterMask
from floodmap.masks.rules import FloodRule, Ignore
from floodmap.strips import codes
from floodmap.strips.codes import FLOOD, UNOBSERVED

Kind = Literal[
    "missing mask", "stray mask", "unreadable", "size", "values", "empty", "full", "unscored", "duplicate", "swapped"
]
FATAL: tuple[Kind, ...] = ("missing mask", "unreadable", "size", "values", "unscored")
"""What makes a picture useless: it is left out. The other kinds are worth a look."""
HASH_SIDE = 8
"""Cosines along each axis that a picture is told by."""
ALIKE_BITS = 10
"""Most bits of 63 by which the hashes of two copies of one picture differ."""
_LOOKED_AT = 8
"""Masks whose values are listed where none is flood."""
PREVIEW_SIDE = 256
"""Longest side of what is looked at of a picture, in pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing wrong with one picture."""

    kind: Kind
    name: str
    """Of the picture, or of the mask where there is none."""
    text: str
    """What is wrong, and what to do."""

    @property
    def is_fatal(self) -> bool:
        """Whether the picture is left out for it."""
        return self.kind in FATAL

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}: {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What was found in labelled imagery."""

    findings: tuple[Finding, ...]
    """The fatal ones first."""
    usable: tuple[Labelled, ...]
    """Pictures that can be trained on."""
    rule: FloodRule
    """What is flood: its values in masks that are rasters, its attribute in those that are polygons."""
    groups: NDArray[np.int64]
    """Of each usable picture: those with one number are near-duplicates, and belong on one side of any split."""

    @property
    def flood_values(self) -> tuple[float, ...]:
        """Values of flooded pixels in masks that are rasters."""
        return self.rule.values

    def table(self) -> str:
        """The findings as lines of text, the fatal ones first."""
        return "\n".join(map(str, self.findings))


def audit(labels: Labels, *, flood_value: str | None = None, ignore_values: Ignore = None) -> Audit:
    """Look at every picture and mask of a folder.

    Args:
        labels: the folder's pictures.
        flood_value: which values of the masks are flood, as `FloodRule.parse` reads it; what is not, is dry then.
            None: found out, and masks with other values are left out.
        ignore_values: which values are neither, likewise.
    """
    findings = [
        Finding(kind="stray mask", name=path.name, text="is the mask of no picture; rename it or take it away")
        for path in labels.strays
    ]
    rule = FloodRule.parse(flood_value, ignore=ignore_values)
    is_given = bool(rule.values)
    if not is_given:
        rasters = [one.label for one in labels.labelled if one.label and not one.has_polygons]
        with gdal_env():
            settled = _commonly(replace(rule, attribute="", matches=()), rasters)
        rule = replace(settled, attribute=rule.attribute, matches=rule.matches)
    usable, hashes = [], []
    for one in labels.labelled:
        found, preview = _look_at(one, rule, is_given)
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
    """Raise LabelError where what a user says is flood occurs in no mask."""
    if any(one.name not in dry or one.has_polygons for one in usable):
        return
    found: set[float] = set()
    for one in usable[:_LOOKED_AT]:
        if one.label is not None:
            with closing(RasterMask(one.label)) as mask, gdal_env():
                found |= mask.values()
    held = ", ".join(f"{value:g}" for value in sorted(found)[:12])
    given = ", ".join(f"{value:g}" for value in rule.values)
    raise LabelError(f"--flood-value {given} occurs in no mask of {folder}; they hold {held}")


def _commonly(rule: FloodRule, paths: Sequence[Path]) -> FloodRule:
    """What most masks say: one odd mask must not leave the question open for all others."""
    try:
        return settle(rule, paths, "--flood-value")
    except EvaluationError:
        answers = [alone for path in paths if (alone := _alone(rule, path))]
        if not answers:
            raise
        return max(dict.fromkeys(answers), key=answers.count)


def _alone(rule: FloodRule, path: Path) -> FloodRule | None:
    try:
        return settle(rule, [path], "--flood-value")
    except EvaluationError:
        return None


def _look_at(one: Labelled, rule: FloodRule, is_given: bool) -> tuple[list[Finding], Tile | None]:
    """What is wrong with a picture and its mask, and the picture shrunk where it can be read.

    `is_given`: it was said which values are flood, so that all others are known not to be.
    """
    if one.label is None:
        text = f"{one.image} has no mask; add one of its name (.png, .tif: JPEG blurs classes) or take the picture away"
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
    misfit = None if one.has_polygons else _misfit(one, scene, rule, is_given, finding)
    if misfit is not None:
        yield misfit
        return
    label, _ = read_label(one, scene, rule)
    file = one.label.name if one.label else one.name
    scored, flood = label != UNOBSERVED, label == FLOOD
    if not scored.any():
        yield finding("unscored", f"{file} has no pixel that is flooded or dry")
    elif not flood.any():
        yield finding("empty", f"{file} has no flood: right for dry ground, else a lost label")
    elif flood[scored].all():
        yield finding("full", f"{file} is all flood: is it inverted?")


def _misfit(
    one: Labelled, scene: Scene, rule: FloodRule, is_given: bool, finding: Callable[[Kind, str], Finding]
) -> Finding | None:
    """What keeps a mask that is a raster from being read on its picture's pixels."""
    if one.label is None:
        return None
    with closing(RasterMask(one.label)) as mask, gdal_env():
        grid, values = mask.grid, set() if is_given else shown_classes(mask, rule)
    if grid.crs is None and (grid.height, grid.width) != (scene.height, scene.width):
        sizes = f"{grid.width} x {grid.height} pixels, the picture {scene.width} x {scene.height}"
        return finding("size", f"{one.label.name} has {sizes}: is it another picture's mask, or resized?")
    foreign = values - {0.0, *rule.values, float(UNOBSERVED)}
    if foreign:
        shown = ", ".join(f"{value:g}" for value in sorted(foreign)[:4])
        told = "say what is with --flood-value, and what is neither flood nor dry with --ignore-value"
        return finding("values", f"{one.label.name} holds {shown} beside what is flood; {told}")
    return None


def picture_hash(path: Path) -> NDArray[np.bool_]:
    """Perceptual hash of a picture: signs of its lowest cosines (Zauner 2010, section 3.2.1); bool (63,)."""
    with Scene.open(path) as scene:
        return _hash_of(scene.preview(PREVIEW_SIDE))


def _hash_of(preview: Tile) -> NDArray[np.bool_]:
    grey = Image.fromarray(np.ascontiguousarray(preview.rgb.transpose(1, 2, 0))).convert("L")
    small = np.asarray(grey.resize((4 * HASH_SIDE, 4 * HASH_SIDE), Image.Resampling.BOX), np.float64)
    low = dctn(small, norm="ortho")[:HASH_SIDE, :HASH_SIDE].ravel()[1:]
    return np.asarray(low > np.median(low))


def near_duplicates(hashes: Sequence[NDArray[np.bool_]]) -> NDArray[np.int64]:
    """A number for each picture, the same for pictures that look alike, directly or through others between."""
    if not hashes:
        return np.empty(0, np.int64)
    bits = np.array(hashes, np.float32)
    differing = bits @ (1 - bits).T
    alike = differing + differing.T <= ALIKE_BITS
    return np.asarray(connected_components(coo_array(alike), directed=False)[1], np.int64)


def _duplicates(usable: Sequence[Labelled], groups: NDArray[np.int64]) -> Iterator[Finding]:
    for group in np.flatnonzero(np.bincount(groups) > 1):
        first, *others = (usable[int(i)] for i in np.flatnonzero(groups == group))
        for one in others:
            apart = one.split != first.split
            text = (
                f"in {first.split or 'no split'}, and this is in {one.split or 'none'}" if apart else "kept on one side"
            )
            yield Finding(kind="duplicate", name=one.name, text=f"looks like {first.name}: {text}")


def split_labels(
    usable: Sequence[Labelled], groups: NDArray[np.int64], *, val_share: float, seed: int
) -> tuple[tuple[Labelled, ...], tuple[Labelled, ...]]:
    """Pictures to train on, and pictures to validate on.

    What the data set itself says is kept to. Where it says nothing whole groups of near-duplicates are drawn until the
    share is reached. What it calls `test` is on neither side.

    Raises:
        LabelError: one of the sides would be empty.
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
                f"none of the {len(usable)} usable pictures is left to {use} on; label more, or split them anew"
            )
    return tuple(sides[0]), tuple(sides[1])
