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

SIDE, OVERLAP = 512, 64
"""Longest side of a view, and smallest overlap of neighbouring views, in pixels."""
LARGEST = 24
"""Largest number of views of each level. More views are thinned out evenly."""
TURNS: tuple[Callable[[NDArray[np.generic]], NDArray[np.generic]], ...] = (
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
    masks: tuple[Tensor, ...] = ()
    """Mask prompts, (1, 1, h/2, w/2) each; none for the far view."""

    def cropped(self, rows: slice, cols: slice) -> View:
        """Return a rectangle of the view, in pixels of the padded view; its edges are multiples of 32."""

        def cut(x: Tensor, stride: int) -> Tensor:
            return x[..., rows.start // stride : rows.stop // stride, cols.start // stride : cols.stop // stride]

        flood, dry, free, base = (cut(x, 2) for x in (self.flood, self.dry, self.free, self.base))
        masks = tuple(cut(mask, 4) for mask in self.masks)
        return View(self.encoded.crop(rows, cols), flood, dry, free, base, masks)


class Encoder:
    """Reader and encoder of views of one scene.

    Args:
        scene: the scene.
        model: the network before it is tuned, in eval mode.
        calibration: calibration of the model's logits.
        device: device of the model.
        dtype: dtype in which the network computes.
    """

    def __init__(
        self, scene: Scene, model: FloodSam, calibration: Calibration, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._scene, self._model, self._calibration = scene, model, calibration
        self._device, self._dtype = device, dtype

    def near(self, corrections: Corrections, prompter: Prompter) -> list[View]:
        """Encode views at full resolution, with the mask prompts of a prompter."""
        views = []
        for window in _touched(self._scene.height, self._scene.width, corrections, 1):
            likelihood = mask_of(prompter, window)
            tile, labels = self._scene.read(window), corrections.drawn(window)
            views += [self._encode(tile, labels, likelihood, turn) for turn in range(len(TURNS))]
        return views

    def far(self, corrections: Corrections) -> list[View]:
        """Encode views at the resolution of the coarse pass."""
        factor = coarse_factor(max(self._scene.height, self._scene.width))
        height, width = -(-self._scene.height // factor), -(-self._scene.width // factor)
        views = []
        for window in _touched(height, width, corrections, factor):
            tile, labels = self._scene.shrunk(window, factor), corrections.drawn(window, factor)
            views += [self._encode(tile, labels, None, turn) for turn in range(len(TURNS))]
        return views

    def with_masks(self, views: Sequence[View], corrections: Corrections, prompter: Prompter) -> list[View]:
        """Add the mask prompts of another prompter to views that `near` encoded for the same corrections."""
        more = []
        for window in _touched(self._scene.height, self._scene.width, corrections, 1):
            likelihood = mask_of(prompter, window)
            shape_hw = window.height, window.width
            more += [None if likelihood is None else self._mask(likelihood, shape_hw, turn) for turn in TURNS]
        return [
            view if mask is None else replace(view, masks=(*view.masks, mask))
            for view, mask in zip(views, more, strict=True)
        ]

    @torch.no_grad()
    def _encode(self, tile: Tile, labels: NDArray[np.uint8], likelihood: NDArray[np.float32] | None, turn: int) -> View:
        turned = TURNS[turn]
        rgb, valid, codes = (torch.from_numpy(turned(x).copy())[None] for x in (tile.rgb, tile.valid, labels))
        pad = (0, -rgb.shape[-1] % 32, 0, -rgb.shape[-2] % 32)
        rgb, valid, codes = F.pad(rgb, pad), F.pad(valid, pad), F.pad(codes, pad, value=255)
        masks = () if likelihood is None else (self._mask(likelihood, tile.valid.shape, turned),)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            image = rgb.float().to(self._device).contiguous(memory_format=torch.channels_last)
            gsd = torch.tensor([tile.gsd_m], device=self._device)
            encoded = self._model.encode(image, valid.to(self._device), gsd)
            base = self._model.decode(encoded, masks=masks[0] if masks else None)[0].float()
        right = F.interpolate(base[:, None], codes.shape[-2:], mode="bilinear", align_corners=False)[:, 0] > 0
        codes = torch.where(codes.to(self._device) == KEPT, right.to(torch.uint8), codes.to(self._device))
        valid = valid.to(self._device)
        flood, dry, free = (
            F.avg_pool2d((valid & chosen).float(), 2) for chosen in (codes == FLOOD, codes == DRY, codes > DRY + FLOOD)
        )
        return View(_stored(encoded, self._dtype), flood, dry, free, base, masks)

    def _mask(
        self, likelihood: NDArray[np.float32], shape_hw: tuple[int, ...], turn: Callable[..., NDArray[np.generic]]
    ) -> Tensor:
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
