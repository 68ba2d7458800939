"""Staircases of pixels smoothed: what simplifying outlines begins with, done for all corners at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from floodmap.rings import assembled

LEAST_AREA = 0.5
"""Square pixels of the triangles that are cut off: no corner of a pixel outline makes a smaller one."""

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def cut_stairs(outlines: NDArray[np.object_]) -> NDArray[Any]:
    """Cut every second corner off staircases of steps one pixel long.

    Visvalingam and Whyatt's simplification begins with the smallest triangles, and these are they. It takes some
    200 bytes a vertex; cut before, outlines have a third fewer. Which of two corners goes depends on where it lies, not
    on where its ring begins: neighbours keep their common border. Nothing crosses, since a pixel is cut but once.

    Args:
        outlines: shapely Polygons in pixel corners, neighbours with all vertices in common (`rings.trace`, noded).
    """
    _, closed, (ring_ends, polygon_ends) = shapely.to_ragged_array(outlines, include_z=False)
    xy = np.delete(closed, ring_ends[1:] - 1, axis=0).astype(np.int32)
    del closed
    ends = np.cumsum(np.diff(ring_ends) - 1)
    begins = np.append(0, ends[:-1])
    width = int(xy[:, 0].max()) + 1
    place = xy[:, 1].astype(np.int64) * width + xy[:, 0]
    turn = _turns(xy, begins, ends)
    # Where outlines touch, and where three kinds meet, a corner has to stay.
    cut = (turn != 0) & (xy.sum(axis=1) % 2 == 0) & _alike(place, turn)
    chosen = np.flatnonzero(cut)
    if not len(chosen):
        return outlines
    pixel = place[chosen] - (turn[chosen] % 2 == 0) - width * (turn[chosen] > 2)
    cut[chosen] = _alike(pixel, place[chosen])
    left = np.add.reduceat(~cut, begins, dtype=np.int64)
    return assembled(xy[~cut], left, np.diff(polygon_ends))


def _turns(xy: NDArray[np.int32], begins: Ints, ends: Ints) -> NDArray[np.int8]:
    """Where a corner's triangle lies from it: 1 south-east, 2 south-west, 3 north-east, 4 north-west.

    0 where the outline does not turn between two steps of one pixel.
    """
    step = np.empty_like(xy)
    step[:-1], step[ends - 1] = np.diff(xy, axis=0), xy[begins] - xy[ends - 1]
    before = np.empty_like(xy)
    before[1:], before[begins] = step[:-1], step[ends - 1]
    is_short = (np.abs(step).sum(axis=1) == 1) & (np.abs(before).sum(axis=1) == 1)
    across = np.where(is_short[:, None], step - before, 0).astype(np.int8)
    is_corner = (across != 0).all(axis=1)
    return np.where(is_corner, 1 + (across[:, 0] < 0) + 2 * (across[:, 1] < 0), 0).astype(np.int8)


def _alike(group: Ints, values: NDArray[np.integer[Any]]) -> Bools:
    """Whether all members of one's group have one value."""
    order = np.argsort(group, kind="stable")
    begins = np.flatnonzero(np.diff(group[order], prepend=-1))
    ordered = values[order]
    alike = np.minimum.reduceat(ordered, begins) == np.maximum.reduceat(ordered, begins)
    result = np.empty(len(group), bool)
    result[order] = np.repeat(alike, np.diff(begins, append=len(group)))
    return result
