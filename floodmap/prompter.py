"""What tells a model where to look, window by window, and what a model is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from floodmap.ahead import ahead
from floodmap.coarse import CoarseMap, Observed
from floodmap.flips import mirrored, seen_twice
from floodmap.grid import Grid, Window
from floodmap.likelihood import likelihood
from floodmap.memory import give_back
from floodmap.parts import put, unsure_parts
from floodmap.prompts import Prompts, pick_prompts, read_prompts
from floodmap.proof import NO_NUMBER, Failure, useless
from floodmap.scene import Scene, Tile
from floodmap.stitch import Mosaic

COARSE_FACTOR = 4
"""The coarse pass sees the scene shrunk by this: far enough for a picture's meaning, near enough for its shorelines."""
COARSE_WISHED = 512
"""Longer side in pixels that a coarse pass should have: small scenes, of which thumbnails would say little and which
take no time, are shrunk by 3 or 2 only; even smaller ones show too little from far to be worth asking."""
COARSE_SIDE = 16_384
"""Longest side of the coarse pass, in pixels; larger scenes are shrunk further, so that memory is bounded."""
COARSE_TILE, COARSE_OVERLAP, COARSE_STEP = 1024, 24, 128
"""Windows of the coarse pass, in its pixels, and what their sides are multiples of: those of large scenes are then as
large as those seen from near, and oneDNN has no more kernels in memory than for these."""
LIKELIHOOD_SIDE = 2048
"""Longest side of the picture the unsupervised likelihood is made of, in pixels."""


class Segmenter(Protocol):
    """A model, as the pipeline sees it."""

    name: str
    """What the polygons' `model` field says."""
    sha256: str
    """Hash of the weights."""
    knows_floods: bool
    """Whether the model finds flood water by itself; otherwise the unsupervised likelihood points it there."""
    multiple: int
    """Window sides are multiples of this where possible."""
    any_size: bool
    """Whether it sees a part of a window as it sees the window, at the same scale and for less."""
    offloads: bool
    """Whether it works on a device of its own, and leaves this machine's cores to the rest."""
    runs_on: str
    """Device and precision, which results depend on a little."""

    def predict(self, tiles: Sequence[Tile], prompts: Sequence[Prompts]) -> Sequence[NDArray[np.float32]]:
        """Flood probability of every pixel.

        Args:
            tiles: of any shapes.
            prompts: one for each tile, in its pixels.

        Returns:
            For each tile (height, width), 0 to 1; unobserved pixels hold any number.
        """
        ...


Prompter = Callable[[Tile], Prompts]
Floats = NDArray[np.float32]


