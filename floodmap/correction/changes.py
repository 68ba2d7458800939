"""Changes of windows: the probabilities of a window with and without the points of a user."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import lz4.block
import numpy as np
from numpy.typing import NDArray

from floodmap._runtime.files import atomic_path
from floodmap.correction.features import Features
from floodmap.errors import ModelError, OutputError, writing
from floodmap.geo.window import Window
from floodmap.imagery.scene import Scene
from floodmap.inference.prediction import predict
from floodmap.inference.prompting import Prompter, joined, make_prompter
from floodmap.inference.selection import Selection
from floodmap.inference.tiling import Grid
from floodmap.models.prompts import Prompts
from floodmap.models.protocol import Segmenter
from floodmap.output.census import CELL
from floodmap.strips.codes import FIRST_REASON
from floodmap.strips.strip import Strip

_STEPS = 10_000
"""Number of steps from probability 0 to 1 in which probabilities are stored."""
_READ_STRIPS = 8
"""Largest number of strips, compressed, that are kept in memory."""

Steps = NDArray[np.uint16]


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowChange:
    """Probabilities of a window, without and with the points of a user."""

    window: Window
    before: Steps
    """Probability without the points, in steps of 1/10,000, uint16 (height, width)."""
    after: Steps
    """Probability with the points, in steps of 1/10,000, uint16 (height, width)."""
    row_weights: NDArray[np.float32]
    """Blend weights of the rows, float32 (height,); see `Grid.row_weights`."""
    col_weights: NDArray[np.float32]
    """Blend weights of the columns, float32 (width,)."""

    def add_to(self, percent: NDArray[np.float32], area: Window) -> NDArray[np.bool_]:
        """Add the change to probabilities in per cent, float32 (height, width), of an area of the scene, in place.

        Where no other window overlaps this window, the probability with the points replaces the value.

        Returns:
            True where this window changes the probability, bool (height, width) of the area.
        """
        changed = np.zeros(percent.shape, bool)
        top, left = max(self.window.row_off, area.row_off), max(self.window.col_off, area.col_off)
        bottom, right = min(self.window.row_end, area.row_end), min(self.window.col_end, area.col_end)
        if top >= bottom or left >= right:
            return changed
        there = np.s_[top - area.row_off : bottom - area.row_off, left - area.col_off : right - area.col_off]
        rows = slice(top - self.window.row_off, bottom - self.window.row_off)
        cols = slice(left - self.window.col_off, right - self.window.col_off)
        weight = self.row_weights[rows, None] * self.col_weights[cols]
        before, after = self.before[rows, cols].astype(np.float32), self.after[rows, cols].astype(np.float32)
        per_step = np.float32(100 / _STEPS)
        percent[there] = np.where(
            weight == 1, after * per_step, percent[there] + weight * (after - before) * per_step
        )  # fmt: skip
        changed[there] = before != after
        return changed


class ChangedCodes:
    """Codes of a result with changes of some windows, with the interface of `journal.Strips`.

    A pixel keeps its code unless a change alters its probability. Unobserved pixels stay unobserved.

    Args:
        features: features of the automatic result.
        grid: windows of the scene.
        changes: the changes.
        scratch: folder for temporary files.
    """

    def __init__(self, features: Features, grid: Grid, changes: Sequence[WindowChange], scratch: Path) -> None:
        self._features, self._strips, self._grid = features, features.strips, grid
        self._changes, self.scratch = changes, scratch
        self._read = lru_cache(_READ_STRIPS)(self._strips.read)

    @property
    def boxes(self) -> list[Window]:
        """Windows outside of which no code is changed."""
        return [change.window for change in self._changes]

    def notes(self) -> list[Any]:
        """Return the notes on the windows of the automatic result."""
        return self._features.notes

    def strips(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Yield first row and codes, uint8 (rows, width), of strips from top to bottom."""
        for row, codes in self._strips.strips():
            yield row, self._changed(codes, Window(row, 0, *codes.shape))

    def changed_blocks(self) -> Iterator[tuple[int, int, NDArray[np.uint8], NDArray[np.uint8]]]:
        """Yield the changed rectangles of the scene: first row, first column, old and new codes, uint8 (rows, columns).

        The rows are those of the blocks of `strips`. The columns begin and end at multiples of `census.CELL`, or at the
        end of the scene.
        """
        boxes = self.boxes
        for index in range(len(self._grid.row_offsets)):
            first, end = self._grid.strip(index)
            near = [box for box in boxes if box.row_off < end and first < box.row_end]
            if not near:
                continue
            strip = self._strip(index)
            for row in range(first, end, strip.step):
                height = min(strip.step, end - row)
                if here := [box for box in near if box.row_off < row + height and row < box.row_end]:
                    left = min(box.col_off for box in here) // CELL * CELL
                    right = min(-(-max(box.col_end for box in here) // CELL) * CELL, self._grid.width)
                    codes = strip.rectangle(slice(row - first, row - first + height), slice(left, right))
                    yield row, left, codes, self._changed(codes, Window(row, left, *codes.shape))

    def before(self, window: Window) -> NDArray[np.uint8]:
        """Return the codes of the automatic result in a window of the scene, uint8 (height, width)."""
        parts = []
        for index in range(len(self._grid.row_offsets)):
            first, end = self._grid.strip(index)
            rows = slice(max(window.row_off, first) - first, min(window.row_end, end) - first)
            if rows.start >= rows.stop:
                continue
            parts.append(self._strip(index).rectangle(rows, slice(window.col_off, window.col_end)))
        return np.concatenate(parts)

    def _strip(self, index: int) -> Strip:
        strip = self._read(index)
        if strip is None:
            raise OutputError(f"{self._strips.folder}: strip {index} is damaged; segment the scene with --overwrite")
        return strip

    def after(self, window: Window) -> NDArray[np.uint8]:
        """Return the codes with the changes in a window of the scene, uint8 (height, width)."""
        return self._changed(self.before(window), window)

    def _changed(self, codes: NDArray[np.uint8], area: Window) -> NDArray[np.uint8]:
        near = [change for change in self._changes if _overlap(change.window, area)]
        if not near:
            return codes
        part = _around([change.window for change in near], area)
        old = codes[part.within(area).slices]
        percent, changed = old.astype(np.float32), np.zeros(old.shape, bool)
        for change in near:
            changed |= change.add_to(percent, part)
        changed &= old < FIRST_REASON
        # The small number is that of `mosaic.Sums.codes`.
        new = np.clip(percent + np.float32(0.5 + 1e-4), 0, 100).astype(np.uint8)
        result = codes.copy()
        result[part.within(area).slices] = np.where(changed, new, old)
        return result


def changes_by_points(
    scene: Scene,
    grid: Grid,
    segmenter: Segmenter,
    features: Features,
    points: Prompts,
    *,
    exhaustive: bool,
    report: Callable[[int, int], None],
) -> list[WindowChange]:
    """Predict the windows that contain points again, with these points and without them.

    A window whose points are the same as in an earlier correction is not predicted again.

    Args:
        scene: the scene.
        grid: windows of the scene.
        segmenter: the model of the automatic result.
        features: features of the automatic result.
        points: points in pixels of the scene, without boxes.
        exhaustive: see `inference.loop.run_windows`.
        report: function that receives the number of finished windows, and the number of all windows with points.

    Raises:
        ModelError: the model fails on a window.
    """
    row_weights, col_weights = grid.row_weights(), grid.col_weights()
    windows = list(touched(grid, points))
    predictions = _Predictions(scene, segmenter, features, points, exhaustive)
    changes = []
    for number, (row, col, window, own) in enumerate(windows):
        before, after = predictions.of(window, Prompts.none()), predictions.of(window, own)
        changes.append(
            WindowChange(
                window=window, before=before, after=after, row_weights=row_weights[row], col_weights=col_weights[col]
            )
        )
        report(number + 1, len(windows))
    features.trim()
    return changes


def touched(grid: Grid, points: Prompts) -> Iterator[tuple[int, int, Window, Prompts]]:
    """Yield the windows that contain points: row and column of the window in the grid, the window, and its points."""
    for row in range(len(grid.row_offsets)):
        for col, window in enumerate(grid.row(row)):
            own = points.within(window)
            if len(own.points_xy):
                yield row, col, window, own


class _Predictions:
    """Predictions of windows with and without points. Those that the features keep are not computed again."""

    def __init__(
        self, scene: Scene, segmenter: Segmenter, features: Features, points: Prompts, exhaustive: bool
    ) -> None:
        self._scene, self._segmenter, self._features = scene, segmenter, features
        self._points, self._exhaustive = points, exhaustive

    @cached_property
    def _automatic(self) -> Prompter:
        kept: Prompter | None = self._features.prompter(self._scene)
        if kept is None:
            kept = make_prompter(self._scene, self._segmenter, "auto", exhaustive=self._exhaustive)
            self._features.save_coarse(kept)
        return kept

    def of(self, window: Window, own: Prompts) -> Steps:
        """Return the probabilities of a window with its points, or without any, in steps.

        Args:
            window: the window.
            own: all points of the user in this window, or no points.

        Raises:
            ModelError: the model fails on the window.
        """
        file = self._features.window_file(_key(window, own))
        if (kept := _read(file, window)) is not None:
            return kept
        prompter = joined(self._points, self._automatic) if len(own.points_xy) else self._automatic
        everywhere = self._exhaustive or not self._segmenter.any_size
        plan = Selection(self._scene, prompter, exhaustive=everywhere).plan(window)
        (result,), _ = predict(self._segmenter, [plan])
        if result.why:
            raise ModelError(
                f"{self._scene.path}: the window at column {window.col_off}, row {window.row_off} failed: "
                f"{result.why}; nothing was changed"
            )
        steps = _in_steps(result.probability(), window)
        _write(file, steps)
        return steps


def _in_steps(probability: NDArray[np.float32] | None, window: Window) -> Steps:
    if probability is None:  # no pixel is observed
        return np.zeros((window.height, window.width), np.uint16)
    return np.asarray(np.rint(probability * _STEPS), np.uint16)


def _key(window: Window, points: Prompts) -> str:
    """Return a text that is different for each window and for each set of points in it."""
    content = [
        [window.row_off, window.col_off, window.height, window.width], points.points_xy.tolist(),
        points.labels.tolist(),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _write(file: Path, steps: Steps) -> None:
    with writing(file), atomic_path(file) as partial:
        partial.write_bytes(lz4.block.compress(steps.tobytes(), store_size=False))


def _read(file: Path, window: Window) -> Steps | None:
    """Read the kept prediction of a window; None if it is missing or damaged."""
    size = 2 * window.height * window.width
    try:
        values = np.frombuffer(lz4.block.decompress(file.read_bytes(), uncompressed_size=size), np.uint16)
        return values.reshape(window.height, window.width)
    except (OSError, ValueError, lz4.block.LZ4BlockError):
        return None


def _around(windows: Sequence[Window], area: Window) -> Window:
    """Return the smallest rectangle of an area that contains all that the windows share with it."""
    top = max(min(window.row_off for window in windows), area.row_off)
    left = max(min(window.col_off for window in windows), area.col_off)
    bottom = min(max(window.row_end for window in windows), area.row_end)
    right = min(max(window.col_end for window in windows), area.col_end)
    return Window(top, left, bottom - top, right - left)


def _overlap(one: Window, other: Window) -> bool:
    return (
        one.row_off < other.row_end and other.row_off < one.row_end
        and one.col_off < other.col_end and other.col_off < one.col_end
    )  # fmt: skip
