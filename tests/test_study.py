"""Study: models compared on labelled pictures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from floodmap.comparison.oracle import PromptKind, add_point, reference_box
from floodmap.comparison.study import Study, Trial, run_study
from floodmap.errors import ModelError, PromptError
from floodmap.imagery.tile import Tile
from floodmap.masks.labels import find_labels
from floodmap.masks.rules import FloodRule
from floodmap.models.prompts import Prompts
from floodmap.strips.codes import FAILED


class Shy:
    """Predicts flood on bright pixels: where a point or box is, or everywhere without prompts."""

    name, sha256, runs_on, training = "shy", "", "nowhere", None
    knows_floods, multiple, any_size, offloads = True, 1, True, False

    def predict(self, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> NDArray[np.float32]:
        return np.stack([self._one(tile, asked) for tile, asked in zip(tiles, prompts, strict=True)])

    def ood_score(self, tiles: Sequence[Tile]) -> float:
        return 0.0

    def _one(self, tile: Tile, asked: Prompts) -> NDArray[np.float32]:
        bright = (tile.rgb[0] > 128).astype(np.float32) * 0.9
        if not len(asked.points_xy) and not len(asked.boxes_xyxy):
            return bright
        there = np.zeros_like(bright)
        for (x, _), label in zip(asked.points_xy, asked.labels, strict=True):
            half = slice(0, 32) if x < 32 else slice(32, 64)
            there[:, half] = label
        for left, top, right, bottom in asked.boxes_xyxy.astype(int):
            there[top:bottom, left:right] = 1
        return bright * there


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture whose left pool is larger than its right one, both labelled."""
    flood = np.zeros((64, 64), np.uint8)
    flood[10:50, 4:24] = 1
    flood[20:40, 40:56] = 1
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.fromarray(np.repeat(flood[..., None] * 255, 3, axis=2)).save(tmp_path / "images" / "pools.png")
    Image.fromarray(flood).save(tmp_path / "masks" / "pools.png")
    return tmp_path


def study_of(folder: Path, *kinds: str) -> Study:
    ticks = count()
    return run_study(
        find_labels(folder).labelled, [Shy()], [PromptKind.parse(kind) for kind in kinds],
        rule=FloodRule(values=(1.0,)), clock=lambda: float(next(ticks)),
    )  # fmt: skip


def run(folder: Path, *kinds: str) -> tuple[Trial, ...]:
    return study_of(folder, *kinds).trials


def test_each_kind_of_prompt_is_scored_on_the_pictures_own_pixels(picture: Path) -> None:
    none, point, points, box = run(picture, "none", "point", "points:2", "box")
    assert none.scores.iou == 1.0 and none.scores.tp == 40 * 20 + 20 * 16
    assert point.scores.tp == 40 * 20 and point.scores.fn == 20 * 16 and point.given.labels.tolist() == [1]
    assert points.scores.iou == 1.0 and (points.given.points_xy[1] > 32).any()
    assert box.scores.iou == 1.0 and box.given.boxes_xyxy.tolist() == [[4, 10, 56, 50]]
    assert [trial.prompts.is_oracle for trial in (none, point, points, box)] == [False, True, True, True]
    assert none.seconds == 1.0


def test_no_prompt_is_taken_from_flood_that_the_picture_does_not_show(picture: Path) -> None:
    shown = Image.open(picture / "images" / "pools.png").convert("RGBA")
    shown.paste((0, 0, 0, 0), (0, 0, 32, 64))
    shown.save(picture / "images" / "pools.png")
    point, points, box = run(picture, "point", "points:2", "box")
    assert point.scores.unobserved == 32 * 64 and point.given.points_xy[:, 0].min() > 32 and point.scores.iou == 1.0
    assert points.given.labels.tolist() == [1] and points.given.points_xy[:, 0].min() > 32
    assert box.given.boxes_xyxy.tolist() == [[40, 20, 56, 40]]


def test_no_point_is_added_where_the_model_has_failed(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.zeros((64, 64), np.uint8)
    codes[10:50, 4:24], codes[:, 32:] = 90, FAILED
    monkeypatch.setattr("floodmap.comparison.study.segment_whole", lambda *_, **__: codes)
    [points] = run(picture, "points:8")
    assert points.given.labels.tolist() == [1] and points.scores.unobserved == 32 * 64


def test_the_histogram_counts_every_pixel_by_its_probability(picture: Path) -> None:
    [trial] = run(picture, "none")
    assert trial.histogram.sum() == 64 * 64
    assert trial.histogram[90].tolist() == [0, 1120] and trial.histogram[0].tolist() == [64 * 64 - 1120, 0]


def test_pictures_are_kept_small_with_their_difficulty(picture: Path) -> None:
    [seen] = study_of(picture, "none").pictures
    assert seen.rgb.shape == (3, 64, 64) and seen.shape_hw == (64, 64)
    assert seen.traits.flood_share == pytest.approx(1120 / 4096)
    assert seen.traits.largest_share == pytest.approx(800 / 1120)
    assert seen.traits.contrast > 50


def test_points_go_where_most_is_wrong() -> None:
    reference = np.zeros((20, 40), np.uint8)
    reference[2:18, 2:14] = 1
    reference[:, 39] = 255
    first = add_point(Prompts.none(), None, reference)
    assert first.labels.tolist() == [1] and 6 <= first.points_xy[0, 0] <= 10
    predicted = reference == 1
    predicted[5:15, 25:35] = True
    second = add_point(first, predicted, reference)
    assert second.labels.tolist() == [1, 0] and 28 <= second.points_xy[1, 0] <= 32
    assert add_point(second, reference == 1, reference) is second


def test_dry_pictures_get_no_box_and_no_point() -> None:
    dry = np.zeros((8, 8), np.uint8)
    assert not len(reference_box(dry).boxes_xyxy)
    assert not len(add_point(Prompts.none(), None, dry).points_xy)


@pytest.mark.parametrize("text", ["points", "points:0", "points:x", "boxes", "auto:2", ""])
def test_unknown_kinds_of_prompt_are_refused(text: str) -> None:
    with pytest.raises(PromptError, match="no kind of prompt"):
        PromptKind.parse(text)


def test_kinds_of_prompt_print_as_they_are_given() -> None:
    assert [str(PromptKind.parse(text)) for text in ("auto", "Point", "points:1", "points:8")] == [
        "auto", "point", "point", "points:8",
    ]  # fmt: skip


class Broken(Shy):
    """A model that fails on every picture."""

    def predict(self, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> NDArray[np.float32]:
        raise RuntimeError("no luck")


@pytest.mark.parametrize("kinds", [("none",), ("none", "point", "points:2", "box")])
def test_a_model_that_fails_on_every_picture_is_no_row_of_scores(picture: Path, kinds: tuple[str, ...]) -> None:
    with pytest.raises(ModelError, match=r"pools\.png: the model fails on every window \(no luck\)"):
        run_study(
            find_labels(picture).labelled, [Shy(), Broken()], [PromptKind.parse(kind) for kind in kinds],
            rule=FloodRule(values=(1.0,)), clock=lambda: 0.0,
        )  # fmt: skip
