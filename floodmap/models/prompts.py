"""Prompts of SAM: points, boxes and a coarse mask; and prompts picked from a flood likelihood."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from floodmap.errors import PromptError
from floodmap.geo.window import Window

FLOOD_LIMIT, DRY_LIMIT = 0.8, 0.2
"""Likelihood from which a pixel is confidently flood, and up to which it is confidently dry."""
_MIN_DEPTH = 0.02
"""Least distance of a point from the edge of its region, as a share of the tile's long side: no point on slivers."""
_BOX_SHARE = 0.01
"""Flood regions smaller than this share of the tile get no box."""
_POINT_REACH = 240.0
"""Radius in pixels around a flood point within which flood outside all boxes is allowed: twice that of kriging."""
PIXEL_CENTRE = 0.5
"""Offset in pixels: SAM's coordinates start at the centre of the first pixel, those of `Prompts` at its corner."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompts:
    """Point, box and mask prompts in pixel coordinates of a tile or scene: x to the right, y down.

    (0, 0) is the top left corner of the image; the centre of the top left pixel is (0.5, 0.5), as in a geotransform.
    """

    points_xy: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    """Points, float32 (N, 2), x first."""
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Labels of the points, int64 (N,): 1 flood, 0 dry."""
    boxes_xyxy: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    """Boxes around flood, float32 (M, 4): left, top, right, bottom."""
    mask: NDArray[np.float32] | None = None
    """Coarse flood likelihood of the whole tile, float32 (h, w) at any resolution, 0 to 1; None where there is none."""
    bounded: bool = False
    """Whether flood is limited to the boxes and to the surroundings of flood points; true wherever there are boxes.
    If it is true and there is no box, the scene's boxes all lie in other windows: then there is no flood here."""

    def __post_init__(self) -> None:
        points, boxes = np.asarray(self.points_xy, np.float32), np.asarray(self.boxes_xyxy, np.float32)
        labels = np.asarray(self.labels)
        if points.ndim != 2 or points.shape[1] != 2 or labels.shape != points.shape[:1]:
            raise PromptError(f"points {points.shape} and labels {labels.shape} must be (N, 2) and (N,)")
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            raise PromptError(f"boxes of shape {boxes.shape} must be (M, 4)")
        if not (np.isfinite(points).all() and np.isfinite(boxes).all()):
            raise PromptError("points and boxes must be finite")
        if not np.isin(labels, (0, 1)).all():
            raise PromptError(f"labels must be 1 (flood) or 0 (dry), not {sorted(set(labels.tolist()) - {0, 1})}")
        if not (boxes[:, :2] < boxes[:, 2:]).all():
            raise PromptError("a box must have left < right and top < bottom")
        object.__setattr__(self, "points_xy", points)
        object.__setattr__(self, "labels", labels.astype(np.int64))
        object.__setattr__(self, "boxes_xyxy", boxes)
        object.__setattr__(self, "bounded", self.bounded or len(boxes) > 0)
        if self.mask is not None:
            object.__setattr__(self, "mask", _checked_mask(self.mask))

    @classmethod
    def none(cls) -> Prompts:
        """An empty prompt set."""
        return cls()

    @classmethod
    def from_mask(cls, mask: NDArray[np.floating[Any]]) -> Prompts:
        """A mask prompt alone: a coarse flood likelihood, (h, w), 0 to 1."""
        return cls(mask=np.asarray(mask, np.float32))

    def within(self, window: Window) -> Prompts:
        """A scene's points and boxes in the pixel coordinates of one window: points outside are dropped, boxes clipped.

        Raises:
            PromptError: there is a mask; a mask belongs to one tile, and cropping it would need the tile's size.
        """
        if self.mask is not None:
            raise PromptError("a mask prompt belongs to one tile; crop the likelihood and pick prompts for each window")
        origin, end = (window.col_off, window.row_off), (window.width, window.height)
        points = self.points_xy.astype(np.float64) - origin
        boxes = np.clip(self.boxes_xyxy.astype(np.float64) - origin * 2, 0, end * 2)
        inside = ((points >= 0) & (points < end)).all(axis=1)
        boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]
        return Prompts(
            points_xy=points[inside].astype(np.float32), labels=self.labels[inside],
            boxes_xyxy=boxes.astype(np.float32), bounded=self.bounded,
        )  # fmt: skip

    def bounds(self, shape_hw: tuple[int, int]) -> NDArray[np.bool_]:
        """Pixels where flood is allowed, bool (height, width) of a tile: all, unless `bounded`."""
        if not self.bounded:
            return np.ones(shape_hw, bool)
        rows, cols = np.ogrid[: shape_hw[0], : shape_hw[1]]
        inside = np.zeros(shape_hw, bool)
        for left, top, right, bottom in self.boxes_xyxy:
            inside |= (cols + 0.5 > left) & (cols + 0.5 < right) & (rows + 0.5 > top) & (rows + 0.5 < bottom)
        for x, y in self.points_xy[self.labels == 1]:
            inside |= (cols + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 < _POINT_REACH**2
        return inside


def _checked_mask(mask: NDArray[Any]) -> NDArray[np.float32]:
    mask = np.asarray(mask, np.float32)
    if mask.ndim != 2 or not mask.size:
        raise PromptError(f"a mask prompt of shape {mask.shape} must be (h, w)")
    if not (np.isfinite(mask).all() and mask.min() >= 0 and mask.max() <= 1):
        raise PromptError("a mask prompt must lie between 0 and 1")
    return mask


def pick_prompts(
    likelihood: NDArray[np.float32],
    valid: NDArray[np.bool_],
    *,
    max_points: int = 5,
    max_boxes: int = 3,
    flood_limit: float = FLOOD_LIMIT,
    dry_limit: float = DRY_LIMIT,
) -> Prompts:
    """Pick point, box and mask prompts from a flood likelihood; deterministic.

    Points are peaks of the distance transform of the confident flood and of the confident dry regions. After each peak,
    twice its radius around it is closed to further peaks. Boxes surround the connected regions of flood. The mask is
    the likelihood itself.

    Args:
        likelihood: float32 (h, w), 0 to 1, of the tile, at the tile's resolution or any other.
        valid: bool (height, width) of the tile; True where observed. Points lie only on such pixels.
        max_points: most points of either label.
        max_boxes: most boxes; the largest regions get one.
        flood_limit: from this likelihood up a pixel is confidently flood.
        dry_limit: up to this likelihood a pixel is confidently dry.

    Returns:
        Prompts in tile pixels; an empty set, without a mask, where no pixel is confidently flood.

    Raises:
        PromptError: the likelihood is not one, or a tile has no pixels.
    """
    likelihood = _checked_mask(likelihood)
    if valid.ndim != 2 or not valid.size:
        raise PromptError(f"valid of shape {valid.shape} must be (height, width)")
    observed = _shrink_valid(valid, likelihood.shape)
    # Below 1 where the likelihood is finer than the tile.
    pixels_per_cell = np.array(valid.shape[::-1]) / likelihood.shape[::-1]
    flood_xy = _deepest(observed & (likelihood >= flood_limit), max_points)
    if not len(flood_xy):
        return Prompts.none()
    dry_xy = _deepest(observed & (likelihood <= dry_limit), max_points)
    return Prompts(
        points_xy=(np.concatenate([flood_xy, dry_xy]) * pixels_per_cell).astype(np.float32),
        labels=np.repeat([1, 0], [len(flood_xy), len(dry_xy)]),
        boxes_xyxy=(_boxes(observed & (likelihood >= 0.5), max_boxes) * np.tile(pixels_per_cell, 2)).astype(np.float32),
        mask=likelihood,
    )


def _shrink_valid(valid: NDArray[np.bool_], shape_hw: tuple[int, ...]) -> NDArray[np.bool_]:
    """Cells of another grid over the tile that hold only valid pixels; in a finer grid the cell's centre decides."""
    for axis, (side, cells) in enumerate(zip(valid.shape, shape_hw, strict=True)):
        starts = np.arange(cells) * side // cells if cells <= side else (2 * np.arange(cells) + 1) * side // (2 * cells)
        valid = np.logical_and.reduceat(valid, starts, axis=axis)
    return valid


def _deepest(region: NDArray[np.bool_], count: int) -> NDArray[np.float64]:
    """Centres (n, 2), x first, of the pixels farthest from the region's edge; the image border counts as an edge."""
    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    rows, cols = np.ogrid[: region.shape[0], : region.shape[1]]
    found: list[tuple[float, float]] = []
    while len(found) < count:
        row, col = np.unravel_index(int(depth.argmax()), depth.shape)
        radius = depth[row, col]
        if radius < max(1.0, _MIN_DEPTH * max(region.shape)):
            break
        found.append((col + 0.5, row + 0.5))
        depth[(rows - row) ** 2 + (cols - col) ** 2 < (2 * radius) ** 2] = 0.0
    return np.array(found, np.float64).reshape(-1, 2)


def _boxes(region: NDArray[np.bool_], count: int) -> NDArray[np.float64]:
    """Bounding boxes (n, 4) of the largest connected components, largest first."""
    labels, parts = ndimage.label(region)
    sizes = np.bincount(labels.ravel(), minlength=parts + 1)[1:]
    order = [i for i in np.argsort(-sizes, kind="stable")[:count] if sizes[i] >= _BOX_SHARE * region.size]
    slices = ndimage.find_objects(labels)
    boxes = [(slices[i][1].start, slices[i][0].start, slices[i][1].stop, slices[i][0].stop) for i in order]
    return np.array(boxes, np.float64).reshape(-1, 4)
