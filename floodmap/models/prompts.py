"""Prompts of SAM (points, boxes and a coarse mask), and prompts derived from a flood likelihood."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from floodmap.errors import PromptError
from floodmap.geo.window import Window

FLOOD_LIMIT, DRY_LIMIT = 0.8, 0.2
"""Likelihood from which a pixel counts as confident flood, and likelihood up to which it counts as confident dry."""
_MIN_DEPTH = 0.02
"""Least distance of a point prompt from the edge of the flood or dry region in which the point lies.
The distance is a share of the longer side of the likelihood array. Narrower regions get no point."""
_BOX_SHARE = 0.01
"""Least area of a flood region that gets a box, as a share of the tile's area."""
_POINT_REACH = 240.0
"""Radius in pixels of the tile. If flood is limited to boxes, flood is also allowed in a circle with this radius around
each flood point. The radius is twice the longer length scale (`correction.LONG_RANGE`) of the kriging with which the
shipped model corrects its logits at points."""
PIXEL_CENTRE = 0.5
"""Number, in pixels, that is subtracted from coordinates of `Prompts` to get coordinates of SAM.
The origin of `Prompts` is the corner of the first pixel. The origin of SAM is the centre of the first pixel."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompts:
    """Point, box and mask prompts in pixel coordinates of a tile or scene: x to the right, y down.

    (0, 0) is the top left corner of the image; the centre of the top left pixel is (0.5, 0.5), as in a geotransform.
    """

    points_xy: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    """Points in pixels, float32 (N, 2), x first."""
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Labels of the points, int64 (N,): 1 flood, 0 dry."""
    boxes_xyxy: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    """Boxes around flood, float32 (M, 4): left, top, right, bottom in pixels."""
    mask: NDArray[np.float32] | None = None
    """Coarse flood probability or likelihood of the whole tile, float32 (h, w), 0 to 1; None: no mask prompt.
    The probability is the result of the coarse pass. The likelihood is estimated from colours, without a model.
    h and w may differ from the height and width of the tile."""
    boxes_bound: bool = True
    """Whether the boxes surround all flood, as a user's do. The boxes of `pick_prompts` surround only some of it."""
    bounded: bool = False
    """Whether flood is limited to the boxes and to circles around flood points; always True if there are boxes and
    `boxes_bound` is True.
    If `bounded` is True and there is no box, the boxes of the scene lie in other windows, and flood is limited to the
    circles."""

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
        object.__setattr__(self, "bounded", self.bounded or (self.boxes_bound and len(boxes) > 0))
        if self.mask is not None:
            object.__setattr__(self, "mask", _checked_mask(self.mask))

    @classmethod
    def none(cls) -> Prompts:
        """Return an empty set of prompts."""
        return cls()

    @classmethod
    def from_mask(cls, mask: NDArray[np.floating[Any]]) -> Prompts:
        """Return prompts that consist of a mask prompt alone.

        Args:
            mask: coarse flood probability or likelihood of the whole tile, (h, w), 0 to 1; see `mask` of this class.
        """
        return cls(mask=np.asarray(mask, np.float32))

    def within(self, window: Window) -> Prompts:
        """Convert points and boxes from pixel coordinates of a scene to pixel coordinates of one window.

        Points outside the window are dropped. Boxes are clipped to the window.

        Args:
            window: the window, in pixels of the scene.

        Raises:
            PromptError: there is a mask prompt. A mask prompt cannot be cropped, because the size of the tile to which
                it belongs is not known here.
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
        """Return bool (height, width), True at pixels of a tile that may be flood; all True unless `bounded`.

        Args:
            shape_hw: height and width of the tile in pixels.
        """
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
    """Derive point, box and mask prompts from a flood likelihood; the result is deterministic.

    Points are the peaks of two distance transforms: of the confident flood, and of the confident dry regions. A peak is
    the pixel farthest from the edge of a region. If the distance of a point from the edge is r, further points with the
    same label are at least 2 r away from the point. Boxes surround the connected regions with a likelihood of 0.5 or
    more. The mask prompt is the likelihood itself.

    Args:
        likelihood: flood likelihood of the tile, float32 (h, w), 0 to 1. h and w may differ from the size of the tile.
        valid: bool (height, width) of the tile, True on pixels with a valid picture. Points lie only on these pixels.
        max_points: largest number of points of each label.
        max_boxes: largest number of boxes, drawn around the largest regions.
        flood_limit: likelihood from which a pixel counts as confident flood.
        dry_limit: likelihood up to which a pixel counts as confident dry.

    Returns:
        Prompts in pixel coordinates of the tile; flood is not limited to their boxes. If no confident flood is wide
        enough for a point, there are no prompts at all, not even a mask prompt.

    Raises:
        PromptError: the likelihood is no (h, w) array of values from 0 to 1, or the tile has no pixels.
    """
    likelihood = _checked_mask(likelihood)
    if valid.ndim != 2 or not valid.size:
        raise PromptError(f"valid of shape {valid.shape} must be (height, width)")
    observed = _shrink_valid(valid, likelihood.shape)
    # Number of the tile's pixels per pixel (cell) of the likelihood, along x and along y; below 1 if cells are smaller.
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
        boxes_bound=False,  # at most `max_boxes` regions have a box, and flood may be larger than what looks likely
    )


def _shrink_valid(valid: NDArray[np.bool_], shape_hw: tuple[int, ...]) -> NDArray[np.bool_]:
    """Resample `valid`, bool (height, width), to a grid of cells over the same tile; return bool of shape `shape_hw`.

    A cell larger than a pixel of the tile is valid if all pixels in the cell are valid. A smaller cell is valid if the
    pixel at the centre of the cell is valid.
    """
    for axis, (side, cells) in enumerate(zip(valid.shape, shape_hw, strict=True)):
        starts = np.arange(cells) * side // cells if cells <= side else (2 * np.arange(cells) + 1) * side // (2 * cells)
        valid = np.logical_and.reduceat(valid, starts, axis=axis)
    return valid


def _deepest(region: NDArray[np.bool_], count: int) -> NDArray[np.float64]:
    """Return up to `count` points inside a region, float64 (n, 2), x first, in pixels of the array `region`.

    `region` is bool (h, w), True inside the region. Each point is the pixel with the largest distance r from the edge
    of the region; the border of the array is an edge, too. After each point, pixels at a distance below 2 r from the
    point are excluded. The search ends if r is less than 1 pixel, or less than `_MIN_DEPTH` times the longer side of
    the array.
    """
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
    """Return the bounding boxes of up to `count` connected components of a region, largest component first.

    `region` is bool (h, w), True inside the region. The boxes are float64 (n, 4): left, top, right and bottom, in
    pixels of `region`. A component gets no box if the area is less than the share `_BOX_SHARE` of the array.
    """
    labels, parts = ndimage.label(region)
    sizes = np.bincount(labels.ravel(), minlength=parts + 1)[1:]
    order = [i for i in np.argsort(-sizes, kind="stable")[:count] if sizes[i] >= _BOX_SHARE * region.size]
    slices = ndimage.find_objects(labels)
    boxes = [(slices[i][1].start, slices[i][0].start, slices[i][1].stop, slices[i][0].stop) for i in order]
    return np.array(boxes, np.float64).reshape(-1, 4)
