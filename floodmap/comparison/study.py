"""Study: scores of every model with every kind of prompt on every labelled picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from floodmap.comparison.difficulty import Difficulty, measure_difficulty
from floodmap.comparison.oracle import PromptKind, add_point, reference_box
from floodmap.errors import SceneError
from floodmap.evaluation.counting import compare, spacing
from floodmap.evaluation.scores import COUNTS, Scores
from floodmap.geo.geogrid import GeoGrid
from floodmap.geo.window import Window
from floodmap.imagery.scene import Scene
from floodmap.inference.loop import segment_whole
from floodmap.inference.prompting import Prompter, far_view, joined, make_prompter
from floodmap.inference.proof import Proof
from floodmap.inference.tiling import Grid
from floodmap.masks.audit import Finding
from floodmap.masks.labels import Labelled, read_label
from floodmap.masks.rules import Codes, FloodRule
from floodmap.masks.swaps import shrunk, swapped_masks
from floodmap.models.infrared import with_infrared
from floodmap.models.prompts import Prompts
from floodmap.models.protocol import Segmenter
from floodmap.models.training_record import Role, seen_before
from floodmap.strips.codes import FIRST_REASON, FLOOD, THRESHOLD, UNOBSERVED

PREVIEW_SIDE = 480
"""Longest side in pixels of the shrunken pictures and predictions that are kept for the HTML page of the comparison."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trial:
    """Result of one model with one kind of prompt on one picture."""

    name: str
    """Name of the picture."""
    model: str
    prompts: PromptKind
    given: Prompts
    """Points and boxes computed from the reference, in pixels of the picture; empty for automatic prompts."""
    scores: Scores
    histogram: NDArray[np.int64]
    """Histogram of the pixels, int64 (101, 2). The row is the predicted probability in per cent. The column is the
    class in the reference: 0 dry, 1 flooded. Pixels that are unobserved in the prediction or in the reference are not
    counted."""
    preview: Codes
    """Codes of the prediction, uint8 (h, w), shrunk to at most `PREVIEW_SIDE` pixels a side."""
    seconds: float
    """Wall-clock time of the trial, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """A labelled picture, shrunk for the HTML page of the comparison, and how difficult the flood is to find in it."""

    name: str
    rgb: NDArray[np.uint8]
    """uint8 (3, h, w), shrunk to at most `PREVIEW_SIDE` pixels a side."""
    reference: Codes
    """uint8 (h, w) of FLOOD, DRY and UNOBSERVED, shrunk to the size of `rgb`."""
    shape_hw: tuple[int, int]
    """Height and width of the picture before it was shrunk, in pixels."""
    traits: Difficulty
    """How difficult the flood is to find: area, shape, texture and contrast of the flood; see `Difficulty`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Study:
    """All pictures and all trials of a comparison."""

    pictures: tuple[Picture, ...]
    trials: tuple[Trial, ...]
    models: tuple[str, ...]
    kinds: tuple[PromptKind, ...]
    roles: Mapping[tuple[str, str], Role] = field(default_factory=dict)
    """Role of a picture for a model: `train` if the model was trained on the picture, `val` if the model was validated
    on the picture. Keys are pairs (name of the model, name of the picture); a pair is absent if it has no role."""
    seed: int = 0
    """Seed of the bootstrap, for all intervals of the study."""

    def of(self, model: str, kind: PromptKind) -> list[Trial]:
        """Return the trials of one model and one kind of prompt, in the order of the pictures."""
        return [trial for trial in self.trials if trial.model == model and trial.prompts == kind]

    def seen(self) -> tuple[str, ...]:
        """Return one line of text for each model that was trained or validated on some of the pictures."""
        lines = []
        for model in self.models:
            roles = [self.roles.get((model, picture.name)) for picture in self.pictures]
            if line := seen_before(model, roles.count("train"), roles.count("val"), len(roles)):
                lines.append(line)
        return tuple(lines)


