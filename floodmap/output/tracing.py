"""Outlines of the connected components of a raster, traced strip by strip; outlines are not cut at strip borders.

`rasterio.features.shapes` needs the whole raster in memory. Here each strip is cut into bands of rows, of at most
`BAND_PIXELS` pixels each. A component that ends above the last row of a band of rows is complete, and is returned as a
polygon. A component that reaches the last row is called open, because it may continue in the next band of rows. Only
the edges of open components are kept.

Every pixel has a kind (`Components.kind`), which a table gives for its code: for example flood, dry, or the reason why
it is unobserved. The kinds of neighbouring pixels are compared by numpy operations on the whole band of rows. All
further steps work on edges and on row segments.
A row segment consists of pixels of the same kind, side by side in one row; in the code, row segments are called `runs`.
Indices of pixels count through the rows, from the top, with one padding column after the last column:
row * (width + 1) + column.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from floodmap.output.rings import LINE, Ints, Lines, assembled, grouped, rings_of_edges

BAND_PIXELS = 2**20
"""Largest number of pixels in a band of rows. If one row has more pixels, a band is one row.
If the raster is pure noise, tracing takes memory of the order of 100 bytes for each pixel of the band."""

Codes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """Table of n 4-connected components. All pixels of a component have the same kind. All arrays are (n,)."""

    kind: Codes
    """Kind of the pixels. Never 0, which stands for pixels that are not traced."""
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


def trace(strips: Iterable[tuple[int, Codes]], *, kinds: Codes, noded: bool = False) -> Iterator[Components]:
    """Trace the outlines of the components of each kind of pixel, all kinds at once.

    Args:
        strips: for each strip, from the top of the scene to the bottom, a pair: number of the first row, and codes,
            uint8 (rows, width).
        kinds: kind of each code, uint8 (256,); see `codes.flood_kinds`. Codes of kind 0 are not traced. The code 0 must
            be one of them.
        noded: True: keep every vertex at which pixels of three kinds meet, even inside a straight line. Neighbouring
            outlines then share all vertices of their common border.

    Yields:
        For each band of rows (see `BAND_PIXELS`), a table of the components that have become complete: those that end
        above the last row of the band and are in no earlier table. After the last band, one more table has the
        components that reach the last row of the scene.
    """
    tracer: _Tracer | None = None
    for _, codes in strips:
        width = codes.shape[1]
        if tracer is None:
            tracer = _Tracer(width, kinds, noded)
        rows = max(1, BAND_PIXELS // (width + 1))
        for row in range(0, len(codes), rows):
            yield tracer.add(codes[row : row + rows])
    if tracer is not None:
        # A last row that is not traced: every component ends above it.
        yield tracer.add(np.zeros((1, width), np.uint8))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Edges:
    """Straight, directed edges of outlines. On an image with row 0 at the top, the component is to the left of an edge.

    Left means left of the direction of the edge: an edge that goes to the right has the component above itself.
    """

    line: Lines
    """Edges, (n,) of the structured data type `rings.LINE`: index of the pixel corner where the edge begins; index of
    the pixel corner where the edge ends, minus the first index; and kind of the pixels on the right of the edge."""
    pixel: Ints
    """For each edge, the index of a pixel on the left of the edge, inside the component, int64 (n,)."""


class _Tracer:
    """State between two bands of rows: the last row that was added, and the open components, which reach this row."""

    def __init__(self, width: int, kinds: Codes, noded: bool) -> None:
        self._stride = width + 1
        self._kinds = kinds.tobytes()
        self._steps: list[int] = (np.flatnonzero(np.diff(kinds)) + 1).tolist()
        """Codes, in ascending order, whose kind differs from the kind of the next smaller code."""
        self._noded = noded
        self._above = np.zeros(width, np.uint8)
        self._n_rows = 0
        self._last: Ints = np.empty(0, np.int64)
        """For each row segment of the last row (pixels of the same kind side by side), except segments of kind 0: the
        number of the open component that contains the row segment. The number is the index in `_parts`."""
        self._open = _no_statistics()
        self._parts: list[list[Lines]] = []
        """For each open component, a list of arrays of edges, of the structured data type `rings.LINE`. A band of rows
        adds at most one array to the list of a component. If components become connected, their lists are joined."""

    def add(self, codes: Codes) -> Components:
        """Add the next band of rows, and return the components that are now complete.

        Args:
            codes: codes of the band of rows, uint8 (rows, width).
        """
        stride, n_open = self._stride, len(self._parts)
        padded, kinds = self._block(codes)
        # With a padding column after each row, the flattened rows have no row segment that crosses a row's end.
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
        """Return two flat arrays of a block, the codes and the kinds of the pixels.

        A block is the last row of the preceding band of rows, and the new rows. After each row, one padding pixel is
        added, so that no row segment (pixels of the same kind side by side) continues in the next row. One more padding
        pixel is added in front of the first row. Padding pixels have the code 0 and the kind 0. Each array is uint8
        ((rows + 1) * (width + 1) + 1,).
        """
        padded = np.zeros((len(codes) + 1) * self._stride + 1, np.uint8)
        body = padded[1:].reshape(-1, self._stride)
        body[0, :-1], body[1:, :-1] = self._above, codes
        largest = max(self._above.max(), codes.max())
        steps = [step for step in self._steps if step <= largest]
        if len(steps) == 1 and self._kinds[steps[0]] == 1:  # a comparison is eight times faster than a table
            return padded, (padded >= steps[0]).view(np.uint8)
        return padded, np.frombuffer(padded.tobytes().translate(self._kinds), np.uint8)

    def _connect(self, kinds: Codes, starts: Ints, carried: int) -> Ints:
        """Label the connected components of a block: give each component a number, from 0.

        A block is the last row of the preceding band of rows, and the new rows. A row segment consists of pixels of the
        same kind, side by side in one row. Two row segments in adjacent rows belong to one component if both have the
        same kind and overlap. Row segments in the first row of the block belong to the open components of the preceding
        bands of rows.

        Args:
            kinds: kinds of the pixels of the block (see `_block`), flattened, without the padding pixel in front.
            starts: index in `kinds` of the first pixel of each row segment; row segments of kind 0 are left out.
            carried: how many of these row segments are in the first row of the block.

        Returns:
            Labels, int64 (row segments + open components,). First, for each row segment, the label of the component
            that contains the row segment. Then, for each open component of the preceding bands of rows, the label of
            the component that it has become a part of. Open components that are now connected have the same label.
        """
        stride, n_runs = self._stride, len(starts)
        # Where row segments of two rows overlap, one of the two starts. So it is enough to compare every start
        # with both rows.
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
    """Compute the columns of `Components`, without the outline, for each of n row segments of a block.

    A row segment consists of pixels of the same kind, side by side in one row.

    Args:
        codes: codes of the pixels of the block (see `_Tracer._block`), flattened, without the padding pixel in front.
        kinds: kinds of the same pixels.
        starts: index in `codes` of the first pixel of each row segment, int64 (n,).
        ends: index in `codes` of the last pixel of each row segment, plus 1, int64 (n,).
        base: index in the whole raster of the first pixel of `codes`.

    Returns:
        Dictionary of the columns by name, each int64 (n,).
    """
    if not len(starts):
        return _no_statistics()
    # `reduceat` returns row segments and the pixels between row segments in turn.
    cuts = np.stack([starts, ends], axis=1).ravel()
    return {
        "kind": kinds[starts].astype(np.int64),
        "first": starts + base,
        "n_pixels": ends - starts,
        "code_sum": np.add.reduceat(codes, cuts, dtype=np.uint32)[::2].astype(np.int64),
        "code_min": np.minimum.reduceat(codes, cuts)[::2].astype(np.int64),
    }


def _merged(parts: dict[str, Ints], owner: Ints, n_owners: int) -> dict[str, Ints]:
    """Compute the statistics of whole components from the statistics of pieces of the components.

    A piece is a row segment (pixels of the same kind side by side in one row), or an open component of earlier rows.
    All pieces of a component have the same `kind`, which is also the kind of the component. `n_pixels` and `code_sum`
    are the sums over the pieces, `first` and `code_min` are the minima.

    Args:
        parts: columns of `Components` for the pieces, by name, without the outline. Each column is int64 (pieces,).
        owner: number of the component that contains each piece, int64 (pieces,).
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

    The first row of the block belongs to the preceding band of rows. All pixels along one side of an edge have the same
    kind. If the kind changes on one side of a straight border, the border is therefore divided into two edges, which
    meet at the pixel corner of the change. In `change` and in the result, the first pixel of the first row has index 0;
    the padding pixel in front is not counted. A pixel corner has the index of the pixel to the lower right of it.

    Args:
        padded: kinds of the pixels (see `_Tracer._block`), with a padding pixel after each row and one in front.
        stride: number of pixels in a row, with the padding pixel.
        change: index of each pixel that has a left neighbour of another kind.
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
