"""Outlines of the connected components of a raster, traced strip by strip; outlines are not cut at strip borders.

`rasterio.features.shapes` needs the whole raster in memory. Here the raster is read in bands: groups of full rows. A
component that ends above the last row of a band of rows is complete, and is returned as a polygon. A component that
reaches the last row is called open, because it may continue in the next band. Only the edges of open components are
kept. Pixels are compared as whole arrays. All further steps work on edges, and on runs: equal pixels side by side in a
row. Indices of pixels count through the rows, from the top, with one extra column: row * (width + 1) + column.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from floodmap.output.rings import LINE, Ints, Lines, assembled, grouped, rings_of_edges
from floodmap.strips.codes import FAILED, FIRST_REASON, OUTSIDE

BAND_PIXELS = 2**20
"""Largest number of pixels in a band of rows, unless one row has more pixels. In pure noise, a pixel needs some hundred
bytes of memory."""

Codes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """Table of n 4-connected components. All pixels of a component have the same kind. All arrays are (n,)."""

    kind: Codes
    """Kind of the pixels: `FLOOD`, or the code of the reason why the pixels are unobserved. In other arrays of kinds, 0
    stands for dry pixels and for pixels outside the area of interest, which are not traced."""
    first: Ints
    """Smallest index of a pixel of the component in the whole raster. The order of these indices does not depend on the
    heights of the strips."""
    n_pixels: Ints
    """Number of pixels."""
    code_sum: Ints
    """Sum of the codes of the pixels: for flood, the sum of the probabilities in per cent."""
    code_min: Ints
    """Smallest code of the pixels."""
    outline: NDArray[np.object_]
    """shapely Polygons with vertices at pixel corners (column, row). The shell begins at the leftmost of its topmost
    corners."""


def trace(strips: Iterable[tuple[int, Codes]], *, threshold: int, noded: bool = False) -> Iterator[Components]:
    """Trace the outlines of the components of flooded pixels, and of unobserved pixels of one reason.

    Args:
        strips: for each strip, from the top of the scene to the bottom, a pair: number of the first row, and codes,
            uint8 (rows, width).
        threshold: in per cent; codes from the threshold to 100 are flood.
        noded: True: keep every vertex at which pixels of three kinds meet, even inside a straight line. Neighbouring
            outlines then share all vertices of their common border.

    Yields:
        For each band of rows, the components that end above the last row of the band, and were not yielded before.
    """
    tracer: _Tracer | None = None
    for _, codes in strips:
        width = codes.shape[1]
        if tracer is None:
            tracer = _Tracer(width, threshold, noded)
        rows = max(1, BAND_PIXELS // (width + 1))
        for row in range(0, len(codes), rows):
            yield tracer.add(codes[row : row + rows])
    if tracer is not None:
        # A last row outside the area of interest: every component ends above it.
        yield tracer.add(np.full((1, width), OUTSIDE, np.uint8))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Edges:
    """Straight, directed edges of outlines. Seen along an edge, with row 0 at the top, the component is on the left."""

    line: Lines
    """Edges, (n,) of data type `LINE`."""
    pixel: Ints
    """For each edge, the index of a pixel on the left of the edge, inside the component, int64 (n,)."""


class _Tracer:
    """State between two bands of rows: the last row that was added, and the open components, which reach this row."""

    def __init__(self, width: int, threshold: int, noded: bool) -> None:
        self._stride = width + 1
        self._threshold = threshold
        self._noded = noded
        self._above = np.full(width, OUTSIDE, np.uint8)
        self._n_rows = 0
        self._last: Ints = np.empty(0, np.int64)
        """For each run in the last row, except runs of kind 0: the number of the open component that contains it."""
        self._open = _no_statistics()
        self._parts: list[list[Lines]] = []
        """Edges of each open component: a list with one array for each band of rows."""

    def add(self, codes: Codes) -> Components:
        """Add the next band of rows, and return the components that are now complete.

        Args:
            codes: codes of the band of rows, uint8 (rows, width).
        """
        stride, n_open = self._stride, len(self._parts)
        padded, kinds = self._block(codes)
        # With an empty column after each row, the flattened rows have no run that crosses a row's end.
        change = np.flatnonzero(kinds[1:] != kinds[:-1])
        starts, ends = change[kinds[1:][change] != 0], change[kinds[:-1][change] != 0]
        carried = int(np.searchsorted(starts, stride))
        label = self._connect(kinds[1:], starts, carried)
        n_labels = int(label.max(initial=-1)) + 1

        is_open = np.zeros(n_labels, bool)
        last = label[np.searchsorted(starts, len(kinds) - 1 - stride) : len(starts)]
        is_open[last] = True
        # Number of every component, counted among the open components or among the ended components.
        number = np.where(is_open, np.cumsum(is_open), np.cumsum(~is_open)) - 1

        base = (self._n_rows - 1) * stride
        runs = _run_statistics(padded[1:], kinds[1:], starts[carried:], ends[carried:], base)
        owners = np.concatenate([label[len(starts) :], label[carried : len(starts)]])
        statistics = _merged({key: np.concatenate([self._open[key], runs[key]]) for key in runs}, owners, n_labels)

        edges = _edges(kinds, stride, change)
        owner = label[np.searchsorted(starts, edges.pixel, "right") - 1]
        edges.line["first"] += base
        ended = [(edges.line[~is_open[owner]], number[owner[~is_open[owner]]])]
        parts: list[list[Lines]] = [[] for _ in range(int(is_open.sum()))]
        for index, component in enumerate(label[len(starts) :][:n_open]):
            if is_open[component]:
                parts[number[component]] += self._parts[index]
            else:
                ended += [(part, np.full(len(part), number[component])) for part in self._parts[index]]
        for component, part in grouped(edges.line[is_open[owner]], owner[is_open[owner]]):
            parts[number[component]].append(part)

        self._above, self._n_rows = codes[-1].copy(), self._n_rows + len(codes)
        self._last, self._parts = number[last], parts
        self._open = {key: values[is_open] for key, values in statistics.items()}
        done = {key: values[~is_open] for key, values in statistics.items()}
        outline = assembled(*rings_of_edges(ended, stride, self._noded))
        return Components(outline=outline, kind=done.pop("kind").astype(np.uint8), **done)

    def _block(self, codes: Codes) -> tuple[Codes, Codes]:
        """Return two flat arrays, codes and kinds, of a block: the last row of the preceding band, and the new rows.

        A column of empty pixels is added after each row, so that no run continues in the next row. One more empty pixel
        is added in front of the first row. Each array is uint8 ((rows + 1) * (width + 1) + 1,). Empty pixels have the
        code `OUTSIDE` and the kind 0.
        """
        padded = np.full((len(codes) + 1) * self._stride + 1, OUTSIDE, np.uint8)
        body = padded[1:].reshape(-1, self._stride)
        body[0, :-1], body[1:, :-1] = self._above, codes
        kinds = (padded >= self._threshold).view(np.uint8)
        if max(self._above.max(), codes.max()) < FIRST_REASON:
            kinds[0] = 0
            kinds[1:].reshape(-1, self._stride)[:, -1] = 0  # the empty column, the only unobserved pixels here
        else:
            kinds = kinds * (padded < FIRST_REASON) | padded * (padded >= FAILED)
        return padded, kinds

    def _connect(self, kinds: Codes, starts: Ints, carried: int) -> Ints:
        """Number the connected components of a block: the last row of the preceding band, and the new rows.

        Two runs in adjacent rows belong to one component if both runs have the same kind and overlap. Runs in the first
        row of the block belong to the open components of the preceding bands of rows.

        Args:
            kinds: kinds of the pixels of the block, flattened, with an empty column after each row.
            starts: index of the first pixel of each run, without runs of kind 0.
            carried: number of these runs in the first row of the block.

        Returns:
            Numbers of components in the block, int64 (runs + open components,). First, for each run, the component with
            this run. Then, for each open component of the preceding bands, the component that contains the open one.
        """
        stride, n_runs = self._stride, len(starts)
        # Where runs of two rows overlap, one of the two starts. So it is enough to compare every start with both rows.
        up = np.flatnonzero((starts >= stride) & (kinds[starts - stride] == kinds[starts]))
        inner = starts[: np.searchsorted(starts, len(kinds) - stride)]
        down = np.flatnonzero(kinds[inner + stride] == kinds[inner])
        touched = np.concatenate([starts[up] - stride, starts[down] + stride])
        one = np.concatenate([up, down, np.arange(carried)])
        other = np.concatenate([np.searchsorted(starts, touched, "right") - 1, n_runs + self._last])
        size = n_runs + len(self._parts)
        graph = coo_array((np.ones(len(one), np.uint8), (one, other)), shape=(size, size))
        return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _no_statistics() -> dict[str, Ints]:
    return {key: np.empty(0, np.int64) for key in ("kind", "first", "n_pixels", "code_sum", "code_min")}


def _run_statistics(codes: Codes, kinds: Codes, starts: Ints, ends: Ints, base: int) -> dict[str, Ints]:
    """Compute the columns of `Components`, without the outline, for each run (equal pixels side by side in a row).

    Args:
        codes: codes of the pixels of a block (see `_Tracer._block`), flattened.
        kinds: kinds of the same pixels.
        starts: index in the block of the first pixel of each run, int64 (n,).
        ends: index in the block of the last pixel of each run plus 1, int64 (n,).
        base: index in the whole raster of the first pixel of the block.

    Returns:
        Dictionary of the columns by name, each int64 (n,).
    """
    if not len(starts):
        return _no_statistics()
    # `reduceat` returns runs and the gaps between runs in turn.
    cuts = np.stack([starts, ends], axis=1).ravel()
    return {
        "kind": kinds[starts].astype(np.int64),
        "first": starts + base,
        "n_pixels": ends - starts,
        "code_sum": np.add.reduceat(codes, cuts, dtype=np.uint32)[::2].astype(np.int64),
        "code_min": np.minimum.reduceat(codes, cuts)[::2].astype(np.int64),
    }


def _merged(parts: dict[str, Ints], owner: Ints, n_owners: int) -> dict[str, Ints]:
    """Combine the statistics of parts to the statistics of the components that contain them.

    Args:
        parts: dictionary of the columns of `Components`, without the outline. Each column is int64 (parts,). A part is
            a run of equal pixels in a row, or a component of earlier rows that can still grow.
        owner: number of the component that contains each part, int64 (parts,).
        n_owners: number of components.

    Returns:
        The same columns for each component, int64 (n_owners,).
    """
    merged = {key: np.zeros(n_owners, np.int64) for key in parts}
    merged["kind"][owner] = parts["kind"]
    for key in ("n_pixels", "code_sum"):
        merged[key] = np.bincount(owner, parts[key], n_owners).astype(np.int64)
    for key in ("first", "code_min"):
        merged[key].fill(np.iinfo(np.int64).max)
        np.minimum.at(merged[key], owner, parts[key])
    return merged


def _edges(padded: Codes, stride: int, change: Ints) -> _Edges:
    """Return the edges between pixels of different kinds in a block, without the upper and side edges of the first row.

    The first row of the block belongs to the preceding band of rows. A straight line is divided into two edges at each
    pixel corner at which the kind changes on one side. In the result, indices count from the first pixel of the block.

    Args:
        padded: kinds of the pixels (see `_Tracer._block`), with an empty column after each row and one empty pixel in
            front.
        stride: number of pixels in a row, with the empty column.
        change: index of each pixel that has a left neighbour of another kind; counted without the empty pixel in front.
    """
    kinds = padded[1:]
    across = np.flatnonzero(kinds[stride:] != kinds[:-stride]) + stride
    above, below = kinds[across - stride], kinds[across]
    from_left = (padded[across] == below) & (padded[across - stride] == above)
    to_right = (kinds[across + 1] == below) & (kinds[across + 1 - stride] == above)
    left, right = across[~from_left], across[~to_right] + 1

    down = change[np.searchsorted(change, stride) :]
    west, east = padded[down], kinds[down]
    higher = np.maximum(down - stride, stride)
    from_above = (kinds[higher] == east) & (padded[higher] == west) & (higher == down - stride)
    lower = np.minimum(down + stride, len(kinds) - 1)
    to_below = (kinds[lower] == east) & (padded[lower] == west) & (lower == down + stride)
    top, bottom = (_by_column(down[~inside], stride) for inside in (from_above, to_below))
    bottom = bottom + stride

    sides = [
        (left, right, left - stride, left),
        (right, left, left, left - stride),
        (bottom, top, top - 1, top),
        (top, bottom, top, top - 1),
    ]
    lines, pixels = [], []
    for first, end, pixel, beyond in sides:
        used = padded[pixel + 1] != 0
        line = np.empty(np.count_nonzero(used), LINE)
        line["first"], line["step"], line["beyond"] = first[used], (end - first)[used], padded[beyond[used] + 1]
        lines.append(line)
        pixels.append(pixel[used])
    return _Edges(line=np.concatenate(lines), pixel=np.concatenate(pixels))


def _by_column(position: Ints, stride: int) -> Ints:
    """Return pixel indices sorted by column; within a column, the order is kept."""
    return position[np.argsort(position % stride, kind="stable")]