def run_study(
    labelled: Sequence[Labelled],
    models: Sequence[Segmenter],
    kinds: Sequence[PromptKind],
    *,
    rule: FloodRule,
    clock: Callable[[], float],
    seed: int = 0,
    report: Callable[[Trial], None] = lambda _: None,
) -> Study:
    """Run every model with every kind of prompt on every picture.

    Args:
        labelled: pictures with their masks.
        models: loaded models of different names.
        kinds: kinds of prompt.
        rule: rule that converts the values of the masks to flood, dry and unobserved.
        clock: function that returns the time in seconds, such as `time.monotonic`.
        seed: seed of the bootstrap.
        report: function that is called with each trial when the trial is finished, for example to show progress. It is
            not connected with the HTML page of the comparison.

    Raises:
        ModelError: a model failed with the same error on each of its first windows; see `Proof`.
    """
    finished: list[Trial] = []
    pictures = []
    proofs = [Proof() for _ in models]
    for one in labelled:
        with Scene.open(one.image) as scene:
            reference, grid = read_label(one, scene, rule)
            pictures.append(look_at(one.name, scene, reference))
            for trial in trials(one, scene, models, kinds, proofs, reference=reference, grid=grid, clock=clock):
                report(trial)
                finished.append(trial)
    for proof in proofs:
        proof.end()
    return Study(
        pictures=tuple(pictures), trials=tuple(finished), models=tuple(m.name for m in models), kinds=tuple(kinds),
        roles=_roles(labelled, models), seed=seed,
    )  # fmt: skip


def _roles(labelled: Sequence[Labelled], models: Sequence[Segmenter]) -> dict[tuple[str, str], Role]:
    roles = {
        (model.name, one.name): model.training.role_of(one.image)
        for model in models
        if model.training is not None
        for one in labelled
    }
    return {names: role for names, role in roles.items() if role is not None}


def look_at(name: str, scene: Scene, reference: Codes) -> Picture:
    """Shrink a picture and its reference, and measure how difficult the flood is to find in the shrunken picture.

    Args:
        name: name of the picture.
        scene: the picture, opened.
        reference: uint8 (height, width) of FLOOD, DRY and UNOBSERVED, in full size.

    Returns:
        The shrunken picture and reference. The field `traits` contains the area, the shape, the texture and the
        contrast of the flood (see `Difficulty`), computed from the shrunken arrays.
    """
    rgb = scene.preview(PREVIEW_SIDE).rgb
    small = shrunk(reference, (rgb.shape[1], rgb.shape[2]))
    return Picture(name=name, rgb=rgb, reference=small, shape_hw=reference.shape, traits=measure_difficulty(rgb, small))


def trials(
    one: Labelled,
    scene: Scene,
    models: Sequence[Segmenter],
    kinds: Sequence[PromptKind],
    proofs: Sequence[Proof],
    *,
    reference: Codes,
    grid: GeoGrid,
    clock: Callable[[], float],
) -> Iterator[Trial]:
    """Run every model with every kind of prompt on one picture, and yield each trial.

    Args:
        one: the picture with its mask.
        scene: the same picture, opened.
        models: loaded models.
        kinds: kinds of prompt.
        proofs: for each model, the record to which failures of the model are added.
        reference: uint8 (height, width) of FLOOD, DRY and UNOBSERVED.
        grid: CRS, transform and size of the reference.
        clock: function that returns the time in seconds.

    Raises:
        ModelError: a model failed with the same error on each of its first windows; see `Proof`.
    """
    preview_hw = scene.preview_shape(PREVIEW_SIDE)
    seen = _visible(reference, scene) if any(kind.is_oracle for kind in kinds) else reference
    for model, proof in zip(models, proofs, strict=True):
        windows = Grid(height=scene.height, width=scene.width, multiple=model.multiple)
        for kind in kinds:
            started = clock()
            codes, given = _segment(scene, windows, model, kind, seen, proof)
            yield Trial(
                name=one.name, model=model.name, prompts=kind, given=given, seconds=clock() - started,
                scores=_scores(one, codes, reference, grid), histogram=_histogram(codes, reference),
                preview=shrunk(codes, preview_hw),
            )  # fmt: skip


