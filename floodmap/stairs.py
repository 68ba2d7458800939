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
    xy = np.delete(closed, ring_ends[1:] - 1, axis=0).astype(np.int64)
    del closed
    sizes = np.diff(ring_ends) - 1
    begins, ends = np.cumsum(sizes) - sizes, np.cumsum(sizes)
    low = xy.min(axis=0)
    stride = int(np.ptp(xy[:, 0])) + 2
    place = (xy[:, 1] - low[1]) * stride + xy[:, 0] - low[0]
    to_next = np.empty_like(place)
    to_next[:-1], to_next[ends - 1] = np.diff(place), place[begins] - place[ends - 1]
    from_last = np.empty_like(place)
    from_last[1:], from_last[begins] = to_next[:-1], to_next[ends - 1]
    # The corner of the pixel across, from here; the way straight on is 0.
    across = to_next - from_last
    cut = (np.abs(to_next) + np.abs(from_last) == stride + 1) & (xy.sum(axis=1) % 2 == 0)
    cut &= _alike(place, across)
    chosen = np.flatnonzero(cut)
    if not len(chosen):
        return outlines
    pixel = np.minimum(place[chosen], place[chosen] + across[chosen]) * 2 + (np.abs(across[chosen]) > stride)
    cut[chosen] = _alike(pixel, place[chosen])
    left = np.add.reduceat(~cut, begins, dtype=np.int64)
    return assembled(xy[~cut], left, np.diff(polygon_ends))


def _alike(group: Ints, values: Ints) -> Bools:
    """Whether all members of one's group have one value."""
    order = np.argsort(group, kind="stable")
    begins = np.flatnonzero(np.diff(group[order], prepend=-1))
    ordered = values[order]
    alike = np.minimum.reduceat(ordered, begins) == np.maximum.reduceat(ordered, begins)
    result = np.empty(len(group), bool)
    result[order] = np.repeat(alike, np.diff(begins, append=len(group)))
    return result