def make_prompter(
    scene: Scene, segmenter: Segmenter, wanted: Path | str, *, exhaustive: bool = True
) -> Prompter:
    """What tells the model where to look, window by window; `exhaustive`: see `coarse_pass`."""
    if wanted == "none":
        return unprompted
    if wanted not in ("auto", "none"):
        given = read_prompts(wanted, transform=scene.transform, crs=scene.crs, width=scene.width, height=scene.height)
        return joined(given, far_view(scene, segmenter, exhaustive=exhaustive))
    if segmenter.knows_floods:
        return far_view(scene, segmenter, exhaustive=exhaustive)
    preview = scene.preview(max(1, min(max(scene.height, scene.width) // COARSE_FACTOR, LIKELIHOOD_SIDE)))
    likely = likelihood(preview.rgb, preview.valid, nir=preview.nir, gsd_m=scene.gsd_m)
    return lambda tile: pick_prompts(crop_coarse(likely, tile.window, scene), tile.valid)


def uses_infrared(scene: Scene, segmenter: Segmenter, wanted: Path | str) -> bool:
    """Whether near infrared has a part in the results: it makes the likelihood that prompts models of no floods."""
    return scene.nir_band is not None and wanted == "auto" and not segmenter.knows_floods


def unprompted(_: Tile) -> Prompts:
    """No prompt for any window."""
    return Prompts.none()


def far_view(scene: Scene, segmenter: Segmenter, *, exhaustive: bool = True) -> Prompter:
    """A coarse pass as a mask prompt: nothing for models that do not know floods, and for scenes too small for one."""
    side = max(scene.height, scene.width)
    if not segmenter.knows_floods or side < COARSE_WISHED:
        return unprompted
    return FarView(scene, *coarse_pass(scene, segmenter, exhaustive=exhaustive))


@dataclass(frozen=True, slots=True)
class FarView:
    """What a coarse pass says of a scene."""

    scene: Scene
    coarse: CoarseMap
    observed: Observed

    def __call__(self, tile: Tile) -> Prompts:
        """It as a mask prompt."""
        return self._of(tile.window)

    def settles(self, window: Window) -> NDArray[np.float32] | None:
        """What stands of a window of the scene that need not even be read; None where it has to be.

        The coarse pass is sure of it, and has seen that all of its pixels are observed.
        """
        down, across = self.scene.height / self.coarse.shape[0], self.scene.width / self.coarse.shape[1]
        top, left = int(window.row_off / down) - 1, int(window.col_off / across) - 1
        height, width = int(window.row_end / down) + 2 - top, int(window.col_end / across) + 2 - left
        if not self.observed.covers(Window(top, left, height, width)):
            return None
        prompts = self._of(window)
        return prompts.mask if unsure_parts(prompts, (window.height, window.width)) == [] else None

    def _of(self, window: Window) -> Prompts:
        return Prompts.from_mask(crop_coarse(self.coarse, window, self.scene) / 100)


def joined(given: Prompts, prompter: Prompter) -> Prompter:
    """A person's points and boxes, in pixels of the scene, together with another prompter's masks."""
    return lambda tile: replace(given.within(tile.window), mask=prompter(tile).mask)


def coarse_pass(scene: Scene, segmenter: Segmenter, *, exhaustive: bool = True) -> tuple[CoarseMap, Observed]:
    """What the model says of the whole scene from far, without a prompt: per cent of flood, 0 where unobserved.

    It is asked twice, of the scene and of its mirror image: that costs little here, and all windows hear of it.

    Args:
        scene: seen whole.
        segmenter: asked.
        exhaustive: ask it twice of ground, too, of which it is sure at once.

    Returns:
        (h, w): the scene's sides divided by `coarse_factor`; and where all of the scene is known to be observed.

    Raises:
        ModelError: the model fails, or gives no number.
    """
    factor = coarse_factor(max(scene.height, scene.width))
    grid = Grid(
        height=-(-scene.height // factor), width=-(-scene.width // factor),
        tile_size=COARSE_TILE, overlap=COARSE_OVERLAP, multiple=segmenter.multiple,
        step=COARSE_STEP,
    )  # fmt: skip
    mosaic, coarse, observed = Mosaic(grid), CoarseMap(grid.width), Observed(grid.height, grid.width)
    everywhere = exhaustive or not segmenter.any_size

    def see(tiles: list[Tile]) -> list[tuple[Tile, Floats | None]]:
        observed = [tile for tile in tiles if tile.valid.any()]
        look = _seen_twice if everywhere else _seen_twice_where_unsure
        try:
            found = iter(look(segmenter, observed) if observed else [])
        except (RuntimeError, MemoryError) as error:
            raise useless(scene.path, "in the coarse pass", Failure.of(error)) from error
        return [(tile, next(found) if tile.valid.any() else None) for tile in tiles]

    with ExitStack() as stack:
        tiles = stack.enter_context(closing(ahead(lambda window: scene.shrunk(window, factor), grid)))
        # Two pairs at work, so that no core waits for the longer of a pair.
        seen = stack.enter_context(closing(ahead(see, _in_pairs(tiles), count=2, threads=2)))
        for tile, probability in chain.from_iterable(seen):
            observed.add(tile.window, None if tile.failure else tile.complete)
            if strip := mosaic.add(tile.window, probability, tile.reason):
                for codes in strip.blocks():
                    coarse.append(np.where(codes > 100, 0, codes))
                give_back()
    return coarse, observed


def _in_pairs(tiles: Iterator[Tile]) -> Iterator[list[Tile]]:
    while pair := list(islice(tiles, 2)):
        yield pair


def _seen_twice(segmenter: Segmenter, tiles: list[Tile]) -> list[Floats]:
    return _numbers(seen_twice(segmenter, tiles, [Prompts.none()] * len(tiles)))


def _seen_twice_where_unsure(segmenter: Segmenter, tiles: list[Tile]) -> list[Floats]:
    seen = _numbers(segmenter.predict(tiles, [Prompts.none()] * len(tiles)))
    again: list[tuple[int, Window | None]] = []
    turned: list[Tile] = []
    for number, (one, tile) in enumerate(zip(seen, tiles, strict=True)):
        parts = unsure_parts(Prompts.from_mask(one), tile.reason.shape)
        for part in [None] if parts is None else parts:
            again.append((number, part))
            turned.append(mirrored(tile if part is None else tile.part(part)))
    results = _numbers(segmenter.predict(turned, [Prompts.none()] * len(turned)) if turned else [])
    first = [one.copy() for one in seen] if any(part for _, part in again) else seen.copy()
    for (number, part), result in zip(again, results, strict=True):
        where = np.s_[:, :] if part is None else part.slices
        mean = np.asarray((first[number][where] + result[:, ::-1]) / 2, np.float32)
        if part is None:
            seen[number] = mean
        else:
            put(part, mean, seen[number])
    return seen


def _numbers(found: Sequence[Floats]) -> list[Floats]:
    if not all(np.isfinite(one).all() for one in found):
        raise RuntimeError(NO_NUMBER)
    return list(found)


def coarse_factor(side: int) -> int:
    """By how much the coarse pass shrinks a scene whose longer side has so many pixels."""
    return max(2, min(COARSE_FACTOR, side // COARSE_WISHED), -(-side // COARSE_SIDE))


def crop_coarse(coarse: CoarseMap | NDArray[np.float32], window: Window, scene: Scene) -> NDArray[np.float32]:
    """The part of a coarse map of the whole scene that a window covers, at about the coarse resolution.

    Sampled between the map's cells: whole cells would lie beside the window by up to one.
    """
    sides = (
        (window.row_off, window.height, scene.height, coarse.shape[0]),
        (window.col_off, window.width, scene.width, coarse.shape[1]),
    )
    (top, bottom, down), (left, right, across) = (_between(*side) for side in sides)
    part = coarse[top[0] : bottom[-1] + 1][:, left[0] : right[-1] + 1]
    sampled = _mixed(part[top - top[0]], part[bottom - top[0]], down[:, None])
    return _mixed(sampled[:, left - left[0]], sampled[:, right - left[0]], across)


def _between(first: int, length: int, whole: int, cells: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """The cells on either side of every place along an axis, and how far it is from the first to the second."""
    count = max(1, round(length * cells / whole))
    centres = first + (np.arange(count) + 0.5) * (length / count)
    at = np.clip(centres * (cells / whole) - 0.5, 0, cells - 1)
    before = at.astype(np.int64)
    return before, np.minimum(before + 1, cells - 1), (at - before).astype(np.float32)


def _mixed(one: NDArray[Any], other: NDArray[Any], share: Floats) -> Floats:
    return np.asarray(one + (other.astype(np.float32) - one) * share, np.float32)