def _segment(
    scene: Scene, windows: Grid, model: Segmenter, kind: PromptKind, reference: Codes, proof: Proof
) -> tuple[Codes, Prompts]:
    """Segment a picture with one kind of prompt.

    Points and boxes are computed from `reference`, and further points only where the prediction is observed.

    Returns:
        Two values: the codes of the prediction, uint8 (height, width), and the points and boxes that were computed from
        the reference, in pixels of the picture. For automatic prompts there are no points and boxes.
    """
    model = with_infrared(model, scene)

    def run(prompter: Prompter) -> Codes:
        return segment_whole(scene, windows, model, prompter, proof=proof)

    if kind.source in ("auto", "none"):
        return run(make_prompter(scene, model, kind.source)), Prompts.none()
    far = far_view(scene, model)
    if kind.source == "box":
        given = reference_box(reference)
        return run(joined(given, far)), given
    given = add_point(Prompts.none(), None, reference)
    codes = run(joined(given, far))
    for _ in range(kind.count - 1):
        given = add_point(given, flooded(codes), np.where(codes < FIRST_REASON, reference, UNOBSERVED))
        codes = run(joined(given, far))
    return codes, given


def _visible(reference: Codes, scene: Scene) -> Codes:
    """Return a copy of a reference, uint8 (height, width), with UNOBSERVED where the picture is unobserved."""
    visible = reference.copy()
    for window in scene.grid.blocks(1024):
        try:
            tile = scene.read(window)
        except SceneError:
            tile = scene.failed(window)
        visible[window.slices][~tile.valid] = UNOBSERVED
    return visible


def flooded(codes: Codes) -> NDArray[np.bool_]:
    """Return a bool array of the shape of `codes`, True for pixels that are flood at the default threshold."""
    return (codes >= THRESHOLD) & (codes < FIRST_REASON)


def _scores(one: Labelled, codes: Codes, reference: Codes, grid: GeoGrid) -> Scores:
    predicted = np.where(codes >= FIRST_REASON, UNOBSERVED, codes >= THRESHOLD).astype(np.uint8)

    def part(whole: Codes) -> Callable[[Window], Codes]:
        return lambda w: whole[w.row_off : w.row_end, w.col_off : w.col_end]

    tolerance = 3 * float(np.sqrt(np.prod(spacing(grid))))
    counts = compare(part(predicted), part(reference), grid, tolerance=tolerance)
    placed = grid.is_on_earth
    return Scores(
        name=one.name, unobserved=counts.unobserved, tolerance=tolerance, tolerance_unit="m" if placed else "px",
        predicted_ha=counts.predicted_m2 / 1e4 if placed else None,
        reference_ha=counts.reference_m2 / 1e4 if placed else None, reference=str(one.label),
        **{name: getattr(counts, name) for name in COUNTS},
    )  # fmt: skip


def _histogram(codes: Codes, reference: Codes) -> NDArray[np.int64]:
    """Return the histogram of the pixels of a prediction, as described in `Trial.histogram`.

    Args:
        codes: codes of the prediction, uint8 (height, width).
        reference: uint8 (height, width) of FLOOD, DRY and UNOBSERVED.
    """
    scored = (codes < FIRST_REASON) & (reference != UNOBSERVED)
    both = codes[scored].astype(np.int64) * 2 + (reference[scored] == FLOOD)
    return np.bincount(both, minlength=202).reshape(101, 2)


def find_swapped_masks(study: Study) -> list[Finding]:
    """Return one finding for each pair of pictures that seem to have each other's mask; see `swaps.swapped_masks`.

    The masks are compared with the predictions of one model with one kind of prompt: the combination with the highest
    sum of IoU over all pictures. Oracle prompts are not used. If the study has only oracle prompts, or no pictures, the
    result is empty.
    """
    kinds = [kind for kind in study.kinds if not kind.is_oracle]
    if not kinds or not study.pictures:
        return []
    tried = [study.of(model, kind) for model in study.models for kind in kinds]
    best = max(tried, key=lambda trials: float(np.nansum([trial.scores.iou for trial in trials])))
    predicted = [flooded(trial.preview).astype(np.uint8) for trial in best]
    pictures = study.pictures
    return list(
        swapped_masks(
            [one.name for one in pictures], predicted, [one.reference for one in pictures],
            [one.shape_hw for one in pictures],
        )
    )  # fmt: skip
