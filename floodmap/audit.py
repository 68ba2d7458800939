"""What is wrong with labelled imagery, looked for before anything is trained on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from floodmap.errors import EvaluationError, FloodmapError, LabelError
from floodmap.frames import FLOOD, UNOBSERVED, Codes, FloodRule
from floodmap.grid import Window
from floodmap.labels import Labelled, Labels
from floodmap.masks import RasterMask, flood_values
from floodmap.pairs import VECTORS
from floodmap.scene import Scene

Kind = Literal[
    "missing mask", "stray mask", "unreadable", "size", "values", "empty", "full", "unscored", "duplicate", "swapped"
]
FATAL: tuple[Kind, ...] = ("missing mask", "unreadable", "size", "values", "unscored")
"""What makes a picture useless: it is left out. The other kinds are worth a look."""
HASH_SIDE = 8
"""Cosines along each axis that a picture is told by."""
ALIKE_BITS = 10
"""Most bits of 63 by which the hashes of two copies of one picture differ."""
SWAPPED_IOU = 0.25
"""A model that agrees less than this with a picture's mask, and twice as much with another's, says they are swapped."""


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
        return self.kind in FATAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What was found in labelled imagery."""

    findings: tuple[Finding, ...]
    usable: tuple[Labelled, ...]
    """Pictures that can be trained on."""
    flood_values: tuple[float, ...]
    """Values of flooded pixels in masks that are rasters."""
    groups: NDArray[np.int64]
    """Of each usable picture: those with one number are near-duplicates, and belong on one side of any split."""

    def table(self) -> str:
        """The findings as lines of text, the fatal ones first."""
        lines = [
            f"{one.kind}: {one.name}: {one.text}" for one in sorted(self.findings, key=lambda one: not one.is_fatal)
        ]
        return "\n".join(lines)


def audit(labels: Labels, *, flood_value: str | None = None) -> Audit:
    """Look at every picture and mask of a folder.

    Args:
        labels: the folder's pictures.
        flood_value: which values of the masks are flood, as `FloodRule.parse` reads it; None: found out.
    """
    findings = [
        Finding(kind="stray mask", name=path.name, text="has no picture; rename it or take it away")
        for path in labels.strays
    ]
    rasters = [one.label for one in labels.labelled if one.label and one.label.suffix.lower() not in VECTORS]
    rule = FloodRule.parse(flood_value)
    if not rule.values and not rule.attribute:
        rule = FloodRule(values=_common_values(rasters))
    usable, hashes = [], []
    for one in labels.labelled:
        found = list(_findings(one, rule))
        findings += found
        if not any(finding.is_fatal for finding in found):
            usable.append(one)
            hashes.append(picture_hash(one.image))
    groups = near_duplicates(hashes)
    findings += _duplicates(usable, groups)
    return Audit(findings=tuple(findings), usable=tuple(usable), flood_values=rule.values, groups=groups)


def _common_values(paths: Sequence[Path]) -> tuple[float, ...]:
    """What is flood in most masks: one odd mask must not leave the question open for all others."""
    try:
        return flood_values(paths, "--flood-value")
    except EvaluationError:
        answers = [values for path in paths if (values := _values_of(path))]
        if not answers:
            raise
        return max(set(answers), key=answers.count)


def _values_of(path: Path) -> tuple[float, ...] | None:
    try:
        return flood_values([path], "--flood-value")
    except EvaluationError:
        return None


def _findings(one: Labelled, rule: FloodRule) -> Iterator[Finding]:
    def finding(kind: Kind, text: str) -> Finding:
        return Finding(kind=kind, name=one.name, text=text)

    if one.label is None:
        yield finding("missing mask", f"{one.image} has no mask; add one of the same name, or take the picture away")
        return
    try:
        with Scene.open(one.image) as scene:
            shape_hw = scene.height, scene.width
        if one.label.suffix.lower() in VECTORS:
            return
        mask = RasterMask(one.label)
    except FloodmapError as error:
        yield finding("unreadable", str(error))
        return
    try:
        yield from _mask_findings(mask, shape_hw, rule, finding)
    except EvaluationError as error:
        yield finding("unreadable", str(error))
    finally:
        mask.close()


def _mask_findings(
    mask: RasterMask, shape_hw: tuple[int, int], rule: FloodRule, finding: Callable[[Kind, str], Finding]
) -> Iterator[Finding]:
    frame = mask.frame
    if frame.crs is None and (frame.height, frame.width) != shape_hw:
        sizes = f"{frame.width} x {frame.height} pixels, the picture {shape_hw[1]} x {shape_hw[0]}"
        yield finding("size", f"{mask.path.name} has {sizes}: is it another picture's mask, or resized?")
        return
    foreign = mask.values() - {0.0, *rule.values, float(UNOBSERVED)}
    if foreign:
        shown = ", ".join(f"{value:g}" for value in sorted(foreign)[:4])
        yield finding("values", f"{mask.path.name} holds {shown} beside what is flood; say what is with --flood-value")
        return
    codes = mask.on(frame, rule)(Window(0, 0, frame.height, frame.width))
    scored, flood = codes != UNOBSERVED, codes == FLOOD
    if not scored.any():
        yield finding("unscored", f"{mask.path.name} has no pixel that is flooded or dry")
    elif not flood.any():
        yield finding("empty", f"{mask.path.name} has no flood: right for dry ground, else a lost label")
    elif flood[scored].all():
        yield finding("full", f"{mask.path.name} is all flood: is it inverted?")


def picture_hash(path: Path) -> NDArray[np.bool_]:
    """Perceptual hash of a picture: signs of its lowest cosines (Zauner 2010, section 3.2.1); bool (63,)."""
    with Scene.open(path) as scene:
        rgb = scene.preview(256).rgb
    grey = Image.fromarray(np.ascontiguousarray(rgb.transpose(1, 2, 0))).convert("L")
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
                f"no picture of {len(usable)} usable ones is left to {use} on; label more, or split them anew"
            )
    return tuple(sides[0]), tuple(sides[1])


def swapped_masks(usable: Sequence[Labelled], predicted: Sequence[Codes], masks: Sequence[Codes]) -> Iterator[Finding]:
    """Pairs of pictures of one size whose masks fit each other's picture far better than their own.

    Args:
        usable: the pictures.
        predicted: what a model makes of each, uint8 (h, w) of FLOOD and DRY.
        masks: of each picture, of that size.
    """
    own = np.array([_iou(one, mask) for one, mask in zip(predicted, masks, strict=True)])
    suspects = np.flatnonzero(own < SWAPPED_IOU)
    for i, j in combinations(suspects.tolist(), 2):
        if masks[i].shape != masks[j].shape:
            continue
        crossed = min(_iou(predicted[i], masks[j]), _iou(predicted[j], masks[i]))
        if crossed > 2 * SWAPPED_IOU:
            text = f"its mask seems to be that of {usable[j].name}, and the other way round"
            yield Finding(kind="swapped", name=usable[i].name, text=text)


def _iou(one: Codes, other: Codes) -> float:
    flood = (one == FLOOD) & (other != UNOBSERVED), other == FLOOD
    union = int((flood[0] | flood[1]).sum())
    return int((flood[0] & flood[1]).sum()) / union if union else 1.0
