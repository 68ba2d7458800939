"""Areas and perimeters of changed polygons, from those before the change and from the edges that differ."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from floodmap.correction.outlines.stored import Outlines
from floodmap.geo.areas import edge_sums
from floodmap.geo.geogrid import GeoGrid
from floodmap.output.simplify import KEPT, NODE, Fates

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Kept:
    """Vertices of rings that are not removed, in the order of the rings.

    Args:
        x: columns of all vertices, int32 (vertices,).
        y: rows of all vertices, int32 (vertices,).
        ends: for each ring, the index of its last vertex plus 1, int64 (rings,).
        owner: component of each ring, (rings,).
        fates: see `simplify.Fates`.
    """

    def __init__(
        self, x: NDArray[np.int32], y: NDArray[np.int32], ends: Ints, owner: NDArray[np.integer], fates: Fates
    ) -> None:
        is_kept = (fates == KEPT) | (fates == NODE)
        self.vertex = np.flatnonzero(is_kept)
        """Index of each vertex among all vertices, int64 (n,)."""
        self.x, self.y = x[self.vertex], y[self.vertex]
        self.sizes = np.add.reduceat(is_kept, np.append(0, ends[:-1]), dtype=np.int64) if len(ends) else ends
        """Number of vertices of each ring."""
        self.ends = np.cumsum(self.sizes)
        self.owner = owner
        """Component of each ring."""

    def following(self) -> Ints:
        """Return for each vertex the index, in these arrays, of the next vertex of the ring, int64 (n,)."""
        index = np.arange(1, len(self.vertex) + 1)
        index[self.ends - 1] = self.ends - self.sizes
        return index

    def xy(self, index: Ints) -> Floats:
        """Return vertices (column, row), float64 (n, 2)."""
        return np.stack([self.x[index], self.y[index]], axis=1).astype(np.float64)


def measures(
    stored: Outlines, old: Kept, new: Kept, origin: NDArray[np.int32], rebuilt: NDArray[np.bool_],
    same_as: Ints, grid: GeoGrid,
) -> tuple[Floats, Floats]:  # fmt: skip
    """Return areas in square metres and perimeters in metres of the n components of the changed scene, float64 (n,).

    The values of dropped components are of no use. Values differ from those of `areas.measure` by rounding only.

    Args:
        stored: the stored outlines.
        old: vertices of the stored polygons.
        new: vertices of the polygons of the changed scene.
        origin: stored vertex of each vertex of the changed scene, or -1.
        rebuilt: True for components whose polygons differ from stored polygons, bool (n,).
        same_as: stored component of each other component, int64 (n,).
        grid: grid of the scene.
    """
    n_new, n_old = len(rebuilt), len(stored.first)
    sums = np.zeros((2, n_new))
    sums[:, ~rebuilt] = stored.area_m2[same_as[~rebuilt]], stored.perimeter_m[same_as[~rebuilt]]
    if not rebuilt.any() or not grid.is_on_earth:
        unknown = 0.0 if grid.is_on_earth else np.nan
        return sums[0] + unknown, sums[1] + unknown
    # The edges of the rebuilt polygons, and the edges of the stored polygons that they replace.
    owner = np.repeat(new.owner, new.sizes)
    begins = np.flatnonzero(rebuilt[owner])
    ends = new.following()[begins]
    old_owner = np.repeat(stored.ring_owner, old.sizes).astype(np.int64)
    number = np.full(len(stored.x), -1, np.int32)
    number[old.vertex] = np.arange(len(old.vertex), dtype=np.int32)
    old_following = old.following()
    source, target = (origin[new.vertex[index]] for index in (begins, ends))
    source, target = (
        np.where(vertex >= 0, number[vertex], -1) if len(number) else vertex for vertex in (source, target)
    )
    remains = (source >= 0) & (target >= 0)
    remains[remains] = old_following[source[remains]] == target[remains]
    # The new component that takes the sums of a stored polygon: the one with most of its edges.
    kept_before = stored.kept & np.isfinite(stored.area_m2)
    pairs, counts = np.unique(
        old_owner[source[remains]] * n_new + owner[begins[remains]], return_counts=True
    )  # fmt: skip
    heir = np.full(n_old, -1)
    by_count = np.argsort(counts, kind="stable")
    heir[pairs[by_count] // n_new] = pairs[by_count] % n_new
    heir[~kept_before] = -1
    inherited = remains.copy()
    inherited[remains] = heir[old_owner[source[remains]]] == owner[begins[remains]]
    has_heir = np.flatnonzero(heir >= 0)
    for row, values in enumerate((stored.area_m2, stored.perimeter_m)):
        np.add.at(sums[row], heir[has_heir], values[has_heir])
    is_gone = heir[old_owner] >= 0
    is_gone[source[inherited]] = False
    gone, fresh = np.flatnonzero(is_gone), ~inherited
    start = np.concatenate([old.xy(gone), new.xy(begins[fresh])])
    end = np.concatenate([old.xy(old_following[gone]), new.xy(ends[fresh])])
    centre_xy = np.array(stored.rules.centre_xy)
    area, length = edge_sums(start, end, grid.crs, grid.to_crs, centre_xy)
    target_of = np.concatenate([heir[old_owner[gone]], owner[begins[fresh]]])
    sign = np.concatenate([np.full(len(gone), -1.0), np.ones(int(fresh.sum()))])
    # Outlines have the component on their left in pixels; in the plane it may be on their right.
    turn = orientation(grid)
    sums[0] += np.bincount(target_of, sign * area * turn, n_new)
    sums[1] += np.bincount(target_of, sign * length, n_new)
    return sums[0], sums[1]


def orientation(grid: GeoGrid) -> float:
    """Return 1.0 if outlines are counter-clockwise on the ground, or -1.0.

    Outlines have a component on the left in pixels. With row 0 at the top, such an outline is counter-clockwise to the
    eye. It stays so where the grid is not mirrored.
    """
    return -1.0 if grid.transform.determinant > 0 else 1.0
