"""Encoded views of the ground that corrections touch, kept in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from floodmap.geo.window import Window
from floodmap.imagery.scene import Scene
from floodmap.imagery.tile import Tile
from floodmap.inference.prompting import CoarsePrompter, Prompter
from floodmap.inference.scales import coarse_factor
from floodmap.inference.tiling import Grid
from floodmap.models.calibration import Calibration
from floodmap.models.mask_prompts import mask_logits
from floodmap.models.sam.common import Encoded
from floodmap.models.sam.flood_sam import FloodSam
from floodmap.training.adaptation.corrections import DRY, FLOOD, KEPT, Corrections
from floodmap.training.adaptation.split import Division
from floodmap.training.samples import IGNORED

SIDE, OVERLAP = 512, 64
"""Longest side of a view, and smallest overlap of neighbouring views, in pixels."""
LARGEST = 24
"""Largest number of views of each level. More views are thinned out evenly."""
Turn = Callable[[NDArray[np.generic]], NDArray[np.generic]]
Codes = NDArray[np.uint8]
TURNS: tuple[Turn, ...] = (
    lambda x: x,
    lambda x: x[..., ::-1],
    lambda x: x[..., ::-1, :],
    lambda x: x.swapaxes(-1, -2),
)
"""Functions that turn a view; every view is encoded once with each."""


@dataclass(frozen=True, slots=True)
class View:
    """One encoded view. h and w are half the height and width of the padded view, the size of the logits."""

    encoded: Encoded
    """Features of the view, one tile."""
    flood: Tensor
    """Share of each pixel that is corrected to flood, (1, h, w), 0 to 1."""
    dry: Tensor
    """Share of each pixel that is corrected to dry, (1, h, w), 0 to 1."""
    free: Tensor
    """Share of each pixel that is observed and has no correction, (1, h, w), 0 to 1."""
    base: Tensor
    """Flood logits of the model before it was tuned, (1, h, w)."""
    part: Tensor
    """Number of the part of the corrections in whose blocks a pixel lies, uint8 (1, h, w); outside of them 255."""
    masks: tuple[Tensor, ...] = ()
    """Mask prompts, (1, 1, h/2, w/2) each; none for the far view."""

    def cropped(self, rows: slice, cols: slice) -> View:
        """Return a rectangle of the view, in pixels of the padded view; its edges are multiples of 32."""

        def cut(x: Tensor, stride: int) -> Tensor:
            return x[..., rows.start // stride : rows.stop // stride, cols.start // stride : cols.stop // stride]

        flood, dry, free, base, part = (cut(x, 2) for x in (self.flood, self.dry, self.free, self.base, self.part))
        masks = tuple(cut(mask, 4) for mask in self.masks)
        return View(self.encoded.crop(rows, cols), flood, dry, free, base, part, masks)

    def without(self, part: int) -> View:
        """Return the view without the corrections of a part: its corrected ground is not taught at all."""
        used = self.part != part
        return replace(self, flood=self.flood * used, dry=self.dry * used)


class Encoder:
    """Reader and encoder of views of one scene.

    Args:
        scene: the scene.
        model: the network before it is tuned, in eval mode.
        calibration: calibration of the model's logits.
        device: device of the model.
        dtype: dtype in which the network computes.
        division: the corrections.
    """

    def __init__(
        self,
        scene: Scene,
        model: FloodSam,
        calibration: Calibration,
        device: torch.device,
        dtype: torch.dtype,
        division: Division,
    ) -> None:
        self._scene, self._model, self._calibration = scene, model, calibration
        self._device, self._dtype = device, dtype
        self._corrections, self._blocks = division.whole.corrections, division.numbered()

    def near(self, prompter: Prompter) -> list[View]:
        """Encode views at full resolution, with the mask prompts of a prompter."""
        views = []
        for window in self._near_windows():
            views += self._encode_turned(self._scene.read(window), window, 1, mask_of(prompter, window))
        return views

    def far(self) -> list[View]:
        """Encode views at the resolution of the coarse pass."""
        factor = coarse_factor(max(self._scene.height, self._scene.width))
        height, width = -(-self._scene.height // factor), -(-self._scene.width // factor)
        views = []
        for window in _touched(height, width, self._corrections, factor):
            views += self._encode_turned(self._scene.shrunk(window, factor), window, factor, None)
        return views

    def with_masks(self, views: Sequence[View], prompter: Prompter) -> list[View]:
        """Add the mask prompts of another prompter to views that `near` encoded."""
        more = []
        for window in self._near_windows():
            likelihood = mask_of(prompter, window)
            shape_hw = window.height, window.width
            more += [None if likelihood is None else self._mask(likelihood, shape_hw, turn) for turn in TURNS]
        return [
            view if mask is None else replace(view, masks=(*view.masks, mask))
            for view, mask in zip(views, more, strict=True)
        ]

    def _near_windows(self) -> list[Window]:
        return _touched(self._scene.height, self._scene.width, self._corrections, 1)

    def _encode_turned(
        self, tile: Tile, window: Window, factor: int, likelihood: NDArray[np.float32] | None
    ) -> list[View]:
        codes, parts = self._corrections.drawn(window, factor), self._blocks.drawn(window, factor)
        return [self._encode(tile, codes, parts, likelihood, turned) for turned in TURNS]

    @torch.no_grad()
    def _encode(
        self, tile: Tile, labels: Codes, parts: Codes, likelihood: NDArray[np.float32] | None, turned: Turn
    ) -> View:
        rgb, valid, codes, part = (
            torch.from_numpy(turned(x).copy())[None].to(self._device) for x in (tile.rgb, tile.valid, labels, parts)
        )
        pad = (0, -rgb.shape[-1] % 32, 0, -rgb.shape[-2] % 32)
        rgb, valid = F.pad(rgb, pad), F.pad(valid, pad)
        codes, part = F.pad(codes, pad, value=IGNORED), F.pad(part, pad, value=IGNORED)
        masks = () if likelihood is None else (self._mask(likelihood, tile.valid.shape, turned),)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            image = rgb.float().contiguous(memory_format=torch.channels_last)
            gsd = torch.tensor([tile.gsd_m], device=self._device)
            encoded = self._model.encode(image, valid, gsd)
            base = self._model.decode(encoded, masks=masks[0] if masks else None)[0].float()
        right = F.interpolate(base[:, None], codes.shape[-2:], mode="bilinear", align_corners=False)[:, 0] > 0
        codes = torch.where(codes == KEPT, right.to(torch.uint8), codes)
        flood, dry, free = (
            F.avg_pool2d((valid & chosen).float(), 2) for chosen in (codes == FLOOD, codes == DRY, codes > DRY + FLOOD)
        )
        return View(_stored(encoded, self._dtype), flood, dry, free, base, part[..., ::2, ::2], masks)

    def _mask(self, likelihood: NDArray[np.float32], shape_hw: tuple[int, ...], turn: Turn) -> Tensor:
        height, width = turn(np.empty(shape_hw, bool)).shape
        padded = -(-height // 32) * 8, -(-width // 32) * 8
        given = torch.from_numpy(turn(likelihood).copy())[None].to(self._device)
        return mask_logits(given, (height, width), padded, self._calibration)


def mask_of(prompter: Prompter, window: Window) -> NDArray[np.float32] | None:
    """Return the coarse probability of a window, float32 (h, w), 0 to 1; None for a scene without a coarse pass."""
    return prompter.prompts(window).mask if isinstance(prompter, CoarsePrompter) else None


def _touched(height: int, width: int, corrections: Corrections, factor: int) -> list[Window]:
    """Return the windows of views that corrections touch, at most `LARGEST`."""
    grid = Grid(height=height, width=width, tile_size=SIDE, overlap=OVERLAP)
    windows = [window for window in grid if corrections.touches(window, factor)]
    chosen: Iterator[int] = iter(np.unique(np.linspace(0, len(windows) - 1, min(len(windows), LARGEST)).round()))
    return [windows[int(index)] for index in chosen]


def _stored(encoded: Encoded, dtype: torch.dtype) -> Encoded:
    """Return features in a dtype, so that many views fit into memory."""
    skips = None
    if encoded.skips is not None:
        skips = encoded.skips[0].to(dtype), encoded.skips[1].to(dtype), encoded.skips[2].to(dtype)
    return Encoded(encoded.embedding.to(dtype), skips, encoded.shape_hw, encoded.ground)
