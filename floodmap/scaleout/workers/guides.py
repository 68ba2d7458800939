"""Guides of chunks, made by the client: the result of the coarse pass, or the unsupervised likelihood."""

from __future__ import annotations

import logging
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from floodmap.imagery.scene import Scene
from floodmap.inference.coarse_map import CoarseMap, MapPart, coarse_rows
from floodmap.inference.coarse_pass import append_strip, coarse_grid
from floodmap.inference.mosaic import Mosaic, Sums, joined
from floodmap.inference.observed import Observed
from floodmap.inference.prompting import CoarsePrompter, has_coarse_pass, scene_likelihood
from floodmap.inference.tiling import Grid
from floodmap.models.protocol import Segmenter
from floodmap.scaleout.workers.job import Chunk, CoarseGuide, CoarseResult, Guide, LikelihoodGuide, cut
from floodmap.scaleout.workers.pool import Lost
from floodmap.strips.strip import Strip

log = logging.getLogger(__name__)


class Guides(Protocol):
    """Source of the guides of a scene's chunks."""

    chunks: list[Chunk]
    """Chunks of the coarse pass, which workers compute first; empty if there is no coarse pass."""

    def add(self, result: CoarseResult | Lost) -> None:
        """Add the result of the next chunk of the coarse pass."""
        ...

    def ready(self, first: int, end: int) -> bool:
        """Return True if the guide for the scene rows from `first` to before `end` is complete."""
        ...

    def part(self, first: int, end: int) -> Guide:
        """Return the guide for the scene rows from `first` to before `end`."""
        ...

    def prompter(self, scene: Scene) -> CoarsePrompter | None:
        """Return the prompter of the whole scene, after the last chunk; None if there is no coarse pass."""
        ...


def guides_of(scene: Scene, segmenter: Segmenter, prompts: object) -> Guides:
    """Return the source of the guides of a scene, for the same prompts as those of `prompting.make_prompter`."""
    if prompts == "none":
        return NoGuides()
    if not segmenter.knows_floods:
        return LikelihoodGuides(scene)
    return CoarseGuides(scene, segmenter) if has_coarse_pass(scene, segmenter) else NoGuides()


class NoGuides:
    """Source of guides for windows without prompts."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []

    def add(self, result: CoarseResult | Lost) -> None:
        """There is no coarse pass."""

    def ready(self, first: int, end: int) -> bool:
        """Return True."""
        return True

    def part(self, first: int, end: int) -> Guide:
        """Return None."""
        return None

    def prompter(self, scene: Scene) -> CoarsePrompter | None:
        """Return None."""
        return None


class LikelihoodGuides(NoGuides):
    """Source of guides for Meta's SAM: the unsupervised likelihood, which the client computes from a preview."""

    def __init__(self, scene: Scene) -> None:
        super().__init__()
        self._scene_height, self._likely = scene.height, scene_likelihood(scene)

    def part(self, first: int, end: int) -> Guide:
        """Return the likelihood for the scene rows from `first` to before `end`."""
        rows = coarse_rows(first, end, self._scene_height, len(self._likely))
        values: NDArray[np.float32] = self._likely
        return LikelihoodGuide(MapPart.of(values, rows))


class CoarseGuides:
    """Coarse map that the client joins from the chunks of the coarse pass."""

    def __init__(self, scene: Scene, segmenter: Segmenter) -> None:
        self._path, self._scene_height = scene.path, scene.height
        self._grid: Grid = coarse_grid(scene, segmenter)[1]
        self.chunks = cut(self._grid, 0, 1)
        self._coarse, self._observed = CoarseMap(self._grid.width), Observed(self._grid.height, self._grid.width)
        self._above: Sums | None = None
        self._added = 0

    def add(self, result: CoarseResult | Lost) -> None:
        """Add the result of the next chunk of the coarse pass. The result of a lost chunk is unknown.

        Raises:
            OutputError: the temporary file of the coarse map cannot be written.
        """
        if isinstance(result, Lost):
            log.warning(
                "%s: a part of the coarse pass failed, because %s; it is computed at full resolution", self._path,
                result.why,
            )  # fmt: skip
            result = _unknown(self._grid, self.chunks[self._added])
        self._added += 1
        strips = result.strips
        if self._above is not None:
            strips = [joined(strips[0], result.top, self._above), *strips[1:]]
        for strip in strips:
            append_strip(self._coarse, strip)
        self._observed.merge(result.observed)
        self._above = result.bottom

    def ready(self, first: int, end: int) -> bool:
        """Return True if the rows of the coarse map for the scene rows from `first` to before `end` are complete."""
        return int(self._rows(first, end).stop) <= self._coarse.shape[0]

    def part(self, first: int, end: int) -> Guide:
        """Return the coarse map for the scene rows from `first` to before `end`."""
        rows = self._rows(first, end)
        return CoarseGuide(self._coarse.part(rows, self._grid.height), self._observed.part(rows))

    def prompter(self, scene: Scene) -> CoarsePrompter | None:
        """Return the prompter of the whole scene, after the last chunk."""
        return CoarsePrompter(scene, self._coarse, self._observed)

    def _rows(self, first: int, end: int) -> slice:
        return coarse_rows(first, end, self._scene_height, self._grid.height)


def _unknown(grid: Grid, chunk: Chunk) -> CoarseResult:
    """Return the result of a chunk of the coarse pass that no worker could compute.

    The coarse map is unknown there, as where pixels cannot be read. Windows are then predicted at full resolution.
    """
    mosaic, observed, strips = Mosaic(grid, chunk.first), Observed(grid.height, grid.width), list[Strip]()
    for window in (window for row in chunk.rows for window in grid.row(row)):
        observed.add(window, None)
        if strip := mosaic.add(window, None, np.zeros((window.height, window.width), np.uint8)):
            strips.append(strip)
    return CoarseResult(strips, observed, mosaic.top, mosaic.bottom)
